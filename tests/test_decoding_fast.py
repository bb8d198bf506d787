"""Large JPEG files decoded at a reduced scale: what they give, what they cost, and what they do not
touch."""

import io
import pickle
import re
from functools import partial

import joblib
import numpy as np
import pytest
from image_files import DISPLAY_P3, encode
from PIL import ExifTags, Image
from sklearn.base import clone
from sklearn.datasets import load_sample_image

from sklearn_dfd import AugmentedClassifier, MobileNetV2Features, detect, make_deepfake_pipeline
from sklearn_dfd._core.images import decoding
from sklearn_dfd._core.images.decoding import Decoding, check_header, load_rgb, to_rgb
from sklearn_dfd._core.images.jpeg import first_scan
from sklearn_dfd.augmentation import View
from sklearn_dfd.exceptions import ImageError
from sklearn_dfd.export import extract_feature_matrix
from sklearn_dfd.feature_store import FeatureStore, MemoryStore
from sklearn_dfd.robustness import evaluate_robustness

SIDE = 64
#: Levels of 255 by which the two decodings of the photographs of this file may differ: within the
#: square, in its outermost rows and columns, and on average. Where no scale divides a side, the
#: last decoded pixel shows less of the picture than the others, and weighs as much.
MOST, MOST_AT_EDGES, MOST_IN_THE_MEAN = 4, 16, 0.3


