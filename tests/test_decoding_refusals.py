"""Tests of _core.images.decoding: what is refused: not an image, too small, too large, damaged."""

import io
import random
import re
import struct
import sys
import types
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from image_files import RGB, encode, photo, picture
from PIL import ExifTags, Image, ImageFile

from sklearn_dfd._core.images.decoding import (
    MIN_SIDE,
    check_header,
    content_digest,
    feature_digest,
    load_rgb,
    to_rgb,
)
from sklearn_dfd._core.images.reading import read_source
from sklearn_dfd._core.images.sources import as_image_list

# check_header ------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000"])
def test_header_of_known_formats_is_read_without_decoding(format, monkeypatch):
    raw = photo(format)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
    assert check_header(raw) is None


@pytest.mark.parametrize("raw", [b"", b"\0", b"<!DOCTYPE html>", b"\xff\xd8\xff", photo()[:20]])
def test_header_of_no_image(raw):
    with pytest.raises(ValueError, match="not in an image format that can be read"):
        check_header(raw)


def test_formats_that_start_other_programs_are_not_opened(monkeypatch):
    raw = encode(RGB, "EPS")
    assert Image.open(io.BytesIO(raw)).format == "EPS"  # it is one, and yet
    with pytest.raises(ValueError, match="not in an image format that can be read"):
        check_header(raw)


@pytest.mark.parametrize("shape", [(1, 1), (MIN_SIDE - 1, 99), (99, MIN_SIDE - 1), (0, 0), (9, 0)])
def test_images_too_small_to_show_anything(shape):
    array = np.zeros(shape, np.uint8)
    raws = [array, array[..., np.newaxis].repeat(3, axis=2)]
    raws.append(Image.new("RGB", shape[::-1]))
    if array.size:
        raws.append(encode(Image.fromarray(array), "PNG"))
    for raw in raws:
        message = rf"is {shape[1]}x{shape[0]} pixels, each side must have at least {MIN_SIDE}"
        for check in (check_header, to_rgb):
            with pytest.raises(ValueError, match=message):
                check(raw)


def test_smallest_image():
    array = picture(MIN_SIDE, MIN_SIDE)
    for raw in (array, Image.fromarray(array), encode(Image.fromarray(array), "PNG")):
        check_header(raw)
        assert np.array_equal(load_rgb(raw, MIN_SIDE), array)


def huge_png(width, height):
    """Write a PNG that claims a size, with next to no data."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "side", [10_000, 30_000]
)  # Pillow warns at the first, raises at the second
def test_decompression_bombs(side):
    raw = huge_png(side, side)
    pixels = rf"({side}x{side}|{side * side}) pixels"
    message = rf"too large \(.*{pixels}.*PIL\.Image\.MAX_IMAGE_PIXELS is {Image.MAX_IMAGE_PIXELS}"
    for check in (check_header, to_rgb):
        with pytest.raises(ValueError, match=message):
            check(raw)


def test_decompression_limit_is_that_of_pillow_now(monkeypatch):
    raw = encode(RGB, "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16 * 12)
    check_header(raw)
    for limit in (16 * 12 - 1, 16 * 12 // 2 - 1):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ValueError, match=f"MAX_IMAGE_PIXELS is {limit}"):
            check_header(raw)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    check_header(huge_png(30_000, 30_000))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "MPO"])
def test_a_limit_that_is_given_decides_alone(format, monkeypatch):
    options = {"save_all": True, "append_images": [RGB]} if format == "MPO" else {}
    raw = encode(RGB.resize((30, 20)), format, **options)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow refuses more than 200
    with pytest.raises(ValueError, match=r"MAX_IMAGE_PIXELS is 100.*max_pixels"):
        check_header(raw)
    for limit in (600, 10**9):
        check_header(raw, limit)
        assert to_rgb(raw, limit).size == (30, 20)
    with pytest.raises(ValueError, match=r"max_pixels is 599"):
        check_header(raw, 599)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_limit_that_is_given_leaves_others_theirs(monkeypatch):
    """Threads that read at the same time, under Pillow's own limit."""
    raw = photo()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)

    def refused(i):
        if i % 2:
            return to_rgb(raw, 10**6).size == (96, 64)
        with pytest.raises(ValueError, match="MAX_IMAGE_PIXELS is 100"):
            check_header(raw)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(refused, range(400)))
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize(
    ("raw", "advice"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", r"HEIC photograph.*pip install pillow-heif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0", r"HEIC photograph.*pip install pillow-heif"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", r"a film: pass sklearn_dfd\.datasets\.frames"),
        (b"\x1a\x45\xdf\xa3webm", r"a film: pass sklearn_dfd\.datasets\.frames"),
        (b"RIFF\0\0\0\0AVI LIST", r"a film: pass sklearn_dfd\.datasets\.frames"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\n<HTML>", "a web page"),
        (b"<?xml version='1.0'?><svg/>", "an SVG drawing"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"\x93NUMPY\x01\0", r"np\.load"),
        (b"PK\x03\x04", r"zipfile\.Path"),
        (b"%PDF-1.7", "a PDF document"),
        (b"%!PS-Adobe-3.0", "a PostScript program"),
    ],
)
def test_files_that_are_no_images_are_called_what_they_are(raw, advice, monkeypatch):
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ValueError, match=rf"not in an image format that can be read: .*{advice}"):
        check_header(raw)


