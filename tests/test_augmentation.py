"""Tests of sklearn_dfd.augmentation: views that are images like any other, the same everywhere."""

import hashlib
import os
import pickle
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from image_files import encode, picture
from PIL import Image, ImageEnhance, ImageOps
from sklearn.base import clone
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score

from sklearn_dfd import MobileNetV2Features, augmentation
from sklearn_dfd._core.images.decoding import content_digest, load_rgb, squash, to_rgb
from sklearn_dfd._core.images.reading import read_all, read_source
from sklearn_dfd.augmentation import ImageAugmenter, View, augment
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.exceptions import ImageError
from sklearn_dfd.feature_store import MemoryStore

RECIPES = ["sharing", "gentle", "contrast"]
PHOTO = Image.fromarray(picture(5, 6)).resize((80, 60), Image.Resampling.BICUBIC)
PIXELS = np.array(PHOTO)
PATHS = ["a.jpg", "b.jpg", "c.jpg"]


def render(view):
    return np.array(view.to_image())


def digest(view):
    return content_digest(read_source(view)).hex()


@pytest.fixture
def path(tmp_path):
    PHOTO.save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


# a view ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
def test_views_differ_by_seed_and_by_photograph(recipe):
    seeds = [render(View(PIXELS, seed, recipe)) for seed in range(30)]
    assert len({image.tobytes() for image in seeds}) > (8 if recipe == "contrast" else 25)
    other = PIXELS.copy()
    other[0, 0] ^= 1
    same_seed = [render(View(other, seed, recipe)) for seed in range(30)]
    # one seed does other things to another photograph
    differs = [
        a.shape != b.shape or np.abs(a - b.astype(float)).max() > 40
        for a, b in zip(seeds, same_seed, strict=True)
    ]
    assert np.mean(differs) > 0.5


@pytest.mark.parametrize("recipe", RECIPES)
def test_view_depends_on_content_alone(recipe, path, tmp_path):
    content = Path(path).read_bytes()
    renamed = tmp_path / "other name.png"
    renamed.write_bytes(content)
    files = [View(source, 7, recipe) for source in (path, Path(path), renamed, content)]
    assert len({digest(view) for view in files}) == 1
    assert len({render(view).tobytes() for view in files}) == 1
    memory = [View(source, 7, recipe) for source in (PIXELS, PHOTO, np.asfortranarray(PIXELS))]
    assert len({digest(view) for view in memory}) == 1
    assert len({render(view).tobytes() for view in memory}) == 1


def test_digest_tells_source_seed_and_recipe_apart(path, monkeypatch):
    views = [View(path, 0), View(path, 1), View(path, 0, "contrast"), View(PIXELS, 0)]
    views.append(View(View(path, 0), 0))
    digests = {digest(view) for view in views} | {digest(path), digest(PIXELS)}
    assert len(digests) == len(views) + 2
    version = augmentation._Recipe(augmentation._gentle, 2)
    monkeypatch.setitem(augmentation._RECIPES, "gentle", version)
    assert digest(View(path, 0)) not in digests


def test_a_view_can_be_looked_at(path):
    view = View(path, 3)
    assert view.to_image().mode == "RGB"
    np.testing.assert_array_equal(np.array(view.to_image()), to_rgb(read_source(view)))
    with pytest.raises(ImageError, match=r"view of 'absent\.jpg'\): the file does not exist"):
        View("absent.jpg", 3).to_image()
    for seed in (1.0, None, "1"):
        with pytest.raises(TypeError, match=f"seed is {seed!r}; it must be an integer"):
            View(path, seed)


def test_a_source_changed_under_its_name_is_another_view(path):
    view = View(path, 0)
    before, image = digest(view), render(view)
    Image.fromarray(255 - PIXELS).save(path)
    assert digest(view) != before
    assert not np.array_equal(render(view), image)


def test_a_seed_gives_the_same_picture_for_ever():
    # where this fails, features kept for older views are wrong: raise the version in _RECIPES
    pixels = np.arange(0, 160, 10, dtype=np.uint8).reshape(4, 4)
    views = [render(View(pixels, seed, "contrast"))[0, :, 0].tolist() for seed in range(5)]
    assert views == CONTRAST
    pixels = np.arange(400, dtype=np.uint16).reshape(20, 20)
    crops = [
        np.asarray(augmentation._random_crop(Image.fromarray(pixels), np.random.RandomState(seed)))
        for seed in range(3)
    ]
    assert [(crop.shape, int(crop[0, 0])) for crop in crops] == CROPS


