"""What a detector says about images, how it was trained, and where in an image its evidence is."""

from sklearn_dfd.inspection._gradcam import GradCAMDisplay
from sklearn_dfd.inspection._training_history import TrainingHistoryDisplay

__all__ = ["GradCAMDisplay", "TrainingHistoryDisplay"]
