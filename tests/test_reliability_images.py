"""What the package withstands: hostile images, odd files, and limits."""

import io
import os
import random
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import images as hostile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import encode, picture
from PIL import ExifTags, Image, ImageCms

from sklearn_dfd import MobileNetV2Features
from sklearn_dfd._core import extraction
from sklearn_dfd._core.extraction import Extraction
from sklearn_dfd._core.images import decoding
from sklearn_dfd._core.images.decoding import Decoding, check_header, load_rgb, to_rgb
from sklearn_dfd._core.images.sources import as_image_list
from sklearn_dfd.datasets import load_image_folder
from sklearn_dfd.exceptions import ImageError
from sklearn_dfd.feature_store import MemoryStore

SEEDS = hostile.seeds()
posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")


def features(**parameters):
    return MobileNetV2Features(0, weights=None, image_size=32, engine="torch", **parameters)


@pytest.mark.parametrize("name", SEEDS)
def test_seeds_are_decoded(name):
    assert hostile.outcome(SEEDS[name]) == "decoded"


@pytest.mark.slow
def test_mutated_files_are_decoded_or_refused():
    counts, defects = hostile.fuzz(seed=1, n_files=2000)
    assert not defects
    for name in SEEDS:
        assert counts[name, "refused"] > 0, name
    assert sum(n for (_, outcome), n in counts.items() if outcome == "decoded") > 200


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_files_spliced_by_hypothesis(data):
    raw = bytearray(SEEDS[data.draw(st.sampled_from(sorted(SEEDS)))])
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(raw)))
        stop = data.draw(st.integers(start, min(start + 30, len(raw))))
        raw[start:stop] = data.draw(st.binary(max_size=30))
    hostile.outcome(bytes(raw))


def test_rows_beside_mutated_files_are_those_of_their_images():
    rng = random.Random(3)
    good = list(SEEDS.values())
    files = [raw for seed in good for raw in (seed, hostile.mutate(seed, rng))]

    def run(pixels):
        return pixels.reshape(len(pixels), -1).astype(np.float32)

    with ThreadPoolExecutor(2) as pool:
        store = MemoryStore(2**20)
        done = Extraction(as_image_list(files), 16 * 16 * 3, "", store, pool, Decoding(16))
        done.survey()
        done.compute(run, 4, go_on=True)
    for row, raw in enumerate(files):
        if row % 2 == 0:
            assert row not in done.failures
        if row not in done.failures:
            np.testing.assert_array_equal(done.features[row], load_rgb(raw, 16).ravel())
    assert done.failures


def test_pixel_limit_is_a_parameter(tmp_path, monkeypatch):
    small, large = tmp_path / "small.png", tmp_path / "large.png"
    Image.fromarray(picture(40, 50)).save(small)
    Image.fromarray(picture(41, 50)).save(large)
    extractor = features(max_pixels=2000).fit([small])
    assert extractor.transform([small]).shape[0] == 1
    with pytest.raises(ImageError, match=r"row 1 .*large\.png.*50x41 pixels; max_pixels is 2000"):
        extractor.transform([small, large])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.raises(ImageError, match="MAX_IMAGE_PIXELS is 2000"):
        features().fit_transform([large])
    assert features(max_pixels=2050).fit_transform([large]).shape[0] == 1
    with pytest.raises(ValueError, match="max_pixels"):
        features(max_pixels=0).fit([small])


@pytest.mark.parametrize("kept", ["process", "directory"])
def test_pixel_limit_holds_for_images_whose_features_are_kept(kept, tmp_path, monkeypatch):
    memory = tmp_path / "store" if kept == "directory" else None
    small, large = (encode(Image.fromarray(picture(h, 50)), "PNG") for h in (40, 41))
    rows = features(memory=memory).fit_transform([small, large])
    limited = features(memory=memory, max_pixels=2000, on_error="nan").fit([small])
    with pytest.warns(UserWarning, match=r"2 of 3 images .* row 0 .*; row 2 .*max_pixels is 2000"):
        found = limited.transform([large, small, large])
    assert np.isnan(found[[0, 2]]).all()
    np.testing.assert_array_equal(found[1], rows[0])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.raises(ImageError, match=r"row 1 .*50x41 pixels; PIL\.Image\.MAX_IMAGE_PIXELS is"):
        features(memory=memory).fit_transform([small, large])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    np.testing.assert_array_equal(features(memory=memory).fit_transform([small, large]), rows)


