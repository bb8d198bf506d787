"""From bytes, PIL images and arrays to upright RGB pixels, and everything that can be wrong.

`content_digest` recognises an image, `check_header` examines it cheaply, and `load_rgb` returns its
pixels. Each of them states what is wrong in a short sentence that does not name the image: the
caller knows which one it is.
"""

import io
import sys
import time
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from hashlib import blake2b
from typing import IO, NamedTuple, TypeAlias, Union

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from sklearn_dfd._core.images.colours import in_srgb, may_hold_a_profile, profile_to_convert
from sklearn_dfd._core.images.formats import register_plugin, why_unreadable
from sklearn_dfd._core.images.jpeg import Box, first_scan, scale_down
from sklearn_dfd._core.messages import brief
from sklearn_dfd._core.runtime.process_state import ThreadLock, WhileAny

#: The content of an image file, an image in memory, or one that is made from another.
RawImage: TypeAlias = Union[bytes, Image.Image, npt.NDArray[np.uint8], "RawFrame", "DerivedImage"]


class RawFrame(NamedTuple):
    """A frame of a film, which is recognised without decoding it.

    Parameters
    ----------
    digest : bytes of length 16
        Hash of all that determines the frame.
    place : tuple of (object, float)
        Its film, and where in it: frames are decoded faster in this order.
    check : callable
        Function of ``max_pixels`` that raises ValueError if the film cannot be opened, or its
        frames have more pixels.
    decode : callable
        Function of ``max_pixels`` that returns the frame as a new PIL image of mode RGB, upright,
        or raises ValueError.
    """

    digest: bytes
    place: tuple[Hashable, float]
    check: Callable[[int | None], None]
    decode: Callable[[int | None], Image.Image]


class DerivedImage(NamedTuple):
    """An image that is made from the content of another one each time it is decoded.

    Parameters
    ----------
    raw : bytes, PIL image, ndarray, RawFrame or DerivedImage
        What it is made from.
    signature : str
        All that determines it apart from `raw`. Another version of `render` needs another one.
    render : callable
        Function of the upright RGB image and a `numpy.random.RandomState` that returns another
        image. The generator is seeded by `content_digest` of all this, so the result depends on
        nothing else.
    on_square : callable or None, default=None
        Function that makes the same pixels from the resized square of `raw`, so that an image and
        this one are decoded once; None where there is none.
    """

    raw: "RawImage"
    signature: str
    render: Callable[[Image.Image, np.random.RandomState], Image.Image]
    on_square: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]] | None = None


class Decoding(NamedTuple):
    """How images are decoded for the network: the arguments of `load_rgb`.

    Parameters
    ----------
    image_size : int
        Side of the square that images are resized to, in pixels.
    max_pixels : int or None, default=None
        See `check_header`.
    fast : bool, default=False
        Whether large JPEG files are decoded at a reduced scale; see `load_rgb`.
    """

    image_size: int
    max_pixels: int | None = None
    fast: bool = False


#: Length of the shortest side of an image in pixels: a single row or column, such as a tracking
#: pixel, shows nothing.
MIN_SIDE = 2

#: Formats that are never opened: EPS starts Ghostscript and WMF Windows' own renderer on bytes of
#: unknown origin, and IPTC is a container that may hold either. BLP and FITS are containers too:
#: they are unpacked all at once, beyond the limit of time and, in older releases of Pillow, of
#: memory.
_REFUSED_FORMATS = frozenset({"BLP", "EPS", "FITS", "IPTC", "WMF"})

#: Pixels that Pillow allows in an image file unless ``Image.MAX_IMAGE_PIXELS`` is changed.
USUAL_MAX_PIXELS = 2**30 // 4 // 3

#: Formats that Pillow decodes as soon as it opens a file.
_DECODED_AT_ONCE = frozenset({"ICO"})

#: Seconds of one core's time that decoding one image may take. A photograph takes 0.02; a small
#: file made for the purpose, such as a JPEG with very many scans, can keep a decoder busy for
#: hours.
DECODING_SECONDS = 60
#: Bytes of a JPEG file that are decoded between two checks of the clock. The number is larger for a
#: file with a single scan, which takes no longer than its pixels account for: the decoder is faster
#: with larger blocks.
_BLOCK, _BLOCK_OF_ONE_SCAN = 2**12, 2**18

