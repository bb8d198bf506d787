"""Anything a person calls an image: what it is, where it is, and how to name it.

`as_image_list` turns what a person passes as ``X`` into a sequence of sources without reading any,
and `read_source` fetches one, the only step that touches the disk. What is wrong with an image is
said in a short sentence that leaves out which one it is: the caller knows, names it with
`describe`, and collects the sentences in one `ImageError`.
"""

import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from sklearn_dfd._core.images.decoding import (
    AN_IMAGE_IS,
    DerivedImage,
    RawImage,
    check_array,
)
from sklearn_dfd._core.messages import brief, on_one_line
from sklearn_dfd.exceptions import ImageError

_MAX_BYTES = 2**30  # of a file: what is behind a path may be without end


class ImageView(ABC):
    """An image that is made from another one when it is needed, and stands in ``X`` like any other.

    A subclass says how; `sklearn_dfd.augmentation.View` does it at random. It should be small and
    immutable: it is pickled and sent to other processes.

    Attributes
    ----------
    source : path, PIL image, ndarray, bytes or ImageView
        The image that it is made from.
    """

    __slots__ = ()

    source: Any

    @property
    @abstractmethod
    def signature(self) -> str:
        """All that determines the view besides the content of `source`.

        Features are kept by it: when `render` changes, so must the signature.
        """

    @abstractmethod
    def render(self, image: Image.Image, random_state: np.random.RandomState) -> Image.Image:
        """Make the view from the upright RGB image, as RGB; threads do so at the same time.

        All that is random comes from `random_state`, which is seeded by content and signature.
        """


def as_image_list(X: Any) -> Sequence[Any] | np.ndarray:
    """Turn what a person passes as ``X`` into a sequence of images, reading none.

    Parameters
    ----------
    X : sequence or array
        A list, tuple, 1-D or (n_images, 1) array, Series or one-column DataFrame of images: paths,
        PIL images, encoded bytes, uint8 arrays of shape (H, W), (H, W, 1), (H, W, 3) or
        (H, W, 4), or an `ImageView` of such. Or one uint8 array of shape (n_images, H, W) or
        (n_images, H, W, C) with C of 1, 3 or 4, which is returned as it is: items and slices of a
        `numpy.memmap` stay views of it.

    Returns
    -------
    sources : list or ndarray
        What `read_source` takes, one item an image.

    Raises
    ------
    TypeError
        If ``X`` is one image, or nothing that can hold images.
    ValueError
        If ``X`` holds no image, several columns, or arrays of another shape.

    Examples
    --------
    >>> from sklearn_dfd._core.images.sources import as_image_list
    >>> as_image_list(("a.jpg", "b.jpg"))
    ['a.jpg', 'b.jpg']
    """
    if isinstance(X, str | os.PathLike):
        raise TypeError(f"X is a single path, {describe(X)}: pass a list, [path].")
    if isinstance(X, Image.Image | bytes | bytearray | memoryview | ImageView):
        raise TypeError(f"X is a single image ({describe(X)}): pass a list, [image].")
    if isinstance(X, Mapping):
        raise TypeError(
            f"X is a {type(X).__name__}, not a list of images: pass the images that it holds, for "
            "a Bunch of a dataset loader its .data."
        )
    if hasattr(X, "toarray") and hasattr(X, "nnz"):
        raise TypeError(f"X is a sparse matrix ({type(X).__name__}), images are dense.")
    if isinstance(X, np.ndarray):
        images = _from_array(X)
    elif hasattr(X, "shape") and hasattr(X, "columns"):  # a pandas or polars DataFrame
        if len(X.columns) != 1:
            names = ", ".join(repr(name) for name in X.columns)
            raise ValueError(
                f"X is a table of {len(X.columns)} columns ({names}): select the one that holds "
                "the images."
            )
        images = X[X.columns[0]].to_list()
    elif isinstance(X, list | tuple):
        images = list(X)
    elif hasattr(X, "to_list"):  # a pandas or polars Series
        images = X.to_list()
    else:
        raise TypeError(
            f"X is of type {type(X).__name__}: pass a list, an array, a Series or a one-column "
            f"DataFrame of images; {AN_IMAGE_IS}."
        )
    if len(images) == 0:
        shape = getattr(X, "shape", (0,))
        raise ValueError(
            f"Found array with 0 sample(s) (shape={shape}) while a minimum of 1 is required."
        )
    return images