CONTRAST = [
    [150, 140, 130, 120],
    [0, 10, 20, 30],
    [51, 34, 17, 0],
    [0, 10, 20, 30],
    [120, 130, 140, 150],
]
CROPS = [((19, 19), 21), ((18, 19), 21), ((20, 18), 2)]


def test_view_is_the_same_in_another_process(path):
    views = [
        View(source, seed, recipe)
        for source in (path, PIXELS)
        for recipe in RECIPES
        for seed in range(3)
    ]
    code = (
        "import pickle, sys, hashlib\n"
        "from sklearn_dfd._core.images.decoding import load_rgb\n"
        "from sklearn_dfd._core.images.reading import read_source\n"
        "for view in pickle.load(sys.stdin.buffer):\n"
        "    print(hashlib.sha256(load_rgb(read_source(view), 32)).hexdigest())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(views),
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": "1"},
        check=True,
    )
    here = [hashlib.sha256(load_rgb(read_source(view), 32)).hexdigest() for view in views]
    assert done.stdout.decode().split() == here


def test_view_is_small_hashable_and_immutable():
    view = View("faces/a.jpg", 3)
    assert len(pickle.dumps(view)) < 200
    assert pickle.loads(pickle.dumps(view)) == view
    assert {view, View("faces/a.jpg", 3)} == {view}
    assert (
        len({view, View("faces/a.jpg", 4), View("b.jpg", 3), View("faces/a.jpg", 3, "contrast")})
        == 4
    )
    with pytest.raises(TypeError, match="unhashable"):
        hash(View(PIXELS, 3))
    with pytest.raises(AttributeError):
        view.seed = 4
    assert repr(View(b"12", 3)) == "<View 3 ('gentle') of 2 bytes>"


def test_unknown_recipe():
    with pytest.raises(ValueError, match="must be one of 'gentle', 'sharing', 'contrast'"):
        View("a.jpg", 0, "sepia")