def test_plugin_that_is_installed_is_registered_where_it_is_needed(monkeypatch):
    """In a worker process nobody has done so."""
    raw = b"\0\0\0\x18ftypheic" + encode(RGB, "PNG")
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))

    def opened(file, name):
        return Image.open(io.BytesIO(file.read()[12:]))

    def register_heif_opener():
        Image.register_open("HEIF", opened, lambda prefix: prefix[4:12] == b"ftypheic")

    plugin = types.SimpleNamespace(register_heif_opener=register_heif_opener)
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    check_header(raw)
    assert np.array_equal(to_rgb(raw), RGB)


def test_truncated_files_that_pillow_is_told_to_load_have_other_features(monkeypatch):
    raw = photo()
    truncated = raw[: len(raw) * 3 // 4]
    strict = feature_digest(truncated), feature_digest(raw)
    with pytest.raises(ValueError, match="truncated"):
        to_rgb(truncated)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert to_rgb(truncated).size == (96, 64)
    lenient = feature_digest(truncated), feature_digest(raw)
    assert len({*strict, *lenient}) == 4
    assert feature_digest(RGB) == content_digest(RGB)
    assert feature_digest(picture()) == content_digest(picture())


# arrays of another dtype -------------------------------------------------------------------------


def code_in(message):
    """The expression that a message says to use."""
    converted = re.search(r"convert them with (.*?)(?: if |$)", message)
    return (converted or re.search(r"is expected: (.*?) where ", message))[1]


GREY = np.linspace(0, 255, 35).round().reshape(5, 7)


@pytest.mark.parametrize(
    "wrong",
    [
        GREY.astype(np.int64),
        GREY.astype(np.int32),
        GREY.astype(np.uint16),
        GREY.astype(np.float32),
        GREY,
        GREY / 255,
        (GREY / 255).astype(np.float16),
        (GREY * 257).astype(np.uint16),
        (GREY * 257).astype(np.int64),
        (GREY > 100),
        (GREY > 100).astype(np.int64),
    ],
    ids=lambda wrong: f"{wrong.dtype}-{wrong.max()}",
)
@pytest.mark.parametrize("name", ["X", "image"])
def test_hints_followed_to_the_letter(wrong, name):
    if name == "X":
        array, check = np.repeat(wrong[np.newaxis, ..., np.newaxis], 2, 0), as_image_list
    else:
        array, check = wrong, read_source
    with pytest.raises(TypeError, match="uint8 from 0 to 255 is expected") as caught:
        check(array)
    right = eval(code_in(str(caught.value)), {"np": np, name: array})
    check(right)
    expected = (
        np.where(wrong > 0, 255, 0) if wrong.max() == 1 and wrong.dtype.kind in "bi" else GREY
    )
    assert np.array_equal(right.reshape(-1, 5, 7)[0], expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (GREY / 64 - 2, r"from -2 to 1\.984, as after a normalisation: undo it first"),
        (np.where(GREY == 0, np.nan, GREY), "not finite"),
        (GREY.astype(complex), "not pixels"),
        (GREY.astype("M8[s]"), "not pixels"),
    ],
)
def test_values_that_no_conversion_makes_pixels(wrong, message):
    with pytest.raises(TypeError, match=message):
        read_source(wrong)


