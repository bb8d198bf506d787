"""The commands of the shell: what they print and write, their exit codes, and bad input."""

import contextlib
import csv
import inspect
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
import warnings
from collections import Counter
from pathlib import Path

import click
import joblib
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_dfd import detect, make_deepfake_pipeline
from sklearn_dfd._core.command_line import detecting, detectors, training
from sklearn_dfd._core.command_line import folders as labelled_folders
from sklearn_dfd._core.command_line.classes import class_to_detect
from sklearn_dfd._core.command_line.commands import main
from sklearn_dfd._core.command_line.paths import listed
from sklearn_dfd._core.images import folders
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.export import to_onnx
from sklearn_dfd.feature_store import IN_PROCESS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "examples" / "command_line.md"
COLUMNS = ["path", "label", "probability_fake", "n_judged", "n_not_judged", "reading", "error"]
posix = pytest.mark.skipif(os.name == "nt", reason="signals and names of POSIX")


def run(*arguments, **options):
    """Run a command in this process."""
    separate = "mix_stderr" in inspect.signature(CliRunner).parameters  # before click 8.2
    runner = CliRunner(**({"mix_stderr": False} if separate else {}))
    return runner.invoke(main, list(map(str, arguments)), prog_name="sklearn-dfd", **options)


def in_a_process(*arguments, **options):
    """Start a command in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sklearn_dfd", *map(os.fsencode, map(str, arguments))]
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def write_faces(root, n=24, seed=0):
    photos = make_spliced_photos(n, image_size=48, random_state=seed)
    for i, (pixels, fake) in enumerate(zip(photos.data, photos.target, strict=True)):
        path = root / "faces" / ("fake" if fake else "real") / f"{i:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=95)
    return root / "faces"


@pytest.fixture
def faces(tmp_path):
    """Folder of 24 small photographs, in the folders of two classes."""
    return write_faces(tmp_path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folder with one detector in each kind of file."""
    pytest.importorskip("onnxruntime")
    skops_io = pytest.importorskip("skops.io")
    folder = tmp_path_factory.mktemp("detectors")
    photos = make_spliced_photos(24, image_size=48, random_state=0)
    pipe = make_deepfake_pipeline(
        weights=None, image_size=32, max_epochs=1, hidden_layer_sizes=(16,), random_state=0
    )
    pipe.fit(photos.data, np.array(["real", "fake"])[photos.target])
    joblib.dump(pipe, folder / "detector.joblib")
    skops_io.dump(pipe, folder / "detector.skops")
    to_onnx(pipe, folder / "detector.onnx")
    return folder


@pytest.fixture
def onnx(saved):
    """The file of a detector that loads quickly."""
    return saved / "detector.onnx"


# detect


@pytest.mark.parametrize("ending", ["joblib", "skops", "onnx"])
def test_the_table_is_that_of_detect(saved, faces, tmp_path, ending):
    (faces / "fake" / "zz.jpg").write_bytes(b"no image")
    file = saved / f"detector.{ending}"
    done = run("detect", file, faces, "absent.jpg", "--csv", tmp_path / "table.csv")
    assert done.exit_code == 3 and done.stdout == ""
    table = pd.read_csv(tmp_path / "table.csv", keep_default_na=False)
    assert table.columns.tolist() == COLUMNS
    paths = [*sorted(map(str, faces.rglob("*.jpg"))), "absent.jpg"]
    expected = detect(joblib.load(saved / "detector.joblib"), paths, pos_label="fake")
    for name in ("path", "label", "reading", "error"):
        assert table[name].tolist() == expected[name].fillna("").tolist(), name
    probability = pd.to_numeric(table["probability_fake"])
    tolerance = 1e-4 if ending == "onnx" else 0
    np.testing.assert_allclose(probability, expected["probability_fake"], rtol=0, atol=tolerance)
    assert "26 photographs: " in done.stderr and "2 could not be read" in done.stderr
    assert "not calibrated" in done.stderr


@pytest.mark.parametrize("ending", ["joblib", "onnx"])
def test_threshold_and_class(saved, faces, ending):
    options = ("--pos-label", "real", "--threshold", 0, "--json")
    done = run("detect", saved / f"detector.{ending}", faces, *options)
    rows = list(map(json.loads, done.stdout.splitlines()))
    assert {row["label"] for row in rows} == {"real"} and len(rows) == 24
    assert list(rows[0]) == [name.replace("fake", "real") for name in COLUMNS]


