"""Splits that keep groups together and views on the training side, and the search for copies."""

from collections.abc import Iterator
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import BaseCrossValidator, GroupKFold, StratifiedGroupKFold
from sklearn.utils import check_random_state, indexable
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import column_or_1d

from sklearn_dfd._core.copies.source_groups import check_leakage, find_copies, find_source_groups
from sklearn_dfd._core.groups import check_groups, check_groups_of_views, too_few_groups
from sklearn_dfd._core.images.sources import as_image_list, describe, number_by_origin
from sklearn_dfd._core.images.sources import is_original as is_an_original
from sklearn_dfd._core.shortcuts.report import ShortcutReport, ShortcutRow, check_shortcuts
from sklearn_dfd._core.sklearn_private import Interval, num_samples, safe_indexing, validate_params
from sklearn_dfd.exceptions import LeakageError

__all__ = [
    "LeakageError",
    "OriginalsSplit",
    "ShortcutReport",
    "ShortcutRow",
    "check_leakage",
    "check_shortcuts",
    "find_copies",
    "find_source_groups",
    "train_test_group_split",
]

_N_TRIES = 10


class OriginalsSplit(BaseCrossValidator):
    """Split original photographs; their views join the training side.

    The given splitter sees the originals only, so it makes the same folds as without any views, and
    scores can be compared. A view is on the training side if its photograph, or another photograph
    of its group, is there. No view is tested on.

    Parameters
    ----------
    cv : splitter
        A cross-validation splitter of scikit-learn, such as
        :class:`~sklearn.model_selection.StratifiedGroupKFold`.

    is_original : array-like of bool, shape (n_samples,), default=None
        Which rows are originals. None looks at ``X``, in which everything but a
        :class:`~sklearn_dfd.augmentation.View` is an original; this works in nested
        cross-validation too, which passes parts of ``X`` to the splitter. Pass an array if ``X``
        holds features instead of images; then the groups tell which view belongs to which original.

    See Also
    --------
    sklearn_dfd.augmentation.augment : Make views, with their groups and ``is_original``.

    Examples
    --------
    >>> from sklearn.model_selection import StratifiedGroupKFold
    >>> from sklearn_dfd.augmentation import augment
    >>> from sklearn_dfd.model_selection import OriginalsSplit
    >>> faces = augment(["a.jpg", "b.jpg", "c.jpg", "d.jpg"], [0, 0, 1, 1], n_views=1)
    >>> cv = OriginalsSplit(StratifiedGroupKFold(2))
    >>> for train, test in cv.split(faces.data, faces.target, faces.groups):
    ...     print(train, test)
    [1 3 5 7] [0 2]
    [0 2 4 6] [1 3]
    """

    # For scikit-learn's metadata routing: groups are meant for the split.
    __metadata_request__split = {"groups": True}  # noqa: RUF012

    def __init__(self, cv: Any, is_original: npt.ArrayLike | None = None) -> None:
        self.cv = cv
        self.is_original = is_original

    def split(
        self, X: Any, y: npt.ArrayLike | None = None, groups: npt.ArrayLike | None = None
    ) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
        """Generate indices of training and test rows.

        Parameters
        ----------
        X : sequence of n_samples images or views, or array of shape (n_samples, n_features)
            Rows to split.

        y : array-like of shape (n_samples,), default=None
            Class of each row.

        groups : array-like of shape (n_samples,), default=None
            Group of each row; a group stays on one side. None makes each photograph, with its
            views, a group of its own, if ``X`` holds images and the splitter needs no groups.

        Yields
        ------
        train : ndarray of int
            Rows to train on: those that the splitter gave, then the views.

        test : ndarray of int
            Rows to test on, as the splitter gave them.

        Raises
        ------
        ValueError
            If lengths differ, there are views without their photograph, or the splitter cannot
            split, puts one group on both sides, leaves a side empty or leaves a class out of the
            training side.
        TypeError
            If ``cv`` is not a splitter, or ``X`` holds no images and ``is_original`` is None.
        """
        X, y, groups = _indexable(X, y, groups)
        originals, label = self._originals(X, groups)
        views = np.setdiff1d(np.arange(len(label)), originals)
        for k, (train, test) in enumerate(self._folds(*_rows(originals, X, y, groups))):
            train, test = originals[train], originals[test]
            _check_sides(k, train, test, label, groups)
            if y is not None:
                _check_classes(k, train, originals, column_or_1d(y), groups)
            yield np.concatenate([train, views[np.isin(label[views], label[train])]]), test

    def _folds(self, X, y, groups):
        """Let the splitter split, and explain where it cannot."""
        _check_splitter(self.cv)
        try:
            yield from self.cv.split(X, y, groups)
        except ValueError as error:
            n_groups = 0 if groups is None else len(np.unique(groups))
            fewer = "fewer splits, or " if n_groups > 1 else ""
            by_group = isinstance(self.cv, GroupKFold | StratifiedGroupKFold)
            if by_group and 1 < n_groups < self.cv.n_splits:
                fewer = f"{n_groups} splits at most, or "
            what = f"in {n_groups} group(s): use {fewer}photographs of more groups"
            raise ValueError(
                f"{error} {type(self.cv).__name__} was given {num_samples(X)} photographs, which "
                f"are {what if n_groups else 'in no groups: pass groups'}."
            ) from error

    def get_n_splits(
        self,
        X: Any = None,
        y: npt.ArrayLike | None = None,
        groups: npt.ArrayLike | None = None,
    ) -> int:
        """Return the number of splits.

        Parameters
        ----------
        X, y, groups : default=None
            Rows, classes and groups, as for `split`; needed if the splitter needs them.

        Returns
        -------
        n_splits : int
            Number of splits.
        """
        _check_splitter(self.cv)
        if X is None:
            return self.cv.get_n_splits(X, y, groups)
        X, y, groups = _indexable(X, y, groups)
        originals, _ = self._originals(X, groups)
        return self.cv.get_n_splits(*_rows(originals, X, y, groups))

    def _originals(self, X, groups):
        """Return the rows of the originals, and for each row the number of its group."""
        label = None if groups is None else _codes(groups)
        if self.is_original is None:
            try:
                images = as_image_list(X)
            except (TypeError, ValueError) as error:
                raise type(error)(
                    f"{error} Where X holds features of images, pass is_original to OriginalsSplit."
                ) from None
            is_original = np.array([is_an_original(image) for image in images])
            if label is None:
                label = number_by_origin(images)
            else:
                check_groups_of_views(images, groups)
        else:
            is_original = column_or_1d(self.is_original)
            n_samples = num_samples(X)
            if len(is_original) != n_samples:
                raise ValueError(
                    f"is_original has {len(is_original)} values for {n_samples} rows of X. In a "
                    "nested search, which splits a part of X again, it cannot be used: pass images "
                    "and views as X, which need no is_original."
                )
            if is_original.dtype != bool:
                raise ValueError(f"is_original has dtype {is_original.dtype}: pass booleans.")
            if label is None:
                raise ValueError(
                    "is_original tells which rows are views, but not of which photograph: pass "
                    "groups too."
                )
            self._check_views(X, is_original, groups)
        originals = np.flatnonzero(is_original)
        if not len(originals):
            raise ValueError(
                "X holds only views, which cannot be tested on: with keep_originals=True the "
                "photographs stay in X."
            )
        lost = np.flatnonzero(~np.isin(label, label[originals]))
        if len(lost):
            raise ValueError(
                f"{len(lost)} of {len(label)} rows, starting with row {lost[0]}, are views whose "
                "photograph is not in X, so the side that they belong on is unknown: put the "
                "photograph into X, or give them its group."
            )
        return originals, label

    @staticmethod
    def _check_views(X, is_original, groups):
        """Raise if views in ``X`` contradict ``is_original`` or the groups."""
        try:
            images = as_image_list(X)
        except (TypeError, ValueError):
            return  # Features do not show which image they are of.
        for row in np.flatnonzero(is_original).tolist():
            if not is_an_original(images[row]):
                raise ValueError(
                    f"is_original is True for row {row}, which is a {describe(images[row])}: pass "
                    "what augment returned, in the order of X."
                )
        check_groups_of_views(images, groups)