def test_gentle_views_are_cut_out_along_whole_pixels():
    """Nothing is resampled, so that the traces of an edit stay."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view
    found = set()
    for seed in range(20):
        image = render(View(noise, seed, "gentle"))
        for mirrored, whole in ((False, noise), (True, noise[:, ::-1])):
            places = windows(whole, image.shape)
            if (places == image).all((-3, -2, -1)).any():
                found.add((mirrored, image.shape))
    assert len(found) > 5 and {mirrored for mirrored, _ in found} == {False, True}


def test_mirrored_views():
    for seed in (0, 1):
        np.testing.assert_array_equal(render(View(PIXELS, seed, "mirrored")), PIXELS[:, ::-1])


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("shape", [(2, 2), (2, 300), (3, 2, 3), (9, 7, 4)])
def test_smallest_images(recipe, shape):
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    for seed in range(20):
        height, width, channels = render(View(pixels, seed, recipe)).shape
        assert min(height, width) >= 2
        assert channels == 3
        assert load_rgb(read_source(View(pixels, seed, recipe)), 8).shape == (8, 8, 3)


def test_view_of_a_turned_photograph_is_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    raw = encode(PHOTO, "PNG", exif=exif)
    assert {render(View(raw, seed, "contrast")).shape for seed in range(4)} == {(80, 60, 3)}


def test_views_leave_their_source_and_global_generators_alone(path):
    image, pixels = PHOTO.copy(), PIXELS.copy()
    before = np.random.get_state()[1].tolist(), random.getstate(), torch.get_rng_state().tolist()
    for recipe in RECIPES:
        for seed in range(20):
            render(View(image, seed, recipe))
            render(View(pixels, seed, recipe))
    ImageAugmenter(random_state=0).fit_resample(PATHS, [0, 1, 0])
    after = np.random.get_state()[1].tolist(), random.getstate(), torch.get_rng_state().tolist()
    assert before == after
    assert np.array_equal(pixels, PIXELS)
    assert image.tobytes() == PHOTO.tobytes()


def test_many_threads_render_what_one_does(path):
    views = [View(source, s, r) for s in range(15) for r in RECIPES for source in (path, PHOTO)]
    expected = [render(view) for view in views]
    with ThreadPoolExecutor(8) as pool:
        for image, alone in zip(pool.map(render, views * 4), expected * 4, strict=True):
            assert np.array_equal(image, alone)


def test_contrast_is_made_of_what_pillow_calls_so():
    flips = [PHOTO, ImageOps.mirror(PHOTO), ImageOps.flip(PHOTO), PHOTO.rotate(180)]
    tones = [*flips, *map(ImageOps.autocontrast, flips)]
    possible = {np.array(i).tobytes() for i in [*tones, *map(ImageOps.equalize, tones)]}
    seen = {render(View(PHOTO, seed, "contrast")).tobytes() for seed in range(60)}
    assert seen <= possible
    assert len(seen) == len(possible)


def test_colours_are_changed_as_pillow_does():
    expected = PHOTO
    draws = np.random.RandomState(4)
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        expected = enhancer(expected).enhance(draws.uniform(0.8, 1.2))
    actual = augmentation._recoloured(PHOTO, np.random.RandomState(4))
    assert np.array_equal(actual, expected)
    assert not np.array_equal(actual, PHOTO)


def test_sharing_does_all_that_it_says(monkeypatch):
    done = []
    for name, distortion in augmentation.DISTORTIONS.items():

        def apply(image, level, name=name, original=distortion.apply):
            done.append((name, level))
            return original(image, level)

        monkeypatch.setitem(augmentation.DISTORTIONS, name, distortion._replace(apply=apply))
    seeds = range(400)
    areas = []
    for seed in seeds:
        height, width, _ = render(View(PIXELS, seed, "sharing")).shape
        areas.append(height * width / (60 * 80))
        assert 0.85 < (width / height) / (80 / 60) < 1.18
    assert 0.78 < min(areas) < 0.82
    assert 0.97 < max(areas) <= 1
    for name, low, high, share in [
        ("jpeg", 50, 95, 0.5),
        ("blur", 0.2, 1.5, 0.25),
        ("resize", 0.5, 0.9, 0.25),
    ]:
        levels = [level for what, level in done if what == name]
        assert len(levels) / len(seeds) == pytest.approx(share, abs=0.08)
        assert low <= min(levels) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(levels) <= high


def test_half_of_the_views_are_mirrored():
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[np.newaxis], 64, axis=0)
    mirrored = []
    for seed in range(100):
        view = render(View(ramp, seed)).astype(float)
        mirrored.append(view[:, 0].mean() > view[:, -1].mean())
    assert 35 < sum(mirrored) < 65


def test_half_of_the_views_are_recoloured():
    grey = [render(View(np.full((16, 16), 100, np.uint8), seed)) for seed in range(200)]
    brightness = np.array([view.mean() for view in grey])
    assert 75 < np.sum(np.abs(brightness - 100) > 1) < 120
    assert 79 < brightness.min() < 84
    assert 116 < brightness.max() < 121
    red = [render(View(np.full((16, 16, 3), [200, 60, 60], np.uint8), s)) for s in range(200)]
    saturation = np.array([np.ptp(view.mean(axis=(0, 1))) / view.mean() for view in red])
    assert saturation.min() < 0.95 * np.median(saturation)
    assert saturation.max() > 1.05 * np.median(saturation)


def test_large_photographs_are_scaled_down():
    large = np.asarray(PHOTO.resize((1500, 1200)))
    for seed in range(4):
        assert max(render(View(large, seed, "sharing")).shape) == 1024


# in X --------------------------------------------------------------------------------------------


@pytest.fixture
def features():
    return MobileNetV2Features(0, weights=None, image_size=32, n_jobs=2, memory=MemoryStore(2**24))


def test_features_of_views_in_lists_arrays_and_columns(features, path):
    X = [path, View(path, 0), PHOTO, View(PHOTO, 0), View(View(path, 0), 1)]
    column = np.empty(len(X), dtype=object)
    column[:] = X
    rows = features.fit_transform(X)
    by_hand = np.stack([load_rgb(read_source(image), 32) for image in X])
    assert np.allclose(rows, clone(features).fit_transform(by_hand), atol=1e-5)
    for other in (
        column,
        column[:, np.newaxis],
        pd.Series(column),
        pd.DataFrame({"image": column}),
    ):
        assert np.array_equal(features.fit_transform(other), rows)
    assert np.array_equal(features.transform(column[[3, 1]]), rows[[3, 1]])


def test_features_of_a_view_are_computed_once(features, path, tmp_path, monkeypatch):
    features.fit_transform([path, View(path, 0), View(path, 1)])
    (tmp_path / "renamed.png").write_bytes(Path(path).read_bytes())
    monkeypatch.setattr(View, "render", lambda *args: pytest.fail("it was made again"))
    features.transform([View(str(tmp_path / "renamed.png"), 1), View(path, 0)])


def test_unreadable_sources_are_named(features, path, tmp_path):
    (tmp_path / "broken.png").write_bytes(Path(path).read_bytes()[:200])
    (tmp_path / "text.jpg").write_text("no image")
    names = ["missing.jpg", "text.jpg", "broken.png"]
    X = [path, *(View(str(tmp_path / name), 0) for name in names)]
    features.fit(X)
    with pytest.raises(ImageError) as caught:
        features.transform(X[:3])
    assert [row for row, _, _ in caught.value.failures] == [1, 2]
    message = str(caught.value)
    assert f"row 1 (view of '{tmp_path / 'missing.jpg'}'): the file does not exist" in message
    assert f"row 2 (view of '{tmp_path / 'text.jpg'}'): the bytes are not in an image" in message
    with pytest.raises(ImageError, match=r"row 1 \(view of '.*broken\.png'\): .* truncated or dam"):
        features.transform([path, X[3]])
    with pytest.raises(ImageError, match=r"row 0 \(view of int\): it is of type int"):
        features.transform([View(3, 0)])


# ImageAugmenter ----------------------------------------------------------------------------------


def test_augmenter_adds_views():
    augmenter = ImageAugmenter(n_views=2, random_state=0)
    X, y = augmenter.fit_resample(PATHS, np.array(["real", "fake", "real"]))
    assert X.dtype == object
    assert X.shape == (9,)
    assert X[:3].tolist() == PATHS
    assert y.tolist() == ["real", "fake", "real"] * 3
    assert [view.source for view in X[3:]] == PATHS * 2
    assert len(set(X[3:])) == 6
    assert {view.recipe for view in X[3:]} == {"gentle"}
    assert augmenter.sample_indices_.tolist() == [0, 1, 2] * 3


def test_augmenter_without_originals():
    X, y = ImageAugmenter(2, recipe="contrast", keep_originals=False).fit_resample(PATHS, [0, 1, 2])
    assert all(isinstance(view, View) and view.recipe == "contrast" for view in X)
    assert y == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("random_state", [0, np.random.RandomState(0)], ids=["int", "instance"])
def test_augmenter_is_repeatable(random_state):
    first = ImageAugmenter(3, random_state=0).fit_resample(PATHS, [0, 1, 2])[0]
    augmenter = ImageAugmenter(3, random_state=random_state)
    assert augmenter.fit_resample(PATHS, [0, 1, 2])[0].tolist() == first.tolist()
    again = augmenter.fit_resample(PATHS, [0, 1, 2])[0].tolist() == first.tolist()
    assert again == isinstance(random_state, int)
    unseeded = [ImageAugmenter().fit_resample(PATHS, [0, 1, 2])[0].tolist() for _ in range(2)]
    assert unseeded[0] != unseeded[1]


def test_a_photograph_has_the_same_views_wherever_it_stands():
    views = ImageAugmenter(3, random_state=1).fit_resample(PATHS, [0, 1, 2])[0][3:]
    others = ImageAugmenter(5, random_state=1).fit_resample(PATHS[:0:-1], [0, 1])[0][2:]
    assert {v for v in views if v.source != "a.jpg"} < set(others)


def test_augmenter_keeps_arrays_and_the_type_of_y():
    X = np.stack([PIXELS, PIXELS[::-1]])
    y = pd.Series([0, 1], index=["u", "v"])
    X_resampled, y_resampled = ImageAugmenter(1).fit_resample(X, y)
    assert [np.shares_memory(image, X) for image in X_resampled[:2]] == [True, True]
    assert np.shares_memory(X_resampled[3].source, X)
    assert isinstance(y_resampled, pd.Series)
    assert y_resampled.index.tolist() == ["u", "v", "u", "v"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ImageAugmenter(0).fit_resample(PATHS, PATHS), ValueError, "'n_views' parameter"),
        (lambda: ImageAugmenter(recipe="x").fit_resample(PATHS, PATHS), ValueError, "'recipe' par"),
        (lambda: ImageAugmenter().fit_resample(PATHS, [0]), ValueError, "y has 1 values for 3 im"),
        (lambda: ImageAugmenter().fit_resample([], []), ValueError, "0 sample"),
        (lambda: ImageAugmenter().fit_resample("a.jpg", [0]), TypeError, "single path"),
        (lambda: ImageAugmenter().fit_resample(View("a.jpg", 0), [0]), TypeError, "single image"),
        (lambda: augment(PATHS, n_views=0), ValueError, "'n_views' parameter"),
        (lambda: augment(PATHS, [0, 1]), ValueError, "y has 2 values for 3 images"),
        (lambda: augment(PATHS, groups=[0, 1]), ValueError, "groups has 2 values for 3 images"),
        (lambda: augment(PATHS, groups=[0, 1, np.nan]), ValueError, "groups has no label in row 2"),
        (
            lambda: augment([*PATHS, View("a.jpg", 0)], groups=[0, 1, 2, 3]),
            ValueError,
            r"row 0 \('a\.jpg'\) and row 3 \(view of 'a\.jpg'\) show the same photograph, but ar",
        ),
        (lambda: augment(np.zeros((3, 5))), ValueError, "looks like features"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_augmenter_is_an_estimator():
    augmenter = ImageAugmenter(2, recipe="contrast", keep_originals=False, random_state=3)
    assert clone(augmenter).get_params() == augmenter.get_params()
    assert not hasattr(augmenter, "transform")  # a sampler with one is refused in a pipeline


def test_only_the_training_side_is_augmented(monkeypatch):
    pipelines = pytest.importorskip("imblearn.pipeline")
    photos = make_spliced_photos(40, image_size=32, random_state=0)
    X = list(photos.data)
    seen = []
    transform = MobileNetV2Features.transform

    def watched(self, images):
        seen.append([isinstance(image, View) for image in images])
        return transform(self, images)

    monkeypatch.setattr(MobileNetV2Features, "transform", watched)
    store = MemoryStore(2**26)
    pipe = pipelines.make_pipeline(
        ImageAugmenter(2, random_state=0),
        MobileNetV2Features("pool", weights=None, image_size=32, memory=store),
        RidgeClassifier(),
    )
    renders = []
    original = View.render
    monkeypatch.setattr(View, "render", lambda *a: renders.append(1) or original(*a))
    scores = cross_val_score(pipe, X, photos.target, cv=StratifiedKFold(4))
    assert scores.shape == (4,)
    assert [(len(rows), sum(rows)) for rows in seen] == [(90, 60), (10, 0)] * 4
    # each photograph has the same views in all folds: they are computed once
    assert len(renders) == 2 * 40


# augment -----------------------------------------------------------------------------------------


def test_augment_keeps_groups_together():
    faces = augment(PATHS, ["r", "f", "r"], ["u", "v", "u"], n_views=2, random_state=0)
    assert faces.data[:3].tolist() == PATHS
    assert faces.target.tolist() == ["r", "f", "r"] * 3
    assert faces.groups.tolist() == ["u", "v", "u"] * 3
    assert faces.is_original.tolist() == [True] * 3 + [False] * 6
    augmenter = ImageAugmenter(2, random_state=0)
    assert augmenter.fit_resample(PATHS, PATHS)[0].tolist() == faces.data.tolist()


def test_augment_without_groups_and_targets():
    faces = augment(["a.jpg", Path("b.jpg"), "a.jpg", View("b.jpg", 0)], n_views=1)
    assert faces.target is None
    assert faces.groups.tolist() == [0, 1, 0, 1] * 2
    assert faces.is_original.tolist() == [True, True, True, False] + [False] * 4
    views = augment(PATHS, keep_originals=False, n_views=1)
    assert views.groups.tolist() == [0, 1, 2]
    assert not views.is_original.any()
    arrays = augment(np.stack([PIXELS, PIXELS]), n_views=1)
    assert arrays.groups.tolist() == [0, 1, 0, 1]


def test_views_of_real_faces(real_faces):
    paths = sorted(str(path) for path in (real_faces / "training_real").iterdir())[:8]
    for image in augment(paths, n_views=3, random_state=0).data:
        pixels = load_rgb(read_source(image), 64).astype(float)
        original = load_rgb(read_source(getattr(image, "source", image)), 64).astype(float)
        close = [np.corrcoef(p.ravel(), original.ravel())[0, 1] for p in (pixels, pixels[:, ::-1])]
        assert max(close) > 0.6  # still this photograph


def test_mirroring_after_resizing_gives_the_same_bits():
    """So that a photograph and its mirror image are decoded and resized once."""
    rng = np.random.default_rng(0)
    for side in (32, 37, 64, 160, 224):
        for _ in range(30):
            height, width = rng.integers(2, 400, 2)
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            view = View(pixels, 0, "mirrored")
            (square,) = read_all([view], partial(load_rgb, image_size=side))
            np.testing.assert_array_equal(square, squash(view.to_image(), side))
