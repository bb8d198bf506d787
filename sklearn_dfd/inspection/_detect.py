"""A fitted detector applied to any images: one row per image or group, unusable ones included."""

import os
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL.ImageFile import ImageFile
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from sklearn_dfd._core.answers import (
    AGGREGATES,
    UNSURE,
    Aggregate,
    note_on,
    number_groups,
    reading_of,
)
from sklearn_dfd._core.group_answers import called_by
from sklearn_dfd._core.groups import check_groups
from sklearn_dfd._core.images.sources import as_image_list, describe
from sklearn_dfd._core.sklearn_private import HasMethods, Interval, StrOptions, validate_params
from sklearn_dfd._core.validation import Label, import_extra, resolve_pos_label
from sklearn_dfd.inspection._judging import (
    count_in_groups,
    is_calibrated,
    judge_groups,
    judge_images,
)

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["detect"]


@validate_params(
    {
        "estimator": [HasMethods(["predict", "predict_proba"])],
        "X": "no_validation",
        "groups": ["array-like", None],
        "aggregate": [StrOptions(set(AGGREGATES))],
        "pos_label": [Real, str, "boolean", None],
        "threshold": [Interval(Real, 0, 1, closed="both"), None],
        "unsure": ["array-like", None],
        "verbose": ["verbose"],
    },
    prefer_skip_nested_validation=True,
)
def detect(
    estimator: BaseEstimator,
    X: Any,
    *,
    groups: npt.ArrayLike | None = None,
    aggregate: Aggregate = "mean_log_odds",
    pos_label: Label | None = None,
    threshold: float | None = None,
    unsure: tuple[float, float] | None = None,
    verbose: int = 0,
) -> "DataFrame":
    """Apply a detector to images, and list the images that cannot be used with the reason why.

    With ``groups`` there is one answer for all images of a group, such as the frames of a film,
    or the photographs of one person or event.

    Parameters
    ----------
    estimator : classifier
        A fitted classifier of images: a pipeline of
        :func:`~sklearn_dfd.make_deepfake_pipeline`, or a search, a calibration or another
        meta-estimator of one.

    X : sequence of n_images images
        Paths, PIL images, uint8 arrays in RGB order or encoded bytes; see
        :meth:`~sklearn_dfd.MobileNetV2Features.transform`. It may be empty.

    groups : array-like of shape (n_images,), default=None
        The group of each image, a number or a string, for one row per group instead of one per
        image. Images and groups are matched by position.

    aggregate : {"mean_log_odds", "median"}, default="mean_log_odds"
        How the probabilities of a group's images are combined. ``"mean_log_odds"`` takes the mean
        of ``log(p / (1 - p))``, for which all images count; ``"median"`` takes the median, which a
        minority of images cannot change, however extreme it is. See the notes.

    pos_label : int, float, bool or str, default=None
        The class to detect, out of two. None means 1 or True if the labels are 0 and 1, -1 and 1,
        or booleans, as in scikit-learn. With any other two labels, such as "fake" and "real", it
        must be given.

    threshold : float, default=None
        The lowest probability at which an image or a group is called ``pos_label``. With None, an
        image is called what ``estimator.predict`` returns: the more probable class, except for
        :class:`sklearn.model_selection.TunedThresholdClassifierCV` and
        :class:`sklearn.model_selection.FixedThresholdClassifier`, which have a threshold of their
        own. A group is then also called the more probable class, or the class that such a threshold
        gives for the combined probability.

    unsure : tuple of two floats, default=None
        The band ``(low, high)`` of probabilities of ``pos_label`` for a third answer, "not sure":
        ``pos_label`` is called at ``high`` or above, the other class at ``low`` or below, and
        neither in between. :func:`~sklearn_dfd.metrics.choose_unsure_band` chooses it for a target
        error rate. It replaces a threshold, and applies whether or not the detector is calibrated;
        ``table.attrs["note"]`` says how far to trust the answers.

    verbose : int, default=0
        Whether to show a progress bar.

    Returns
    -------
    table : pandas.DataFrame
        One row per image, in the order of ``X``. Where ``X`` is a pandas Series or DataFrame, the
        table has the same index, so columns can be assigned to the table that ``X`` was taken from.
        The columns are:

        path : str
            The path, or what kind of image it is, such as "array (480, 640, 3)".
        label
            The class that the image is called; None if the image cannot be used, or if the answer
            is "not sure".
        probability_<class> : float64
            The probability of that class, for example ``probability_fake`` for
            ``pos_label="fake"``; NaN where the image cannot be used. With two classes there is
            one such column, for ``pos_label``. With more classes there is one for each, in the
            order of ``estimator.classes_``.
        reading : str
            The row in words. An uncalibrated detector reads "called fake": its probabilities rank
            images, but do not tell how often it is right. A calibrated one, which ends in a
            :class:`sklearn.calibration.CalibratedClassifierCV`, reads "very likely fake" where the
            probability of the class is at least 0.9, "likely fake" where it is at least 0.7, and
            "uncertain, leaning to fake" below. If the image cannot be used, it reads "not judged"
            and why; within the band of ``unsure``, "not sure".
        error : str
            What is wrong with the image; empty if it can be used.

        With ``groups`` there is one row per group, in order of first appearance. The index, named
        ``"group"``, holds the groups, and the columns are:

        label
            The class that the group is called; None if none of its images can be used, or if the
            answer is "not sure".
        probability_<class> : float64
            The combined probability of that class; NaN where none of the images can be used.
        share_<class> : float64
            The share of the usable images that are called that class one by one, for the same
            classes; NaN where none can be used.
        n_judged : int64
            The number of images that were judged.
        n_not_judged : int64
            The number of images that cannot be used. The table without ``groups`` has the reason
            for each.
        reading : str
            The row in words, such as "called fake", which claims nothing about how likely it is
            to be right; "not sure" within the band of ``unsure``; "not judged", and why, where
            none of the images can be used.
        error : str
            What is wrong with the images if none can be used; otherwise empty.

        ``table.attrs["note"]`` is a sentence on what the probabilities mean: whether those of
        images are calibrated, and that those of groups are not.

    Raises
    ------
    ImportError
        If pandas is not installed. This is raised before anything is computed.
    NotFittedError
        If the estimator is not fitted.
    TypeError, ValueError
        If ``X`` is not a collection of images, ``pos_label`` is not a class, or is needed and
        missing, if ``pos_label``, ``threshold`` or ``unsure`` is given for more than two classes,
        if both ``threshold`` and ``unsure`` are given, if ``unsure`` is not two ordered numbers, if
        ``groups`` does not have one label per image, or has another pandas index than ``X``, or
        if the detector's own threshold is not one of probabilities and groups are to be called
        by it.

    See Also
    --------
    sklearn_dfd.metrics.make_group_scorer : Scores one answer per group in cross-validation.
    sklearn_dfd.inspection.GradCAMDisplay : Shows where in an image the evidence for a class is.

    Notes
    -----
    Log-odds of independent pieces of evidence add up. Images of a group are far from independent,
    so their mean is taken, and not the sum, which would give near certainty for almost any film.
    With more than two classes, the logarithms of the probabilities are averaged for each class, and
    normalised so that the probabilities of a group sum to one; for two classes, the result is the
    same. Probabilities are first limited to one millionth from 0 and 1, so that no single image
    outweighs all others. A group of one usable image has the probability of that image.

    Examples
    --------
    >>> from sklearn_dfd import detect, make_deepfake_pipeline
    >>> from sklearn_dfd.datasets import make_spliced_photos
    >>> photos = make_spliced_photos(40, random_state=0)
    >>> pipe = make_deepfake_pipeline(weights=None, image_size=64, max_epochs=1, random_state=0)
    >>> pipe = pipe.fit(photos.data, photos.target_names[photos.target])
    >>> table = detect(pipe, [photos.data[0], "absent.jpg"], pos_label="spliced")
    >>> table.columns.tolist()
    ['path', 'label', 'probability_spliced', 'reading', 'error']
    >>> table["path"].tolist()
    ['array (96, 96, 3)', 'absent.jpg']
    >>> table["reading"][1]
    'not judged: the file does not exist'

    One answer for two photographs of an event:

    >>> table = detect(
    ...     pipe, photos.data[:3], groups=["event", "event", "other"], pos_label="spliced"
    ... )
    >>> table.index.tolist(), table["n_judged"].tolist()
    (['event', 'other'], [2, 1])
    """
    pandas = import_extra("pandas", "detect")
    check_is_fitted(estimator)
    classes = np.asarray(estimator.classes_)
    labels = classes.tolist()
    if len(labels) == 2:
        pos_label = resolve_pos_label(pos_label, labels, "detect(estimator, X, {}).")
        shown = [labels.index(pos_label)]
    elif pos_label is None and threshold is None and unsure is None:
        shown = list(range(len(labels)))
    else:
        raise ValueError(
            "pos_label, threshold and unsure are for two classes, and the detector knows "
            f"{labels}: leave them out, and the table has a column for each class."
        )
    images = [] if _is_empty(X) else as_image_list(X)
    index = X.index if isinstance(X, pandas.Series | pandas.DataFrame) else None
    names, codes = np.empty(0), None
    if groups is not None:
        other = groups.index if isinstance(groups, pandas.Series | pandas.DataFrame) else None
        if index is not None and other is not None and not index.equals(other):
            raise ValueError(
                "groups has another index than X. Select its rows like those of X, as "
                "groups.loc[X.index] does; or, if both go together by their order, pass "
                "groups.to_numpy()."
            )
        names, codes = number_groups(check_groups(groups, len(images), "images"))
    band = None if unsure is None else _checked_band(unsure, threshold)
    ends = band if threshold is None else (threshold, threshold)
    rule = None if ends is None else (shown[0], *ends)
    if codes is not None and rule is None:
        called_by(estimator, np.full((1, len(labels)), 1 / len(labels)))  # before hours of work
    answers = judge_images(estimator, images, rule, verbose)
    columns: dict[str, Any] = {}
    shares: dict[str, Any] = {}
    if codes is None:
        calibrated = is_calibrated(estimator)
        columns["path"] = [name_of(image) for image in images]
    else:
        calibrated = False
        index = pandas.Index(names, dtype=object if names.dtype.kind in "OSU" else None)
        index.name = "group"
        shares = count_in_groups(
            answers, codes, len(names), {f"share_{labels[i]}": i for i in shown}
        )
        answers = judge_groups(estimator, images, answers, codes, aggregate, rule)
    probability, called, error = answers
    usable = error == ""
    label = np.full(len(error), None, dtype=object)
    known = usable & (called != UNSURE)
    label[known] = classes.astype(object)[called[known]]
    sure = probability[np.arange(len(error)), called]
    columns["label"] = label
    columns |= {f"probability_{labels[i]}": probability[:, i] for i in shown}
    columns |= shares
    columns["reading"] = [
        reading_of(*row, calibrated, len(labels)) for row in zip(label, sure, error, strict=True)
    ]
    columns["error"] = error
    # as objects, since pandas' strings hold neither integer labels nor undecodable file names
    kinds = {name: getattr(column, "dtype", object) for name, column in columns.items()}
    table = pandas.DataFrame(
        {name: pandas.Series(columns[name], dtype=kinds[name]) for name in columns}
    )
    if index is not None:
        table.index = index
    table.attrs["note"] = note_on(calibrated, codes is not None, band)
    return table


