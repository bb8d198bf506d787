"""Tests of _core.images.decoding: what is refused: no image, too small, too large, damaged."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from image_files import RGB, encode, photo, picture
from PIL import ExifTags, Image, ImageFile

from sklearn_dfd._core.images.decoding import MIN_SIDE, check_header, load_rgb, to_rgb

# check_header ------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000"])
def test_header_of_known_formats_is_read_without_decoding(format, monkeypatch):
    raw = photo(format)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
    assert check_header(raw) is None


@pytest.mark.parametrize("raw", [b"", b"\0", b"<!DOCTYPE html>", b"\xff\xd8\xff", photo()[:20]])
def test_header_of_no_image(raw):
    with pytest.raises(ValueError, match="no image format that can be read"):
        check_header(raw)


def test_formats_that_start_other_programs_are_not_opened(monkeypatch):
    raw = encode(RGB, "EPS")
    assert Image.open(io.BytesIO(raw)).format == "EPS"  # it is one, and yet
    with pytest.raises(ValueError, match="no image format that can be read"):
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


def test_closed_pil_image():
    image = RGB.copy()
    image.close()
    with pytest.raises(ValueError, match="truncated or damaged"):
        to_rgb(image)


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