_TRANSPOSE: dict[object, Image.Transpose] = {  # EXIF orientation -> what turns the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Loading fills a PIL image in place, which is not safe in two threads at once, and one image may
# stand in several rows. One lock serves all images: those passed as PIL images are usually decoded
# already.
_loading = ThreadLock()


def content_digest(raw: RawImage) -> bytes:
    """Digest what an image shows, to recognise it under another name.

    Parameters
    ----------
    raw : bytes, PIL image, ndarray, RawFrame or DerivedImage
        The content of an image file, or an image in memory.

    Returns
    -------
    digest : bytes of length 16
        BLAKE2b hash. Of encoded bytes it is the hash of the bytes themselves, since decoding would
        cost a hundred times as much; of images in memory, that of the size and the RGB pixels, so
        that two of them have the same digest if and only if they show the same picture (colour
        profiles apart: see `feature_digest`). That of a derived image depends on what it is made
        from and on its signature, and needs no rendering.

    Raises
    ------
    ValueError
        If a PIL image cannot be decoded.
    """
    if isinstance(raw, bytes):
        return blake2b(raw, digest_size=16).digest()
    if isinstance(raw, RawFrame):
        return raw.digest
    if isinstance(raw, DerivedImage):
        made_of = content_digest(raw.raw) + raw.signature.encode()
        return blake2b(made_of, digest_size=16, person=b"derived image").digest()
    image, _ = _decoded(raw, None)
    # `person` keeps pixels apart from a file that happens to hold the same bytes.
    digest = blake2b(repr(image.size).encode(), digest_size=16, person=b"RGB pixels")
    digest.update(image.tobytes())
    return digest.digest()


def feature_digest(raw: RawImage, max_pixels: int | None = None) -> bytes:
    """Digest everything in an image that its features depend on.

    Parameters
    ----------
    raw : bytes, PIL image, ndarray, RawFrame or DerivedImage
        The content of an image file, or an image in memory.
    max_pixels : int or None, default=None
        See `check_header`.

    Returns
    -------
    digest : bytes
        `content_digest`, followed by whatever else determines the pixels: the colour profile, if
        there is one to convert, and, for a file that might be truncated, whether
        ``PIL.ImageFile.LOAD_TRUNCATED_IMAGES`` is set.

    Raises
    ------
    ValueError
        If a PIL image cannot be decoded.
    """
    return content_digest(raw) + decoding_mark(raw, max_pixels)


def decoding_mark(raw: RawImage, max_pixels: int | None = None) -> bytes:
    """Return the part of `feature_digest` that is not the content; usually empty.

    Parameters
    ----------
    raw : bytes, PIL image, ndarray, RawFrame or DerivedImage
        The content of an image file, or an image in memory.
    max_pixels : int or None, default=None
        See `check_header`.

    Returns
    -------
    mark : bytes
    """
    raw = innermost(raw)
    if isinstance(raw, np.ndarray | RawFrame):
        return b""
    lenient = b"truncated" if ImageFile.LOAD_TRUNCATED_IMAGES else b""
    if isinstance(raw, bytes):
        if not may_hold_a_profile(raw):
            return lenient
        try:
            with _guarded(max_pixels):
                image, _ = _open(raw, max_pixels)
        except ValueError:  # which is reported when its header is checked
            return lenient
    else:
        image, lenient = raw, b""
    profile = profile_to_convert(image)
    if profile is None:
        return lenient
    return lenient + blake2b(profile, digest_size=16, person=b"to sRGB").digest()


def innermost(raw: RawImage) -> bytes | Image.Image | npt.NDArray[np.uint8] | RawFrame:
    """Return the image that a derived image is made from, however often; another one as it is."""
    while isinstance(raw, DerivedImage):
        raw = raw.raw
    return raw


def pixel_limit(max_pixels: int | None) -> int | None:
    """Return how many pixels an image file may have under ``max_pixels``; None for any number."""
    if max_pixels is not None:
        return int(max_pixels)  # NumPy's integers cannot be sent to the process of a film
    with _limit_lock:
        return _lifted[0] if _lifted else Image.MAX_IMAGE_PIXELS


def check_header(raw: RawImage, max_pixels: int | None = None, fast_for: int | None = None) -> None:
    """Check what can be checked without decoding, before hours are spent on the rest.

    Parameters
    ----------
    raw : bytes, PIL image, ndarray, RawFrame or DerivedImage
        The content of an image file, or an image in memory.
    max_pixels : int or None, default=None
        Number of pixels that an image file may have, whatever limit Pillow is set to; None for
        ``PIL.Image.MAX_IMAGE_PIXELS``, as this process has set it.
    fast_for : int or None, default=None
        Side of the square for which ``load_rgb(fast=True)`` will decode the image. For a JPEG file,
        the pixels that are decoded count, unless the decoder holds the whole image in memory, as it
        does for progressive files. None counts all pixels of the file.

    Raises
    ------
    ValueError
        If the bytes do not begin like a known image format, a side is shorter than `MIN_SIDE`, the
        image has too many pixels, or its values have no defined white level.
    """
    raw = innermost(raw)
    if isinstance(raw, RawFrame):
        return raw.check(max_pixels)
    with _guarded(max_pixels):
        _open(raw, max_pixels, fast_for)


def open_lazily(file: IO[bytes]) -> Image.Image:
    """Open an image file for what its header says; no pixel is decoded.

    Parameters
    ----------
    file : binary file object
        The file, at its beginning.

    Returns
    -------
    image : PIL image
        Not decoded, and not checked as `check_header` does.

    Raises
    ------
    ValueError
        If the file does not begin like a known image format that can be opened without decoding,
        its header is damaged, or it has more than twice as many pixels as Pillow allows.
    """
    with _guarded(None):
        Image.preinit()
        Image.init()
        try:
            return _identified(file, _DECODED_AT_ONCE)
        except UnidentifiedImageError:
            file.seek(0)
            head = file.read(1024)
            if not register_plugin(head):
                raise _Fault(why_unreadable(head)) from None
            file.seek(0)
            return _identified(file, _DECODED_AT_ONCE)


def to_rgb(raw: RawImage, max_pixels: int | None = None) -> Image.Image:
    """Decode an image to sRGB, upright, with eight bits per channel.

    Transparency is dropped, not blended; only the first frame of an animation is used; 16-bit grey
    is scaled by 1 / 257 and rounded. If an embedded colour profile differs from sRGB, the colours
    are converted. A profile is ignored if it is damaged, belongs to a grey image, or is for another
    kind of image.

    Parameters
    ----------
    raw : bytes, PIL image, ndarray, RawFrame or DerivedImage
        The content of an image file, or an image in memory. It is not modified, except that a
        PIL image still to be read from its file is read.
    max_pixels : int or None, default=None
        See `check_header`.

    Returns
    -------
    image : PIL image of mode RGB
        A new image, without metadata.

    Raises
    ------
    ValueError
        If `check_header` raises it, the image data are truncated or damaged, or decoding takes
        more than `DECODING_SECONDS`.
    """
    if isinstance(raw, DerivedImage):
        # RandomState: NumPy guarantees that its numbers never change, unlike those of a Generator
        seed = np.frombuffer(content_digest(raw), dtype="<u4")
        image = raw.render(to_rgb(raw.raw, max_pixels), np.random.RandomState(seed)).convert("RGB")
        image.info = {}
        return image
    if isinstance(raw, RawFrame):
        return raw.decode(max_pixels)
    image, profile = _decoded(raw, max_pixels)
    return image if profile is None else in_srgb(image, profile)


def load_rgb(
    raw: RawImage, image_size: int, max_pixels: int | None = None, fast: bool = False
) -> npt.NDArray[np.uint8]:
    """Decode an image and resize it to a square (aspect ratio not kept).

    Parameters
    ----------
    raw : bytes, PIL image, ndarray, RawFrame or DerivedImage
        The content of an image file, or an image in memory.
    image_size : int
        Side of the square in pixels.
    max_pixels : int or None, default=None
        See `check_header`.
    fast : bool, default=False
        Whether a JPEG file is decoded at the smallest scale, down to an eighth, that keeps both
        sides at least twice as long as those of the square. Images in memory, other formats and
        those derived images that are not made from the square are decoded at their full size.

    Returns
    -------
    pixels : ndarray of shape (image_size, image_size, 3) and dtype uint8
        Resized with Pillow's antialiased bilinear filter, in RGB order; C-contiguous and writable.
        The colours are those of `to_rgb`, but converted after resizing, which costs next to
        nothing.

    Raises
    ------
    ValueError
        If `to_rgb` raises it.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_dfd._core.images.decoding import load_rgb
    >>> load_rgb(np.full((480, 640), 7, np.uint8), 224)[0, 0]
    array([7, 7, 7], dtype=uint8)
    """
    if isinstance(raw, DerivedImage):
        if raw.on_square is not None:
            return raw.on_square(load_rgb(raw.raw, image_size, max_pixels, fast))
        return np.array(squash(to_rgb(raw, max_pixels), image_size))
    if isinstance(raw, RawFrame):
        return np.array(squash(raw.decode(max_pixels), image_size))
    square, profile = _decoded(raw, max_pixels, image_size, fast=fast)
    return np.array(square if profile is None else in_srgb(square, profile))


def squash(image: Image.Image, side: int, box: Box | None = None) -> Image.Image:
    """Resize an image to a square (aspect ratio not kept), with an antialiased bilinear filter.

    Rows come first, then columns. Pillow rounds in between, and newer releases take some tall
    images in the other order, which changes many of their pixels by one.

    Parameters
    ----------
    image : PIL image
        The image to resize.
    side : int
        Side of the square in pixels.
    box : tuple of 4 float or None, default=None
        The part of the image to resize, which begins in its upper left corner; None for all of it.

    Returns
    -------
    image : PIL image
        The square, the same with every release of Pillow.
    """
    bilinear = Image.Resampling.BILINEAR
    width, height = image.size if box is None else box[2:]
    rows = image.resize((side, image.height), bilinear, (0, 0, width, image.height))
    return rows.resize((side, side), bilinear, (0, 0, side, height))


def _decoded(
    raw: bytes | Image.Image | npt.NDArray[np.uint8],
    max_pixels: int | None,
    image_size: int | None = None,
    *,
    fast: bool = False,
) -> tuple[Image.Image, bytes | None]:
    """Return the upright RGB image, and the profile if its colours are still to be converted.

    With ``image_size`` it is resized to the square of that side.
    """
    with _guarded(max_pixels):
        image, box = _open(raw, max_pixels, image_size if fast else None)
        with _loading if image is raw else nullcontext():
            try:
                image.load()
            except Exception:
                if image is raw and _was_closed(image):
                    raise _Fault(
                        "the PIL image was closed before it was read: call its load() before it "
                        "is closed, or pass the path"
                    ) from None
                raise
            transpose = _transpose_of(image)  # after loading: TIFF turns itself upright there
            profile = profile_to_convert(image)
            if image is raw:
                image = image.copy()
        # Alpha is dropped and the orientation is known: what is left would only make Pillow
        # translate a transparent colour, with warnings, and make the next reader turn the picture
        # again.
        image.info = {}
        if image.mode.startswith("I"):
            image = _scaled_to_8_bits(image)
        if profile is not None and image.mode == "CMYK":
            image, profile = in_srgb(image, profile), None
        if image.mode == "La":  # the one mode that Pillow converts to nothing but its neighbour
            image = image.convert("LA")
        if image.mode != "RGB" or image_size is None:  # a copy of all pixels, often needless
            image = image.convert("RGB")
        if image_size is not None and box is not None:
            image = squash(image, image_size, box)  # before it is turned, since the box is not
        if transpose is not None:
            image = image.transpose(transpose)
        return (image if image_size is None else squash(image, image_size)), profile


def _was_closed(image: Image.Image) -> bool:
    """Return whether a PIL image was closed before its pixels were read."""
    try:
        _ = image.im  # a ValueError where the image itself was closed
    except ValueError:
        return True
    except (AssertionError, AttributeError):  # its pixels are still to be read
        pass
    file = getattr(image, "fp", None)
    return bool(getattr(image, "tile", None)) and (file is None or getattr(file, "closed", False))


def _open(
    raw: bytes | Image.Image | npt.NDArray[np.uint8],
    max_pixels: int | None,
    fast_for: int | None = None,
) -> tuple[Image.Image, Box | None]:
    """Return a PIL image, not decoded yet, that passed the checks of `check_header`.

    If it is to be decoded at a reduced scale, the second value is what `scale_down` returns. For
    use within `_guarded`.
    """
    box = None
    if isinstance(raw, bytes):
        image: Image.Image = _open_bytes(raw, of_any_size=fast_for is not None)
    elif isinstance(raw, np.ndarray):
        _check_side(raw.shape[1], raw.shape[0])
        pixels = raw[..., :3] if raw.ndim == 3 and raw.shape[-1] > 1 else raw.reshape(raw.shape[:2])
        image = Image.fromarray(np.ascontiguousarray(pixels))
    else:
        image = raw
    _check_side(image.width, image.height)
    if image.mode == "F":
        raise _Fault(_no_white_level("floating point"))
    if isinstance(raw, bytes):  # Pillow itself only warns up to twice its own limit
        n_pixels, size = image.width * image.height, f"{image.width}x{image.height} pixels"
        if fast_for is not None:
            box = scale_down(image, fast_for)
        limit = pixel_limit(max_pixels)
        if limit is not None and n_pixels > limit and box is not None:
            if _is_in_one_scan(raw):
                n_pixels = image.width * image.height
                size += f", {image.width}x{image.height} at the scale at which it is decoded"
            else:
                size += ", all of which a progressive file keeps in memory"
        if limit is not None and n_pixels > limit:
            raise _Fault(_too_large(size, max_pixels))
    return image, box


def _open_bytes(raw: bytes, *, of_any_size: bool) -> ImageFile.ImageFile:
    Image.preinit()  # the common formats come first, as Image.open tries them
    Image.init()
    try:
        image = _identified(_TimedBytes(raw))
    except UnidentifiedImageError:
        if not register_plugin(raw):
            raise _Fault(why_unreadable(raw)) from None
        image = _identified(_TimedBytes(raw))
    except Image.DecompressionBombError:  # Pillow's own limit, which counts the pixels of the file
        if not (of_any_size and first_scan(raw)):
            raise
        with _limit_lifted():
            image = _identified(_TimedBytes(raw))
    if image.format in ("JPEG", "MPO"):
        image.decodermaxblock = _BLOCK_OF_ONE_SCAN if _is_in_one_scan(raw) else _BLOCK
    return image


def _is_in_one_scan(raw: bytes) -> bool:
    scan = first_scan(raw)
    return scan is not None and scan.is_only


def _identified(file: IO[bytes], others: frozenset[str] = frozenset()) -> ImageFile.ImageFile:
    formats = [name for name in Image.ID if name not in _REFUSED_FORMATS | others]
    return Image.open(file, formats=formats)


class _TimeIsUp(BaseException):
    """Raised into a decoder: not an Exception, which it might take for the end of the file."""


class _Fault(Exception):
    """What is wrong with an image, in words."""


class _TimedBytes(io.BytesIO):
    """The bytes of a file, which can be read for a limited time of the thread.

    All decoders that can be busy for longer than their number of pixels explains read block by
    block.
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
        raise _Fault(
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
        raise _Fault(_no_white_level("beyond 16 bits"))
    # 257 is odd, so no value lies halfway, and adding half of it rounds exactly
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _no_white_level(values: str) -> str:
    return f"its values are {values}, with no defined white level: save it as 8 bits"


def _too_large(size: str, max_pixels: int | None = None) -> str:
    if max_pixels is not None:
        return (
            f"the image is too large ({size}; max_pixels is {max_pixels}, raise it for files that "
            "you trust)"
        )
    limit = pixel_limit(None)
    return (
        f"the image is too large ({size}; PIL.Image.MAX_IMAGE_PIXELS is {limit} in this process; "
        "for files that you trust, raise it, or the parameter max_pixels, which worker processes "
        "know, too)"
    )


@contextmanager
def _guarded(max_pixels: int | None) -> Iterator[None]:
    """Silence Pillow, and turn whatever it raises on hostile bytes into a reason."""
    try:
        with _pillow_silenced(), _pillow_limit_lifted(max_pixels):
            yield
    except UnidentifiedImageError:
        raise ValueError("the bytes are not in an image format that can be read") from None
    except Image.DecompressionBombError as error:
        raise ValueError(_too_large(str(error), max_pixels)) from None
    except _Fault as fault:
        raise ValueError(str(fault)) from None
    except _TimeIsUp:
        raise ValueError(
            f"decoding takes more than {DECODING_SECONDS} seconds, as it does for a file made to "
            "keep its reader busy: save the image again"
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


@contextmanager
def _no_limit() -> Iterator[None]:
    global _lifted
    with _limit_lock:
        _lifted, Image.MAX_IMAGE_PIXELS = (Image.MAX_IMAGE_PIXELS,), None
    try:
        yield
    finally:
        with _limit_lock:
            (Image.MAX_IMAGE_PIXELS,), _lifted = _lifted, ()


# Pillow's limit is that of the process, too.
_limit_lifted = WhileAny(_no_limit)
_lifted: tuple[int | None, ...] = ()  # the limit, while it is lifted
_limit_lock = ThreadLock()


def _pillow_limit_lifted(max_pixels: int | None) -> AbstractContextManager[None]:
    """Set Pillow's own limit aside where ``max_pixels`` is above it."""
    if max_pixels is not None:
        limit = pixel_limit(None)
        if limit is not None and max_pixels > limit:
            return _limit_lifted()
    return nullcontext()
