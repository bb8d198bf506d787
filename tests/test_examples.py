"""The examples run from end to end, even without ImageNet weights."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from PIL import Image

from sklearn_dfd.datasets import make_spliced_photos

EXAMPLES = Path(__file__).parents[1] / "examples"

pytestmark = pytest.mark.slow


SCRIPTS = sorted(EXAMPLES.glob("*.py"))


def run(script, output, *, notebook=False, **environment):
    """Run an example with settings from the environment, as a script or as a notebook does."""
    pytest.importorskip("matplotlib")
    # A proxy that is not there: no test goes out to fetch weights.
    environment = {
        **os.environ,
        "MPLBACKEND": "Agg",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "DFD_WEIGHTS": "random",
        "DFD_OUTPUT": str(output),
        **{name: str(value) for name, value in environment.items()},
    }
    # Jupyter starts its kernel with arguments of its own.
    arguments = ["-f", "kernel-1.json"] if notebook else []
    return subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=600,
    )


def last_line(done):
    return done.stdout.strip().splitlines()[-1]


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_examples_teach_from_the_first_cell(script):
    """No command line: what is not constant comes from the environment, at the top of the file."""
    text = script.read_text("utf-8")
    assert "argparse" not in text and "sys.argv" not in text and "def say" not in text
    first_cell = text.partition("# %%")[0]
    assert first_cell.count("os.environ") == text.count("os.environ") > 0
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    assert all(ast.get_docstring(node) for node in functions)


def test_quickstart_without_imagenet_weights(tmp_path):
    output = tmp_path / "output"
    done = run(
        "quickstart.py",
        output,
        notebook=True,
        DFD_WEIGHTS="imagenet",
        DFD_N_SAMPLES=80,
        TORCH_HOME=tmp_path / "torch",
    )
    assert done.returncode == 0, done.stderr
    assert "NO IMAGENET WEIGHTS, continuing with random ones" in done.stdout
    assert "Put them by hand at" in done.stdout
    assert "\n   3   " in done.stdout
    assert done.stdout.count("<- best") == 1
    assert "same predictions: True" in done.stdout
    assert "toy images of places it has never seen, the detector calls" in last_line(done)
    assert "This says nothing about deepfakes" in last_line(done)
    assert last_line(done).endswith(f"Saved as {output / 'detector.joblib'}.")
    assert is_png(output / "learning_curves.png") and is_png(output / "verdicts.png")

    detector = joblib.load(output / "detector.joblib")
    probability = detector.predict_proba(make_spliced_photos(4, random_state=1).data)
    assert probability.shape == (4, 2)
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-5)


def test_quickstart_with_a_file_that_is_not_there(tmp_path):
    done = run("quickstart.py", tmp_path, DFD_WEIGHTS=tmp_path / "absent.pth")
    assert done.returncode == 1
    assert "there is no such file" in done.stderr.splitlines()[-1]


def test_export_onnx(tmp_path):
    pytest.importorskip("onnxruntime")
    done = run("export_onnx.py", tmp_path, DFD_N_SAMPLES=48)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if " MB " in line]
    assert len(rows) == 2 and rows[0].startswith("float32") and rows[1].startswith("int8")
    assert " 0.0000 " in rows[0]
    assert "the file of eight-bit integers loses" in last_line(done)
    sizes = [(tmp_path / name).stat().st_size for name in ("detector.onnx", "detector-int8.onnx")]
    assert sizes[1] < 0.3 * sizes[0]


@pytest.mark.parametrize("script", ["real_and_fake_faces.py", "accurate_detector.py"])
def test_examples_that_need_a_folder_say_which(tmp_path, script):
    done = run(script, tmp_path, DFD_DATA=tmp_path / "absent")
    assert done.returncode == 1
    assert "absent" in done.stderr and "does not exist" in done.stderr


def test_accurate_detector_compares_those_that_are_named(tmp_path, weights_file):
    photos = make_spliced_photos(40, image_size=64, random_state=0)
    for name in ("training_real", "training_fake"):
        (tmp_path / name).mkdir()
    for i, (photo, label) in enumerate(zip(photos.data, photos.target, strict=True)):
        name = f"training_fake/{('easy', 'mid', 'hard')[i % 3]}_{i}_1111.jpg"
        name = name if label else f"training_real/real_{i:05d}.jpg"
        Image.fromarray(photo).save(tmp_path / name, quality=95)
    settings = {"DFD_FOLDS": 2, "DFD_JOBS": 1, "DFD_WEIGHTS": weights_file}
    done = run(
        "accurate_detector.py",
        tmp_path,
        DFD_DATA=tmp_path,
        DFD_DETECTORS="method fast",
        **settings,
    )
    assert done.returncode == 0, done.stderr
    assert "\n| method | 0." in done.stdout and "\n| fast | 0." in done.stdout
    assert re.search(r"fast detector in each fold, seed 0: [01]\.\d+, [01]\.\d+\n", done.stdout)
    assert "ROC AUC of the fast detector" in done.stdout and "accurate" not in last_line(done)
    assert "by the fast detector" in last_line(done)
    assert is_png(tmp_path / "accurate_detector.png")


def test_leakage_without_imagenet_weights(tmp_path):
    done = run("leakage.py", tmp_path, DFD_N_SAMPLES=60, DFD_VIEWS=1, DFD_EPOCHS=1)
    assert done.returncode == 0, done.stderr
    for row in ("validation, copies on both sides", "validation by group", "test"):
        assert f"\n{row:35s} " in done.stdout
    assert last_line(done).startswith("On these 60 toy images, validation with copies on both")
    assert is_png(tmp_path / "leakage.png")


def test_calibration_without_imagenet_weights(tmp_path):
    done = run("calibration.py", tmp_path, DFD_N_SAMPLES=90, DFD_EPOCHS=1)
    assert done.returncode == 0, done.stderr
    assert "isotonic" in done.stdout
    assert "has the lowest log loss on these" in last_line(done)
    assert is_png(tmp_path / "reliability.png")


def test_gradcam_without_imagenet_weights(tmp_path):
    pytest.importorskip("captum")
    done = run("gradcam.py", tmp_path, DFD_N_SAMPLES=60, DFD_EPOCHS=1)
    assert done.returncode == 0, done.stderr
    assert "\nwhat was pasted in" in done.stdout
    assert "spliced toy images of places it has never seen" in last_line(done)
    assert is_png(tmp_path / "gradcam.png")


def test_augmentation_without_imagenet_weights(tmp_path):
    done = run("augmentation.py", tmp_path, DFD_N_SAMPLES=40, DFD_VIEWS=1, DFD_EPOCHS=1)
    assert done.returncode == 0, done.stderr
    for name in ("no views", "gentle", "sharing", "contrast"):
        assert f"\n{name:10s}    0." in done.stdout
    assert "On these 40 toy images" in last_line(done)
    assert is_png(tmp_path / "views.png")


def test_held_out_domain(tmp_path):
    done = run("held_out_domain.py", tmp_path, DFD_N_SAMPLES=160)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^copy-move +\d+ +\d+  0\.\d{3} \(0\.\d{3} to ", done.stdout, re.MULTILINE)
    assert re.search(r"changes by [+-]0\.\d+ for 'copy-move' and by [+-]0\.", last_line(done))


def test_films_without_imagenet_weights(tmp_path):
    pytest.importorskip("av")
    done = run("films.py", tmp_path, DFD_FILMS=40, DFD_FRAMES=3, DFD_EPOCHS=1)
    assert done.returncode == 0, done.stderr
    assert "120 frames of 40 films" in done.stdout
    for name in ("frame", "film"):
        assert f"\nper {name:5s}  0." in done.stdout
    assert "On these 40 toy films" in last_line(done)
    assert is_png(tmp_path / "films.png")


def test_source_groups(tmp_path):
    done = run("source_groups.py", tmp_path, DFD_EDITS=4)
    assert done.returncode == 0, done.stderr
    assert "39 photographs in 26 groups" in done.stdout
    assert last_line(done).endswith("groups found puts aside, 0.")
    assert is_png(tmp_path / "source_groups.png")


def test_shortcuts(tmp_path):
    done = run("shortcuts.py", tmp_path, DFD_N_SAMPLES=120)
    assert done.returncode == 0, done.stderr
    assert "Editor 9.1: " in done.stdout and "<EqualizedImage (quality 75)" in done.stdout
    assert last_line(done).startswith("Of these 120 toy files, headers and metadata alone")
    assert is_png(tmp_path / "shortcuts.png")


def test_shortcuts_of_a_folder(tmp_path):
    photos = make_spliced_photos(60, random_state=0)
    for i, (pixels, label) in enumerate(zip(photos.data, photos.target, strict=True)):
        path = tmp_path / "faces" / ("fake" if label else "real") / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=80 if label else 90)
    done = run("shortcuts.py", tmp_path, DFD_DATA=tmp_path / "faces")
    assert done.returncode == 0, done.stderr
    assert "ROC AUC of 1.000" in last_line(done) and "Of these 60 files" in last_line(done)
