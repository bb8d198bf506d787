"""Images made from the same photograph share a group, and no others do."""

import io
import pickle
import tracemalloc

import numpy as np
import pytest
from joblib import Parallel, parallel_config
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps
from sklearn.datasets import load_sample_images

from sklearn_dfd._core.copies import candidates
from sklearn_dfd.augmentation import View, augment
from sklearn_dfd.datasets import load_real_and_fake_faces
from sklearn_dfd.exceptions import ImageError, LeakageError
from sklearn_dfd.model_selection import check_leakage, find_copies, find_source_groups

SIZE = 106


@pytest.fixture(scope="module")
def photos():
    """Return photographs that share no pixel: disjoint tiles of the sample images, without sky."""
    tiles = np.stack(load_sample_images().images)[:, : 4 * SIZE, : 6 * SIZE]
    tiles = tiles.reshape(2, 4, SIZE, 6, SIZE, 3).swapaxes(2, 3).reshape(-1, SIZE, SIZE, 3)
    edges = np.abs(np.diff(tiles.mean(axis=-1), axis=2)).mean(axis=(1, 2))
    return [Image.fromarray(tile) for tile in tiles[np.argsort(-edges)[:26]]]


def test_what_is_known_stays_together(photos):
    small = photos[0].resize((60, 60))
    images = [photos[0], photos[1], small, photos[2], photos[3]]
    known = ["alice", "bob", "carol", "bob", "dave"]
    assert find_source_groups(images).tolist() == [0, 1, 0, 2, 3]
    assert find_source_groups(images, groups=known).tolist() == [0, 1, 0, 1, 2]
    known[0] = "dave"
    assert find_source_groups(images, groups=known).tolist() == [0, 1, 0, 1, 0]
    with pytest.raises(ValueError, match="groups has 4 values for 5 images"):
        find_source_groups(images, groups=known[:4])
    with pytest.raises(ValueError, match="has no label in row 0"):
        find_source_groups(images, groups=[None, *known[1:]])


def test_within_another_backend_of_joblib(photos):
    images = [photos[0], photos[1], photos[0].resize((60, 60))]
    with parallel_config("loky"):
        assert find_source_groups(images, n_jobs=2).tolist() == [0, 1, 0]


def recompressed(photo, other, rng):
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=int(rng.integers(30, 60)))
    return buffer.getvalue()


def rescaled(photo, other, rng):
    side = int(SIZE * rng.uniform(0.5, 2))
    return photo.resize((side, side), Image.Resampling.BICUBIC)


def cropped(photo, other, rng):
    left, top, right, bottom = rng.uniform(0.02, 0.05, 4) * SIZE
    return photo.crop((int(left), int(top), int(SIZE - right), int(SIZE - bottom)))


def recoloured(photo, other, rng):
    photo = ImageEnhance.Brightness(photo).enhance(rng.uniform(0.7, 1.3))
    photo = ImageEnhance.Contrast(photo).enhance(rng.uniform(0.7, 1.3))
    return ImageEnhance.Color(photo).enhance(rng.uniform(0, 2))


def pasted(photo, other, rng):
    height, width = rng.integers(20, 34, 2)
    left, top = rng.integers(5, SIZE - 40, 2)
    box = (left, top, left + width, top + height)
    edited = photo.copy()
    edited.paste(other.crop(box), box)
    return edited


def box_pasted(photo, other, rng):
    """Paste a blurred rectangle over 27 % of the picture, where eyes, nose and mouth would be."""
    mask = Image.new("L", photo.size, 0)
    mask.paste(255, (int(0.22 * SIZE), int(0.33 * SIZE), int(0.78 * SIZE), int(0.82 * SIZE)))
    return Image.composite(other, photo, mask.filter(ImageFilter.GaussianBlur(2)))


def all_at_once(photo, other, rng):
    edited = recoloured(pasted(photo, other, rng), other, rng)
    return recompressed(cropped(edited, other, rng), other, rng)


def pasted_and_cropped(photo, other, rng):
    """Paste bands across eyes and mouth, then crop to a size half way between two framings."""
    edited = photo.copy()
    for box in ((23, 37, 83, 52), (32, 71, 74, 84)):
        edited.paste(other.crop(box), box)
    margin = round(0.055 * SIZE)
    return edited.crop((margin, margin, SIZE - margin, SIZE - margin))


