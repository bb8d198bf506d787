"""Rows of features to train on: distinct, weighted, set aside and read in whole batches."""

import hashlib
import warnings
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from torch.utils.data import Dataset

from sklearn_dfd._core.groups import too_few_groups

Batch: TypeAlias = tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]


class Rows(Dataset[Any]):
    """Rows of features with their labels and weights, which are read in whole batches.

    Parameters
    ----------
    X : ndarray of float32, shape (n_rows, width)
        It may be a read-only memory map: only the rows of one batch at a time are copied.
    y : ndarray of int64, shape (n_rows,), or None
        Class codes from 0.
    weight : ndarray of float32, shape (n_rows,), or None
        Weights with mean 1; None for equal weights.
    order : ndarray of intp, or None
        The rows to use, in their order; None for all rows.
    """

    def __init__(
        self,
        X: npt.NDArray[np.float32],
        y: npt.NDArray[np.int64] | None = None,
        weight: npt.NDArray[np.float32] | None = None,
        order: npt.NDArray[np.intp] | None = None,
    ) -> None:
        self.X = X
        self.order = np.arange(len(X)) if order is None else order
        self.y = np.zeros(len(X), dtype=np.int64) if y is None else y
        self.weight = np.ones(len(X), dtype=np.float32) if weight is None else weight

    def __len__(self) -> int:
        return len(self.order)

    def evenly(self, n: int) -> "Rows":
        """Return at most ``n`` of these rows, evenly spaced in their order."""
        if len(self) <= n:
            return self
        chosen = np.linspace(0, len(self) - 1, n).round().astype(np.intp)
        return Rows(self.X, self.y, self.weight, self.order[chosen])

    def n_batches(self, batch_size: int, *, join_single: bool = False) -> int:
        """Count the batches that `batches` yields."""
        n = -(-len(self.order) // batch_size)
        single = len(self.order) - (n - 1) * batch_size == 1
        return n - 1 if join_single and n > 1 and single else n

    def batches(
        self,
        batch_size: int,
        *,
        generator: torch.Generator | None = None,
        n_orders: int = 1,
        join_single: bool = False,
    ) -> Iterator[Batch]:
        """Yield ``(X, (y, weight))`` as tensors, shuffled if a generator is given.

        With ``n_orders`` the rows are read in that many orders at a time: each batch holds
        ``batch_size`` rows of the first order, followed by as many of the second, and so on. With
        ``join_single`` a row that would be left for the last batch joins the batch before it,
        because BatchNorm cannot take statistics over a single row.
        """
        orders = [self.order] * n_orders
        if generator is not None:
            orders = [o[torch.randperm(len(o), generator=generator).numpy()] for o in orders]
        starts = batch_size * np.arange(self.n_batches(batch_size, join_single=join_single))
        for start, stop in zip(starts, [*starts[1:], len(self.order)], strict=True):
            rows = np.concatenate([order[start:stop] for order in orders])
            yield (
                torch.from_numpy(self.X[rows]),
                (torch.from_numpy(self.y[rows]), torch.from_numpy(self.weight[rows])),
            )


def distinct_rows(
    X: npt.NDArray[np.float32], y: npt.NDArray[np.int64], weight: npt.NDArray[np.float64]
) -> Rows:
    """Merge identical rows, and order them by their content alone.

    Parameters
    ----------
    X : ndarray of float32, shape (n_rows, width)
    y : ndarray of int64, shape (n_rows,)
        Class codes; rows with different codes are not identical.
    weight : ndarray of shape (n_rows,)
        Weights; rows of weight 0 are left out.

    Returns
    -------
    rows : Rows
        One of each set of identical rows, with the sum of their weights, scaled to mean 1.
    """
    positive = np.flatnonzero(weight > 0)
    digests = [f"{y[i]} {hashlib.blake2b(X[i], digest_size=16).hexdigest()}" for i in positive]
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    order = positive[first]
    total = np.bincount(inverse, weights=weight[positive])
    merged = np.zeros(len(X), dtype=np.float32)
    merged[order] = total / total.mean()
    return Rows(X, y, merged, order)


def set_aside(
    rows: Rows,
    groups: npt.NDArray[Any] | None,
    fraction: float,
    seed: int,
    classes: npt.NDArray[Any],
) -> tuple[Rows, Rows]:
    """Split rows into two parts, stratified by class and in whole groups.

    Parameters
    ----------
    rows : Rows
    groups : ndarray of shape (len(rows.X),), or None
        Group labels; None if each row is a group of its own.
    fraction : float
        Fraction of the rows to set aside, between 0 and 1. It is met as closely as whole groups
        allow.
    seed : int
        Determines the split.
    classes : ndarray of shape (n_classes,)
        The labels that the codes stand for, for messages.

    Returns
    -------
    kept, aside : Rows
        The two parts, which share the arrays of ``rows``.

    Raises
    ------
    ValueError
        If no split has all classes in both parts.
    """
    order, y = rows.order, rows.y[rows.order]
    if groups is None:
        splitter, label = StratifiedKFold, order
    else:
        splitter, label = StratifiedGroupKFold, groups[order]
    n_groups, codes = len(np.unique(label)), set(y)
    n_splits = min(round(1 / min(fraction, 1 - fraction)), n_groups)
    # groups may be of one class each: take fewer and larger folds until one holds all classes
    for k in range(max(2, n_splits), 1, -1):
        folds = splitter(k, shuffle=True, random_state=seed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of classes with few rows
                parts = list(folds.split(order, y, label))
        except ValueError:  # more folds than rows in any class
            continue
        if fraction > 0.5:
            parts = [(aside, kept) for kept, aside in parts]
        parts = [p for p in parts if set(y[p[0]]) == codes and set(y[p[1]]) == codes]
        if parts:
            kept, aside = min(parts, key=lambda p: abs(len(p[1]) - fraction * len(order)))
            kept, aside = (Rows(rows.X, rows.y, rows.weight, order[part]) for part in (kept, aside))
            return kept, aside
    few = too_few_groups(classes[y], None if groups is None else label, rows="distinct rows")
    more = "rows or groups"
    if few:
        more = f"{'rows' if groups is None else 'groups'} of this class"
    raise ValueError(
        f"early_stopping=True cannot set aside validation_fraction={fraction} with all "
        f"{len(codes)} classes on both sides: there are {len(order)} distinct rows in "
        f"{n_groups} groups. {few + ' ' if few else ''}Pass X_val and y_val, or more {more}."
    )
