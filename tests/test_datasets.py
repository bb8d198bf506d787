import os
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images
from sklearn.model_selection import GroupKFold, train_test_split
from sklearn.utils import Bunch

from sklearn_dfd.datasets import (
    _spliced,
    load_image_folder,
    load_real_and_fake_faces,
    make_spliced_photos,
)
from sklearn_dfd.exceptions import ImageError
from sklearn_dfd.model_selection import check_leakage

CIPLAB = Path(__file__).parents[2] / "shared" / "data" / "real_and_fake_faces_160"
PHOTOS = load_sample_images().images


def put(root, *names, seed=None):
    """Write small images; all of one call are identical if a seed is given."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # The name as a seed: different files differ, whatever the order they are written in.
        rng = np.random.RandomState(list(name.encode()) if seed is None else seed)
        Image.fromarray(rng.randint(0, 256, (10, 12, 3), dtype=np.uint8)).save(path, "PNG")


def relative(faces, root):
    return [Path(path).relative_to(root).as_posix() for path in faces.data]


# ---------------------------------------------------------------------------- load_image_folder


def test_folder_bunch(tmp_path):
    put(tmp_path, "real/1.png", "real/2.png", "fake/1.png")
    faces = load_image_folder(tmp_path)
    assert isinstance(faces, Bunch)
    assert relative(faces, tmp_path) == ["fake/1.png", "real/1.png", "real/2.png"]
    assert faces.data.ndim == 1 and all(type(path) is str for path in faces.data)
    assert faces.target.dtype == faces.groups.dtype == np.int64
    assert faces.target.tolist() == [0, 1, 1] and faces.groups.tolist() == [0, 1, 2]
    assert faces.target_names.tolist() == ["fake", "real"]
    assert "fake (1), real (2)" in faces.DESCR and "3 groups" in faces.DESCR
    assert load_image_folder(str(tmp_path)).data.tolist() == faces.data.tolist()
    assert faces.data[[0, 2]].shape == (2,)
    train, test = train_test_split(faces.data, test_size=1, random_state=0)
    assert len(train) == 2 and len(test) == 1


def test_order_does_not_depend_on_the_system(tmp_path, monkeypatch):
    names = ["real/B.png", "real/a.png", "real/sub/0.png", "real/z.png", "Fake/10.png"]
    put(tmp_path, *names, "Fake/9.png")
    expected = ["Fake/10.png", "Fake/9.png", "real/a.png", "real/B.png", "real/sub/0.png"]
    expected.append("real/z.png")
    listdir = os.listdir
    for change in (sorted, lambda names: sorted(names, reverse=True)):
        monkeypatch.setattr(os, "listdir", lambda path, change=change: change(listdir(path)))
        faces = load_image_folder(tmp_path)
        assert relative(faces, tmp_path) == expected
        assert faces.target_names.tolist() == ["Fake", "real"]


def test_litter_is_skipped(tmp_path):
    put(tmp_path, "real/1.png", "fake/1.png", ".git/1.png", "real/.cache/1.png", "loose.png")
    for name in ("real/.hidden", "real/Thumbs.db", "fake/desktop.ini", "__MACOSX/real/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("not an image")
    assert relative(load_image_folder(tmp_path), tmp_path) == ["fake/1.png", "real/1.png"]


def test_subfolders_are_groups_across_classes(tmp_path):
    put(tmp_path, "fake/alice/2.png", "fake/alice/deep/3.png", "fake/bob/1.png", "fake/x.png")
    put(tmp_path, "real/Alice/1.png", "real/bob/1.png", "real/carol/deep/1.png", "real/x.png")
    faces = load_image_folder(tmp_path)
    groups = dict(zip(relative(faces, tmp_path), faces.groups, strict=True))
    assert (
        groups["fake/alice/2.png"] == groups["fake/alice/deep/3.png"] == groups["real/Alice/1.png"]
    ), "one folder on a file system that ignores case is one everywhere"
    assert groups["fake/bob/1.png"] == groups["real/bob/1.png"]
    assert groups["fake/x.png"] != groups["real/x.png"], "equal file names mean nothing"
    assert sorted(set(faces.groups)) == list(range(5))
    _, first = np.unique(faces.groups, return_index=True)
    assert (np.diff(first) > 0).all(), "numbered in order of appearance"


def test_identical_files_share_a_group_through_chains(tmp_path):
    put(tmp_path, "fake/a.png", "real/alice/1.png", seed=1)
    put(tmp_path, "real/alice/2.png", "fake/bob/1.png", seed=2)
    put(tmp_path, "fake/bob/2.png", "real/z.png", seed=3)
    put(tmp_path, "fake/other.png")
    faces = load_image_folder(tmp_path)
    groups = dict(zip(relative(faces, tmp_path), faces.groups, strict=True))
    other = groups.pop("fake/other.png")
    assert len(set(groups.values())) == 1 and other not in groups.values()


def test_groups_against_brute_force(tmp_path):
    rng = np.random.RandomState(0)
    for i in range(40):
        sub = rng.choice(["", "a/", "b/", "c/", "d/", "e/", "f/"], p=[0.7] + 6 * [0.05])
        put(tmp_path, f"{rng.choice(['real', 'fake'])}/{sub}{i}.png", seed=rng.randint(30))
    faces = load_image_folder(tmp_path)
    paths = [Path(path) for path in faces.data]
    folders = [p.relative_to(tmp_path).parts[1:-1] for p in paths]
    content = [p.read_bytes() for p in paths]
    linked = np.array(
        [
            [content[i] == content[j] or (folders[i] == folders[j] != ()) for j in range(40)]
            for i in range(40)
        ]
    )
    reach = np.linalg.matrix_power(linked.astype(float), 40) > 0
    np.testing.assert_array_equal(reach, faces.groups[:, None] == faces.groups)


@pytest.fixture
def with_bad_files(tmp_path):
    put(tmp_path, *(f"{c}/{i}.png" for c in ("real", "fake") for i in range(3)))
    (tmp_path / "real" / "1.png").write_text("not an image")
    (tmp_path / "fake" / "notes.txt").write_text("nor is this")
    (tmp_path / "fake" / "empty.jpg").touch()
    return tmp_path


def test_bad_files_are_all_named_in_one_error(with_bad_files):
    with pytest.raises(ImageError, match="on_error='warn'") as info:
        load_image_folder(with_bad_files)
    bad = [("fake", "empty.jpg"), ("fake", "notes.txt"), ("real", "1.png")]
    assert [Path(name).parts[-2:] for _, name, _ in info.value.failures] == bad
    assert [row for row, _, _ in info.value.failures] == [3, 4, 6]
    assert all(name in str(info.value) for name in ("empty.jpg", "notes.txt", "1.png", "3 of 8"))


def test_many_bad_files_are_all_named(tmp_path):
    put(tmp_path, "real/1.png", "fake/1.png")
    names = [f"schlecht ü照 {i}.png" for i in range(30)]
    for name in names:
        (tmp_path / "fake" / name).write_text("not an image")
    with pytest.raises(ImageError) as info:
        load_image_folder(tmp_path)
    with pytest.warns(UserWarning, match="30 of 32 files") as record:
        load_image_folder(tmp_path, on_error="warn")
    for message in (str(info.value), str(record[0].message)):
        assert all(str(tmp_path / "fake" / name) in message for name in names)


def test_bad_files_left_out_with_one_warning(with_bad_files):
    with pytest.warns(UserWarning, match="3 of 8 files") as record:
        faces = load_image_folder(with_bad_files, on_error="warn")
    assert len(record) == 1 and record[0].filename == __file__
    assert all(name in str(record[0].message) for name in ("empty.jpg", "notes.txt", "1.png"))
    expected = ["fake/0.png", "fake/1.png", "fake/2.png", "real/0.png", "real/2.png"]
    assert relative(faces, with_bad_files) == expected
    assert faces.target.tolist() == [0, 0, 0, 1, 1] and faces.groups.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_class_without_any_good_file(tmp_path, on_error):
    put(tmp_path, "real/1.png", "other/1.png")
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "1.png").write_text("not an image")
    with pytest.raises(ImageError, match="one usable image of each class"):
        load_image_folder(tmp_path, on_error=on_error)


def test_folders_that_are_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.*one subfolder per class"):
        load_image_folder(tmp_path / "nowhere")
    put(tmp_path, "1.png")
    with pytest.raises(NotADirectoryError, match=r"1\.png.* is a file"):
        load_image_folder(tmp_path / "1.png")
    with pytest.raises(ValueError, match=r"no subfolder.*Sort the images into folders"):
        load_image_folder(tmp_path)
    put(tmp_path, "real/1.png")
    with pytest.raises(ValueError, match=r"only the subfolder 'real'.*folder above"):
        load_image_folder(tmp_path)
    (tmp_path / "fake" / "deep").mkdir(parents=True)
    with pytest.raises(ValueError, match="'fake' is empty"):
        load_image_folder(tmp_path)


@pytest.mark.parametrize("loader", [load_image_folder, load_real_and_fake_faces])
def test_loader_parameters(loader, tmp_path):
    with pytest.raises(ValueError, match=r"'on_error' parameter.*'raise'.*Got 'ignore'"):
        loader(tmp_path, on_error="ignore")
    with pytest.raises(TypeError, match="'root' parameter"):
        loader(None)
    with pytest.raises(FileNotFoundError):
        loader(tmp_path / "nowhere")


def link(path, to):
    try:
        path.symlink_to(to)
    except (OSError, NotImplementedError):  # pragma: no cover
        pytest.skip("this system lets no links be made")


def test_links_that_loop(tmp_path):
    put(tmp_path, "real/1.png", "real/sub/2.png", "fake/1.png")
    link(tmp_path / "real" / "sub" / "up", tmp_path / "real")
    link(tmp_path / "real" / "all", tmp_path)
    faces = load_image_folder(tmp_path)
    paths = [os.path.realpath(path) for path in faces.data[faces.target == 1]]
    assert len(paths) == len(set(paths)), "no file twice in one class"
    link(tmp_path / "fake" / "self.png", tmp_path / "fake" / "self.png")
    link(tmp_path / "fake" / "lost.png", tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match=r"lost\.png.*self\.png"):
        load_image_folder(tmp_path)


def damage(path):
    """Cut a photograph off in the middle: its header is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PHOTOS[0]).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_damaged_files_are_left_out_too(tmp_path):
    put(tmp_path, *(f"{c}/{i}.png" for c in ("real", "fake") for i in range(3)))
    damage(tmp_path / "real" / "cut.jpg")
    damage(tmp_path / "fake" / "deep" / "cut.jpg")
    (tmp_path / "real" / "notes.txt").write_text("not an image")
    with pytest.raises(ImageError) as info:
        load_image_folder(tmp_path)
    names = [("deep", "cut.jpg"), ("real", "cut.jpg"), ("real", "notes.txt")]
    assert [Path(name).parts[-2:] for _, name, _ in info.value.failures] == names
    with pytest.warns(UserWarning, match="3 of 9 files") as record:
        faces = load_image_folder(tmp_path, on_error="warn")
    assert len(record) == 1 and len(faces.data) == 6


