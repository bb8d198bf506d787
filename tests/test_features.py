import io
import pickle
import warnings
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from image_files import DISPLAY_P3, encode, picture
from PIL import Image, ImageFile
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError
from torchvision import transforms
from torchvision.models import mobilenet_v2

from sklearn_dfd import MobileNetV2Features, features
from sklearn_dfd._core import extraction
from sklearn_dfd._core.images.decoding import to_rgb
from sklearn_dfd._core.network.mobilenet import architecture
from sklearn_dfd.exceptions import ImageError
from sklearn_dfd.feature_store import IN_PROCESS, FeatureStore

SIZE = 64


@pytest.fixture
def extractor():
    return MobileNetV2Features(weights=None, image_size=SIZE)


@pytest.fixture(scope="module")
def pixels():
    """Nine smooth photographs of 40 x 50 pixels."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (9, 8, 10, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(a).resize((50, 40))) for a in small])


@pytest.fixture
def files(pixels, tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(len(pixels))]
    for path, array in zip(paths, pixels, strict=True):
        Image.fromarray(array).save(path)
    return paths


@pytest.fixture
def trunk_counter(monkeypatch):
    """Numbers of images in each pass through the trunk."""
    passes = []
    network = MobileNetV2Features._network

    def counted(self, device):
        run, *rest = network(self, device)
        return (lambda pixels: passes.append(len(pixels)) or run(pixels)), *rest

    monkeypatch.setattr(MobileNetV2Features, "_network", counted)
    return passes


def reference_features(images, state, layer, size):
    """The notebook's way, by torchvision alone."""
    model = mobilenet_v2()
    model.load_state_dict(state)
    model.eval()
    prepare = transforms.Compose(
        [
            transforms.Resize((size, size)),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    with torch.inference_mode():
        x = torch.stack([prepare(image.convert("RGB")) for image in images])
        if layer == "pool":
            return model.features(x).mean((2, 3)).numpy()
        return model.features[: layer + 1](x).flatten(1).numpy()


def assert_close(actual, expected, tolerance=1e-3):
    assert actual.shape == expected.shape and actual.dtype == np.float32
    assert np.linalg.norm(actual - expected) < tolerance * np.linalg.norm(expected)


# ---- what the features are ----


@pytest.mark.parametrize("layer", [0, 10, 15, 18, "pool"])
def test_equal_to_torchvision(pixels, weights_file, layer):
    extractor = MobileNetV2Features(layer, weights=weights_file, image_size=96)
    images = [Image.fromarray(a) for a in pixels[:3]]
    state = torch.load(weights_file, weights_only=True)
    assert_close(extractor.fit_transform(images), reference_features(images, state, layer, 96))


def test_equal_to_torchvision_on_photographs_with_imagenet_weights(real_faces, real_weights):
    paths = sorted(real_faces.glob("*/*.jpg"))[::160]
    expected = reference_features(
        [Image.open(path) for path in paths], torch.load(real_weights, weights_only=True), 15, 224
    )
    rows = MobileNetV2Features(weights=real_weights).fit_transform(paths)
    assert rows.shape == (len(paths), 7840)
    assert_close(rows, expected)
    # each image by itself too, the largest difference included
    assert np.abs(rows - expected).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize(("layer", "width"), [(0, 32 * 32**2), (15, 160 * 4), ("pool", 1280)])
def test_names_and_widths(pixels, layer, width):
    extractor = MobileNetV2Features(layer, weights=None, image_size=SIZE).fit(pixels)
    names = extractor.get_feature_names_out()
    assert extractor.transform(pixels).shape == (9, width)
    assert len(names) == len(set(names)) == width
    assert names[1] == ("mobilenetv2_pool_1" if layer == "pool" else f"mobilenetv2_block{layer}_1")


def test_every_kind_of_image_gives_the_same_row(pixels, files, extractor):
    expected = extractor.fit_transform(pixels)
    png = [path.read_bytes() for path in files]
    for images in (
        files,
        [str(path) for path in files],
        np.array([str(path) for path in files]),
        np.array(files, dtype=object)[:, None],
        pd.Series(files),
        pd.DataFrame({"path": [str(path) for path in files]}),
        pl.Series([str(path) for path in files]),
        list(pixels),
        [Image.fromarray(array) for array in pixels],
        png,
        [files[0], pixels[1], png[2], Image.fromarray(pixels[3]), str(files[4]), *pixels[5:]],
    ):
        np.testing.assert_allclose(extractor.transform(images), expected, atol=1e-5)


def test_grey_arrays_and_sizes_that_differ(pixels, extractor):
    grey = np.ascontiguousarray(pixels[..., 0])
    rows = extractor.fit_transform(grey)
    np.testing.assert_allclose(rows, extractor.transform(np.repeat(grey[..., None], 3, axis=3)))
    mixed = [pixels[0], pixels[1][:20, :30], grey[2]]
    assert extractor.transform(mixed).shape == rows[:3].shape


def test_exif_orientation_is_applied(pixels, extractor, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise to be upright
    Image.fromarray(pixels[0]).save(tmp_path / "turned.png", exif=exif)
    upright = np.rot90(pixels[0], -1)
    turned = extractor.fit_transform([tmp_path / "turned.png"])
    np.testing.assert_allclose(turned, extractor.transform([upright]), atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
@pytest.mark.parametrize("n_jobs", [None, 1, 3])
def test_rows_depend_on_their_image_alone(pixels, batch_size, n_jobs):
    expected = MobileNetV2Features(weights=None, image_size=SIZE).fit_transform(pixels)
    IN_PROCESS.clear()
    order = np.random.default_rng(0).permutation(9)
    extractor = MobileNetV2Features(
        weights=None, image_size=SIZE, batch_size=batch_size, n_jobs=n_jobs
    )
    rows = extractor.fit_transform(pixels[order])
    np.testing.assert_allclose(rows, expected[order], rtol=1e-4, atol=1e-5)


# ---- a feature is computed once ----


def test_an_image_is_computed_once(files, pixels, extractor, trunk_counter, tmp_path):
    first = extractor.fit_transform(files)
    assert sum(trunk_counter) == 9
    renamed = tmp_path / "renamed.png"
    files[0].rename(renamed)
    again = clone(extractor).fit(files[1:]).transform([*files[:0:-1], renamed])
    assert sum(trunk_counter) == 9
    np.testing.assert_array_equal(again, [*first[:0:-1], first[0]])


def test_copies_in_one_call_are_computed_once(pixels, extractor, trunk_counter):
    rows = extractor.fit_transform(np.concatenate([pixels, pixels[::-1]]))
    assert sum(trunk_counter) == 9
    np.testing.assert_array_equal(rows[:9], rows[:8:-1])


@pytest.mark.parametrize(
    "change", [{"layer": 10}, {"image_size": 96}, {"weights": "file"}], ids=str
)
def test_other_features_are_not_mistaken_for_these(
    pixels, extractor, change, weights_file, tmp_path
):
    extractor.set_params(memory=tmp_path / "store").fit_transform(pixels)
    if "weights" in change:
        change = {"weights": weights_file}
    kept = clone(extractor).set_params(**change).fit_transform(pixels)
    fresh = clone(extractor).set_params(**change, memory=None).fit_transform(pixels)
    np.testing.assert_allclose(kept, fresh, atol=1e-6)


def test_store_on_disk_serves_later_processes(files, extractor, trunk_counter, tmp_path):
    extractor.set_params(memory=str(tmp_path / "store"))
    first = extractor.fit_transform(files)
    IN_PROCESS.clear()
    again = pickle.loads(pickle.dumps(extractor)).transform(files)
    assert sum(trunk_counter) == 9
    np.testing.assert_array_equal(first, again)
    assert FeatureStore(tmp_path / "store").info()["n_rows"] == 9


def test_a_changed_file_is_a_new_image(files, pixels, extractor):
    extractor.fit_transform(files)
    Image.fromarray(255 - pixels[0]).save(files[0])
    changed = extractor.transform(files[:1])
    IN_PROCESS.clear()
    np.testing.assert_allclose(changed, extractor.transform([255 - pixels[0]]), atol=1e-5)


def test_a_file_that_changes_meanwhile_is_kept_as_what_was_decoded(
    files, pixels, extractor, monkeypatch
):
    extractor.fit(files)
    compute = extraction.Extraction.compute

    def change(self, *args, **options):
        Image.fromarray(255 - pixels[0]).save(files[0])
        return compute(self, *args, **options)

    original = files[0].read_bytes()
    monkeypatch.setattr(extraction.Extraction, "compute", change)
    monkeypatch.setattr(extraction, "_HELD_BYTES", 0)  # so that it is read again
    changed = extractor.transform(files[:1])
    np.testing.assert_allclose(changed, extractor.transform([255 - pixels[0]]), atol=1e-5)
    monkeypatch.undo()
    unchanged = extractor.transform([original])
    assert not np.allclose(unchanged, changed, atol=1e-3)


def test_damaged_rows_are_computed_again(pixels, extractor, tmp_path):
    import sqlite3

    expected = extractor.set_params(memory=tmp_path).fit_transform(pixels)
    with sqlite3.connect(tmp_path / "features.sqlite") as database:
        database.execute("UPDATE rows SET value = zeroblob(LENGTH(value)) WHERE rowid < 4")
    with pytest.warns(UserWarning, match="3 damaged"):
        np.testing.assert_allclose(extractor.transform(pixels), expected, atol=1e-6)
    np.testing.assert_allclose(extractor.transform(pixels), expected, atol=1e-6)


def test_a_store_that_cannot_be_written_costs_nothing_but_time(
    pixels, extractor, tmp_path, monkeypatch
):
    def full(self, keys, rows):
        raise OSError("database or disk is full")

    monkeypatch.setattr(FeatureStore, "add", full)
    extractor.set_params(memory=tmp_path)
    with pytest.warns(UserWarning, match="disk is full") as caught:
        rows = extractor.fit_transform(pixels)
    assert len(caught) == 1
    np.testing.assert_allclose(rows, extractor.set_params(memory=None).transform(pixels), atol=1e-6)


# ---- scikit-learn's ways ----


def test_unfitted_instances_are_cheap():
    extractor = MobileNetV2Features()
    assert len(pickle.dumps(extractor)) < 400
    assert repr(extractor) == "MobileNetV2Features()"
    with pytest.raises(NotFittedError):
        extractor.transform(["a.jpg"])
    with pytest.raises(NotFittedError):
        extractor.get_feature_names_out()


def test_fit_reads_no_image(extractor):
    assert extractor.fit(["not there.jpg"]) is extractor


def test_pickle_holds_the_weights_of_its_blocks_alone(pixels, tmp_path):
    for layer in (3, 15):
        extractor = MobileNetV2Features(layer, weights=None, image_size=SIZE).fit(pixels)
        expected = extractor.transform(pixels)
        n_bytes = sum(array.nbytes for array in extractor.weights_.values())
        joblib.dump(extractor, tmp_path / "extractor.joblib")
        assert (tmp_path / "extractor.joblib").stat().st_size < 1.1 * n_bytes + 50_000
        extractor = joblib.load(tmp_path / "extractor.joblib")
        IN_PROCESS.clear()
        np.testing.assert_array_equal(extractor.transform(pixels), expected)


def test_in_a_column_transformer(files, extractor):
    table = pd.DataFrame({"path": [str(path) for path in files], "age": range(9)})
    both = make_column_transformer((extractor, ["path"]), ("passthrough", ["age"]))
    rows = both.fit_transform(table)
    assert rows.shape == (9, 641) and both.get_feature_names_out()[-1] == "passthrough__age"
    one = make_column_transformer((extractor, "path"))
    np.testing.assert_array_equal(one.fit_transform(table), rows[:, :-1])


def test_input_is_not_modified(pixels, extractor):
    images = pixels.copy()
    images.flags.writeable = False
    extractor.fit_transform(images)
    np.testing.assert_array_equal(images, pixels)
    pil = Image.fromarray(pixels[0]).convert("P")
    before = pil.mode, pil.tobytes(), dict(pil.info)
    extractor.transform([pil])
    assert (pil.mode, pil.tobytes(), dict(pil.info)) == before


def test_threads_of_torch_are_left_as_they_were(pixels, extractor):
    before = torch.get_num_threads()
    extractor.fit_transform(pixels)
    assert torch.get_num_threads() == before


# ---- bad input ----


@pytest.fixture
def bad_files(files, tmp_path):
    """Good images with bad ones between them, and what their messages say."""
    jpeg = io.BytesIO()
    Image.effect_noise((200, 200), 50).save(jpeg, "JPEG")
    bad = {
        "missing.jpg": None,
        "empty.jpg": b"",
        "text.jpg": b"dear diary, today I was renamed",
        "tiny.png": None,
        "directory.jpg": None,
    }
    for name, content in bad.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    Image.new("RGB", (1, 1)).save(tmp_path / "tiny.png")
    (tmp_path / "directory.jpg").mkdir()
    (tmp_path / "truncated.jpg").write_bytes(jpeg.getvalue()[:1000])
    return files[:3], [tmp_path / name for name in [*bad, "truncated.jpg"]]


def test_bad_images_are_named_before_anything_is_computed(bad_files, extractor, trunk_counter):
    good, bad = bad_files
    extractor.fit(good)
    with pytest.raises(ImageError, match=r"sklearn_dfd\.detect") as caught:
        extractor.transform([good[0], *bad, *good[1:], *good * 20])
    assert [row for row, _, _ in caught.value.failures] == [1, 2, 3, 4, 5, 6]
    for row, path in enumerate(bad, start=1):
        assert f"row {row} (" in str(caught.value) and path.name in str(caught.value)
    assert trunk_counter == []
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, OSError)


def test_truncated_data_are_named_and_what_was_computed_is_kept(
    bad_files, extractor, trunk_counter
):
    good, bad = bad_files
    extractor.set_params(batch_size=1, n_jobs=1).fit(good)
    with pytest.raises(ImageError, match=r"row 3 \(.*truncated.jpg.*\): .*truncated"):
        extractor.transform([*good, bad[-1]])
    assert sum(trunk_counter) == 3
    extractor.transform(good)
    assert sum(trunk_counter) == 3


def test_rows_of_nan(bad_files, extractor):
    good, bad = bad_files
    expected = extractor.fit_transform(good)
    extractor.set_params(on_error="nan")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = extractor.transform([good[0], *bad, None, good[1], bad[0], good[2]])
    assert len(caught) == 1
    for path in bad:
        assert path.name in str(caught[0].message)
    np.testing.assert_array_equal(rows[[0, 8, 10]], expected)
    assert np.isnan(np.delete(rows, [0, 8, 10], axis=0)).all() and len(rows) == 11


def test_a_decompression_bomb(extractor, tmp_path):
    import struct
    import zlib

    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9))
    (tmp_path / "bomb.png").write_bytes(bomb + chunk(b"IEND", b""))
    with pytest.raises(ImageError, match=r"bomb.png.*900000000"):
        extractor.fit_transform([tmp_path / "bomb.png"])


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ("photo.jpg", TypeError, "pass a list"),
        (Path("photo.jpg"), TypeError, "pass a list"),
        ([], ValueError, "0 sample"),
        (np.zeros((2, 8, 8, 3)), TypeError, "uint8"),
        (np.zeros((64, 64, 3), np.uint8), ValueError, "newaxis"),
        (np.zeros((2, 7840), np.float32), ValueError, "features"),
        (None, TypeError, "NoneType"),
    ],
)
def test_not_a_collection_of_images(extractor, images, error, message):
    with pytest.raises(error, match=message):
        extractor.fit(images)
    with pytest.raises(error, match=message):
        extractor.fit(["a.jpg"]).transform(images)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("layer", 19),
        ("layer", -1),
        ("layer", "top"),
        ("image_size", 16),
        ("batch_size", 0),
        ("device", "gpu"),
        ("on_error", "ignore"),
        ("n_jobs", 1.5),
        ("memory", 3),
        ("weights", 3),
    ],
)
def test_bad_parameters(extractor, parameter, value):
    with pytest.raises(ValueError, match=parameter):
        extractor.set_params(**{parameter: value}).fit(["a.jpg"])


