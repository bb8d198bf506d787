"""Scores of image forensics that scikit-learn lacks, and confidence intervals for any score."""

from collections.abc import Callable, Iterator
from inspect import signature
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import get_scorer, make_scorer, roc_curve
from sklearn.utils import check_array, check_consistent_length, check_random_state
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import column_or_1d

from sklearn_dfd._core.answers import AGGREGATES, Aggregate
from sklearn_dfd._core.bootstrap import (
    Weighted,
    equal_error_rates,
    resampled,
    tprs_at_fpr,
    weighted_score,
    weighted_scores,
)
from sklearn_dfd._core.group_answers import GroupScorer
from sklearn_dfd._core.groups import check_groups
from sklearn_dfd._core.messages import warn_user
from sklearn_dfd._core.sklearn_private import Interval, StrOptions, validate_params
from sklearn_dfd._core.unsure_band import least_groups, lowest_threshold
from sklearn_dfd._core.validation import Label, resolve_pos_label

__all__ = [
    "GroupScorer",
    "bootstrap_interval",
    "choose_unsure_band",
    "equal_error_rate",
    "make_group_scorer",
    "make_neg_equal_error_rate_scorer",
    "make_tpr_at_fpr_scorer",
    "neg_equal_error_rate_scorer",
    "tpr_at_fpr",
    "tpr_at_fpr_scorer",
]

_CURVE_CONSTRAINTS = {
    "y_true": ["array-like"],
    "y_score": ["array-like"],
    "pos_label": [Real, str, "boolean", None],
    "sample_weight": ["array-like", None],
}


@validate_params(_CURVE_CONSTRAINTS, prefer_skip_nested_validation=True)
def equal_error_rate(
    y_true: npt.ArrayLike,
    y_score: npt.ArrayLike,
    *,
    pos_label: Label | None = None,
    sample_weight: npt.ArrayLike | None = None,
) -> float:
    """Error rate at the threshold where both kinds of error are equally frequent.

    At this threshold the false positive rate equals the false negative rate. The best value is 0,
    and guessing gives 0.5. It sums up the whole ROC curve in one number that does not depend on
    how frequent the classes are.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Labels of two classes, of any type.

    y_score : array-like of shape (n_samples,)
        Scores of the positive class: probabilities or the decision function.

    pos_label : int, float, bool or str, default=None
        The positive class. None means 1 or True if the labels are 0 and 1, -1 and 1, or booleans,
        as in scikit-learn. With any other labels it must be given.

    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the samples.

    Returns
    -------
    eer : float
        The rate, from 0 to 1. It is NaN, with an ``UndefinedMetricWarning``, where ``y_true``
        holds one class only.

    Raises
    ------
    ValueError
        If ``y_true`` holds more than two classes, ``pos_label`` is not one of them or is needed
        and missing, lengths differ, or scores are NaN or infinite.

    See Also
    --------
    tpr_at_fpr : Share of positives found at a low false positive rate.
    make_neg_equal_error_rate_scorer : Makes a scorer of its negative, for ``scoring=``.

    Notes
    -----
    With few samples no threshold makes the two rates exactly equal. The ROC curve is therefore
    taken as straight between its points, as it is for the area under it. Samples of equal score
    form one step of the curve, so their order does not matter.

    Examples
    --------
    >>> from sklearn_dfd.metrics import equal_error_rate
    >>> equal_error_rate([0, 0, 0, 0, 1, 1, 1, 1], [0.1, 0.2, 0.3, 0.6, 0.5, 0.7, 0.8, 0.9])
    0.25
    """
    call = (
        "equal_error_rate(y_true, y_score, {0}) or scoring=make_neg_equal_error_rate_scorer({0})."
    )
    fpr, tpr = _roc(y_true, y_score, pos_label, sample_weight, call)
    # fpr - fnr grows from -1 to 1 along the curve, as each point adds to at least one of the two
    return float(np.interp(0, fpr + tpr - 1, fpr))


