"""What the distortions do to pixels."""

import numpy as np
import pytest
from image_files import encode, photo
from PIL import Image, ImageEnhance

from sklearn_dfd._core.images.distortions import DISTORTIONS
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.robustness import distort


@pytest.fixture(scope="module")
def image():
    return max(make_spliced_photos(40, random_state=0).data, key=np.std)


@pytest.mark.parametrize("name", DISTORTIONS)
def test_the_same_in_every_call_and_worse_from_level_to_level(name, image):
    distortion = DISTORTIONS[name]
    before = image.copy()
    harm = {}
    for level in distortion.levels:
        pixels = distort(image, name, level)
        assert pixels.dtype == np.uint8 and pixels.ndim == 3
        np.testing.assert_array_equal(distort(Image.fromarray(image), name, level), pixels)
        back = Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC)
        harm[level] = np.abs(np.asarray(back) - image.astype(float)).mean()
    np.testing.assert_array_equal(image, before)
    undistorted = min(distortion.undistorted, 100)  # infinity is not a JPEG quality
    for side in (1, -1):
        levels = [level for level in harm if side * (level - undistorted) > 0]
        by_harm = sorted(levels, key=lambda level: harm[level])
        assert by_harm == sorted(levels, key=lambda level: abs(level - undistorted))
    assert min(harm.values()) > 0.1


def test_noise_is_of_its_strength_and_of_the_image_alone(image):
    grey = np.full((64, 64, 3), 128, np.uint8)
    noise = distort(grey, "noise", 10) - 128.0
    assert noise.std() == pytest.approx(10, rel=0.03) and abs(noise.mean()) < 0.3
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.1
    other = distort(grey + 1, "noise", 10) - 129.0
    assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.1


def test_values_are_cut_off_never_wrapped():
    white = np.full((16, 16, 3), 250, np.uint8)
    assert (distort(white, "brightness", 1.5) == 255).all()
    assert distort(white, "noise", 20).min() > 100
    assert (distort(white, "brightness", 0) == 0).all()


def test_sizes_and_brightness_change_as_pillow_changes_them(image):
    pil = Image.fromarray(image)
    expected = pil.resize((48, 48), Image.Resampling.BICUBIC)
    assert np.array_equal(distort(image, "resize", 0.5), expected)
    expected = ImageEnhance.Brightness(pil).enhance(1.25)
    assert np.array_equal(distort(image, "brightness", 1.25), expected)


def test_resizing_keeps_an_image_an_image():
    assert distort(np.zeros((480, 3), np.uint8), "resize", 0.25).shape == (120, 2, 3)
    assert distort(np.zeros((8, 8), np.uint8), "resize", 2).shape == (16, 16, 3)


def test_any_image_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    turned = photo(exif=exif)
    (tmp_path / "a.jpg").write_bytes(turned)
    assert distort(tmp_path / "a.jpg", "blur", 1).shape == (96, 64, 3)
    np.testing.assert_array_equal(
        distort(turned, "blur", 1), distort(str(tmp_path / "a.jpg"), "blur", 1)
    )
    assert distort(encode(Image.new("RGBA", (8, 8)), "PNG"), "jpeg", 50).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("name", "level", "message"),
    [
        ("jpeg", 0, r"'jpeg' must be an int in the range \[1, 95\]; got 0"),
        ("jpeg", 50.5, "'jpeg' must be an int"),
        ("resize", 0, "'resize' must be"),
        ("blur", np.float64(-1), r"'blur' must be .*; got -1\.0\."),
        ("noise", np.nan, "'noise' must be"),
        ("brightness", -0.5, "'brightness' must be"),
        ("jpg", 50, "'distortion' parameter.*'jpeg'"),
    ],
)
def test_levels_out_of_range(name, level, message, image):
    with pytest.raises(ValueError, match=message):
        distort(image, name, level)
