"""From probabilities to answers: combined by group, called by a rule, and put into words."""

from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

#: How the probabilities of several images are combined.
Aggregate = Literal["mean_log_odds", "median"]
AGGREGATES = ("mean_log_odds", "median")

#: The column of the class to detect, the highest probability at which the other class is called,
#: and the lowest at which this one is; in between, neither is called.
Rule = tuple[int, float, float]

UNSURE = -1  # in place of a column, where neither class is called

# float32 distinguishes probabilities of 1e-30, but none between 1 - 6e-8 and 1
_LEAST = 1e-6

# least probability of the class that an image is called, and how a calibrated detector words it
_WORDS = ((0.9, "very likely"), (0.7, "likely"), (0.0, "uncertain, leaning to"))
_CALIBRATED = (
    "The probabilities are calibrated: they hold for photographs with the same mix of classes as "
    "those that the detector was calibrated on."
)
_UNCALIBRATED = (
    "The probabilities are not calibrated, so one near 0 or 1 does not mean that the detector is "
    "likely to be right: calibrate it with sklearn.calibration.CalibratedClassifierCV."
)
_OF_GROUPS = (
    "The probability of a group combines those of its images. It ranks groups, but one near 0 or 1 "
    "does not mean that the detector is likely to be right, even if the probabilities of images "
    "are calibrated."
)
_UNSURE = (
    "How often the answers outside the band of {} to {} are wrong is known only if the band was "
    "chosen on photographs like these{}; see sklearn_dfd.metrics.choose_unsure_band."
)


def number_groups(groups: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    """Give groups numbers in the order of their first appearance.

    Parameters
    ----------
    groups : ndarray of shape (n_rows,)
        What `check_groups` returns.

    Returns
    -------
    labels : ndarray of shape (n_groups,)
    codes : ndarray of int, shape (n_rows,)
        Position of each row's group in ``labels``.
    """
    labels, first, codes = np.unique(groups, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), dtype=np.intp)
    rank[order] = np.arange(len(order))
    return labels[order], rank[codes]


def combine(
    probability: npt.NDArray[np.float64], codes: npt.NDArray[np.intp], how: Aggregate
) -> npt.NDArray[np.float64]:
    """Combine the probabilities of the images of each group.

    Parameters
    ----------
    probability : ndarray of shape (n_rows, n_classes)
        Probabilities of images.
    codes : ndarray of int, shape (n_rows,)
        Group of each row, numbered from 0 without gaps.
    how : {"mean_log_odds", "median"}
        Whether the means or the medians of the log-probabilities are taken. They are normalised to
        probabilities that sum to one. With two classes this is the mean or the median of the
        log-odds.

    Returns
    -------
    combined : ndarray of shape (n_groups, n_classes)
    """
    n_groups = int(codes.max()) + 1 if len(codes) else 0
    log = np.log(np.clip(probability, _LEAST, 1 - _LEAST))
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(n_groups + 1))
    combined = np.empty((n_groups, probability.shape[1]))
    middle = np.mean if how == "mean_log_odds" else np.median
    for group, (start, end) in enumerate(pairwise(starts)):
        if end - start == 1:  # as it is, to the bit
            combined[group] = probability[order[start]]
            continue
        logits = middle(log[order[start:end]], axis=0)
        odds = np.exp(logits - logits.max())
        combined[group] = odds / odds.sum()
    return combined


def by_rule(probability: npt.NDArray[np.floating[Any]], rule: Rule) -> npt.NDArray[np.intp]:
    """Return the column of the class that each row is called by a rule, or `UNSURE`.

    Parameters
    ----------
    probability : ndarray of shape (n_rows, n_classes)
        Probabilities of images or groups.
    rule : Rule
        What is called which class.

    Returns
    -------
    called : ndarray of int, shape (n_rows,)
    """
    positive, low, high = rule
    p = probability[:, positive]
    return np.where(p >= high, positive, np.where(p <= low, 1 - positive, UNSURE))


def none_usable(n_images: int, first: str, error: str) -> str:
    """Say what is wrong with a group none of whose images can be used.

    Parameters
    ----------
    n_images : int
        Number of its images.
    first : str
        The first one, as messages name it.
    error : str
        What is wrong with that one.

    Returns
    -------
    error : str
    """
    reason = f"{first}: {error}"
    if n_images == 1:
        return reason
    return f"none of {n_images} images can be used, for example {reason}"


def note_on(calibrated: bool, by_group: bool, band: tuple[float, float] | None) -> str:
    """Return a sentence on what the probabilities of a table mean.

    Parameters
    ----------
    calibrated : bool
        Whether the detector is calibrated.
    by_group : bool
        Whether the probabilities are those of groups.
    band : tuple of two floats, or None
        The probabilities between which the answer is "not sure".

    Returns
    -------
    note : str
        What the table's ``attrs["note"]`` is.
    """
    note = _OF_GROUPS if by_group else _CALIBRATED if calibrated else _UNCALIBRATED
    return note if band is None else f"{note} {note_on_band(band, by_group)}"


def note_on_band(band: tuple[float, float], by_group: bool) -> str:
    """Return a sentence on how far to trust answers outside a band.

    Parameters
    ----------
    band : tuple of two floats
        The probabilities between which the answer is "not sure".
    by_group : bool
        Whether the answers are for groups.

    Returns
    -------
    note : str
    """
    return _UNSURE.format(*map("{:.3g}".format, band), ", in groups like these" if by_group else "")


def reading_of(label: Any, sure: float, error: str, calibrated: bool, n_classes: int) -> str:
    """Put into words what an image or a group is called.

    Parameters
    ----------
    label : label
        The class that it is called; None if the answer is "not sure".
    sure : float
        The probability of that class.
    error : str
        What is wrong with it, or nothing.
    calibrated : bool
        Whether ``sure`` may be put into words.
    n_classes : int
        Number of classes that the detector knows.

    Returns
    -------
    reading : str
        What stands in the column of that name.
    """
    if error:
        return f"not judged: {error}"
    if label is None:
        return "not sure"
    name = label if isinstance(label, str) else f"class {label}"
    if not calibrated:
        return f"called {name}"
    if n_classes == 2 and sure < 0.5:
        return f"uncertain, called {name} by the threshold"
    return next(f"{words} {name}" for least, words in _WORDS if sure >= least)
