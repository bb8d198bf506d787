"""Pictures for tests, in memory and as the bytes of files."""

import io
import struct

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


# primaries as they are in the files of these spaces, adapted to D50; and the curve of sRGB
_PRIMARIES = {
    "Display P3": (
        (0.51512, 0.2412, -0.00105),
        (0.29198, 0.69225, 0.04189),
        (0.1571, 0.06657, 0.78407),
    ),
    "another sRGB": (
        (0.43607, 0.22249, 0.01392),
        (0.38515, 0.71687, 0.09708),
        (0.14307, 0.06061, 0.7141),
    ),
}


def profile(name):
    """Write an ICC profile: of Display P3, as phones embed it, or of sRGB as others write it."""

    def number(value):
        return struct.pack(">i", round(value * 65536))

    def xyz(values):
        return b"XYZ \0\0\0\0" + b"".join(map(number, values))

    curve = b"para\0\0\0\0" + struct.pack(">HH", 3, 0)
    curve += b"".join(map(number, (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)))
    text = name.encode()
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + b"\0" + b"\0" * 79,
        b"cprt": b"text\0\0\0\0free\0",
        b"wtpt": xyz((0.9642, 1, 0.8249)),
        **{f"{c}XYZ".encode(): xyz(v) for c, v in zip("rgb", _PRIMARIES[name], strict=True)},
        **{f"{c}TRC".encode(): curve for c in "rgb"},
    }
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, value in tags.items():
        table += tag + struct.pack(">II", start + len(data), len(value))
        data += value + b"\0" * (-len(value) % 4)
    head = struct.pack(
        ">I4sI4s4s4s", start + len(data), b"\0\0\0\0", 0x02400000, b"mntr", b"RGB ", b"XYZ "
    )
    head += b"\0" * 12 + b"acsp" + b"\0" * 28 + xyz((0.9642, 1, 0.8249))[8:] + b"\0" * 48
    return head + table + data


DISPLAY_P3 = profile("Display P3")
