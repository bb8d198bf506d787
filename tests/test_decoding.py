"""Tests of _core.images.decoding: formats, modes, threads."""

import io
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from image_files import RGB, encode, photo, picture
from PIL import ExifTags, Image, ImageFile, ImageOps

from sklearn_dfd._core.images.decoding import check_header, content_digest, load_rgb, to_rgb
from sklearn_dfd._core.images.reading import read_source

# to_rgb ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "TGA", "PCX", "SGI", "ICO", "QOI"])
def test_lossless_formats_are_exact(format, tmp_path):
    pixels = picture(16, 16)
    path = tmp_path / "picture"  # formats are told by content, not by name
    path.write_bytes(encode(Image.fromarray(pixels), format))
    image = to_rgb(read_source(path))
    assert image.mode == "RGB"
    assert np.array_equal(image, pixels)


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "AVIF", "JPEG2000", "GIF"])
def test_other_formats_are_as_pillow_reads_them(format):
    if format not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {format}")
    raw = photo(format)
    assert np.array_equal(to_rgb(raw), Image.open(io.BytesIO(raw)).convert("RGB"))


def test_webp_lossless_and_animated_first_frame():
    frames = [Image.fromarray(picture(seed=seed)) for seed in range(3)]
    for format, options in (("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})):
        raw = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert Image.open(io.BytesIO(raw)).n_frames == 3
        assert np.array_equal(to_rgb(raw), frames[0])
    frames = [Image.fromarray(picture(channels=None, seed=seed)) for seed in range(3)]
    raw = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.array_equal(to_rgb(raw), frames[0].convert("RGB"))


MODES = ["1", "L", "LA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "P", "PA"]


@pytest.mark.parametrize("mode", MODES)
def test_modes_are_converted_as_pillow_does(mode):
    through = {"RGBa": "RGBA", "PA": "P"}.get(mode, "RGB")
    image = RGB.convert(through).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(picture(channels=None)))
    expected = np.array(image.convert("RGB"))
    assert image.mode == mode
    assert len(np.unique(expected)) > 1
    assert np.array_equal(to_rgb(image), expected)


def test_alpha_is_dropped_not_blended():
    pixels = picture(channels=4)
    pixels[..., 3] = 0
    for raw in (pixels, Image.fromarray(pixels), encode(Image.fromarray(pixels), "PNG")):
        assert np.array_equal(to_rgb(raw), pixels[..., :3])


def test_premultiplied_grey():
    image = Image.fromarray(picture(channels=None)).convert("LA").convert("La")
    assert np.array_equal(to_rgb(image), np.repeat(picture(channels=None)[..., None], 3, axis=2))


@pytest.mark.parametrize("channels", [None, 1])
def test_grey_arrays(channels):
    pixels = picture(channels=channels)
    assert np.array_equal(to_rgb(pixels), np.repeat(pixels.reshape(12, 16, 1), 3, axis=2))


def test_arrays_of_any_layout():
    pixels = picture()
    pixels.flags.writeable = False
    views = [pixels, np.asfortranarray(pixels), picture(24, 32)[::2, ::-2], pixels[:, ::-1, ::-1]]
    for view in views:
        assert np.array_equal(to_rgb(view), np.ascontiguousarray(view))


TRANSPARENCIES = [None, 3, bytes(range(256)), b"\0\x80", b""]


@pytest.mark.parametrize(
    ("format", "transparency"),
    [(format, transparency) for format in ("PNG", None) for transparency in TRANSPARENCIES]
    + [("GIF", None), ("GIF", 3)],  # which knows one transparent colour at most
)
def test_palettes(format, transparency):
    image = RGB.convert("P", palette=Image.Palette.ADAPTIVE, colors=64)
    expected = np.array(image.convert("RGB"))
    options = {} if transparency is None else {"transparency": transparency}
    if format is None:
        image.info.update(options)
        raw = image
    else:
        raw = encode(image, format, **options)
        assert Image.open(io.BytesIO(raw)).mode == "P"
    assert np.array_equal(to_rgb(raw), expected)
    assert np.array_equal(to_rgb(raw), expected)  # and the first time changed nothing


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_transparent_colour_of_grey_and_rgb(mode):
    image = RGB.convert(mode)
    raw = encode(image, "PNG", transparency=3 if mode == "L" else (1, 2, 3))
    assert "transparency" in Image.open(io.BytesIO(raw)).info
    result = to_rgb(raw)
    assert np.array_equal(result, image.convert("RGB"))
    assert result.info == {}


def test_cmyk_jpeg():
    cmyk = Image.open(io.BytesIO(photo())).convert("CMYK")
    raw = encode(cmyk, "JPEG", quality=95)
    image = Image.open(io.BytesIO(raw))
    assert image.mode == "CMYK"
    assert np.array_equal(to_rgb(raw), image.convert("RGB"))
    close = np.asarray(to_rgb(raw), int) - np.asarray(cmyk.convert("RGB"), int)
    assert np.abs(close).mean() < 10  # not inverted


SIXTEEN_BITS = np.arange(65536, dtype=np.uint16).reshape(256, 256)
EIGHT_BITS = np.repeat(np.rint(SIXTEEN_BITS / 257).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "i4"])
def test_16_bit_grey_is_scaled_exactly(dtype):
    assert np.array_equal(to_rgb(Image.fromarray(SIXTEEN_BITS.astype(dtype))), EIGHT_BITS)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_files_are_scaled_exactly(format):
    raw = encode(Image.fromarray(SIXTEEN_BITS), format)
    assert np.array_equal(to_rgb(raw), EIGHT_BITS)


def test_16_bit_big_endian_tiff():
    raw = encode(Image.fromarray(SIXTEEN_BITS.astype(">u2")), "TIFF")
    assert Image.open(io.BytesIO(raw)).mode == "I;16B"
    assert np.array_equal(to_rgb(raw), EIGHT_BITS)


@pytest.mark.parametrize("value", [-1, 65536])
def test_more_than_16_bits_have_no_white_level(value):
    pixels = np.zeros((9, 9), np.int32)
    pixels[4, 4] = value
    image = Image.fromarray(pixels)
    for raw in (image, encode(image, "TIFF")):
        with pytest.raises(ValueError, match="beyond 16 bits, with no defined white level"):
            to_rgb(raw)


def test_floating_point_has_no_white_level():
    image = Image.fromarray(np.ones((9, 9), np.float32))
    for raw in (image, encode(image, "TIFF")):
        for check in (check_header, to_rgb, content_digest if raw is image else to_rgb):
            with pytest.raises(ValueError, match="floating point, with no defined white level"):
                check(raw)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(orientation, format):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    raw = photo(format, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(raw)))
    assert expected.size == ((96, 64) if orientation < 5 else (64, 96))
    loaded = Image.open(io.BytesIO(raw))
    loaded.load()
    for source in (raw, Image.open(io.BytesIO(raw)), loaded):
        for _ in range(2):  # the first time does not turn a PIL image in place
            image = to_rgb(source)
            assert np.array_equal(image, expected.convert("RGB"))
        assert np.array_equal(to_rgb(image), image)  # nor does the result ask to be turned again
        assert np.array_equal(ImageOps.exif_transpose(image), image)


