"""JPEG files: where their header ends, and decoding them at a half, a quarter or an eighth.

At a reduced scale the decoder computes fewer pixels of each block of 8 x 8 from its cosine
coefficients: averages of the pixels that it has at full size.
"""

from typing import NamedTuple, TypeAlias

from PIL import Image

#: Left, upper, right and lower edge of a part of an image, in pixels and fractions of them.
Box: TypeAlias = tuple[float, float, float, float]

_FORMATS = ("JPEG", "MPO")
_MARGIN = 2  # both sides stay this many times as long as that of the square: its filter needs that

_START, _SCAN = b"\xff\xd8\xff", 0xDA
_SEQUENTIAL = (0xC0, 0xC1)  # kinds of frames that are decoded as they are read
_OTHER_FRAMES = (0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_TABLES = (0xC4, 0xCC, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE)


class Scan(NamedTuple):
    """The first scan of a JPEG file.

    Parameters
    ----------
    position : int
        Where it begins in the content of the file; all metadata that are read come before.
    is_only : bool
        Whether it holds the whole image, in which case a decoder needs only a few rows of it at a
        time. In several scans, as in progressive files, the coefficients of the whole image are in
        memory at its full size, and a small file can have thousands of them.
    """

    position: int
    is_only: bool


def first_scan(raw: bytes) -> Scan | None:
    """Find the first scan of a JPEG file.

    Parameters
    ----------
    raw : bytes
        The content of an image file.

    Returns
    -------
    scan : Scan or None
        None for other files, and for headers that are not wholly regular.
    """
    if not raw.startswith(_START):
        return None
    n_sequential, position = None, 2
    while position + 10 <= len(raw) and raw[position] == 0xFF:
        kind, length = raw[position + 1], int.from_bytes(raw[position + 2 : position + 4])
        if kind == _SCAN:
            return Scan(position, raw[position + 4] == n_sequential)
        if kind in _SEQUENTIAL:
            n_sequential = raw[position + 9]
        elif kind not in _TABLES and kind not in _OTHER_FRAMES:
            return None
        position += 2 + length
    return None


def scale_down(image: Image.Image, side: int) -> Box | None:
    """Set an image to be decoded at the smallest scale with sides twice as long as needed.

    Parameters
    ----------
    image : PIL image
        Not decoded yet. Its size is changed to the one at which it will be decoded.
    side : int
        Side in pixels of the square that it will be resized to.

    Returns
    -------
    box : tuple of 4 float or None
        The part of the decoded image that is the picture: if the scale does not divide a side, the
        last row or column lies partly outside of it. None where the scale is 1, as it is for small
        images and for formats other than JPEG.
    """
    if image.format not in _FORMATS:
        return None
    size = image.size
    drafted = image.draft(None, (_MARGIN * side, _MARGIN * side))  # type: ignore[func-returns-value]
    return None if drafted is None or image.size == size else drafted[1]
