"""Scores of many resamples at once: a resample gives each sample a weight, how often it is drawn.

Sorting, and finding samples of equal score, is done once for all resamples. A score is a function
of a matrix of weights, of shape (n_resamples, n_samples), with one number per resample.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.metrics import accuracy_score, roc_auc_score

_Numbers: TypeAlias = npt.NDArray[np.float64]
_Score: TypeAlias = Callable[[_Numbers], _Numbers]
#: From labels, scores and the metric's own parameters to a score; None where it does not apply.
Weighted: TypeAlias = Callable[..., _Score | None]

_BLOCK = 2**14  # weights in a matrix: it stays in the cache of a core


def auc_lost(y_true: npt.NDArray[Any], both: npt.NDArray[np.float64]) -> float:
    """Return the ROC AUC of the first column minus that of the second."""
    return float(roc_auc_score(y_true, both[:, 0]) - roc_auc_score(y_true, both[:, 1]))


def weighted_score(
    metric: Callable[..., Any],
    y_true: npt.NDArray[Any],
    y_score: npt.NDArray[Any],
    others: dict[Any, Weighted],
) -> _Score | None:
    """Find the function of weights that equals a metric on resampled rows.

    Parameters
    ----------
    metric : callable
        The metric, or a partial of it with keywords.
    y_true : ndarray of shape (n_samples,)
    y_score : ndarray of shape (n_samples, ...)
    others : dict of callable to callable
        Functions of weights by their metrics, in addition to those of scikit-learn.

    Returns
    -------
    score : callable or None
        None if the metric is not one of these, or its scores are not defined for all resamples.
    """
    whole = metric if isinstance(metric, partial) else partial(metric)
    try:
        make = (_OF_SCIKIT_LEARN | others).get(whole.func)
    except TypeError:  # not hashable
        return None
    if make is None or y_true.ndim != 1 or whole.args:
        return None
    try:
        return make(y_true, y_score, **whole.keywords)
    except TypeError:  # other keywords
        return None


def _positive(
    y_true: npt.NDArray[Any], y_score: npt.NDArray[Any], pos_label: Any = None
) -> npt.NDArray[np.bool_] | None:
    """Return which samples are of the positive class; None for other labels, or other scores."""
    labels = np.unique(y_true)
    if len(labels) != 2 or y_score.ndim != 1 or y_score.dtype.kind not in "biuf":
        return None
    return y_true == (labels[1] if pos_label is None else pos_label)


def _curves(
    y_true: npt.NDArray[Any], y_score: npt.NDArray[Any], pos_label: Any
) -> Callable[[_Numbers], tuple[_Numbers, _Numbers]] | None:
    """Make the function that returns the ROC curves of resamples; None as `_positive` does.

    It takes weights and returns the false and the true positive rates, each of shape
    (n_resamples, 1 + n_thresholds). Thresholds at which nothing was drawn repeat a point.
    """
    positive = _positive(y_true, y_score, pos_label)
    if positive is None:
        return None
    order = np.argsort(y_score, kind="stable")[::-1]
    ends = np.append(np.flatnonzero(np.diff(y_score[order])), len(order) - 1)
    is_positive = positive[order]

    def curves(weights: _Numbers) -> tuple[_Numbers, _Numbers]:
        drawn = weights[:, order]
        rates = []
        for of_class in (~is_positive, is_positive):
            counts = np.cumsum(drawn * of_class, axis=1)[:, ends]
            rates.append(np.pad(counts, ((0, 0), (1, 0))) / counts[:, -1:])
        return rates[0], rates[1]

    return curves


def _roc_auc(y_true: npt.NDArray[Any], y_score: npt.NDArray[Any]) -> _Score | None:
    positive = _positive(y_true, y_score)
    if positive is None:
        return None
    of_positives, of_negatives = np.flatnonzero(positive), np.flatnonzero(~positive)
    of_negatives = of_negatives[np.argsort(y_score[of_negatives], kind="stable")]
    ranks = [
        np.searchsorted(y_score[of_negatives], y_score[of_positives], side=side)
        for side in ("left", "right")
    ]
    tied = (ranks[0] != ranks[1]).any()

    def score(weights: _Numbers) -> _Numbers:
        below = np.zeros((len(weights), 1 + len(of_negatives)))
        np.cumsum(weights[:, of_negatives], axis=1, out=below[:, 1:])
        beaten = below[:, ranks[0]]
        if tied:
            beaten = (beaten + below[:, ranks[1]]) / 2
        drawn = weights[:, of_positives]
        return np.einsum("ij,ij->i", drawn, beaten) / (drawn.sum(axis=1) * below[:, -1])

    return score


def _auc_lost(y_true: npt.NDArray[Any], both: npt.NDArray[Any]) -> _Score | None:
    first, second = (_roc_auc(y_true, column) for column in both.T)
    if first is None or second is None:
        return None
    return lambda weights: first(weights) - second(weights)


def _accuracy(y_true: npt.NDArray[Any], y_score: npt.NDArray[Any]) -> _Score | None:
    if y_score.ndim != 1:
        return None
    right = (y_true == y_score).astype(np.float64)
    return lambda weights: weights @ right / weights.sum(axis=1)


def equal_error_rates(
    y_true: npt.NDArray[Any], y_score: npt.NDArray[Any], pos_label: Any = None
) -> _Score | None:
    """Make the function of weights that equals `metrics.equal_error_rate`."""
    curves = _curves(y_true, y_score, pos_label)
    if curves is None:
        return None

    def score(weights: _Numbers) -> _Numbers:
        fpr, tpr = curves(weights)
        above = fpr + tpr - 1  # grows from -1 to 1, and is 0 where both errors are as frequent
        each, after = np.arange(len(fpr)), (above >= 0).argmax(axis=1)
        before = after - 1
        share = -above[each, before] / (above[each, after] - above[each, before])
        return fpr[each, before] + share * (fpr[each, after] - fpr[each, before])

    return score


def tprs_at_fpr(
    y_true: npt.NDArray[Any],
    y_score: npt.NDArray[Any],
    max_fpr: float = 0.01,
    pos_label: Any = None,
) -> _Score | None:
    """Make the function of weights that equals `metrics.tpr_at_fpr`."""
    curves = _curves(y_true, y_score, pos_label)
    if curves is None:
        return None

    def score(weights: _Numbers) -> _Numbers:
        fpr, tpr = curves(weights)
        return tpr[np.arange(len(fpr)), (fpr <= max_fpr).sum(axis=1) - 1]

    return score


_OF_SCIKIT_LEARN: dict[Any, Weighted] = {
    accuracy_score: _accuracy,
    auc_lost: _auc_lost,
    roc_auc_score: _roc_auc,
}


def resampled(
    parts: Sequence[Sequence[npt.NDArray[np.intp]]],
    y_true: npt.NDArray[Any],
    n_resamples: int,
    rng: np.random.RandomState,
) -> Iterator[list[npt.NDArray[np.intp]]]:
    """Draw as many groups as there are from each part, with replacement.

    A draw that leaves only one of several classes of a part is repeated.

    Parameters
    ----------
    parts : list of list of ndarray
        For each part, the rows of each group.
    y_true : ndarray of shape (n_samples,)
    n_resamples : int
    rng : RandomState

    Yields
    ------
    drawn : list of ndarray
        For each part, the numbers of the groups.
    """
    only = [_only_class(rows_of, y_true) for rows_of in parts]
    for _ in range(n_resamples):
        drawn = []
        for class_of in only:
            while True:
                groups = rng.randint(len(class_of), size=len(class_of))
                first = class_of[groups[0]]
                if class_of[0] == _ANY or first < 0 or (class_of[groups] != first).any():
                    break
            drawn.append(groups)
        yield drawn


_ANY = -2  # marks every group of a part with one class


def _only_class(
    rows_of: Sequence[npt.NDArray[np.intp]], y_true: npt.NDArray[Any]
) -> npt.NDArray[np.int64]:
    """Return the class of each group; -1 for one of several classes."""
    rows = np.concatenate(rows_of)
    classes, codes = np.unique(y_true[rows], return_inverse=True)
    if len(classes) == 1:
        return np.full(len(rows_of), _ANY)
    of_groups = np.split(codes.ravel(), np.cumsum([len(group) for group in rows_of])[:-1])
    return np.array([c[0] if (c == c[0]).all() else -1 for c in of_groups])


def weighted_scores(
    score: _Score,
    rows_of: Sequence[npt.NDArray[np.intp]],
    draws: Sequence[npt.NDArray[np.intp]],
) -> _Numbers:
    """Score many draws of groups.

    Parameters
    ----------
    score : callable
        What `weighted_score` returned for the samples in the order of `rows_of`.
    rows_of : list of ndarray
        The rows of each group.
    draws : list of ndarray
        The numbers of the groups that were drawn, for each resample.

    Returns
    -------
    scores : ndarray of shape (n_resamples,)
    """
    group_of = np.repeat(np.arange(len(rows_of)), [len(group) for group in rows_of])
    step = max(1, _BLOCK // len(group_of))
    scores = []
    for start in range(0, len(draws), step):
        block = draws[start : start + step]
        counts = np.stack([np.bincount(drawn, minlength=len(rows_of)) for drawn in block])
        scores.append(score(counts[:, group_of].astype(np.float64)))
    return np.concatenate(scores)
