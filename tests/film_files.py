"""Small films for tests, encoded by PyAV when they are needed."""

import struct
from fractions import Fraction

import av
import numpy as np

WIDTH, HEIGHT = 64, 48


def grey(i, size=(WIDTH, HEIGHT)):
    """Frame number ``i`` of a test film: one grey for each of 50 frames, with a bright corner."""
    pixels = np.full((size[1], size[0], 3), 4 * i + 10, np.uint8)
    pixels[: size[1] // 4, : size[0] // 4] = 250  # the upper left one
    return pixels


def number_of(image):
    """Read the number of a frame made by `grey` from the middle of it."""
    pixels = np.asarray(image)
    return round((float(pixels[pixels.shape[0] // 2, pixels.shape[1] // 2].mean()) - 10) / 4)


def make_film(
    path,
    n_frames=50,
    *,
    size=(WIDTH, HEIGHT),
    codec="mpeg4",
    rate=25,
    gop=12,
    pixel_format="yuv420p",
    ticks=None,
    picture=grey,
    container_options=None,
    options=None,
    on_stream=None,
):
    """Encode a film; ``ticks`` are the times of its frames in units of ``1 / rate`` seconds."""
    with av.open(str(path), "w", options=container_options or {}) as film:
        stream = film.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        stream.gop_size = gop
        stream.codec_context.time_base = Fraction(1, rate)
        if codec in ("mpeg4", "mpeg2video", "msmpeg4", "flv"):
            stream.codec_context.qmin, stream.codec_context.qmax = 1, 2
        if on_stream is not None:
            on_stream(stream)
        for i in range(n_frames):
            pixels = picture(i, size)
            frame = (
                pixels
                if isinstance(pixels, av.VideoFrame)
                else av.VideoFrame.from_ndarray(pixels, format="rgb24")
            )
            frame.pts = i if ticks is None else ticks[i]
            frame.time_base = Fraction(1, rate)
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
    return path


def make_sound(path, *, cover=None):
    """Encode a second of silence, with a cover picture if one is given."""
    with av.open(str(path), "w") as film:
        stream = film.add_stream("aac", rate=44100)
        picture = None
        if cover is not None:
            picture = film.add_stream("mjpeg", rate=1)
            picture.height, picture.width, _ = cover.shape
            picture.pix_fmt = "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
        for i in range(44):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 44100, 1024 * i
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
        if picture is not None:
            film.mux(picture.encode(av.VideoFrame.from_ndarray(cover, format="rgb24")))
            film.mux(picture.encode(None))
    return path


def set_display_matrix(path, a, b, c, d):
    """Write the display matrix of an MP4 film, as phones do to turn their films."""
    raw = bytearray(path.read_bytes())
    start = raw.index(b"tkhd") + 4 + 4 + 4 * 5 + 8 + 8  # of version 0
    values = (a, b, 0, c, d, 0, 0, 0, 1 << 14)
    scaled = [v if v == 1 << 14 else v << 16 for v in values]
    scaled[8] = 1 << 30
    raw[start : start + 36] = struct.pack(">9i", *scaled)
    path.write_bytes(bytes(raw))


def set_duration(path, factor):
    """Multiply the durations in the headers of an MP4 film."""
    raw = bytearray(path.read_bytes())
    for box, skipped in ((b"mvhd", 16), (b"mdhd", 16), (b"tkhd", 20)):
        start = raw.index(box) + 4 + skipped
        (duration,) = struct.unpack(">I", raw[start : start + 4])
        raw[start : start + 4] = struct.pack(">I", int(duration * factor))
    path.write_bytes(bytes(raw))
