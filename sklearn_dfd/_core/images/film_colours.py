"""The colours of films: from a decoded frame to 8-bit RGB, and which way up it is."""

import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sklearn_dfd._core.validation import import_extra

# Matrix coefficients by the numbers of ITU-T H.273, and those that FFmpeg's scaler has for them.
_BT709, _BT601 = 1, 6
_KNOWN = {_BT709: 1, 4: 4, 5: 5, _BT601: 5, 7: 7, 9: 9}
_SAY_NOTHING = (0, 2, 3)  # of a picture that is not RGB: RGB, unspecified and reserved
# If no matrix is named, larger pictures have the colours of BT.709, smaller ones those of BT.601.
_LARGEST_OF_BT601 = (1279, 576)
_FULL_RANGE = 2

# what turns the picture upright, by the signs of the first four entries of its display matrix
_TRANSPOSE = {
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


def matrix_of(frame: Any) -> int | None:
    """Find out with which matrix the colours of a frame are encoded.

    Parameters
    ----------
    frame : av.VideoFrame
        The frame. If it does not name its matrix, the one that is usual for its size is assumed, as
        players do.

    Returns
    -------
    matrix : int or None
        The number that FFmpeg's scaler has for it, 0 for RGB; None if it cannot be converted.
    """
    if frame.format.is_rgb:
        return 0
    matrix = int(frame.colorspace)
    if matrix in _SAY_NOTHING:
        large = frame.width > _LARGEST_OF_BT601[0] or frame.height > _LARGEST_OF_BT601[1]
        matrix = _BT709 if large else _BT601
    return _KNOWN.get(matrix)


def to_rgb_pixels(frame: Any) -> npt.NDArray[np.uint8]:
    """Convert a decoded frame to RGB, with the matrix and the range that it names.

    Parameters
    ----------
    frame : av.VideoFrame
        The frame, of a matrix that can be converted.

    Returns
    -------
    pixels : ndarray of shape (height, width, 3), dtype uint8
        In RGB order, computed alike on every machine.
    """
    reformatter = import_extra("av.video.reformatter", "A film")
    how = reformatter.Interpolation
    matrix = matrix_of(frame)
    rgb = reformatter.VideoReformatter().reformat(
        frame,
        format="rgb24",
        src_colorspace=matrix or None,
        dst_color_range=_FULL_RANGE,
        # slower than FFmpeg's default, whose error is up to two of 255 levels and varies by machine
        interpolation=how.BILINEAR | how.FULL_CHR_H_INT | how.ACCURATE_RND | how.BITEXACT,
        threads=1,
    )
    pixels: npt.NDArray[np.uint8] = rgb.to_ndarray()
    return pixels


def orientation_of(frame: Any) -> Image.Transpose | None:
    """Find the transposition that turns a frame upright.

    Parameters
    ----------
    frame : av.VideoFrame
        The frame, whose display matrix may turn and mirror it.

    Returns
    -------
    transpose : PIL.Image.Transpose or None
        The nearest of the quarter turns and mirror images; None where it is upright.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None
    raw = bytes(matrix)
    if len(raw) < 36:
        return None
    a, b, _, c, d = struct.unpack("=5i", raw[:20])
    turned = abs(b) + abs(c) > abs(a) + abs(d)
    signs = (0, _sign(b), _sign(c), 0) if turned else (_sign(a), 0, 0, _sign(d))
    return _TRANSPOSE.get(signs)


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)
