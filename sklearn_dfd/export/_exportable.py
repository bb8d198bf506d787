"""Detectors that can be written for other runtimes, and the pieces they are written from."""

import json
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from sklearn_dfd._core.feature_rows import FeatureRows
from sklearn_dfd._core.version import __version__
from sklearn_dfd.augmented_classifier import AugmentedClassifier
from sklearn_dfd.classifier import DeepFakeClassifier
from sklearn_dfd.features import MobileNetV2Features, origin_of_features

#: The steps of the detectors of `make_deepfake_pipeline`.
_NET = [MobileNetV2Features, DeepFakeClassifier]
_LINEAR = [MobileNetV2Features, StandardScaler, LogisticRegression]


def detector_steps(pipe: Any, *, linear: bool) -> tuple[MobileNetV2Features, list[Any], bool]:
    """Return the fitted steps of a detector, and whether it averages over mirror images.

    Parameters
    ----------
    pipe : Pipeline or AugmentedClassifier
    linear : bool
        Whether linear detectors, as of ``preset="fast"``, can be written.

    Returns
    -------
    features : MobileNetV2Features
    steps : list of estimator
        Those after it.
    mirrored : bool

    Raises
    ------
    TypeError
        If ``pipe`` is another estimator.
    NotFittedError
        If ``pipe`` is not fitted.
    ValueError
        If the pipeline computes in another precision than float32, or its steps do not fit
        together: the layer, the image size or the weights of one were changed after fitting.
    """
    augmented = type(pipe) is AugmentedClassifier
    inner = getattr(pipe, "estimator_", pipe.estimator) if augmented else pipe
    steps = [step for _, step in inner.steps] if isinstance(inner, Pipeline) else []
    types = [type(step) for step in steps]
    if types != _NET and not (linear and types == _LINEAR):
        known = " and ".join(type(step).__name__ for step in steps) or type(inner).__name__
        hint = " Pass its best_estimator_." if hasattr(pipe, "best_estimator_") else ""
        raise TypeError(
            "Only a Pipeline of MobileNetV2Features and DeepFakeClassifier"
            + (", or of MobileNetV2Features, StandardScaler and LogisticRegression" * linear)
            + ", or an AugmentedClassifier of one, can be written, and not "
            f"{'one of ' if augmented else ''}{known}.{hint}"
        )
    check_is_fitted(pipe)
    if steps[0].precision != "float32":
        where = "estimator_." if augmented else ""
        raise ValueError(
            f"The pipeline computes in {steps[0].precision}, and the file would not: call "
            f'{where}set_params({inner.steps[0][0]}__precision="float32"), and check that it still '
            "scores as well."
        )
    # the check that refuses rows of other features refuses to write a file for them, too
    nothing = np.zeros((1, len(steps[0].get_feature_names_out())), dtype=np.float32)
    inner[1:].predict_proba(FeatureRows(nothing, origin_of_features(steps[0])))
    return steps[0], steps[1:], bool(augmented and pipe.average_mirrored)


def file_metadata(features: MobileNetV2Features, classifier: Any) -> dict[str, str]:
    """Return what the reader of a file needs to know, as strings."""
    limit = {} if features.max_pixels is None else {"max_pixels": str(features.max_pixels)}
    return {
        "classes": json.dumps(classifier.classes_.tolist(), default=str),
        "layer": str(features.layer_),
        "image_size": str(features.image_size),
        "fingerprint": features.fingerprint_,
        "sklearn_dfd": __version__,
        **limit,
    }
