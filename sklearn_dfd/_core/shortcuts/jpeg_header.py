"""The header of a JPEG file: its segments up to the first scan."""

from functools import cache
from hashlib import blake2b
from io import BytesIO
from typing import IO, NamedTuple

from PIL import Image

_START_OF_SCAN, _END, _TABLES, _HUFFMAN = 0xDA, 0xD9, 0xDB, 0xC4
_APP, _COMMENT = range(0xE0, 0xF0), 0xFE
_CODINGS = {0xC0: "baseline", 0xC1: "extended sequential", 0xC2: "progressive", 0xC3: "lossless"}
_FRAMES = frozenset(range(0xC0, 0xD0)) - {_HUFFMAN, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_NAMES = {_TABLES: "DQT", _HUFFMAN: "DHT", _COMMENT: "COM", 0xCC: "DAC", 0xDD: "DRI"}
_MODES = {1: "L", 3: "RGB", 4: "CMYK"}

#: Segments of a header. Photographs have fewer than 300, most of them pieces of one profile.
MAX_SEGMENTS = 2000
_MAX_JUNK = 2**16  # bytes between segments
_MAX_NAMES = 30  # segments that are listed
_MAX_EXIF = 2**16  # bytes, which is what one segment can hold


class JpegHeader(NamedTuple):
    """What the segments of a JPEG file say before its first scan.

    Parameters
    ----------
    size : tuple of two int
        Width and height in pixels.
    mode : str
        Pillow's name of the colour mode.
    coding : str
        How the coefficients are coded, such as "baseline" or "progressive".
    sampling : tuple of (int, int)
        Horizontal and vertical sampling factor of each component.
    tables : tuple of tuples of 64 int
        Quantisation tables, in order of their numbers.
    huffman : frozenset of bytes
        Huffman tables.
    names : tuple of str
        Kinds of segments in their order; the same kind in a row once.
    n_segments : int
        Number of segments.
    exif : bytes
        EXIF data; empty for none.
    icc : int
        Bytes of the ICC profile; 0 for none.
    xmp : bool
        Whether there are XMP data.
    """

    size: tuple[int, int]
    mode: str
    coding: str
    sampling: tuple[tuple[int, int], ...]
    tables: tuple[tuple[int, ...], ...]
    huffman: frozenset[bytes]
    names: tuple[str, ...]
    n_segments: int
    exif: bytes
    icc: int
    xmp: bool

    def as_text(self) -> dict[str, str | float]:
        """Return the kinds of this header, under the names of `headers.ATTRIBUTES`."""
        return {
            "mode": self.mode,
            "coding": self.coding,
            "subsampling": _subsampling(self.sampling),
            "tables": _name_of_tables(self.tables),
            "huffman": _name_of_huffman(self.huffman),
            "icc": f"{self.icc} bytes" if self.icc else "none",
            "xmp": "present" if self.xmp else "none",
            "layout": ", ".join(self.names),
        }


def is_jpeg(file: IO[bytes]) -> bool:
    """Return whether a file begins as a JPEG file does; it is read from its beginning."""
    file.seek(0)
    return file.read(3) == b"\xff\xd8\xff"


def read_jpeg_header(file: IO[bytes]) -> JpegHeader:
    """Read the segments of a JPEG file up to its first scan.

    Parameters
    ----------
    file : binary file object
        The file, whatever its position.

    Returns
    -------
    header : JpegHeader

    Raises
    ------
    ValueError
        If the header is damaged, or has more than `MAX_SEGMENTS` segments.
    """
    file.seek(2)
    frame: tuple[int, bytes] | None = None
    tables: dict[int, tuple[int, ...]] = {}
    huffman: set[bytes] = set()
    names: list[str] = []
    exif, icc, xmp, n_segments = b"", 0, False, 0
    while True:
        marker = _next_marker(file)
        if marker == _START_OF_SCAN:
            break
        if marker == _END:
            raise ValueError("its header ends without a scan")
        if marker in _WITHOUT_LENGTH:
            continue
        n_segments += 1
        if n_segments > MAX_SEGMENTS:
            raise ValueError(f"its header has more than {MAX_SEGMENTS:,} segments")
        length = int.from_bytes(_exactly(file, 2), "big") - 2
        if length < 0:
            raise ValueError("a segment of its header has no length")
        if marker in _APP:
            head = file.read(min(length, 32))
            name = f"APP{marker - 0xE0} {_printable(head)}".rstrip()
            if head.startswith(b"Exif\0\0") and not exif:
                exif = head + _exactly(file, min(length, _MAX_EXIF) - len(head))
                length -= len(exif)
            else:
                length -= len(head)
            icc += length + len(head) - 14 if head.startswith(b"ICC_PROFILE\0") else 0
            xmp |= head.startswith(b"http://ns.adobe.com/x")
            _skip(file, length)
        elif marker == _COMMENT:
            name = "COM"
            _skip(file, length)
        else:
            content = _exactly(file, length)
            name = _NAMES.get(marker, f"marker {marker:02X}")
            if marker == _TABLES:
                tables |= _quantisation(content)
            elif marker == _HUFFMAN:
                huffman |= _huffman(content)
            elif marker in _FRAMES:
                frame, name = (marker, content), f"SOF{marker - 0xC0}"
        if names[-1:] != [name] and len(names) < _MAX_NAMES:
            names.append(name)
    if frame is None:
        raise ValueError("its header does not say how large the image is")
    marker, content = frame
    n_components = content[5] if len(content) > 5 else 0
    if len(content) < 6 + 3 * n_components:
        raise ValueError("its frame header is cut off")
    height, width = int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big")
    return JpegHeader(
        (width, height),
        _MODES.get(n_components, f"{n_components} channels"),
        _CODINGS.get(marker, f"kind {marker - 0xC0}"),
        tuple((content[i] >> 4, content[i] & 15) for i in range(7, 6 + 3 * n_components, 3)),
        tuple(table for _, table in sorted(tables.items())),
        frozenset(huffman),
        tuple(names),
        n_segments,
        exif,
        icc,
        xmp,
    )


def _next_marker(file: IO[bytes]) -> int:
    """Go to the next marker, as readers do, over what is between segments."""
    before = b""
    for _ in range(_MAX_JUNK):
        byte = _exactly(file, 1)
        if before == b"\xff" and byte not in (b"\xff", b"\0"):
            return byte[0]
        before = byte
    raise ValueError("its header is damaged: there is no segment where one should begin")


def _exactly(file: IO[bytes], length: int) -> bytes:
    content = file.read(length)
    if len(content) < length:
        raise ValueError("its header is cut off")
    return content


def _skip(file: IO[bytes], length: int) -> None:
    """Skip bytes; a file that ends here is noticed at the next marker."""
    if length < 4096:  # which is usually in the buffer already
        file.read(length)
    else:
        file.seek(length, 1)


def _printable(head: bytes) -> str:
    """Return the name that an application's segment begins with."""
    text = head.partition(b"\0")[0][:24].decode("latin-1")
    return text if text.isprintable() and text.isascii() else ""


def _quantisation(content: bytes) -> dict[int, tuple[int, ...]]:
    tables, at = {}, 0
    while at < len(content):
        number, wide = content[at] & 15, content[at] >> 4
        step = 2 if wide else 1
        values = content[at + 1 : at + 1 + 64 * step]
        if len(values) < 64 * step:
            raise ValueError("one of its quantisation tables is cut off")
        tables[number] = tuple(
            int.from_bytes(values[i : i + step], "big") for i in range(0, len(values), step)
        )
        at += 1 + 64 * step
    return tables


def _huffman(content: bytes) -> set[bytes]:
    tables, at = set(), 0
    while at < len(content):
        length = 17 + sum(content[at + 1 : at + 17])
        tables.add(content[at : at + length])
        at += length
    return tables


def _subsampling(sampling: tuple[tuple[int, int], ...]) -> str:
    """Name the subsampling of the colours in the usual way."""
    if len(sampling) < 3:
        return "none"
    (h, v), *others = sampling[:3]
    if others[0] == others[1] == (1, 1):
        usual = {
            (1, 1): "4:4:4",
            (2, 1): "4:2:2",
            (2, 2): "4:2:0",
            (1, 2): "4:4:0",
            (4, 1): "4:1:1",
        }
        if (h, v) in usual:
            return usual[h, v]
    return ", ".join(f"{h}x{v}" for h, v in sampling)


def _name_of_tables(tables: tuple[tuple[int, ...], ...]) -> str:
    """Name quantisation tables by the quality of libjpeg that is nearest."""
    if not tables:
        return "none"
    total = sum(tables[0])
    quality = min(range(100, 0, -1), key=lambda q: abs(sum(_of_libjpeg()[q]) - total))
    about = "" if tables[0] == _of_libjpeg()[quality] else "about "
    digest = blake2b(repr(tables).encode(), digest_size=3).hexdigest()
    return f"{about}quality {quality} ({digest})"


def _name_of_huffman(tables: frozenset[bytes]) -> str:
    if not tables:
        return "none"
    return "standard" if tables <= _of_the_standard() else "optimised"


@cache
def _of_libjpeg() -> dict[int, tuple[int, ...]]:
    """Return libjpeg's table for brightness of each quality, from 1 to 100."""
    grey = Image.new("L", (8, 8))
    return {quality: _saved(grey, quality).tables[0] for quality in range(1, 101)}


@cache
def _of_the_standard() -> frozenset[bytes]:
    """Return the Huffman tables of the standard, which encoders use unless set to optimise."""
    return _saved(Image.new("RGB", (8, 8)), 75).huffman


def _saved(image: Image.Image, quality: int) -> JpegHeader:
    file = BytesIO()
    image.save(file, "JPEG", quality=quality)
    return read_jpeg_header(file)
