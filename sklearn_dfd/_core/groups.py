"""Checks of groups: one label per row, none missing, and one per photograph."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from sklearn_dfd._core.images.sources import describe, number_by_origin
from sklearn_dfd._core.sklearn_private import is_pandas_na


def check_groups(
    groups: Any, n_rows: int, rows: str = "rows", *, name: str = "groups"
) -> npt.NDArray[Any]:
    """Return groups as an array of one label per row.

    Parameters
    ----------
    groups : array-like of shape (n_rows,) or (n_rows, 1)
        Labels, which are numbers or strings.
    n_rows : int
        Number of labels that there must be.
    rows : str, default="rows"
        Name of the rows in messages.
    name : str, default="groups"
        Name of the labels in messages.

    Returns
    -------
    groups : ndarray of shape (n_rows,)
        Labels, of whatever type they are.

    Raises
    ------
    ValueError
        If their number is wrong, there is more than one label per row, a label is missing, or
        labels cannot be compared.
    """
    # As an array of strings, a list that mixes strings with NaN would hold the label "nan".
    labels = np.asarray(groups, dtype=object if isinstance(groups, list | tuple) else None)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels.ravel()
    if labels.ndim != 1:
        raise ValueError(f"{name} is an array of shape {labels.shape}: pass one label per row.")
    if len(labels) != n_rows:
        raise ValueError(
            f"{name} has {len(labels)} values for {n_rows} {rows}: pass one for each, in the same "
            "order."
        )
    for row in np.flatnonzero(_missing(labels))[:1]:
        raise ValueError(
            f"{name} has no label in row {row} ({labels[row]}): a row that belongs to no other row "
            "needs a label of its own."
        )
    if labels.dtype == object:
        try:
            sorted(set(labels.tolist()))
        except TypeError as error:
            raise ValueError(
                f"{name} has labels that cannot be put in order ({error}): use labels of one type, "
                "numbers or strings."
            ) from None
    return np.asarray(groups).reshape(n_rows)


def _missing(labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return a mask of None, NaN, NaT and pandas' NA."""
    if labels.dtype.kind != "O":
        return labels != labels
    return np.array(is_missing(labels), dtype=bool)


def is_missing(labels: Iterable[Any]) -> list[bool]:
    """Return for each label whether it is None, NaN, NaT or pandas' NA."""
    return [x is None or is_pandas_na(x) or bool(x != x) for x in labels]


def too_few_groups(
    y: npt.NDArray[Any],
    groups: npt.NDArray[Any] | None,
    n_sides: int = 2,
    rows: str = "rows",
    *,
    named: bool = True,
) -> str | None:
    """Name a class that cannot be on all sides of a split, if there is one.

    Parameters
    ----------
    y : ndarray of shape (n_rows,)
        Class of each row.
    groups : ndarray of shape (n_rows,), or None
        Group of each row. None means that each row is a group of its own.
    n_sides : int, default=2
        Number of sides.
    rows : str, default="rows"
        Name of the rows in the message.
    named : bool, default=True
        Whether the user knows the groups by these labels.

    Returns
    -------
    message : str or None
        One sentence that names the class and its groups; None if every class can be on all sides.
    """
    for label in np.unique(y):
        inside = np.flatnonzero(y == label)
        names = inside if groups is None else np.unique(groups[inside])
        if len(names) >= n_sides:
            continue
        if groups is None:
            return f"Class {label!s} has too few {rows} ({len(inside)}) to be on {n_sides} sides."
        where = ", " + ", ".join(map(repr, names.tolist())) if named else ""
        return (
            f"Class {label!s} has all its {len(inside)} {rows} in {len(names)} group(s){where}: "
            f"it cannot be on {n_sides} sides."
        )
    return None


def check_groups_of_views(images: Any, groups: npt.NDArray[Any]) -> None:
    """Raise a ValueError if a photograph and its views are in different groups."""
    origin = number_by_origin(images)
    first = np.unique(origin, return_index=True)[1][origin]
    for row in np.flatnonzero(groups != groups[first]):
        one, other = (f"row {r} ({describe(images[r])})" for r in (first[row], row))
        labels = groups[[first[row], row]].tolist()
        raise ValueError(
            f"{one} and {other} show the same photograph, but are in groups {labels[0]!r} and "
            f"{labels[1]!r}: give them the same group."
        )
