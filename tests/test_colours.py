"""Tests of _core.images.colours: what a profile says of colours holds wherever an image goes."""

import io
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from image_files import DISPLAY_P3, encode, photo, picture, profile
from PIL import Image, ImageCms, ImageOps

from sklearn_dfd._core.images.decoding import content_digest, feature_digest, load_rgb, to_rgb
from sklearn_dfd._core.images.reading import read_all
from sklearn_dfd.augmentation import View
from sklearn_dfd.robustness import distort

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SMOOTH = Image.fromarray(picture(6, 8)).resize((96, 64), Image.Resampling.BICUBIC)
FORMATS = ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"]


def in_p3(file_format, image=SMOOTH, **options):
    return encode(image, file_format, icc_profile=DISPLAY_P3, **options)


def by_arithmetic(pixels):
    """From Display P3 to sRGB, by the matrices of CSS Color 4."""
    p3_to_xyz = np.array(
        [
            [0.4865709486, 0.2656676932, 0.1982172852],
            [0.2289745641, 0.6917385218, 0.0792869141],
            [0, 0.0451133819, 1.0439443689],
        ]
    )
    xyz_to_srgb = np.array(
        [
            [3.2409699419, -1.5373831776, -0.4986107603],
            [-0.9692436363, 1.8759675015, 0.0415550574],
            [0.0556300797, -0.2039769589, 1.0569715142],
        ]
    )
    values = np.asarray(pixels) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ (xyz_to_srgb @ p3_to_xyz).T, 0, 1)
    values = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return 255 * values


@pytest.mark.parametrize("file_format", FORMATS)
def test_display_p3_becomes_srgb(file_format):
    stored = np.asarray(to_rgb(encode(SMOOTH, file_format)))
    raw = in_p3(file_format)
    expected = by_arithmetic(stored)
    assert np.abs(expected - stored).max() > 20
    for source in (raw, Image.open(io.BytesIO(raw))):
        image = to_rgb(source)
        assert image.mode == "RGB" and image.info == {}
        assert np.abs(np.asarray(image) - expected).max() < 2
        square = load_rgb(source, 32)
        resized = load_rgb(np.ascontiguousarray(stored), 32)
        assert np.abs(square - by_arithmetic(resized)).max() < 2
        # whether colours are converted before resizing or after makes next to no difference
        assert np.abs(square.astype(int) - load_rgb(np.asarray(image), 32)).mean() < 1


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize(
    "icc_profile",
    [None, SRGB, profile("another sRGB"), b"", b"acsp", b"damaged" * 40, DISPLAY_P3[:200]],
    ids=["none", "sRGB", "another sRGB", "empty", "signature", "damaged", "cut off"],
)
def test_without_a_profile_to_convert_nothing_changes(file_format, icc_profile):
    raw = encode(SMOOTH, file_format, **({"icc_profile": icc_profile} if icc_profile else {}))
    bare = encode(SMOOTH, file_format)
    np.testing.assert_array_equal(to_rgb(raw), to_rgb(bare))
    np.testing.assert_array_equal(load_rgb(raw, 32), load_rgb(bare, 32))
    assert feature_digest(raw) == content_digest(raw)  # rows that are kept are found again


@pytest.mark.parametrize("file_format", FORMATS)
def test_converted_images_have_a_key_of_their_own(file_format):
    raw = in_p3(file_format)
    assert feature_digest(raw) != content_digest(raw)
    opened = Image.open(io.BytesIO(raw))
    stored = Image.fromarray(np.asarray(opened))
    assert content_digest(opened) == content_digest(stored)
    assert len({feature_digest(opened), feature_digest(stored), feature_digest(raw)}) == 3


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_other_modes_of_colour(mode):
    image = SMOOTH.convert(mode)
    stored = np.asarray(image.convert("RGB"))
    raw = in_p3("PNG", image)
    assert np.abs(np.asarray(to_rgb(raw)) - by_arithmetic(stored)).max() < 2
    assert np.abs(load_rgb(raw, 32) - by_arithmetic(load_rgb(stored, 32))).max() < 2


def test_profiles_of_grey_images_are_ignored():
    grey = SMOOTH.convert("L")
    np.testing.assert_array_equal(to_rgb(in_p3("PNG", grey)), to_rgb(encode(grey, "PNG")))


