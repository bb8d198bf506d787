"""The files below a folder: in the same order on every machine, and only those that count."""

import os
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

# What desktops and unpackers leave behind, in lower case; none of it is meant as a photograph.
_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}


def folded_name(name: str) -> str:
    """Fold names together that some file systems do not distinguish."""
    return unicodedata.normalize("NFC", name).casefold()


def entries_of(folder: Path) -> list[Path]:
    """List the entries of a folder that matter, in the same order on every machine."""
    names = sorted(os.listdir(folder), key=lambda name: (folded_name(name), name))
    return [folder / n for n in names if not n.startswith(".") and n.lower() not in _LITTER]


def files_below(
    folder: Path, seen: set[str], on_error: Callable[[Path, OSError], None] | None = None
) -> Iterator[Path]:
    """Yield the files below a folder in order, listing each folder when its turn comes.

    Parameters
    ----------
    folder : Path
        The folder.
    seen : set of str
        Folders that were entered, to which this one is added: links may loop, so no folder is
        entered twice.
    on_error : callable, default=None
        Called with a folder that cannot be listed, and the error. None raises the error.

    Yields
    ------
    file : Path
        Hidden files, and what desktops leave behind, are skipped.
    """
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    try:
        entries = entries_of(folder)
    except OSError as error:
        if on_error is None:
            raise
        on_error(folder, error)
        return
    for entry in entries:
        if os.path.isdir(entry):  # which raises no error if access is denied
            yield from files_below(entry, seen, on_error)
        else:
            yield entry
