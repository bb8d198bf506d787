"""Open a file that a person named, and say in words why it cannot be opened."""

import os
import re
import stat
from typing import IO

from sklearn_dfd._core.messages import brief

#: Number of bytes that the file of a photograph may have: what is behind a path may be endless.
MAX_BYTES = 2**30
#: What is wrong with a longer file.
TOO_LONG = f"it is larger than {MAX_BYTES:,} bytes, as no photograph is"

_URL = re.compile(r"(data:|[a-z][a-z0-9+.-]+:/)", re.IGNORECASE)
_THAT_PYTHON_OPENS = re.compile(r"(data|https?|ftp|file):", re.IGNORECASE)


def open_file(path: "str | os.PathLike[str]", *, of_any_size: bool = False) -> IO[bytes]:
    """Open a regular file, never waiting for a pipe or waking a device.

    Parameters
    ----------
    path : path
        The path, which may begin with ``~``.
    of_any_size : bool, default=False
        Whether the file may have more than `MAX_BYTES`, as films do.

    Returns
    -------
    file : binary file object
        For the caller to close.

    Raises
    ------
    OSError, ValueError
        If the path does not lead to a regular file that can be read, or no file can have this path.
    """
    path = os.path.expanduser(path)
    try:
        # Before opening, since that alone may wait or rewind a tape; and again afterwards, since
        # the name may by then stand for something else, which O_NONBLOCK keeps from waiting.
        _check_regular(os.stat(path), of_any_size)
        file = open(path, "rb", opener=_open_without_waiting)
        try:
            _check_regular(os.fstat(file.fileno()), of_any_size)
        except BaseException:
            file.close()
            raise
    except (OSError, ValueError) as error:
        raise without_the_path(error, path) from None
    return file


def without_the_path(
    error: OSError | ValueError, path: "str | os.PathLike[str]"
) -> OSError | ValueError:
    """Say in words what the system's error says, without the path that its own text repeats.

    Parameters
    ----------
    error : OSError or ValueError
        What was raised when the file was opened or read.
    path : path
        The path.

    Returns
    -------
    error : OSError or ValueError
        What to raise in its place.
    """
    if isinstance(error, IsADirectoryError):
        return IsADirectoryError(
            "it is a folder, not a file: pass the images in it, "
            "sklearn_dfd.datasets.load_image_folder(path).data for one with a subfolder per class"
        )
    if isinstance(error, PermissionError):
        return PermissionError("there is no permission to read the file")
    if isinstance(error, OSError):
        if _URL.match(os.fsdecode(path)):
            return FileNotFoundError(_what_to_do_with_a_url(os.fsdecode(path)))
        if isinstance(error, FileNotFoundError):
            return FileNotFoundError("the file does not exist")
        return type(error)(f"the file cannot be read ({error.strerror or error})")
    # a NUL, or characters that the file system cannot encode
    return ValueError(f"no file can have this name ({brief(error)})")


def _what_to_do_with_a_url(url: str) -> str:
    if _THAT_PYTHON_OPENS.match(url):
        return (
            "it is a URL, and nothing is downloaded: pass the bytes, "
            "urllib.request.urlopen(url).read(), or the path of the downloaded file"
        )
    return "it is a URL, and nothing is downloaded: pass the path of the downloaded file"


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_regular(status: os.stat_result, of_any_size: bool) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is a pipe, a socket or a device")
    if status.st_size > MAX_BYTES and not of_any_size:
        raise OSError(TOO_LONG)
