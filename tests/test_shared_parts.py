"""With ``parts=True``, images share a group if a part of one was pasted into the other."""

import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.datasets import load_sample_images

from sklearn_dfd.augmentation import View, augment
from sklearn_dfd.datasets import load_real_and_fake_faces
from sklearn_dfd.exceptions import LeakageError
from sklearn_dfd.model_selection import check_leakage, find_copies, find_source_groups

SIDE = 200


def tiles(side):
    """Cut the sample images into photographs that share no pixel."""
    n_down, n_across = 427 // side, 640 // side
    images = np.stack(load_sample_images().images)[:, : n_down * side, : n_across * side]
    cut = images.reshape(2, n_down, side, n_across, side, 3).swapaxes(2, 3)
    return cut.reshape(-1, side, side, 3)


@pytest.fixture(scope="module")
def photos():
    """Return photographs: first those with most to see in the middle, which are the donors."""
    cut = tiles(SIDE)
    middle = cut[:, 60:140, 60:140].mean(axis=-1)
    order = np.argsort(-np.abs(np.diff(middle, axis=2)).mean(axis=(1, 2)))
    return [Image.fromarray(tile) for tile in cut[order]]


@pytest.fixture(scope="module")
def many():
    return [Image.fromarray(tile) for tile in tiles(106)]


def with_part(photo, donor, turn=8, zoom=1.1, mirrored=False):
    """Paste an ellipse from the middle of the donor, turned, enlarged, with a soft edge."""
    if mirrored:
        donor = ImageOps.mirror(donor)
    side = round(SIDE * zoom)
    donor = donor.resize((side, side), Image.Resampling.BICUBIC)
    donor = donor.rotate(turn, Image.Resampling.BICUBIC)
    start = (side - SIDE) // 2 - 15  # so that the part moves, too
    donor = donor.crop((start, start, start + SIDE, start + SIDE))
    mask = Image.new("L", photo.size, 0)
    ImageDraw.Draw(mask).ellipse((50, 60, 150, 140), fill=255)
    return Image.composite(donor, photo, mask.filter(ImageFilter.GaussianBlur(3)))


def marked(photo):
    """Put the same sign into a corner."""
    sign = np.random.RandomState(0).randint(0, 256, (8, 8), dtype=np.uint8).repeat(5, 0)
    photo = photo.copy()
    photo.paste(Image.fromarray(sign.repeat(5, 1)).convert("RGB"), (60, 60))
    return photo


def linked(images, others=None, **parameters):
    return set(map(tuple, find_copies(images, others, parts=True, **parameters)[0].tolist()))


@pytest.mark.parametrize(("turn", "zoom"), [(0, 1), (8, 1.1), (-15, 0.9)])
def test_donors_are_found(photos, turn, zoom):
    images = [photos[0], photos[2]]
    images += [with_part(photos[5], photos[0], turn, zoom), with_part(photos[3], photos[2])]
    assert linked(images) == {(0, 2), (1, 3)}
    assert not len(find_copies(images)[0])
    _, similarity = find_copies(images, threshold=0.95, parts=True)
    assert similarity.min(initial=1) >= 0.95
    assert np.all(np.diff(similarity) <= 0) and similarity.max(initial=0) < 1


def test_a_fake_belongs_to_its_photograph_and_to_the_donor(photos):
    fake = with_part(photos[5], photos[0])
    images = [photos[5], fake, photos[2], photos[0]]
    assert find_source_groups(images).tolist() == [0, 0, 1, 2]
    assert find_source_groups(images, parts=True).tolist() == [0, 0, 1, 0]
    check_leakage([photos[0]], [photos[2], fake])
    with pytest.raises(LeakageError) as caught:
        check_leakage([photos[0]], [photos[2], fake], parts=True)
    assert caught.value.pairs.tolist() == [[0, 1]]


def test_all_copies_and_views_of_a_fake_are_named(photos):
    fake = with_part(photos[5], photos[0])
    test = [fake, photos[2], fake.copy(), View(fake, 0)]
    with pytest.raises(LeakageError, match=r"^3 of 4 test images") as caught:
        check_leakage([photos[0]], test, parts=True)
    assert sorted(caught.value.pairs[:, 1].tolist()) == [0, 2, 3]


def test_strangers_are_not_linked(photos):
    assert not linked(photos)
    assert not linked(photos, mirrored=True)
    assert not linked([photos[0]], photos[1:])


