"""Distortions that images undergo when they are shared: JPEG, scaling, blur, noise, brightness."""

from collections.abc import Callable
from io import BytesIO
from numbers import Integral, Real
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageFilter

from sklearn_dfd._core.images.decoding import MIN_SIDE, content_digest, to_rgb
from sklearn_dfd._core.images.reading import read_all
from sklearn_dfd._core.images.sources import ImageLike
from sklearn_dfd._core.sklearn_private import Interval, StrOptions, validate_params

__all__ = ["distort"]


def _jpeg(image: Image.Image, quality: float) -> Image.Image:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=int(quality))
    return to_rgb(buffer.getvalue(), max_pixels=image.width * image.height)


def _blur(image: Image.Image, sigma: float) -> Image.Image:
    # Pillow takes a NumPy number for one number per axis
    return image.filter(ImageFilter.GaussianBlur(float(sigma)))


def _noise(image: Image.Image, sigma: float) -> Image.Image:
    # The seed comes from the image itself: the noise is the same wherever the image stands and
    # grows with sigma, and a feature store recognises the noisy image.
    rng = np.random.default_rng(int.from_bytes(content_digest(image)))
    pixels = np.asarray(image)
    noisy = rng.standard_normal(pixels.shape, dtype=np.float32)
    noisy *= sigma  # in place: a photograph is large in floating point
    noisy += pixels
    np.clip(np.rint(noisy, out=noisy), 0, 255, out=noisy)
    return Image.fromarray(noisy.astype(np.uint8))


def _resize(image: Image.Image, factor: float) -> Image.Image:
    width, height = (max(MIN_SIDE, round(factor * side)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _brightness(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(factor)


class Distortion(NamedTuple):
    """How an image is distorted, by how much, and how an axis labels it."""

    apply: Callable[[Image.Image, float], Image.Image]
    levels: tuple[float, ...]
    allowed: Interval
    undistorted: float  # the level that changes nothing, which is drawn on the axis
    descending: bool  # whether lower levels do more harm
    label: str


#: All distortions by name, with their usual levels.
DISTORTIONS = {
    "jpeg": Distortion(
        _jpeg,
        (90, 70, 50, 30),
        Interval(Integral, 1, 95, closed="both"),
        np.inf,
        True,
        "JPEG quality",
    ),
    "resize": Distortion(
        _resize,
        (0.75, 0.5, 0.25),
        Interval(Real, 0, 4, closed="right"),
        1,
        True,
        "Resizing (factor)",
    ),
    "blur": Distortion(
        _blur,
        (1, 2, 3),
        Interval(Real, 0, None, closed="neither"),
        0,
        False,
        "Blur (std in pixels)",
    ),
    "noise": Distortion(
        _noise,
        (5, 10, 20),
        Interval(Real, 0, None, closed="neither"),
        0,
        False,
        "Noise (std in grey levels)",
    ),
    "brightness": Distortion(
        _brightness,
        (0.5, 0.75, 1.25, 1.5),
        Interval(Real, 0, None, closed="left"),
        1,
        False,
        "Brightness (factor)",
    ),
}


@validate_params(
    {
        "image": "no_validation",
        "distortion": [StrOptions(set(DISTORTIONS))],
        "level": [Real],
    },
    prefer_skip_nested_validation=True,
)
def distort(
    image: ImageLike,
    distortion: Literal["jpeg", "resize", "blur", "noise", "brightness"],
    level: float,
) -> npt.NDArray[np.uint8]:
    """Distort one image, in the same way in every call.

    Parameters
    ----------
    image : path, PIL image, ndarray of uint8, bytes or binary file object
        The image. It is not modified. Arrays are in RGB order; an array from OpenCV is in BGR
        order, so pass ``image[..., ::-1]``.

    distortion : {"jpeg", "resize", "blur", "noise", "brightness"}
        How the image is changed, at its own size and upright:

        - "jpeg" saves it as JPEG, with Pillow's chroma subsampling (4:2:0);
        - "resize" scales width and height, with Pillow's antialiased bicubic filter;
        - "blur" is Pillow's Gaussian filter;
        - "noise" adds independent Gaussian noise to each channel of each pixel, seeded by the
          content of the image;
        - "brightness" multiplies all values and clips them at 255.

    level : int or float
        Strength of the distortion: the JPEG quality from 1 to 95, the factor by which the sides
        are multiplied (up to 4), the standard deviation of the blur in pixels, that of the noise
        in grey levels from 0 to 255, or the factor of the brightness.

    Returns
    -------
    pixels : ndarray of shape (height, width, 3) and dtype uint8
        The distorted image, in RGB order.

    Raises
    ------
    ValueError
        If there is no such distortion, or the level is out of its range.
    ImageError
        If the image cannot be used.

    Examples
    --------
    >>> from sklearn_dfd.datasets import make_spliced_photos
    >>> from sklearn_dfd.robustness import distort
    >>> photo = make_spliced_photos(2, random_state=0).data[0]
    >>> distort(photo, "resize", 0.5).shape
    (48, 48, 3)
    """
    check_level(distortion, level)
    (pixels,) = read_all([image], to_rgb)
    return np.array(DISTORTIONS[distortion].apply(pixels, level))


def check_level(distortion: str, level: float) -> None:
    """Check that a level is in the range of its distortion.

    Parameters
    ----------
    distortion : str
        A name of `DISTORTIONS`.
    level : int or float
        The level to check.

    Raises
    ------
    ValueError
        If the level is out of the range.
    """
    allowed = DISTORTIONS[distortion].allowed
    if not allowed.is_satisfied_by(level):
        level = np.asarray(level).tolist()
        raise ValueError(f"The level of {distortion!r} must be {allowed}; got {level!r}.")
