"""Writers of detectors for other programs, of model cards, and of the features of many images."""

from sklearn_dfd.export._executorch import to_executorch
from sklearn_dfd.export._feature_matrix import extract_feature_matrix
from sklearn_dfd.export._model_card import make_model_card
from sklearn_dfd.export._onnx import measure_onnx_loss, to_onnx

__all__ = [
    "extract_feature_matrix",
    "make_model_card",
    "measure_onnx_loss",
    "to_executorch",
    "to_onnx",
]