@pytest.mark.parametrize("orientation", [0, 9, 65535, "6", (6, 6), 6.5])
def test_impossible_orientation_is_none(orientation):
    image = RGB.copy()
    image.getexif()[ExifTags.Base.Orientation] = orientation
    assert np.array_equal(to_rgb(image), RGB)


def test_damaged_exif_does_not_cost_the_photograph():
    plain = photo()
    raw = photo(exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40)
    assert np.array_equal(to_rgb(raw), to_rgb(plain))
    image = RGB.copy()
    image.info["exif"] = b"Exif\0\0no TIFF header"
    with pytest.raises(SyntaxError):
        image.copy().getexif()
    assert np.array_equal(to_rgb(image), RGB)


def test_pil_image_is_not_modified():
    image = RGB.convert("P")
    image.info["transparency"] = bytes(range(256))
    image.getexif()[ExifTags.Base.Orientation] = 6
    before = (image.mode, image.size, dict(image.info), image.tobytes(), image.getpalette("RGBA"))
    assert to_rgb(image).size == (12, 16)
    load_rgb(image, 8)
    content_digest(image)
    after = (image.mode, image.size, dict(image.info), image.tobytes(), image.getpalette("RGBA"))
    assert before == after


def test_result_shares_no_memory_with_its_source():
    pixels, image = picture(channels=None), RGB.copy()
    for raw in (pixels, image):
        result = to_rgb(raw)
        result.paste(0, (0, 0, 16, 12))
    assert np.array_equal(pixels, picture(channels=None))
    assert np.array_equal(image, RGB)


# warnings and threads ----------------------------------------------------------------------------


def test_filters_of_the_caller_are_left_as_they_were():
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(to_rgb, [photo(format) for format in ("JPEG", "PNG", "GIF", "TIFF")] * 10))
    with pytest.raises(ValueError, match="damaged"):
        to_rgb(photo()[:600])
    assert list(warnings.filters) == before
    with pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)


