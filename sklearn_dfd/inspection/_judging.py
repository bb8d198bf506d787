"""Images judged in chunks, those that cannot be used included, and combined by group."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from joblib import parallel_config
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.pipeline import Pipeline
from tqdm.auto import tqdm

from sklearn_dfd._core.answers import Aggregate, Rule, by_rule, combine, none_usable
from sklearn_dfd._core.group_answers import called_by, find_within, params_within
from sklearn_dfd._core.images.sources import describe
from sklearn_dfd.augmented_classifier import AugmentedClassifier
from sklearn_dfd.classifier import DeepFakeClassifier
from sklearn_dfd.exceptions import ImageError
from sklearn_dfd.features import MobileNetV2Features, image_errors_are_raised

_CHUNK = 128  # images whose features are in memory together


class Answers(NamedTuple):
    """The answers for images or groups.

    Attributes
    ----------
    probability : ndarray of shape (n_rows, n_classes)
        NaN where there is an error.
    called : ndarray of int, shape (n_rows,)
        Index in ``estimator.classes_``, or `UNSURE`; meaningless where there is an error.
    error : ndarray of str, shape (n_rows,)
        Empty for what can be used.
    """

    probability: npt.NDArray[np.float64]
    called: npt.NDArray[np.intp]
    error: npt.NDArray[np.object_]


def judge_images(estimator: BaseEstimator, images: Any, rule: Rule | None, verbose: int) -> Answers:
    """Judge images one by one, those that cannot be used included.

    Parameters
    ----------
    estimator : classifier
        The fitted detector.
    images : list or ndarray
        What `as_image_list` returns.
    rule : Rule or None
        The rule by which probabilities are called a class; None to use what the estimator predicts.
    verbose : int
        Whether to show a progress bar.

    Returns
    -------
    answers : Answers
        The answers for the images.
    """
    classes = np.asarray(estimator.classes_)
    probability = np.full((len(images), len(classes)), np.nan)
    called = np.zeros(len(images), dtype=np.intp)
    error = np.full(len(images), "", dtype=object)
    with (
        image_errors_are_raised(),
        _in_this_thread(estimator),
        tqdm(total=len(images), unit="image", disable=not verbose) as bar,
    ):
        for start in range(0, len(images), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(images)))
            while len(rows):
                part = [images[row] for row in rows.tolist()]
                try:
                    chunk = estimator.predict_proba(part)
                except ImageError as problem:
                    # Features computed so far are in memory, so continuing costs little.
                    positions, _, reasons = zip(*problem.failures, strict=True)
                    error[rows[list(positions)]] = reasons
                    rows = np.delete(rows, positions)
                    bar.update(len(positions))
                    continue
                probability[rows] = chunk
                if rule is not None:
                    # in the precision in which thresholds are chosen and groups are called
                    called[rows] = by_rule(probability[rows], rule)
                elif _calls_the_more_probable(estimator):
                    called[rows] = chunk.argmax(axis=1)
                else:
                    predicted = np.asarray(estimator.predict(part))
                    called[rows] = (predicted[:, np.newaxis] == classes).argmax(axis=1)
                bar.update(len(rows))
                break
    return Answers(probability, called, error)


def _in_this_thread(estimator: BaseEstimator) -> AbstractContextManager[Any]:
    """Keep joblib from giving images to workers, which would not raise their errors."""
    params = params_within(estimator)
    owners = {"": estimator, **params}
    forgiving = parallel = False
    for name, value in params.items():
        owner, _, name = name.rpartition("__")
        forgiving |= name in ("on_error", "on_missing") and value == "nan"
        # the threads of MobileNetV2Features hand their errors on
        by = owners.get(owner)
        runs = hasattr(by, "transform") and not isinstance(by, MobileNetV2Features)
        parallel |= name == "n_jobs" and runs
    return parallel_config("sequential") if forgiving and parallel else nullcontext()


def judge_groups(
    estimator: BaseEstimator,
    images: Any,
    each: Answers,
    codes: npt.NDArray[np.intp],
    aggregate: Aggregate,
    rule: Rule | None,
) -> Answers:
    """Combine answers on images to one answer per group.

    Parameters
    ----------
    estimator : classifier
        The fitted detector.
    images : list or ndarray
        The images, for messages.
    each : Answers
        The answers for the images.
    codes : ndarray of int, shape (n_images,)
        Group of each image, numbered from 0 without gaps.
    aggregate : {"mean_log_odds", "median"}
        How probabilities are combined.
    rule : Rule or None
        As in `judge_images`; None to use the class that the estimator would call an image with the
        combined probability.

    Returns
    -------
    answers : Answers
        The answers for the groups.
    """
    classes = np.asarray(estimator.classes_)
    n_groups = len(np.unique(codes))
    answers = Answers(
        np.full((n_groups, len(classes)), np.nan),
        np.zeros(n_groups, dtype=np.intp),
        np.full(n_groups, "", dtype=object),
    )
    usable = each.error == ""
    judged, codes_of_usable = np.unique(codes[usable], return_inverse=True)
    probability = combine(each.probability[usable], codes_of_usable, aggregate)
    answers.probability[judged] = probability
    if rule is not None:
        answers.called[judged] = by_rule(probability, rule)
    else:
        labels = called_by(estimator, probability)
        answers.called[judged] = (labels[:, np.newaxis] == classes).argmax(axis=1)
    n_images = np.bincount(codes, minlength=n_groups)
    first = np.unique(codes, return_index=True)[1]
    for group in np.setdiff1d(np.arange(n_groups), judged).tolist():
        name = describe(images[first[group]])
        answers.error[group] = none_usable(n_images[group], name, each.error[first[group]])
    return answers


def _calls_the_more_probable(estimator: BaseEstimator) -> bool:
    """Return whether ``predict``, which reads all images again, is known to give the same class."""
    while isinstance(estimator, Pipeline):
        estimator = estimator[-1]
    return isinstance(estimator, AugmentedClassifier | DeepFakeClassifier)


def is_calibrated(estimator: Any) -> bool:
    """Return whether the probabilities come from a CalibratedClassifierCV.

    Only estimators that pass probabilities on, or average over mirror images, are looked into: an
    ensemble of calibrated classifiers need not be calibrated itself.

    Parameters
    ----------
    estimator : classifier
        A fitted detector.

    Returns
    -------
    calibrated : bool
        True if they do.
    """
    through = (AugmentedClassifier, FixedThresholdClassifier, TunedThresholdClassifierCV)
    return find_within(estimator, CalibratedClassifierCV, through) is not None


def count_in_groups(
    each: Answers, codes: npt.NDArray[np.intp], n_groups: int, called: dict[str, int]
) -> dict[str, npt.NDArray[Any]]:
    """Return columns of shares and numbers of images in groups.

    Parameters
    ----------
    each : Answers
        The answers for the images.
    codes : ndarray of int, shape (n_images,)
        Group of each image.
    n_groups : int
        Number of groups.
    called : dict of str to int
        The class of each column of shares, by its name.

    Returns
    -------
    columns : dict of str to ndarray of shape (n_groups,)
        The shares, and then ``n_judged`` and ``n_not_judged``.
    """
    usable = each.error == ""
    n_judged = np.bincount(codes[usable], minlength=n_groups)
    columns: dict[str, npt.NDArray[Any]] = {}
    for name, column in called.items():
        n_called = np.bincount(codes[usable & (each.called == column)], minlength=n_groups)
        columns[name] = np.where(n_judged > 0, n_called / np.maximum(n_judged, 1), np.nan)
    columns["n_judged"] = n_judged.astype(np.int64)
    columns["n_not_judged"] = np.bincount(codes[~usable], minlength=n_groups).astype(np.int64)
    return columns
