"""Films that stay open while somebody goes through their frames, and digests of their content."""

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cache
from hashlib import blake2b
from typing import Generic, TypeVar

import joblib
from PIL import Image

from sklearn_dfd._core.images.decoding import RawFrame, pixel_limit
from sklearn_dfd._core.images.files import open_file
from sklearn_dfd._core.images.film_file import FilmFile, stamp_of
from sklearn_dfd._core.images.film_process import AnyOpenFilm, open_film
from sklearn_dfd._core.runtime.process_state import ThreadLock, WhileAny

_BLOCK = 2**20  # bytes that are hashed at a time
_N_REMEMBERED = 10_000  # films whose digest, or size, is remembered
_FEWEST_OPEN = 4  # films that stay open, or one for each core
_TICK_NS = 50_000_000  # within which two changes of a file may have the same time

_T = TypeVar("_T")


def raw_frame(path: str, seconds: float) -> RawFrame:
    """Read a frame of a film as far as is needed to recognise it.

    Parameters
    ----------
    path : str
        The film.
    seconds : float
        The time of the frame.

    Returns
    -------
    raw : RawFrame
        The digest of the film's content and of the time, and how to decode the frame.

    Raises
    ------
    OSError, ValueError
        If the film is not a regular file that can be read, or is empty.
    """
    film = _look(path)

    def check(max_pixels: int | None) -> None:
        _sizes((film, pixel_limit(max_pixels)))

    def decode(max_pixels: int | None) -> Image.Image:
        with _pool.lend(film, seconds, pixel_limit(max_pixels)) as opened:
            return opened.image_at(seconds)

    # of what the digest is; another version where the same frame would have other pixels
    name = f"frame 1 at {seconds!r}".encode()
    digest = blake2b(_digests(film) + name, digest_size=16, person=b"frame of a film")
    return RawFrame(digest.digest(), (path, seconds), check, decode)


def digest_of_film(path: str) -> bytes:
    """Hash the content of a film, unless it was hashed before and has not changed.

    Parameters
    ----------
    path : str
        The film.

    Returns
    -------
    digest : bytes of length 16
        The same as `decoding.content_digest` of the bytes.

    Raises
    ------
    OSError, ValueError
        If the film is not a regular file that can be read, or is empty.
    """
    return _digests(_look(path))


def times_of_frames(
    path: str, n_frames: int, max_pixels: int | None = None, *, decode: bool = True
) -> list[float]:
    """Find frames of a film at even intervals of time.

    Parameters
    ----------
    path : str
        The film.
    n_frames : int
        Number of frames.
    max_pixels : int or None, default=None
        See `decoding.check_header`.
    decode : bool, default=True
        Whether the frames are decoded, which is how damage is found.

    Returns
    -------
    seconds : list of float
        The times of the frames, see `OpenFilm.times`.

    Raises
    ------
    OSError, ValueError
        If the film cannot be used.
    """
    with _pool.lend(_look(path), None, pixel_limit(max_pixels)) as opened:
        return opened.times(n_frames, decode=decode)


def _look(path: str) -> FilmFile:
    with open_file(path, of_any_size=True) as file:
        film = FilmFile(path, stamp_of(file.fileno()))
    if not film.stamp[2]:
        raise ValueError("the file is empty")
    return film


class _Remembered(Generic[_T]):
    """A function of a film that is called once for each, whichever threads ask for it.

    Errors are not remembered, nor what is found out about a film that is not settled.
    """

    def __init__(self, call: Callable[..., _T], is_settled: Callable[..., bool]) -> None:
        self._call = call
        self._is_settled = is_settled
        self._lock = ThreadLock()
        self._of_process = -1
        self._known: OrderedDict[object, Future[_T]] = OrderedDict()

    def __call__(self, film: object) -> _T:
        with self._lock:
            if self._of_process != os.getpid():  # a fork lacks the threads that were at it
                self._of_process, self._known = os.getpid(), OrderedDict()
            future = self._known.get(film)
            is_mine = future is None
            if future is None:
                future = self._known[film] = Future()
            self._known.move_to_end(film)
            if len(self._known) > _N_REMEMBERED:
                self._known.popitem(last=False)
        if is_mine:
            is_settled = self._is_settled(film)
            try:
                future.set_result(self._call(film))
            except BaseException as error:
                is_settled = False
                future.set_exception(error)
            if not is_settled:
                with self._lock:
                    self._known.pop(film, None)
        return future.result()


