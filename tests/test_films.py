"""Films: which frames are chosen, what they look like, and what each of them costs."""

import io
import os
import pickle
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sklearn_dfd import MobileNetV2Features
from sklearn_dfd._core.images import film, film_file, film_pool
from sklearn_dfd._core.images.decoding import content_digest, load_rgb, to_rgb
from sklearn_dfd._core.images.reading import read_all, read_source
from sklearn_dfd._core.images.sources import as_image_list
from sklearn_dfd.datasets import VideoFrame, frames, load_image_folder
from sklearn_dfd.exceptions import ImageError, LeakageError

av = pytest.importorskip("av")
from film_files import (  # noqa: E402
    grey,
    make_film,
    make_sound,
    number_of,
    set_display_matrix,
    set_duration,
)

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture
def in_process(monkeypatch):
    """Decode films in this process, where a test can watch or change what FFmpeg is told."""
    monkeypatch.setattr(film_pool, "open_film", film.OpenFilm)


@pytest.fixture
def counts(monkeypatch, in_process):
    """Count films that are opened, frames that are decoded and films that are hashed."""
    found = {"opened": 0, "decoded": 0, "hashed": 0}

    def count(owner, name, kind):
        original = getattr(owner, name)

        def counted(*args, **kwargs):
            result = original(*args, **kwargs)
            with lock:
                found[kind] += result is not None or kind == "opened"
            return result

        monkeypatch.setattr(owner, name, counted)

    lock = threading.Lock()
    count(film.OpenFilm, "_open", "opened")
    count(film.OpenFilm, "_next", "decoded")
    hashing = film_pool._Remembered(film_pool._hash, film_pool._is_settled)
    monkeypatch.setattr(film_pool, "_digests", hashing)
    count(hashing, "_call", "hashed")
    return found


def settle():
    """Wait until a change of a file would show in its times."""
    time.sleep(0.1)


CONTAINERS = {"mp4": "mpeg4", "mkv": "mpeg4", "avi": "mpeg4", "mov": "mpeg4", "flv": "flv"}
CONTAINERS |= {"mpg": "mpeg2video", "ts": "mpeg2video", "wmv": "msmpeg4"}


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_frames_lie_in_the_middle_of_equal_parts(tmp_path, suffix):
    path = make_film(tmp_path / f"film.{suffix}", codec=CONTAINERS[suffix])
    found = frames(path, 5)
    assert found.dtype == object and all(isinstance(frame, VideoFrame) for frame in found)
    assert [number_of(frame.to_image()) for frame in found] == [5, 15, 25, 35, 45]
    start = found[0].time - 5 / 25
    since = [frame.time - start for frame in found]
    np.testing.assert_allclose(since, np.arange(5, 50, 10) / 25, atol=0.002)
    assert number_of(frames(path, 1)[0].to_image()) in (24, 25)


def test_a_film_of_few_frames_gives_them_all(tmp_path):
    found = frames(make_film(tmp_path / "film.mp4", 3), 16)
    assert [number_of(frame.to_image()) for frame in found] == [0, 1, 2]
    assert len(frames(make_film(tmp_path / "one.mp4", 1))) == 1


def test_any_order_and_any_time(tmp_path):
    path = make_film(tmp_path / "film.mp4")
    for i in np.random.default_rng(0).permutation(50):
        assert number_of(VideoFrame(path, i / 25).to_image()) == i
        assert number_of(VideoFrame(path, i / 25 + 0.039).to_image()) == i
    assert number_of(VideoFrame(path, -5).to_image()) == 0
    with pytest.raises(ImageError, match=r"'.*film.mp4' at 3.500 s\): it ends at 1.960 s"):
        VideoFrame(path, 3.5).to_image()


