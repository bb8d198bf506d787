"""Files that Pillow cannot open by itself: what they are, and what to do about them."""

import importlib
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image


class _Plugin(NamedTuple):
    """A package that teaches Pillow one more format."""

    format: str  # the name that it registers with Pillow
    brands: frozenset[bytes]  # of the container, ISO/IEC 14496-12, by which the format is known
    name: str
    package: str
    module: str
    function: str | None  # registers the format; None where importing the module does


_HEIF_BRANDS = frozenset(b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split())

_PLUGINS = (
    _Plugin(
        "HEIF",
        _HEIF_BRANDS,
        "HEIC photograph",
        "pillow-heif",
        "pillow_heif",
        "register_heif_opener",
    ),
    # Pillow's own wheels read AVIF; a Pillow that was built without it does not
    _Plugin(
        "AVIF",
        frozenset({b"avif", b"avis"}),
        "AVIF image",
        "pillow-avif-plugin",
        "pillow_avif",
        None,
    ),
)

_OTHERS: tuple[tuple[Callable[[bytes], bool], str], ...] = (
    (
        lambda head: b"<svg" in head.lower(),
        "it is an SVG drawing: save it as PNG",
    ),
    (
        lambda head: head.lstrip().lower().startswith((b"<!doctype html", b"<html")),
        "it is a web page, which servers send in place of an image: download the image again",
    ),
    (
        lambda head: head.startswith(b"version https://git-lfs"),
        "it is a pointer of Git LFS: fetch the image with git lfs pull",
    ),
    (
        lambda head: head.startswith(b"\x93NUMPY"),
        "it is an array saved by NumPy: pass what np.load returns for it",
    ),
    (
        lambda head: head.startswith(b"PK\x03\x04"),
        "it is a ZIP archive: unpack it, or pass zipfile.Path objects of the images in it",
    ),
    (lambda head: head.startswith(b"%PDF"), "it is a PDF document: save its pictures as PNG"),
    (
        lambda head: (
            head[4:8] == b"ftyp"
            or head.startswith(b"\x1a\x45\xdf\xa3")
            or (head.startswith(b"RIFF") and head[8:12] == b"AVI ")
        ),
        "it is a film: pass sklearn_dfd.datasets.frames(path), or load a folder of films with "
        "sklearn_dfd.datasets.load_video_folder",
    ),
    (
        lambda head: head.startswith((b"%!PS", b"\xc5\xd0\xd3\xc6")),
        "it is a PostScript program, which is never run: save it as PNG",
    ),
)


def register_plugin(raw: bytes) -> bool:
    """Register the plugin that reads a file with Pillow, where it is installed.

    A worker process thus reads the same formats as the process that started it.

    Parameters
    ----------
    raw : bytes
        The content of a file that Pillow cannot identify.

    Returns
    -------
    registered : bool
        Whether there is now a reader of the format that was not there before.
    """
    plugin = _plugin_for(raw)
    if plugin is None or plugin.format in Image.OPEN:
        return False
    try:
        module = importlib.import_module(plugin.module)
    except ImportError:
        return False
    if plugin.function is not None:
        getattr(module, plugin.function)()
    return plugin.format in Image.OPEN


def why_unreadable(raw: bytes) -> str:
    """Say what a file is that Pillow cannot identify, and what to do about it.

    Parameters
    ----------
    raw : bytes
        The content of the file.

    Returns
    -------
    reason : str
    """
    reason = "the bytes are not in an image format that can be read"
    plugin = _plugin_for(raw)
    if plugin is not None:
        return f"{reason}: it is a {plugin.name}, for which Pillow needs {plugin.package} (pip " + (
            f"install {plugin.package})"
        )
    head = raw[:1024]
    for is_this, advice in _OTHERS:
        if is_this(head):
            return f"{reason}: {advice}"
    return reason


def _plugin_for(raw: bytes) -> _Plugin | None:
    if raw[4:8] != b"ftyp":
        return None
    brand = raw[8:12]
    return next((plugin for plugin in _PLUGINS if brand in plugin.brands), None)
