"""Files of class folders: each is read once, and files that belong together share a group."""

import os
import re
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import joblib
import numpy as np
from sklearn.utils import Bunch

from sklearn_dfd._core.images.folders import files_below, folded_name
from sklearn_dfd._core.images.sources import describe
from sklearn_dfd._core.sklearn_private import StrOptions
from sklearn_dfd.datasets._folders import (
    GroupPattern,
    keys_by_pattern,
    number_groups,
    quoted,
)
from sklearn_dfd.exceptions import ImageError

OnError: TypeAlias = Literal["raise", "warn"]

STACKLEVEL = 3  # of warnings: the loader, validate_params, the caller

LOADER_CONSTRAINTS: dict[str, list[object]] = {
    "root": [str, os.PathLike],
    "on_error": [StrOptions({"raise", "warn"})],
}
FOLDER_CONSTRAINTS = LOADER_CONSTRAINTS | {
    "class_names": [list, tuple, np.ndarray, None],
    "group_pattern": [str, re.Pattern, callable, None],
}


class Looked(NamedTuple):
    """What was found when a file was read.

    Parameters
    ----------
    digest : bytes
        Hash of its content.
    images : list
        The images in it.
    fault : str or None
        What is wrong with it.
    """

    digest: bytes = b""
    images: list[Any] = []  # noqa: RUF012, never changed
    fault: str | None = None


def load_files(
    root: Path,
    class_folders: dict[str, Path],
    on_error: OnError,
    group_pattern: GroupPattern | None,
    look: Callable[[Path], Looked],
    kind: str = "images",
) -> tuple[Bunch, str]:
    """Read every file of the class folders once; files that are not of a kind cannot be used.

    The second item is the text of a warning, empty if there is nothing to warn of.
    """
    keys_of = None if group_pattern is None else keys_by_pattern(group_pattern)
    files = []
    for code, (name, folder) in enumerate(class_folders.items()):
        found = [(code, file, file.relative_to(folder)) for file in files_below(folder, set())]
        if not found:
            raise ValueError(
                f"The folder {str(folder)!r} of class {name!r} is empty. "
                f"Put {kind} of that class into it, or remove it."
            )
        files += found

    with ThreadPoolExecutor(joblib.cpu_count()) as pool:  # decoding releases Python's lock
        looked = list(pool.map(look, [file for _, file, _ in files]))
    paths: list[str] = []
    classes: list[int] = []
    images: list[list[Any]] = []  # of each file
    keys: list[list[Hashable]] = []  # of each file: what it shares with others of its group
    failures, unmatched = [], []
    for row, ((code, file, inner), seen) in enumerate(zip(files, looked, strict=True)):
        if seen.fault is not None:
            failures.append((row, str(file), seen.fault))
            continue
        shared: list[Hashable] = []
        if keys_of is not None:
            shared = [("key", key) for key in keys_of(inner.as_posix())]
            if not shared:
                unmatched.append(str(file))
        elif len(inner.parts) > 1:
            # The first of several levels: the coarser group cannot leak.
            shared = [("folder", folded_name(inner.parts[0]))]
        keys.append([seen.digest, *shared])
        images.append(seen.images)
        paths.append(str(file))
        classes.append(code)

    lost = len(set(classes)) < len(class_folders)
    if failures and (lost or on_error == "raise"):
        hint = "Repair or remove them, or pass on_error='warn' to continue without them"
        hint += f", which takes one usable {kind[:-1]} of each class." if lost else "."
        raise ImageError(failures, len(files), hint=hint, n_shown=None)
    if unmatched:
        raise ValueError(
            f"group_pattern finds nothing in the paths of {len(unmatched)} of {len(paths)} {kind}, "
            f"so their groups are not known. It sees the path within the class folder, such as "
            f"{files[0][2].as_posix()!r}. Change the pattern or rename the files: "
            f"{quoted(unmatched)}."
        )
    left_out = "".join(f"\n  {describe(name)}: {reason}" for _, name, reason in failures)
    if left_out:
        left_out = (
            f"{len(failures)} of {len(files)} files in {str(root)!r} cannot be used as {kind} and "
            f"are left out:{left_out}"
        )
    # Objects, since assigning a longer path into an array of fixed-width text cuts it off.
    data = np.empty(sum(map(len, images)), dtype=object)
    data[:] = [image for of_file in images for image in of_file]
    of_image = np.repeat(np.arange(len(paths)), [len(of_file) for of_file in images])
    faces = Bunch(
        data=data,
        target=np.array(classes, dtype=np.int64)[of_image],
        target_names=np.array(list(class_folders), dtype=object),
        groups=number_groups(keys)[of_image],
        files=np.array(paths, dtype=object)[of_image],
    )
    return faces, left_out


def counted(faces: Bunch) -> str:
    """Name the classes with the number of their images."""
    counts = np.bincount(faces.target)
    return ", ".join(f"{n} ({c})" for n, c in zip(faces.target_names, counts, strict=True))


def rule_of_groups(group_pattern: GroupPattern | None) -> str:
    """Say when files share a group."""
    if group_pattern is None:
        return "they lie in subfolders of the same name, in whichever class"
    return "group_pattern finds the same in their paths"
