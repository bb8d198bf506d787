"""One open film: the picture that it shows at a time, and where it begins and ends.

What is wrong is stated in a short sentence that does not name the film: the caller knows which one
it is.
"""

import math
from array import array
from collections import deque
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sklearn_dfd._core.images.decoding import USUAL_MAX_PIXELS
from sklearn_dfd._core.images.film_colours import matrix_of, orientation_of, to_rgb_pixels
from sklearn_dfd._core.images.film_file import (
    FilmFault,
    FilmFile,
    TimedFile,
    reason_of,
    refuse_to_open,
)
from sklearn_dfd._core.validation import import_extra

#: Shortest side of a picture in pixels.
_MIN_SIDE = 2

# Containers that hold a film in one file. Others name files and addresses to read on with.
_CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,ivf"
_CONTAINERS_IN_WORDS = "MP4, MOV, Matroska, WebM, AVI, MPEG, FLV, ASF, Ogg or IVF"
_CODECS = (
    "h264 hevc libdav1d av1 vp8 vp9 mpeg4 mpeg2video mpeg1video msmpeg4 msmpeg4v1 msmpeg4v2 wmv1 "
    "wmv2 wmv3 vc1 h263 flv vp6 vp6f theora mjpeg prores dnxhd dvvideo ffv1 huffyuv ffvhuff "
    "utvideo qtrle png rawvideo"
).split()

# Codecs whose decoders decode the same when frames are left out from which no other is decoded.
_LEAVE_OUT = ("h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video")
_INDEXED = ("mov", "matroska", "avi")  # containers whose index has the keyframes and no others
_FAR = 5  # seconds ahead, beyond which a keyframe is sought where there is no such index
_NEAR = Fraction(1, 4)  # seconds before a time, from which on every frame is decoded
_BEYOND = 10**6  # seconds, later than the end of any film
# seconds before a time at which its keyframe is looked for: some formats seek only roughly
_STEPS_BACK = (0, 1, 4, 16, 64, 256, 1024, 4096)