# to_rgb ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000"])
def test_truncated_files(format):
    raw = photo(format)
    assert to_rgb(raw)
    with pytest.raises(ValueError, match=r"truncated or damaged \(\w+: .*\)"):
        to_rgb(raw[: len(raw) * 3 // 4])


@pytest.mark.parametrize(
    "error",
    [SyntaxError, IndexError, OverflowError, MemoryError, KeyError, EOFError, RecursionError],
)
def test_whatever_pillow_raises_is_a_value_error(error, monkeypatch):
    def fail(*args, **kwargs):
        raise error("first\nsecond")

    raw = photo()
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    reason = rf"^the image data are truncated or damaged \({error.__name__}: .*first.*second.*\)$"
    with pytest.raises(ValueError, match=reason):
        to_rgb(raw)


def test_interrupts_pass(monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageFile.ImageFile, "load", interrupt)
    with pytest.raises(KeyboardInterrupt):
        to_rgb(photo())


@pytest.mark.parametrize("format", [None, "JPEG", "PNG", "GIF", "TIFF"])
def test_closed_pil_image(format, tmp_path):
    if format is None:
        image = RGB.copy()
        image.close()
    else:
        (tmp_path / "image").write_bytes(photo(format))
        with Image.open(tmp_path / "image") as image:
            pass
    for use in (to_rgb, content_digest):
        with pytest.raises(ValueError, match=r"closed before it was read: call its load\(\)"):
            use(image)


def test_closed_after_it_was_read(tmp_path):
    """As the message says."""
    (tmp_path / "image").write_bytes(photo())
    with Image.open(tmp_path / "image") as image:
        image.load()
    assert np.array_equal(to_rgb(image), to_rgb(tmp_path.joinpath("image").read_bytes()))


def mutated(raw, rng):
    """Damage a file as disks, networks and attackers do."""
    raw = bytearray(raw)
    for _ in range(rng.choice([1, 1, 2, 8, 40])):
        at = rng.choice([rng.randrange(len(raw)), rng.randrange(min(64, len(raw)))])
        kind = rng.randrange(4)
        if kind == 0:
            raw[at] = rng.randrange(256)
        elif kind == 1:
            raw[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            raw[at : at + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"])
        else:
            del raw[at : at + rng.randrange(1, 20)]
        if len(raw) < 20:
            break
    return bytes(raw)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "TIFF-LZW", "WEBP", "ICO"])
def test_damaged_files_are_decoded_or_a_value_error(format, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000_000)  # damaged sizes shall not cost time
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    options = {"exif": exif} if format in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    image = RGB.resize((48, 32)) if format != "GIF" else RGB.resize((48, 32)).convert("P")
    if format == "TIFF-LZW":
        raw = encode(image, "TIFF", compression="tiff_lzw")
    else:
        raw = encode(image, format, **options)
    rng = random.Random(format)
    outcomes = {"decoded": 0, "refused": 0}
    for _ in range(70):
        damaged = mutated(raw, rng)
        try:
            check_header(damaged)
            pixels = load_rgb(damaged, 16)
        except ValueError as error:
            assert len(str(error)) < 300, error
            assert "object at 0x" not in str(error)
            outcomes["refused"] += 1
        else:
            assert pixels.shape == (16, 16, 3)
            outcomes["decoded"] += 1
    assert outcomes["refused"] > 0
    assert outcomes["decoded"] > 0 or format == "PNG"  # whose checksums miss next to nothing