def _indexable(X, y, groups):
    n_samples = num_samples(X)
    n_targets = n_samples if y is None else num_samples(y)
    if n_targets != n_samples:
        raise ValueError(f"y has {n_targets} values for {n_samples} rows of X: pass one per row.")
    if groups is not None:
        groups = check_groups(groups, n_samples, "rows of X")
    return indexable(X, y, groups)


def _check_splitter(cv):
    if not (hasattr(cv, "split") and hasattr(cv, "get_n_splits")):
        raise TypeError(f"cv is {cv!r}: pass a splitter, such as StratifiedGroupKFold(5).")


def _rows(rows, X, y, groups):
    return tuple(None if a is None else safe_indexing(a, rows) for a in (X, y, groups))


def _codes(values):
    return np.unique(column_or_1d(values), return_inverse=True)[1]


def _check_sides(k, train, test, label, groups):
    """Raise if a side of split ``k`` is empty, or both share a group."""
    for name, side in (("training", train), ("test", test)):
        if not len(side):
            raise ValueError(
                f"Split {k} has nothing on its {name} side: the photographs are in "
                f"{len(np.unique(label))} groups; use fewer splits."
            )
    shared = np.isin(label[train], label[test])
    if shared.any():
        one = train[shared][0]
        other = test[label[test] == label[one]][0]
        what = (
            "show the same photograph" if groups is None else f"are of group {_item(groups, one)}"
        )
        raise ValueError(
            f"Split {k} trains on row {one} and tests on row {other}, which {what}: use a splitter "
            "that keeps groups together, such as StratifiedGroupKFold, and pass groups."
        )


