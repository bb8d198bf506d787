"""The examples run from end to end, also where there are no ImageNet weights."""

import os
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest

from sklearn_dfd.datasets import make_spliced_photos

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script, *arguments, **environment):
    pytest.importorskip("matplotlib")
    # a proxy that is not there: no test goes out to fetch weights
    environment = {
        **os.environ,
        "MPLBACKEND": "Agg",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        **environment,
    }
    return subprocess.run(
        [sys.executable, str(EXAMPLES / script), *map(str, arguments)],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=600,
    )


def test_quickstart_without_imagenet_weights(tmp_path):
    output = tmp_path / "output"
    done = run(
        "quickstart.py", "--output", output, "--n-samples", 60, TORCH_HOME=str(tmp_path / "torch")
    )
    assert done.returncode == 0, done.stderr
    frame = "!" * 80
    assert done.stderr.count(frame) == 2
    warned = done.stderr.split(frame)[1]
    assert "NO IMAGENET WEIGHTS: going on with random ones" in warned
    assert "Put them by hand at" in warned
    assert "fold 3:" in done.stdout
    assert done.stdout.count("<- best") == 1
    sentence = done.stdout.strip().splitlines()[-1]
    assert "photographs from places it has never seen, the detector is right" in sentence
    assert sentence.endswith(f"Saved as {output / 'detector.joblib'}.")
    for name in ("learning_curves.png", "most_and_least_certain.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")

    detector = joblib.load(output / "detector.joblib")
    probability = detector.predict_proba(make_spliced_photos(4, random_state=1).data)
    assert probability.shape == (4, 2)
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-5)


def test_quickstart_with_a_file_that_is_not_there(tmp_path):
    done = run("quickstart.py", "--weights", tmp_path / "absent.pth", "--output", tmp_path)
    assert done.returncode == 2
    assert "there is no such file" in done.stderr
    assert "Traceback" not in done.stderr


def test_export_onnx(tmp_path):
    pytest.importorskip("onnxruntime")
    done = run("export_onnx.py", "--weights", "random", "--output", tmp_path, "--n-samples", 48)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and "ROC AUC" in lines[0]
    assert lines[1].startswith("float32") and "ROC AUC lost 0.0000" in lines[1]
    assert lines[2].startswith("int8")
    sizes = [(tmp_path / name).stat().st_size for name in ("detector.onnx", "detector-int8.onnx")]
    assert sizes[1] < 0.3 * sizes[0]


def test_real_and_fake_faces_explains_its_options():
    done = run("real_and_fake_faces.py", "--help")
    assert done.returncode == 0
    assert "training_real and training_fake" in done.stdout
    assert done.stdout.count("(default:") == 5


def test_leakage_without_imagenet_weights(tmp_path):
    options = ["--n-samples", 60, "--n-views", 1, "--epochs", 1]
    done = run("leakage.py", "--weights", "random", "--output", tmp_path, *options)
    assert done.returncode == 0, done.stderr
    for row in ("validation, copies on both sides", "validation by group", "test"):
        assert f"\n{row:35s} " in done.stdout
    sentence = done.stdout.strip().splitlines()[-1]
    assert sentence.startswith("With copies on both sides of the split the detector seemed to be")
    assert (tmp_path / "leakage.png").read_bytes().startswith(b"\x89PNG")


def test_calibration_without_imagenet_weights(tmp_path):
    options = ["--n-samples", 90, "--epochs", 1]
    done = run("calibration.py", "--weights", "random", "--output", tmp_path, *options)
    assert done.returncode == 0, done.stderr
    assert "isotonic" in done.stdout
    assert "after calibration" in done.stdout.strip().splitlines()[-1]
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")


def test_gradcam_without_imagenet_weights(tmp_path):
    pytest.importorskip("captum")
    options = ["--n-samples", 40, "--epochs", 1]
    done = run("gradcam.py", "--weights", "random", "--output", tmp_path, *options)
    assert done.returncode == 0, done.stderr
    assert "what was pasted in" in done.stdout
    assert "spliced photographs from places it has never seen" in done.stdout
    assert (tmp_path / "gradcam.png").read_bytes().startswith(b"\x89PNG")


def test_augmentation_without_imagenet_weights(tmp_path):
    options = ["--n-samples", 40, "--n-views", 1, "--epochs", 1]
    done = run("augmentation.py", "--weights", "random", "--output", tmp_path, *options)
    assert done.returncode == 0, done.stderr
    for recipe in ("none", "gentle", "sharing", "contrast"):
        assert f"\n{recipe:10s}    0." in done.stdout
    assert "On these 40 photographs" in done.stdout.strip().splitlines()[-1]
    assert (tmp_path / "views.png").read_bytes().startswith(b"\x89PNG")
