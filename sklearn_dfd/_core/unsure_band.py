"""The band of probabilities in which to withhold an answer, so that other answers are reliable."""

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

# sequences of tests: the first starts where it can succeed without any error, the next at
# twice as many groups, where one or two errors do not end it at once
_STARTS = 2


def least_groups(max_error: float, level: float) -> int:
    """Return how many groups, all answered correctly, show that the error is small enough.

    Parameters
    ----------
    max_error : float
        The largest share of wrong answers, between 0 and 1.
    level : float
        Probability with which the bound may be exceeded.

    Returns
    -------
    n_groups : int
        At the start of the first sequence of tests.
    """
    return int(np.ceil(np.log(level / _STARTS) / np.log1p(-max_error)))


def lowest_threshold(
    score: npt.NDArray[np.float64],
    wrong: npt.NDArray[np.bool_],
    codes: npt.NDArray[np.intp],
    max_error: float,
    level: float,
) -> float:
    """Find the lowest threshold above which answers are shown to be reliable.

    Thresholds are tested from the highest downwards, as in Learn Then Test: the threshold of rank k
    has the k groups of the highest scores above it. Given the threshold, these are independent, so
    the number of groups with a wrong answer among them is binomial. The first test that fails ends
    a sequence, so no correction for the number of tests in a sequence is needed.

    Parameters
    ----------
    score : ndarray of shape (n_images,)
        Scores of the class in question.
    wrong : ndarray of bool, shape (n_images,)
        Whether that class would be the wrong answer.
    codes : ndarray of int, shape (n_images,)
        Group of each image, numbered from 0 without gaps.
    max_error : float
        The largest share of groups with a wrong answer, among those with an answer.
    level : float
        Probability with which the bound may be exceeded.

    Returns
    -------
    threshold : float
        Answers are given for scores of at least this; inf if no threshold passes, and -inf if
        every image may get this answer.
    """
    highest = np.full(codes.max() + 1, -np.inf)
    np.maximum.at(highest, codes, score)
    highest_wrong = np.full(len(highest), -np.inf)
    np.maximum.at(highest_wrong, codes[wrong], score[wrong])
    n_groups = len(highest)
    # the k-th threshold is just above the score of rank k, counted from 0; the last is below all
    below = np.append(np.sort(highest)[::-1], -np.inf)
    n_above = np.searchsorted(np.sort(-highest), -below, side="left")
    n_wrong = np.searchsorted(np.sort(-highest_wrong), -below, side="left")
    passes = binom.cdf(n_wrong, n_above, max_error) <= level / _STARTS
    last = 0
    first = least_groups(max_error, level)
    for n_first in (first * 2**i for i in range(_STARTS)):
        start = int(np.searchsorted(n_above, n_first))  # groups of equal scores come together
        failed = np.flatnonzero(~passes[start:])
        end = start + int(failed[0]) if len(failed) else n_groups + 1
        last = max(last, end - 1 if end > start else 0)
    if last == 0:
        return float("inf")
    return float(np.nextafter(below[last], np.inf)) if last < n_groups else -float("inf")