def test_a_store_that_is_a_file(pixels, extractor, tmp_path):
    (tmp_path / "store").write_text("not a directory")
    with pytest.raises(NotADirectoryError, match="store"):
        extractor.set_params(memory=tmp_path / "store").fit_transform(pixels)


# ---- states that must not matter ----


@pytest.mark.parametrize(
    "state",
    [
        lambda: torch.device("meta"),
        torch.inference_mode,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    ],
    ids=["meta", "inference_mode", "autocast"],
)
def test_what_the_caller_switched_on_in_torch_does_not_matter(pixels, extractor, state):
    expected = extractor.fit_transform(pixels)
    IN_PROCESS.clear()
    features._trunk.cache_clear()
    with state():
        rows = clone(extractor).fit(pixels).transform(pixels)
    np.testing.assert_array_equal(rows, expected)


def test_default_dtype_does_not_matter(pixels, extractor):
    expected = extractor.fit_transform(pixels)
    IN_PROCESS.clear()
    features._trunk.cache_clear()
    architecture.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        rows = clone(extractor).fit(pixels).transform(pixels)
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(rows, expected)


def test_a_layer_set_after_fit_waits_for_the_next_fit(pixels, extractor):
    expected = extractor.fit_transform(pixels)
    extractor.set_params(layer="pool")
    np.testing.assert_array_equal(extractor.transform(pixels), expected)
    assert len(extractor.get_feature_names_out()) == expected.shape[1]
    assert extractor.fit_transform(pixels).shape == (9, 1280)