def test_lines_for_people(onnx, faces):
    done = run("detect", onnx, faces / "real", "absent\n.jpg")
    head, *lines, last = done.stdout.splitlines()
    assert head.split() == ["reading", "P(fake)", "path"]
    assert all(re.match(r"called (real|fake)    0\.\d{3}  \S+\.jpg$", line) for line in lines)
    assert last.split() == r"not judged absent\n.jpg: the file does not exist".split()
    assert len(lines) == len(list((faces / "real").iterdir()))


def test_folders_are_walked_in_order(onnx, tmp_path):
    for name in ("b/2.PNG", "b/1.jpeg", "a.webp", "B.txt", ".hidden.jpg", "c/d/e.jpg", "c/x"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no image")
    (tmp_path / "empty").mkdir()
    passed_over = Counter()
    given = [str(tmp_path / "photos" / "B.txt"), str(tmp_path / "photos"), str(tmp_path / "empty")]
    found = list(listed(given, False, passed_over))
    names = [Path(path).relative_to(tmp_path).as_posix() for path, _ in found]
    inside = ["photos/a.webp", "photos/b/1.jpeg", "photos/b/2.PNG", "photos/c/d/e.jpg"]
    assert names == ["photos/B.txt", *inside, "empty"]
    assert [fault for _, fault in found if fault] == [
        "there is neither an image nor a film in this folder"
    ]
    assert passed_over == {".txt": 1, "": 1}
    done = run("detect", onnx, *given, "--json")
    assert done.exit_code == 3 and len(done.stdout.splitlines()) == 6
    assert json.loads(done.stdout.splitlines()[-1])["error"].startswith("there is neither an image")
    assert (
        "2 files in folders are neither images nor films by name (.txt, no ending)" in done.stderr
    )


def test_a_folder_that_cannot_be_listed_is_a_row(onnx, faces, monkeypatch):
    def listdir(path, original=os.listdir):
        if Path(path).name == "real":
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(folders.os, "listdir", listdir)
    done = run("detect", onnx, faces, "--json")
    *judged, last = map(json.loads, done.stdout.splitlines())
    assert all(row["error"] == "" for row in judged) and len(judged) == 12
    assert last["path"] == str(faces / "real")
    assert last["error"] == "the folder cannot be listed (Permission denied)"
    assert done.exit_code == 3


NAMES = ["a b.jpg", 'a"quote,comma.jpg', " blank .jpg", "é.jpg"]
NAMES += [] if os.name == "nt" else ["line\nbreak.jpg", "carriage\r.jpg", "\udcff\udc80.jpg"]


@pytest.fixture
def odd(faces, tmp_path):
    """Paths of photographs whose names are hard to write down, as far as the disk takes them."""
    (tmp_path / "odd").mkdir()
    paths = []
    for name, source in zip(NAMES, sorted(faces.rglob("*.jpg")), strict=False):
        try:
            shutil.copy(source, tmp_path / "odd" / name)
        except OSError:  # on macOS names are UTF-8
            continue
        paths.append(str(tmp_path / "odd" / name))
    return paths


def test_names_are_unambiguous(onnx, odd, tmp_path):
    names = b"".join(os.fsencode(path) + b"\0" for path in odd)
    done = run("detect", onnx, "-", "--null", "--json", input=names)
    assert [json.loads(line)["path"] for line in done.stdout.splitlines()] == odd
    assert done.exit_code == 0
    file = tmp_path / "table.csv"
    assert run("detect", onnx, "-", "-0", "--csv", file, input=names).exit_code == 0
    assert pd.read_csv(file, encoding_errors="surrogateescape")["path"].tolist() == odd
    done = run("detect", onnx, "-", "-0", input=names)
    assert done.exit_code == 0 and len(done.stdout.splitlines()) == len(odd) + 1


def test_odd_names_in_a_process(onnx, odd, tmp_path):
    """As arguments, and in a locale that knows only ASCII."""
    for options in (["--json"], ["--csv", "-"], []):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONUTF8": "0"}
        command = [sys.executable, "-m", "sklearn_dfd", "detect", onnx, *odd, *options]
        done = subprocess.run(command, capture_output=True, env=environment)
        assert done.returncode == 0, done.stderr
        if options == ["--csv", "-"]:
            text = done.stdout.decode("utf-8", sys.getfilesystemencodeerrors())
            rows = list(csv.reader(io.StringIO(text, newline="")))
            assert [row[0] for row in rows[1:]] == odd


def test_a_list_on_standard_input(onnx, faces):
    first, *_ = sorted((faces / "real").iterdir())
    names = f"{first}\n\nabsent\0.jpg\n{faces / 'fake'}\n{first}".encode()
    done = run("detect", onnx, "-", "--json", input=names)
    rows = list(map(json.loads, done.stdout.splitlines()))
    assert [rows[0]["path"], rows[-1]["path"]] == [str(first)] * 2 and len(rows) == 15
    assert "no file can have this name" in rows[1]["error"]
    done = run("detect", onnx, "-", "--csv", "-", input=b"")
    assert (done.exit_code, done.stdout) == (0, ",".join(COLUMNS) + "\n")
    assert "No photographs." in done.stderr


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ([], 3),
        (["--fail-on", "fake", "--threshold", "0"], 1),  # before those that could not be read
        (["--fail-on", "fake", "--threshold", "1"], 3),
    ],
)
def test_exit_codes(onnx, faces, options, code):
    (faces / "real" / "x.jpg").write_bytes(b"")
    assert run("detect", onnx, faces, *options).exit_code == code
    (faces / "real" / "x.jpg").unlink()
    assert run("detect", onnx, faces, *options).exit_code == (0 if code == 3 else code)


