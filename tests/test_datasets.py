import os
import time
from pathlib import Path

import joblib
import numpy as np
import pytest
from PIL import Image
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


def test_sub_folders_are_groups_across_classes(tmp_path):
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
    with pytest.raises(FileNotFoundError, match=r"nowhere.*one sub-folder per class"):
        load_image_folder(tmp_path / "nowhere")
    put(tmp_path, "1.png")
    with pytest.raises(NotADirectoryError, match=r"1\.png.* is a file"):
        load_image_folder(tmp_path / "1.png")
    with pytest.raises(ValueError, match=r"no sub-folder.*Sort the images into folders"):
        load_image_folder(tmp_path)
    put(tmp_path, "real/1.png")
    with pytest.raises(ValueError, match=r"only the sub-folder 'real'.*folder above"):
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
    for text in ("CIPLab", "1081", "960", "145", "2 real and 3 fake", "only what is certain"):
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


@pytest.mark.skipif(not CIPLAB.is_dir(), reason="the Real and Fake Face set is not at hand")
def test_ciplab_for_real():
    with pytest.warns(UserWarning, match=r": easy_116_111\.jpg$"):
        faces = load_real_and_fake_faces(CIPLAB)
    assert np.bincount(faces.target).tolist() == [864, 768]
    assert len(set(faces.groups)) == 1632, "it has no identical files"
    assert set(faces.difficulty[faces.target == 1]) == {"easy", "mid", "hard"}
    assert faces.replaced_parts[faces.target == 1].any(axis=1).sum() >= 767
    assert not faces.replaced_parts[faces.target == 0].any()


# -------------------------------------------------------------------------- make_spliced_photos


@pytest.fixture(scope="module")
def photos():
    return make_spliced_photos(120, random_state=0)


def test_spliced_bunch(photos):
    assert photos.data.shape == (120, 96, 96, 3) and photos.data.dtype == np.uint8
    assert photos.masks.shape == (120, 96, 96) and photos.masks.dtype == bool
    assert photos.target.dtype == photos.groups.dtype == np.int64
    assert photos.target.shape == photos.groups.shape == (120,)
    assert photos.target_names.tolist() == ["genuine", "spliced"]
    for text in ("60 genuine and 60 spliced", "30 groups", "toy", "no benchmark", "nothing about"):
        assert text in photos.DESCR


def test_every_group_holds_both_classes_equally(photos):
    assert sorted(set(photos.groups)) == list(range(30))
    for spliced in (0, 1):
        assert np.bincount(photos.groups[photos.target == spliced]).tolist() == [2] * 30
    for train, test in GroupKFold(5).split(photos.data, photos.target, photos.groups):
        assert photos.target[train].mean() == photos.target[test].mean() == 0.5
    runs = np.count_nonzero(np.diff(photos.target))
    assert 40 < runs < 80, "shuffled, neither sorted nor in turn"


