"""Mutated image files: each must be decoded properly, or refused with a reason of ours."""

import io
import random
import time
import warnings
from collections import Counter

import numpy as np
from PIL import ExifTags, Image

from sklearn_dfd._core.images.decoding import check_header, content_digest, load_rgb

SIDE = 16  # of the decoded square
MAX_PIXELS = 250_000  # so that a mutated size costs neither time nor memory
SECONDS = 2.0  # of a core that one file may take
MESSAGE = 300  # characters that a reason may have


def seeds():
    """Small valid files of many kinds, by name."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    rgb = rgb.resize((48, 36), Image.Resampling.BICUBIC)
    deep = Image.fromarray(rng.integers(0, 65536, (36, 48)).astype(np.uint16))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    icc = rng.bytes(200)

    def frames():  # new ones each time: Pillow leaves the options of a format on an image
        return {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}

    kinds = {
        "JPEG": (rgb, "JPEG", {"exif": exif, "icc_profile": icc}),
        "JPEG progressive": (rgb, "JPEG", {"progressive": True}),
        "JPEG CMYK": (rgb.convert("CMYK"), "JPEG", {}),
        "MPO": (rgb, "MPO", frames()),
        "PNG": (rgb.convert("RGBA"), "PNG", {"exif": exif, "icc_profile": icc}),
        "PNG palette": (rgb.quantize(16), "PNG", {"transparency": 3}),
        "PNG 16 bits": (deep, "PNG", {}),
        "APNG": (rgb, "PNG", frames()),
        "GIF": (rgb.quantize(16), "GIF", {"transparency": 3}),
        "GIF animated": (rgb, "GIF", frames()),
        "WebP": (rgb, "WEBP", {"exif": exif, "icc_profile": icc}),
        "WebP lossless": (rgb.convert("RGBA"), "WEBP", {"lossless": True}),
        "WebP animated": (rgb, "WEBP", frames()),
        "BMP": (rgb, "BMP", {}),
        "BMP palette": (rgb.quantize(16), "BMP", {}),
        "TIFF": (rgb, "TIFF", {"exif": exif, "icc_profile": icc}),
        "TIFF LZW": (rgb, "TIFF", {"compression": "tiff_lzw"}),
        "TIFF deflate": (deep, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "TIFF JPEG": (rgb, "TIFF", {"compression": "jpeg"}),
        "TIFF CMYK": (rgb.convert("CMYK"), "TIFF", {}),
        "TIFF pages": (rgb, "TIFF", frames()),
        "JPEG 2000": (rgb, "JPEG2000", {}),
        "AVIF": (rgb, "AVIF", {}),
        "ICO": (rgb, "ICO", {}),
        "TGA": (rgb, "TGA", {"compression": "tga_rle"}),
        "QOI": (rgb, "QOI", {}),
        "PPM": (rgb, "PPM", {}),
        "SGI": (rgb, "SGI", {}),
        "PCX": (rgb, "PCX", {}),
        "DDS": (rgb, "DDS", {}),
    }
    files = {}
    for name, (image, file_format, options) in kinds.items():
        buffer = io.BytesIO()
        image.copy().save(buffer, file_format, **options)
        files[name] = buffer.getvalue()
    return files


def mutate(raw, rng, others=()):
    """Damage a file as disks, networks and attackers do: bits, bytes, sizes, pieces, lengths."""
    raw = bytearray(raw)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16, 64])):
        at = rng.randrange(rng.choice([len(raw), min(64, len(raw))]))
        kind = rng.randrange(8)
        if kind == 0:
            raw[at] = rng.randrange(256)
        elif kind == 1:
            raw[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            raw[at : at + 4] = rng.choice(
                [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\1\0"]
            )
        elif kind == 3:
            del raw[at : at + rng.randrange(1, 40)]
        elif kind == 4:
            raw[at:at] = raw[at : at + rng.randrange(1, 40)]
        elif kind == 5:
            raw[at:at] = rng.randbytes(rng.randrange(1, 40))
        elif kind == 6 and others:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            raw[at : at + 64] = other[start : start + 64]
        elif kind == 7 and rng.random() < 0.2:
            del raw[at:]
        if not raw:
            return b""
    return bytes(raw)


def outcome(raw):
    """Decode a file as the extraction does.

    Returns "decoded" or "refused"; anything else that happens is a defect, and an AssertionError.
    """
    start = time.thread_time()
    results = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no noise
        for _ in range(2):
            try:
                check_header(raw, MAX_PIXELS)
                results.append(load_rgb(raw, SIDE, MAX_PIXELS))
            except ValueError as error:
                reason = str(error)
                assert reason and len(reason) < MESSAGE and "object at 0x" not in reason, reason
                assert reason.isprintable() or "\n" not in reason, reason
                results.append(None)
            except Exception as error:
                raise AssertionError(f"{type(error).__name__}: {error}") from error
    assert time.thread_time() - start < SECONDS, f"{time.thread_time() - start:.0f} s"
    first, second = results
    if first is None:
        assert second is None, "refused once, decoded once"
        return "refused"
    assert first.shape == (SIDE, SIDE, 3) and first.dtype == np.uint8
    assert np.array_equal(first, second), "the same bytes, other pixels"
    assert len(content_digest(raw)) == 16
    return "decoded"


def fuzz(seed, n_files, seconds=float("inf"), on_file=None):
    """Mutate files and decode them; count outcomes by kind, as (kind, outcome), and defects."""
    rng = random.Random(seed)
    files = seeds()
    names, others = list(files), list(files.values())
    counts, defects = Counter(), []
    deadline = time.monotonic() + seconds
    for i in range(n_files):
        if time.monotonic() > deadline:
            break
        name = names[i % len(names)]
        raw = mutate(files[name], rng, others)
        if on_file:
            on_file(raw)
        try:
            counts[name, outcome(raw)] += 1
        except AssertionError as error:
            defects.append((name, str(error), raw.hex()))
    return counts, defects