class OpenFilm:
    """A film that is open, for one thread at a time.

    Parameters
    ----------
    film : FilmFile
        The film.
    max_pixels : int or None
        Number of pixels that a frame may have; None for any number.

    Attributes
    ----------
    size : tuple of two int
        Width and height in pixels, as the header says.

    Raises
    ------
    ImportError
        If PyAV is not installed.
    OSError
        If the file cannot be read.
    ValueError
        If it is not a film that can be read, it has no pictures, or it has changed.
    """

    # the frames are av.VideoFrame
    _current: Any = None  # the last one that is not later than the time asked for
    _ahead: Any = None  # the one after it, if it is decoded
    _packets: Iterator[Any] = iter(())

    def __init__(self, film: FilmFile, max_pixels: int | None) -> None:
        self._film = film
        self._file = TimedFile(film.open())
        self._max_pixels = max_pixels
        self._container: Any = None
        self._pixels: tuple[int, npt.NDArray[np.uint8]] | None = None  # the last ones, by time
        try:
            self._av = import_extra("av", "A film")
            with self._file.in_words():
                self._open()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the film and its file."""
        self._packets = iter(())
        self._current = self._ahead = None
        if self._container is not None:
            self._container.close()
            self._container = None
        self._file.close()

    @property
    def position(self) -> Fraction | None:
        """Time in seconds from which it can go on without going back; None at the beginning."""
        return None if self._current is None else _pts(self._current) * self._time_base

    def image_at(self, seconds: float) -> Image.Image:
        """Decode what the film shows at a time, as a new PIL image; see `pixels_at`."""
        return Image.fromarray(self.pixels_at(seconds))

    def pixels_at(self, seconds: float) -> npt.NDArray[np.uint8]:
        """Decode what the film shows at a time.

        Parameters
        ----------
        seconds : float
            The time. Before the first frame it stands for the first one.

        Returns
        -------
        pixels : ndarray of shape (height, width, 3), dtype uint8
            In RGB order, upright, and C-contiguous. It is not to be changed: the next call for the
            same frame returns it again.

        Raises
        ------
        ValueError
            If the film is damaged between the last keyframe and this frame, ends before the time,
            has changed, or this takes more than `film_file.FRAME_SECONDS`.
        """
        self._film.check_unchanged(self._file.fileno())
        with self._file.in_words():
            frame = self._show(self._ticks(seconds))
            pts = _pts(frame)
            if self._pixels is None or self._pixels[0] != pts:
                pixels = np.ascontiguousarray(to_rgb_pixels(frame))
                transpose = orientation_of(frame)
                if transpose is not None:
                    pixels = np.array(Image.fromarray(pixels).transpose(transpose))
                self._pixels = (pts, pixels)
            return self._pixels[1]

    def times(self, n_frames: int, *, decode: bool = True) -> list[float]:
        """Find frames at even intervals of time, and decode them.

        Parameters
        ----------
        n_frames : int
            Number of frames.
        decode : bool, default=True
            Whether the frames are decoded. Otherwise the times are those of the packets of the
            film, and it is not known yet whether their frames are damaged.

        Returns
        -------
        seconds : list of float
            The times of the frames, ascending: those that are shown in the middle of `n_frames`
            equal parts of the film. Fewer than `n_frames` where the film has fewer.

        Raises
        ------
        ValueError
            If the film has no frames, or `pixels_at` raises it.
        """
        self._film.check_unchanged(self._file.fileno())
        found: set[int] = set()
        if decode:
            with self._file.in_words():
                first = _pts(self._first())
            with self._file.in_words():
                end = max(self._end(), first + 1)
            for moment in _middles(first, end, n_frames):
                with self._file.in_words():
                    found.add(_pts(self._show(moment)))
        else:
            with self._file.in_words():
                found.update(self._times_from_packets(n_frames))
        return [float(pts * self._time_base) for pts in sorted(found)]

    def _open(self) -> None:
        """Open the file from its beginning."""
        if self._container is not None:
            self._container.close()
        self._file.seek(0)
        codecs = ",".join(_CODECS)
        limit, probed = {}, {}
        if self._max_pixels is not None:
            # Decoders count the edges that they add; `_check_size` counts exactly. With less than
            # usual the size would not even be known.
            limit = {"max_pixels": str(4 * self._max_pixels + 2**20)}
            probed = {"max_pixels": str(max(self._max_pixels, USUAL_MAX_PIXELS))}
        try:
            self._container = self._av.open(
                self._file,
                "r",
                options={
                    "format_whitelist": _CONTAINERS,
                    "codec_whitelist": codecs,
                    "protocol_whitelist": "none",
                    **probed,
                },
                metadata_errors="replace",
                io_open=refuse_to_open,
            )
        except (self._av.FFmpegError, ValueError, OSError) as error:
            self._file.check_clock()
            raise FilmFault(
                f"it is no film in a container that is read ({_CONTAINERS_IN_WORDS}), or it is "
                f"truncated or damaged ({reason_of(error)})"
            ) from None
        self._stream = self._choose_stream()
        context = self._stream.codec_context
        context.options = {"err_detect": "explode", "codec_whitelist": codecs, **limit}
        context.thread_count = 1  # one core per thread, here too
        self.size = (int(context.width), int(context.height))
        self._check_size(*self.size)
        if self._stream.time_base is None:
            raise FilmFault("its frames have no times")
        self._time_base: Fraction = self._stream.time_base
        name = self._container.format.name
        self._has_index = any(known in name for known in _INDEXED)
        self._seeks_forward = True
        self._leaves_out = context.name in _LEAVE_OUT
        self._near = -math.inf  # time from which on every frame is decoded
        self._begin(of_the_film=True)

    def _choose_stream(self) -> Any:
        """Return the largest video stream, of several the first one."""
        streams = list(self._container.streams.video)
        disposition = self._av.stream.Disposition
        pictures = disposition.attached_pic | disposition.timed_thumbnails
        films = [s for s in streams if not disposition(s.disposition) & pictures]
        if not films:
            raise FilmFault(
                "it has no video stream, only a cover picture"
                if streams
                else "it has no video stream that can be read"
            )
        known = [s for s in films if s.codec_context is not None]
        usable = [s for s in known if s.codec_context.name in _CODECS]
        if not usable:
            names = ", ".join(sorted({s.codec_context.name for s in known})) or "something unknown"
            raise FilmFault(
                f"its pictures are encoded as {names}, which is not decoded here: save it as H.264"
            )
        return max(usable, key=lambda s: s.codec_context.width * s.codec_context.height)

    def _begin(self, *, of_the_film: bool, left_at: int | None = None) -> None:
        """Start to read packets where the container now is."""
        self._packets = self._container.demux(self._stream)
        self._decoded: deque[Any] = deque()
        self._current = self._ahead = None
        self._ended = False
        self._at_start = of_the_film  # whether no frame lies before the first one that comes
        self._in_step = False  # whether there was a keyframe
        self._left_at = left_at  # where it was when it sought a keyframe ahead
        self._held: list[Any] = []  # packets that were read too early
        self._fed: int | None = None  # time of the last packet that was decoded
        self._passed = -math.inf  # time up to which frames may have been left out
        # time of the first keyframe, and that before which frames that come later are left out
        self._keyframe = self._leading = -math.inf

    def _seek(self, pts: int, left_at: int | None = None) -> None:
        """Go to the last keyframe that is not later than a time; to the beginning if it fails."""
        try:
            self._container.seek(pts, stream=self._stream)
        except (self._av.FFmpegError, ValueError, OSError, OverflowError):
            self._file.check_clock()
            self._open()
            self._seeks_forward = False
        else:
            self._begin(of_the_film=False, left_at=left_at)

    def _ticks(self, seconds: float) -> int:
        """Convert a time, within rounding of the time of a frame, to units of the film."""
        return math.floor(Fraction(seconds) / self._time_base + Fraction(1, 1000))

    def _show(self, pts: int) -> Any:
        """Return the frame that is shown at a time."""
        if self._leaves_out:
            try:
                frame = self._find(pts)
                # otherwise one that was left out may be shown: there is a long gap
                if _pts(frame) >= self._passed:
                    return frame
            except (self._av.FFmpegError, FilmFault):
                self._file.check_clock()  # maybe what was left out is missing
            self._leaves_out = False
            self._current, self._at_start = None, False
        return self._find(pts)

    def _find(self, pts: int) -> Any:
        """Return the frame that is shown at a time, or an earlier one if `_passed` is later."""
        left_at = None
        try:
            if self._is_behind(pts):
                self._go_to(pts, pts)
            elif not self._shows(pts) and self._has_keyframe_before(pts):
                left_at = self._fed
                self._go_to(pts, pts, left_at)
            else:
                self._forward(pts)
            found = self._current is not None or self._at_start
        except (self._av.FFmpegError, FilmFault):
            self._file.check_clock()
            found = False  # the damage may lie before the keyframe that it takes
        for step in _STEPS_BACK if not found else ():
            self._go_to(pts - round(step / self._time_base), pts, left_at)
            if self._current is not None or self._at_start:
                break
        else:
            if not found:
                self._open()
                self._forward(pts)
        if self._current is None:  # the time is before the first frame
            self._current, self._ahead = self._ahead, None
        if self._current is None:
            raise FilmFault("it has no frames")
        self._check_size(self._current.width, self._current.height)
        if matrix_of(self._current) is None:
            raise FilmFault(
                f"its colours are encoded with matrix {int(self._current.colorspace)} of ITU-T "
                "H.273, which is not converted: save it as H.264 with the colours of BT.709"
            )
        self._check_end(pts)
        return self._current

    def _go_to(self, start: int, pts: int, left_at: int | None = None) -> None:
        """Decode from the last keyframe that is not later than `start` until a time is shown.

        With open groups of pictures, what follows a keyframe may name frames before it: if frames
        are damaged, it is decoded from an earlier keyframe.
        """
        leading = -math.inf
        for step in _STEPS_BACK:
            self._seek(start - round(step / self._time_base), left_at)
            self._leading = leading
            try:
                return self._forward(pts)
            except (self._av.FFmpegError, FilmFault):
                self._file.check_clock()
                if self._keyframe < leading or self._keyframe == -math.inf:
                    raise
                leading = self._leading
                start = math.floor(leading)
        raise FilmFault("the film is damaged")

    def _is_behind(self, pts: int) -> bool:
        """Say whether the film has gone too far to show a time."""
        return not self._at_start if self._current is None else pts < _pts(self._current)

    def _shows(self, pts: int) -> bool:
        """Say whether the current frame is known to be the one that is shown at a time."""
        if self._current is None or _pts(self._current) == pts:
            return self._current is not None
        return self._ahead is not None and _pts(self._ahead) > pts

    def _has_keyframe_before(self, pts: int) -> bool:
        """Say whether seeking the keyframe before a time is less work than going on to it."""
        if not self._seeks_forward:
            return False
        here = self._current if self._current is not None else self._ahead
        position = _pts(here) if here is not None else self._stream.start_time or 0
        entries = self._stream.index_entries
        if self._has_index and len(entries):
            fed = self._fed if self._fed is not None else entries[0].timestamp
            index = entries.search_timestamp(pts)
            if index >= 0 and entries[index].timestamp > fed:
                return True
            if entries[-1].timestamp >= pts:
                return False
        return bool((pts - position) * self._time_base > _FAR)

    def _forward(self, pts: int) -> None:
        """Decode until the frame that is shown at a time is the current one.

        Frames that no other frame is decoded from are left out while the time is far ahead.
        """
        self._near = float(pts - _NEAR / self._time_base) if self._leaves_out else -math.inf
        while self._current is None or _pts(self._current) != pts:
            if self._ahead is None:
                self._ahead = self._next()
            if self._ahead is None or _pts(self._ahead) > pts:
                return
            self._current, self._ahead = self._ahead, None

    def _next(self) -> Any:
        """Decode the next frame; None at the end of the film."""
        while True:
            while self._decoded:
                frame = self._decoded.popleft()
                if _pts(frame) < self._leading:
                    continue
                if frame.is_corrupt:
                    raise FilmFault("the film is damaged")
                return frame
            if self._ended:
                return None
            packet = self._next_packet()
            if packet is None:
                self._ended = True
                self._decoded.extend(self._stream.decode(None))
                continue
            if not self._in_step:
                if not packet.is_keyframe:
                    continue
                self._in_step = True
                if not self._at_start and packet.pts is not None:
                    self._keyframe = packet.pts
                    self._leading = max(self._leading, packet.pts)
                if self._left_at is not None and (packet.dts or 0) <= self._left_at:
                    self._seeks_forward = False  # it went back, and would again
            if packet.is_corrupt:
                raise FilmFault("the film is damaged")
            if packet.pts is not None and packet.pts < self._near:
                self._stream.codec_context.skip_frame = "NONREF"
                self._passed = max(self._passed, packet.pts)
            else:
                self._stream.codec_context.skip_frame = "DEFAULT"
            try:
                self._decoded.extend(self._stream.decode(packet))
            except self._av.FFmpegError:
                if packet.pts is None or packet.pts >= self._leading:
                    raise
            self._fed = packet.dts if packet.dts is not None else packet.pts

    def _next_packet(self) -> Any:
        """Read the next packet of the stream; None at the end, and where no more can be read."""
        packet = self._held.pop() if self._held else self._read_packet()
        if packet is not None and packet.is_corrupt:
            following = self._read_packet()
            if following is None:  # a film that was cut off ends with a piece of a packet
                return None
            self._held.append(following)
        return packet

    def _read_packet(self) -> Any:
        try:
            packet = next(self._packets, None)
        except (self._av.FFmpegError, ValueError, OSError):
            packet = None
        self._file.check_clock()
        return packet if packet is not None and packet.size else None

    def _first(self) -> Any:
        """Return the first frame."""
        if self._ahead is None:
            self._ahead = self._next()
        if self._ahead is None:
            raise FilmFault("it has no frames")
        return self._ahead

    def _end(self) -> int:
        """Find the end in the last packets, whatever the header says."""
        entries = self._stream.index_entries
        beyond = math.floor(_BEYOND / self._time_base)
        self._seek(entries[-1].timestamp if self._has_index and len(entries) else beyond)
        end = max((end for _, end, _ in self._times_of_packets()), default=None)
        if end is None:  # the index may be longer than the file
            self._open()
            end = max((end for _, end, _ in self._times_of_packets()), default=0)
        return end

    def _times_from_packets(self, n_frames: int) -> Iterator[int]:
        """Choose frames by the times of the packets, none of which is decoded."""
        if not self._at_start or self._fed is not None:
            self._open()
        shown = array("q")  # of a film of hours there are millions
        for pts, _, is_keyframe in self._times_of_packets():
            if (shown and pts >= shown[0]) or (not shown and is_keyframe):
                shown.append(pts)
        if not shown:
            raise FilmFault("it has no frames")
        first = shown[0]
        times = np.sort(np.frombuffer(shown, dtype=np.int64))
        for moment in _middles(first, max(self._end(), first + 1), n_frames):
            yield int(times[np.searchsorted(times, moment, side="right") - 1])

    def _times_of_packets(self) -> Iterator[tuple[int, int, bool]]:
        """Yield begin and end of each packet that is left, and whether it is a keyframe."""
        while (packet := self._next_packet()) is not None and not packet.is_corrupt:
            pts = packet.pts if packet.pts is not None else packet.dts
            if pts is not None:
                yield pts, pts + (packet.duration or 0), packet.is_keyframe
        self._packets, self._ended, self._at_start = iter(()), True, False

    def _check_end(self, pts: int) -> None:
        """Raise where a time is later than the film."""
        if self._ended and self._ahead is None and not self._decoded:
            duration = max(self._current.duration or 0, 1 / self._time_base)
            if pts > _pts(self._current) + duration:
                raise FilmFault(
                    f"it ends at {float(_pts(self._current) * self._time_base):.3f} s, where its "
                    "last frame is"
                )

    def _check_size(self, width: int, height: int) -> None:
        if min(width, height) < _MIN_SIDE:
            raise FilmFault(
                f"its frames are {width}x{height} pixels, each side must have at least {_MIN_SIDE}"
            )
        if self._max_pixels is not None and width * height > self._max_pixels:
            raise FilmFault(
                f"its frames are too large ({width}x{height} pixels; {self._max_pixels} are "
                "allowed: for films that you trust, raise the parameter max_pixels)"
            )


def _pts(frame: Any) -> int:
    """Return the time of a frame in units of its stream."""
    pts = frame.pts if frame.pts is not None else frame.dts
    if pts is None:
        raise FilmFault("its frames have no times")
    return int(pts)


def _middles(first: int, end: int, n: int) -> Iterator[int]:
    """Yield the middles of equal parts of a film."""
    return (first + (end - first) * (2 * i + 1) // (2 * n) for i in range(n))
