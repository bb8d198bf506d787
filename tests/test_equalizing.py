"""Tests of images that are encoded anew, all in the same way."""

import copy
import io
import pickle

import joblib
import numpy as np
import pytest
from image_files import DISPLAY_P3, RGB, encode, photo, picture
from PIL import Image
from sklearn.model_selection import GroupKFold

from sklearn_dfd import MobileNetV2Features
from sklearn_dfd._core.images.decoding import load_rgb, to_rgb
from sklearn_dfd._core.images.reading import read_source
from sklearn_dfd._core.images.sources import number_by_origin
from sklearn_dfd.augmentation import EqualizedImage, View, augment, equalize_encoding
from sklearn_dfd.exceptions import ImageError
from sklearn_dfd.feature_store import MemoryStore
from sklearn_dfd.model_selection import OriginalsSplit
from sklearn_dfd.robustness import distort


def saved_again(image, quality=75):
    return Image.open(io.BytesIO(encode(image, "JPEG", quality=quality, subsampling="4:2:0")))


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_pixels_are_those_of_a_file_saved_by_hand(quality):
    raw = photo("PNG")
    (image,) = equalize_encoding([raw], quality=quality)
    expected = np.asarray(saved_again(to_rgb(raw), quality).convert("RGB"))
    assert np.array_equal(to_rgb(read_source(image)), expected)
    assert np.array_equal(image.to_image(), expected)
    assert np.array_equal(Image.open(io.BytesIO(image.to_bytes())).convert("RGB"), expected)


def test_images_are_resized_before_they_are_saved():
    (image,) = equalize_encoding([photo("PNG")], image_size=40)
    expected = np.asarray(saved_again(Image.fromarray(load_rgb(photo("PNG"), 40))).convert("RGB"))
    assert image.to_image().size == (40, 40)
    assert np.array_equal(load_rgb(read_source(image), 40), expected)


def test_pictures_are_upright_and_in_srgb():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = photo(exif=exif)
    assert equalize_encoding([turned])[0].to_image().size == (64, 96)
    raw = photo("PNG", icc_profile=DISPLAY_P3)
    with_profile = equalize_encoding([raw], quality=95)[0].to_image()
    assert np.array_equal(with_profile, saved_again(to_rgb(raw), 95).convert("RGB"))
    assert "icc_profile" not in with_profile.info