def test_b_frames_come_in_the_order_in_which_they_are_shown(tmp_path):
    if "libx264" not in av.codecs_available:
        pytest.skip("this FFmpeg has no encoder for H.264")
    for suffix in ("mp4", "mkv", "ts"):
        path = make_film(tmp_path / f"film.{suffix}", codec="libx264", options={"bf": "3"})
        found = frames(path, 50)
        assert [number_of(frame.to_image()) for frame in found] == list(range(50))
        for i in np.random.default_rng(0).permutation(50)[:10]:
            assert number_of(found[i].to_image()) == i


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_keyframes_that_are_followed_by_earlier_frames(tmp_path, suffix):
    """With open groups of pictures, frames after a keyframe need frames before it."""
    if "libx264" not in av.codecs_available:
        pytest.skip("this FFmpeg has no encoder for H.264")
    y, x = np.mgrid[:48, :64]

    def picture(i, size):
        waves = 128 + 60 * np.sin(x / 6 + i / 9) + 60 * np.cos(y / 5 - i / 7)
        return np.repeat(waves.astype(np.uint8)[..., np.newaxis], 3, axis=2)

    path = make_film(
        tmp_path / f"film.{suffix}",
        150,
        codec="libx264",
        gop=25,
        options={"x264-params": "open-gop=1:bframes=3"},
        picture=picture,
    )
    chosen = frames(path, 150)
    every = np.stack(read_all(chosen, to_rgb))
    for i in np.random.default_rng(0).permutation(150)[:40]:
        shown = np.asarray(chosen[i].to_image())
        assert np.array_equal(shown, every[i])
    far = [VideoFrame(path, frame.time + 0.01) for frame in chosen[5::29]]
    assert np.array_equal(np.stack(read_all(far, to_rgb)), every[5::29])


def test_variable_frame_rate_goes_by_the_times_of_the_frames(tmp_path):
    ticks = [0, 1, 2, 3, 40, 41, 42, 90, 91, 99]
    path = make_film(tmp_path / "film.mkv", 10, ticks=ticks)
    assert [number_of(VideoFrame(path, t / 25).to_image()) for t in ticks] == list(range(10))
    assert number_of(VideoFrame(path, 39 / 25).to_image()) == 3
    assert number_of(VideoFrame(path, 89 / 25).to_image()) == 6
    # by number they would be 1, 3, 6 and 8
    shown = [number_of(frame.to_image()) for frame in frames(path, 4)]
    assert shown == [3, 3, 6, 6][1::2] or shown == [3, 6]


@pytest.mark.parametrize(
    ("codec", "suffix"),
    [
        ("libx264", "mp4"),
        ("libx264", "ts"),
        ("libx265", "mkv"),
        ("mpeg4", "mp4"),
        ("mpeg2video", "mpg"),
    ],
)
def test_what_is_left_out_changes_no_frame(tmp_path, counts, monkeypatch, codec, suffix):
    """Frames far from those asked for are not decoded if no other is decoded from them."""
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no encoder {codec}")
    y, x = np.mgrid[:48, :64]

    def picture(i, size):
        grey = 128 + 60 * np.sin(x / 6 + i / 9) + 60 * np.cos(y / 5 - i / 7)
        return np.repeat(grey.astype(np.uint8)[..., np.newaxis], 3, axis=2)

    quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    options = {"bf": "2", **quiet} if codec in ("libx264", "libx265") else {}

    def with_b_frames(stream):
        if codec in ("mpeg4", "mpeg2video"):
            stream.codec_context.max_b_frames = 2

    for ticks in (None, np.cumsum(np.where(np.arange(150) % 37, 1, 60)).tolist()):
        path = make_film(
            tmp_path / f"film{ticks is None}.{suffix}",
            150,
            codec=codec,
            gop=100,
            options=options,
            picture=picture,
            ticks=ticks,
            on_stream=with_b_frames,
        )
        times = [frame.time + i % 3 * 0.4 for i, frame in enumerate(frames(path, 9)[:-1])]
        found = [VideoFrame(path, seconds) for seconds in times]
        counts["decoded"] = 0
        shown = read_all(found, to_rgb)
        n_decoded = counts["decoded"]
        with monkeypatch.context() as patch:
            patch.setattr(film, "_LEAVE_OUT", ())
            expected = read_all(found, to_rgb)
        assert np.array_equal(np.stack(shown), np.stack(expected))
        if ticks is None:
            assert n_decoded < 0.9 * (counts["decoded"] - n_decoded)


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_packets_have_the_times_of_the_frames(tmp_path, counts, suffix):
    """So that frames are chosen without decoding any."""
    codec = CONTAINERS[suffix]
    options = {}
    if suffix in ("mp4", "mkv") and "libx264" in av.codecs_available:
        codec, options = "libx264", {"bf": "3"}
    whole = make_film(tmp_path / f"film.{suffix}", codec=codec, options=options, gop=12)
    short = make_film(tmp_path / f"short.{suffix}", 3, codec=codec, options=options)
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 9 // 10])
    for path, n_frames in ((whole, 5), (whole, 50), (whole, 200), (short, 16), (cut, 8)):
        if (path, suffix) in ((cut, "mp4"), (cut, "mov"), (short, "ts")):
            continue  # it cannot be opened
        counts["decoded"] = 0
        found = film_pool.times_of_frames(str(path), n_frames, decode=False)
        assert counts["decoded"] == 0
        assert found == film_pool.times_of_frames(str(path), n_frames)
    ticks = [0, 1, 2, 3, 40, 41, 42, 90, 91, 99]
    path = make_film(tmp_path / "variable.mkv", 10, ticks=ticks)
    for n_frames in range(1, 20):
        found = film_pool.times_of_frames(str(path), n_frames, decode=False)
        assert found == film_pool.times_of_frames(str(path), n_frames)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("gop", [12, 1000])