def test_class_names_number_the_classes(tmp_path):
    put(tmp_path, "real/1.png", "fake/2.png", "fake/3.png", "other/4.png")
    faces = load_image_folder(tmp_path, class_names=["real", "fake"])
    assert faces.target_names.tolist() == ["real", "fake"]
    assert relative(faces, tmp_path) == ["real/1.png", "fake/2.png", "fake/3.png"]
    assert faces.target.tolist() == [0, 1, 1] and faces.groups.tolist() == [0, 1, 2]
    turned = load_image_folder(tmp_path, class_names=("other", "fake", "real"))
    assert turned.target_names[turned.target].tolist() == ["other", "fake", "fake", "real"]
    assert load_image_folder(tmp_path).target_names.tolist() == ["fake", "other", "real"]


def test_both_loaders_number_the_classes_alike(tmp_path):
    put(tmp_path, "training_real/real_1.jpg", "training_fake/easy_1_1111.jpg")
    published = load_real_and_fake_faces(tmp_path)
    faces = load_image_folder(tmp_path, class_names=["training_real", "training_fake"])
    assert faces.target.tolist() == published.target.tolist()
    assert faces.data.tolist() == published.data.tolist()


@pytest.mark.parametrize(
    ("class_names", "error", "message"),
    [
        (["real", "Fake"], ValueError, r"no subfolder for 'Fake' .* are 'fake', 'other', 'real'"),
        (["x", "real", "y"], ValueError, "no subfolder for 'x', 'y' of class_names"),
        (["real", "real", "fake"], ValueError, "'real' more than once"),
        (["real"], ValueError, "fewer than two classes"),
        ([], ValueError, "fewer than two classes"),
        ([0, 1], TypeError, "class_names has 0: pass names"),
        ("real", ValueError, "'class_names' parameter"),
    ],
)
def test_class_names_that_are_wrong(tmp_path, class_names, error, message):
    put(tmp_path, "real/1.png", "fake/2.png", "other/4.png")
    with pytest.raises(error, match=message):
        load_image_folder(tmp_path, class_names=class_names)