def test_headers_of_images_whose_features_are_kept_are_not_read(monkeypatch):
    images = [encode(Image.fromarray(picture(40, 50)), "PNG")]
    rows = features().fit_transform(images)
    monkeypatch.setattr(extraction, "check_header", None)
    np.testing.assert_array_equal(features().fit_transform(images), rows)


def jpeg_of_many_scans(n_scans, side=1500):
    raw = encode(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    return raw[:-2] + raw[raw.rfind(b"\xff\xda") : -2] * n_scans + raw[-2:]


def test_time_limit_stops_a_jpeg_of_many_scans(monkeypatch):
    raw = jpeg_of_many_scans(3000)  # which takes about half a minute
    monkeypatch.setattr(decoding, "DECODING_SECONDS", 0.3)
    check_header(raw)
    start = time.thread_time()
    with pytest.raises(ValueError, match=r"takes more than 0\.3 seconds"):
        to_rgb(raw)
    assert time.thread_time() - start < 5


def test_time_limit_stops_decoders_in_python(monkeypatch):
    raw = encode(Image.fromarray(picture(600, 600)), "DDS")
    monkeypatch.setattr(decoding, "DECODING_SECONDS", 0.05)
    with pytest.raises(ValueError, match=r"takes more than 0\.05 seconds"):
        load_rgb(raw, 16)


@pytest.mark.parametrize("magic", [b"BLP2", b"SIMPLE  =                    T"])
def test_envelopes_are_not_opened(magic):
    with pytest.raises(ValueError, match="not in an image format"):
        check_header(magic + bytes(4000))


KINDS = ["GIF animated", "WebP animated", "APNG", "JPEG CMYK", "PNG 16 bits", "JPEG", "TIFF pages"]
NAMES = ["with space", "new\nline", "-rf *", "$(touch x)", "café", "\udcff\udcfe", "%s{0}"]


@pytest.fixture
def folder(tmp_path):
    """Two classes of all kinds of files, under all kinds of names."""
    for target in ("real", "fake"):
        (tmp_path / target).mkdir()
        for kind, name in zip(KINDS, NAMES, strict=True):
            try:
                (tmp_path / target / name).write_bytes(SEEDS[kind])
            except (OSError, UnicodeError):
                pytest.skip("the file system does not take such names")
    return tmp_path


@posix
def test_all_kinds_of_files_and_names(folder):
    faces = load_image_folder(folder)
    assert len(faces.data) == 2 * len(KINDS)
    rows = features().fit_transform(faces.data)
    for path, row in zip(faces.data, rows, strict=True):
        kind = KINDS[NAMES.index(Path(path).name)]
        np.testing.assert_allclose(row, features().fit_transform([SEEDS[kind]])[0])


def _loop(path):
    path.symlink_to(path.name)


BAD = {
    "a loop": _loop,
    "a pipe": lambda path: os.mkfifo(path),
    "nothing": lambda path: path.symlink_to("nowhere"),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(SEEDS["JPEG"][:40]),
    "text": lambda path: path.write_bytes(b"<html>"),
}


@posix
@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_named_by_both(folder, kind):
    BAD[kind](folder / "real" / "bad\none.jpg")
    path = str(folder / "real" / "bad\none.jpg")
    with pytest.raises(ImageError, match=r"bad\\none\.jpg"):
        load_image_folder(folder)
    good = str(folder / "real" / NAMES[0])
    with pytest.raises(ImageError, match=r"row 1 .*bad\\none\.jpg"):
        features().fit_transform([good, path])
    with pytest.warns(UserWarning, match=r"bad\\none\.jpg"):
        rows = features(on_error="nan").fit_transform([good, path])
    assert np.isfinite(rows[0]).all() and np.isnan(rows[1]).all()


@contextmanager
def somebody_else():
    """Work as a user whom permissions bind; the root of a container is not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)  # nobody
    try:
        yield
    finally:
        os.seteuid(0)


@posix
def test_files_without_permission():
    with tempfile.TemporaryDirectory() as directory:  # since those of pytest are its user's alone
        folder = Path(directory)
        folder.chmod(0o755)
        for target in ("fake", "real"):
            (folder / target).mkdir()
            (folder / target / "good.png").write_bytes(SEEDS["PNG"])
        closed = folder / "real" / "closed.png"
        closed.write_bytes(SEEDS["PNG"])
        closed.chmod(0)
        files = [folder / "real" / "good.png", closed]
        expected = features().fit_transform(files[:1])
        with somebody_else():
            with pytest.raises(ImageError, match=r"closed\.png.*no permission"):
                load_image_folder(folder)
            with pytest.raises(ImageError, match=r"row 1 .*closed\.png.*no permission"):
                features().fit_transform(files)
            with pytest.warns(UserWarning, match=r"row 1 .*closed\.png.*no permission"):
                rows = features(on_error="nan").fit_transform(files)
        np.testing.assert_array_equal(rows[:1], expected)
        assert np.isnan(rows[1]).all()
        (folder / "real").chmod(0)
        with somebody_else():
            with pytest.raises(ImageError, match=r"row 0 .*good\.png.*no permission"):
                features().fit_transform(files[:1])
            with pytest.raises(PermissionError):  # not a class of no images
                load_image_folder(folder)
        (folder / "real").chmod(0o755)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_turned_photograph_with_a_profile_gives_the_features_of_the_upright_one(file_format):
    """By EXIF, as cameras turn them; a profile of another kind of image is ignored."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB", 5000)).tobytes()
    photo = Image.fromarray(picture(40, 56)).resize((112, 80), Image.Resampling.BICUBIC)
    bare = encode(photo, file_format)
    dressed = encode(photo, file_format, exif=exif, icc_profile=profile)
    with Image.open(io.BytesIO(dressed)) as image:
        assert image.info["icc_profile"] == profile
    stored = np.asarray(to_rgb(bare))
    upright, lying = features().fit_transform([np.rot90(stored, -1), stored])
    np.testing.assert_array_equal(features().fit_transform([dressed])[0], upright)
    assert np.abs(upright - lying).max() > 0.1


