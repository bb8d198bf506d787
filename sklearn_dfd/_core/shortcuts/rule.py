"""A rule that learns from headers alone, and its honest score."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.utils import check_random_state

_MIN_FILES = 10  # that have a value; rarer values are put together
_MAX_VALUES = 200  # of an attribute
_N_BINS = 10  # of a number
_N_RESAMPLES = 1000
_MAX_WEIGHTS = 2**21  # of files in resamples, at once


def coded(values: Sequence[str | float]) -> npt.NDArray[np.int64]:
    """Assign a number to each value of one attribute, without looking at any label.

    Parameters
    ----------
    values : sequence of n_files str or float
        Texts, or numbers of which some may be NaN.

    Returns
    -------
    codes : ndarray of shape (n_files,), dtype int64
        A code for each value that enough files have. Rarer texts share a code. Numbers with many
        different values are put into bins that hold equal numbers of files.
    """
    array = np.asarray(values)
    if array.dtype.kind == "f" and len(np.unique(array)) > _N_BINS:
        shares = np.linspace(0, 1, max(1, min(_N_BINS, len(array) // _MIN_FILES)) + 1)
        edges = np.unique(np.nanquantile(array, shares[1:-1]))
        binned = np.searchsorted(edges, array, side="left")
        array = np.where(np.isnan(array), len(edges) + 1, binned)
        return np.unique(array, return_inverse=True)[1].astype(np.int64)
    _, codes, counts = np.unique(array, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    n_common = min(int((counts >= _MIN_FILES).sum()), _MAX_VALUES)
    return np.minimum(rank, n_common)[codes].astype(np.int64)


def folds_by_group(
    target: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    n_folds: int,
    random_state: np.random.RandomState | int | None,
) -> npt.NDArray[np.int64]:
    """Assign a fold to each file: whole groups, and about the same share of each class."""
    fold = np.empty(len(target), dtype=np.int64)
    if len(groups) == groups.max() + 1:  # each file alone, for which the other would take minutes
        split = StratifiedKFold(n_folds, shuffle=True, random_state=random_state).split(
            fold, target
        )
    else:
        splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=random_state)
        split = splitter.split(fold, target, groups)
    for number, (_, rows) in enumerate(split):
        fold[rows] = number
    return fold


def forward_scores(
    codes: Sequence[npt.NDArray[np.int64]],
    target: npt.NDArray[np.int64],
    fold: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Score each file by a rule that was trained on the folds before its own.

    Parameters
    ----------
    codes : sequence of ndarray of shape (n_files,), dtype int64
        What `coded` returns for the attributes that the rule sees.
    target : ndarray of shape (n_files,), dtype int64
        0 or 1.
    fold : ndarray of shape (n_files,), dtype int64
        What `folds_by_group` returns.

    Returns
    -------
    scores : ndarray of shape (n_files,), dtype float64
        Higher for class 1; 0 in fold 0.
    """
    # here, since importing splits should not take that long
    from sklearn.linear_model import LogisticRegression

    scores = np.zeros(len(target))
    codes = [code for code in codes if code.max() > 0]
    if not codes:
        return scores
    start = np.cumsum([0, *(code.max() + 1 for code in codes)])
    column = np.stack([code + first for code, first in zip(codes, start, strict=False)], axis=1)
    n_files, n_columns = column.shape
    matrix = csr_array(
        (np.ones(column.size), column.ravel(), np.arange(n_files + 1) * n_columns),
        shape=(n_files, int(start[-1])),
    )
    for number in range(1, fold.max() + 1):
        before, test = np.flatnonzero(fold < number), np.flatnonzero(fold == number)
        if len(np.unique(target[before])) == 2:
            rule = LogisticRegression(max_iter=1000).fit(matrix[before], target[before])
            # rounded, so that equal headers have equal scores
            scores[test] = rule.decision_function(matrix[test]).round(9)
    return scores