def test_class_names_of_the_folder_below(tmp_path):
    put(tmp_path, "faces/real/1.png", "faces/fake/2.png", "else/1.png")
    with pytest.raises(ValueError, match="has them all: pass that") as info:
        load_image_folder(tmp_path, class_names=["real", "fake"])
    assert repr(str(tmp_path / "faces")) in str(info.value)
    put(tmp_path, "outer/faces/real/1.png", "outer/faces/fake/2.png")
    with pytest.raises(ValueError, match="has several: pass that") as info:
        load_image_folder(tmp_path / "outer")
    assert repr(str(tmp_path / "outer" / "faces")) in str(info.value)


@pytest.mark.parametrize(
    "parts",
    [
        ("train", "valid", "test"),
        ("train", "val"),
        ("Training", "Validation"),
        ("train_set", "test-images"),
        ("dev", "eval"),
        ("fold1", "fold2", "fold_3"),
        ("train", "unseen"),
    ],
)
def test_parts_of_a_split_are_no_classes(tmp_path, parts):
    for part in parts:
        put(tmp_path, f"{part}/real/{part}1.png", f"{part}/fake/{part}2.png")
    with pytest.raises(ValueError, match=r"parts of a split.*'fake', 'real'") as info:
        load_image_folder(tmp_path)
    assert all(repr(part) in str(info.value) for part in parts)
    # What the message says to do works.
    train, test = (load_image_folder(tmp_path / part) for part in parts[:2])
    check_leakage(train.data, test.data)
    assert repr(str(tmp_path / sorted(parts, key=str.casefold)[0])) in str(info.value)
    insisting = load_image_folder(tmp_path, class_names=list(parts))
    assert insisting.target_names.tolist() == list(parts)