def test_frames_in_order_cost_one_opening_and_one_pass(tmp_path, counts, suffix, gop):
    codec = CONTAINERS[suffix]
    path = make_film(tmp_path / f"film.{suffix}", codec=codec, gop=gop)
    found = frames(path, 16)
    # MPEG streams are sought roughly
    assert counts["opened"] == 1 and counts["decoded"] <= (51 if suffix != "ts" else 110)
    counts.update(opened=0, decoded=0)
    shown = [number_of(image) for image in read_all(as_image_list(found), to_rgb)]
    assert shown == sorted(set(shown)) and len(shown) == 16
    assert counts["opened"] == 1 and counts["decoded"] <= 50


def features(**parameters):
    from sklearn_dfd import MobileNetV2Features

    return MobileNetV2Features(0, weights=None, image_size=32, engine="torch", **parameters)


@pytest.mark.parametrize("batch_size", [3, "auto"])
def test_the_transformer_goes_through_each_film_once(tmp_path, counts, batch_size):
    paths = [
        make_film(tmp_path / f"{i}.mp4", gop=1000, picture=lambda n, size, i=i: grey(n, size) + i)
        for i in range(4)
    ]
    X = np.concatenate([frames(path, 16) for path in paths])
    settle()
    counts.update(opened=0, decoded=0, hashed=0)
    extractor = features(batch_size=batch_size, n_jobs=4, memory=str(tmp_path / "store"))
    shuffled = np.random.default_rng(0).permutation(len(X))
    rows = extractor.fit_transform(X[shuffled])
    assert counts["opened"] == counts["hashed"] == 4 and counts["decoded"] <= 4 * 50
    decoded = [np.asarray(frame.to_image()) for frame in X[shuffled]]
    other = features(memory=str(tmp_path / "other"))
    np.testing.assert_array_equal(rows, other.fit_transform(decoded))

    counts.update(opened=0)
    np.testing.assert_array_equal(extractor.transform(X), rows[np.argsort(shuffled)])
    assert counts["opened"] == 0  # they are in the store


def test_several_films_are_each_opened_once(tmp_path, counts):
    paths = [
        make_film(tmp_path / f"{i}.mp4", gop=1000, picture=lambda n, size, i=i: grey(n, size) + i)
        for i in range(6)
    ]
    X = np.concatenate([frames(path, 16) for path in paths])
    settle()
    counts.update(opened=0, decoded=0, hashed=0)
    features(n_jobs=4, memory=str(tmp_path / "store")).fit_transform(X[::-1])
    # of more than 64 images the headers are checked first, which opens each film once more
    assert counts["opened"] <= 12 and counts["hashed"] == 6 and counts["decoded"] <= 6 * 50
    assert not film_pool._pool._idle  # nothing stays open


def test_robustness_opens_each_film_once(tmp_path, counts):
    from sklearn.dummy import DummyClassifier

    from sklearn_dfd.robustness import evaluate_robustness

    class Judge(DummyClassifier):
        def predict(self, X):
            return (self.decision_function(X) > 100).astype(int)

        def decision_function(self, X):
            images = read_all(as_image_list(X), to_rgb)
            return np.array([np.asarray(image).mean() for image in images])

    paths = [make_film(tmp_path / f"{i}.mp4", gop=1000) for i in range(2)]
    X, y = np.concatenate([frames(path, 16) for path in paths]), np.arange(32) % 2
    judge = Judge().fit(np.zeros((2, 1)), [0, 1])
    settle()
    counts.update(opened=0, decoded=0)
    evaluate_robustness(judge, X, y, distortions={"blur": [2]}, n_resamples=2, random_state=0)
    assert counts["opened"] <= 4  # the headers are checked first
    assert counts["decoded"] <= 3 * 2 * 51  # and each frame is judged as it is, twice


