"""From bytes, PIL images and arrays to upright RGB pixels, and all that can be wrong with them.

`content_digest` knows an image again, `check_header` looks at it cheaply, and `load_rgb` gives the
pixels. Each says what is wrong in a short sentence that leaves out which image it is: the caller
knows.
"""

import io
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from hashlib import blake2b
from typing import Any, NamedTuple, TypeAlias, Union

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from sklearn_dfd._core.messages import brief
from sklearn_dfd._core.runtime.process_state import ThreadLock, WhileAny

#: The content of an image file, an image in memory, or one that is made from another.
RawImage: TypeAlias = Union[bytes, Image.Image, np.ndarray, "DerivedImage"]


class DerivedImage(NamedTuple):
    """An image that is made from the content of another one, each time that it is decoded.

    Parameters
    ----------
    raw : bytes, PIL image, ndarray or DerivedImage
        What it is made from.
    signature : str
        All that determines it besides `raw`; another version of `render` needs another one.
    render : callable
        From the upright RGB image and a `numpy.random.RandomState` to another image. The
        generator is seeded by `content_digest` of all this, so that the result depends on nothing
        else.
    """

    raw: "RawImage"
    signature: str
    render: Callable[[Image.Image, np.random.RandomState], Image.Image]


#: Shortest side, in pixels, of an image: a single row or column, as of a tracking pixel, shows
#: nothing.
MIN_SIDE = 2

#: What a person may pass, for messages.
AN_IMAGE_IS = (
    "an image is a path, a PIL image, a uint8 array of shape (H, W), (H, W, 1), (H, W, 3) or "
    "(H, W, 4), or the bytes of an image file"
)

#: Formats never opened: EPS starts Ghostscript and WMF Windows' own renderer on bytes that nobody
#: vouches for, and IPTC is an envelope that may hold either. BLP and FITS are envelopes, too, that
#: unpack what is in them at once, beyond the limit of time and, in older Pillows, of memory.
_REFUSED_FORMATS = frozenset({"BLP", "EPS", "FITS", "IPTC", "WMF"})

#: Pixels that Pillow lets an image file have, unless ``Image.MAX_IMAGE_PIXELS`` is changed.
USUAL_MAX_PIXELS = 2**30 // 4 // 3

#: Seconds of a core's time that decoding one image may take. A photograph takes 0.02; a small file
#: made for it keeps a decoder busy for hours, such as a JPEG of thousands of scans.
DECODING_SECONDS = 60
_BLOCK = 4096  # bytes of a JPEG that are decoded between two looks at the clock

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
_loading = ThreadLock()


def check_array(image: np.ndarray, *, n_axes: int, name: str) -> None:
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
        raise ValueError(f"{name} has shape {image.shape}; {AN_IMAGE_IS}")


def content_digest(raw: RawImage) -> bytes:
    """Digest what an image shows, to know it again under another name.

    Parameters
    ----------
    raw : bytes, PIL image, ndarray or DerivedImage
        The content of an image file, or an image in memory.

    Returns
    -------
    digest : bytes of length 16
        BLAKE2b of encoded bytes as they are, since decoding would cost a hundred times as much,
        and of the size and pixels that `to_rgb` gives for images in memory: two of them have one
        digest exactly if they show the same picture. That of a derived image is of what it is
        made from and of the signature, and costs no rendering.

    Raises
    ------
    ValueError
        If a PIL image cannot be decoded.
    """
    if isinstance(raw, bytes):
        return blake2b(raw, digest_size=16).digest()
    if isinstance(raw, DerivedImage):
        made_of = content_digest(raw.raw) + raw.signature.encode()
        return blake2b(made_of, digest_size=16, person=b"derived image").digest()
    image = to_rgb(raw)
    # `person` keeps pixels apart from a file that happens to hold the same bytes.
    digest = blake2b(repr(image.size).encode(), digest_size=16, person=b"RGB pixels")
    digest.update(image.tobytes())
    return digest.digest()


def size_in_memory(raw: RawImage) -> int:
    """Bytes of the file that an image was read from; 0 for images that the caller holds."""
    while isinstance(raw, DerivedImage):
        raw = raw.raw
    return len(raw) if isinstance(raw, bytes) else 0


def pixel_limit(max_pixels: int | None) -> int | None:
    """Pixels that an image file may have under ``max_pixels``, now; None for any number."""
    return Image.MAX_IMAGE_PIXELS if max_pixels is None else max_pixels


def check_header(raw: RawImage, max_pixels: int | None = None) -> None:
    """Check cheaply what can be checked without decoding, before hours are spent on the rest.

    Parameters
    ----------
    raw : bytes, PIL image, ndarray or DerivedImage
        The content of an image file, or an image in memory.
    max_pixels : int or None, default=None
        Pixels that an image file may have; None for ``PIL.Image.MAX_IMAGE_PIXELS``. Beyond twice
        that number Pillow itself refuses.

    Raises
    ------
    ValueError
        If the bytes begin no known image format, a side is shorter than `MIN_SIDE`, the image has
        more pixels than it may or its values have no defined white level.
    """
    while isinstance(raw, DerivedImage):
        raw = raw.raw
    _open(raw, max_pixels)