def test_parts_of_a_split_without_class_folders(tmp_path):
    put(tmp_path, "train/1.png", "test/2.png")
    with pytest.raises(ValueError, match="one subfolder per class is needed in each"):
        load_image_folder(tmp_path)


def test_people_in_both_classes_are_no_split(tmp_path):
    put(tmp_path, "real/alice/1.png", "fake/alice/2.png", "real/bob/3.png", "fake/bob/4.png")
    put(tmp_path, "test subjects/alice/5.png")
    faces = load_image_folder(tmp_path)
    assert faces.target_names.tolist() == ["fake", "real", "test subjects"]


def test_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    put(tmp_path, "faces/real/1.png", "faces/fake/2.png")
    put(tmp_path, "ciplab/training_real/1.jpg", "ciplab/training_fake/easy_1_1111.jpg")
    assert relative(load_image_folder("~/faces"), tmp_path) == [
        "faces/fake/2.png",
        "faces/real/1.png",
    ]
    assert len(load_image_folder(Path("~/faces")).data) == 2
    assert len(load_real_and_fake_faces("~/ciplab").data) == 2
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_image_folder("~nobody-of-this-name/faces")


# FaceForensics++: 000_003 is made from the videos 000 and 003.
VIDEOS = r"(\d{3})(?:_(\d{3}))?"


def groups_of(faces, root):
    """Name the files of each group."""
    names = np.array(relative(faces, root))
    return sorted(sorted(names[faces.groups == g]) for g in set(faces.groups))


def test_manipulated_videos_stay_with_both_originals(tmp_path):
    originals = [f"original/{v}/{f}.png" for v in ("000", "003", "004", "007") for f in "ab"]
    put(tmp_path, *originals, "original/008/a.png")
    put(tmp_path, "manipulated/000_003/a.png", "manipulated/003_000/a.png")
    put(tmp_path, "manipulated/007_004/a.png")
    first = ["manipulated/000_003/a.png", "manipulated/003_000/a.png", *originals[:4]]
    second = ["manipulated/007_004/a.png", *originals[4:]]
    faces = load_image_folder(tmp_path, group_pattern=VIDEOS)
    assert groups_of(faces, tmp_path) == [first, second, ["original/008/a.png"]]
    assert "group_pattern finds the same" in faces.DESCR
    again = load_image_folder(tmp_path, group_pattern=re.compile(VIDEOS))
    np.testing.assert_array_equal(again.groups, faces.groups)
    called = load_image_folder(tmp_path, group_pattern=lambda name: name.split("/")[0].split("_"))
    np.testing.assert_array_equal(called.groups, faces.groups)
    plain = load_image_folder(tmp_path)
    assert len(set(plain.groups)) == 8, "by their folders alone, edits are apart from originals"


def test_frames_of_one_video_are_a_group(tmp_path):
    put(tmp_path, *(f"real/vid{v}_frame{f}.jpg" for v in (0, 1, 10) for f in (1, 2)))
    put(tmp_path, "fake/deep/vid1_frame3.jpg", "fake/vid2_frame1.jpg")
    for pattern in (
        r"(vid\d+)_frame",
        r"vid\d+(?=_)",
        lambda name: name.split("/")[-1].split("_")[0],
    ):
        faces = load_image_folder(tmp_path, group_pattern=pattern)
        groups = dict(zip(relative(faces, tmp_path), faces.groups, strict=True))
        assert len(set(groups.values())) == 4
        assert groups["real/vid1_frame1.jpg"] == groups["fake/deep/vid1_frame3.jpg"]
        assert groups["real/vid1_frame1.jpg"] != groups["real/vid10_frame1.jpg"]
    put(tmp_path, "fake/vid77_frame1.jpg", "real/vid0_frame9.jpg", seed=5)
    faces = load_image_folder(tmp_path, group_pattern=r"(vid\d+)_frame")
    groups = dict(zip(relative(faces, tmp_path), faces.groups, strict=True))
    assert groups["fake/vid77_frame1.jpg"] == groups["real/vid0_frame1.jpg"], "identical files"