def framed(photo, colour="white", across=11, down=11):
    return ImageOps.expand(photo, (across, down), colour)


def masked(photo, colour="black", margin=0.1):
    mask = Image.new("L", photo.size, 0)
    low, high = margin * SIZE, (1 - margin) * SIZE
    ImageDraw.Draw(mask).ellipse((low, low, high, high), fill=255)
    return Image.composite(photo, Image.new("RGB", photo.size, colour), mask)


def edits_of(photos, edit):
    rng = np.random.default_rng(0)
    return [edit(photo, photos[i - 1], rng) for i, photo in enumerate(photos)]


@pytest.mark.parametrize(
    ("edit", "least_recall"),
    [
        (recompressed, 1),
        (rescaled, 1),
        (cropped, 0.95),
        (recoloured, 1),
        (pasted, 0.95),
        (box_pasted, 0.75),
        (pasted_and_cropped, 0.5),
        (all_at_once, 0.8),
    ],
)
def test_recall_and_precision(photos, edit, least_recall):
    pairs, similarity = find_copies([*photos, *edits_of(photos, edit)])
    n_right = np.sum(pairs[:, 1] == pairs[:, 0] + len(photos))
    assert n_right >= least_recall * len(photos)
    assert n_right == len(pairs)
    assert np.all(np.diff(similarity) <= 0)
    assert similarity.min() >= 0.89
    assert similarity.max() <= 1


def test_groups_are_numbered_in_order_of_appearance(photos):
    a, b, c = photos[0], photos[5], photos[9]
    X = [
        a,
        b,
        pasted(a, c, np.random.default_rng(0)),
        c,
        recompressed(b, a, np.random.default_rng(0)),
    ]
    groups = find_source_groups(X)
    assert groups.tolist() == [0, 1, 0, 2, 1]
    assert groups.dtype == np.int64


def test_different_photographs_are_groups_of_their_own(photos):
    assert find_source_groups(photos).tolist() == list(range(len(photos)))


@pytest.mark.parametrize(
    "same",
    [
        framed,
        lambda photo: framed(photo, "black", 27, 0),
        lambda photo: framed(framed(photo, "white", 4, 4), "black", 27, 0),
        lambda photo: masked(photo, "white"),
        masked,
        lambda photo: masked(photo, "white", 0.2),
    ],
    ids=["frame", "pillarbox", "frame in a pillarbox", "white mask", "black mask", "small mask"],
)
def test_strangers_in_one_frame_are_no_copies(photos, same):
    # They share the frame but not the photograph; copies in the same frame are still found.
    X = [same(photo) for photo in photos]
    assert find_source_groups(X).tolist() == list(range(len(photos)))
    copies = [same(copy) for copy in edits_of(photos, pasted)]
    pairs, _ = find_copies(X, copies)
    right = pairs[:, 0] == pairs[:, 1]
    assert right.all()
    assert len(pairs) >= 0.7 * len(photos)


@pytest.mark.parametrize("size", [(11, 11), (27, 0), (0, 20)])
@pytest.mark.parametrize("colour", ["white", "black"])
def test_a_frame_that_was_added_hides_no_copy(photos, size, colour):
    pairs, _ = find_copies(photos, [framed(photo, colour, *size) for photo in photos])
    assert np.all(pairs[:, 0] == pairs[:, 1])
    assert len(pairs) >= 0.85 * len(photos)


def test_mirror_images_on_request(photos):
    mirrored = [photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for photo in photos[:10]]
    X = [*photos, *mirrored]
    assert find_copies(X)[0].shape == (0, 2)
    pairs, _ = find_copies(X, mirrored=True)
    assert {(i, 26 + i) for i in range(10)} == set(map(tuple, pairs.tolist()))


def test_many_copies_of_one_photograph_are_one_group(photos):
    rng = np.random.default_rng(0)
    views = [cropped(photos[0], photos[1], rng) for _ in range(30)]
    assert set(find_source_groups([*views, *photos[1:]])[:30]) == {0}
    assert find_source_groups([photos[0]] * 30 + [views[0]]).tolist() == [0] * 31