def _check_classes(k, train, originals, y, groups):
    """Raise if the training side of split ``k`` lacks a class."""
    if type_of_target(y) not in {"binary", "multiclass"}:
        return
    lacking = np.setdiff1d(y, y[train])
    if len(lacking):
        told = f"Split {k} has no image of class {lacking[0]!s} to train on"
        rows = originals[np.isin(y[originals], lacking)]
        few = too_few_groups(y[rows], None if groups is None else groups[rows], rows="photographs")
        if few:
            what = "photographs" if groups is None else "groups"
            raise ValueError(f"{told}. {few} Use more {what} of this class, or leave it out.")
        raise ValueError(
            f"{told}: too few of its groups are left. Use another number of splits, or more groups "
            "of this class."
        )


def _item(values, row):
    return repr(np.asarray(values)[[row]].tolist()[0])


@validate_params(
    {
        "groups": ["array-like"],
        "stratify": ["array-like", None],
        "test_size": [Interval(Real, 0, 1, closed="neither")],
        "validation_size": [Interval(Real, 0, 1, closed="neither"), None],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def train_test_group_split(
    *arrays: Any,
    groups: npt.ArrayLike,
    stratify: npt.ArrayLike | None = None,
    test_size: float = 0.25,
    validation_size: float | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> list[Any]:
    """Split arrays into training and test sets of whole groups, or also a validation set.

    This is :func:`~sklearn.model_selection.train_test_split` for rows that must stay together: no
    group is on two sides, and each side has its share of every class, as nearly as groups allow.

    Parameters
    ----------
    *arrays : sequence of indexables of length n_samples
        Lists, arrays, tables or sparse matrices to split. Pass ``groups`` among them if you need
        the groups of each side.
    groups : array-like of shape (n_samples,)
        Group of each row; a group stays on one side.
    stratify : array-like of shape (n_samples,), default=None
        Class of each row, if each side should have its share of every class. None balances the
        number of rows only.
    test_size : float, default=0.25
        Share of the rows to test on, above 0 and below 1.
    validation_size : float, default=None
        Share of the rows to validate on, above 0 and below 1. None makes no validation set.
    random_state : int, RandomState instance or None, default=None
        Pass an int for the same split in every call.

    Returns
    -------
    parts : list
        The training and the test part of each array in turn, or with ``validation_size`` the
        training, validation and test parts. Rows keep their order.

    Raises
    ------
    ValueError
        If no array is given, lengths differ, the sizes leave nothing to train on, there are fewer
        groups than sides, all rows of a class are in too few groups, or a side would have no row of
        a class.

    Notes
    -----
    Groups are taken in random order, and each is put on the side where it brings the number of rows
    per class nearest to the target, as measured by chi-squared. Where that leaves a side without a
    row of a class, a group is moved there. Ten orders are tried, and the best split is returned.

    Examples
    --------
    >>> from sklearn_dfd.model_selection import train_test_group_split
    >>> X, y, groups = list("abcdefgh"), [0, 0, 1, 1, 0, 0, 1, 1], [1, 1, 2, 2, 3, 3, 4, 4]
    >>> X_train, X_test, y_train, y_test = train_test_group_split(
    ...     X, y, groups=groups, stratify=y, test_size=0.5, random_state=0
    ... )
    >>> sorted(y_train), sorted(y_test)
    ([0, 0, 1, 1], [0, 0, 1, 1])
    """
    if not arrays:
        raise ValueError("Nothing to split: pass at least one array.")
    arrays = indexable(*arrays)
    n_samples = num_samples(arrays[0])
    groups = check_groups(groups, n_samples)
    if stratify is not None and num_samples(stratify) != n_samples:
        raise ValueError(
            f"stratify has {num_samples(stratify)} values for {n_samples} rows: pass one per row."
        )
    sizes = [validation_size, test_size] if validation_size else [test_size]
    if sum(sizes) >= 1:
        raise ValueError(
            f"test_size={test_size} and validation_size={validation_size} leave nothing to train "
            "on: their sum must be less than 1."
        )
    names = ["training", "validation", "test"] if validation_size else ["training", "test"]
    y = np.zeros(n_samples, dtype=int) if stratify is None else column_or_1d(stratify)
    classes, y_codes = np.unique(y, return_inverse=True)
    group_names, group_codes = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(group_names), len(classes)))
    np.add.at(counts, (group_codes, y_codes), 1)
    if len(group_names) < len(names):
        raise ValueError(
            f"There are {len(group_names)} groups for {len(names)} sides ({', '.join(names)}): "
            "groups are not divided, so use more of them."
        )
    few = None if stratify is None else too_few_groups(y, groups, len(names))
    if few:
        raise ValueError(f"{few} Use more groups of this class, or leave it out.")

    goal = np.outer([1 - sum(sizes), *sizes], counts.sum(axis=0))
    rng = check_random_state(random_state)
    tries = [_share_out(counts, goal, rng.permutation(len(counts))) for _ in range(_N_TRIES)]
    tries = [_without_empty_cells(counts, goal, *found) for found in tries]
    part, have = min(tries, key=lambda t: (np.sum(t[1] == 0), np.sum((t[1] - goal) ** 2 / goal)))
    for side, c in np.argwhere(have == 0):
        what = "row" if stratify is None else f"row of class {classes[c]!s}"
        raise ValueError(
            f"The {names[side]} side would have no {what}: its share is {goal[side, c]:.3g} of "
            f"{n_samples} rows; make it larger, or use more groups."
        )
    sides = [np.flatnonzero(part[group_codes] == side) for side in range(len(names))]
    return [safe_indexing(array, rows) for array in arrays for rows in sides]


def _share_out(counts, goal, order):
    """Put each group on the side where sum((have - goal)^2 / goal) is lowest with it."""
    part, have = np.empty(len(counts), dtype=int), np.zeros_like(goal)
    for group in order:
        n = counts[group]
        part[group] = side = np.argmin((n * (2 * (have - goal) + n) / goal).sum(axis=1))
        have[side] += n
    return part, have


def _without_empty_cells(counts, goal, part, have):
    """Move groups to sides without a row of a class, as long as that leaves fewer such gaps."""
    while (have == 0).any():
        best = None
        for side, c in np.argwhere(have == 0):
            groups = np.flatnonzero((counts[:, c] > 0) & (part != side))
            moved = np.repeat(have[np.newaxis], len(groups), axis=0)
            moved[:, side] += counts[groups]
            moved[np.arange(len(groups)), part[groups]] -= counts[groups]
            n_empty = (moved == 0).sum(axis=(1, 2))
            loss = ((moved - goal) ** 2 / goal).sum(axis=(1, 2))
            for k in np.lexsort((loss, n_empty))[:1]:
                found = n_empty[k], loss[k], groups[k], side, moved[k]
                best = found if best is None or found[:2] < best[:2] else best
        if best is None or best[0] >= (have == 0).sum():
            break
        _, _, group, side, have = best
        part[group] = side
    return part, have
