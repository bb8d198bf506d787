"""A fitted detector applied to any images: one row per image, unusable images included."""

import os
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL.ImageFile import ImageFile
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from sklearn_dfd._core.images.sources import as_image_list, describe
from sklearn_dfd._core.sklearn_private import HasMethods, Interval, validate_params
from sklearn_dfd._core.validation import Label, import_extra, resolve_pos_label
from sklearn_dfd.augmented_classifier import AugmentedClassifier
from sklearn_dfd.classifier import DeepFakeClassifier
from sklearn_dfd.exceptions import ImageError
from sklearn_dfd.features import image_errors_are_raised

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["detect"]

_CHUNK = 128  # images whose features are in memory together
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


@validate_params(
    {
        "estimator": [HasMethods(["predict", "predict_proba"])],
        "X": "no_validation",
        "pos_label": [Real, str, "boolean", None],
        "threshold": [Interval(Real, 0, 1, closed="both"), None],
        "verbose": ["verbose"],
    },
    prefer_skip_nested_validation=True,
)
def detect(
    estimator: BaseEstimator,
    X: Any,
    *,
    pos_label: Label | None = None,
    threshold: float | None = None,
    verbose: int = 0,
) -> "DataFrame":
    """Apply a detector to images, and list the images that cannot be used with the reason why.

    Parameters
    ----------
    estimator : classifier
        A fitted classifier of images: a pipeline of
        :func:`~sklearn_dfd.make_deepfake_pipeline`, or a search, a calibration or another
        meta-estimator of one.

    X : sequence of n_images images
        Paths, PIL images, uint8 arrays in RGB order or encoded bytes, see
        :meth:`~sklearn_dfd.MobileNetV2Features.transform`. It may be empty.

    pos_label : int, float, bool or str, default=None
        The class to detect, out of two. None stands for 1 or True where the labels are 0 and 1,
        -1 and 1, or booleans, as in scikit-learn. With any other two labels, such as "fake" and
        "real", it must be given.

    threshold : float, default=None
        The probability from which on an image is called ``pos_label``. None calls it what
        ``estimator.predict`` does. This is the more probable class, except for
        :class:`sklearn.model_selection.TunedThresholdClassifierCV` and
        :class:`sklearn.model_selection.FixedThresholdClassifier`, which have a threshold of their
        own.

    verbose : int, default=0
        Whether to show a progress bar.

    Returns
    -------
    table : pandas.DataFrame
        One row per image, in the order of ``X``. Where ``X`` is a pandas Series or DataFrame, the
        table has its index, so that columns can be assigned to the table that ``X`` was taken
        from. The columns are:

        path : str
            The path, or what kind of image it is, such as "array (480, 640, 3)".
        label
            The class that the image is called; None where the image cannot be used.
        probability_<class> : float64
            The probability of that class, for example ``probability_fake`` for
            ``pos_label="fake"``; NaN where the image cannot be used. With two classes there is
            one such column, for ``pos_label``. With more classes there is one for each, in the
            order of ``estimator.classes_``.
        reading : str
            The row in words. An uncalibrated detector reads "called fake": its probabilities
            rank images, but do not tell how often it is right. A calibrated one, which ends in a
            :class:`sklearn.calibration.CalibratedClassifierCV`, reads "very likely fake" where
            the probability of the class is at least 0.9, "likely fake" from 0.7 on, and
            "uncertain, leaning to fake" below. Where the image cannot be used: "not judged", and
            why.
        error : str
            What is wrong with the image; empty where it can be used.

        ``table.attrs["note"]`` is a sentence that says whether the probabilities are calibrated.

    Raises
    ------
    ImportError
        If pandas is not installed. This is raised before anything is computed.
    NotFittedError
        If the estimator is not fitted.
    TypeError, ValueError
        If ``X`` is not a collection of images, ``pos_label`` is not a class, or is needed and
        missing, or if ``pos_label`` or ``threshold`` is given for more than two classes.

    See Also
    --------
    sklearn_dfd.inspection.GradCAMDisplay : Shows where in an image the evidence for a class is.

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
    """
    pandas = import_extra("pandas", "detect")
    check_is_fitted(estimator)
    classes = np.asarray(estimator.classes_)
    labels = classes.tolist()
    if len(labels) == 2:
        pos_label = resolve_pos_label(pos_label, labels, "detect(estimator, X, {}).")
        shown = [labels.index(pos_label)]
    elif pos_label is None and threshold is None:
        shown = list(range(len(labels)))
    else:
        raise ValueError(
            f"pos_label and threshold are for two classes, and the detector knows {labels}: leave "
            "them out, and the table has a column for each class."
        )
    images = [] if _is_empty(X) else as_image_list(X)
    probability, called, error = _judge(
        estimator, images, None if threshold is None else (shown[0], threshold), verbose
    )
    usable = error == ""
    label = np.full(len(images), None, dtype=object)
    label[usable] = classes.astype(object)[called[usable]]
    sure = probability[np.arange(len(images)), called]
    calibrated = _is_calibrated(estimator)
    readings = [
        _reading(*row, calibrated, len(labels)) for row in zip(label, sure, error, strict=True)
    ]
    columns = {
        "path": [name_of(image) for image in images],
        "label": label,
        **{f"probability_{labels[i]}": probability[:, i] for i in shown},
        "reading": readings,
        "error": error,
    }
    # as objects, since pandas' strings hold neither integer labels nor undecodable file names
    kinds = {name: float if name.startswith("probability_") else object for name in columns}
    table = pandas.DataFrame(
        {name: pandas.Series(columns[name], dtype=kinds[name]) for name in columns}
    )
    if isinstance(X, pandas.Series | pandas.DataFrame):
        table.index = X.index
    table.attrs["note"] = _CALIBRATED if calibrated else _UNCALIBRATED
    return table


