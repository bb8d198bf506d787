"""Grey thumbnails, without frames and masks, and parts of them."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter

SIDE = 48  # of a thumbnail, in pixels
_FRAME_SIDE = 384  # the shorter side is not reduced below this before frames are searched for
_FRAME_NOISE = 16  # grey levels by which compression may change a bar of one colour
_FRAME_BLUR = 4  # pixels over which compression may blur its end
_N_FRAMES = 2  # frames within one another
_LEAST_IN_FRAME = 0.2  # share of a side that must be left
_FLAT_SIDE = 5  # of a square of one colour; smaller ones are not filled in
_LEAST_FLAT = 0.04  # share of the picture; smaller areas are not filled in

#: Part of an image: top, bottom, left and right edge, from 0 to 1.
Box: TypeAlias = tuple[float, float, float, float]


def thumbnail(image: Image.Image) -> np.ndarray:
    """Shrink an image to a grey square, uint8 of shape (side, side)."""
    grey = image.convert("L").reduce(max(1, min(image.size) // _FRAME_SIDE))
    grey = Image.fromarray(_unframed(np.asarray(grey)))
    return _continued(np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR)))


def _unframed(grey: np.ndarray) -> np.ndarray:
    """Cut off frames: bars of one colour, alike on two opposite sides, that end along a line."""
    for _ in range(2 * _N_FRAMES):
        unlike = np.abs(grey - np.median(grey[0])) > _FRAME_NOISE
        share = unlike.mean(axis=1)
        # A bar ends abruptly, a plain background gradually, where a head begins.
        (start, end), (stop, other_end) = (
            (np.argmax(lines > 0.1), np.argmax(lines > 0.5)) for lines in (share, share[::-1])
        )
        sharp = start <= end <= start + _FRAME_BLUR and stop <= other_end <= stop + _FRAME_BLUR
        inside = grey[
            end + 1 : len(grey) - other_end - 1
        ]  # without the lines in between, which mix
        alike = abs(end - other_end) <= 2
        if start and stop and sharp and alike and len(inside) > _LEAST_IN_FRAME * len(grey):
            grey = inside
        grey = grey.T
    return grey


def _continued(thumb: np.ndarray) -> np.ndarray:
    """Fill in areas of one colour from around them, so that the edge of a mask is not matched."""
    flat = maximum_filter(thumb, _FLAT_SIDE) == minimum_filter(thumb, _FLAT_SIDE)
    # Most must have the same colour: a plain wall, which is kept, is lighter on one side.
    of_one = flat & (thumb == np.bincount(thumb[flat], minlength=1).argmax())
    if of_one.mean() < _LEAST_FLAT or 2 * of_one.sum() < flat.sum():
        return thumb
    # Out to their edges, and over the pixels there that mix both sides.
    flat = maximum_filter(of_one, _FLAT_SIDE + 2)
    if flat.all():
        return thumb
    x = thumb.astype(np.float32)
    known = 1 - flat.astype(np.float32)
    filled = np.full_like(x, (x * known).sum() / known.sum())
    for sigma in (16, 8, 4, 2, 1):
        weight = gaussian_filter(known, sigma)
        near = np.minimum(10 * weight, 1)
        filled += near * (gaussian_filter(x * known, sigma) / np.maximum(weight, 1e-6) - filled)
    return np.where(flat, filled, x).round().astype(np.uint8)


def stretching(start: float, stop: float) -> npt.NDArray[np.float64]:
    """Make the matrix that stretches a part of a line of pixels to the whole line, linearly.

    Parameters
    ----------
    start, stop : float
        Ends of the part, from 0 to 1.

    Returns
    -------
    matrix : ndarray of shape (SIDE, SIDE)
        Matrix to multiply a line of pixels by, from the left.
    """
    places = SIDE * start + (np.arange(SIDE) + 0.5) * (stop - start) - 0.5
    distance = np.abs(places[:, np.newaxis] - np.arange(SIDE))
    weights = np.maximum(1 - distance, 0)
    return weights / weights.sum(axis=1, keepdims=True)
