"""Everything that may be passed as an image: what it is, where it is, and how messages name it.

`as_image_list` turns what is passed as ``X`` into a sequence of sources without reading any, and
`describe` names one of them in a message.
"""

import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass, replace
from typing import IO, Any, Protocol, TypeAlias, Union, runtime_checkable

import numpy as np
import numpy.typing as npt
from PIL import Image

from sklearn_dfd._core.images.arrays import AN_IMAGE_IS, check_array
from sklearn_dfd._core.messages import on_one_line
from sklearn_dfd.exceptions import ImageError

#: Numbers of channels: of grey, colour, and colour with transparency.
_CHANNELS = (1, 3, 4)


@runtime_checkable
class _ArchivePath(Protocol):
    """A path within an archive, such as `zipfile.Path`."""

    def open(self, mode: str) -> IO[bytes]: ...
    def is_dir(self) -> bool: ...
    def read_bytes(self) -> bytes: ...


class ImageView(ABC):
    """An image that is made from another one when it is needed, and stands in ``X`` like any other.

    A subclass says how; `sklearn_dfd.augmentation.View` does it at random. It should be small and
    immutable, since it is pickled and sent to other processes.

    Attributes
    ----------
    source : path, PIL image, ndarray, bytes, binary file object or ImageView
        The image that it is made from.
    """

    __slots__ = ()

    source: Any

    @property
    @abstractmethod
    def signature(self) -> str:
        """All that determines the view apart from the content of `source`.

        Features are kept under it: when `render` changes, the signature must change, too.
        """

    @abstractmethod
    def render(self, image: Image.Image, random_state: np.random.RandomState) -> Image.Image:
        """Make the view from the upright RGB image, as RGB; threads do so at the same time.

        All randomness comes from `random_state`, which is seeded by content and signature.
        """

    @property
    def is_original(self) -> bool:
        """Whether it stands in for its source, and is not one of several views of it."""
        return False

    @property
    def may_refuse(self) -> bool:
        """Whether `render` may raise a ValueError even if the source can be used."""
        return False

    def forgives(self, fault: str) -> bool:
        """Return whether this fault gives the image a row of NaN instead of raising an error."""
        return False

    @property
    def on_square(self) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]] | None:
        """Function that makes the same pixels from the resized source; None where there is none."""
        return None