@pytest.mark.parametrize(
    "pattern",
    [
        r"(vid\d+)_frame",
        r"^(?:(vid\d+)_frame|)",
        lambda name: None,
        lambda name: np.nan,
        lambda name: [float("nan"), pd.NA, ""],
    ],
)
def test_files_whose_names_do_not_match_are_named(tmp_path, pattern):
    put(tmp_path, "real/vid0_frame1.jpg", "fake/holiday.jpg", "fake/deep/me.jpg")
    (tmp_path / "fake" / "notes.txt").write_text("not an image")
    with pytest.raises(ValueError, match=r"group_pattern finds nothing.*'deep/me\.jpg'") as info:
        load_image_folder(tmp_path, group_pattern=pattern, on_error="warn")
    for name in ("holiday.jpg", "deep/me.jpg"):
        assert repr(str(tmp_path / "fake" / name)) in str(info.value)
    assert "notes.txt" not in str(info.value)


def test_group_pattern_that_is_wrong(tmp_path):
    put(tmp_path, "real/1.png", "fake/2.png")
    with pytest.raises(ValueError, match="'\\(' is not a regular expression"):
        load_image_folder(tmp_path, group_pattern="(")
    with pytest.raises(ValueError, match="'group_pattern' parameter"):
        load_image_folder(tmp_path, group_pattern=3)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_pipe_does_not_hang(tmp_path):
    put(tmp_path, "real/1.png", "fake/1.png")
    os.mkfifo(tmp_path / "fake" / "pipe.png")
    with pytest.raises(ImageError, match=r"pipe\.png"):
        load_image_folder(tmp_path)


# --------------------------------------------------------------------- load_real_and_fake_faces


def test_ciplab_layout(tmp_path):
    put(tmp_path, "training_real/real_00001.jpg", "training_real/easy_1_1111.jpg", "else/1.png")
    put(tmp_path, "training_fake/easy_10_1000.jpg", "training_fake/mid_2_0110.jpg")
    put(tmp_path, "training_fake/HARD_3_0001.JPG")
    faces = load_real_and_fake_faces(tmp_path)
    assert faces.target.tolist() == [0, 0, 1, 1, 1] and faces.target.dtype == np.int64
    assert faces.target_names.tolist() == ["real", "fake"]
    assert faces.difficulty.dtype == object
    assert faces.difficulty.tolist() == ["", "", "easy", "hard", "mid"]
    assert faces.part_names.tolist() == ["left_eye", "right_eye", "nose", "mouth"]
    assert faces.replaced_parts.dtype == bool
    flags = [[0] * 4, [0] * 4, [1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 1, 0]]
    assert faces.replaced_parts.tolist() == [[f == 1 for f in row] for row in flags]
    assert faces.groups.tolist() == [0, 1, 2, 3, 4]
    for text in (
        "CIPLab",
        "1081",
        "960",
        "one fake in eight",
        "2 real and 3 fake",
        "only what is certain",
    ):
        assert text in faces.DESCR


def test_ciplab_malformed_names(tmp_path):
    names = ["easy_116_111.jpg", "hard_7_0000 (1).jpg", "mid_1_0120.jpg", "photo.jpg"]
    put(tmp_path, "training_real/r.jpg", "training_fake/easy_1_1111.jpg")
    put(tmp_path, *(f"training_fake/{name}" for name in names))
    with pytest.warns(UserWarning, match="replaced_parts") as record:
        faces = load_real_and_fake_faces(tmp_path)
    assert len(record) == 1 and record[0].filename == __file__
    assert all(name in str(record[0].message) for name in names)
    assert "easy_1_1111" not in str(record[0].message)
    assert faces.difficulty.tolist() == ["", "easy", "easy", "hard", "mid", ""]
    assert faces.replaced_parts.any(axis=1).tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("up", [".", "real_and_fake_face", "a/real_and_fake_face"])
def test_ciplab_folder_nested(tmp_path, up):
    put(tmp_path / up, "training_real/1.jpg", "training_fake/easy_1_1111.jpg")
    root = tmp_path if up != "." else tmp_path / "training_real"
    with pytest.raises(ValueError, match="pass that") as info:
        load_real_and_fake_faces(root)
    assert repr(str(tmp_path / up)) in str(info.value)
    assert len(load_real_and_fake_faces(tmp_path / up).data) == 2