@pytest.fixture(scope="module")
def photo():
    """A photograph of 1283 x 857 pixels, with some noise: no scale divides its sides."""
    image = Image.fromarray(load_sample_image("flower.jpg"))
    pixels = np.asarray(image.resize((1283, 857), Image.Resampling.BICUBIC), dtype=np.float32)
    pixels = pixels + np.random.default_rng(0).normal(0, 4, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


@pytest.fixture(scope="module")
def raw(photo):
    return encode(photo, "JPEG", quality=92)


@pytest.fixture
def sizes(monkeypatch):
    """Sizes at which images are decoded, in order."""
    seen = []

    def resized(image, side, box=None, *, squash=decoding.squash):
        if image.size != (side, side):
            seen.append(image.size)
        return squash(image, side, box)

    monkeypatch.setattr(decoding, "squash", resized)
    return seen


def assert_close(fast, exact):
    difference = np.abs(fast.astype(int) - exact)
    assert difference.mean() <= MOST_IN_THE_MEAN
    assert difference[1:-1, 1:-1].max() <= MOST
    assert difference.max() <= MOST_AT_EDGES
    assert fast.flags.writeable and fast.dtype == np.uint8


def of_size(width, height, **options):
    return encode(Image.new("RGB", (width, height), (200, 90, 40)), "JPEG", **options)


def progressive(raw):
    return encode(Image.open(io.BytesIO(raw)), "JPEG", quality=92, progressive=True)


# ---- pixels ----


def test_a_large_file_is_decoded_at_a_reduced_scale(raw, sizes):
    fast, exact = load_rgb(raw, SIDE, fast=True), load_rgb(raw, SIDE)
    assert sizes == [(321, 215), (1283, 857)]  # a quarter: an eighth leaves less than 128
    assert_close(fast, exact)
    assert (fast != exact).any()


@pytest.mark.parametrize(
    ("size", "decoded"),
    [
        ((255, 999), (255, 999)),  # a half of a side would be shorter than twice the square's
        ((999, 255), (999, 255)),
        ((256, 999), (128, 500)),
        ((999, 256), (500, 128)),
        ((511, 511), (256, 256)),
        ((512, 5000), (128, 1250)),
        ((1023, 1023), (256, 256)),
        ((1024, 1030), (128, 129)),
        ((5000, 9000), (625, 1125)),  # an eighth is the smallest scale
        ((9000, 130), (9000, 130)),
    ],
)
def test_both_sides_stay_twice_as_long_as_needed(sizes, size, decoded):
    assert load_rgb(of_size(*size), SIDE, fast=True).shape == (SIDE, SIDE, 3)
    assert sizes == [decoded]


@pytest.mark.parametrize("size", [(1025, 1031), (1031, 1025), (577, 583), (1087, 1089)])
def test_what_lies_outside_of_the_picture_does_not_shift_it(size):
    """A side that no scale divides would be stretched by up to 7/8 of a decoded pixel."""
    ramp = np.linspace(0, 255, size[0])[np.newaxis].repeat(size[1], axis=0)
    raw = encode(Image.fromarray(ramp.round().astype(np.uint8)), "JPEG", quality=100)
    fast, exact = load_rgb(raw, SIDE, fast=True), load_rgb(raw, SIDE)
    assert np.abs(fast.astype(int) - exact).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations(photo, sizes, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    raw = encode(photo, "JPEG", quality=92, exif=exif)
    fast = load_rgb(raw, SIDE, fast=True)
    assert sizes == [(321, 215)]
    assert_close(fast, load_rgb(raw, SIDE))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("is_progressive", [False, True])
def test_modes_and_progressive_files(photo, sizes, mode, is_progressive):
    raw = encode(photo.convert(mode), "JPEG", quality=92, progressive=is_progressive)
    fast = load_rgb(raw, SIDE, fast=True)
    assert sizes == [(321, 215)]
    assert_close(fast, load_rgb(raw, SIDE))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("is_progressive", [False, True])
def test_subsampling(photo, sizes, subsampling, is_progressive):
    options = {"quality": 92, "subsampling": subsampling, "progressive": is_progressive}
    raw = encode(photo, "JPEG", **options)
    fast = load_rgb(raw, SIDE, fast=True)
    assert sizes == [(321, 215)]
    assert_close(fast, load_rgb(raw, SIDE))


def test_profiles_are_converted(photo, sizes):
    raw = encode(photo, "JPEG", quality=92, icc_profile=DISPLAY_P3)
    fast, exact = load_rgb(raw, SIDE, fast=True), load_rgb(raw, SIDE)
    assert len(sizes) == 2
    assert_close(fast, exact)
    bare = load_rgb(encode(photo, "JPEG", quality=92), SIDE, fast=True)
    assert np.abs(bare.astype(int) - fast).mean() > 1


def test_mpo_files(photo, sizes):
    buffer = io.BytesIO()
    photo.save(buffer, "MPO", quality=92, save_all=True, append_images=[photo.resize((40, 30))])
    assert Image.open(buffer).format == "MPO"
    fast = load_rgb(buffer.getvalue(), SIDE, fast=True)
    assert sizes == [(321, 215)]
    assert_close(fast, load_rgb(buffer.getvalue(), SIDE))


@pytest.mark.parametrize("size", [(200, 150), (255, 300), (64, 64), (2, 900), (900, 2)])
def test_small_files_are_as_without_it(photo, size):
    for progressive_ in (False, True):
        raw = encode(photo.resize(size), "JPEG", progressive=progressive_)
        np.testing.assert_array_equal(load_rgb(raw, SIDE, fast=True), load_rgb(raw, SIDE))


def test_other_images_are_as_without_it(photo, raw, tmp_path):
    (tmp_path / "a.jpg").write_bytes(raw)
    still_to_be_read = Image.open(tmp_path / "a.jpg")
    others = [
        encode(photo, "PNG", compress_level=0),
        encode(photo, "BMP"),
        encode(photo, "TIFF", compression="jpeg"),
        np.asarray(photo),
        photo,
        still_to_be_read,
    ]
    for image in others:
        np.testing.assert_array_equal(load_rgb(image, SIDE, fast=True), load_rgb(image, SIDE))
    assert still_to_be_read.size == photo.size


# ---- damage, and limits ----


def test_damaged_files_have_the_same_reason(raw):
    def reason(content, fast):
        with pytest.raises(ValueError) as caught:
            load_rgb(content, SIDE, fast=fast)
        return re.sub(r"\d+ bytes", "n bytes", str(caught.value))

    for content in (raw[: len(raw) // 2], raw[:700], progressive(raw)[:5000], raw[:3], b"\xff\xd8"):
        assert reason(content, True) == reason(content, False)


def test_any_mutation_is_decoded_or_refused_with_a_reason(raw):
    rng = np.random.default_rng(0)
    small = encode(Image.open(io.BytesIO(raw)).resize((300, 280)), "JPEG")
    for content in (small, progressive(small)):
        for _ in range(150):
            mutated = bytearray(content)
            for position in rng.integers(2, rng.choice([700, len(content)]), 3):
                mutated[position] = rng.integers(256)
            try:
                assert load_rgb(bytes(mutated), SIDE, fast=True).shape == (SIDE, SIDE, 3)
            except ValueError as error:
                assert str(error)


def test_pixels_that_are_decoded_count(raw):
    n_pixels = 321 * 215
    check_header(raw, n_pixels, SIDE)
    load_rgb(raw, SIDE, n_pixels, fast=True)
    words = r"1283x857 pixels, 321x215 at the scale at which it is decoded; max_pixels is 69014"
    for look in (
        partial(check_header, raw, n_pixels - 1, SIDE),
        partial(load_rgb, raw, SIDE, n_pixels - 1, fast=True),
    ):
        with pytest.raises(ValueError, match=words):
            look()
    with pytest.raises(ValueError, match=r"too large \(1283x857 pixels; max_pixels is 69015"):
        check_header(raw, n_pixels)
    small = of_size(60, 50)
    with pytest.raises(ValueError, match=r"\(60x50 pixels; max_pixels"):
        check_header(small, 60 * 50 - 1, SIDE)


def test_progressive_files_count_in_full(raw):
    """Their decoder has the coefficients of the whole image in memory, at any scale."""
    content = progressive(raw)
    check_header(content, 1283 * 857, SIDE)
    with pytest.raises(ValueError, match="1283x857 pixels, all of which a progressive file keeps"):
        check_header(content, 1283 * 857 - 1, SIDE)


def test_pillows_own_limit_counts_what_is_decoded_too(raw, monkeypatch):
    for limit in (321 * 215, 1283 * 857 // 3):  # Pillow itself refuses twice as much
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        check_header(raw, None, SIDE)
        load_rgb(raw, SIDE, fast=True)
        for image in (raw, encode(Image.new("L", (1283, 857)), "PNG")):
            with pytest.raises(ValueError, match="too large"):
                load_rgb(image, SIDE)
        with pytest.raises(ValueError, match="too large"):
            load_rgb(encode(Image.new("L", (1283, 857)), "PNG"), SIDE, fast=True)
        with pytest.raises(ValueError, match="too large"):
            load_rgb(progressive_of(raw), SIDE, fast=True)
        assert Image.MAX_IMAGE_PIXELS == limit


def progressive_of(raw):
    image = Image.fromarray(np.zeros((857, 1283, 3), np.uint8))
    return encode(image, "JPEG", progressive=True)


@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 1}, {"optimize": True}])
def test_first_scan(photo, options):
    for mode in ("RGB", "L", "CMYK"):
        for is_progressive in (False, True):
            raw = encode(photo.convert(mode), "JPEG", progressive=is_progressive, **options)
            scan = first_scan(raw)
            assert raw[scan.position :].startswith(b"\xff\xda")
            assert scan.is_only is not is_progressive


def test_channels_one_after_another_are_several_scans(raw):
    scan = first_scan(raw)
    one_channel = bytearray(raw)
    one_channel[scan.position + 4] = 1
    assert first_scan(bytes(one_channel)) == (scan.position, False)


def test_irregular_headers_are_not_in_one_scan(raw):
    for content in (
        b"",
        b"\xff\xd8\xff",
        raw[:300],
        raw[1:],
        raw[:2] + b"\0" + raw[2:],  # libjpeg would skip it
        raw[:2] + b"\xff\xde\0\3\0" + raw[2:],  # hierarchical
        raw[:2] + b"\xff\xe0\0\0" * 1000,
        encode(Image.new("L", (9, 9)), "PNG"),
    ):
        assert first_scan(content) is None


# ---- the transformer ----


@pytest.fixture(scope="module")
def files(photo, tmp_path_factory):
    directory = tmp_path_factory.mktemp("photographs")
    paths = []
    for i in range(6):
        part = photo.crop((60 * i, 40 * i, 60 * i + 900, 40 * i + 600))
        part.save(directory / f"{i}.jpg", quality=92)
        paths.append(str(directory / f"{i}.jpg"))
    return paths


def transformer(**params):
    return MobileNetV2Features(weights=None, image_size=SIDE, memory=MemoryStore(2**26), **params)


def relative_error(fast, exact):
    return np.sqrt(np.mean((fast - exact) ** 2) / np.mean(exact**2))


# random weights amplify a difference from block to block, which those of ImageNet do not
@pytest.mark.parametrize(("layer", "most"), [(4, 0.02), (15, 0.2), ("pool", 0.2)])
def test_features_differ_by_little(files, layer, most):
    exact = transformer(layer=layer).fit_transform(files)
    fast = transformer(layer=layer, decoding="fast").fit_transform(files)
    assert 0 < relative_error(fast, exact) < most


def test_the_two_are_kept_apart(files, tmp_path):
    exact = MobileNetV2Features(weights=None, image_size=SIDE, memory=tmp_path)
    fast = clone(exact).set_params(decoding="fast")
    first = exact.fit_transform(files), fast.fit_transform(files)
    again = exact.fit_transform(files), fast.fit_transform(files)
    assert (first[0] != first[1]).any()
    for before, after in zip(first, again, strict=True):
        np.testing.assert_array_equal(before, after)
    assert FeatureStore(tmp_path).info()["n_rows"] == 2 * len(files)


def test_workers_give_the_same_rows(files):
    features = MobileNetV2Features(weights=None, image_size=SIDE, decoding="fast").fit(files)
    here = features.transform(files[:2])
    (there,) = joblib.Parallel(n_jobs=2)([joblib.delayed(features.transform)(files[:2])])
    np.testing.assert_array_equal(here, there)


def test_views_are_made_from_all_pixels_unless_they_are_made_from_the_square(files, sizes):
    views = [View(files[0], 1, "gentle"), View(View(files[0], 1, "gentle"), 0, "mirrored")]
    exact = transformer().fit_transform(views)
    fast = transformer(decoding="fast").fit_transform(views)
    np.testing.assert_array_equal(fast, exact)
    assert sizes and not any(size == (225, 150) for size in sizes)
    sizes.clear()
    transformer(decoding="fast", n_jobs=1).fit_transform([files[0], View(files[0], 0, "mirrored")])
    assert sizes == [(225, 150)]


def test_the_limit_counts_what_each_image_needs(files):
    """A photograph fits at a reduced scale, a view of it does not, whatever is decoded first."""
    images = [*files[:2], View(files[0], 1), View(files[1], 0, "mirrored")]
    for more in (0, 70):  # where there are many, headers are checked before
        X = images + [np.zeros((8, 8, 3), np.uint8)] * more
        for order in (X, X[::-1]):
            features = transformer(decoding="fast", max_pixels=100_000).fit(order)
            with pytest.raises(ImageError, match="900x600 pixels; max_pixels is 100000") as caught:
                features.transform(order)
            assert [name for _, name, _ in caught.value.failures] == [f"view of {files[0]!r}"]
    with pytest.raises(ImageError) as caught:
        transformer(max_pixels=100_000).fit(images).transform(images)
    assert len(caught.value.failures) == 4


def test_detectors_and_detect(files):
    y = np.arange(len(files)) % 2
    options = {"weights": None, "image_size": SIDE, "max_epochs": 1, "random_state": 0}
    pipe = make_deepfake_pipeline(decoding="fast", max_pixels=100_000, **options).fit(files, y)
    assert pipe.named_steps["features"].decoding == "fast"
    table = detect(pipe, files)
    assert table["error"].isna().all() or not table["error"].any()
    fast = pipe.predict_proba(files)
    exact = pipe.set_params(features__decoding="exact", features__max_pixels=None)
    # rows of the two decodings may be mixed: they differ by less than the same photograph saved
    # once more
    assert 0 < np.abs(exact.predict_proba(files) - fast).max() < 0.02


def test_augmented_classifier(files):
    y = np.arange(len(files)) % 2
    pipe = make_deepfake_pipeline(
        weights=None, image_size=SIDE, max_epochs=1, random_state=0, decoding="fast"
    )
    detector = AugmentedClassifier(pipe, n_views=1).fit(files, y)
    assert detector.estimator_.named_steps["features"].decoding == "fast"
    fast = detector.predict_proba(files)
    detector.estimator_.set_params(features__decoding="exact")
    assert 0 < np.abs(detector.predict_proba(files) - fast).max() < 0.02


def test_a_limit_below_what_views_need_names_the_photographs(files):
    y = np.arange(len(files)) % 2
    pipe = make_deepfake_pipeline(
        weights=None, image_size=SIDE, max_epochs=1, decoding="fast", max_pixels=100_000
    )
    with pytest.raises(ImageError, match="900x600 pixels; max_pixels is 100000") as caught:
        AugmentedClassifier(pipe, n_views=1).fit(files, y, X_val=files[:1], y_val=y[:1])
    assert [row for row, _, _ in caught.value.failures] == list(range(6))
    assert "X_val" not in str(caught.value)
    detector = AugmentedClassifier(pipe, n_views=0).fit(files, y)  # nothing is decoded in full
    assert detector.predict_proba(files).shape == (6, 2)


def test_distorted_photographs_are_made_at_their_own_size(files):
    pytest.importorskip("pandas")
    y = np.arange(len(files)) % 2
    options = {"weights": None, "image_size": SIDE, "max_epochs": 1, "random_state": 0}
    pipe = make_deepfake_pipeline(decoding="fast", max_pixels=100_000, **options).fit(files, y)
    distortions = {"brightness": [1.25]}
    with pytest.raises(ImageError, match="900x600 pixels; max_pixels is 100000"):
        evaluate_robustness(pipe, files, y, distortions=distortions)
    pipe.set_params(features__max_pixels=None)
    evaluate_robustness(pipe, files, y, distortions=distortions, n_resamples=10)


def test_unfinished_matrices_know_how_images_were_decoded(files, tmp_path, monkeypatch):
    from sklearn_dfd.export import _feature_matrix

    def interrupted(*args):
        raise KeyboardInterrupt

    exact = transformer().fit(files)
    with monkeypatch.context() as patch:
        patch.setattr(_feature_matrix, "_compute", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract_feature_matrix(exact, files, tmp_path / "a.npy")
    recipe = tmp_path / "a.npy.part" / "recipe.json"
    fast = transformer(decoding="fast").fit(files)
    for older in (False, True):  # releases without the parameter
        if older:
            recipe.write_text(recipe.read_text().replace(', "decoding": "exact"', ""))
            assert "decoding" not in recipe.read_text()
        with pytest.raises(ValueError, match="other values of decoding"):
            extract_feature_matrix(fast, files, tmp_path / "a.npy")
    assert extract_feature_matrix(exact, files, tmp_path / "a.npy").shape[0] == len(files)


def test_wrong_values_are_refused(files):
    for value in ("draft", None, True):
        with pytest.raises(ValueError, match="'decoding' parameter"):
            transformer(decoding=value).fit(files)


def test_files_of_older_releases_decode_exactly(files):
    features = transformer().fit(files)
    state = features.__getstate__()
    del state["decoding"]
    older = MobileNetV2Features.__new__(MobileNetV2Features)
    older.__setstate__(state)
    assert older.decoding == "exact"
    np.testing.assert_array_equal(older.transform(files[:1]), features.transform(files[:1]))
    saved = pickle.loads(pickle.dumps(transformer(decoding="fast").fit(files)))
    assert saved.decoding == "fast"


def test_decoding_is_the_arguments_of_load_rgb(raw):
    np.testing.assert_array_equal(load_rgb(raw, *Decoding(SIDE)), load_rgb(raw, SIDE))
    fast = load_rgb(raw, *Decoding(SIDE, None, True))
    np.testing.assert_array_equal(fast, load_rgb(raw, SIDE, fast=True))
    assert to_rgb(raw).size == (1283, 857)