def test_mirrored_donors_on_request(photos):
    fake = with_part(photos[5], photos[0], mirrored=True)
    images = [photos[2], photos[0], fake]
    assert linked(images) == set()
    assert linked(images, mirrored=True) == {(1, 2)}
    assert linked([photos[0]], [fake], mirrored=True) == {(0, 0)}
    assert linked([fake], [photos[0]], mirrored=True) == {(0, 0)}


@pytest.mark.slow
def test_what_many_images_have_is_no_part(photos, many):
    """A sign in a few unrelated photographs links all of them; one in many links few."""
    signed = [marked(photo) for photo in many]
    assert len(linked(signed[:4])) == 6
    n_pairs = len(many) * (len(many) - 1) // 2
    assert len(linked(signed)) < 0.25 * n_pairs
    assert len(linked(signed, signed[:1]) - {(0, 0)}) < 0.5 * len(many)
    # Other parts of images that have it are found all the same.
    images = [*signed, photos[0], with_part(photos[5], photos[0])]
    assert (len(many), len(many) + 1) in linked(images)


@pytest.mark.parametrize("colour", ["white", "black"])
def test_a_frame_is_no_part(photos, colour):
    assert not linked([ImageOps.expand(photo, 20, colour) for photo in photos])


@pytest.mark.slow
def test_views_do_not_hide_a_donor(photos):
    fake = with_part(photos[5], photos[0])
    views = augment([photos[0], photos[2], fake], [0, 0, 1], n_views=20, random_state=0)
    groups = find_source_groups(views.data, parts=True)
    first = {group: groups[k] for k, group in reversed(list(enumerate(views.groups)))}
    assert len(set(groups)) == 2
    assert [first[group] for group in views.groups] == groups.tolist()


def test_n_jobs_and_repetition_change_nothing(photos, tmp_path):
    images = [*photos, with_part(photos[5], photos[0]), np.asarray(photos[2])]
    photos[3].save(tmp_path / "photo.png")
    images.append(tmp_path / "photo.png")
    pairs, similarity = find_copies(images, parts=True, threshold=0.7)
    for n_jobs in (1, 2):
        again = find_copies(images, parts=True, threshold=0.7, n_jobs=n_jobs)
        np.testing.assert_array_equal(again[0], pairs)
        np.testing.assert_array_equal(again[1], similarity)


def test_images_without_features(photos):
    grey = Image.new("RGB", (50, 40), "grey")
    tiny = Image.new("RGB", (2, 3))
    assert find_source_groups([grey, photos[0], tiny], parts=True).tolist() == [0, 1, 2]
    assert linked([grey], [photos[0]]) == set()
    assert linked([tiny, grey]) == set()


def test_settings_of_opencv_stay(photos):
    cv2 = pytest.importorskip("cv2")
    before = cv2.getNumThreads()
    find_source_groups(photos[:2], parts=True)
    assert cv2.getNumThreads() == before


def test_progress_bars_on_request(photos, capsys):
    find_source_groups(photos[:4], parts=True)
    assert capsys.readouterr() == ("", "")
    find_source_groups(photos[:4], parts=True, verbose=1)
    error = capsys.readouterr().err
    assert "searching parts" in error and "comparing parts" in error


def test_without_opencv(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"parts=True needs cv2.*sklearn-dfd\[copies\]"):
        find_source_groups(["no-such-file.jpg"], parts=True)
    with pytest.raises(ValueError, match="'parts' parameter"):
        find_source_groups(["a.jpg"], parts="eyes")


@pytest.mark.slow
def test_real_faces(real_faces):
    with pytest.warns(UserWarning, match="do not tell which parts"):
        faces = load_real_and_fake_faces(real_faces)
    pairs, _ = find_copies(faces.data, parts=True, n_jobs=2)
    real = faces.target[pairs] == list(faces.target_names).index("real")
    # No part was pasted into real photographs: these pairs are one photograph twice, two
    # photographs of one person, or wrong.
    assert real.all(axis=1).sum() <= 7
    assert 200 <= len(pairs) <= 260
    graph = coo_array((np.ones(len(pairs)), tuple(pairs.T)), shape=(len(faces.data),) * 2)
    sizes = np.bincount(connected_components(graph, directed=False)[1])
    assert sizes.max() <= 8
