"""Rows of features to train on: distinct, weighted, set aside, read in whole batches."""

import hashlib
import warnings

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from torch.utils.data import Dataset

from sklearn_dfd._core.groups import too_few_groups


class Rows(Dataset):
    """Rows of features with their labels and weights, read in whole batches.

    Parameters
    ----------
    X : ndarray of float32, shape (n_rows, width)
        May be a read-only memory map: only the rows of one batch at a time are copied.
    y : ndarray of int64, shape (n_rows,), or None
        Class codes from 0.
    weight : ndarray of float32, shape (n_rows,), or None
        Weights with mean 1; None for equal ones.
    order : ndarray of intp, or None
        The rows that count, in their order; None for all.
    """

    def __init__(self, X, y=None, weight=None, order=None):
        self.X = X
        self.order = np.arange(len(X)) if order is None else order
        self.y = np.zeros(len(X), dtype=np.int64) if y is None else y
        self.weight = np.ones(len(X), dtype=np.float32) if weight is None else weight

    def __len__(self):
        return len(self.order)

    def n_batches(self, batch_size, *, join_single=False):
        """Count what `batches` yields."""
        n = -(-len(self.order) // batch_size)
        single = len(self.order) - (n - 1) * batch_size == 1
        return n - 1 if join_single and n > 1 and single else n

    def batches(self, batch_size, *, generator=None, n_orders=1, join_single=False):
        """Yield ``(X, (y, weight))`` as tensors, shuffled where a generator is given.

        With ``n_orders``, all rows are there in so many orders, and a batch holds ``batch_size``
        rows of the first, as many of the second, and so on. With ``join_single``, a last batch of
        one row, whose statistics BatchNorm should not learn from, joins the batch before it.
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


def distinct_rows(X, y, weight):
    """Merge identical rows, and put them in an order that depends on their content alone.

    Parameters
    ----------
    X : ndarray of float32, shape (n_rows, width)
    y : ndarray of int64, shape (n_rows,)
        Rows with different codes are different.
    weight : ndarray of shape (n_rows,)
        Rows without weight are left out.

    Returns
    -------
    rows : Rows
        One of each, with the sum of their weights, scaled to mean 1.
    """
    positive = np.flatnonzero(weight > 0)
    digests = [f"{y[i]} {hashlib.blake2b(X[i], digest_size=16).hexdigest()}" for i in positive]
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    order = positive[first]
    total = np.bincount(inverse, weights=weight[positive])
    merged = np.zeros(len(X), dtype=np.float32)
    merged[order] = total / total.mean()
    return Rows(X, y, merged, order)


def set_aside(rows, groups, fraction, seed, classes):
    """Split rows into two parts: stratified, whole groups.

    Parameters
    ----------
    rows : Rows
    groups : ndarray of shape (len(rows.X),), or None
        None where each row stands by itself.
    fraction : float
        Of the rows to set aside, between 0 and 1; as near as groups allow.
    seed : int
    classes : ndarray of shape (n_classes,)
        The labels that codes stand for.

    Returns
    -------
    kept, aside : Rows

    Raises
    ------
    ValueError
        If not all classes can be in both parts.
    """
    order, y = rows.order, rows.y[rows.order]
    if groups is None:
        splitter, label = StratifiedKFold, order
    else:
        splitter, label = StratifiedGroupKFold, groups[order]
    n_groups, codes = len(np.unique(label)), set(y)
    n_splits = min(round(1 / min(fraction, 1 - fraction)), n_groups)
    # fewer and larger folds until one holds all classes: a group may be of one class
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
            return tuple(Rows(rows.X, rows.y, rows.weight, order[part]) for part in (kept, aside))
    few = too_few_groups(classes[y], None if groups is None else label, rows="distinct rows")
    more = "rows or groups"
    if few:
        more = f"{'rows' if groups is None else 'groups'} of this class"
    raise ValueError(
        f"early_stopping=True cannot set aside validation_fraction={fraction} with all "
        f"{len(codes)} classes on both sides: there are {len(order)} distinct rows in "
        f"{n_groups} groups. {few + ' ' if few else ''}Pass X_val and y_val, or more {more}."
    )