class LazyImage(ABC):
    """An image that is part of something larger, and is decoded when it is needed.

    Like a path it is an original: a value that is small, immutable, and hashed and compared by what
    it stands for. `sklearn_dfd.datasets.VideoFrame` is a frame of a film.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """What messages call it."""

    @property
    @abstractmethod
    def place(self) -> tuple[Hashable, float]:
        """What it is part of, and where in it: images are decoded faster in this order."""

    @abstractmethod
    def later(self, seconds: float) -> "LazyImage":
        """Return the image that is shown some seconds later."""

    @abstractmethod
    def read(self) -> Any:
        """Return what `reading.read_source` returns for it."""


#: Anything that may be passed as one image.
ImageLike: TypeAlias = Union[
    str,
    "os.PathLike[str]",
    Image.Image,
    npt.NDArray[np.uint8],
    bytes,
    bytearray,
    memoryview,
    IO[bytes],
    _ArchivePath,
    LazyImage,
    ImageView,
]


def as_image_list(X: Any) -> Sequence[Any] | npt.NDArray[np.uint8]:
    """Turn what is passed as ``X`` into a sequence of images, without reading any.

    Parameters
    ----------
    X : sequence or array
        A list, tuple, 1-D or (n_images, 1) array, Series or one-column DataFrame of images: paths,
        PIL images, encoded bytes, binary file objects, uint8 arrays of shape (H, W), (H, W, 1),
        (H, W, 3) or (H, W, 4) in RGB order, a `LazyImage`, or an `ImageView` of one of these. Or
        one uint8 array
        of shape (n_images, H, W) or (n_images, H, W, C) with C of 1, 3 or 4, of which a view is
        returned: items and slices of a `numpy.memmap` stay views of it.

    Returns
    -------
    sources : list or ndarray of shape (n_images, H, W, C)
        What `read_source` takes, one item per image.

    Raises
    ------
    TypeError
        If ``X`` is a single image, or not a collection that can hold images.
    ValueError
        If ``X`` holds no image, several columns, or arrays of another shape, or if it may be one
        image as well as several.

    Examples
    --------
    >>> from sklearn_dfd._core.images.sources import as_image_list
    >>> as_image_list(("a.jpg", "b.jpg"))
    ['a.jpg', 'b.jpg']
    """
    if isinstance(X, str | os.PathLike):
        if os.path.isdir(os.path.expanduser(X)):
            raise TypeError(
                f"X is the path of a folder, {describe(X)}: pass the images in it, "
                "sklearn_dfd.datasets.load_image_folder(path).data for one with a subfolder per "
                "class."
            )
        raise TypeError(f"X is a single path, {describe(X)}: pass a list, [path].")
    if isinstance(X, Image.Image | bytes | bytearray | memoryview | LazyImage | ImageView):
        raise TypeError(f"X is a single image ({describe(X)}): pass a list, [image].")
    if isinstance(X, Mapping):
        raise TypeError(
            f"X is a {type(X).__name__}, not a list of images: pass the images that it holds, for "
            "a Bunch of a dataset loader its .data."
        )
    if hasattr(X, "toarray") and hasattr(X, "nnz"):
        raise TypeError(
            f"X is a sparse matrix ({type(X).__name__}), but images are dense: pass X.toarray() if "
            "it holds pixels."
        )
    if hasattr(X, "read") or is_archive_path(X):
        raise TypeError(f"X is a single file ({describe(X)}): pass a list, [file].")
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
    elif hasattr(X, "__array__"):  # a tensor
        raise TypeError(
            f"X is a {type_name(X)}: pass {as_numpy(X, 'X')}, pixels of uint8 in RGB order with "
            "the channels last."
        )
    elif isinstance(X, Iterator):
        raise TypeError(f"X is of type {type(X).__name__}: pass list(X).")
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


def _from_array(X: npt.NDArray[Any]) -> Sequence[Any] | npt.NDArray[np.uint8]:
    """Tell an array of images from an array that holds paths or images as objects."""
    if len(X.shape) > 0 and len(X) == 0:
        return []
    if X.dtype.kind in "OUT":  # objects, and both kinds of NumPy's strings
        if X.ndim == 1 or (X.ndim == 2 and X.shape[1] == 1):
            return list(X.ravel())
        raise ValueError(
            f"X is an array of {X.dtype} of shape {X.shape}: paths or images come in an array of "
            "shape (n_images,) or (n_images, 1)."
        )
    if X.dtype.kind == "S":  # NumPy has already cut trailing zeros off: neither paths nor files
        raise TypeError("X is an array of byte strings: pass paths as str, or files in a list.")
    if X.ndim < 3:
        raise ValueError(
            f"X is an array of {X.dtype} of shape {X.shape}: this looks like features, and images "
            "are expected."
            + (" For one grey image pass X[np.newaxis, ..., np.newaxis]." if X.ndim == 2 else "")
        )
    if X.ndim == 3 and X.shape[-1] in _CHANNELS:
        raise ValueError(
            f"X is an array of shape {X.shape}, which may be one image of {X.shape[-1]} channel(s) "
            f"or {X.shape[0]} grey image(s): pass X[np.newaxis] for one image, "
            "X[..., np.newaxis] for grey ones."
        )
    if X.ndim == 3 and len(X) in (3, 4):
        raise ValueError(
            f"X is an array of shape {X.shape}, which may be one image with its {len(X)} channels "
            f"first or {len(X)} grey images: pass np.moveaxis(X, 0, -1)[np.newaxis] for one image, "
            "X[..., np.newaxis] for grey ones."
        )
    check_array(X, n_axes=3, name="X")
    # with an axis of channels, a slice of it cannot be mistaken for one image either
    return X[..., np.newaxis] if X.ndim == 3 else X


def is_archive_path(source: Any) -> bool:
    return isinstance(source, _ArchivePath) and not isinstance(source, os.PathLike)


def _in_memory(source: Any) -> bool:
    """Return whether a path in an archive has no file that the archive is in."""
    root = getattr(source, "root", None)
    return isinstance(root, zipfile.ZipFile) and root.filename is None


def type_name(source: Any) -> str:
    """Return the name of a type with the package that it comes from."""
    kind = type(source)
    package = kind.__module__.partition(".")[0]
    return kind.__name__ if package == "builtins" else f"{package}.{kind.__name__}"


def as_numpy(tensor: Any, name: str) -> str:
    """Return the code that turns a tensor into an array of NumPy."""
    if type(tensor).__module__.partition(".")[0] == "torch":
        return f"{name}.detach().cpu().numpy()"
    return f"np.asarray({name})"


def describe(source: Any) -> str:
    r"""Name an image in a message, on one line.

    Parameters
    ----------
    source : object
        An item of what `as_image_list` returns, usable or not.

    Returns
    -------
    name : str
        The quoted path, even of a PIL image or a file object that knows its file, or the kind of
        image; for a view, what it is a view of.

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
        # str() since NumPy's strings have a repr of their own
        return repr(str(os.fsdecode(source)))
    if isinstance(source, Image.Image):
        return _file_name(source, "filename") or (
            f"PIL image ({source.mode}, {source.width}x{source.height})"
        )
    if isinstance(source, np.ndarray):
        return f"array {source.shape}"
    if isinstance(source, bytes | bytearray | memoryview):
        return f"{memoryview(source).nbytes} bytes"
    if isinstance(source, ImageView):
        return f"view of {describe(source.source)}"
    if isinstance(source, LazyImage):
        return source.name
    if is_archive_path(source):
        return repr(source.at if _in_memory(source) else str(source))
    return _file_name(source, "name") or on_one_line(type(source).__name__)