def to_rgb(raw: RawImage, max_pixels: int | None = None) -> Image.Image:
    """Decode an image to RGB, upright, eight bits a channel.

    Transparency is dropped, not blended; of an animation this is the first frame; 16-bit grey
    is scaled by 1 / 257 and rounded.

    Parameters
    ----------
    raw : bytes, PIL image, ndarray or DerivedImage
        The content of an image file, or an image in memory. It is not modified, save
        that a PIL image still to be read from its file is read.
    max_pixels : int or None, default=None
        See `check_header`.

    Returns
    -------
    image : PIL image of mode RGB
        A new image, without metadata.

    Raises
    ------
    ValueError
        If `check_header` does, the image data are truncated or damaged, or decoding takes more
        than `DECODING_SECONDS`.
    """
    if isinstance(raw, DerivedImage):
        # RandomState, since numpy promises its numbers for ever, and those of a Generator not
        seed = np.frombuffer(content_digest(raw), dtype="<u4")
        image = raw.render(to_rgb(raw.raw, max_pixels), np.random.RandomState(seed)).convert("RGB")
        image.info = {}
        return image
    image = _open(raw, max_pixels)
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


def load_rgb(raw: RawImage, image_size: int, max_pixels: int | None = None) -> np.ndarray:
    """Decode an image and squash it to a square.

    Parameters
    ----------
    raw : bytes, PIL image, ndarray or DerivedImage
        The content of an image file, or an image in memory.
    image_size : int
        Side of the square in pixels.
    max_pixels : int or None, default=None
        See `check_header`.

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
    >>> from sklearn_dfd._core.images.decoding import load_rgb
    >>> load_rgb(np.full((480, 640), 7, np.uint8), 224)[0, 0]
    array([7, 7, 7], dtype=uint8)
    """
    return np.array(squash(to_rgb(raw, max_pixels), image_size))


def squash(image: Image.Image, side: int) -> Image.Image:
    """Scale an image to a square with Pillow's antialiased bilinear filter.

    Along the rows first, then along the columns. Pillow rounds in between, and newer releases take
    some tall images the other way round, which changes many of their pixels by one.

    Parameters
    ----------
    image : PIL image
    side : int
        In pixels.

    Returns
    -------
    image : PIL image
        The same with every release of Pillow.
    """
    bilinear = Image.Resampling.BILINEAR
    return image.resize((side, image.height), bilinear).resize((side, side), bilinear)


def _open(raw: bytes | Image.Image | np.ndarray, max_pixels: int | None) -> Image.Image:
    """Give a PIL image, not decoded yet, that passed the checks of `check_header`."""
    if isinstance(raw, bytes):
        image = _open_bytes(raw, max_pixels)
    elif isinstance(raw, np.ndarray):
        check_array(raw, n_axes=2, name="it")
        _check_side(raw.shape[1], raw.shape[0])
        pixels = raw[..., :3] if raw.ndim == 3 and raw.shape[-1] > 1 else raw.reshape(raw.shape[:2])
        image = Image.fromarray(np.ascontiguousarray(pixels))
    else:
        image = raw
    _check_side(image.width, image.height)
    if image.mode == "F":
        raise _no_white_level("floating point")
    return image


def _open_bytes(raw: bytes, max_pixels: int | None) -> Image.Image:
    with _guarded():
        Image.preinit()  # the common formats come first, as Image.open tries them
        Image.init()
        formats = [name for name in Image.ID if name not in _REFUSED_FORMATS]
        image = Image.open(_TimedBytes(raw), formats=formats)
        if image.format in ("JPEG", "MPO"):
            image.decodermaxblock = _BLOCK
    # Pillow itself only warns up to twice its own limit.
    limit = pixel_limit(max_pixels)
    if limit is not None and image.width * image.height > limit:
        raise _too_large(f"{image.width}x{image.height} pixels", max_pixels)
    return image


class _TimeIsUp(BaseException):
    """Raised into a decoder: not an Exception, which it might take for the end of the file."""


class _TimedBytes(io.BytesIO):
    """The bytes of a file, to be read within a bounded time of the thread.

    All decoders that can be busy for longer than their pixels account for read block by block.
    """

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self._deadline = time.thread_time() + DECODING_SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self._deadline:
            raise _TimeIsUp
        return super().read(size)


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


def _too_large(size: str, max_pixels: int | None = None) -> ValueError:
    if max_pixels is not None:
        return ValueError(
            f"the image is too large ({size}; max_pixels is {max_pixels}, raise it for files that "
            "you trust)"
        )
    return ValueError(
        f"the image is too large ({size}; PIL.Image.MAX_IMAGE_PIXELS is {Image.MAX_IMAGE_PIXELS}, "
        "raise it for files that you trust)"
    )


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
    except _TimeIsUp:
        raise ValueError(
            f"decoding takes more than {DECODING_SECONDS} seconds, as of a file that is made to "
            "keep its reader busy: save it anew"
        ) from None
    except Exception as error:
        raise ValueError(f"the image data are truncated or damaged ({brief(error)})") from error


@contextmanager
def _warnings_of_pillow_ignored() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


# Up to Python 3.13 `warnings.catch_warnings` replaces the filters of the whole process.
_silenced_for_all = WhileAny(_warnings_of_pillow_ignored)


def _pillow_silenced() -> AbstractContextManager[None]:
    if getattr(sys.flags, "context_aware_warnings", False):  # each thread has filters of its own
        return _warnings_of_pillow_ignored()
    return _silenced_for_all()
