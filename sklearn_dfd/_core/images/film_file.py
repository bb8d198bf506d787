"""The file of a film: in one state, read for a limited time, and what goes wrong in words."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple, NoReturn

from sklearn_dfd._core.images.files import open_file
from sklearn_dfd._core.messages import brief

#: Seconds of one core's time that finding one frame may take. It takes 0.01 to 1, and more where
#: keyframes are minutes apart.
FRAME_SECONDS = 60


class FilmFile(NamedTuple):
    """A film on the disk, in one state of its content.

    Parameters
    ----------
    path : str
        Its path.
    stamp : tuple of int
        Device, inode, length and times of the file: another one where its content was changed.
    """

    path: str
    stamp: tuple[int, ...]

    def open(self) -> IO[bytes]:
        """Open the film.

        Returns
        -------
        file : binary file object
            For the caller to close.

        Raises
        ------
        OSError, ValueError
            If the file cannot be read, or is in another state.
        """
        file = open_file(self.path, of_any_size=True)
        try:
            self.check_unchanged(file.fileno())
        except BaseException:
            file.close()
            raise
        return file

    def check_unchanged(self, descriptor: int) -> None:
        """Raise ValueError if the open file of a descriptor is in another state."""
        # but for the last of its times, which changes with its name and permissions, too
        if stamp_of(descriptor)[:4] != self.stamp[:4]:
            raise ValueError(
                "the film was changed after its frames had been looked up: start again"
            )


def stamp_of(descriptor: int) -> tuple[int, ...]:
    """Return the stamp of an open file, see `FilmFile`."""
    status = os.fstat(descriptor)
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


class FilmFault(Exception):
    """What is wrong with a film, in words."""


class _TimeIsUpError(Exception):
    """Raised where finding a frame takes too long."""


class TimedFile:
    """A file for FFmpeg, which can be read for a limited time of the thread.

    It raises nothing into FFmpeg: FFmpeg would drop the error, and PyAV would print it.

    Parameters
    ----------
    file : binary file object
        The file. It is closed with this object.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.tell, self.close, self.fileno = file.tell, file.close, file.fileno
        self._error: OSError | None = None
        self._start_clock()

    def _start_clock(self) -> None:
        self._deadline = time.thread_time() + FRAME_SECONDS

    def check_clock(self) -> None:
        """Raise if the time is up, or the file could not be read."""
        if time.thread_time() > self._deadline:
            raise _TimeIsUpError
        if self._error is not None:
            raise FilmFault(f"the file cannot be read ({reason_of(self._error)})")

    def read(self, size: int) -> bytes:
        """Read for FFmpeg."""
        if time.thread_time() > self._deadline:
            return b""  # as at the end of the file: check_clock gives the real reason
        try:
            return self._file.read(size)
        except OSError as error:
            self._error = error
            return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        """Seek for FFmpeg."""
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):  # a place that no file has
            return -errno.EINVAL

    @contextmanager
    def in_words(self) -> Iterator[None]:
        """Start the clock, and turn whatever is raised on hostile bytes into a ValueError."""
        self._start_clock()
        try:
            yield
        except FilmFault as fault:
            raise ValueError(str(fault)) from None
        except _TimeIsUpError:
            raise ValueError(
                f"finding a frame takes more than {FRAME_SECONDS} seconds of a core, as it does "
                "where keyframes are too far apart: save the film again with a keyframe every few "
                "seconds"
            ) from None
        except Exception as error:
            raise ValueError(f"the film is truncated or damaged ({reason_of(error)})") from error


def refuse_to_open(*args: Any, **kwargs: Any) -> NoReturn:
    """Refuse to open another file; FFmpeg calls this instead of its own function."""
    raise PermissionError("a film may not open other files")


def reason_of(error: Exception) -> str:
    """Return FFmpeg's error message in short, without the name that it gives the file."""
    said = getattr(error, "strerror", None)
    return f"{type(error).__name__}: {said}" if said else brief(error)
