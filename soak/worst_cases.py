"""How long, and in how much memory, files made to be slow are decoded.

    python soak/worst_cases.py

Images of 20 million pixels that compress to next to nothing, each in a process of its own; the last
two columns are scaled to the default limit of pixels. The memory is read as Linux tells it.
"""

import io
import struct
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

SIDE = 4472
SCALE = Image.MAX_IMAGE_PIXELS / SIDE**2


def jpeg_of_scans(n_scans):
    """Repeat the last scan of a progressive JPEG, 800 bytes for as much work as you like."""
    raw = encode(Image.new("L", (SIDE, SIDE), 128), "JPEG", progressive=True)
    return raw[:-2] + raw[raw.rfind(b"\xff\xda") : -2] * n_scans + raw[-2:]


def encode(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def cases():
    """Yield names and functions that make files."""
    rgb = Image.new("RGB", (SIDE, SIDE), (1, 2, 3))
    for name, image, file_format, options in [
        ("PNG", rgb.convert("RGBA"), "PNG", {"compress_level": 1}),
        ("GIF", rgb.convert("P"), "GIF", {}),
        ("JPEG", rgb, "JPEG", {"subsampling": 0}),
        ("JPEG, progressive", rgb, "JPEG", {"subsampling": 0, "progressive": True}),
        ("JPEG, CMYK, progressive", rgb.convert("CMYK"), "JPEG", {"progressive": True}),
        ("WebP", rgb, "WEBP", {"method": 0}),
        ("WebP, lossless", rgb, "WEBP", {"lossless": True, "method": 0}),
        ("AVIF", rgb, "AVIF", {"speed": 10}),
        ("JPEG 2000", rgb, "JPEG2000", {}),
        ("TIFF, LZW", rgb, "TIFF", {"compression": "tiff_lzw"}),
        ("TIFF, deflate", rgb, "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("DDS, a decoder in Python", rgb, "DDS", {}),
    ]:
        yield name, lambda i=image, f=file_format, o=options: encode(i, f, **o)
    run = b"qoif" + struct.pack(">II", SIDE, SIDE) + b"\3\0" + b"\xfd" * (SIDE**2 // 62 + 1)
    yield "QOI, runs", lambda: run
    yield "JPEG, 100 scans more", lambda: jpeg_of_scans(100)
    yield "JPEG, 10,000 scans more", lambda: jpeg_of_scans(10_000)


def peak():
    # not ru_maxrss, in which Linux counts what the parent took before it started this process
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def decode(name):
    from sklearn_dfd._core.images.decoding import load_rgb

    raw = sys.stdin.buffer.read()
    before, start = peak(), time.thread_time()
    try:
        load_rgb(raw, 224)
        outcome = "decoded"
    except ValueError as error:
        outcome = str(error).split(",")[0]
    seconds, megabytes = time.thread_time() - start, peak() - before
    print(
        f"| {name} | {len(raw):,} | {outcome} | {seconds:.1f} s | {seconds * SCALE:.0f} s | "
        f"{megabytes * SCALE:.0f} MB |",
        flush=True,
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        decode(sys.argv[1])
    else:
        print("| file | bytes | outcome | time of a core | at the limit | memory at the limit |")
        print("|---|---|---|---|---|---|", flush=True)
        for name, make in cases():
            subprocess.run([sys.executable, __file__, name], input=make(), check=True)
