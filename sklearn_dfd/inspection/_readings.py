"""Answers in words, no surer than what is known of the probabilities behind them."""

from typing import Any

from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.pipeline import Pipeline

from sklearn_dfd.augmented_classifier import AugmentedClassifier

# least probability of the class that an image is called, and how a calibrated detector words it
_WORDS = ((0.9, "very likely"), (0.7, "likely"), (0.0, "uncertain, leaning to"))
_CALIBRATED = (
    "The probabilities are calibrated: they hold where the classes are mixed as in the photographs "
    "that the detector was calibrated on."
)
_UNCALIBRATED = (
    "The probabilities are not calibrated, so that one near 0 or 1 does not mean that the detector "
    "is likely to be right: calibrate it by sklearn.calibration.CalibratedClassifierCV."
)
_OF_GROUPS = (
    "The probability of a group combines those of its images. It ranks groups, but one near 0 or 1 "
    "does not mean that the detector is likely to be right, not even where the probabilities of "
    "images are calibrated."
)
_UNSURE = (
    " How often the answers outside of the band of {} to {} are wrong is known only if the band "
    "was chosen on such photographs{}, see sklearn_dfd.metrics.choose_unsure_band."
)


def is_calibrated(estimator: Any) -> bool:
    """Tell whether the probabilities come from a CalibratedClassifierCV.

    Only what passes probabilities on, or averages both mirror images, is looked into: an ensemble
    of calibrated classifiers need not be calibrated itself.

    Parameters
    ----------
    estimator : classifier
        A fitted detector.

    Returns
    -------
    calibrated : bool
        Whether they do.
    """
    while not isinstance(estimator, CalibratedClassifierCV):
        if isinstance(estimator, Pipeline):
            estimator = estimator.steps[-1][1]
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif isinstance(
            estimator,
            AugmentedClassifier | FixedThresholdClassifier | TunedThresholdClassifierCV,
        ):
            estimator = estimator.estimator_
        elif isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        else:
            return False
    return True


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
    if band is not None:
        note += _UNSURE.format(*map("{:.3g}".format, band), " in such groups" if by_group else "")
    return note


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
