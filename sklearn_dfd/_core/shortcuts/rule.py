"""A rule that learns from headers alone, and its honest score."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.utils import check_random_state

_MIN_FILES = 10  # that have a value; rarer values are put together
_MAX_VALUES = 200  # of an attribute
_N_BINS = 10  # of a number
_N_RESAMPLES = 1000


def coded(values: Sequence[str | float]) -> npt.NDArray[np.int64]:
    """Assign a number to each value of one attribute, without looking at any label.

    Parameters
    ----------
    values : sequence of n_files str or float
        Texts, or numbers of which some may be NaN.

    Returns
    -------
    codes : ndarray of shape (n_files,), dtype int64
        Numbers of values that enough files have. Texts that fewer have share a code. Numbers of
        many different values are put into bins that hold equally many files.
    """
    array = np.asarray(values)
    if array.dtype.kind == "f":
        distinct = np.unique(array[~np.isnan(array)])
        if len(distinct) > _N_BINS:
            edges = np.unique(np.nanquantile(array, np.linspace(0, 1, _N_BINS + 1)[1:-1]))
            binned = np.searchsorted(edges, array, side="left")
            array = np.where(np.isnan(array), -1, binned)
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
    positive = target[tested].astype(np.float64)
    group = np.unique(groups[tested], return_inverse=True)[1]
    n_groups = int(group.max()) + 1
    pairs = [_Pairs(score[tested], fold[tested], positive) for score in scores]
    aucs = [each.auc(np.ones(len(tested))) for each in pairs]
    resampled = np.empty((_N_RESAMPLES, len(scores)))
    for row in resampled:
        while True:
            drawn = np.bincount(rng.randint(n_groups, size=n_groups), minlength=n_groups)[group]
            if 0 < drawn @ positive < drawn.sum():
                break
        row[:] = [each.auc(drawn) for each in pairs]
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(resampled, [tail, 1 - tail], axis=0)
    return aucs, [(float(a), float(b)) for a, b in zip(low, high, strict=True)]


class _Pairs:
    """Pairs of a positive and a negative file of one fold, counted by score."""

    def __init__(
        self,
        score: npt.NDArray[np.float64],
        fold: npt.NDArray[np.int64],
        positive: npt.NDArray[np.float64],
    ) -> None:
        order = np.lexsort((score, fold))
        new = np.ones(len(order), dtype=bool)
        new[1:] = (np.diff(score[order]) != 0) | (np.diff(fold[order]) != 0)
        # files of one fold and score are one step of the curve
        self._step = np.empty(len(order), dtype=np.int64)
        self._step[order] = np.cumsum(new) - 1
        folds = fold[order][new]
        self._first = np.flatnonzero(np.r_[True, np.diff(folds) != 0])
        self._fold = np.cumsum(np.r_[0, np.diff(folds) != 0])
        self._positive = positive

    def auc(self, weight: npt.NDArray[np.float64] | npt.NDArray[np.int64]) -> float:
        """Return the share of pairs in the right order; equal scores count half."""
        n_steps = len(self._fold)
        positive = np.bincount(self._step, weight * self._positive, n_steps)
        negative = np.bincount(self._step, weight, n_steps) - positive
        before = np.cumsum(negative) - negative
        below = before - before[self._first][self._fold] + negative / 2
        n_pairs = np.add.reduceat(positive, self._first) @ np.add.reduceat(negative, self._first)
        return float(positive @ below / n_pairs) if n_pairs else 0.5