KINDS = {
    "bytes": photo(),
    "PIL": RGB,
    "array": picture(),
    "grey": picture(channels=None),
    "file": io.BytesIO(photo("WEBP")),
    "view": View(photo(), seed=1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_image_can_be_equalised(kind):
    (image,) = equalize_encoding([KINDS[kind]])
    assert image.to_bytes() == image.to_bytes() and image.to_bytes()[:3] == b"\xff\xd8\xff"
    assert image.to_image().mode == "RGB"


def test_features_are_the_same_everywhere_and_kept(tmp_path):
    """With a store and without, in another process, by name and by content."""
    (tmp_path / "a.png").write_bytes(photo("PNG"))
    sources = [tmp_path / "a.png", photo("WEBP"), picture(40, 50)]
    X = equalize_encoding(sources)
    plain = MobileNetV2Features("pool", weights=None, image_size=64, memory=None)
    expected = plain.fit_transform(X)
    assert not np.array_equal(expected, plain.transform(sources))
    assert not np.array_equal(expected, plain.transform(equalize_encoding(sources, quality=30)))
    store = MemoryStore(10**8)
    stored = MobileNetV2Features("pool", weights=None, image_size=64, memory=store).fit(X)
    assert np.array_equal(stored.transform(X), expected)
    (tmp_path / "b.png").write_bytes(photo("PNG"))
    again = equalize_encoding([tmp_path / "b.png", *sources[1:]])
    assert np.array_equal(stored.transform(again), expected)
    other = joblib.Parallel(2)(joblib.delayed(plain.transform)(X[i : i + 1]) for i in range(3))
    np.testing.assert_allclose(np.concatenate(other), expected, rtol=1e-4, atol=1e-5)
    by_hand = [np.array(image.to_image()) for image in X]
    np.testing.assert_allclose(plain.transform(by_hand), expected, rtol=1e-4, atol=1e-5)


def test_they_are_values():
    (image,) = equalize_encoding(["a.jpg"], quality=60, image_size=32)
    assert image == EqualizedImage("a.jpg", 60, 32) == pickle.loads(pickle.dumps(image))
    assert hash(image) == hash(copy.deepcopy(image))
    assert image != EqualizedImage("a.jpg", 61, 32)
    assert repr(image) == "<EqualizedImage (quality 60, 32 pixels) of 'a.jpg'>"
    signatures = {EqualizedImage("a.jpg", q, s).signature for q in (60, 61) for s in (None, 32, 33)}
    assert len(signatures) == 6
    assert EqualizedImage("a.jpg").signature == EqualizedImage("b.jpg").signature


def test_nothing_is_read_before_it_is_needed():
    X = equalize_encoding(["absent.jpg", "absent too.jpg"])
    assert X.shape == (2,) and X.dtype == object
    with pytest.raises(ImageError, match=r"row 1 \(.*absent too\.jpg.*does not exist"):
        MobileNetV2Features("pool", weights=None, image_size=64).fit_transform([picture(), X[1]])
    for read in (X[0].to_bytes, X[0].to_image):
        with pytest.raises(ImageError, match="does not exist"):
            read()


def test_they_are_originals_and_their_views_are_views():
    photos = [photo(quality=q) for q in (70, 80, 90, 95)]
    X = equalize_encoding(photos)
    faces = augment(X, [0, 0, 1, 1], n_views=1)
    assert faces.is_original.tolist() == [True] * 4 + [False] * 4
    assert faces.groups.tolist() == [0, 1, 2, 3] * 2
    splits = list(OriginalsSplit(GroupKFold(2)).split(faces.data, faces.target, faces.groups))
    assert sorted(np.concatenate([test for _, test in splits]).tolist()) == [0, 1, 2, 3]
    for train, test in splits:
        assert (
            len(train) == 4 and set(train[2:] - 4) == set(train[:2]) and not set(test) & set(train)
        )
    # the view is one of the new file
    view, of_file = (View(each, 0, "mirrored").to_image() for each in (X[0], X[0].to_bytes()))
    assert np.array_equal(view, of_file)
    # a view that is equalised is still a view
    assert not equalize_encoding([View(photos[0], 1)])[0].is_original
    assert augment(equalize_encoding([View(photos[0], 1)]), n_views=1).is_original.sum() == 0


def test_they_share_the_group_of_their_photograph():
    X = ["a.jpg", "b.jpg", *equalize_encoding(["b.jpg", "a.jpg"]), View(EqualizedImage("b.jpg"), 0)]
    assert number_by_origin(X).tolist() == [0, 1, 1, 0, 1]


def test_they_can_be_distorted():
    (image,) = equalize_encoding([photo()])
    assert distort(image, "resize", 0.5).shape == (32, 48, 3)


def test_photographs_that_jpeg_cannot_hold():
    (image,) = equalize_encoding([np.zeros((2, 65_501, 3), np.uint8)])
    with pytest.raises(ImageError, match=r"65,500 on a side: pass image_size"):
        image.to_bytes()
    with pytest.raises(ImageError, match=r"65,500 on a side: pass image_size"):
        MobileNetV2Features("pool", weights=None, image_size=64).fit_transform([image])
    assert len(EqualizedImage(image.source, 75, 64).to_bytes()) > 100


@pytest.mark.parametrize(
    "wrong", [{"quality": 0}, {"quality": 96}, {"quality": 7.5}, {"image_size": 1}]
)
def test_parameters_out_of_range(wrong):
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=f"The '{name}' parameter"):
        equalize_encoding(["a.jpg"], **wrong)
    with pytest.raises(ValueError, match=f"{name} is .*; it must be"):
        EqualizedImage("a.jpg", **wrong)


def test_what_is_no_collection_of_images():
    with pytest.raises(TypeError, match="X is a single path"):
        equalize_encoding("a.jpg")
    with pytest.raises(ValueError, match="minimum of 1"):
        equalize_encoding([])