def test_input_features_are_counted_where_x_is_a_table(files, extractor):
    extractor.fit(pd.DataFrame({"path": files}))
    assert extractor.n_features_in_ == 1 and list(extractor.feature_names_in_) == ["path"]
    extractor.fit(np.array(files, dtype=object)[:, None])
    assert extractor.n_features_in_ == 1 and not hasattr(extractor, "feature_names_in_")
    extractor.fit(files)
    assert not hasattr(extractor, "n_features_in_")


def test_the_warning_lists_all_images_that_cannot_be_used(pixels, extractor):
    missing = [f"missing {i} ü.jpg" for i in range(15)]
    extractor.set_params(on_error="nan")
    with pytest.warns(UserWarning) as caught:
        extractor.fit_transform([*missing, pixels[0]])
    for name in missing:
        assert name in str(caught[0].message)


# ---- colours, and what Pillow is set to ----


def test_photographs_in_display_p3_have_the_features_of_the_same_colours(extractor, tmp_path):
    image = Image.fromarray(picture(6, 8)).resize((96, 64), Image.Resampling.BICUBIC)
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "p3.png", icc_profile=DISPLAY_P3)
    extractor.set_params(memory=tmp_path / "store")
    # as in a store of an earlier release, which ignored profiles
    plain, p3 = extractor.fit_transform([tmp_path / "plain.png", tmp_path / "p3.png"])
    converted = to_rgb((tmp_path / "p3.png").read_bytes())
    (expected,) = extractor.transform([converted])
    assert np.abs(p3 - expected).mean() < 0.5 * np.abs(p3 - plain).mean()
    with Image.open(tmp_path / "p3.png") as opened:
        np.testing.assert_array_equal(extractor.transform([opened])[0], p3)


