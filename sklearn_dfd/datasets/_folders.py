"""Folders of photographs: which are classes, which files count, and what belongs together."""

import os
import re
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sklearn_dfd._core.groups import is_missing
from sklearn_dfd._core.images.folders import entries_of

Root: TypeAlias = str | os.PathLike[str]
Keys: TypeAlias = Hashable | Iterable[Hashable] | None
GroupPattern: TypeAlias = str | re.Pattern[str] | Callable[[str], Keys]

# Folders that are parts of a split rather than classes: train, test_set, val2, validation-images.
_SPLIT_NAME = re.compile(
    r"(train(ing)?|val(id|idation)?|dev(el|elopment)?|test(ing)?|eval(uation)?|hold[-_ ]?out"
    r"|split|fold)[-_ ]?(set|split|data|images|img|photos|faces)?s?[-_ ]?\d*",
    re.IGNORECASE,
)


def check_root(root: Root) -> Path:
    path = Path(os.path.expanduser(root))
    if path.is_dir():
        return path
    what_to_do = "Pass the folder that holds one subfolder per class."
    if path.exists():
        raise NotADirectoryError(f"{str(path)!r} is a file. {what_to_do}")
    raise FileNotFoundError(
        f"{str(path)!r} does not exist, seen from {os.getcwd()!r}. {what_to_do}"
    )


def subfolders(path: Path) -> dict[str, Path]:
    return {entry.name: entry for entry in entries_of(path) if entry.is_dir()}


def quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def class_folders_of(path: Path, class_names: Sequence[str] | None) -> dict[str, Path]:
    """Find the folder of each class, in the order in which the classes are numbered."""
    folders = subfolders(path)
    if class_names is not None:
        return _chosen_folders(path, folders, list(class_names))
    _check_no_split(path, folders)
    if len(folders) < 2:
        has = (
            f"only the subfolder{''.join(f' {n!r}' for n in folders)}"
            if folders
            else "no subfolder"
        )
        below = [folder for folder in folders.values() if len(subfolders(folder)) > 1]
        what_to_do = (
            f"{str(below[0])!r} has several: pass that."
            if below
            else "Sort the images into folders such as 'real' and 'fake' in it, or pass the folder "
            "above it."
        )
        raise ValueError(f"{str(path)!r} has {has}, and one per class is needed. {what_to_do}")
    return folders


def _check_no_split(path: Path, folders: dict[str, Path]) -> None:
    """Raise where the subfolders are parts of a split, each of which holds the classes."""
    inner = {name: set(subfolders(folder)) for name, folder in folders.items()}
    parts = [name for name in folders if _SPLIT_NAME.fullmatch(name)]
    # A part may have another name, as in "train" and "unseen": then its contents show what it is.
    parts = [
        name
        for name in folders
        if name in parts or any(len(inner[name] & inner[part]) > 1 for part in parts)
    ]
    if len(parts) < 2:
        return
    classes = sorted(set.intersection(*(inner[name] for name in parts)))
    if classes:
        what_to_do = (
            f"each has the subfolders {quoted(classes)}. Use the parts one by one, "
            f"{str(folders[parts[0]])!r} first; "
            "sklearn_dfd.model_selection.check_leakage(train.data, test.data) then tells whether "
            "two of them share photographs."
        )
    else:
        what_to_do = (
            "and one subfolder per class is needed in each of them. Use the parts one by one."
        )
    raise ValueError(
        f"{str(path)!r} holds the folders {quoted(parts)}, which look like the parts of a split "
        f"and not like classes: {what_to_do} If they are classes, pass class_names={list(folders)}."
    )


def _chosen_folders(
    path: Path, folders: dict[str, Path], class_names: list[str]
) -> dict[str, Path]:
    for name in class_names:
        if not isinstance(name, str):
            raise TypeError(f"class_names has {name!r}: pass names of subfolders as str.")
    twice = [name for name in dict.fromkeys(class_names) if class_names.count(name) > 1]
    if twice:
        raise ValueError(f"class_names has {quoted(twice)} more than once.")
    if len(class_names) < 2:
        raise ValueError(
            f"class_names={class_names} names fewer than two classes: name all that are to be told "
            "apart."
        )
    known = {unicodedata.normalize("NFC", name): folder for name, folder in folders.items()}
    chosen = {name: known.get(unicodedata.normalize("NFC", name)) for name in class_names}
    missing = [name for name, folder in chosen.items() if folder is None]
    if missing:
        has = f"Its subfolders are {quoted(folders)}." if folders else "It has no subfolders."
        for folder in folders.values():
            if set(class_names) <= set(subfolders(folder)):
                has += f" {str(folder)!r} has them all: pass that."
                break
        raise ValueError(
            f"{str(path)!r} has no subfolder for {quoted(missing)} of class_names. {has}"
        )
    return {name: folder for name, folder in chosen.items() if folder is not None}


def keys_by_pattern(group_pattern: GroupPattern) -> Callable[[str], list[Hashable]]:
    """Make a function from the path of a file to what it shares with others of its group."""
    if callable(group_pattern):
        call = group_pattern

        def keys_of(name: str) -> list[Hashable]:
            found: Any = call(name)
            several = isinstance(found, Iterable) and not isinstance(found, str | bytes)
            keys = list(found) if several else [found]
            return [
                key
                for key, missing in zip(keys, is_missing(keys), strict=True)
                if not missing and key != ""
            ]

        return keys_of
    try:
        pattern = re.compile(group_pattern)
    except re.error as error:
        raise ValueError(
            f"group_pattern={group_pattern!r} is not a regular expression: {error}."
        ) from None

    def keys_of_match(name: str) -> list[Hashable]:
        match = pattern.search(name)
        if match is None:
            return []
        return [key for key in (match.groups() if pattern.groups else [match[0]]) if key]

    return keys_of_match


def number_groups(keys: list[list[Hashable]]) -> npt.NDArray[np.int64]:
    """Give one number to rows that share a key, directly or through others, as they appear."""
    parent = list(range(len(keys)))  # up to the first row of the group, which is its own

    def first_row(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    row_with: dict[Hashable, int] = {}
    for row, shared in enumerate(keys):
        for key in shared:
            one, other = first_row(row_with.setdefault(key, row)), first_row(row)
            parent[max(one, other)] = min(one, other)
    first_rows = [first_row(row) for row in range(len(keys))]
    return np.unique(first_rows, return_inverse=True)[1].astype(np.int64)
