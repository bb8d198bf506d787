"""Detectors that can be written for other runtimes, and the pieces they are written from."""

import json

from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sklearn_dfd._core.version import __version__
from sklearn_dfd.augmented_classifier import AugmentedClassifier
from sklearn_dfd.classifier import DeepFakeClassifier
from sklearn_dfd.features import MobileNetV2Features


def detector_steps(pipe):
    """Return both steps, fitted, and whether both mirror images are averaged."""
    augmented = type(pipe) is AugmentedClassifier
    inner = getattr(pipe, "estimator_", pipe.estimator) if augmented else pipe
    steps = [step for _, step in inner.steps] if isinstance(inner, Pipeline) else []
    if [type(step) for step in steps] != [MobileNetV2Features, DeepFakeClassifier]:
        known = " and ".join(type(step).__name__ for step in steps) or type(inner).__name__
        hint = " Pass its best_estimator_." if hasattr(pipe, "best_estimator_") else ""
        raise TypeError(
            "what can be written is a Pipeline of MobileNetV2Features and DeepFakeClassifier, or "
            f"an AugmentedClassifier of one, not {'one of ' if augmented else ''}{known}.{hint}"
        )
    check_is_fitted(pipe)
    if steps[0].precision != "float32":
        where = "estimator_." if augmented else ""
        raise ValueError(
            f"the pipeline computes in {steps[0].precision} and the file would not: "
            f'{where}set_params(features__precision="float32"), and see whether it still is as '
            "good."
        )
    return *steps, augmented and pipe.average_mirrored


def file_metadata(features, classifier):
    """Collect what the reader of a file needs to know, as strings."""
    return {
        "classes": json.dumps(classifier.classes_.tolist(), default=str),
        "layer": str(features.layer_),
        "image_size": str(features.image_size),
        "fingerprint": features.fingerprint_,
        "sklearn_dfd": __version__,
    }
