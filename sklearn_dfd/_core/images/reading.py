"""Read one image, the only step that touches the disk, or all of them with one error.

What is wrong is stated in a short sentence that does not name the image. The caller knows which one
it is, names it with `sources.describe`, and collects the sentences in one `ImageError`.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from sklearn_dfd._core.images.arrays import AN_IMAGE_IS, check_array
from sklearn_dfd._core.images.decoding import DerivedImage, RawImage
from sklearn_dfd._core.images.files import MAX_BYTES, TOO_LONG, open_file, without_the_path
from sklearn_dfd._core.images.film_pool import films_stay_open
from sklearn_dfd._core.images.sources import (
    ImageView,
    LazyImage,
    as_numpy,
    describe,
    is_archive_path,
    place_of,
    type_name,
)
from sklearn_dfd._core.messages import brief
from sklearn_dfd._core.runtime.process_state import ThreadLock
from sklearn_dfd.exceptions import ImageError

# A file object has one position, and may stand in several rows.
_reading = ThreadLock()

_T = TypeVar("_T")


def read_source(source: Any) -> RawImage:
    """Read one image: the bytes of a file; anything else is returned as it is.

    Parameters
    ----------
    source : path, PIL image, ndarray of uint8, bytes-like, binary file object or lazy image
        One item of what `as_image_list` returns. A path may begin with ``~`` and may be a
        `zipfile.Path`. A file object is read from its beginning, and left at its position.

    Returns
    -------
    raw : bytes, PIL image, ndarray, RawFrame or DerivedImage
        The encoded bytes for paths, file objects and bytes; for a view, the content of its source
        and how to make the view; for a frame of a film, its digest and how to decode it; otherwise
        ``source`` itself.

    Raises
    ------
    OSError
        If the path does not lead to a regular file that can be read: FileNotFoundError,
        IsADirectoryError, PermissionError, or OSError itself for pipes, devices, loops of links and
        files of more than 1 GiB.
    TypeError
        If ``source`` cannot be an image.
    ValueError
        If the file is empty or closed, no file can have this path, or an array has the wrong
        shape.
    """
    if isinstance(source, str | os.PathLike):
        return _read_file(source)
    if isinstance(source, bytes | bytearray | memoryview):
        if not memoryview(source).nbytes:
            raise ValueError("there are no bytes in it")
        return bytes(source)
    if isinstance(source, np.ndarray):
        check_array(source, n_axes=2, name="it")
        return source
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, ImageView):
        raw = read_source(source.source)
        return DerivedImage(raw, source.signature, source.render, source.on_square)
    if isinstance(source, LazyImage):
        return source.read()
    if is_archive_path(source):
        return _read_from_archive(source)
    if hasattr(source, "read"):
        return _read_file_object(source)
    if hasattr(source, "__array__") and hasattr(source, "shape") and hasattr(source, "dtype"):
        raise TypeError(
            f"it is a {type_name(source)}: pass {as_numpy(source, 'image')}, of dtype uint8 in "
            "RGB order with the channels last"
        )
    raise TypeError(f"it is of type {type(source).__name__}; {AN_IMAGE_IS}")


class Reader:
    """Reads images one after another, and only once if one comes twice in a row.

    A photograph and its views thus share the bytes of one file.
    """

    def __init__(self) -> None:
        self._source: Any = None
        self._outcome: RawImage | Exception | None = None

    def __call__(self, source: Any) -> RawImage:
        """Read one image, as `read_source` does."""
        if isinstance(source, ImageView):
            raw = self(source.source)
            return DerivedImage(raw, source.signature, source.render, source.on_square)
        if source is not self._source or self._outcome is None:
            try:
                self._outcome = read_source(source)
            except (OSError, ValueError, TypeError) as error:
                self._outcome = error
            self._source = source
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


def read_all(
    images: Sequence[Any] | npt.NDArray[np.uint8],
    read: Callable[[RawImage], _T],
    rows: Iterable[int] | None = None,
    apply: Callable[..., Iterable[Any]] = map,
) -> list[_T]:
    """Read images, and raise one error for all of them that cannot be used.

    Parameters
    ----------
    images : list or ndarray
        What `as_image_list` returns.
    read : callable
        Function of what `read_source` returns, such as `decoding.to_rgb`.
    rows : iterable of int, default=None
        Which of the images to read; None for all.
    apply : callable, default=map
        Applies a function to each item as `map` does, such as the ``map`` of an executor. An item
        is an image, or consecutive frames of one film.

    Returns
    -------
    done : list
        What `read` returned, one item per row.

    Raises
    ------
    ImageError
        If images cannot be used.
    """
    rows = range(len(images)) if rows is None else list(rows)
    results = list(read_each(images, read, rows, apply))
    failures = [
        (row, describe(images[row]), fault)
        for row, (_, fault) in zip(rows, results, strict=True)
        if fault is not None
    ]
    if failures:
        raise ImageError(failures, len(images), hint="Repair them, or leave them out.")
    return [done for done, _ in results]


def read_each(
    images: Sequence[Any] | npt.NDArray[np.uint8],
    read: Callable[[RawImage], _T],
    rows: Sequence[int],
    apply: Callable[..., Iterable[Any]],
) -> Iterator[tuple[Any, str | None]]:
    """Read images as `read_all` does, and say what is wrong with each.

    Parameters
    ----------
    images, read, apply
        As for `read_all`.
    rows : sequence of int
        Which of the images to read.

    Yields
    ------
    done : object or None
        What `read` returned.
    fault : str or None
        What is wrong with the image, if anything.
    """
    with films_stay_open():
        tasks = ([images[row] for row in run] for run in _runs(images, rows))
        yield from chain.from_iterable(apply(partial(_read_or_fault, read), tasks))


def _runs(
    images: Sequence[Any] | npt.NDArray[np.uint8], rows: Sequence[int]
) -> Iterator[list[int]]:
    """Yield rows one by one, except that successive frames of one film come together."""
    run: list[int] = []
    whole = None  # what the images of the run are part of
    for row in rows:
        place = place_of(images[row])
        if run and (place is None or place[0] != whole):
            yield run
            run = []
        run.append(row)
        whole = None if place is None else place[0]
        if place is None:
            yield run
            run = []
    if run:
        yield run


def _read_or_fault(
    read: Callable[[RawImage], Any], sources: Sequence[Any]
) -> list[tuple[Any, str | None]]:
    done: list[tuple[Any, str | None]] = []
    for source in sources:
        try:
            done.append((read(read_source(source)), None))
        except (OSError, ValueError, TypeError) as error:
            done.append((None, str(error)))
    return done


def _read_file_object(file: Any) -> bytes:
    """Read a binary file object from its beginning, and put its position back."""
    if getattr(file, "closed", False):
        raise ValueError("the file object is closed: pass its path, or read it before closing it")
    with _reading:
        try:
            before = file.tell()
            file.seek(0)
            content = file.read(MAX_BYTES + 1)
            file.seek(before)
        except (AttributeError, OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"the file object cannot be read more than once ({brief(error)}): pass the bytes "
                "that its read() returns"
            ) from None
    if isinstance(content, str):
        raise TypeError('it is a file opened as text: open it with the mode "rb"')
    return _checked(content)


def _read_from_archive(path: Any) -> bytes:
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder in an archive: pass the files in it")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise FileNotFoundError("the file does not exist in the archive") from None
    except IsADirectoryError:
        raise
    except Exception as error:  # of the archive's own: it may be damaged, closed or encrypted
        raise OSError(f"the file cannot be read from the archive ({brief(error)})") from None
    return _checked(content)


def _checked(content: bytes) -> bytes:
    if not content:
        raise ValueError("the file is empty")
    if len(content) > MAX_BYTES:
        raise OSError(TOO_LONG)
    return bytes(content)


def _read_file(path: "str | os.PathLike[str]") -> bytes:
    with open_file(path) as file:
        try:
            content = file.read(MAX_BYTES)  # it may grow meanwhile
        except OSError as error:
            raise without_the_path(error, path) from None
    return _checked(content)
