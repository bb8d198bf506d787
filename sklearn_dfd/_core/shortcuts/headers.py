"""What the header of an image file says, read without decoding a pixel."""

import os
import time
from collections.abc import Mapping
from io import BytesIO, RawIOBase
from typing import IO, Any, NamedTuple, TypeAlias, cast

import numpy as np
from PIL import Image

from sklearn_dfd._core.images.decoding import open_lazily
from sklearn_dfd._core.images.files import open_file
from sklearn_dfd._core.images.reading import read_source
from sklearn_dfd._core.images.sources import ImageView, LazyImage, type_name
from sklearn_dfd._core.messages import on_one_line
from sklearn_dfd._core.shortcuts.jpeg_header import is_jpeg, read_jpeg_header

#: What a header says under each name: text, or a number.
Header: TypeAlias = dict[str, str | float]

#: Value of what a file does not have.
NONE = "none"


class Attribute(NamedTuple):
    """Something that a header says, and the values of `Header` that say it."""

    name: str
    kinds: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()


#: All that is read, in the order of the report.
ATTRIBUTES = (
    Attribute("format", kinds=("format",)),
    Attribute("colour mode", kinds=("mode",)),
    Attribute("size", numbers=("width", "height")),
    Attribute("aspect ratio", numbers=("aspect",)),
    Attribute("bytes per pixel", numbers=("density",)),
    Attribute("quantisation tables", kinds=("tables",)),
    Attribute("chroma subsampling", kinds=("subsampling",)),
    Attribute("coding", kinds=("coding",)),
    Attribute("Huffman tables", kinds=("huffman",)),
    Attribute("EXIF", kinds=("exif",)),
    Attribute("ICC profile", kinds=("icc",)),
    Attribute("XMP", kinds=("xmp",)),
    Attribute("software", kinds=("software",)),
    Attribute("camera", kinds=("camera",)),
    Attribute("segments", kinds=("layout",), numbers=("n_segments",)),
)
#: Read where it is asked for: copying a file changes it.
FILE_TIME = Attribute("file time", numbers=("time",))

_MAX_BYTES = 2**28  # read by Pillow for one header: some formats are read whole
_SECONDS = 5  # of one core's time for one header; most take less than a thousandth of that
_MAX_TEXT = 80  # characters of a tag
_MAX_ENTRIES = 1000  # of a directory of tags; cameras write fewer than 30

_MAKE, _MODEL, _SOFTWARE = 0x010F, 0x0110, 0x0131
_ASCII = 2  # type of a tag


class NoHeaderError(TypeError):
    """Raised for an image in memory, which is not a file and has no header."""


def read_header(source: Any) -> Header:
    """Read the header of an image file, in bounded time and memory.

    Parameters
    ----------
    source : path, bytes-like, binary file object or PIL image opened from a path
        One item of what `as_image_list` returns. Only the header is read from a path.

    Returns
    -------
    header : dict
        A value for each name in `ATTRIBUTES` and `FILE_TIME`: "none" or NaN where the file, or its
        format, has no such thing.

    Raises
    ------
    NoHeaderError
        If the image is an array, a view or a PIL image without a file.
    OSError, ValueError, TypeError
        If the file cannot be read, or its header is damaged or longer than any photograph's.
    """
    if isinstance(source, Image.Image):
        source = vars(source).get("filename") or source
    if isinstance(source, ImageView):
        raise NoHeaderError("it is made when it is needed, and is not a file")
    if isinstance(source, Image.Image | np.ndarray):
        raise NoHeaderError(f"it is a {type_name(source)} in memory, which has no header")
    if isinstance(source, str | os.PathLike):
        with open_file(source) as file:
            status = os.fstat(file.fileno())
            if not status.st_size:
                raise ValueError("the file is empty")
            return _header(file, status.st_size) | {"time": status.st_mtime}
    if isinstance(source, LazyImage):
        raise NoHeaderError("it is a frame of a film, which has no header of its own")
    raw = read_source(source)
    if not isinstance(raw, bytes):
        raise NoHeaderError("it is an image in memory, which has no header")
    return _header(BytesIO(raw), len(raw)) | {"time": np.nan}