def test_ciplab_folder_wrong(tmp_path):
    put(tmp_path, "training_real/1.jpg")
    with pytest.raises(ValueError, match="training_real and training_fake: pass the folder"):
        load_real_and_fake_faces(tmp_path)
    (tmp_path / "training_fake").mkdir()
    with pytest.raises(ValueError, match=r"training_fake.*'fake' is empty"):
        load_real_and_fake_faces(tmp_path)
    (tmp_path / "training_fake" / "easy_1_1111.jpg").write_text("not an image")
    with pytest.raises(ImageError, match="easy_1_1111"):
        load_real_and_fake_faces(tmp_path, on_error="warn")
    put(tmp_path, "training_fake/easy_2_1111.jpg")
    with pytest.warns(UserWarning, match="left out") as record:
        assert len(load_real_and_fake_faces(tmp_path, on_error="warn").data) == 2
    assert record[0].filename == __file__


@pytest.mark.skipif(not CIPLAB.is_dir(), reason="the Real and Fake Face set is not available")
def test_ciplab_for_real():
    with pytest.warns(UserWarning, match=r": easy_116_111\.jpg$"):
        faces = load_real_and_fake_faces(CIPLAB)
    assert np.bincount(faces.target).tolist() == [864, 768]
    assert len(set(faces.groups)) == 1632, "it has no identical files"
    assert set(faces.difficulty[faces.target == 1]) == {"easy", "mid", "hard"}
    assert faces.replaced_parts[faces.target == 1].any(axis=1).sum() >= 767
    assert not faces.replaced_parts[faces.target == 0].any()


# -------------------------------------------------------------------------- make_spliced_photos

BOTH = ["china", "flower"]  # always there, as scikit-learn brings them
KNOWN = {
    "china": "sklearn",
    "flower": "sklearn",
    "astronaut": "skimage",
    "grace_hopper": "matplotlib",
    "coffee": "skimage",
    "rocket": "skimage",
    "cat": "skimage",
}
INSTALLED = [name for name, package in KNOWN.items() if find_spec(package)]
EDITS = [(kind, level) for kind in ("copy-move", "splice") for level in ("easy", "mid", "hard")]


@pytest.fixture(scope="module")
def photos():
    return make_spliced_photos(140, photographs=BOTH, random_state=0)


@pytest.fixture(scope="module")
def all_photos():
    return make_spliced_photos(240, random_state=0)


def tiles():
    """Tile of each place, as the images are cut from it."""
    return dict(zip(*_spliced._tiles(None), strict=True))


def test_spliced_bunch(photos):
    assert photos.data.shape == (140, 96, 96, 3) and photos.data.dtype == np.uint8
    assert photos.masks.shape == (140, 96, 96) and photos.masks.dtype == bool
    assert photos.target.dtype == photos.groups.dtype == np.int64
    assert photos.target.shape == photos.groups.shape == (140,)
    assert photos.target_names.tolist() == ["genuine", "spliced"]
    for name in ("places", "kinds", "difficulty"):
        assert photos[name].shape == (140,) and photos[name].dtype == object
    said = ("tiles of 2 sample photographs", "70 genuine and 70 spliced", "7 groups", "A toy")
    for text in (*said, "not a benchmark", "how well deepfakes", "CC BY 2.0"):
        assert text in photos.DESCR