def _file_name(source: Any, attribute: str) -> str | None:
    if attribute == "name" and not hasattr(source, "read"):
        return None
    path = getattr(source, attribute, None)
    if path and isinstance(path, str | bytes | os.PathLike):
        return repr(str(os.fsdecode(path)))
    return None


def rows_of_nan(failures: list[tuple[int, str, str]], n_images: int) -> str:
    """Return the text of a warning that says which rows are NaN, and why.

    Parameters
    ----------
    failures : list of (int, str, str)
        Row, name and reason of each image that cannot be used.
    n_images : int
        Number of images.

    Returns
    -------
    text : str
    """
    return str(ImageError(failures, n_images, hint="Their rows are NaN.", n_shown=None))


def images_in(X: Any) -> str | None:
    """Say which images are where rows of features are expected.

    Parameters
    ----------
    X : object
        What a person passes as rows of features.

    Returns
    -------
    found : str or None
        The end of a sentence about ``X``; None if it may hold rows of features.
    """
    if isinstance(X, str | bytes | os.PathLike | Image.Image | LazyImage | ImageView):
        return f"is an image ({describe(X)})"
    shape = getattr(X, "shape", ())
    if len(shape) > 2:
        return f"is an array of shape {tuple(shape)}"
    if hasattr(X, "columns"):  # a table
        X = X[X.columns[0]] if len(X.columns) == 1 else ()
    if hasattr(X, "toarray") or not isinstance(X, Collection) or not len(X):
        return None
    first: Any = next(iter(X), None)
    if isinstance(first, list | tuple | np.ndarray) and np.shape(first) == (1,):
        first = first[0]
    kinds = str | bytes | bytearray | os.PathLike | Image.Image | LazyImage | ImageView
    if isinstance(first, kinds) or np.ndim(first) > 1:
        return f"holds images (the first of them is {describe(first)})"
    return None


def number_by_origin(images: Sequence[Any] | npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Assign a number to each image, and to all views of an image its number.

    Parameters
    ----------
    images : list or ndarray
        What `as_image_list` returns.

    Returns
    -------
    numbers : ndarray of shape (n_images,), dtype int64
        Numbers from 0 in order of appearance. Nothing is read: paths and bytes have the same origin
        if they are equal, other images if they are the same object.

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


def place_of(image: Any) -> tuple[Hashable, float] | None:
    """Return what an image, or the source of a view, is part of, and its position there.

    Parameters
    ----------
    image : object
        An item of what `as_image_list` returns.

    Returns
    -------
    place : tuple of (object, float) or None
        None for an image that is part of nothing, such as a file.
    """
    image = origin_of(image)
    return image.place if isinstance(image, LazyImage) else None


def origin_of(image: Any) -> Any:
    """Return the image that a view is made from, however often; another image as it is."""
    while isinstance(image, ImageView):
        image = image.source
    return image


def with_absolute_path(image: Any) -> Any:
    """Return an image that means the same in another directory: its file by an absolute path."""
    if isinstance(image, str | os.PathLike):
        return os.path.abspath(os.path.expanduser(image))
    for name in ("source", "path"):  # of a view, or of a frame of a film
        if is_dataclass(image) and name in image.__dataclass_fields__:
            changed: Any = {name: with_absolute_path(getattr(image, name))}
            return replace(image, **changed)  # type: ignore[type-var]
    return image


def is_rendered(image: Any) -> bool:
    """Return whether an image is a view that is made from all pixels of another image.

    Other views are made from its resized square.
    """
    while isinstance(image, ImageView):
        if image.on_square is None:
            return True
        image = image.source
    return False


def innermost_that_may_fail(image: Any) -> Any:
    """Return the image within a view that is usable if and only if the view is."""
    while isinstance(image, ImageView) and not image.may_refuse:
        image = image.source
    return image


def forgives(image: Any, fault: str) -> bool:
    """Return whether this fault gives the image a row of NaN instead of raising an error."""
    while isinstance(image, ImageView):
        if image.forgives(fault):
            return True
        image = image.source
    return False


def is_original(image: Any) -> bool:
    """Return whether an image is a photograph, or stands in for one, and is not a view of it."""
    return not isinstance(image, ImageView) or image.is_original


def _origin(image: Any) -> Hashable:
    image = origin_of(image)
    if isinstance(image, str | os.PathLike):
        return os.fsdecode(image)
    if is_archive_path(image):
        return (id(image.root), image.at) if _in_memory(image) else str(image)
    return image if isinstance(image, bytes | LazyImage) else id(image)
