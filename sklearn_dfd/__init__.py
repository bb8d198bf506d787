"""Detect manipulated face photographs, the scikit-learn way."""

import importlib
from typing import TYPE_CHECKING, Any

from sklearn_dfd._core import moved
from sklearn_dfd._core.version import __version__

if TYPE_CHECKING:
    from sklearn_dfd.augmented_classifier import AugmentedClassifier
    from sklearn_dfd.classifier import DeepFakeClassifier
    from sklearn_dfd.features import MobileNetV2Features
    from sklearn_dfd.inspection._detect import detect
    from sklearn_dfd.pipeline import make_deepfake_pipeline

__all__ = [
    "AugmentedClassifier",
    "DeepFakeClassifier",
    "MobileNetV2Features",
    "__version__",
    "detect",
    "make_deepfake_pipeline",
]

# torch takes seconds to import: each name is imported when it is first asked for (PEP 562)
_NAMES = {
    "AugmentedClassifier": "augmented_classifier",
    "DeepFakeClassifier": "classifier",
    "MobileNetV2Features": "features",
    "detect": "inspection._detect",
    "make_deepfake_pipeline": "pipeline",
}
_MODULES = (
    "augmentation",
    "augmented_classifier",
    "classifier",
    "datasets",
    "exceptions",
    "export",
    "feature_store",
    "features",
    "inspection",
    "metrics",
    "model_selection",
    "pipeline",
    "robustness",
    "weights",
)

moved.keep_old_addresses()


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"sklearn_dfd.{name}")
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"sklearn_dfd.{_NAMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
