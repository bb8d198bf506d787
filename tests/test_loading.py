"""A saved detector that is loaded in a fresh process: what judging a photograph imports."""

import os
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from PIL import Image

from sklearn_dfd import make_deepfake_pipeline

CODE = """
import sys
import joblib
pipe = joblib.load(sys.argv[1])
(p,) = pipe.predict_proba([sys.argv[2]])
heavy = {"torchvision", "torch._dynamo", "torch._inductor", "sympy", "matplotlib"}
print(*p, *sorted(heavy & set(sys.modules)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_judging_imports_neither_torchvision_nor_the_compiler_of_torch(engine, tmp_path):
    """Each of them takes as long to import as torch itself."""
    if engine == "onnxruntime":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    images = np.random.default_rng(0).integers(0, 256, (6, 40, 40, 3), dtype=np.uint8)
    pipe = make_deepfake_pipeline(
        weights=None, image_size=32, max_epochs=1, hidden_layer_sizes=(4,), random_state=0
    )
    pipe.set_params(features__engine=engine).fit(images, np.arange(6) % 2)
    joblib.dump(pipe, tmp_path / "detector.joblib")
    Image.fromarray(images[0]).save(tmp_path / "photo.png")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    output = subprocess.run(
        [sys.executable, "-c", CODE, tmp_path / "detector.joblib", tmp_path / "photo.png"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    ).stdout.split()
    np.testing.assert_allclose(list(map(float, output[:2])), pipe.predict_proba(images[:1])[0])
    assert output[2:] == []
