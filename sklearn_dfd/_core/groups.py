"""What must stay together: one label a row, none of them missing, one a photograph."""

from typing import Any

import numpy as np

from sklearn_dfd._core.images.sources import describe, number_by_origin
from sklearn_dfd._core.sklearn_private import is_pandas_na


def check_groups(
    groups: Any, n_rows: int, rows: str = "rows", *, name: str = "groups"
) -> np.ndarray:
    """Return groups as an array of one label a row.

    Parameters
    ----------
    groups : array-like of shape (n_rows,) or (n_rows, 1)
        Numbers or strings.
    n_rows : int
        How many there must be.
    rows : str, default="rows"
        What a message calls them.
    name : str, default="groups"
        What a message calls the labels.

    Returns
    -------
    groups : ndarray of shape (n_rows,)

    Raises
    ------
    ValueError
        If there are more or fewer of them, more than one a row, a label is missing, or labels
        cannot be compared.
    """
    # a list that mixes strings with NaN would become one of strings, "nan" among them
    labels = np.asarray(groups, dtype=object if isinstance(groups, list | tuple) else None)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels.ravel()
    if labels.ndim != 1:
        raise ValueError(f"{name} is an array of shape {labels.shape}: pass one label for each.")
    if len(labels) != n_rows:
        raise ValueError(
            f"{name} has {len(labels)} values for {n_rows} {rows}: pass one for each, in the same "
            "order."
        )
    for row in np.flatnonzero(_missing(labels))[:1]:
        raise ValueError(
            f"{name} has no label in row {row} ({labels[row]}): give what stands by itself a label "
            "of its own."
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


def _missing(labels: np.ndarray) -> np.ndarray:
    """Say where there is None, NaN, NaT or pandas' NA."""
    if labels.dtype.kind != "O":
        return labels != labels
    return np.array([x is None or is_pandas_na(x) or bool(x != x) for x in labels], dtype=bool)


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