def _header(file: IO[bytes], n_bytes: int) -> Header:
    found: Header = dict.fromkeys(
        ("tables", "subsampling", "coding", "huffman", "exif", "icc", "xmp", "software"), NONE
    )
    exif = _of_jpeg(file, found) if is_jpeg(file) else _of_others(file, found)
    if exif:
        found["exif"] = "present"
        tags = _tags(exif)
        found["software"] = tags.get(_SOFTWARE, found["software"])
    else:
        tags = {}
    camera = f"{tags.get(_MAKE, '')} {tags.get(_MODEL, '')}".strip()
    width, height = float(found["width"]), float(found["height"])
    if not width * height:
        raise ValueError("its header says that it has no pixels")
    return found | {
        "camera": camera or NONE,
        "aspect": width / height,
        "density": n_bytes / (width * height),
    }


def _of_jpeg(file: IO[bytes], found: Header) -> bytes:
    """Add what the header of a JPEG file says, and return its EXIF data."""
    header = read_jpeg_header(file)
    found |= header.as_text()
    found["format"] = "JPEG"
    found["width"], found["height"] = map(float, header.size)
    found["n_segments"] = float(header.n_segments)
    return header.exif


def _of_others(file: IO[bytes], found: Header) -> bytes:
    """Add what Pillow reads of another file, and return its EXIF data."""
    file.seek(12)
    kind_of_webp = file.read(4)
    file.seek(0)
    try:
        image = open_lazily(cast(IO[bytes], _Limited(file)))
    except _Spent as spent:
        raise ValueError(str(spent)) from None
    info = image.info
    found["format"], found["mode"] = str(image.format), image.mode
    found["width"], found["height"] = map(float, image.size)
    found["n_segments"] = float(len(info))
    found["layout"] = short(", ".join(sorted(map(str, info)))) or NONE
    found["software"] = short(info.get("Software")) or NONE
    if image.format == "WEBP":
        found["coding"] = short(kind_of_webp)
    else:
        found["coding"] = short(info.get("compression")) or NONE
        if info.get("interlace"):
            found["coding"] = "interlaced"
    if info.get("icc_profile"):
        found["icc"] = f"{len(info['icc_profile'])} bytes"
    if "xmp" in info or "XML:com.adobe.xmp" in info:
        found["xmp"] = "present"
    exif = info.get("exif")
    if not isinstance(exif, bytes) and isinstance(getattr(image, "tag_v2", None), Mapping):
        _add_tags_of_tiff(image.tag_v2, found)  # type: ignore[attr-defined]
    return exif if isinstance(exif, bytes) else b""


def _add_tags_of_tiff(tags: Mapping[int, Any], found: Header) -> None:
    found["software"] = short(tags.get(_SOFTWARE)) or NONE


def _tags(exif: bytes) -> dict[int, str]:
    """Read texts from the first directory of EXIF data; of damaged data what can be read."""
    data = exif.removeprefix(b"Exif\0\0")
    if data[:2] not in (b"II", b"MM"):
        return {}
    order = "little" if data[:2] == b"II" else "big"

    def number(start: int, length: int) -> int:
        return int.from_bytes(data[start : start + length], order)  # type: ignore[arg-type]

    start, texts = number(4, 4), {}
    for entry in range(min(number(start, 2), _MAX_ENTRIES)):
        at = start + 2 + 12 * entry
        tag, length = number(at, 2), number(at + 4, 4)
        if tag in (_MAKE, _MODEL, _SOFTWARE) and number(at + 2, 2) == _ASCII:
            begin = at + 8 if length <= 4 else number(at + 8, 4)
            text = short(data[begin : begin + min(length, 4 * _MAX_TEXT)])
            if text:
                texts[tag] = text
    return texts


def short(text: Any) -> str:
    """Return a text from a file as one printable line of bounded length."""
    if isinstance(text, tuple | list):
        text = text[0] if text else ""
    if isinstance(text, bytes):
        text = text.partition(b"\0")[0].decode("utf-8", "replace")
    return on_one_line(" ".join(str(text or "")[: 2 * _MAX_TEXT].split())[:_MAX_TEXT])


class _Spent(BaseException):
    """Raised into Pillow: not an Exception, which it might take for the end of the file."""


class _Limited(RawIOBase):
    """A file that gives a limited number of bytes, for a limited time of the thread."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self._left = _MAX_BYTES
        self._deadline = time.thread_time() + _SECONDS

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        if time.thread_time() > self._deadline:
            raise _Spent(f"reading its header takes more than {_SECONDS} seconds")
        wanted = self._left + 1 if size < 0 else min(size, self._left + 1)
        content = self._file.read(wanted)
        self._left -= len(content)
        if self._left < 0:
            raise _Spent(f"its header is longer than {_MAX_BYTES:,} bytes")
        return content
