"""What must stay together: one label a row, none of them missing, one a photograph."""

from typing import Any

import numpy as np
from sklearn.utils._missing import is_pandas_na, is_scalar_nan

from sklearn_dfd.images import describe, number_by_origin


def check_groups(groups: Any, n_rows: int, rows: str = "rows") -> np.ndarray:
    """Return groups as an array of one label a row.

    Parameters
    ----------
    groups : array-like of shape (n_rows,) or (n_rows, 1)
        Numbers or strings.
    n_rows : int
        How many there must be.
    rows : str, default="rows"
        What a message calls them.

    Returns
    -------
    groups : ndarray of shape (n_rows,)

    Raises
    ------
    ValueError
        If there are more or fewer of them, more than one a row, or a label is missing.
    """
    labels = np.asarray(groups)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels.ravel()
    if labels.ndim != 1:
        raise ValueError(f"groups is an array of shape {labels.shape}: pass one label for each.")
    if len(labels) != n_rows:
        raise ValueError(
            f"groups has {len(labels)} values for {n_rows} {rows}: pass one for each, in the same "
            "order."
        )
    if labels.dtype.kind in "fO":
        for row, label in enumerate(labels.tolist()):
            if label is None or is_scalar_nan(label) or is_pandas_na(label):
                raise ValueError(
                    f"groups has no label in row {row} ({label}): give what stands by itself a "
                    "label of its own."
                )
    return labels


def too_few_groups(
    y: np.ndarray, groups: np.ndarray | None, n_sides: int = 2, rows: str = "rows"
) -> str | None:
    """Say which class cannot be on all sides of a split; None where each can.

    Parameters
    ----------
    y : ndarray of shape (n_rows,)
        Classes.
    groups : ndarray of shape (n_rows,), or None
        None where each row stands by itself.
    n_sides : int, default=2
        How many sides there are.
    rows : str, default="rows"
        What the message calls them.

    Returns
    -------
    message : str or None
        One sentence with class and groups.
    """
    for label in np.unique(y):
        inside = np.flatnonzero(y == label)
        names = inside if groups is None else np.unique(groups[inside])
        if len(names) >= n_sides:
            continue
        if groups is None:
            return f"Class {label!s} has too few {rows} ({len(inside)}) to be on {n_sides} sides."
        where = ", ".join(map(repr, names.tolist()))
        return (
            f"Class {label!s} has all its {len(inside)} {rows} in {len(names)} group(s), {where}: "
            f"it cannot be on {n_sides} sides."
        )
    return None


def check_groups_of_views(images: Any, groups: np.ndarray) -> None:
    """Raise a ValueError where a photograph and its views are in different groups."""
    origin = number_by_origin(images)
    first = np.unique(origin, return_index=True)[1][origin]
    for row in np.flatnonzero(groups != groups[first]):
        one, other = (f"row {r} ({describe(images[r])})" for r in (first[row], row))
        labels = groups[[first[row], row]].tolist()
        raise ValueError(
            f"{one} and {other} show one photograph, but are in groups {labels[0]!r} and "
            f"{labels[1]!r}: give them one group."
        )
