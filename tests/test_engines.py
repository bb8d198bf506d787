"""Tests of _core.network.engines, with torchvision's own mobilenet_v2 as the reference."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from torchvision_reference import LAYERS, expected_features, photographs, relative_error

from sklearn_dfd import MobileNetV2Features
from sklearn_dfd._core.network import engines
from sklearn_dfd._core.network.engines import onnx_engine, resolve_engine, torch_engine
from sklearn_dfd._core.network.mobilenet import Trunk, feature_shape
from sklearn_dfd.feature_store import IN_PROCESS

CPU = torch.device("cpu")
ENGINES = ["torch", "onnxruntime"]


def make_engine(name, trunk):
    if name == "torch":
        return torch_engine(trunk, CPU)
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    return onnx_engine(trunk)


@pytest.fixture
def installed(monkeypatch):
    """Determine which packages are found, whatever is installed here."""

    def say(*names):
        monkeypatch.setattr(
            engines.importlib.util, "find_spec", lambda n: n if n in names else None
        )

    return say


# ---- the features ----


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", ENGINES)
def test_engines_give_torchvisions_features(reference, arrays, name, layer):
    run = make_engine(name, Trunk(arrays, layer))
    for n_images, size in ((1, 64), (5, 95)):
        images = photographs(n_images, size)
        rows = run(images.numpy())
        assert rows.dtype == np.float32
        assert rows.shape == (n_images, np.prod(feature_shape(layer, size)))
        expected = expected_features(reference, images, layer)
        assert relative_error(torch.tensor(rows), expected) < 1e-4


@pytest.mark.parametrize("name", ENGINES)
def test_rows_do_not_depend_on_their_neighbours(arrays, name):
    run = make_engine(name, Trunk(arrays, 15))
    images = photographs(5, 96).numpy()
    images[1], images[3] = 255, 0
    together = run(images)
    for i in range(5):
        np.testing.assert_allclose(together[i], run(images[i : i + 1])[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ENGINES)
def test_engines_may_be_called_by_several_threads(arrays, name):
    run = make_engine(name, Trunk(arrays, 10))
    batches = [photographs(2, 64, seed).numpy() for seed in range(8)]
    expected = [run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for result, wanted in zip(pool.map(run, batches), expected, strict=True):
            np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize("layer", [0, 10, 15, "pool"])
def test_bfloat16_is_near(reference, arrays, layer):
    images = photographs(3, 96)
    rows = torch.tensor(torch_engine(Trunk(arrays, layer, torch.bfloat16), CPU)(images.numpy()))
    expected = expected_features(reference, images, layer)
    assert rows.dtype == torch.float32
    error = (rows - expected).norm() / expected.norm()
    assert 1e-5 < error < 0.2


# ---- which one ----


@pytest.mark.parametrize(
    ("packages", "device", "precision", "expected"),
    [
        (("onnx", "onnxruntime"), "cpu", "float32", "onnxruntime"),
        (("onnxruntime",), "cpu", "float32", "torch"),
        ((), "cpu", "float32", "torch"),
        (("onnx", "onnxruntime"), "cpu", "bfloat16", "torch"),
        (("onnx", "onnxruntime"), "cuda", "float32", "torch"),
    ],
)
def test_auto(installed, packages, device, precision, expected):
    installed(*packages)
    assert resolve_engine("auto", torch.device(device), precision) == expected
    assert resolve_engine("torch", torch.device(device), precision) == "torch"


def test_onnxruntime_that_is_missing_is_an_error(installed):
    installed("onnxruntime")
    with pytest.raises(ImportError, match=r"needs onnx, not installed .*sklearn-dfd\[onnx\]"):
        MobileNetV2Features(weights=None, engine="onnxruntime").fit(photographs(1, 64).numpy())


@pytest.mark.parametrize(("device", "precision"), [("cuda:1", "float32"), ("cpu", "bfloat16")])
def test_onnxruntime_that_cannot_do_it_is_an_error(device, precision):
    with pytest.raises(ValueError, match=f"'{device}' with precision='{precision}'"):
        resolve_engine("onnxruntime", torch.device(device), precision)


def test_a_fitted_transformer_works_where_onnxruntime_is_missing(installed, tmp_path):
    images = photographs(2, 64).numpy()
    installed("onnx", "onnxruntime")
    extractor = MobileNetV2Features(weights=None, image_size=64, engine="onnxruntime")
    joblib.dump(extractor.fit(images), tmp_path / "extractor.joblib")
    installed()
    extractor = joblib.load(tmp_path / "extractor.joblib")
    with pytest.warns(UserWarning, match="needs onnx and onnxruntime, not .* computing with torch"):
        rows = extractor.transform(images)
    extractor.set_params(engine="torch")
    np.testing.assert_array_equal(extractor.transform(images), rows)


def test_onnxruntime_is_not_needed():
    """It is not imported before it is used either."""
    code = """
import sys
sys.modules["onnx"] = sys.modules["onnxruntime"] = None
import numpy as np
from sklearn_dfd import MobileNetV2Features
images = np.zeros((1, 64, 64, 3), np.uint8)
print(MobileNetV2Features(weights=None, engine="torch").fit_transform(images).shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "(1, 7840)", done.stderr


# ---- in the transformer ----


def test_transformer_agrees_whatever_the_engine():
    pytest.importorskip("onnxruntime")
    images = photographs(3, 80).numpy()
    rows = {}
    for name in ENGINES:
        IN_PROCESS.clear()
        rows[name] = MobileNetV2Features(weights=None, engine=name).fit_transform(images)
    scale = np.abs(rows["torch"]).max()
    assert 0 < np.abs(rows["torch"] - rows["onnxruntime"]).max() < 1e-4 * scale


def test_precisions_are_kept_apart(tmp_path):
    images = photographs(3, 80).numpy()
    rows = [
        MobileNetV2Features(weights=None, precision=precision, memory=tmp_path).fit_transform(
            images
        )
        for precision in ("float32", "bfloat16", "float32", "bfloat16")
    ]
    np.testing.assert_array_equal(rows[0], rows[2])
    np.testing.assert_array_equal(rows[1], rows[3])
    assert np.abs(rows[0] - rows[1]).max() > 1e-4


def test_verbose_shows_how_many_images_are_computed(capsys):
    images = list(photographs(9, 64).numpy())
    extractor = MobileNetV2Features(weights=None, image_size=64)
    extractor.fit_transform(images[:2])
    assert capsys.readouterr().err == ""
    extractor.set_params(verbose=1).fit_transform([*images, images[0]])
    assert "7/7" in capsys.readouterr().err  # two are kept, and one is there twice