@validate_params(
    _CURVE_CONSTRAINTS | {"max_fpr": [Interval(Real, 0, 1, closed="both")]},
    prefer_skip_nested_validation=True,
)
def tpr_at_fpr(
    y_true: npt.ArrayLike,
    y_score: npt.ArrayLike,
    *,
    max_fpr: float = 0.01,
    pos_label: Label | None = None,
    sample_weight: npt.ArrayLike | None = None,
) -> float:
    """Share of positives found at a threshold that keeps false alarms rare.

    This is the highest true positive rate among all thresholds whose false positive rate is at
    most ``max_fpr``. In biometrics it is called the TAR at a given FAR.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Labels of two classes, of any type.

    y_score : array-like of shape (n_samples,)
        Scores of the positive class: probabilities or the decision function.

    max_fpr : float, default=0.01
        The largest share of negatives that may be called positive.

    pos_label : int, float, bool or str, default=None
        The positive class. None means 1 or True if the labels are 0 and 1, -1 and 1, or booleans,
        as in scikit-learn. With any other labels it must be given.

    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the samples.

    Returns
    -------
    tpr : float
        The rate, from 0 to 1. It is NaN, with an ``UndefinedMetricWarning``, where ``y_true``
        holds one class only.

    Raises
    ------
    ValueError
        If ``y_true`` holds more than two classes, ``pos_label`` is not one of them or is needed
        and missing, lengths differ, or scores are NaN or infinite.

    See Also
    --------
    equal_error_rate : Error rate where both kinds of error are equally frequent.
    make_tpr_at_fpr_scorer : Makes a scorer of this rate, for ``scoring=``.

    Notes
    -----
    Nothing is interpolated: there is a threshold that attains the rate. With fewer than
    ``1 / max_fpr`` negatives, no false alarm is allowed at all, so the rate is the share of
    positives above every negative. It then varies a lot from sample to sample, which
    :func:`bootstrap_interval` shows.

    Examples
    --------
    >>> from sklearn_dfd.metrics import tpr_at_fpr
    >>> y_true = [0, 0, 0, 0, 1, 1, 1, 1]
    >>> y_score = [0.1, 0.2, 0.3, 0.8, 0.5, 0.7, 0.8, 0.9]
    >>> tpr_at_fpr(y_true, y_score), tpr_at_fpr(y_true, y_score, max_fpr=0.25)
    (0.25, 1.0)
    """
    call = "tpr_at_fpr(y_true, y_score, {0}) or scoring=make_tpr_at_fpr_scorer({0})."
    fpr, tpr = _roc(y_true, y_score, pos_label, sample_weight, call)
    if np.isnan(tpr[-1] + fpr[-1]):
        return float("nan")
    return float(tpr[fpr <= max_fpr][-1])