def _is_empty(X: Any) -> bool:
    """Tell whether ``X`` is a collection without images, which has no row and is no error."""
    if isinstance(X, np.ndarray):
        return X.ndim > 0 and len(X) == 0
    if hasattr(X, "shape") and hasattr(X, "columns"):  # a table, of which one column is taken
        return len(X.columns) == 1 and len(X) == 0
    return (isinstance(X, list | tuple) or hasattr(X, "to_list")) and len(X) == 0


def _judge(
    estimator: BaseEstimator, images: Any, rule: tuple[int, float] | None, verbose: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp], npt.NDArray[np.object_]]:
    """Return probabilities, the class that each image is called, and what is wrong with it.

    Parameters
    ----------
    estimator : classifier
        The fitted detector.
    images : list or ndarray
        What `as_image_list` returns.
    rule : (int, float) or None
        Column of the class to detect, and the probability from which on it is called; None to
        call the class that the estimator predicts.
    verbose : int
        Whether to show a progress bar.

    Returns
    -------
    probability : ndarray of shape (n_images, n_classes)
    called : ndarray of int, shape (n_images,)
        Index in ``estimator.classes_``; of no meaning where there is an error.
    error : ndarray of str, shape (n_images,)
        Empty for usable images.
    """
    classes = np.asarray(estimator.classes_)
    probability = np.full((len(images), len(classes)), np.nan)
    called = np.zeros(len(images), dtype=np.intp)
    error = np.full(len(images), "", dtype=object)
    with (
        image_errors_are_raised(),
        tqdm(total=len(images), unit="image", disable=not verbose) as bar,
    ):
        for start in range(0, len(images), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(images)))
            while len(rows):
                part = [images[row] for row in rows.tolist()]
                try:
                    chunk = estimator.predict_proba(part)
                except ImageError as problem:
                    # Features computed so far are in memory, so that going on costs little.
                    positions, _, reasons = zip(*problem.failures, strict=True)
                    error[rows[list(positions)]] = reasons
                    rows = np.delete(rows, positions)
                    bar.update(len(positions))
                    continue
                probability[rows] = chunk
                if rule is not None:
                    called[rows] = np.where(chunk[:, rule[0]] >= rule[1], rule[0], 1 - rule[0])
                elif _calls_the_more_probable(estimator):
                    called[rows] = chunk.argmax(axis=1)
                else:
                    predicted = np.asarray(estimator.predict(part))
                    called[rows] = (predicted[:, np.newaxis] == classes).argmax(axis=1)
                bar.update(len(rows))
                break
    return probability, called, error


def _calls_the_more_probable(estimator: BaseEstimator) -> bool:
    """Tell whether ``predict``, which reads all images again, is known to call that class."""
    last = estimator[-1] if isinstance(estimator, Pipeline) else estimator
    return isinstance(last, AugmentedClassifier | DeepFakeClassifier)


def _is_calibrated(estimator: Any) -> bool:
    """Tell whether the probabilities come from a CalibratedClassifierCV.

    Only what passes probabilities on, or averages both mirror images, is looked into: an ensemble
    of calibrated classifiers need not be calibrated itself.
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


def name_of(image: Any) -> str:
    """Return the path of an image, unquoted, or what kind of image it is."""
    path = image.filename if isinstance(image, ImageFile) else image
    return os.fsdecode(path) if isinstance(path, str | os.PathLike) and path else describe(image)


def _reading(label: Any, sure: float, error: str, calibrated: bool, n_classes: int) -> str:
    """Put into words what an image is called, no surer than the probability is true."""
    if error:
        return f"not judged: {error}"
    name = label if isinstance(label, str) else f"class {label}"
    if not calibrated:
        return f"called {name}"
    if n_classes == 2 and sure < 0.5:
        return f"uncertain, called {name} by the threshold"
    return next(f"{words} {name}" for least, words in _WORDS if sure >= least)
