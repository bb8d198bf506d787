"""The files that a command is given: by name, in folders, and in lists on standard input."""

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sklearn_dfd._core.images.folders import files_below

# How the names of image files end, and those of films. Of a folder only these are judged.
_ENDINGS = frozenset(
    ".avif .bmp .gif .heic .heif .jfif .jp2 .jpe .jpeg .jpg .pgm .png .ppm .tga .tif .tiff "
    ".webp".split()
)
_FILM_ENDINGS = frozenset(
    ".3gp .asf .avi .flv .ivf .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm .wmv".split()
)
_BLOCK = 2**16


def is_film(path: str) -> bool:
    """Return whether a file is a film, by how its name ends."""
    return os.path.splitext(path)[1].lower() in _FILM_ENDINGS


def listed(
    arguments: Iterable[str], null: bool, passed_over: Counter[str]
) -> Iterator[tuple[str, str]]:
    """Yield each file when its turn comes: no list of them is ever made.

    Parameters
    ----------
    arguments : iterable of str
        Files, folders, and ``-`` for a list on standard input.
    null : bool
        Whether the paths on standard input end with a zero byte.
    passed_over : Counter
        Counts the files of folders whose names are neither those of images nor of films, by ending.

    Yields
    ------
    path : str
        Bytes that are not UTF-8 are escaped as Python does for file names.
    fault : str
        Why there is nothing to judge; usually empty.
    """
    for argument in arguments:
        if argument != "-":
            yield from _below(argument, passed_over)
            continue
        for path in _on_standard_input(null):
            yield from _below(path, passed_over)


def _on_standard_input(null: bool) -> Iterator[str]:
    """Yield the paths of the list, which may be longer than the memory."""
    end = b"\0" if null else b"\n"
    rest = b""
    stream: Any = sys.stdin.buffer
    while block := stream.read1(_BLOCK):  # whatever is there, so as not to wait for a slow list
        *whole, rest = (rest + block).split(end)
        yield from map(os.fsdecode, filter(None, map(_without_return, whole)))
    if rest := _without_return(rest):
        yield os.fsdecode(rest)


def _without_return(line: bytes) -> bytes:
    return line.removesuffix(b"\r") if os.name == "nt" else line


def _below(path: str, passed_over: Counter[str]) -> Iterator[tuple[str, str]]:
    if not os.path.isdir(path):
        yield path, ""
        return
    faults: list[tuple[str, str]] = []

    def note(folder: Path, error: OSError) -> None:
        faults.append((str(folder), f"the folder cannot be listed ({error.strerror or error})"))

    none = True
    for file in files_below(Path(path), set(), note):
        yield from faults
        none = none and not faults
        faults.clear()
        if file.suffix.lower() in _ENDINGS or is_film(file.name):
            none = False
            yield str(file), ""
        else:
            passed_over[file.suffix] += 1
    yield from faults
    if none and not faults:
        yield path, "there is neither an image nor a film in this folder"