def test_rows_of_truncated_files_are_not_found_without_the_setting(
    extractor, tmp_path, monkeypatch
):
    raw = encode(Image.fromarray(picture(64, 64)), "JPEG")
    (tmp_path / "a.jpg").write_bytes(raw[: len(raw) * 3 // 4])
    extractor.set_params(memory=tmp_path / "store").fit(["a.jpg"])
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        extractor.transform([tmp_path / "a.jpg"])
    with pytest.raises(ImageError, match="truncated"):
        extractor.transform([tmp_path / "a.jpg"])


def _transform(extractor, images):
    return extractor.transform(images)


@pytest.mark.slow
def test_max_pixels_travels_to_workers_and_their_errors_say_what_does_not(extractor, tmp_path):
    raw = encode(Image.fromarray(picture(64, 64)), "JPEG")
    (tmp_path / "good.jpg").write_bytes(raw)
    (tmp_path / "truncated.jpg").write_bytes(raw[: len(raw) * 3 // 4])
    extractor.set_params(max_pixels=10**9).fit(["a.jpg"])
    with joblib.parallel_config("loky", n_jobs=2):
        parallel = joblib.Parallel()
        (rows,) = parallel([joblib.delayed(_transform)(extractor, [tmp_path / "good.jpg"])])
        assert rows.shape == (1, 640)
        with pytest.raises(ImageError, match=r"truncated.*This is a worker process: .*Pillow"):
            parallel([joblib.delayed(_transform)(extractor, [tmp_path / "truncated.jpg"])])


def test_a_refused_fit_leaves_the_earlier_one():
    transformer = MobileNetV2Features(weights=None, image_size=32)
    images = list(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))
    first, other = (pd.DataFrame({name: images}) for name in ("path", "file"))
    before = transformer.fit(first).transform(first)
    for name, value in (("weights", "absent.pth"), ("device", "cuda:99")):
        usual = getattr(transformer, name)
        with pytest.raises((ValueError, OSError)):
            transformer.set_params(**{name: value}).fit(other)
        transformer.set_params(**{name: usual})
        np.testing.assert_array_equal(transformer.transform(first), before)
