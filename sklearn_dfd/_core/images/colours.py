"""Embedded colour profiles: which of them call for a conversion to sRGB, and that conversion.

Photographs from phones are usually in Display P3, edited ones usually in sRGB. If both were read as
if they were in one colour space, a detector could tell them apart by their camera.
"""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from sklearn_dfd._core.images.jpeg import first_scan

#: Levels of 255 by which colours may differ from sRGB and still count as sRGB. Profiles of sRGB
#: differ from one another by one; Display P3 differs by more than 50.
_TOLERANCE = 2

#: Modes whose colours are those of an RGB profile. Profiles of grey images are ignored: they give
#: the tone curve of a printer or a screen, and no colour.
_RGB_MODES = frozenset({"RGB", "RGBA", "RGBX", "RGBa", "P", "PA"})


def may_hold_a_profile(raw: bytes) -> bool:
    """Tell without parsing whether the content of a file may hold a colour profile.

    Every profile holds the signature ``acsp``; PNG alone compresses it, in a chunk ``iCCP``.

    Parameters
    ----------
    raw : bytes
        The content of an image file.

    Returns
    -------
    may : bool
        False if there is certainly none.
    """
    scan = first_scan(raw)  # it would take a tenth of the time of decoding to look further
    if scan is not None:
        return b"acsp" in raw[: scan.position]
    return b"acsp" in raw or b"iCCP" in raw


def profile_to_convert(image: Image.Image) -> bytes | None:
    """Return the embedded profile of an image whose colours differ from sRGB.

    Parameters
    ----------
    image : PIL image
        Decoded or not, with the metadata of its file.

    Returns
    -------
    profile : bytes or None
        None if there is no profile, its colours are those of sRGB, it is damaged, or it does not
        belong to images of this mode. The colours are then treated as sRGB.
    """
    profile = image.info.get("icc_profile")
    mode = "CMYK" if image.mode == "CMYK" else "RGB"
    if not isinstance(profile, bytes) or not profile:
        return None
    if mode == "RGB" and image.mode not in _RGB_MODES:
        return None
    return None if _conversion(profile, mode) is None else profile


def in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert an image of mode RGB or CMYK from the colours of its profile to sRGB.

    Parameters
    ----------
    image : PIL image of mode RGB or CMYK
    profile : bytes
        What `profile_to_convert` returned.

    Returns
    -------
    image : PIL image of mode RGB
        Without metadata.
    """
    conversion = _conversion(profile, image.mode)
    if conversion is None:
        return image.convert("RGB")
    converted = conversion.apply(image)
    converted.info = {}
    return converted


@lru_cache(maxsize=32)  # a collection has few cameras
def _conversion(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    try:
        conversion = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.NOCACHE,  # threads share it
        )
    except (ImageCms.PyCMSError, OSError):  # damaged, or of other images
        return None
    if not isinstance(conversion, ImageCms.ImageCmsTransform):
        return None
    if mode == "RGB":
        levels = np.linspace(0, 255, 9).round().astype(np.uint8)
        palette = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
        converted = np.asarray(conversion.apply(Image.fromarray(palette)))
        if np.abs(converted.astype(np.int16) - palette).max() <= _TOLERANCE:
            return None
    return conversion