def _from_array(X: np.ndarray) -> Sequence[Any] | np.ndarray:
    """Tell an array of images from an array that holds paths or images as objects."""
    if len(X.shape) > 0 and len(X) == 0:
        return []
    if X.dtype.kind in "OUT":  # objects, and both kinds of numpy strings
        if X.ndim == 1 or (X.ndim == 2 and X.shape[1] == 1):
            return list(X.ravel())
        raise ValueError(
            f"X is an array of {X.dtype} of shape {X.shape}: paths or images come in an array of "
            "shape (n_images,) or (n_images, 1)."
        )
    if X.dtype.kind == "S":  # numpy has already cut trailing zeros off: neither paths nor files
        raise TypeError("X is an array of byte strings: pass paths as str, or files in a list.")
    if X.ndim < 3:
        raise ValueError(
            f"X is an array of {X.dtype} of shape {X.shape}: this looks like features, and images "
            "are expected. For one grey image pass X[np.newaxis]."
        )
    if X.ndim == 3 and X.shape[-1] in (1, 3, 4):
        raise ValueError(
            f"X is an array of shape {X.shape}, which is one image of {X.shape[-1]} channel(s): "
            "pass X[np.newaxis]."
        )
    check_array(X, n_axes=3, name="X")
    return X


def describe(source: Any) -> str:
    r"""Name an image in a message, on one line.

    Parameters
    ----------
    source : object
        An item of what `as_image_list` returns, usable or not.

    Returns
    -------
    name : str
        The quoted path, of a PIL image too that knows its file, or what kind of image it is; for
        a view, what it is a view of.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_dfd._core.images.sources import describe
    >>> print(describe("faces/a.jpg"), describe("b\n.jpg"))
    'faces/a.jpg' 'b\n.jpg'
    >>> print(describe(np.zeros((480, 640, 3), np.uint8)))
    array (480, 640, 3)
    """
    if isinstance(source, str | os.PathLike):
        # str() since numpy's strings have a repr of their own
        return repr(str(os.fsdecode(source)))
    if isinstance(source, Image.Image):
        path = getattr(source, "filename", None)
        if path and isinstance(path, str | bytes | os.PathLike):
            return repr(str(os.fsdecode(path)))
        return f"PIL image ({source.mode}, {source.width}x{source.height})"
    if isinstance(source, np.ndarray):
        return f"array {source.shape}"
    if isinstance(source, bytes | bytearray | memoryview):
        return f"{memoryview(source).nbytes} bytes"
    if isinstance(source, ImageView):
        return f"view of {describe(source.source)}"
    return on_one_line(type(source).__name__)


def rows_of_nan(failures, n_images):
    """Say which rows are NaN, and why."""
    return str(ImageError(failures, n_images, hint="Their rows are NaN.", n_shown=None))