def test_hours_take_no_longer_than_minutes(tmp_path, counts):
    for suffix in ("mp4", "mkv", "ts"):
        codec = CONTAINERS[suffix]
        path = make_film(
            tmp_path / f"film.{suffix}",
            800,
            codec=codec,
            gop=10,
            rate=25,
            ticks=np.arange(800) * 25 * 20,  # one frame in 20 seconds: four hours and a half
            picture=lambda i, size: grey(i // 16, size),
        )
        counts.update(opened=0, decoded=0)
        found = frames(path, 16)
        assert counts["decoded"] <= 16 * 13, suffix
        shown = [number_of(frame.to_image()) for frame in found]
        np.testing.assert_allclose(shown, np.arange(16) * 50 / 16 + 1.5, atol=1), suffix


MATRICES = {
    (1, 0, 0, 1): None,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    # a phone held upright: what is right in the file is down on the screen
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


@pytest.mark.parametrize("matrix", MATRICES)
def test_frames_are_turned_upright(tmp_path, matrix):
    path = make_film(tmp_path / "film.mp4", 3)
    stored = VideoFrame(path, 0).to_image()
    set_display_matrix(path, *matrix)
    shown = VideoFrame(path, 0).to_image()
    expected = stored if MATRICES[matrix] is None else stored.transpose(MATRICES[matrix])
    assert shown.size == expected.size
    np.testing.assert_array_equal(shown, expected)


def test_sizes_as_they_are_stored(tmp_path):
    path = make_film(tmp_path / "odd.mkv", 3, size=(65, 49), codec="ffv1", pixel_format="yuv444p")
    assert VideoFrame(path, 0).to_image().size == (65, 49)

    def wide(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(2)

    path = make_film(tmp_path / "wide.mp4", 3, on_stream=wide)
    assert VideoFrame(path, 0).to_image().size == (64, 48)  # shown as 128x48


def encoded(rgb, kr, kb, full, bits=8):
    """Return luma and chroma of a colour, by the definition in the recommendations of the ITU."""
    r, g, b = (value / 255 for value in rgb)
    luma = kr * r + (1 - kr - kb) * g + kb * b
    chroma = (b - luma) / (2 * (1 - kb)), (r - luma) / (2 * (1 - kr))
    zero, span, chroma_span = (0, 255, 255) if full else (16, 219, 224)
    values = [zero + span * luma, *(128 + chroma_span * c for c in chroma)]
    return [round(value * 2 ** (bits - 8)) for value in values]


MATRIX_OF = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def film_of_colour(path, values, size, matrix, full, bits=8):
    kind = "yuv420p" if bits == 8 else f"yuv420p{bits}le"

    def picture(i, size):
        frame = av.VideoFrame(*size, kind)
        for plane, value in zip(frame.planes, values, strict=True):
            one = bytes([value]) if bits == 8 else struct.pack("<H", value)
            plane.update(one * (plane.buffer_size // len(one)))
        frame.colorspace, frame.color_range = matrix, 2 if full else 1
        return frame

    def tag(stream):
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = 2 if full else 1

    return make_film(
        path, 2, size=size, codec="ffv1", pixel_format=kind, picture=picture, on_stream=tag
    )


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", MATRIX_OF)
@pytest.mark.parametrize("rgb", [(200, 50, 80), (10, 250, 30), (255, 255, 255), (0, 0, 0)])
def test_colours_of_every_matrix_and_range(tmp_path, matrix, full, rgb):
    values = encoded(rgb, *MATRIX_OF[matrix], full)
    path = film_of_colour(tmp_path / "film.mkv", values, (64, 48), matrix, full)
    np.testing.assert_allclose(VideoFrame(path, 0).to_image().getpixel((20, 20)), rgb, atol=2)


@pytest.mark.parametrize(("size", "matrix"), [((64, 48), 6), ((1280, 32), 1), ((32, 720), 1)])
def test_colours_of_films_that_do_not_say(tmp_path, size, matrix):
    values = encoded((200, 50, 80), *MATRIX_OF[matrix], False)
    path = film_of_colour(tmp_path / "film.mkv", values, size, 2, False)
    shown = VideoFrame(path, 0).to_image().getpixel((9, 9))
    np.testing.assert_allclose(shown, (200, 50, 80), atol=2)


def test_ten_bits(tmp_path):
    values = encoded((200, 50, 80), *MATRIX_OF[9], False, bits=10)
    path = film_of_colour(tmp_path / "film.mkv", values, (64, 48), 9, False, bits=10)
    image = VideoFrame(path, 0).to_image()
    assert image.mode == "RGB"
    np.testing.assert_allclose(image.getpixel((9, 9)), (200, 50, 80), atol=2)


def test_a_matrix_that_is_not_converted_is_named(tmp_path):
    path = film_of_colour(tmp_path / "film.mkv", (100, 110, 120), (64, 48), 8, False)
    with pytest.raises(ImageError, match=r"film.mkv.*matrix 8 of ITU-T H.273"):
        VideoFrame(path, 0).to_image()
    with pytest.raises(ImageError, match=r"film.mkv.*matrix 8 of ITU-T H.273"):
        frames(path)


def test_of_two_streams_the_larger_one(tmp_path):
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as out:
        streams = []
        for size in ((32, 32), (64, 48), (64, 48)):
            stream = out.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            streams.append(stream)
        for i in range(5):
            for k, stream in enumerate(streams):
                pixels = grey(10 * k + i, (stream.width, stream.height))
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = i
                out.mux(stream.encode(frame))
        for stream in streams:
            out.mux(stream.encode(None))
    image = VideoFrame(path, 0).to_image()
    assert image.size == (64, 48) and number_of(image) == 10


@pytest.mark.parametrize("factor", [0.1, 20])
def test_the_duration_in_the_header_is_not_believed(tmp_path, factor):
    path = make_film(tmp_path / "film.mp4")
    right = frames(path, 5)
    set_duration(path, factor)
    assert [f.time for f in frames(path, 5)] == [f.time for f in right]
    assert number_of(frames(path, 5)[-1].to_image()) == 45


@pytest.mark.parametrize("factor", [0.1, 20])
def test_the_duration_of_matroska_is_not_believed(tmp_path, factor):
    path = make_film(tmp_path / "film.mkv")
    right = [f.time for f in frames(path, 5)]
    raw = path.read_bytes()
    at = raw.index(b"\x44\x89\x88") + 3
    (duration,) = struct.unpack(">d", raw[at : at + 8])
    path.write_bytes(raw[:at] + struct.pack(">d", duration * factor) + raw[at + 8 :])
    assert [f.time for f in frames(path, 5)] == right


@pytest.mark.parametrize("suffix", ["mkv", "ts", "avi", "mp4"])
def test_a_film_that_was_cut_off_is_as_long_as_what_is_left(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 120, (50, 48, 64, 3)).astype(np.uint8)
    path = make_film(
        tmp_path / f"film.{suffix}",
        codec=CONTAINERS[suffix],
        gop=5,
        picture=lambda i, size: grey(i) // 2 + noise[i],
        container_options={"movflags": "faststart"} if suffix == "mp4" else {},
    )
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) * 6 // 10])
    found = frames(path, 4)
    assert len(found) == 4 and 0.9 < found[-1].time < 1.6
    for frame in found:
        frame.to_image()


def wrong_files(tmp_path):
    def mp4_without_frames(path):
        with av.open(str(path), "w") as out:
            stream = out.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            out.start_encoding()
        return path

    def cut(path):
        make_film(path)
        path.write_bytes(path.read_bytes()[:-900])  # the table of its frames is at its end
        return path

    def png(path):
        buffer = io.BytesIO()
        Image.new("RGB", (9, 9)).save(buffer, "PNG")
        path.write_bytes(buffer.getvalue())
        return path

    def text(path):
        path.write_text("This is no film.\n" * 100)
        return path

    def empty(path):
        path.touch()
        return path

    def tiny(path):
        return make_film(path, 2, size=(1, 48), codec="rawvideo", pixel_format="rgb24")

    def gif(path):
        return make_film(path, 2, codec="gif", pixel_format="rgb8")

    return [
        (mp4_without_frames, "none.mp4", "it has no frames|no video stream"),
        (cut, "cut.mp4", "no video stream that can be read|truncated or damaged"),
        (png, "image.mp4", "it is no film in a container that is read"),
        (text, "text.mp4", "it is no film in a container that is read"),
        (gif, "animation.gif", "it is no film in a container that is read"),
        (empty, "empty.mp4", "the file is empty"),
        (make_sound, "sound.m4a", "it has no video stream"),
        (tiny, "tiny.avi", "1x48 pixels, each side must have at least 2"),
        (lambda path: path, "absent.mp4", "the file does not exist"),
        (lambda path: path.mkdir(), "folder.mp4", "it is a folder, not a file"),
    ]


@pytest.mark.parametrize("case", range(10))
def test_what_is_no_film_is_named_with_the_reason(tmp_path, case):
    make, name, reason = wrong_files(tmp_path)[case]
    path = tmp_path / name
    make(path)
    with pytest.raises(ImageError, match=f"{name}.*: .*({reason})"):
        frames(path)
    with pytest.raises(ImageError, match=f"{name}.*: .*({reason})"):
        VideoFrame(path, 0).to_image()
    with pytest.raises(ImageError, match=f"row 0 .*{name}"):
        features().fit_transform([VideoFrame(path, 0)])


def test_a_cover_picture_is_no_film(tmp_path):
    path = make_sound(tmp_path / "song.mp4", cover=grey(3))
    with av.open(str(path)) as opened:
        assert len(opened.streams.video) == 1
    with pytest.raises(ImageError, match="no video stream, only a cover picture"):
        frames(path)


def test_an_image_that_is_a_film_says_what_to_do(tmp_path):
    path = make_film(tmp_path / "film.mp4", 3)
    with pytest.raises(ImageError, match=r"it is a film: pass sklearn_dfd.datasets.frames\(path\)"):
        features().fit_transform([str(path)])


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{}\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile '{}'\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"
DASH = "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><BaseURL>{}</BaseURL></MPD>"


@pytest.mark.parametrize("content", [HLS, CONCAT, SDP, DASH])
def test_lists_of_other_films_open_nothing(tmp_path, content):
    behind = make_film(tmp_path / "behind.ts", codec="mpeg2video")
    path = tmp_path / "list.mp4"
    path.write_text(content.format(behind))
    code = """
import sys
opened = []
sys.executable = ''  # so that films are decoded in this process
sys.addaudithook(lambda event, args: event in ("open", "socket.connect") and opened.append(args))
from sklearn_dfd.datasets import frames
try:
    frames(sys.argv[1])
except OSError as error:
    print(error)
assert not any("behind.ts" in str(args) for args in opened), opened
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "it is no film in a container that is read" in done.stdout


def test_a_film_may_not_open_other_files():
    with pytest.raises(PermissionError, match="may not open other files"):
        film.refuse_to_open("/etc/passwd", 1, {})


def test_ffmpeg_gets_a_file_and_no_name(tmp_path, monkeypatch, in_process):
    path = make_film(tmp_path / "film.mp4", 3)
    seen = []
    original = av.open

    def spy(file, *args, **kwargs):
        seen.append((file, kwargs))
        return original(file, *args, **kwargs)

    monkeypatch.setattr(av, "open", spy)
    VideoFrame(path, 0).to_image()
    ((file, options),) = seen
    assert not isinstance(file, str | os.PathLike)
    assert options["options"]["protocol_whitelist"] == "none"
    assert "hls" not in options["options"]["format_whitelist"]
    assert "concat" not in options["options"]["format_whitelist"]
    assert options["io_open"] is film.refuse_to_open


def test_limits_of_pixels(tmp_path):
    path = make_film(tmp_path / "film.mp4", 3)
    frame = VideoFrame(path, 0)
    with pytest.raises(ImageError, match=r"film.mp4.*too large \(64x48 pixels; 3000 are allowed"):
        features(max_pixels=3000).fit_transform([frame])
    features(max_pixels=64 * 48).fit_transform([frame])
    with pytest.raises(ImageError, match="too large"):  # also if its row is kept
        features(max_pixels=3000).fit_transform([frame])


def test_limits_of_pixels_hold_within_the_film(tmp_path):
    if "libx264" not in av.codecs_available:
        pytest.skip("this FFmpeg has no encoder for H.264")
    path = make_film(tmp_path / "film.mp4", 5, codec="libx264", size=(640, 480))
    raw = bytearray(path.read_bytes())
    at = raw.index(b"avc1", raw.index(b"stsd")) + 28
    assert raw[at : at + 4] == struct.pack(">HH", 640, 480)
    raw[at : at + 4] = struct.pack(">HH", 16, 16)  # the header of the file, not the film's
    path.write_bytes(bytes(raw))
    raw = read_source(VideoFrame(path, 0))
    with pytest.raises(ValueError, match=r"too large \(640x480"):
        to_rgb(raw, max_pixels=10_000)
    assert to_rgb(raw).size == (640, 480)


def test_limit_of_time(tmp_path, monkeypatch, in_process):
    path = make_film(tmp_path / "film.mp4", 10)
    frame = frames(path, 1)[0]
    monkeypatch.setattr(film_file, "FRAME_SECONDS", -1)
    with pytest.raises(ImageError, match=r"film.mp4.*more than -1 seconds of a core"):
        frame.to_image()
    with pytest.raises(ImageError, match=r"film.mp4.*more than -1 seconds of a core"):
        frames(path)


def test_damage_is_an_error_where_it_is_and_nowhere_else(tmp_path):
    path = make_film(tmp_path / "film.mkv", gop=10)
    raw = bytearray(path.read_bytes())
    with av.open(str(path)) as opened:
        (packet,) = (p for p in opened.demux(video=0) if p.pts == 22 * 40)
        start = raw.index(bytes(packet))
        raw[start : start + packet.size] = b"\xff" * packet.size
    path.write_bytes(bytes(raw))
    whole = [i for i in range(50) if not 22 <= i < 30]
    for i in whole:
        assert number_of(VideoFrame(path, i / 25).to_image()) == i
    with pytest.raises(ImageError, match="damaged"):
        VideoFrame(path, 25 / 25).to_image()
    # in one pass, as well
    X = [VideoFrame(path, i / 25) for i in range(50)]
    rows = features(on_error="nan")
    with pytest.warns(UserWarning, match=r"row 22 .*film.mkv' at 0.880 s\): the film is .*damaged"):
        found = rows.fit_transform(X)
    assert [i for i in range(50) if np.isfinite(found[i]).all()] == whole


def test_a_value(tmp_path):
    frame = VideoFrame(Path("a") / "b.mp4", 2)
    assert frame == VideoFrame(os.path.join("a", "b.mp4"), 2.0) == pickle.loads(pickle.dumps(frame))
    assert len({frame, VideoFrame("a/b.mp4", 2), VideoFrame("a/b.mp4", 3)}) == 2
    assert repr(frame) == f"<VideoFrame 2.000 s of {os.path.join('a', 'b.mp4')!r}>"
    for path, seconds, error in [
        (3, 1, TypeError),
        ("a.mp4", "1", TypeError),
        ("a.mp4", True, TypeError),
        ("a.mp4", float("nan"), ValueError),
        ("a.mp4", float("inf"), ValueError),
    ]:
        with pytest.raises(error, match="it must be"):
            VideoFrame(path, seconds)
    with pytest.raises(TypeError, match="X is a single image"):
        as_image_list(frame)
    with pytest.raises(ValueError, match="n_frames"):
        frames("a.mp4", 0)


def test_the_key_is_the_content_and_the_time(tmp_path):
    one = make_film(tmp_path / "one.mp4", 9)
    other = tmp_path / "other.mp4"
    other.write_bytes(one.read_bytes())

    def key(path, seconds):
        return content_digest(read_source(VideoFrame(path, seconds)))

    first = key(one, 0.2)
    assert first == key(other, 0.2) != key(one, 0.24)
    status = one.stat()
    raw = bytearray(one.read_bytes())
    raw[-1] ^= 1  # as long as before, and with the time of before
    one.write_bytes(bytes(raw))
    os.utime(one, ns=(status.st_atime_ns, status.st_mtime_ns))
    if os.name == "posix":
        assert key(one, 0.2) != first
    assert film_pool.digest_of_film(str(other)) == content_digest(other.read_bytes())


def test_a_new_film_under_an_old_name(tmp_path):
    path = tmp_path / "film.mp4"
    for i in range(20):  # faster than the clock of the file system ticks
        make_film(path, 3, picture=lambda n, size, i=i: grey(i, size))
        frame = VideoFrame(path, 0)
        assert number_of(frame.to_image()) == i
    digests = set()
    for i in range(20):
        make_film(path, 3, picture=lambda n, size, i=i: grey(i, size))
        digests.add(content_digest(read_source(frame)))
    assert len(digests) == 20


def test_a_film_that_changes_after_it_was_looked_up(tmp_path):
    path = make_film(tmp_path / "film.mp4", 3)
    raw = read_source(VideoFrame(path, 0))
    make_film(path, 9)
    with pytest.raises(ValueError, match="changed after its frames had been looked up"):
        load_rgb(raw, 16)


def test_many_threads(tmp_path):
    path = make_film(tmp_path / "film.mp4", gop=7)
    order = np.random.default_rng(0).integers(0, 50, 300)
    with film_pool.films_stay_open(), ThreadPoolExecutor(8) as pool:
        shown = pool.map(lambda i: number_of(VideoFrame(path, i / 25).to_image()), order)
        assert list(shown) == order.tolist()
        assert len(film_pool._pool._idle) <= film_pool._most_open()
    assert not film_pool._pool._idle


def test_few_films_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(film_pool, "_most_open", lambda: 2)
    X = [VideoFrame(make_film(tmp_path / f"{i}.mp4", 3), 0) for i in range(6)]
    with film_pool.films_stay_open():
        for frame in X:
            frame.to_image()
        assert len(film_pool._pool._idle) == 2


@posix
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_process_opens_films_of_its_own(tmp_path):
    path = make_film(tmp_path / "film.mp4", gop=1000)
    with film_pool.films_stay_open():
        assert number_of(VideoFrame(path, 10 / 25).to_image()) == 10
        child = os.fork()
        if not child:
            try:
                good = all(number_of(VideoFrame(path, i / 25).to_image()) == i for i in (11, 40, 5))
            finally:
                os._exit(0 if good else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert number_of(VideoFrame(path, 11 / 25).to_image()) == 11


def test_frames_go_wherever_images_go(tmp_path, counts):
    from sklearn_dfd.augmentation import View, augment, equalize_encoding
    from sklearn_dfd.model_selection import (
        check_leakage,
        check_shortcuts,
        find_copies,
        find_source_groups,
    )

    rng = np.random.default_rng(0)
    scenes = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((96, 72))
        )
        for _ in range(4)
    ]
    paths = [
        make_film(tmp_path / f"{i}.mp4", 20, size=(64, 48), picture=lambda n, s, i=i: (
            scenes[i][n // 2 : n // 2 + 48, n // 2 : n // 2 + 64]
        ))
        for i in range(4)
    ]  # fmt: skip
    X = np.concatenate([frames(path, 3) for path in paths])
    assert find_source_groups(X, n_jobs=2).tolist() == np.repeat(np.arange(4), 3).tolist()

    # frames of one film stay together, however unlike they are
    def cut(n, size):
        return scenes[n // 10][:48, :64]

    film = frames(make_film(tmp_path / "cut.mp4", 20, size=(64, 48), picture=cut), 2)
    assert len(find_copies(film)[0]) == 0
    assert find_source_groups([film[0], X[11], View(film[1], 0)]).tolist() == [0, 1, 0]
    with pytest.raises(LeakageError, match=r"^1 of 2 test images .* similarity 1\.00"):
        check_leakage([X[11], film[0]], [X[6], film[1]])
    strict = MobileNetV2Features(weights=None, image_size=32, max_pixels=np.int64(10**6))
    assert len(strict.fit_transform(film)) == 2  # NumPy's integers reach the film's process
    assert View(X[0], seed=1).to_image().size
    assert repr(View(X[0], seed=1)).endswith(f"of {X[0].name}>")
    equalized = equalize_encoding(X)
    assert equalized[0].is_original and equalized[0].to_image().size == (64, 48)
    assert to_rgb(read_source(equalized[0])).size == (64, 48)
    augmented = augment(X, np.repeat([0, 1], 6), n_views=2)
    assert len(augmented.data) == 36 and len(set(augmented.groups)) == 12
    with pytest.raises(ValueError, match=r"a frame of a film, which has no header"):
        check_shortcuts(X, np.repeat([0, 1], 6), groups=np.repeat(np.arange(4), 3))
    settle()
    counts.update(opened=0, decoded=0)
    features(memory=str(tmp_path / "store")).fit_transform(augmented.data)
    assert counts["opened"] == 4


def test_detector_detects(tmp_path, counts):
    from sklearn_dfd import detect, make_deepfake_pipeline

    paths = [make_film(tmp_path / f"{i}.mp4", 20 + i, gop=1000) for i in range(4)]
    X = np.concatenate([frames(path, 16) for path in paths])
    y = np.repeat([0, 1], 32)
    pipe = make_deepfake_pipeline(
        weights=None, layer=15, image_size=32, max_epochs=1, random_state=0, engine="torch"
    ).fit(X, y)
    fresh = make_film(tmp_path / "new.mp4", 40, gop=1000)
    (tmp_path / "broken.mp4").write_text("no film")
    settle()
    asked = [*frames(fresh, 16), VideoFrame(tmp_path / "broken.mp4", 1.5)]
    counts.update(opened=0, decoded=0, hashed=0)
    table = detect(pipe, asked)
    assert counts["opened"] == 1 and counts["hashed"] == 2 and counts["decoded"] <= 40
    assert table.path.iloc[0] == asked[0].name and "new.mp4" in table.path.iloc[0]
    assert table.error.iloc[:16].eq("").all() or table.error.iloc[:16].isna().all()
    assert "it is no film" in table.error.iloc[16]


def test_without_pyav(tmp_path, monkeypatch, in_process):
    path = make_film(tmp_path / "film.mp4", 3)
    monkeypatch.setitem(sys.modules, "av", None)
    for call in (lambda: frames(path), VideoFrame(path, 0).to_image):
        with pytest.raises(ImportError, match=r'needs av, .*pip install "sklearn-dfd\[video\]"'):
            call()
    for i, name in enumerate(["real", "fake"]):
        (tmp_path / name).mkdir()
        Image.new("RGB", (9, 9), (i, i, i)).save(tmp_path / name / "1.png")
    assert len(load_image_folder(tmp_path).data) == 2  # which needs no PyAV
