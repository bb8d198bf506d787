"""Folders of films: labels, groups, and files that are not films."""

import re
from pathlib import Path

import numpy as np
import pytest

from sklearn_dfd.datasets import VideoFrame, load_image_folder, load_video_folder
from sklearn_dfd.exceptions import ImageError

pytest.importorskip("av")
from film_files import grey, make_film, number_of


def put(root, *names, n_frames=10):
    """Make small films that all differ."""
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make_film(path, n_frames, picture=lambda n, size, i=i: grey(n, size) // 2 + 9 * i)


def test_bunch(tmp_path):
    put(tmp_path, "real/b.mp4", "real/A.mp4", "fake/c.mkv")
    films = load_video_folder(tmp_path, class_names=["real", "fake"], frames_per_video=4)
    assert films.data.dtype == object and films.data.shape == (12,)
    assert all(isinstance(frame, VideoFrame) for frame in films.data)
    assert [Path(path).name for path in films.films] == [
        name for name in ("A.mp4", "b.mp4", "c.mkv") for _ in range(4)
    ]
    assert [frame.path for frame in films.data] == films.films.tolist()
    times = np.array([frame.time for frame in films.data]).reshape(3, 4)
    np.testing.assert_allclose(times, np.tile([1, 3, 6, 8], (3, 1)) / 25, atol=0.002)
    assert films.target.dtype == np.int64 and films.target.tolist() == [0] * 8 + [1] * 4
    assert films.target_names.tolist() == ["real", "fake"]
    assert films.groups.dtype == np.int64
    assert films.groups.tolist() == np.repeat([0, 1, 2], 4).tolist()
    assert "12 frames of 3 films" in films.DESCR and "real (8), fake (4)" in films.DESCR
    assert set(films) == {"data", "target", "target_names", "groups", "films", "DESCR"}
    assert load_video_folder(str(tmp_path), frames_per_video=1).target_names.tolist() == [
        "fake",
        "real",
    ]


def test_a_short_film_gives_what_it_has(tmp_path):
    put(tmp_path, "real/long.mp4", n_frames=20)
    put(tmp_path, "fake/short.mp4", n_frames=3)
    films = load_video_folder(tmp_path)
    assert [Path(path).name for path in films.films] == ["short.mp4"] * 3 + ["long.mp4"] * 16
    assert films.groups.tolist() == [0] * 3 + [1] * 16


def test_manipulated_films_stay_with_both_originals(tmp_path):
    names = ["original/000.mp4", "original/003.mp4", "original/001.mp4"]
    put(tmp_path, *names, "manipulated/000_003.mp4", "manipulated/001_870.mp4")
    films = load_video_folder(tmp_path, frames_per_video=2, group_pattern=r"(\d{3})(?:_(\d{3}))?")
    found = dict(zip([Path(path).stem for path in films.films], films.groups, strict=True))
    assert found["000_003"] == found["000"] == found["003"]
    assert found["001_870"] == found["001"] != found["000"]
    with pytest.raises(ValueError, match=r"paths of 5 of 5 films.*such as '000_003.mp4'"):
        load_video_folder(tmp_path, frames_per_video=1, group_pattern="vid")


def test_subfolders_and_identical_films_are_groups(tmp_path):
    put(tmp_path, "real/alice/1.mp4", "real/2.mp4", "real/3.mp4", "fake/alice/4.mp4")
    (tmp_path / "fake" / "5.mp4").write_bytes((tmp_path / "real" / "2.mp4").read_bytes())
    films = load_video_folder(tmp_path, frames_per_video=1)
    found = dict(zip([Path(path).stem for path in films.films], films.groups, strict=True))
    assert found["1"] == found["4"] and found["2"] == found["5"]
    assert len(set(films.groups)) == 3


@pytest.fixture
def with_bad_files(tmp_path):
    put(tmp_path, "real/1.mp4", "real/2.mp4", "fake/1.mp4")
    (tmp_path / "real" / "notes.txt").write_text("two films")
    (tmp_path / "fake" / "empty.mp4").touch()
    (tmp_path / "fake" / ".hidden").touch()
    return tmp_path


def test_bad_files_are_all_named_in_one_error(with_bad_files):
    with pytest.raises(ImageError, match=r"on_error='warn'") as caught:
        load_video_folder(with_bad_files)
    names = [Path(name).name for _, name, _ in caught.value.failures]
    assert names == ["empty.mp4", "notes.txt"]
    assert "it is no film" in caught.value.failures[1][2]


def test_bad_files_are_left_out_with_one_warning(with_bad_files):
    expected = r"2 of 5 files in .* cannot be used as films and are left out:\n.*empty.mp4'.*\n"
    with pytest.warns(UserWarning, match=expected) as caught:
        films = load_video_folder(with_bad_files, frames_per_video=2, on_error="warn")
    assert len(caught) == 1 and caught[0].filename == __file__
    assert len(films.data) == 6


def test_a_class_without_any_film(tmp_path):
    put(tmp_path, "real/1.mp4")
    (tmp_path / "fake").mkdir()
    with pytest.raises(ValueError, match=r"'fake' is empty. Put films of that class"):
        load_video_folder(tmp_path)
    (tmp_path / "fake" / "a.txt").write_text("a")
    with pytest.raises(ImageError, match="takes one usable film of each class"):
        load_video_folder(tmp_path, on_error="warn")


def test_folders_that_are_wrong(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_video_folder(tmp_path / "absent")
    put(tmp_path, "train/real/1.mp4", "train/fake/1.mp4", "test/real/1.mp4", "test/fake/1.mp4")
    with pytest.raises(ValueError, match="look like the parts of a split"):
        load_video_folder(tmp_path)
    with pytest.raises(ValueError, match="frames_per_video"):
        load_video_folder(tmp_path / "train", frames_per_video=0)
    with pytest.raises(ValueError, match="no subfolder for 'genuine'"):
        load_video_folder(tmp_path / "train", class_names=["genuine", "fake"])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    films = load_video_folder("~/train", frames_per_video=1)
    assert number_of(films.data[0].to_image()) is not None


def test_images_are_no_films_and_films_are_no_images(tmp_path):
    put(tmp_path, "real/1.mp4", "fake/1.mp4")
    with pytest.raises(ImageError, match=re.escape("it is a film: pass sklearn_dfd.datasets")):
        load_image_folder(tmp_path)