def test_an_error_that_is_not_foreseen_has_a_code_of_its_own(onnx, faces, monkeypatch):
    monkeypatch.setattr(detecting, "load_detector", lambda *_: 1 / 0)
    done = run("detect", onnx, faces)
    assert done.exit_code == 4


BAD = {
    "--fail-on fakes": "--fail-on fakes: the classes are fake, real.",
    "--pos-label 1": "--pos-label 1: the classes are fake, real.",
    "--csv table.csv --json": "--csv and --json cannot be combined.",
    "--threshold 2": "2.0 is not in the range 0<=x<=1",
    "--threshold 0.5 --unsure 0.1 0.9": "--threshold and --unsure cannot be combined.",
    "--unsure 0.9 0.1": "--unsure 0.9 0.1: the lower probability comes first.",
    "--unsure nan 0.1": "--unsure nan 0.1: the lower probability comes first.",
    "--unsure 0.1 --json": "'--json' is not a valid float.",
    "--frames-per-video 0": "0 is not in the range x>=1",
    "--csv exists.csv": "exists.csv exists: name another file, or pass --overwrite to replace it.",
    "--csv absent/table.csv": "No such file or directory",
}


@pytest.mark.parametrize("options", BAD)
def test_bad_options(onnx, faces, tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    Path("exists.csv").write_text("mine")
    done = run("detect", onnx, faces, *options.split())
    assert done.exit_code == 2 and BAD[options] in done.stderr
    assert Path("exists.csv").read_text() == "mine"
    assert done.stdout == ""


def test_a_table_is_replaced_on_request(onnx, faces, tmp_path):
    (tmp_path / "table.csv").write_text("old\n" * 1000)
    run("detect", onnx, faces, "--csv", tmp_path / "table.csv", "--overwrite")
    assert len(pd.read_csv(tmp_path / "table.csv")) == 24


def test_files_that_are_no_detectors(tmp_path):
    joblib.dump([1, 2], tmp_path / "list.joblib")
    for name in ("rubbish.joblib", "rubbish.skops", "rubbish.onnx", "detector.pt"):
        (tmp_path / name).write_bytes(b"rubbish")
    expected = {
        "list.joblib": "holds no fitted detector: it is of type list.",
        "rubbish.joblib": "cannot be loaded as a detector: ",
        "rubbish.skops": "cannot be loaded as a detector: ",
        "rubbish.onnx": "is not a file that sklearn_dfd.export.to_onnx wrote",
        "detector.pt": "a detector is a file whose name ends in .joblib, .skops, .onnx.",
        "absent.joblib": "does not exist",
    }
    for name, message in expected.items():
        done = run("detect", tmp_path / name, "photo.jpg")
        assert done.exit_code == 2 and message in done.stderr, name
        assert done.stderr.count("\n") < 6 and name in done.stderr


def test_skops_files_of_strangers_are_not_loaded(tmp_path):
    skops_io = pytest.importorskip("skops.io")
    stranger = make_pipeline(FunctionTransformer(write_faces), LogisticRegression())
    skops_io.dump(stranger, tmp_path / "detector.skops")
    done = run("detect", tmp_path / "detector.skops", "photo.jpg")
    assert done.exit_code == 2
    assert "it holds types that this command does not trust, test_command_line" in done.stderr


def test_trusted_types_are_those_of_the_documentation():
    page = (ROOT / "docs" / "saving.md").read_text("utf-8")
    for name in detectors.TRUSTED:
        assert f"`{name}`" in page or f'"{name}"' in page


def test_warnings_of_other_packages_are_passed_on(faces, monkeypatch):
    load = labelled_folders.load_image_folder

    def load_and_warn(*arguments, **options):
        warnings.warn("Corrupt EXIF data", stacklevel=1)
        return load(*arguments, **options)

    monkeypatch.setattr(labelled_folders, "load_image_folder", load_and_warn)
    (faces / "real" / "damaged.jpg").write_bytes(b"nothing")
    result = run("check", faces)
    assert "Corrupt EXIF data" in result.stdout
    assert "files that cannot be read: 1." in result.stdout and result.exit_code == 3


def test_the_class_to_detect():
    from sklearn_dfd._core.command_line.classes import class_to_detect

    assert class_to_detect(None, ["fake", "real"]) == "fake"
    assert class_to_detect("real", ["fake", "real"]) == "real"
    assert class_to_detect(None, [0, 1]) == class_to_detect("1", [0, 1]) == 1
    with pytest.raises(Exception, match="The classes are edited, genuine: name one of them"):
        class_to_detect(None, ["edited", "genuine"])


class Counted:
    """A detector that accepts any path, and counts how many wait in memory."""

    classes, columns, note = ["fake", "real"], COLUMNS, ""

    def of_photographs(self, paths):
        assert len(paths) <= 128
        values = ("fake", 0.75, 1, 0, "called fake", "")
        return [dict(zip(COLUMNS, (path, *values), strict=True)) for path in paths]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_photographs(onnx, tmp_path, monkeypatch):
    """100,000 names, which are read while rows of earlier ones are written already."""
    monkeypatch.setattr(detecting, "load_detector", lambda *_: Counted())
    lines = "".join(f"photograph-{i:06}.jpg\n" for i in range(100_000)).encode()
    peaks = []
    for n in (len(lines) // 10, len(lines)):
        tracemalloc.start()
        file = tmp_path / f"{n}.csv"
        assert run("detect", onnx, "-", "--csv", file, input=lines[:n]).exit_code == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # the input itself is in memory here, and nothing else that grows
    assert peaks[1] - peaks[0] < 1.5 * len(lines)
    table = pd.read_csv(file)
    assert table["path"].tolist() == lines.decode().split()


def test_rows_are_written_before_the_next_names_are_asked_for(onnx, tmp_path, monkeypatch):
    monkeypatch.setattr(detecting, "load_detector", lambda *_: Counted())
    file = tmp_path / "table.csv"
    seen = []

    def endless(*_):
        for i in range(1000):
            if i % 128 == 0:
                seen.append(len(file.read_text().splitlines()) - 1)
            yield f"{i}.jpg", ""

    monkeypatch.setattr(detecting, "listed", endless)
    run("detect", onnx, "-", "--csv", file)
    assert seen == [128 * i for i in range(8)]


def test_features_are_forgotten(saved, faces):
    assert run("detect", saved / "detector.joblib", faces).exit_code == 0
    assert IN_PROCESS.info()["n_rows"] == 0


@posix
def test_ctrl_c_leaves_whole_rows(onnx, faces, tmp_path):
    file = tmp_path / "table.csv"
    names = "".join(f"{path}\n" for path in sorted(faces.rglob("*.jpg"))).encode()
    process = in_a_process("detect", onnx, "-", "--csv", file)
    process.stdin.write(6 * names)  # more than a chunk, and then it waits for more
    process.stdin.flush()
    for _ in range(600):
        if file.exists() and len(file.read_bytes().splitlines()) > 128:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert b"128 rows were written, all of them complete." in stderr and b"Traceback" not in stderr
    text = file.read_text()
    assert text.endswith("\n") and len(list(csv.reader(text.splitlines()))) == 129


@posix
def test_a_reader_that_ends_is_no_error(onnx, faces):
    process = in_a_process("detect", onnx, "-", "--json")
    names = "".join(f"{path}\n" for path in sorted(faces.rglob("*.jpg"))).encode()
    process.stdin.write(6 * names)
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["error"] == ""
    process.stdout.close()
    with contextlib.suppress(BrokenPipeError):  # it may have ended by now
        process.stdin.write(60 * names)
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_starting_imports_no_torch(onnx, faces):
    """Help, `check`, and `detect` with an ONNX file."""
    code = (
        "import sys; from sklearn_dfd.__main__ import main;"
        "main(sys.argv[1:], standalone_mode=False);"
        "print(sorted({'torch', 'skorch', 'torchvision', 'sklearn'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for arguments, found in (
        (["--help"], []),
        (["check", str(faces)], ["sklearn"]),
        (["detect", str(onnx), str(faces)], []),
    ):
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == str(found)


def test_help_warns_of_files_that_run_code():
    text = " ".join(run("detect", "--help").stdout.split())
    assert "A .joblib file runs code when it is loaded: load only what comes" in text
    assert "an .onnx file runs no code" in text and "torch is not imported" in text
    assert "Exits with 1" in text
    assert run("--version").stdout.startswith("sklearn-dfd, version ")


def test_pandas_is_asked_for_by_name(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    done = run("detect", saved / "detector.joblib", "photo.jpg")
    assert done.exit_code == 2 and 'pip install "sklearn-dfd[table]"' in done.stderr


# check


def test_check(faces):
    (faces / "fake" / "zz.jpg").write_bytes(b"no image")
    for name in ("0.jpg", "1.jpg"):  # a photograph in both classes
        shutil.copy(sorted((faces / "real").iterdir())[0], faces / "fake" / name)
    done = run("check", faces)
    assert done.exit_code == 3 and "zz.jpg': the bytes are not in an image format" in done.stdout
    assert re.search(r"26 photographs that can be read\n +14  fake\n +12  real\n", done.stdout)
    assert re.search(
        r"Sources with more than one photograph: \d+, the largest with \d", done.stdout
    )
    share = re.search(r"In a plain split into 5 folds (\d+) of 26 photographs", done.stdout)
    assert int(share[1]) >= 2
    assert "bytes per pixel" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.startswith("In short: 26 photographs in ") and last.endswith("be read: 1.")


def test_leaks_are_counted():
    from sklearn_dfd._core.command_line.checking import _leaked

    labels = np.array(["real", "fake"] * 50, dtype=object)
    assert _leaked(labels, np.arange(100)) == 0
    assert _leaked(labels, np.zeros(100, dtype=int)) == 100
    assert _leaked(labels[:8], np.arange(8)) is None


def test_check_says_that_files_give_the_labels_away(faces):
    for path in (faces / "fake").iterdir():
        Image.open(path).save(path, quality=30)
    done = run("check", faces)
    last = done.stdout.splitlines()[-1]
    assert done.exit_code == 0 and "headers and metadata reveal the labels" in last


def test_check_without_labels(faces):
    (faces / "real" / "zz.jpg").write_bytes(b"no image")
    done = run("check", faces / "real")
    assert done.exit_code == 3
    assert "zz.jpg': the bytes are not in an image format that can be read" in done.stdout
    assert "There are no subfolders, and so no labels" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.startswith("In short: 12 photographs from ") and last.endswith("be read: 1.")


def test_check_of_few_photographs_and_of_three_classes(faces):
    for path in sorted((faces / "fake").iterdir())[3:]:
        path.unlink()
    done = run("check", faces)
    assert "What a plain split leaks was not checked" in done.stdout
    assert "Headers and metadata were not checked: Class fake has" in done.stdout
    shutil.copytree(faces / "real", faces / "other")
    assert "and there are 3" in run("check", faces).stdout
    assert "there are 3" not in run("check", faces, "--class-names", "real", "fake").stdout


@pytest.mark.parametrize("command", ["check", "train"])
def test_folders_that_cannot_be_used(tmp_path, weights_file, command):
    options = ["--output", tmp_path / "d.joblib", "--weights", weights_file]
    options = options if command == "train" else []
    (tmp_path / "one" / "real").mkdir(parents=True)
    faces = write_faces(tmp_path)
    for path in (faces / "fake").iterdir():
        path.write_bytes(b"no image")
    for folder, message in (
        (tmp_path / "absent", "does not exist"),
        (tmp_path / "one", "only the subfolder 'real'"),
        (faces, "Each class needs photographs that can be read."),
    ):
        done = run(command, folder, *options)
        assert done.exit_code == 2 and message in done.stderr
    assert run("check", tmp_path / "one" / "real").exit_code == 2
    assert not (tmp_path / "d.joblib").exists()


# train


@pytest.fixture(scope="module")
def trained(tmp_path_factory, weights_file):
    """What the command printed, and the folder in which it did its work."""
    pytest.importorskip("skops")
    folder = tmp_path_factory.mktemp("trained")
    faces = write_faces(folder)
    (faces / "real" / "zz.jpg").write_bytes(b"no image")
    options = ["--weights", weights_file, "--folds", 3, "--memory", folder / "features"]
    options += ["--class-names", "real", "fake", "--card", folder / "card.md"]
    return run("train", faces, "-o", folder / "d.joblib", *options), folder


def test_train_ends_with_the_score_and_the_baseline(trained):
    done, folder = trained
    assert done.exit_code == 0, done.stderr
    *_, counts, how, auc, accuracy, band = done.stdout.splitlines()
    assert counts.startswith("24 photographs (12 real, 12 fake) in ")
    assert counts.endswith("files that could not be read: 1.")
    assert "zz.jpg': the bytes are not in an image format that can be read" in done.stdout
    assert "in 3 folds (95 % intervals):" in how
    score = r"0\.\d\d \(0\.\d\d to [01]\.\d\d\); "
    assert re.match(rf"ROC AUC  {score}guessing reaches 0\.50", auc)
    assert re.match(rf"accuracy {score}always saying 'real' reaches 0\.50", accuracy)
    assert band.endswith("there are too few photographs, or too many errors.")
    assert {path.name for path in folder.iterdir()} == {"faces", "features", "d.joblib", "card.md"}


def test_the_card_has_the_same_score(trained):
    done, folder = trained
    card = (folder / "card.md").read_text("utf-8")
    value = float(re.search(r"ROC AUC \(0.5 is guessing\) +\| (0\.\d+)", card)[1])
    assert f"ROC AUC  {value:.2f} (" in done.stdout
    assert "The class to detect is fake." in card and str(folder) not in card


def test_what_is_saved_is_calibrated_by_the_folds(trained, weights_file):
    """It is what scikit-learn makes of the same folds, at twice the number of fits."""
    _, folder = trained
    detector = joblib.load(folder / "d.joblib")
    photographs = training.read_labelled(str(folder / "faces"), ["real", "fake"], None)
    splits = training._splits(photographs, 3)
    pipe = make_deepfake_pipeline(preset="fast", weights=weights_file, random_state=0)
    expected = CalibratedClassifierCV(pipe, cv=splits, ensemble=False)
    expected.fit(photographs.paths, photographs.labels.astype(str))
    np.testing.assert_allclose(
        detector.predict_proba(photographs.paths),
        expected.predict_proba(photographs.paths),
        rtol=1e-3,  # sigmoids are fitted to float32 there, and to float64 here
    )
    assert (
        detect(detector, photographs.paths, pos_label="fake")
        .attrs["note"]
        .startswith("The probabilities are calibrated")
    )
    (inner,) = detector.calibrated_classifiers_
    assert inner.estimator.estimator.named_steps["features"].memory is None
    assert inner.estimator.estimator.named_steps["features"].verbose == 0


def test_what_is_saved_detects(trained):
    _, folder = trained
    done = run("detect", folder / "d.joblib", folder / "faces", "--json", "--fail-on", "fake")
    assert done.exit_code in {1, 3} and len(done.stdout.splitlines()) == 25


@pytest.mark.parametrize("ending", ["skops", "onnx"])
def test_other_files_of_detectors(faces, weights_file, tmp_path, ending):
    pytest.importorskip("skops")
    pytest.importorskip("onnxruntime")
    file = tmp_path / f"d.{ending}"
    options = ["--weights", weights_file, "--folds", 2, "--overwrite"]
    options += ["--no-calibrate"] if ending == "onnx" else []
    file.write_text("old")
    done = run("train", faces, "-o", file, *options)
    assert done.exit_code == 0, done.stderr
    assert "always saying" in done.stdout.splitlines()[-2]
    assert run("detect", file, faces).exit_code == 0


@pytest.mark.parametrize("n", [400, 2])
def test_the_band_that_is_suggested_keeps_its_promise(n):
    rng = np.random.default_rng(0)
    labels = np.array(["fake", "real"] * (n // 2), dtype=object)
    p = 1 / (1 + np.exp(rng.normal(np.where(labels == "fake", -4, 4), 2)))
    groups = np.arange(n)
    photographs = labelled_folders.Labelled(labels, labels, ["real", "fake"], groups, groups, 0)
    text = training._band(photographs, np.stack([p, 1 - p], axis=1), "fake")
    if n == 2:
        assert "there are too few photographs, or too many errors" in text
        return
    low, high, answered = map(
        float,
        re.match(r"With detect --pos-label fake --unsure (\S+) (\S+), (\d+)% of", text).groups(),
    )
    assert 0 < low < high < 1 and answered / 100 == pytest.approx(
        np.mean((p <= low) | (p >= high)), abs=0.01
    )
    for label, called in (("fake", p >= high), ("real", p <= low)):
        assert called.sum() > 50 and (labels[called] != label).mean() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["accurate", "method"])
def test_other_presets(faces, weights_file, tmp_path, preset, monkeypatch):
    def small(**options):
        return make_deepfake_pipeline(image_size=32, max_epochs=1, **options)

    monkeypatch.setattr(training, "make_deepfake_pipeline", small)
    options = ["--weights", weights_file, "--folds", 2, "--memory", tmp_path / "features"]
    done = run("train", faces, "-o", tmp_path / "d.joblib", "--preset", preset, *options)
    assert done.exit_code == 0, done.stderr
    detector = joblib.load(tmp_path / "d.joblib")
    inner = detector.calibrated_classifiers_[0].estimator.estimator
    own = [inner, getattr(inner, "estimator_", inner)]
    params = [item for each in own for item in each.get_params().items()]
    memories = {value for name, value in params if name.endswith("features__memory")}
    assert memories == {None}
    assert len(detector.predict_proba(list(faces.rglob("*.jpg")))) == 24


WRONG = {
    "-o d.pt": "the name must end in .joblib, .skops or .onnx.",
    "-o d.onnx": "An ONNX file cannot hold a calibrated detector: add --no-calibrate",
    "-o old.joblib": "old.joblib exists: name another file, or pass --overwrite to replace it.",
    "-o d.joblib --card old.md": "old.md exists",
    "-o absent/d.joblib": "No such file or directory",
    "-o d.joblib --weights absent.pth": "absent.pth",
    "-o d.joblib --device gpu": "gpu",
    "-o d.joblib --folds 1": "1 is not in the range x>=2",
}


@pytest.mark.parametrize("options", WRONG)
def test_what_cannot_work_is_known_before_training(
    faces, weights_file, tmp_path, monkeypatch, options
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "read_labelled", lambda *_: pytest.fail("it began to work"))
    for name in ("old.joblib", "old.md"):
        Path(name).write_text("mine")
    before = set(tmp_path.iterdir())
    done = run("train", faces, "--weights", weights_file, *options.split())
    assert done.exit_code == 2 and WRONG[options] in done.stderr
    assert set(tmp_path.iterdir()) == before
    assert {Path(name).read_text() for name in ("old.joblib", "old.md")} == {"mine"}


def test_too_few_groups_and_too_many_classes(faces, weights_file, tmp_path):
    options = ["-o", tmp_path / "d.joblib", "--weights", weights_file]
    done = run("train", faces, *options, "--group-pattern", r"(\d)\d")
    assert done.exit_code == 2 and "Use fewer --folds, or photographs of more" in done.stderr
    assert re.search(r"in \d group\(s\): it cannot", done.stderr)  # without numbers of our own
    shutil.copytree(faces / "real", faces / "other")
    done = run("train", faces, *options)
    assert done.exit_code == 2 and "name two of them with --class-names." in done.stderr
    (faces / "fake").rename(faces / "edited")
    done = run("train", faces, *options)
    assert done.exit_code == 2 and "Which class is to be detected?" in done.stderr


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_training_that_ends_early_leaves_the_old_file(
    faces, weights_file, tmp_path, monkeypatch, error
):
    def fail(*_):
        raise error

    monkeypatch.setattr(training, "_measured_and_fitted", fail)
    (tmp_path / "d.joblib").write_text("mine")
    options = ["--weights", weights_file, "--overwrite", "-o", tmp_path / "d.joblib"]
    done = run("train", faces, *options, "--card", tmp_path / "card.md")
    assert done.exit_code == (130 if error is KeyboardInterrupt else 4)
    assert {path.name for path in tmp_path.iterdir()} == {"faces", "d.joblib"}
    assert (tmp_path / "d.joblib").read_text() == "mine"


def test_a_training_that_was_killed_does_not_block_the_next(faces, weights_file, tmp_path):
    """In containers the next process often has the same number."""
    left = tmp_path / f".unfinished-{os.getpid()}-d.joblib"
    left.write_bytes(b"")
    options = ["-o", tmp_path / "d.joblib", "--weights", weights_file, "--preset", "fast"]
    (faces / "fake").rename(faces / "deep fake")
    done = run("train", faces, *options, "--folds", 2, "--class-names", "real", "deep fake")
    assert done.exit_code == 0, done.stderr
    assert left.exists() and (tmp_path / "d.joblib").stat().st_size


def test_names_with_spaces_are_quoted():
    labels = np.array(["real", "deep fake"], dtype=object)
    photographs = labelled_folders.Labelled(
        labels, np.resize(labels, 200), labels.tolist(), np.arange(200), np.arange(200), 0
    )
    p = np.where(photographs.labels == "real", 0.02, 0.98)
    band = training._band(photographs, np.stack([p, 1 - p], axis=1), "deep fake")
    assert band.startswith("With detect --pos-label 'deep fake' --unsure ")
    with pytest.raises(click.UsageError, match=r"as in --pos-label 'deep one'\."):
        class_to_detect(None, ["deep one", "real"])


def test_a_card_that_cannot_be_written_leaves_the_detector(
    faces, weights_file, tmp_path, monkeypatch
):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    pytest.importorskip("skops")
    monkeypatch.setattr(training, "make_model_card", fail)
    options = ["-o", tmp_path / "d.joblib", "--weights", weights_file, "--preset", "fast"]
    done = run("train", faces, *options, "--folds", 2, "--card", tmp_path / "card.md")
    assert done.exit_code and "No space left" in done.stderr
    assert "ROC AUC" in done.stdout  # what took so long is told all the same
    assert {path.name for path in tmp_path.iterdir()} == {"faces", "d.joblib"}
    assert joblib.load(tmp_path / "d.joblib").predict(list(faces.glob("real/*.jpg"))[:1])


# the page


def commands_of(page):
    """Yield each command of the page and the lines that it is said to print."""
    for block in re.findall(r"^```console\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *lines = part.splitlines()
            yield command, lines


def skeleton(line):
    """Leave out what depends on the weights: numbers, and what photographs are called."""
    line = re.sub(r", so this may be no better", "", line)
    line = re.sub(r"^(\d+ photographs?( and \d+ film)?:) .* called [^.]*\.", r"\1", line)
    line = re.sub(r"(very likely|likely|uncertain, leaning to|called) (real|fake)", "called", line)
    line = re.sub(r'"label": "\w+"', "", line)
    line = line.replace("are not shown to reveal", "reveal")
    return re.sub(r"\s+", " ", re.sub(r"\d[\d.,e-]*", "0", line)).strip()


@posix
@pytest.mark.slow
def test_the_page_is_true(tmp_path, weights_file):
    photos = make_spliced_photos(40, random_state=0)
    for i, (pixels, fake) in enumerate(zip(photos.data, photos.target, strict=True)):
        path = tmp_path / "faces" / ("fake" if fake else "real") / f"{i:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=95)
    Image.fromarray(photos.data[0]).save(tmp_path / "photo.jpg")
    pytest.importorskip("av")
    from film_files import make_film

    make_film(tmp_path / "clip.mp4")
    program = tmp_path / "bin" / "sklearn-dfd"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sklearn_dfd "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    found = list(commands_of(PAGE.read_text("utf-8")))
    assert len(found) == 10
    code = 0
    for command, expected in found:
        command = command.replace("echo $?", f"echo {code}")
        if " train " in command:
            command += f' --weights "{weights_file}" 2> progress.txt'
        # both streams in the order in which they were written
        done = subprocess.run(
            f"({command}) 2>&1", shell=True, cwd=tmp_path, env=environment, capture_output=True
        )
        code = done.returncode
        lines = done.stdout.decode().splitlines()
        if "..." in expected:
            row = expected.index("...")
            n_after = len(expected) - row - 1
            lines = [*lines[:row], "...", *lines[len(lines) - n_after :]]
        assert list(map(skeleton, lines)) == list(map(skeleton, expected)), command


def test_the_page_names_all_options_that_change_files():
    page = PAGE.read_text("utf-8")
    for said in ("--overwrite", "--card", "--memory", "--fail-on", "--null", "141", "os.fsencode"):
        assert said in page
    assert "eval" in page and "_SKLEARN_DFD_COMPLETE" in page