@pytest.mark.parametrize(("n", "spliced"), [(2, 1), (3, 1), (7, 3), (61, 30)])
def test_spliced_balance_of_small_and_odd_numbers(n, spliced):
    small = make_spliced_photos(n, image_size=32, random_state=0)
    assert len(small.data) == n and small.target.sum() == spliced
    pairs = min(n // 2, 30)
    both = set(small.groups[small.target == 0]) & set(small.groups[small.target == 1])
    assert len(both) == pairs


def test_spliced_is_determined_by_random_state(photos):
    state = joblib.hash(np.random.get_state())
    again = make_spliced_photos(120, random_state=np.random.RandomState(0))
    for key in ("data", "target", "groups", "masks"):
        np.testing.assert_array_equal(again[key], photos[key])
    assert joblib.hash(np.random.get_state()) == state, "not the global one"
    other = make_spliced_photos(120, random_state=1)
    assert (other.data != photos.data).any() and (other.groups != photos.groups).any()
    assert len(make_spliced_photos(2).data) == 2


@pytest.mark.parametrize("size", [32, 96, 128])
def test_no_pixel_of_one_group_is_in_another(monkeypatch, size):
    """Change one tile: every image of its group changes, and not one value of any other."""
    before = make_spliced_photos(60, image_size=size, random_state=3)
    for photo, row, column in [(0, 0, 0), (0, 1, 2), (1, 2, 4)]:
        images = [image.copy() for image in PHOTOS]
        tile = images[photo][142 * row : 142 * (row + 1), 128 * column : 128 * (column + 1)]
        assert tile.shape == (142, 128, 3)
        tile[:] = 255 - tile
        changed = Bunch(images=images)
        monkeypatch.setattr(_spliced, "load_sample_images", lambda changed=changed: changed)
        after = make_spliced_photos(60, image_size=size, random_state=3)
        differs = (after.data != before.data).any(axis=(1, 2, 3))
        np.testing.assert_array_equal(differs, before.groups == 15 * photo + 5 * row + column)
        np.testing.assert_array_equal(after.masks, before.masks)


def tile_of(group):
    photo, place = divmod(group, 15)
    row, column = divmod(place, 5)
    return PHOTOS[photo][142 * row :, 128 * column :][:142, :128]


def is_crop(tile, image, where):
    """Whether the image is a part of the tile in all pixels that `where` picks."""
    windows = np.lib.stride_tricks.sliding_window_view(tile, image.shape)[:, :, 0]
    # By a few pixels first: comparing all of every window would take long.
    points = np.argwhere(where)
    y, x = points[np.linspace(0, len(points) - 1, 9, dtype=int)].T
    starts = np.argwhere((windows[:, :, y, x] == image[y, x]).all(axis=(-1, -2)))
    return any((windows[i, j] == image)[where].all() for i, j in starts)


def test_images_are_crops_but_for_the_mask_and_mirrored_by_chance(photos):
    mirrored = np.zeros(120, dtype=bool)
    for i in range(120):
        image, mask, tile = photos.data[i], photos.masks[i], tile_of(photos.groups[i])
        mirrored[i] = not is_crop(tile, image, ~mask)
        if mirrored[i]:
            assert is_crop(tile, image[:, ::-1], ~mask[:, ::-1])
        if photos.target[i]:
            assert 0.15 < mask.mean() < 0.4
            assert not mask[[0, -1]].any() and not mask[:, [0, -1]].any()
            seen = image[:, ::-1] if mirrored[i] else image
            assert not is_crop(tile, seen, np.ones_like(mask))
        else:
            assert not mask.any()
    for spliced in (0, 1):
        assert 0.3 < mirrored[photos.target == spliced].mean() < 0.7


def test_edit_has_a_soft_edge():
    """Under a piece of one colour the difference fades out towards the edge of the mask."""
    tile = np.full((142, 128, 3), 100, dtype=np.uint8)
    rng = np.random.RandomState(0)
    edges, inner = [], []
    for _ in range(20):
        image, mask = _spliced._splice(tile[:96, :96], tile, (0, 0), rng)
        change = np.abs(image.astype(int) - 100).mean(axis=-1)
        core = mask.copy()
        for _ in range(3):
            core[1:-1, 1:-1] &= core[2:, 1:-1] & core[:-2, 1:-1] & core[1:-1, 2:] & core[1:-1, :-2]
        assert not change[~mask].any()
        edges.append(change[mask & ~core].mean())
        inner.append(change[core].mean())
    assert np.mean(edges) < 0.5 * np.mean(inner)


def test_piece_comes_from_elsewhere():
    """In a tile coloured by position the piece tells where it was taken."""
    tile = np.zeros((142, 128, 3), dtype=np.uint8)
    tile[..., 0], tile[..., 1] = np.mgrid[30:172, 30:158]
    rng = np.random.RandomState(0)
    away = []
    for _ in range(40):
        image, mask = _spliced._splice(tile[20:116, 10:106], tile, (20, 10), rng)
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