@pytest.mark.slow
def test_each_of_many_copies_is_found_in_the_other_collection(photos):
    # All of the first collection have the same few nearest in the second, and vice versa.
    photo = photos[0]
    rng = np.random.default_rng(0)
    saved = [recompressed(photo, None, rng) for _ in range(40)]
    corners = rng.integers(0, 9, (60, 2)).tolist()
    parts = [photo.crop((x, y, x + 98, y + 98)) for x, y in corners]
    for X, Y in ((saved, parts), (parts, saved)):
        pairs, _ = find_copies(X, [*Y, *photos[1:5]])
        assert set(pairs[:, 1]) == set(range(len(Y)))


def test_views_belong_to_their_photograph_whatever_they_show(photos, tmp_path):
    paths = [tmp_path / f"{k}.png" for k in range(4)]
    for path, photo in zip(paths, photos, strict=False):
        photo.save(path)
    faces = [*map(str, paths), photos[4], np.asarray(photos[5])]
    # Mirrored, cropped by half, and a view of a view.
    views = augment(faces, n_views=3, random_state=0)
    assert find_source_groups(views.data).tolist() == views.groups.tolist()
    mirrored = [View(View(face, 0, "mirrored"), 1) for face in faces]
    pairs, similarity = find_copies([*mirrored, *mirrored[:2], *faces])
    assert {(0, 8), (1, 9), (2, 10), (3, 11), (4, 12), (5, 13)} <= set(map(tuple, pairs.tolist()))
    assert set(similarity) == {1}
    # Views on both sides, photographs on both sides, and the same file under another name.
    for train, test in ((faces, mirrored), (mirrored, faces), (mirrored, views.data)):
        with pytest.raises(LeakageError) as e:
            check_leakage(train, test)
        assert set(e.value.pairs[:, 1]) == set(range(len(test)))
        assert set(e.value.similarity) == {1}
    copy = tmp_path / "copy.png"
    copy.write_bytes(paths[0].read_bytes())
    pairs, similarity = find_copies([mirrored[0]], [View(copy, 7), mirrored[1]])
    assert pairs.tolist() == [[0, 0]]
    assert similarity.tolist() == [1]


def test_identical_images_that_show_nothing_are_copies():
    grey = np.full((3, 20, 30, 1), 7, np.uint8)
    grey[1] = 8
    pairs, similarity = find_copies(grey)
    assert pairs.tolist() == [[0, 2]]
    assert similarity.tolist() == [1]


def test_n_jobs_and_order_change_nothing(photos):
    X = [*photos, *edits_of(photos, all_at_once)]
    pairs, similarity = find_copies(X)
    parallel_pairs, parallel_similarity = find_copies(X, n_jobs=2)
    np.testing.assert_array_equal(pairs, parallel_pairs)
    np.testing.assert_array_equal(similarity, parallel_similarity)
    reverse, _ = find_copies(X[::-1])
    both = {tuple(sorted(len(X) - 1 - pair)) for pair in reverse}
    assert both == set(map(tuple, pairs.tolist()))


