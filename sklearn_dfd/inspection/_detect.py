"""A fitted detector on any images: a table with one row each, whatever is wrong with some."""

import os
from numbers import Real

import numpy as np
from PIL.ImageFile import ImageFile
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sklearn_dfd._core.images.sources import as_image_list, describe
from sklearn_dfd._core.sklearn_private import HasMethods, Interval, validate_params
from sklearn_dfd._core.validation import import_extra
from sklearn_dfd.augmented_classifier import AugmentedClassifier
from sklearn_dfd.classifier import DeepFakeClassifier
from sklearn_dfd.exceptions import ImageError

__all__ = ["detect"]

_CHUNK = 512  # images whose features are in memory together
# how sure a verdict sounds, from which probability of the class on that an image is called
_WORDS = ((0.9, "very likely"), (0.7, "likely"), (0.5, "uncertain, leaning to"))


@validate_params(
    {
        "estimator": [HasMethods(["predict", "predict_proba"])],
        "X": "no_validation",
        "threshold": [Interval(Real, 0, 1, closed="both"), None],
        "pos_label": [Real, str, "boolean", None],
    },
    prefer_skip_nested_validation=True,
)
def detect(estimator, X, *, threshold=None, pos_label=None):
    """Judge images, one row each, and go on past those that cannot be used.

    Parameters
    ----------
    estimator : classifier
        Fitted on images of two classes: a pipeline of
        :func:`~sklearn_dfd.make_deepfake_pipeline`, or a search, a calibration or another
        meta-estimator of one. Its transformer has the default ``on_error="raise"``.

    X : sequence of n_images images
        Paths, PIL images, uint8 arrays or encoded bytes, see
        :meth:`~sklearn_dfd.MobileNetV2Features.transform`.

    threshold : float, default=None
        Probability from which on an image is called ``pos_label``. None calls it what
        ``estimator.predict`` does: the more probable class, or with
        :class:`sklearn.model_selection.TunedThresholdClassifierCV`, which chooses a threshold on
        other images than those that you judge, by that one.

    pos_label : int, float, bool or str, default=None
        The class to detect; None for ``estimator.classes_[1]``, as everywhere in scikit-learn. Of
        the folders "fake" and "real" this is "real": the labels are sorted.

    Returns
    -------
    table : pandas.DataFrame
        One row for each image, in the order of ``X``:

        path : str
            The path, or what kind of image it is, such as "array (480, 640, 3)".
        label
            The class that it is called; missing where the image cannot be used.
        probability : float64
            Of ``pos_label``; NaN where the image cannot be used.
        verdict : str
            The row in words, for a person: "very likely fake", from a probability of 0.9 of the
            class that it is called, "likely fake" from 0.7, "uncertain, leaning to fake" below, or
            why the image was not judged. No surer than the probability is true: look at
            :class:`sklearn.calibration.CalibratedClassifierCV`.
        error : str
            What is wrong with the image, "" for nothing.

    Raises
    ------
    ImportError
        If pandas is missing, before anything is computed.
    NotFittedError
        If the estimator is not fitted.
    TypeError, ValueError
        If ``X`` is not a collection of images, the estimator has not two classes, or
        ``pos_label`` is neither of them.

    Examples
    --------
    >>> from sklearn_dfd import detect, make_deepfake_pipeline
    >>> from sklearn_dfd.datasets import make_spliced_photos
    >>> photos = make_spliced_photos(40, random_state=0)
    >>> pipe = make_deepfake_pipeline(weights=None, image_size=64, max_epochs=1, random_state=0)
    >>> pipe = pipe.fit(photos.data, photos.target_names[photos.target])
    >>> table = detect(pipe, [photos.data[0], "absent.jpg"], pos_label="spliced")
    >>> table.columns.tolist()
    ['path', 'label', 'probability', 'verdict', 'error']
    >>> table["path"].tolist()
    ['array (96, 96, 3)', 'absent.jpg']
    >>> table["verdict"][1]
    'not judged: the file does not exist'
    """
    pandas = import_extra("pandas", "detect")
    check_is_fitted(estimator)
    classes = np.asarray(estimator.classes_)
    if len(classes) != 2:
        raise ValueError(f"detect tells two classes apart, the estimator knows {classes.tolist()}.")
    if pos_label is None:
        pos_label = classes[1]
    if pos_label not in classes.tolist():
        pos_label = np.asarray(pos_label).tolist()
        raise ValueError(f"pos_label={pos_label!r} is not a class: {classes.tolist()}.")
    column = classes.tolist().index(pos_label)
    images = as_image_list(X)
    probability = np.full(len(images), np.nan)
    called_pos = np.zeros(len(images), dtype=bool)
    error = np.full(len(images), "", dtype=object)
    for start in range(0, len(images), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(images)))
        while len(rows):
            try:
                chunk = estimator.predict_proba([images[row] for row in rows.tolist()])
            except ImageError as problem:
                # What was computed before is in memory, so that going on is cheap.
                positions, _, reasons = zip(*problem.failures, strict=True)
                error[rows[list(positions)]] = reasons
                rows = np.delete(rows, positions)
            else:
                probability[rows] = chunk[:, column]
                if threshold is not None:
                    called_pos[rows] = probability[rows] >= threshold
                elif _calls_the_more_probable(estimator):
                    called_pos[rows] = chunk.argmax(axis=1) == column
                else:
                    called = estimator.predict([images[row] for row in rows.tolist()])
                    called_pos[rows] = np.asarray(called) == classes[column]
                break
    label = classes.astype(object)[np.where(called_pos, column, 1 - column)]
    label[error != ""] = None
    sure = np.where(called_pos, probability, 1 - probability)
    return pandas.DataFrame(
        {
            "path": [_name(image) for image in images],
            "label": label,
            "probability": probability,
            "verdict": [_verdict(*row) for row in zip(label, sure, error, strict=True)],
            "error": error,
        }
    )


def _calls_the_more_probable(estimator):
    """Whether ``predict`` is known to, and need not be asked: it would read all images again."""
    last = estimator[-1] if isinstance(estimator, Pipeline) else estimator
    return isinstance(last, AugmentedClassifier | DeepFakeClassifier)


def _name(image):
    path = image.filename if isinstance(image, ImageFile) else image
    return os.fsdecode(path) if isinstance(path, str | os.PathLike) and path else describe(image)


def _verdict(label, sure, error):
    """Put into words what an image is called, and how sure that is."""
    if error:
        return f"not judged: {error}"
    name = label if isinstance(label, str) else f"class {label}"
    for least, words in _WORDS:
        if sure >= least:
            return f"{words} {name}"
    return f"uncertain, called {name} by the threshold"
