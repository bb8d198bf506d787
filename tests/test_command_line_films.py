"""`sklearn-dfd detect` on films: one row for each, and answers that are withheld."""

import json
import os
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_command_line import COLUMNS, ROOT, run

from sklearn_dfd import detect, make_deepfake_pipeline
from sklearn_dfd._core.command_line import detecting
from sklearn_dfd._core.command_line.detectors import load_detector
from sklearn_dfd._core.command_line.paths import listed
from sklearn_dfd._core.images import film, film_pool
from sklearn_dfd.datasets import frames, make_spliced_photos
from sklearn_dfd.export import to_onnx

pytest.importorskip("av")
pytest.importorskip("onnxruntime")
from film_files import make_film

N_FRAMES = 4
OPTIONS = ("--frames-per-video", N_FRAMES, "--json")
PYTHON_AND_ONNX = pytest.mark.parametrize("ending", ["joblib", "onnx"])


def picture(i, size):
    """A frame with something to see in it, which changes from frame to frame."""
    rng = np.random.default_rng(i // 10)
    return np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folder with a detector in two kinds of files."""
    folder = tmp_path_factory.mktemp("detectors")
    photos = make_spliced_photos(24, image_size=48, random_state=0)
    pipe = make_deepfake_pipeline(
        weights=None, image_size=32, max_epochs=1, hidden_layer_sizes=(16,), random_state=0
    )
    pipe.fit(photos.data, np.array(["real", "fake"])[photos.target])
    joblib.dump(pipe, folder / "detector.joblib")
    to_onnx(pipe, folder / "detector.onnx")
    return folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Folder of two films, a photograph between them, a false film, and another file."""
    folder = tmp_path_factory.mktemp("mixed")
    make_film(folder / "a.mp4", picture=picture)
    Image.fromarray(picture(0, None)).save(folder / "b.png")
    make_film(folder / "c.MKV", 3, picture=picture)
    (folder / "d.mov").write_bytes(b"no film")
    (folder / "e.txt").write_text("neither")
    return folder


@pytest.fixture
def in_process(monkeypatch):
    """Decode films in this process, where a test can watch or change what FFmpeg is told."""
    monkeypatch.setattr(film_pool, "open_film", film.OpenFilm)


def rows_of(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


@PYTHON_AND_ONNX
def test_a_film_is_one_row_with_the_answer_of_detect(saved, mixed, ending):
    done = run("detect", saved / f"detector.{ending}", mixed, mixed / "a.mp4", *OPTIONS)
    assert done.exit_code == 3, done.stderr
    rows = rows_of(done)
    names = [Path(row["path"]).name for row in rows]
    assert names == ["a.mp4", "b.png", "c.MKV", "d.mov", "a.mp4"]
    assert all(list(row) == COLUMNS for row in rows)
    judged = [(row["n_judged"], row["n_not_judged"]) for row in rows]
    assert judged == [(N_FRAMES, 0), (1, 0), (3, 0), (0, 0), (N_FRAMES, 0)]
    pipe = joblib.load(saved / "detector.joblib")
    tolerance = 1e-4 if ending == "onnx" else 1e-6  # other batches round otherwise
    for row in (rows[0], rows[2], rows[4]):
        found = frames(row["path"], N_FRAMES)
        table = detect(pipe, found, groups=[row["path"]] * len(found), pos_label="fake")
        expected = table.iloc[0]
        assert abs(row["probability_fake"] - expected["probability_fake"]) <= tolerance
        assert (row["label"], row["reading"]) == (expected["label"], expected["reading"])
    assert rows[3]["label"] is rows[3]["probability_fake"] is None
    assert rows[3]["error"].startswith("it is no film in a container that is read")
    assert rows[3]["reading"] == f"not judged: {rows[3]['error']}"
    assert "1 photograph and 4 films: " in done.stderr and "1 could not be read" in done.stderr
    assert "1 files in folders are neither images nor films by name (.txt)" in done.stderr
    assert "A film is a group of frames. The probability of a group combines" in done.stderr


@PYTHON_AND_ONNX
def test_frames_that_are_damaged_are_counted(saved, tmp_path, ending):
    whole = make_film(tmp_path / "whole.mp4", picture=picture, gop=10)
    raw = bytearray(whole.read_bytes())
    start = raw.index(b"mdat") + 4
    length = raw.index(b"moov") - 4 - start
    for i in range(start + length * 7 // 10, start + length * 8 // 10):
        raw[i] ^= 0x5A
    (tmp_path / "damaged.mp4").write_bytes(bytes(raw))
    detector = saved / f"detector.{ending}"
    damaged = tmp_path / "damaged.mp4"
    done = run("detect", detector, damaged, "--frames-per-video", 10, "--json")
    (row,) = rows_of(done)
    assert row["n_judged"] + row["n_not_judged"] == 10 and 0 < row["n_not_judged"] < 6
    assert row["error"] == "" and row["label"] and done.exit_code == 0
    lines = run("detect", detector, damaged, whole, "--frames-per-video", 10).stdout
    assert lines.splitlines()[1].endswith(f"damaged.mp4 ({row['n_judged']} of 10 frames)")
    assert lines.splitlines()[2].endswith("whole.mp4 (10 frames)")


@PYTHON_AND_ONNX
def test_a_film_of_which_no_frame_can_be_used(saved, mixed, monkeypatch, in_process, ending):
    def fail(*_):
        raise ValueError("the film is damaged")

    monkeypatch.setattr(film.OpenFilm, "image_at", fail)
    done = run("detect", saved / f"detector.{ending}", mixed / "a.mp4", *OPTIONS)
    (row,) = rows_of(done)
    assert row["error"].startswith("none of 4 images can be used, for example ")
    assert "a.mp4' at 0." in row["error"] and row["error"].endswith(" s: the film is damaged")
    assert (row["n_judged"], row["n_not_judged"], done.exit_code) == (0, 4, 3)


@PYTHON_AND_ONNX
def test_a_film_that_makes_ffmpeg_crash_is_a_row(saved, mixed, in_child, tmp_path, ending):
    film = (mixed / "a.mp4").read_bytes()
    for name in ("1.mp4", "segfault.mp4", "3.mp4"):
        more = b"\0\0\0\x08free" if name == "segfault.mp4" else b""  # so that it is another film
        (tmp_path / name).write_bytes(film + more)
    done = run("detect", saved / f"detector.{ending}", tmp_path, *OPTIONS)
    assert done.exit_code == 3, done.stderr
    rows = rows_of(done)
    assert [Path(row["path"]).name for row in rows] == ["1.mp4", "3.mp4", "segfault.mp4"]
    assert all(list(row) == COLUMNS for row in rows)
    judged = [(row["n_judged"], row["n_not_judged"]) for row in rows]
    assert judged == [(N_FRAMES, 0), (N_FRAMES, 0), (0, N_FRAMES)]
    assert rows[0]["error"] == rows[1]["error"] == "" and rows[0]["label"] == rows[1]["label"]
    assert rows[0]["probability_fake"] == pytest.approx(rows[1]["probability_fake"], abs=1e-5)
    assert "the process that decodes it ended (" in rows[2]["error"]
    assert "FFmpeg crashed" in rows[2]["error"] and rows[2]["label"] is None


@PYTHON_AND_ONNX
def test_fail_on_and_threshold_apply_to_films(saved, mixed, ending):
    given = (saved / f"detector.{ending}", mixed / "a.mp4", *OPTIONS, "--fail-on", "fake")
    assert run("detect", *given, "--threshold", 0).exit_code == 1
    done = run("detect", *given, "--threshold", 1)
    assert done.exit_code == 0 and rows_of(done)[0]["label"] == "real"
    assert "1 film: 1 called real." in done.stderr


@PYTHON_AND_ONNX
def test_unsure(saved, mixed, ending):
    photograph, film = mixed / "b.png", mixed / "a.mp4"
    given = (saved / f"detector.{ending}", photograph, film, *OPTIONS, "--fail-on", "fake")
    done = run("detect", *given, "--unsure", "0", "1")
    assert done.exit_code == 0
    for row in rows_of(done):
        assert row["label"] is None and row["reading"] == "not sure" and row["error"] == ""
        assert 0 < row["probability_fake"] < 1
    assert "1 photograph and 1 film: 2 not sure." in done.stderr
    assert "outside the band of 0 to 1 are wrong is known only if" in done.stderr
    assert "chosen on photographs like these, in groups like these" in done.stderr
    for band, label, code in ((("-inf", "0"), "fake", 1), (("1", "inf"), "real", 0)):
        done = run("detect", *given, "--unsure", *band)
        assert [row["label"] for row in rows_of(done)] == [label] * 2 and done.exit_code == code
    lines = run("detect", *given[:3], "--unsure", "0", "1").stdout.splitlines()
    assert [line[:8] for line in lines[1:]] == ["not sure"] * 2


def test_films_that_are_named_in_a_list_and_memory(saved, mixed, monkeypatch):
    """A chunk holds as many films as have the frames of a chunk."""
    n_frames = []
    detector = load_detector(str(saved / "detector.onnx"), None, None, None)
    judge = detector.of_films

    def counted(films):
        n_frames.append(sum(map(len, films)))
        return judge(films)

    detector.of_films = counted
    monkeypatch.setattr(detecting, "load_detector", lambda *_: detector)
    monkeypatch.setattr(detecting, "_CHUNK", 10)
    names = f"{mixed / 'a.mp4'}\n".encode() * 7
    done = run("detect", saved / "detector.onnx", "-", *OPTIONS, input=names)
    assert len(rows_of(done)) == 7 and n_frames == [12, 12, 4]


def test_each_film_is_decoded_once(saved, mixed, monkeypatch, in_process):
    n_decoded = []
    following = film.OpenFilm._next

    def counted(self):
        n_decoded.append(1)
        return following(self)

    monkeypatch.setattr(film.OpenFilm, "_next", counted)
    for ending in ("joblib", "onnx"):
        n_decoded.clear()
        run("detect", saved / f"detector.{ending}", mixed / "a.mp4")
        assert len(n_decoded) <= 51


def test_folders_hold_films_by_the_ending_of_their_names(tmp_path):
    for name in ("a.avi", "b.WebM", "c.m4v", "d.mp3", "e.jpg"):
        (tmp_path / name).touch()
    found = [Path(path).name for path, _ in listed([str(tmp_path)], False, {".mp3": 0})]
    assert found == ["a.avi", "b.WebM", "c.m4v", "e.jpg"]


def test_films_in_a_process(saved, mixed):
    """With an ONNX file neither torch nor scikit-learn is imported for films, either."""
    code = (
        "import sys; from sklearn_dfd.__main__ import main;"
        "main(sys.argv[1:], standalone_mode=False);"
        "print(sorted({'torch', 'skorch', 'sklearn'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, "detect", str(saved / "detector.onnx")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [str(mixed / "a.mp4"), "--unsure", "0.2", "0.8"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]" and "a.mp4 (16 frames)" in done.stdout


def test_csv(saved, mixed, tmp_path):
    run("detect", saved / "detector.joblib", mixed, "--csv", tmp_path / "t.csv")
    table = pd.read_csv(tmp_path / "t.csv")
    assert table["n_judged"].tolist() == [16, 1, 3, 0] and table.columns.tolist() == COLUMNS


@PYTHON_AND_ONNX
def test_without_pyav(saved, mixed, monkeypatch, in_process, ending):
    monkeypatch.setitem(sys.modules, "av", None)
    done = run("detect", saved / f"detector.{ending}", mixed, *OPTIONS)
    rows = rows_of(done)
    assert done.exit_code == 3 and rows[1]["error"] == "" and rows[1]["label"]
    message = 'A film needs av, which is not installed: pip install "sklearn-dfd[video]"'
    assert [row["error"] for row in rows if row["n_judged"] == 0] == [message] * 3


@pytest.mark.parametrize("command", ["check", "train"])
def test_folders_of_films_are_referred_to_the_loader(tmp_path, weights_file, command):
    for name in ("real", "fake"):
        (tmp_path / "films" / name).mkdir(parents=True)
        make_film(tmp_path / "films" / name / "1.mp4", 3)
    options = ["--output", tmp_path / "d.joblib", "--weights", weights_file]
    done = run(command, tmp_path / "films", *(options if command == "train" else []))
    assert done.exit_code == 2
    assert "load a folder of films with sklearn_dfd.datasets.load_video_folder" in done.stderr


def test_help_says_what_films_need():
    text = " ".join(run("detect", "--help").stdout.split())
    assert 'the extra "video" of this package' in text and "mean of their log-odds" in text
    assert "--frames-per-video" in text and "--unsure LOW HIGH" in text
    assert '"not sure" does not count' in text
