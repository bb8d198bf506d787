"""Detect manipulated face photographs, the scikit-learn way."""

from sklearn_dfd._version import __version__
from sklearn_dfd.classifier import DeepFakeClassifier
from sklearn_dfd.detection import detect
from sklearn_dfd.features import MobileNetV2Features
from sklearn_dfd.pipeline import make_deepfake_pipeline

__all__ = [
    "DeepFakeClassifier",
    "MobileNetV2Features",
    "__version__",
    "detect",
    "make_deepfake_pipeline",
]