def test_profiles_of_another_kind_of_image_are_ignored():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB", 5000)).tobytes()
    raw = encode(SMOOTH, "JPEG", icc_profile=lab)
    np.testing.assert_array_equal(to_rgb(raw), to_rgb(encode(SMOOTH, "JPEG")))
    raw = in_p3("JPEG", SMOOTH.convert("CMYK"))
    np.testing.assert_array_equal(to_rgb(raw), to_rgb(encode(SMOOTH.convert("CMYK"), "JPEG")))
    assert feature_digest(raw) == content_digest(raw)


def test_converting_leaves_the_image_of_the_caller_alone():
    image = Image.open(io.BytesIO(in_p3("PNG")))
    load_rgb(image, 32)
    np.testing.assert_array_equal(image, SMOOTH)
    assert image.info["icc_profile"] == DISPLAY_P3


def test_views_and_distortions_show_the_same_colours(tmp_path):
    (tmp_path / "a.png").write_bytes(in_p3("PNG"))
    path = str(tmp_path / "a.png")
    converted = to_rgb(in_p3("PNG"))
    mirrored = View(path, 0, "mirrored").to_image()
    np.testing.assert_array_equal(mirrored, ImageOps.mirror(converted))
    np.testing.assert_array_equal(
        distort(path, "blur", 1), distort(np.asarray(converted), "blur", 1)
    )
    plain, square = (
        read_all([x], lambda raw: load_rgb(raw, 32))[0] for x in (path, View(path, 0, "mirrored"))
    )
    np.testing.assert_array_equal(square, plain[:, ::-1])


def test_many_threads_convert_alike():
    raws = [in_p3("PNG", Image.fromarray(picture(64, 64, seed=i))) for i in range(20)]
    alone = [load_rgb(raw, 32) for raw in raws]
    with ThreadPoolExecutor(8) as pool:
        for together in pool.map(lambda i: load_rgb(raws[i % 20], 32), range(400)):
            assert any(np.array_equal(together, one) for one in alone)


def test_upright_as_without_a_profile():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert to_rgb(photo(exif=exif, icc_profile=DISPLAY_P3)).size == (64, 96)


def four_inks(lab_of):
    """A profile of CMYK whose solid inks have these colours in Lab, straight in between.

    Written byte by byte, as the International Color Consortium specifies version 2 (with a table
    of eight bits): no sample of one comes with any of the packages.
    """
    corners = bytearray()
    for inks in np.ndindex(2, 2, 2, 2):
        lightness, a, b = lab_of(inks)
        corners += bytes([round(lightness * 2.55), round(a + 128), round(b + 128)])
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *[65536 * (i % 4 == 0) for i in range(9)])
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + ramp * 4 + corners + ramp * 3
    white = struct.pack(">3i", 63190, 65536, 54061)
    name = b"four inks\0"
    tags = {
        b"A2B0": table,
        b"wtpt": b"XYZ " + bytes(4) + white,
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78),
    }
    start = 128 + 4 + 12 * len(tags)
    index, content = struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        index += tag + struct.pack(">II", start + len(content), len(value))
        content += value + bytes(-len(value) % 4)
    kinds = (b"none", b"\x02\x10\0\0", b"prtr", b"CMYK", b"Lab ")
    head = struct.pack(">I", start + len(content)) + b"".join(kinds)
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + white
    return head + bytes(128 - len(head)) + index + content


def test_a_profile_of_four_inks_decides_their_colours():
    def lab_of(inks):
        cyan, magenta, yellow, black = inks
        if (cyan, magenta, yellow, black) == (1, 0, 0, 0):
            return 53, 80, 67  # sRGB's red, which no cyan is without this profile
        return (0, 0, 0) if black else (50 if magenta or yellow else 100, 0, 0)

    profile = four_inks(lab_of)
    for inks, colour in (
        ((255, 0, 0, 0), (255, 0, 0)),
        ((0, 0, 0, 0), (255, 255, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
    ):
        file = io.BytesIO()
        Image.new("CMYK", (48, 40), inks).save(file, "TIFF", icc_profile=profile)
        raw = file.getvalue()
        for found in (to_rgb(raw).getpixel((20, 20)), load_rgb(raw, 32)[16, 16]):
            np.testing.assert_allclose(found, colour, atol=8)
    plain = io.BytesIO()
    Image.new("CMYK", (48, 40), (255, 0, 0, 0)).save(plain, "TIFF")
    assert to_rgb(plain.getvalue()).getpixel((20, 20)) == (0, 255, 255)
