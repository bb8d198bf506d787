"""Pictures for tests, in memory and as the bytes of files."""

import io

import numpy as np
from PIL import Image


def picture(height=12, width=16, channels=3, seed=0, dtype=np.uint8):
    """Random pixels: any mix-up of axes or channels shows."""
    shape = (height, width) if channels is None else (height, width, channels)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def encode(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


RGB = Image.fromarray(picture())


def photo(format="JPEG", **options):
    """Encode a smooth picture, large enough to be cut in the middle of its data."""
    return encode(RGB.resize((96, 64), Image.Resampling.BICUBIC), format, **options)
