"""Anything a person calls an image -> RGB uint8, and everything that can be wrong with one.

An image goes through this module in four steps, each usable alone: `as_image_list` turns what a
person passes as ``X`` into a sequence of sources without reading any, `read_source` fetches one
(the only step that touches the disk), `check_header` looks at it cheaply, and `load_rgb` gives
the pixels. Each step says what is wrong in a short sentence that leaves out which image it is:
the caller knows, and collects the sentences in one `ImageError`.
"""

import io
import os
import stat
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from hashlib import blake2b
from typing import Any, TypeAlias

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

RawImage: TypeAlias = bytes | Image.Image | np.ndarray

#: Shortest side, in pixels, of an image that can show a face: a tracking pixel decodes, but
#: scaling it up to the size of a photograph gives features of nothing.
MIN_SIDE = 8

#: Formats never opened: EPS starts Ghostscript and WMF Windows' own renderer on bytes that nobody
#: vouches for, and IPTC is an envelope that may hold either.
_REFUSED_FORMATS = frozenset({"EPS", "IPTC", "WMF"})

_AN_IMAGE_IS = (
    "an image is a path, a PIL image, a uint8 array of shape (H, W), (H, W, 1), (H, W, 3) or "
    "(H, W, 4), or the bytes of an image file"
)