@posix
def test_files_that_vanish(folder, monkeypatch):
    faces = load_image_folder(folder)
    os.remove(faces.data[3])  # between listing and survey
    with pytest.raises(ImageError, match=r"row 3 .*does not exist"):
        features().fit_transform(faces.data)

    def run(pixels):
        return pixels.reshape(len(pixels), -1).astype(np.float32)

    monkeypatch.setattr(extraction, "_HELD_BYTES", 0)  # so that files are read again
    with ThreadPoolExecutor(1) as pool:  # and between survey and decoding
        store = MemoryStore(2**20)
        done = Extraction(list(faces.data[:3]), 8 * 8 * 3, "", store, pool, Decoding(8))
        done.survey()
        assert not done.failures
        os.remove(faces.data[1])
        done.compute(run, 4, go_on=True)
    assert list(done.failures) == [1] and "does not exist" in done.failures[1]


@posix
def test_files_beyond_the_limit_of_bytes_are_not_read(tmp_path, monkeypatch):
    with open(tmp_path / "sparse.jpg", "wb") as file:
        file.write(SEEDS["JPEG"])
        file.truncate(2**40)  # takes no space
    with pytest.raises(ImageError, match=r"sparse\.jpg.*larger than 1,073,741,824 bytes"):
        features().fit_transform([tmp_path / "sparse.jpg"])