def _checked_band(unsure: Any, threshold: float | None) -> tuple[float, float]:
    """Return the ends of the band of "not sure", or raise a ValueError."""
    if threshold is not None:
        raise ValueError(
            "threshold and unsure both set the probability at which pos_label is called: pass one "
            "of them."
        )
    try:
        low, high = (float(end) for end in unsure)
    except (TypeError, ValueError):
        low, high = np.nan, np.nan
    if not low <= high:
        raise ValueError(
            f"unsure={unsure!r} is not a band of probabilities: pass two numbers, the lower one "
            "first, such as (0.2, 0.9)."
        )
    return low, high


def _is_empty(X: Any) -> bool:
    """Return whether ``X`` is a collection without images, which gives no rows and no error."""
    if isinstance(X, np.ndarray):
        return X.ndim > 0 and len(X) == 0
    if hasattr(X, "shape") and hasattr(X, "columns"):  # a table: it must have one column
        return len(X.columns) == 1 and len(X) == 0
    return (isinstance(X, list | tuple) or hasattr(X, "to_list")) and len(X) == 0


def name_of(image: Any) -> str:
    """Return the path of an image, unquoted, or what kind of image it is."""
    path = image.filename if isinstance(image, ImageFile) else image
    return os.fsdecode(path) if isinstance(path, str | os.PathLike) and path else describe(image)