def number_by_origin(images: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Give images numbers, and all views of an image its number.

    Parameters
    ----------
    images : list or ndarray
        What `as_image_list` returns.

    Returns
    -------
    numbers : ndarray of shape (n_images,), dtype int64
        From 0 in order of appearance. Paths and bytes are the same origin if they are equal, other
        images if they are one object: nothing is read.

    Examples
    --------
    >>> from sklearn_dfd.augmentation import View
    >>> from sklearn_dfd._core.images.sources import number_by_origin
    >>> number_by_origin(["a.jpg", "b.jpg", View("b.jpg", seed=0)])
    array([0, 1, 1])
    """
    if isinstance(images, np.ndarray):  # no views, and items that do not outlive the loop
        return np.arange(len(images), dtype=np.int64)
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(_origin(i), len(seen)) for i in images], dtype=np.int64)


def _origin(image: Any) -> Hashable:
    while isinstance(image, ImageView):
        image = image.source
    if isinstance(image, str | os.PathLike):
        return os.fsdecode(image)
    return image if isinstance(image, bytes) else id(image)


def read_source(source: Any) -> RawImage:
    """Fetch one image: the bytes of a file, anything else as it is.

    Parameters
    ----------
    source : str, path-like, PIL image, ndarray of uint8, bytes-like or ImageView
        One item of what `as_image_list` returns.

    Returns
    -------
    raw : bytes, PIL image, ndarray or DerivedImage
        The encoded bytes for paths and bytes; for a view, the content of its source and how to
        make it; otherwise ``source`` itself.

    Raises
    ------
    OSError
        If the path is no regular file that can be read: FileNotFoundError, IsADirectoryError,
        PermissionError, or OSError itself for pipes, devices, loops of links and files of more
        than 1 GiB.
    TypeError
        If ``source`` is nothing that can be an image.
    ValueError
        If the file is empty, the path cannot exist, or an array has the wrong shape.
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
        return DerivedImage(read_source(source.source), source.signature, source.render)
    raise TypeError(f"it is of type {type(source).__name__}; {AN_IMAGE_IS}")


def read_all(
    images: Sequence[Any] | np.ndarray,
    read: Callable[[RawImage], Any],
    rows: Iterable[int] | None = None,
    apply: Callable[[Callable, Iterable], Iterable] = map,
) -> list[Any]:
    """Fetch and read images, with one error for all of them that cannot be used.

    Parameters
    ----------
    images : list or ndarray
        What `as_image_list` returns.
    read : callable
        From what `read_source` returns to anything, as `decoding.to_rgb`.
    rows : iterable of int, default=None
        Which of the images; None for all.
    apply : callable, default=map
        Applies a function to each item as `map` does: the ``map`` of an executor, say.

    Returns
    -------
    done : list
        What `read` returned, an item a row.

    Raises
    ------
    ImageError
        If images cannot be used.
    """
    rows = range(len(images)) if rows is None else list(rows)
    results = list(apply(partial(_read_or_fault, read), (images[row] for row in rows)))
    failures = [
        (row, describe(images[row]), fault)
        for row, (_, fault) in zip(rows, results, strict=True)
        if fault is not None
    ]
    if failures:
        raise ImageError(failures, len(images), hint="Repair them, or leave them out.")
    return [done for done, _ in results]


def _read_or_fault(read: Callable[[RawImage], Any], source: Any) -> tuple[Any, str | None]:
    try:
        return read(read_source(source)), None
    except (OSError, ValueError, TypeError) as error:
        return None, str(error)


def _read_file(path: str | os.PathLike) -> bytes:
    """Read a regular file, never waiting for a pipe or waking a device."""
    try:
        # Before opening, since that alone may wait or rewind a tape; and again afterwards, since
        # the name may by then stand for something else, which O_NONBLOCK keeps from waiting.
        _check_regular(os.stat(path))
        with open(path, "rb", opener=_open_without_waiting) as file:
            _check_regular(os.fstat(file.fileno()))
            content = file.read(_MAX_BYTES)  # it may grow meanwhile
    except FileNotFoundError:
        raise FileNotFoundError("the file does not exist") from None
    except IsADirectoryError:
        raise IsADirectoryError("it is a directory, not a file") from None
    except PermissionError:
        raise PermissionError("there is no permission to read the file") from None
    except OSError as error:  # the text of the system without the path that str(error) repeats
        raise type(error)(f"the file cannot be read ({error.strerror or error})") from None
    except ValueError as error:  # a NUL, or characters that the file system cannot encode
        raise ValueError(f"no file can have this name ({brief(error)})") from None
    if not content:
        raise ValueError("the file is empty")
    return content


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is a pipe, a socket or a device")
    if status.st_size > _MAX_BYTES:
        raise OSError(f"it is larger than {_MAX_BYTES:,} bytes, as no photograph is")
