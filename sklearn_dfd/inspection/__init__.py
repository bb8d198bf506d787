"""Displays of how a detector was trained and of where its evidence in an image is."""

from sklearn_dfd.inspection._gradcam import GradCAMDisplay
from sklearn_dfd.inspection._training_history import TrainingHistoryDisplay

__all__ = ["GradCAMDisplay", "TrainingHistoryDisplay"]
