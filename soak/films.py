"""Mutated films: the frames of each must be decoded properly, or refused with a reason of ours."""

import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import av
import images
import numpy as np

from sklearn_dfd._core.images.decoding import load_rgb
from sklearn_dfd._core.images.film_pool import films_stay_open, raw_frame, times_of_frames

N_FRAMES = 3
SECONDS = 20.0  # that one film may take

# file name -> encoder, pixel format and options
KINDS = {
    "mp4": ("mpeg4", "yuv420p", {}),
    "mov": ("mjpeg", "yuvj420p", {}),
    "mkv": ("libx264", "yuv420p", {"bf": "2"}),
    "webm": ("libvpx-vp9", "yuv420p", {"cpu-used": "8"}),
    "avi": ("ffv1", "yuv444p", {}),
    "mpg": ("mpeg2video", "yuv420p", {}),
    "ts": ("libx264", "yuv420p", {"bf": "2"}),
    "flv": ("flv", "yuv420p", {}),
    "wmv": ("msmpeg4", "yuv420p", {}),
}


def seeds():
    """Make small valid films of each kind that this FFmpeg can encode, by the end of its name."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    scene = np.kron(pixels, np.ones((18, 18, 1), np.uint8))
    films = {}
    with tempfile.TemporaryDirectory() as folder:
        for suffix, (codec, pixel_format, options) in KINDS.items():
            if codec not in av.codecs_available:
                continue
            path = Path(folder, f"film.{suffix}")
            with av.open(str(path), "w") as film:
                stream = film.add_stream(codec, rate=25, options=options)
                stream.width, stream.height, stream.pix_fmt = 48, 36, pixel_format
                stream.gop_size = 5
                for i in range(12):
                    part = np.ascontiguousarray(scene[i : i + 36, i : i + 48])
                    film.mux(stream.encode(av.VideoFrame.from_ndarray(part, format="rgb24")))
                film.mux(stream.encode(None))
            films[suffix] = path.read_bytes()
    return films


def decoded(path, decode=True):
    """Choose and decode frames; None if they are refused.

    As a loader and a transformer do, or without ``decode`` as the command does.
    """
    try:
        times = times_of_frames(path, N_FRAMES, images.MAX_PIXELS, decode=decode)
        with films_stay_open():
            raws = [raw_frame(path, seconds) for seconds in times]
            return [load_rgb(raw, images.SIDE, images.MAX_PIXELS) for raw in raws]
    except (OSError, ValueError) as error:
        reason = str(error)
        assert reason and len(reason) < images.MESSAGE and "object at 0x" not in reason, reason
        assert not reason.startswith("the process that decodes it"), reason  # FFmpeg crashed
        assert reason.isprintable() or "\n" not in reason, reason
        return None
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}") from error


def outcome(raw, path):
    """Decode a film twice, and once as the command does.

    Returns "decoded" or "refused"; anything else that happens is a defect, and an AssertionError.
    """
    Path(path).write_bytes(raw)
    start = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no noise
        first, second = decoded(path), decoded(path)
        decoded(path, decode=False)
    assert time.monotonic() - start < SECONDS, f"{time.monotonic() - start:.0f} s"
    if first is None:
        assert second is None, "refused once, decoded once"
        return "refused"
    assert second is not None, "decoded once, refused once"
    assert 1 <= len(first) <= N_FRAMES
    assert all(frame.shape == (images.SIDE, images.SIDE, 3) for frame in first)
    assert np.array_equal(first, second), "the same bytes, other pixels"
    return "decoded"


def fuzz(seed, n_files, seconds=float("inf"), on_file=None):
    """Mutate films and decode them; count outcomes by kind, as (kind, outcome), and defects."""
    rng = random.Random(seed)
    films = seeds()
    names, others = list(films), list(films.values())
    counts, defects = Counter(), []
    deadline = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        for i in range(n_files):
            if time.monotonic() > deadline:
                break
            name = names[i % len(names)]
            raw = images.mutate(films[name], rng, others)
            if on_file:
                on_file(raw)
            try:
                counts[name, outcome(raw, str(Path(folder, f"{i}.{name}")))] += 1
            except AssertionError as error:
                defects.append((name, str(error), raw.hex()))
            Path(folder, f"{i}.{name}").unlink(missing_ok=True)
    return counts, defects


if __name__ == "__main__":
    found, wrong = fuzz(int(sys.argv[1]), int(sys.argv[2]))
    print(found, *[(name, reason) for name, reason, _ in wrong], sep="\n")