def test_all_photographs_that_are_installed_are_used(all_photos):
    assert {place.split("/")[0] for place in all_photos.places} == set(INSTALLED)
    assert f"tiles of {len(INSTALLED)} sample photographs" in all_photos.DESCR
    assert all(f"- {name} (" in all_photos.DESCR for name in INSTALLED)
    code = (
        "import sys; from sklearn_dfd.datasets import make_spliced_photos; "
        "make_spliced_photos(60, image_size=32); print([n for n in sys.modules if 'skimage' in n])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", "a file is read, no more"


def test_photographs_by_name():
    one = make_spliced_photos(12, photographs=("flower",), random_state=0)
    assert {place.split("/")[0] for place in one.places} == {"flower"}
    with pytest.raises(ValueError, match=r"unknown names: 'lena'.*'astronaut'"):
        make_spliced_photos(photographs=["china", "lena"])
    with pytest.raises(ValueError, match="gives 0 tile"):
        make_spliced_photos(photographs=[])
    with pytest.raises(ValueError, match="'photographs' parameter"):
        make_spliced_photos(photographs="china")


def test_photographs_that_are_not_installed(monkeypatch, photos):
    find = _spliced.find_spec
    without = {"skimage", "matplotlib"}
    monkeypatch.setattr(_spliced, "find_spec", lambda name: None if name in without else find(name))
    two = make_spliced_photos(140, random_state=0)
    np.testing.assert_array_equal(two.data, photos.data)
    with pytest.raises(ValueError, match=r"'cat' comes with skimage.*sklearn-dfd\[demo\]"):
        make_spliced_photos(photographs=["china", "cat"])


def test_no_two_tiles_share_a_pixel():
    for name in INSTALLED:
        photograph = _spliced._PHOTOGRAPHS[name]
        with Image.open(_spliced._path_of(photograph)) as image:
            covered = np.zeros((image.height, image.width), dtype=int)
        for left, top, width in photograph.tiles.values():
            height = round(width * 142 / 128)
            assert width >= 128 and left + width <= covered.shape[1]
            assert top + height <= covered.shape[0], (name, left, top)
            covered[top : top + height, left : left + width] += 1
        assert covered.max() == 1, name


def test_a_place_is_in_one_group_and_a_group_in_both_classes(all_photos):
    for place in set(all_photos.places):
        assert len(set(all_photos.groups[all_photos.places == place])) == 1
    n_groups = len(set(all_photos.groups))
    assert sorted(set(all_photos.groups)) == list(range(n_groups)) and n_groups >= 7
    for group in range(n_groups):
        here = all_photos.groups == group
        assert len(set(all_photos.places[here])) == 2
        if len(INSTALLED) > 2:
            assert len({place.split("/")[0] for place in all_photos.places[here]}) == 2
        assert abs(np.diff(np.bincount(all_photos.target[here], minlength=2))[0]) <= 2
        for place in set(all_photos.places[here]):
            assert set(all_photos.target[all_photos.places == place]) == {0, 1}


def test_every_group_holds_both_classes_equally(photos):
    assert sorted(set(photos.groups)) == list(range(7))
    for spliced in (0, 1):
        assert np.bincount(photos.groups[photos.target == spliced]).tolist() == [10] * 7
    for train, test in GroupKFold(5).split(photos.data, photos.target, photos.groups):
        assert photos.target[train].mean() == photos.target[test].mean() == 0.5
    runs = np.count_nonzero(np.diff(photos.target))
    assert 50 < runs < 90, "shuffled, neither sorted nor in turn"


@pytest.mark.parametrize(("n", "spliced"), [(2, 1), (3, 1), (7, 3), (61, 30)])
def test_spliced_balance_of_small_and_odd_numbers(n, spliced):
    small = make_spliced_photos(n, image_size=32, photographs=BOTH, random_state=0)
    assert len(small.data) == n and small.target.sum() == spliced
    both = set(small.groups[small.target == 0]) & set(small.groups[small.target == 1])
    assert len(both) == min(n // 2, 7)


def test_spliced_is_determined_by_random_state(photos):
    state = joblib.hash(np.random.get_state())
    again = make_spliced_photos(140, photographs=BOTH, random_state=np.random.RandomState(0))
    for key in ("data", "target", "groups", "masks", "places", "kinds", "difficulty"):
        np.testing.assert_array_equal(again[key], photos[key])
    assert joblib.hash(np.random.get_state()) == state, "not the global one"
    other = make_spliced_photos(140, photographs=BOTH, random_state=1)
    assert (other.data != photos.data).any() and (other.groups != photos.groups).any()
    assert len(make_spliced_photos(2).data) == 2


@pytest.mark.parametrize("size", [32, 96, 128])
def test_no_pixel_of_one_group_is_in_another(monkeypatch, size):
    """Change one tile: only images of its group change, and every one that shows its place."""
    before = make_spliced_photos(60, image_size=size, random_state=3)
    read = _spliced._read
    for name, place in (("china", "roof"), ("flower", "upper left petals"), (INSTALLED[2], None)):
        photograph = _spliced._PHOTOGRAPHS[name]
        place = place or next(iter(photograph.tiles))
        left, top, width = photograph.tiles[place]
        box = (left, top, left + width, top + round(width * 142 / 128))
        file = _spliced._path_of(photograph)

        def inverted(path, box=box, changed=file):
            image = read(path)
            if path == changed:
                image.paste(ImageOps.invert(image.crop(box)), box)
            return image

        monkeypatch.setattr(_spliced, "_read", inverted)
        after = make_spliced_photos(60, image_size=size, random_state=3)
        differs = (after.data != before.data).any(axis=(1, 2, 3))
        shown = before.places == f"{name}/{place}"
        assert shown.any() and differs[shown].all()
        np.testing.assert_array_equal(after.masks, before.masks)
        assert set(before.groups[differs]) == set(before.groups[shown])
        spliced_from = differs & ~shown
        assert (before.kinds[spliced_from] == "splice").all()


def is_crop(tile, image, where):
    """Tell whether the image is a part of the tile in all pixels that `where` picks."""
    windows = np.lib.stride_tricks.sliding_window_view(tile, image.shape)[:, :, 0]
    # By a few pixels first: comparing all of every window would take long.
    points = np.argwhere(where)
    y, x = points[np.linspace(0, len(points) - 1, 9, dtype=int)].T
    starts = np.argwhere((windows[:, :, y, x] == image[y, x]).all(axis=(-1, -2)))
    return any((windows[i, j] == image)[where].all() for i, j in starts)


def test_images_are_crops_but_for_the_mask_and_mirrored_by_chance(all_photos):
    n = len(all_photos.data)
    mirrored, tile_of = np.zeros(n, dtype=bool), tiles()
    for i in range(n):
        image, mask = all_photos.data[i], all_photos.masks[i]
        tile = tile_of[all_photos.places[i]]
        mirrored[i] = not is_crop(tile, image, ~mask)
        if mirrored[i]:
            assert is_crop(tile, image[:, ::-1], ~mask[:, ::-1])
        if all_photos.target[i]:
            assert 0.1 < mask.mean() < 0.4
            assert not mask[[0, -1]].any() and not mask[:, [0, -1]].any()
            seen = image[:, ::-1] if mirrored[i] else image
            assert not is_crop(tile, seen, np.ones_like(mask))
        else:
            assert not mask.any()
    for spliced in (0, 1):
        assert 0.3 < mirrored[all_photos.target == spliced].mean() < 0.7


def test_kinds_and_difficulties_are_even_and_only_of_edits(all_photos):
    edited = all_photos.target == 1
    assert set(all_photos.kinds[~edited]) == set(all_photos.difficulty[~edited]) == {""}
    pairs = list(zip(all_photos.kinds[edited], all_photos.difficulty[edited], strict=True))
    assert [pairs.count(edit) for edit in EDITS] == [20] * 6


@pytest.mark.parametrize("level", ["easy", "mid", "hard"])
def test_edit_of_each_difficulty(level):
    """On plain places: colours are those of the place unless the edit is easy, without noise."""
    place, donor = (np.full((142, 128, 3), c, dtype=np.uint8) for c in (100, 180))
    rng = np.random.RandomState(0)
    for _ in range(5):
        image, mask = _spliced._paste(place[:96, :96], None, donor, level, rng)
        change = image.astype(int) - 100
        assert not change[~mask].any()
        if level == "easy":
            assert change[mask].max() == 80
            assert len(np.unique(change[mask])) > 10, "its edge is soft"
        else:
            assert not change.any(), "of the colour of its place, and without noise"


def test_colours_of_hard_edits_spread_as_those_of_the_place():
    rng = np.random.RandomState(0)
    soft, strong = (
        np.clip(rng.normal(128, s, (142, 128, 3)), 0, 255).astype(np.uint8) for s in (20, 40)
    )
    spreads = {}
    for level in ("mid", "hard"):
        image, mask = _spliced._paste(soft[:96, :96], None, strong, level, np.random.RandomState(1))
        spreads[level] = image[mask].std()
    assert spreads["hard"] < spreads["mid"]


def test_piece_comes_from_elsewhere():
    """In a tile coloured by position, the piece shows where it was taken from."""
    tile = np.zeros((142, 128, 3), dtype=np.uint8)
    tile[..., 0], tile[..., 1] = np.mgrid[30:172, 30:158]
    rng = np.random.RandomState(0)
    away = []
    for _ in range(40):
        image, mask = _spliced._paste(tile[20:116, 10:106], (20, 10), tile, "easy", rng)
        moved = image[mask].astype(float).mean(axis=0) - tile[20:116, 10:106][mask].mean(axis=0)
        away.append(np.hypot(*moved[:2]))
    assert np.median(away) > 20


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_samples": 1}, r"'n_samples' .* in the range \[2, inf\)"),
        ({"n_samples": 2.5}, "'n_samples'"),
        ({"image_size": 31}, r"'image_size' .* in the range \[32, 128\]"),
        ({"image_size": 129}, r"'image_size' .* in the range \[32, 128\]"),
        ({"random_state": "seed"}, "'random_state'"),
    ],
)
def test_spliced_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        make_spliced_photos(**parameters)


def test_spliced_is_quick():
    start = time.process_time()
    make_spliced_photos(400, random_state=0)
    assert time.process_time() - start < 10, "ten times what it takes on an idle machine"