def auc_intervals(
    scores: Sequence[npt.NDArray[np.float64]],
    target: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    fold: npt.NDArray[np.int64],
    confidence: float,
    random_state: np.random.RandomState | int | None,
) -> tuple[list[float], list[tuple[float, float]]]:
    """Return ROC AUC, within folds, and the interval of each of several scores.

    All are resampled together: a resample is a weight of each file, since 100,000 files take too
    long to be copied a thousand times.

    Parameters
    ----------
    scores : sequence of ndarray of shape (n_files,)
        What `forward_scores` returns.
    target, groups, fold : ndarray of shape (n_files,), dtype int64
        Class, group and fold of each file.
    confidence : float
        Confidence level.
    random_state : int, RandomState instance or None
        Seed of the resampling.

    Returns
    -------
    aucs : list of float
        ROC AUC of all pairs of files that were tested in the same fold.
    intervals : list of (float, float)
        Percentiles over resamples of whole groups.
    """
    rng = check_random_state(random_state)
    tested = np.flatnonzero(fold > 0)
    group = np.unique(groups[tested], return_inverse=True)[1]
    n_groups = int(group.max()) + 1
    pairs = [_Pairs(score[tested], fold[tested], target[tested]) for score in scores]
    aucs = [float(each.auc(np.ones((1, len(tested))))[0]) for each in pairs]
    at_once = max(1, min(_N_RESAMPLES, _MAX_WEIGHTS // len(tested)))
    resampled: list[list[npt.NDArray[np.float64]]] = [[] for _ in pairs]
    for start in range(0, _N_RESAMPLES, at_once):
        n = min(at_once, _N_RESAMPLES - start)
        drawn = rng.randint(n_groups, size=(n, n_groups)) + n_groups * np.arange(n)[:, np.newaxis]
        times = np.bincount(drawn.ravel(), minlength=n * n_groups).reshape(n, n_groups)
        weights = times[:, group].astype(np.float64)
        for each, of_score in zip(pairs, resampled, strict=True):
            of_score.append(each.auc(weights))
    tail = (1 - confidence) / 2
    ends = [np.nanquantile(np.concatenate(of_score), [tail, 1 - tail]) for of_score in resampled]
    return aucs, [(float(low), float(high)) for low, high in ends]


class _Pairs:
    """Pairs of a positive and a negative file of one fold, counted by score."""

    def __init__(
        self,
        score: npt.NDArray[np.float64],
        fold: npt.NDArray[np.int64],
        positive: npt.NDArray[np.int64],
    ) -> None:
        order = np.lexsort((score, fold))
        new = np.ones(len(order), dtype=bool)
        new[1:] = (np.diff(score[order]) != 0) | (np.diff(fold[order]) != 0)
        folds = fold[order][new]
        self._first = np.flatnonzero(np.r_[True, np.diff(folds) != 0])
        self._fold = np.cumsum(np.r_[0, np.diff(folds) != 0])
        # files of one fold and score are one step of the curve
        start = np.r_[np.flatnonzero(new), len(order)]
        shape = (len(folds), len(order))
        self._positive = csr_array((positive[order].astype(np.float64), order, start), shape=shape)
        self._negative = csr_array((1.0 - positive[order], order, start), shape=shape)

    def auc(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the share of pairs in the right order; equal scores count half.

        Parameters
        ----------
        weights : ndarray of shape (n_resamples, n_files), dtype float64
            How often each file is in each resample.

        Returns
        -------
        auc : ndarray of shape (n_resamples,), dtype float64
            NaN for a resample without any pair.
        """
        positive, negative = self._positive @ weights.T, self._negative @ weights.T
        before = np.cumsum(negative, axis=0) - negative
        below = before - before[self._first][self._fold] + negative / 2
        n_positive = np.add.reduceat(positive, self._first)
        n_pairs = (n_positive * np.add.reduceat(negative, self._first)).sum(axis=0)
        right = (positive * below).sum(axis=0)
        return np.divide(right, n_pairs, out=np.full(len(right), np.nan), where=n_pairs > 0)