_TRANSPOSE: dict[Any, Image.Transpose] = {  # EXIF orientation -> what puts the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Loading, which fills a PIL image in place, is not safe in two threads at once, and one image may
# stand in several rows. One lock for all: whoever passes PIL images has mostly decoded them.
_loading = threading.Lock()


class ImageError(OSError, ValueError):
    """One or more images cannot be used.

    Parameters
    ----------
    failures : list of (int, str, str)
        Row, name and reason of each image that cannot be used.
    n_images : int
        Number of images that were looked at.
    hint : str, default=...
        What to do about it, the end of the message; empty for none.
    """

    _N_SHOWN = 10

    def __init__(
        self,
        failures: list[tuple[int, str, str]],
        n_images: int,
        hint: str = 'Remove them, or set on_error="nan" to get rows of NaN in their place.',
    ) -> None:
        self.failures = failures
        self.n_images = n_images
        self.hint = hint
        shown = "; ".join(
            f"row {row} ({name if name.isprintable() else ascii(name)}): {reason}"
            for row, name, reason in failures[: self._N_SHOWN]
        )
        n_more = len(failures) - self._N_SHOWN
        message = f"{len(failures)} of {n_images} images cannot be used: {shown}" + (
            f"; ... and {n_more} more." if n_more > 0 else "."
        )
        # A message that cannot be printed would hide the error behind another one.
        super().__init__(f"{message} {hint}".rstrip().encode("ascii", "backslashreplace").decode())

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle as type(*args), and args holds the message alone.
        return type(self), (self.failures, self.n_images, self.hint)


def as_image_list(X: Any) -> Sequence[Any] | np.ndarray:
    """Turn what a person passes as ``X`` into a sequence of images, reading none.

    Parameters
    ----------
    X : sequence or array
        A list, tuple, 1-D or (n_images, 1) array, Series or one-column DataFrame of images: paths,
        PIL images, encoded bytes, or uint8 arrays of shape (H, W), (H, W, 1), (H, W, 3) or
        (H, W, 4). Or one uint8 array of shape (n_images, H, W) or (n_images, H, W, C) with C of
        1, 3 or 4, which is returned as it is: items and slices of a `numpy.memmap` stay views.

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
    >>> from sklearn_dfd.images import as_image_list
    >>> as_image_list(("a.jpg", "b.jpg"))
    ['a.jpg', 'b.jpg']
    """
    if isinstance(X, str | os.PathLike):
        raise TypeError(f"X is a single path, {describe(X)}: pass a list, [path].")
    if isinstance(X, Image.Image | bytes | bytearray | memoryview):
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
            names = ", ".join(ascii(name) for name in X.columns)
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
            f"DataFrame of images; {_AN_IMAGE_IS}."
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
    _check_array(X, n_axes=3, name="X")
    return X


def _check_array(image: np.ndarray, *, n_axes: int, name: str) -> None:
    """Check dtype and shape of one image (two axes without channels) or of many (three)."""
    if image.dtype != np.uint8:
        raise TypeError(
            f"{name} is an array of {image.dtype}, uint8 from 0 to 255 is expected; convert values "
            "from 0 to 1 with np.rint(255 * X).astype(np.uint8)"
        )
    if image.ndim == n_axes + 1 and image.shape[-1] not in (1, 3, 4):
        first = n_axes - 2
        channels_first = image.shape[first] in (1, 3, 4)
        raise ValueError(
            f"{name} has shape {image.shape}, {image.shape[-1]} channels on its last axis where 1, "
            "3 or 4 are expected"
            + (f"; channels come last: np.moveaxis(X, {first}, -1)" if channels_first else "")
        )
    if image.ndim not in (n_axes, n_axes + 1):
        raise ValueError(f"{name} has shape {image.shape}; {_AN_IMAGE_IS}")


def describe(source: Any) -> str:
    r"""Name an image in a message, in ASCII and on one line.

    Parameters
    ----------
    source : object
        An item of what `as_image_list` returns, usable or not.

    Returns
    -------
    name : str
        The quoted path, or what kind of image it is.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_dfd.images import describe
    >>> print(describe("faces/a.jpg"), describe("b\n.jpg"))
    'faces/a.jpg' 'b\n.jpg'
    >>> print(describe(np.zeros((480, 640, 3), np.uint8)))
    array (480, 640, 3)
    """
    if isinstance(source, str | os.PathLike):
        # str() since numpy's strings have a repr of their own
        return ascii(str(os.fsdecode(source)))
    if isinstance(source, Image.Image):
        return f"PIL image ({source.mode}, {source.width}x{source.height})"
    if isinstance(source, np.ndarray):
        return f"array {source.shape}"
    if isinstance(source, bytes | bytearray | memoryview):
        return f"{memoryview(source).nbytes} bytes"
    return ascii(type(source).__name__)[1:-1]


def read_source(source: Any) -> RawImage:
    """Fetch one image: the bytes of a file, anything else as it is.

    Parameters
    ----------
    source : str, path-like, PIL image, ndarray of uint8 or bytes-like
        One item of what `as_image_list` returns.

    Returns
    -------
    raw : bytes, PIL image or ndarray
        The encoded bytes for paths and bytes, otherwise ``source`` itself.

    Raises
    ------
    OSError
        If the path is no regular file that can be read: FileNotFoundError, IsADirectoryError,
        PermissionError, or OSError itself for pipes, devices and loops of links.
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
        _check_array(source, n_axes=2, name="it")
        return source
    if isinstance(source, Image.Image):
        return source
    raise TypeError(f"it is of type {type(source).__name__}; {_AN_IMAGE_IS}")


def _read_file(path: str | os.PathLike) -> bytes:
    """Read a regular file, never waiting for a pipe or waking a device."""
    try:
        # Before opening, since that alone may wait or rewind a tape; and again afterwards, since
        # the name may by then stand for something else, which O_NONBLOCK keeps from waiting.
        _check_regular(os.stat(path))
        with open(path, "rb", opener=_open_without_waiting) as file:
            _check_regular(os.fstat(file.fileno()))
            content = file.read()
    except FileNotFoundError:
        raise FileNotFoundError("the file does not exist") from None
    except IsADirectoryError:
        raise IsADirectoryError("it is a directory, not a file") from None
    except PermissionError:
        raise PermissionError("there is no permission to read the file") from None
    except OSError as error:  # the text of the system without the path that str(error) repeats
        raise type(error)(f"the file cannot be read ({error.strerror or error})") from None
    except ValueError as error:  # a NUL, or characters that the file system cannot encode
        raise ValueError(f"no file can have this name ({_brief(error)})") from None
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


def content_digest(raw: RawImage) -> bytes:
    """Digest what an image shows, to know it again under another name.

    Parameters
    ----------
    raw : bytes, PIL image or ndarray
        What `read_source` returns.

    Returns
    -------
    digest : bytes of length 16
        BLAKE2b of encoded bytes as they are, since decoding would cost a hundred times as much,
        and of the size and pixels that `to_rgb` gives for everything else: two of them have one
        digest exactly if they show the same picture.

    Raises
    ------
    ValueError
        If a PIL image cannot be decoded.
    """
    if isinstance(raw, bytes):
        return blake2b(raw, digest_size=16).digest()
    image = to_rgb(raw)
    # `person` keeps pixels apart from a file that happens to hold the same bytes.
    digest = blake2b(repr(image.size).encode(), digest_size=16, person=b"RGB pixels")
    digest.update(image.tobytes())
    return digest.digest()


def check_header(raw: RawImage) -> None:
    """Check cheaply what can be checked without decoding, before hours are spent on the rest.

    Parameters
    ----------
    raw : bytes, PIL image or ndarray
        What `read_source` returns.

    Raises
    ------
    ValueError
        If the bytes begin no known image format, a side is shorter than `MIN_SIDE`, the image has
        more pixels than ``PIL.Image.MAX_IMAGE_PIXELS`` or its values have no defined white level.
    """
    _open(raw)


def to_rgb(raw: RawImage) -> Image.Image:
    """Decode an image to RGB, upright, eight bits a channel.

    Transparency is dropped, not blended; of an animation this is the first frame; 16-bit grey
    is scaled by 1 / 257 and rounded.

    Parameters
    ----------
    raw : bytes, PIL image or ndarray
        What `read_source` returns. It is not modified, save that a PIL image still to be read
        from its file is read.

    Returns
    -------
    image : PIL image of mode RGB
        A new image, without metadata.

    Raises
    ------
    ValueError
        If `check_header` does, or the image data are truncated or damaged.
    """
    image = _open(raw)
    with _guarded(), _loading if image is raw else nullcontext():
        image.load()
        transpose = _transpose_of(image)  # after loading: TIFF turns itself upright there
        if image is raw:
            image = image.copy()
    # Alpha is dropped and the orientation is known: what is left would only make Pillow translate
    # a transparent colour, with warnings, and make the next reader turn the picture again.
    image.info = {}
    if image.mode.startswith("I"):
        image = _scaled_to_8_bits(image)
    with _guarded():
        if image.mode == "La":  # the one mode that Pillow converts to nothing but its neighbour
            image = image.convert("LA")
        image = image.convert("RGB")
        return image if transpose is None else image.transpose(transpose)


def load_rgb(raw: RawImage, image_size: int) -> np.ndarray:
    """Decode an image and squash it to a square.

    Parameters
    ----------
    raw : bytes, PIL image or ndarray
        What `read_source` returns.
    image_size : int
        Side of the square in pixels.

    Returns
    -------
    pixels : ndarray of shape (image_size, image_size, 3) and dtype uint8
        Scaled with Pillow's antialiased bilinear filter; C-contiguous and writable.

    Raises
    ------
    ValueError
        If `to_rgb` does.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_dfd.images import load_rgb
    >>> load_rgb(np.full((480, 640), 7, np.uint8), 224)[0, 0]
    array([7, 7, 7], dtype=uint8)
    """
    image = to_rgb(raw)
    if image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.array(image)


def _open(raw: RawImage) -> Image.Image:
    """Give a PIL image, not decoded yet, that passed the checks of `check_header`."""
    if isinstance(raw, bytes):
        image = _open_bytes(raw)
    elif isinstance(raw, np.ndarray):
        _check_array(raw, n_axes=2, name="it")
        _check_side(raw.shape[1], raw.shape[0])
        pixels = raw[..., :3] if raw.ndim == 3 and raw.shape[-1] > 1 else raw.reshape(raw.shape[:2])
        image = Image.fromarray(np.ascontiguousarray(pixels))
    else:
        image = raw
    _check_side(image.width, image.height)
    if image.mode == "F":
        raise _no_white_level("floating point")
    return image


def _open_bytes(raw: bytes) -> Image.Image:
    with _guarded():
        Image.preinit()  # the common formats come first, as Image.open tries them
        Image.init()
        formats = [name for name in Image.ID if name not in _REFUSED_FORMATS]
        image = Image.open(io.BytesIO(raw), formats=formats)
    # Pillow itself only warns up to twice the limit.
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise _too_large(f"{image.width}x{image.height} pixels")
    return image


def _check_side(width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE:
        raise ValueError(
            f"the image is {width}x{height} pixels, each side must have at least {MIN_SIDE}"
        )


def _transpose_of(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TRANSPOSE.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # a photograph with damaged metadata is still a photograph
        return None


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise _no_white_level("beyond 16 bits")
    # 257 is odd, so that no value lies halfway and adding half of it rounds exactly
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _no_white_level(values: str) -> ValueError:
    return ValueError(f"its values are {values}, with no defined white level: save it as 8 bits")


def _too_large(size: str) -> ValueError:
    return ValueError(
        f"the image is too large ({size}; PIL.Image.MAX_IMAGE_PIXELS is {Image.MAX_IMAGE_PIXELS}, "
        "raise it for files that you trust)"
    )


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}".removesuffix(": ")


@contextmanager
def _guarded() -> Iterator[None]:
    """Silence Pillow, and turn whatever it raises on hostile bytes into a reason."""
    try:
        with _pillow_silenced():
            yield
    except UnidentifiedImageError:
        raise ValueError("the bytes are of no image format that can be read") from None
    except Image.DecompressionBombError as error:
        raise _too_large(str(error)) from None
    except Exception as error:
        raise ValueError(f"the image data are truncated or damaged ({_brief(error)})") from error


# Up to Python 3.13 `warnings.catch_warnings` replaces the filters of the whole process; where two
# threads overlap in it, the second to leave restores what the first had set. So the first thread
# in sets the filter for all, and the last one out takes it back.
_silence = ExitStack()
_silence_lock = threading.Lock()
_n_silenced = 0


@contextmanager
def _pillow_silenced() -> Iterator[None]:
    global _n_silenced
    if getattr(sys.flags, "context_aware_warnings", False):  # each thread has filters of its own
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
        return
    with _silence_lock:
        if _n_silenced == 0:
            _silence.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _n_silenced += 1
    try:
        yield
    finally:
        with _silence_lock:
            _n_silenced -= 1
            if _n_silenced == 0:
                _silence.close()