def _hash(film: FilmFile) -> bytes:
    digest = blake2b(digest_size=16)
    with film.open() as file:
        while block := file.read(_BLOCK):
            digest.update(block)
        film.check_unchanged(file.fileno())
    return digest.digest()


def _size(film_and_limit: tuple[FilmFile, int | None]) -> tuple[int, int]:
    """Open a film, which checks its header, and return its width and height."""
    with _pool.lend(film_and_limit[0], None, film_and_limit[1]) as opened:
        return opened.size


def _is_settled(film: FilmFile) -> bool:
    """Tell whether a change of the content would from now on show in the times of the file."""
    return time.time_ns() - max(film.stamp[3:]) > _TICK_NS


_digests = _Remembered(_hash, _is_settled)
_sizes = _Remembered(_size, lambda film_and_limit: _is_settled(film_and_limit[0]))


class _Pool:
    """Open films, each lent to one thread at a time.

    They are closed as soon as they come back, unless `films_stay_open`.
    """

    def __init__(self) -> None:
        self._lock = ThreadLock()
        self._idle: list[
            tuple[FilmFile, int | None, AnyOpenFilm]
        ] = []  # the last used one comes last
        self._stay_open = False
        self._of_process = os.getpid()

    @contextmanager
    def lend(
        self, film: FilmFile, seconds: float | None, max_pixels: int | None
    ) -> Iterator[AnyOpenFilm]:
        """Lend an open film, the one that is closest before a time if there are several."""
        opened = self._take(film, seconds, max_pixels)
        if opened is None:
            opened = open_film(film, max_pixels)
        try:
            yield opened
        except BaseException:
            opened.close()  # whose state nobody knows
            raise
        self._put_back(film, max_pixels, opened)

    @contextmanager
    def stay_open(self) -> Iterator[None]:
        """Keep films open until the block ends."""
        self._stay_open = True
        try:
            yield
        finally:
            with self._lock:
                self._stay_open = False
                closing, self._idle = self._idle, []
            for _, _, opened in closing:
                opened.close()

    def _take(
        self, film: FilmFile, seconds: float | None, max_pixels: int | None
    ) -> AnyOpenFilm | None:
        with self._lock:
            if self._of_process != os.getpid():  # a fork shares the position of the parent's files
                self._of_process, self._idle = os.getpid(), []
            fitting = [i for i, one in enumerate(self._idle) if one[:2] == (film, max_pixels)]
            if not fitting:
                return None

            def merit(i: int) -> tuple[bool, float]:
                position = self._idle[i][2].position
                place = float("-inf") if position is None else float(position)
                return (seconds is None or place <= seconds, place)

            return self._idle.pop(max(fitting, key=merit))[2]

    def _put_back(self, film: FilmFile, max_pixels: int | None, opened: AnyOpenFilm) -> None:
        closing = opened
        with self._lock:
            if self._stay_open and self._of_process == os.getpid():
                self._idle.append((film, max_pixels, opened))
                if len(self._idle) <= _most_open():
                    return
                closing = self._idle.pop(0)[2]
        closing.close()


@cache
def _most_open() -> int:
    return max(_FEWEST_OPEN, joblib.cpu_count())


_pool = _Pool()

#: Hold this while going through the frames of films: they then stay open from frame to frame.
films_stay_open = WhileAny(_pool.stay_open)
