"""The scores of forensics that scikit-learn lacks, and how far any score can be trusted."""

from numbers import Integral, Real

import numpy as np
from sklearn.metrics import make_scorer, roc_curve
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.multiclass import type_of_target

from sklearn_dfd._core.groups import check_groups
from sklearn_dfd._core.sklearn_private import Interval, validate_params

__all__ = [
    "bootstrap_interval",
    "equal_error_rate",
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
def equal_error_rate(y_true, y_score, *, pos_label=None, sample_weight=None):
    """Error rate at the threshold where both kinds of error are equally frequent.

    Where the false positive rate equals the false negative rate. 0 is best, 0.5 is guessing. It
    sums up the whole curve in one number, whatever the share of the classes.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Labels of two classes, of any type.

    y_score : array-like of shape (n_samples,)
        Scores of the positive class: probabilities or the decision function.

    pos_label : int, float, bool or str, default=None
        The positive class; None for the greater of the two labels, as in
        :func:`sklearn.metrics.roc_auc_score`.

    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the samples.

    Returns
    -------
    eer : float
        From 0 to 1; NaN, with an ``UndefinedMetricWarning``, where ``y_true`` holds one class.

    Raises
    ------
    ValueError
        For more than two classes, a ``pos_label`` that is neither of two, lengths that differ, or
        scores that are NaN or infinite.

    See Also
    --------
    tpr_at_fpr : Share of positives found at few false alarms.
    neg_equal_error_rate_scorer : Its negative, for ``scoring=``.

    Notes
    -----
    With few samples no threshold makes the two rates exactly equal. The ROC curve is therefore
    taken as straight between its points, as the area under it takes it. Samples of one score are
    one step of the curve, so that their order does not matter.

    Examples
    --------
    >>> from sklearn_dfd.metrics import equal_error_rate
    >>> equal_error_rate([0, 0, 0, 0, 1, 1, 1, 1], [0.1, 0.2, 0.3, 0.6, 0.5, 0.7, 0.8, 0.9])
    0.25
    """
    fpr, tpr = _roc(y_true, y_score, pos_label, sample_weight)
    # fpr minus fnr grows from -1 to 1 along the curve: each point adds to at least one of the two
    return float(np.interp(0, fpr + tpr - 1, fpr))


@validate_params(
    {**_CURVE_CONSTRAINTS, "max_fpr": [Interval(Real, 0, 1, closed="both")]},
    prefer_skip_nested_validation=True,
)
def tpr_at_fpr(y_true, y_score, *, max_fpr=0.01, pos_label=None, sample_weight=None):
    """Share of positives found at a threshold that keeps false alarms rare.

    The highest true positive rate of all thresholds at which the false positive rate is at most
    ``max_fpr``. Biometrics calls it TAR at a FAR.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Labels of two classes, of any type.

    y_score : array-like of shape (n_samples,)
        Scores of the positive class: probabilities or the decision function.

    max_fpr : float, default=0.01
        The largest share of negatives that may be called positive.

    pos_label : int, float, bool or str, default=None
        The positive class; None for the greater of the two labels, as in
        :func:`sklearn.metrics.roc_auc_score`.

    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the samples.

    Returns
    -------
    tpr : float
        From 0 to 1; NaN, with an ``UndefinedMetricWarning``, where ``y_true`` holds one class.

    Raises
    ------
    ValueError
        For more than two classes, a ``pos_label`` that is neither of two, lengths that differ, or
        scores that are NaN or infinite.

    See Also
    --------
    equal_error_rate : Where both kinds of error are equally frequent.
    tpr_at_fpr_scorer : For ``scoring=``, at 1 %.

    Notes
    -----
    Nothing is interpolated: there is a threshold that does what the number says. With fewer than
    ``1 / max_fpr`` negatives it is therefore the share of positives above all negatives, which
    changes much from sample to sample: look at :func:`bootstrap_interval`.

    Examples
    --------
    >>> from sklearn_dfd.metrics import tpr_at_fpr
    >>> y_true = [0, 0, 0, 0, 1, 1, 1, 1]
    >>> y_score = [0.1, 0.2, 0.3, 0.8, 0.5, 0.7, 0.8, 0.9]
    >>> tpr_at_fpr(y_true, y_score), tpr_at_fpr(y_true, y_score, max_fpr=0.25)
    (0.25, 1.0)

    At another rate in a search or a cross-validation:

    >>> from sklearn.metrics import make_scorer
    >>> scorer = make_scorer(
    ...     tpr_at_fpr, max_fpr=0.1, response_method=("decision_function", "predict_proba")
    ... )
    """
    fpr, tpr = _roc(y_true, y_score, pos_label, sample_weight)
    if np.isnan(tpr[-1] + fpr[-1]):
        return float("nan")
    return float(tpr[fpr <= max_fpr][-1])


def _roc(y_true, y_score, pos_label, sample_weight):
    """All points of the ROC curve; NaN, after scikit-learn's warning, where one class is there."""
    y_type = type_of_target(y_true, input_name="y_true")
    if y_type != "binary":
        raise ValueError(f"{y_type} format is not supported: y_true must hold two classes.")
    labels = np.unique(y_true)
    if not len(labels):
        raise ValueError("y_true holds no samples.")
    if pos_label is None:
        pos_label = labels[-1]
    elif len(labels) == 2 and pos_label not in labels.tolist():
        pos_label = np.asarray(pos_label).tolist()
        raise ValueError(f"pos_label={pos_label!r} is not a label of y_true: {labels.tolist()}.")
    fpr, tpr, _ = roc_curve(
        y_true, y_score, pos_label=pos_label, sample_weight=sample_weight, drop_intermediate=False
    )
    return fpr, tpr


_RESPONSE = ("decision_function", "predict_proba")

#: Scorer for ``scoring=`` of minus :func:`equal_error_rate`, so that greater is better.
neg_equal_error_rate_scorer = make_scorer(
    equal_error_rate, greater_is_better=False, response_method=_RESPONSE
)

#: Scorer for ``scoring=`` of :func:`tpr_at_fpr` at a false positive rate of at most 1 %.
tpr_at_fpr_scorer = make_scorer(tpr_at_fpr, response_method=_RESPONSE)


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
    metric,
    y_true,
    y_score,
    *,
    groups=None,
    folds=None,
    n_resamples=1000,
    confidence_level=0.95,
    random_state=None,
):
    """Confidence interval of a score, by resampling whole groups.

    Says how much the score would change with other test photographs. Photographs of one group are
    not independent: they are drawn together, with replacement [1]_, and the interval is that
    between the percentiles of the scores of all resamples.

    Parameters
    ----------
    metric : callable
        ``metric(y_true, y_score)`` gives a number, as :func:`sklearn.metrics.roc_auc_score`.

    y_true : array-like of shape (n_samples,)
        Labels.

    y_score : array-like of shape (n_samples,) or (n_samples, n_classes)
        What ``metric`` compares them with: scores, or predicted labels.

    groups : array-like of shape (n_samples,), default=None
        What belongs together, as in :class:`sklearn.model_selection.GroupKFold`. None if all
        samples are independent.

    folds : array-like of shape (n_samples,), default=None
        The fold of a cross-validation in which each sample was tested. The interval is then that of
        the mean of the folds' scores, as of :func:`sklearn.model_selection.cross_val_score`, and
        groups are resampled within their fold. None takes the scores of all samples together, which
        a ROC AUC pays for where the detectors of the folds are not equally sure.

    n_resamples : int, default=1000
        Number of resamples. A resample that happens to hold one class only, of several, is drawn
        again, since most scores are not defined on it.

    confidence_level : float, default=0.95
        Share of the resamples whose scores lie in the interval.

    random_state : int, RandomState instance or None, default=None
        Pass an int for the same resamples in every call: also of another score, to compare with.

    Returns
    -------
    low, high : float
        Ends of the interval. NaN if the metric is NaN on a resample.

    Raises
    ------
    ValueError
        If lengths differ, a group is missing, there is one group only, or one in a fold, of which
        nothing can be concluded, or a group is in two folds.

    See Also
    --------
    scipy.stats.bootstrap : Other intervals, of samples that are independent.

    Notes
    -----
    The detector stays as it is: that another training set would have given another one is not in
    the interval. With scores from cross-validation, as below, those of several detectors are taken
    together as if they were of one.

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
        raise ValueError("y_true holds no samples: there is nothing to be sure of.")
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
                "groups, and a useful one dozens."
            )
        if np.isin(codes[inside], codes[fold_of != fold]).any():
            raise ValueError(
                f"A group of fold {fold} is in another fold too: its detector was trained on what "
                "it was tested on. Split by group."
            )
        order = inside[np.argsort(codes[inside], kind="stable")]
        parts.append(np.split(order, np.flatnonzero(np.diff(codes[order])) + 1))
    rng = check_random_state(random_state)
    scores = []
    for _ in range(n_resamples):
        drawn = [_resample(rows_of, y_true, rng) for rows_of in parts]
        scores.append(np.mean([metric(y_true[rows], y_score[rows]) for rows in drawn]))
    tail = (1 - confidence_level) / 2
    low, high = np.quantile(scores, [tail, 1 - tail])
    return float(low), float(high)


def _resample(rows_of, y_true, rng):
    """Draw as many groups as there are; again, where of several classes only one is left."""
    several_classes = len(np.unique(y_true[np.concatenate(rows_of)])) > 1
    while True:
        drawn = rng.randint(len(rows_of), size=len(rows_of))
        rows = np.concatenate([rows_of[group] for group in drawn])
        if not several_classes or (y_true[rows] != y_true[rows[0]]).any():
            return rows