def test_overlapping_threads_leak_neither_warnings_nor_filters(monkeypatch):
    # Each load warns as Pillow would, in the middle of the others' silence.
    namespace = {"__name__": "PIL.Fake", "warnings": warnings, "time": time}
    exec(
        "def load(self):\n    time.sleep(0.001)\n    warnings.warn('loud')\n    real(self)",
        namespace,
    )
    namespace["real"] = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", namespace["load"])
    before = list(warnings.filters)
    raw = encode(RGB, "BMP")
    with pytest.raises(UserWarning, match="loud"):
        Image.open(io.BytesIO(raw)).load()
    with ThreadPoolExecutor(8) as pool:
        for image in pool.map(to_rgb, [raw] * 64):
            assert np.array_equal(image, RGB)
    assert list(warnings.filters) == before


def test_one_lazy_pil_image_in_many_threads(tmp_path):
    RGB.resize((400, 300)).save(tmp_path / "a.png")
    expected = np.array(RGB.resize((400, 300)))
    for _ in range(5):
        with Image.open(tmp_path / "a.png") as image, ThreadPoolExecutor(8) as pool:
            for result in pool.map(to_rgb, [image] * 16):
                assert np.array_equal(result, expected)


# load_rgb ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 12, 224])
def test_load_is_pillows_bilinear_resize_of_the_rgb_image(size):
    for raw in (photo(), RGB, picture(), picture(12, 12), picture(channels=None), photo("GIF")):
        pixels = load_rgb(raw, size)
        expected = np.asarray(to_rgb(raw).resize((size, size), Image.Resampling.BILINEAR))
        assert np.array_equal(pixels, expected)
        assert pixels.dtype == np.uint8
        assert pixels.shape == (size, size, 3)
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable


@pytest.mark.parametrize(("height", "width"), [(139, 100), (457, 23), (301, 217), (100, 139)])
def test_tall_images_are_squashed_as_wide_ones_are(height, width):
    """Along the rows first, whatever order this release of Pillow takes."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for size in (64, 224):
        rows = Image.fromarray(pixels).resize((size, height), Image.Resampling.BILINEAR)
        expected = np.asarray(rows.resize((size, size), Image.Resampling.BILINEAR))
        assert np.array_equal(load_rgb(pixels, size), expected)


def test_load_is_antialiased_and_changes_nothing_in_place():
    checkers = np.indices((64, 64)).sum(axis=0) % 2 * np.uint8(255)
    checkers = checkers.astype(np.uint8)
    pixels = load_rgb(checkers, 16)
    assert pixels[4:-4, 4:-4].min() > 120
    assert pixels[4:-4, 4:-4].max() < 136
    same = load_rgb(checkers, 64)
    same[:] = 0
    assert checkers.max() == 255


# content_digest ----------------------------------------------------------------------------------


def test_digest_of_a_file_is_of_its_bytes(monkeypatch):
    raw = photo()
    monkeypatch.setattr(Image, "open", lambda *args, **kwargs: pytest.fail("it was decoded"))
    assert len(content_digest(raw)) == 16
    assert content_digest(raw) == content_digest(bytes(bytearray(raw)))
    assert content_digest(raw) != content_digest(raw + b"\0")
    assert content_digest(b"no image at all") != content_digest(raw)


def test_digest_of_equal_pictures_is_equal():
    array = picture()
    digest = content_digest(array)
    assert len(digest) == 16
    assert content_digest(array.copy()) == digest
    assert content_digest(np.asfortranarray(array)) == digest
    assert content_digest(Image.fromarray(array)) == digest
    lazy = Image.open(io.BytesIO(encode(RGB, "PNG")))
    assert content_digest(lazy) == content_digest(lazy) == content_digest(RGB)


def test_digest_of_different_pictures_is_different():
    array = picture(16, 12)
    palette = RGB.convert("P")
    other_palette = palette.copy()
    other_palette.putpalette(palette.getpalette()[::-1])
    turned = []
    for orientation in range(1, 9):
        image = RGB.copy()
        image.getexif()[ExifTags.Base.Orientation] = orientation
        turned.append(image)
    other = array.copy()
    other[-1, -1, -1] ^= 1
    # The same bytes in other shapes, modes and wrappings
    pictures = [
        array,
        other,
        array.transpose(1, 0, 2),
        array.reshape(8, 24, 3),
        array.reshape(16, 36),
        array.reshape(12, 12, 4),
        array.tobytes(),
        repr((12, 16)).encode() + array.tobytes(),
        Image.frombytes("YCbCr", (12, 16), array.tobytes()),
        Image.frombytes("HSV", (12, 16), array.tobytes()),
        palette,
        other_palette,
        Image.frombytes("L", palette.size, palette.tobytes()),
        *turned,
    ]
    assert len({content_digest(raw) for raw in pictures}) == len(pictures)