def test_memory_grows_with_images_not_with_pairs():
    rng = np.random.default_rng(0)
    peaks = []
    for n in (4000, 8000):
        thumbs = rng.integers(256, size=(n // 2, 12, 12), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
        thumbs = np.concatenate([thumbs, thumbs])  # so that the first block finds some
        tracemalloc.start()
        search = candidates._Search(thumbs, None, candidates.framings(False)[:2])
        assert len(search.nearest(slice(0, 512)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2.5 * peaks[0]
    assert peaks[1] < 4 * 8000**2 / 2  # half of a matrix of all pairs


def test_edits_are_candidates_though_the_first_search_has_fewer_dimensions():
    # Noise is the hardest case: no dimensions hold more of it than others.
    rng = np.random.default_rng(0)
    thumbs = rng.integers(256, size=(900, 8, 8), dtype=np.uint8).repeat(6, 1).repeat(6, 2)
    edits = thumbs[:300].copy()
    edits[:, 24:, :24] = edits[::-1, 24:, :24]
    thumbs = np.concatenate([thumbs, edits])
    _, i, j = candidates.candidates(thumbs, None, False, Parallel(1, "threading"))
    found = set(zip(i.tolist(), j.tolist(), strict=True))
    assert {(row, 900 + row) for row in range(300)} <= found
    assert len(found) == len(i)


def test_threshold(photos):
    X = [*photos, *edits_of(photos, all_at_once)]
    n_pairs = [len(find_copies(X, threshold=threshold)[0]) for threshold in (0.5, 0.89, 0.99)]
    assert n_pairs[0] > n_pairs[1] > n_pairs[2]
    with pytest.raises(ValueError, match="threshold"):
        find_copies(X, threshold=0)


def test_pairs_between_two_collections(photos):
    edited = edits_of(photos, recompressed)[20:]
    pairs, _ = find_copies(photos[:24], edited)
    assert sorted(pairs.tolist()) == [[20, 0], [21, 1], [22, 2], [23, 3]]
    # Either side may show a part of what the other shows.
    part = photos[3].crop((0, 0, 82, 82))
    assert find_copies([part], photos)[0].tolist() == [[0, 3]]
    assert find_copies(photos, [part])[0].tolist() == [[3, 0]]
    copies = [photos[4], photos[5], photos[4]]
    assert find_copies(photos, copies)[0].tolist() == [[4, 0], [4, 2], [5, 1]]


def test_check_leakage(photos, tmp_path):
    train, test = photos[:14], photos[14:]
    assert check_leakage(train, test) is None
    path = tmp_path / "edited.png"
    pasted(photos[10], photos[0], np.random.default_rng(1)).save(path)
    with pytest.raises(LeakageError, match=r"1 of 13 test images .* test row 12 \('.*edited") as e:
        check_leakage(train, [*test, path])
    assert "training row 10" in str(e.value)
    assert "find_source_groups" in str(e.value)
    again = pickle.loads(pickle.dumps(e.value))
    assert str(again) == str(e.value)
    assert again.pairs.tolist() == [[10, 12]]
    assert again.similarity[0] >= 0.89
    with pytest.raises(ValueError, match=r"14 of 14 test images .* and 4 more pairs"):
        check_leakage(train, train)


def test_one_image(photos):
    assert find_source_groups(photos[:1]).tolist() == [0]
    assert find_copies(photos[:1], photos[:1])[0].tolist() == [[0, 0]]


def test_bad_input(photos, tmp_path):
    with pytest.raises(ValueError, match="0 sample"):
        find_source_groups([])
    with pytest.raises(TypeError, match="a single path"):
        find_source_groups("a.jpg")
    with pytest.raises(ValueError, match="0 sample"):
        check_leakage(photos[:2], [])
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    with pytest.raises(ImageError, match="2 of 3 images") as e:
        find_source_groups([broken, photos[0], tmp_path / "absent.jpg"])
    assert [row for row, _, _ in e.value.failures] == [0, 2]
    assert "broken.jpg" in str(e.value)
    assert "absent.jpg" in str(e.value)
    view = View(str(tmp_path / "absent.jpg"), 0)
    message = r"row 1 \(view of '.*absent\.jpg'\): the file does not exist.* Repair them, or leave"
    with pytest.raises(ImageError, match=message):
        find_source_groups([photos[0], view])
    with pytest.raises(ImageError, match=message):
        check_leakage(photos[:1], [photos[1], view])


@pytest.mark.slow
def test_real_faces(real_faces):
    # Compared by eye, also with faces cut out with other margins, about a hundred fakes have their
    # photograph in the set.
    with pytest.warns(UserWarning, match="do not tell which parts"):
        faces = load_real_and_fake_faces(real_faces)
    pairs, _ = find_copies(faces.data, n_jobs=2)
    n_mixed = np.sum(faces.target[pairs[:, 0]] != faces.target[pairs[:, 1]])
    assert 90 <= n_mixed <= 110
    assert len(pairs) <= 120
    groups = find_source_groups(faces.data, n_jobs=2)
    assert np.bincount(groups).max() <= 4
    assert len(faces.data) - 120 <= len(set(groups)) <= len(faces.data) - 90


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_progress_bars_on_request(photos, capsys, n_jobs):
    photos = photos[:6]
    calls = {
        find_source_groups: (photos,),
        find_copies: (photos, photos[:2]),
        check_leakage: (photos[:3], photos[3:]),
    }
    for call, given in calls.items():
        call(*given, n_jobs=n_jobs)
        assert capsys.readouterr() == ("", "")
        call(*given, n_jobs=n_jobs, verbose=1)
        out, err = capsys.readouterr()
        assert out == "" and "reading: 100%" in err and "comparing" in err
        if call is find_source_groups:
            assert "6/6" in err
    with pytest.raises(ValueError, match="'verbose' parameter"):
        find_source_groups(photos, verbose=-1)