def _roc(
    y_true: npt.ArrayLike,
    y_score: npt.ArrayLike,
    pos_label: Label | None,
    sample_weight: npt.ArrayLike | None,
    call: str,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return all points of the ROC curve; NaN, after scikit-learn's warning, for one class."""
    y_type = type_of_target(y_true, input_name="y_true")
    if y_type != "binary":
        raise ValueError(f"{y_type} format is not supported: y_true must hold two classes.")
    labels = np.unique(y_true)
    if not len(labels):
        raise ValueError("y_true holds no samples.")
    if pos_label is None or len(labels) == 2:
        pos_label = resolve_pos_label(pos_label, labels, call)
    fpr, tpr, _ = roc_curve(
        y_true, y_score, pos_label=pos_label, sample_weight=sample_weight, drop_intermediate=False
    )
    return fpr, tpr


_RESPONSE = ("decision_function", "predict_proba")


@validate_params({"pos_label": [Real, str, "boolean", None]}, prefer_skip_nested_validation=True)
def make_neg_equal_error_rate_scorer(*, pos_label: Label | None = None) -> Callable[..., float]:
    """Make a scorer of minus :func:`equal_error_rate`, so that greater is better.

    Parameters
    ----------
    pos_label : int, float, bool or str, default=None
        The positive class. None means 1 or True if the labels are 0 and 1, -1 and 1, or booleans,
        as in scikit-learn. With any other labels it must be given.

    Returns
    -------
    scorer : callable
        Scorer for ``scoring=`` of cross-validation and searches, called as
        ``scorer(estimator, X, y)``.

    See Also
    --------
    make_tpr_at_fpr_scorer : Scorer of the share of positives found at a low false positive rate.

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn_dfd.metrics import make_neg_equal_error_rate_scorer
    >>> X, y = make_classification(random_state=0)
    >>> labels = ["fake" if label else "real" for label in y]
    >>> scorer = make_neg_equal_error_rate_scorer(pos_label="fake")
    >>> bool((cross_val_score(LogisticRegression(), X, labels, scoring=scorer) > -0.5).all())
    True
    """
    return make_scorer(
        equal_error_rate, greater_is_better=False, response_method=_RESPONSE, pos_label=pos_label
    )


@validate_params(
    {
        "max_fpr": [Interval(Real, 0, 1, closed="both")],
        "pos_label": [Real, str, "boolean", None],
    },
    prefer_skip_nested_validation=True,
)
def make_tpr_at_fpr_scorer(
    *, max_fpr: float = 0.01, pos_label: Label | None = None
) -> Callable[..., float]:
    """Make a scorer of :func:`tpr_at_fpr`.

    Parameters
    ----------
    max_fpr : float, default=0.01
        The largest share of negatives that may be called positive.

    pos_label : int, float, bool or str, default=None
        The positive class. None means 1 or True if the labels are 0 and 1, -1 and 1, or booleans,
        as in scikit-learn. With any other labels it must be given.

    Returns
    -------
    scorer : callable
        Scorer for ``scoring=`` of cross-validation and searches, called as
        ``scorer(estimator, X, y)``.

    See Also
    --------
    make_neg_equal_error_rate_scorer : Scorer of the equal error rate.

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn_dfd.metrics import make_tpr_at_fpr_scorer
    >>> X, y = make_classification(random_state=0)
    >>> labels = ["fake" if label else "real" for label in y]
    >>> scorer = make_tpr_at_fpr_scorer(max_fpr=0.1, pos_label="fake")
    >>> cross_val_score(LogisticRegression(), X, labels, scoring=scorer).shape
    (5,)
    """
    return make_scorer(tpr_at_fpr, response_method=_RESPONSE, max_fpr=max_fpr, pos_label=pos_label)


@validate_params(
    {
        "scoring": [str, callable],
        "pos_label": [Real, str, "boolean", None],
        "aggregate": [StrOptions(set(AGGREGATES))],
    },
    prefer_skip_nested_validation=True,
)
def make_group_scorer(
    scoring: str | Callable[..., float],
    *,
    pos_label: Label | None = None,
    aggregate: Aggregate = "mean_log_odds",
) -> GroupScorer:
    """Make a scorer of one answer per group, such as a film or the photographs of one person.

    The probabilities of a group's images are combined as :func:`~sklearn_dfd.detect` combines
    them, and the result is scored as if each group were one image.

    Parameters
    ----------
    scoring : str or callable
        The name of any scorer of scikit-learn for classifiers, such as ``"roc_auc"``,
        ``"balanced_accuracy"`` or ``"neg_log_loss"``, or a scorer that is called as
        ``scorer(estimator, X, y)``, such as one of :func:`make_tpr_at_fpr_scorer`.

    pos_label : int, float, bool or str, default=None
        The positive class, out of two. The scorer then sees it as label 1 and the other class as
        label 0, so that a scorer by name can be used with labels such as "fake" and "real". None
        leaves the labels as they are.

    aggregate : {"mean_log_odds", "median"}, default="mean_log_odds"
        How the probabilities of a group are combined; see :func:`~sklearn_dfd.detect`.

    Returns
    -------
    scorer : GroupScorer
        Scorer for ``scoring=`` of cross-validation and searches. It needs the groups, which
        scikit-learn passes on where metadata routing is enabled, as in the example. A classifier
        whose ``fit`` takes groups must then say whether it requests them, for example with
        ``pipe["classifier"].set_fit_request(groups=True)``. Without routing, call
        ``scorer(estimator, X, y, groups=groups)``.

    Raises
    ------
    ValueError
        If there is no scorer of that name, or if ``scoring`` is a metric, which compares labels
        with scores, rather than a scorer. Scoring raises a ValueError if the groups are missing,
        or if images of one group have different labels.

    See Also
    --------
    sklearn_dfd.detect : Gives one answer per group for new images.

    Notes
    -----
    The label of a group is the more probable class, or the class that the threshold of a
    :class:`sklearn.model_selection.TunedThresholdClassifierCV` or
    :class:`sklearn.model_selection.FixedThresholdClassifier` gives for the combined probability.

    Examples
    --------
    >>> import sklearn
    >>> from sklearn.model_selection import StratifiedGroupKFold, cross_validate
    >>> from sklearn_dfd import make_deepfake_pipeline
    >>> from sklearn_dfd.datasets import make_spliced_photos
    >>> from sklearn_dfd.metrics import make_group_scorer
    >>> photos = make_spliced_photos(40, random_state=0)
    >>> y = photos.target_names[photos.target]
    >>> films = [f"{group} {label}" for group, label in zip(photos.groups, y)]
    >>> pipe = make_deepfake_pipeline(preset="fast", weights=None, image_size=64)
    >>> by_film = make_group_scorer("roc_auc", pos_label="spliced")
    >>> with sklearn.config_context(enable_metadata_routing=True):
    ...     scores = cross_validate(
    ...         pipe, photos.data, y, params={"groups": films},
    ...         cv=StratifiedGroupKFold(2), scoring={"film": by_film, "frame": "roc_auc"},
    ...     )
    >>> scores["test_film"].shape, scores["test_frame"].shape
    ((2,), (2,))
    """
    if isinstance(scoring, str):
        get_scorer(scoring)  # whether there is one
    elif next(iter(signature(scoring).parameters), None) == "y_true":
        name = getattr(scoring, "__name__", repr(scoring))
        raise ValueError(
            f"{name} is a metric, and a scorer is needed: pass the name of one, or make one with "
            f"sklearn.metrics.make_scorer({name}, response_method=...)."
        )
    return GroupScorer(scoring, pos_label, aggregate)


@validate_params(
    {
        "y_true": ["array-like"],
        "y_proba": ["array-like"],
        "max_error": [Interval(Real, 0, 1, closed="neither")],
        "confidence_level": [Interval(Real, 0, 1, closed="neither")],
        "pos_label": [Real, str, "boolean", None],
        "groups": ["array-like", None],
    },
    prefer_skip_nested_validation=True,
)
def choose_unsure_band(
    y_true: npt.ArrayLike,
    y_proba: npt.ArrayLike,
    *,
    max_error: float = 0.05,
    confidence_level: float = 0.95,
    pos_label: Label | None = None,
    groups: npt.ArrayLike | None = None,
) -> tuple[tuple[float, float], float]:
    """Choose the band of probabilities to answer "not sure" in, for a target error rate.

    The band is as narrow as can be shown to keep both other answers reliable: at most a share of
    ``max_error`` of the photographs that are called positive are negative, and at most the same
    share of those that are called negative are positive.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Labels of two classes, of any type, of photographs that neither the detector nor its
        calibration has seen.

    y_proba : array-like of shape (n_samples,)
        The detector's probabilities of the positive class. They need not be calibrated: only their
        order counts. For answers on films, these are the probabilities of films, from
        :func:`~sklearn_dfd.detect` with groups, and ``y_true`` has one label per film.

    max_error : float, default=0.05
        The largest share of wrong answers among the photographs that are called positive, and
        among those that are called negative.

    confidence_level : float, default=0.95
        Probability, over calibration sets like this one, that both shares are at most
        ``max_error``.

    pos_label : int, float, bool or str, default=None
        The positive class. None means 1 or True if the labels are 0 and 1, -1 and 1, or booleans,
        as in scikit-learn. With any other labels it must be given.

    groups : array-like of shape (n_samples,), default=None
        The group of each photograph, such as a photograph and its edits. Groups are then counted
        instead of photographs: among the groups in which a photograph is called positive, the share
        in which one of those photographs is negative, and likewise for the other answer. None
        treats all photographs as independent.

    Returns
    -------
    band : tuple of two floats
        ``(low, high)`` for ``detect(..., unsure=band)``. Photographs are called negative at a
        probability of ``low`` or below, and positive at ``high`` or above. ``low`` is -inf, or
        ``high`` inf, if that answer cannot be given at all.

    answered : float
        The share of the photographs passed that lie outside the band.

    Raises
    ------
    ValueError
        If neither answer can be given, ``y_true`` does not hold two classes, ``pos_label`` is not
        one of them or is needed and missing, probabilities are not finite, or lengths differ.

    Warns
    -----
    UserWarning
        If one of the two answers cannot be given at all.

    See Also
    --------
    sklearn_dfd.detect : Takes the band as ``unsure``.

    Notes
    -----
    Thresholds are tested from the strictest to the most lenient, with binomial tests, and the last
    that passes is taken, as in Learn Then Test [1]_. With probability ``confidence_level``, both
    shares are then at most ``max_error``, under two conditions. First, the photographs to be judged
    come, group by group, from the same source as these, with the same mix of classes: where fakes
    are rarer, more of the photographs called fake are real. Second, answers at a higher probability
    are no less often right. No band says anything about generators, cameras or edits that are not
    among these photographs.

    The number of groups limits what can be shown: without a single mistake, it takes 86 groups that
    get the same answer to show an error of at most 5 % with the default confidence, and 42 groups
    for 10 %.

    References
    ----------
    .. [1] A. N. Angelopoulos, S. Bates, E. J. Candès, M. I. Jordan, L. Lei (2021). Learn then
       Test: Calibrating Predictive Algorithms to Achieve Risk Control. arXiv:2110.01052.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_dfd.metrics import choose_unsure_band
    >>> rng = np.random.default_rng(0)
    >>> y_true = rng.integers(0, 2, 1000)
    >>> y_proba = 1 / (1 + np.exp(-rng.normal(4 * y_true - 2, 2)))
    >>> (low, high), answered = choose_unsure_band(y_true, y_proba)
    >>> print(f"not sure between {low:.2f} and {high:.2f}; answered: {answered:.0%}")
    not sure between 0.06 and 0.98; answered: 28%
    """
    truth: npt.NDArray[Any] = column_or_1d(y_true)
    score = check_array(y_proba, ensure_2d=False, dtype=np.float64, input_name="y_proba")
    if score.ndim != 1:
        raise ValueError(
            f"y_proba is an array of shape {score.shape}: pass the column of the positive class."
        )
    check_consistent_length(truth, score)
    labels = np.unique(truth)
    if len(labels) != 2:
        raise ValueError(f"y_true holds the labels {labels.tolist()}: two classes are needed.")
    positive = truth == resolve_pos_label(pos_label, labels, "choose_unsure_band(y, p, {}).")
    codes = np.arange(len(score))
    if groups is not None:
        codes = np.unique(check_groups(groups, len(score), "samples"), return_inverse=True)[1]
    level = (1 - confidence_level) / 2
    high = lowest_threshold(score, ~positive, codes, max_error, level)
    low = -lowest_threshold(-score, positive, codes, max_error, level)
    missing = ["positive"] * (high == np.inf) + ["negative"] * (low == -np.inf)
    if missing:
        message = (
            f"No threshold was shown to keep the error of {' and of '.join(missing)} answers at "
            f"{max_error:g} or less with confidence {confidence_level:g}: this takes "
            f"{least_groups(max_error, level)} groups with such an answer and no mistake, or more "
            f"groups with few mistakes, and there are {codes.max() + 1} groups in all."
        )
        if len(missing) == 2:
            raise ValueError(message + " Pass more photographs, or raise max_error.")
        warn_user(message + " That answer will not be given.")
    if low >= high:  # everything can be answered
        low = high = min(max(0.5, high), low)
    return (low, high), float(np.mean((score <= low) | (score >= high)))


#: Scorer for ``scoring=`` of minus :func:`equal_error_rate`, for the labels 0 and 1, -1 and 1, or
#: booleans. With other labels use :func:`make_neg_equal_error_rate_scorer`.
neg_equal_error_rate_scorer = make_neg_equal_error_rate_scorer()

#: Scorer for ``scoring=`` of :func:`tpr_at_fpr` at a false positive rate of at most 1 %, for the
#: labels 0 and 1, -1 and 1, or booleans. With other labels use :func:`make_tpr_at_fpr_scorer`.
tpr_at_fpr_scorer = make_tpr_at_fpr_scorer()


@validate_params(
    {
        "metric": [callable],
        "y_true": ["array-like"],
        "y_score": ["array-like"],
        "groups": ["array-like", None],
        "folds": ["array-like", None],
        "n_resamples": [Interval(Integral, 1, None, closed="left")],
        "confidence_level": [Interval(Real, 0, 1, closed="neither")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def bootstrap_interval(
    metric: Callable[[Any, Any], float],
    y_true: npt.ArrayLike,
    y_score: npt.ArrayLike,
    *,
    groups: npt.ArrayLike | None = None,
    folds: npt.ArrayLike | None = None,
    n_resamples: int = 1000,
    confidence_level: float = 0.95,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[float, float]:
    """Confidence interval of a score, by resampling whole groups.

    The interval shows how much the score would vary with other test photographs. Photographs of one
    group are not independent, so groups are drawn as a whole, with replacement [1]_. The ends of
    the interval are percentiles of the scores of all resamples.

    Parameters
    ----------
    metric : callable
        The score: ``metric(y_true, y_score)`` returns a number, as
        :func:`sklearn.metrics.roc_auc_score` does. To pass a ``pos_label``, use
        ``functools.partial(metric, pos_label=...)``.

    y_true : array-like of shape (n_samples,)
        The true labels.

    y_score : array-like of shape (n_samples,) or (n_samples, n_classes)
        What ``metric`` compares the labels with: scores or predicted labels.

    groups : array-like of shape (n_samples,), default=None
        The group of each sample, as in :class:`sklearn.model_selection.GroupKFold`. None treats
        all samples as independent.

    folds : array-like of shape (n_samples,), default=None
        The fold of a cross-validation in which each sample was tested. The interval is then that
        of the mean score over the folds, as :func:`sklearn.model_selection.cross_val_score` gives
        it, and groups are resampled within their fold. None scores all samples together, which
        lowers a ROC AUC where the detectors of the folds are not equally confident.

    n_resamples : int, default=1000
        Number of resamples. A resample that happens to hold only one of several classes is drawn
        again, since most scores are not defined for it.

    confidence_level : float, default=0.95
        Share of the resamples whose scores lie within the interval.

    random_state : int, RandomState instance or None, default=None
        Seed of the resampling. An int gives the same resamples in every call, so that the
        intervals of several scores can be compared.

    Returns
    -------
    low, high : float
        The ends of the interval. They are NaN if the metric is NaN for a resample.

    Raises
    ------
    ValueError
        If lengths differ, a group label is missing, all samples or all samples of a fold form one
        group, so that there is nothing to resample, or a group occurs in two folds.

    See Also
    --------
    scipy.stats.bootstrap : Other bootstrap intervals, for independent samples.

    Notes
    -----
    The ROC AUC, the accuracy and the two scores of this module are computed for all resamples
    at once; any other metric is called for each.

    The detector is taken as given: the interval does not include the variation between detectors
    trained on other training sets. Scores from cross-validation, as below, come from several
    detectors and are treated as if they came from one.

    References
    ----------
    .. [1] A. C. Davison, D. V. Hinkley (1997). Bootstrap Methods and their Application, section
       3.8. Cambridge University Press.

    Examples
    --------
    >>> from sklearn.metrics import roc_auc_score
    >>> from sklearn.model_selection import GroupKFold, cross_val_predict
    >>> from sklearn_dfd import make_deepfake_pipeline
    >>> from sklearn_dfd.datasets import make_spliced_photos
    >>> from sklearn_dfd.metrics import bootstrap_interval
    >>> photos = make_spliced_photos(60, random_state=0)
    >>> pipe = make_deepfake_pipeline(weights=None, image_size=64, max_epochs=1, random_state=0)
    >>> probability = cross_val_predict(
    ...     pipe, photos.data, photos.target, groups=photos.groups, cv=GroupKFold(2),
    ...     method="predict_proba",
    ... )[:, 1]
    >>> low, high = bootstrap_interval(
    ...     roc_auc_score, photos.target, probability, groups=photos.groups, random_state=0
    ... )
    >>> low < roc_auc_score(photos.target, probability) < high
    True
    """
    y_true, y_score = np.asarray(y_true), np.asarray(y_score)
    check_consistent_length(y_true, y_score, folds)
    if not len(y_true):
        raise ValueError("y_true holds no samples.")
    codes = np.arange(len(y_true))
    if groups is not None:
        labels = check_groups(groups, len(y_true), "samples")
        codes = np.unique(labels, return_inverse=True)[1]
    fold_of = np.zeros(len(y_true), dtype=int)
    if folds is not None:
        fold_of = check_groups(folds, len(y_true), "samples", name="folds")
    parts = []
    for fold in np.unique(fold_of):
        inside = np.flatnonzero(fold_of == fold)
        if len(np.unique(codes[inside])) < 2:
            where = "" if folds is None else f" of fold {fold}"
            raise ValueError(
                f"All {len(inside)} samples{where} are one group: an interval needs several "
                "groups, and a useful one needs dozens."
            )
        if np.isin(codes[inside], codes[fold_of != fold]).any():
            raise ValueError(
                f"A group of fold {fold} is in another fold too, so its detector was trained on "
                "photographs related to those it was tested on: split by group."
            )
        order = inside[np.argsort(codes[inside], kind="stable")]
        parts.append(np.split(order, np.flatnonzero(np.diff(codes[order])) + 1))
    draws = resampled(parts, y_true, n_resamples, check_random_state(random_state))
    scores = _scores(metric, y_true, y_score, parts, draws)
    tail = (1 - confidence_level) / 2
    low, high = np.quantile(scores, [tail, 1 - tail])
    return float(low), float(high)


def _scores(
    metric: Callable[[Any, Any], float],
    y_true: npt.NDArray[Any],
    y_score: npt.NDArray[Any],
    parts: list[list[npt.NDArray[np.intp]]],
    draws: Iterator[list[npt.NDArray[np.intp]]],
) -> npt.NDArray[np.float64]:
    """Score each draw of groups: the mean over the parts, which are folds."""
    by_weights = [_by_weights(metric, y_true, y_score, np.concatenate(part)) for part in parts]
    known = [score for score in by_weights if score is not None]
    if len(known) == len(parts):
        of_parts = zip(known, parts, zip(*draws, strict=True), strict=True)
        return np.mean([weighted_scores(*each) for each in of_parts], axis=0)
    scores = []
    for each in draws:
        drawn = zip(parts, each, strict=True)
        rows = [np.concatenate([part[group] for group in groups]) for part, groups in drawn]
        scores.append(np.mean([metric(y_true[some], y_score[some]) for some in rows]))
    return np.array(scores)


def _by_weights(
    metric: Callable[[Any, Any], float],
    y_true: npt.NDArray[Any],
    y_score: npt.NDArray[Any],
    rows: npt.NDArray[np.intp],
) -> Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]] | None:
    """Return the function of weights that equals a metric, if there is one, for some rows."""
    own: dict[Any, Weighted] = {equal_error_rate: equal_error_rates, tpr_at_fpr: tprs_at_fpr}
    score = weighted_score(metric, y_true[rows], y_score[rows], own)
    if score is not None:
        metric(y_true[rows], y_score[rows])  # for its checks, which the function of weights lacks
    return score
