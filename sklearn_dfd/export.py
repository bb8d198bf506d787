"""The detector for other runtimes: one ONNX file, from images to probabilities."""

import copy
import importlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.pipeline import Pipeline
from sklearn.utils._param_validation import validate_params
from sklearn.utils.validation import check_is_fitted
from torch import nn

from sklearn_dfd._version import __version__
from sklearn_dfd.augmented_classifier import AugmentedClassifier
from sklearn_dfd.classifier import DeepFakeClassifier
from sklearn_dfd.decoding import load_rgb
from sklearn_dfd.devices import own_torch_state
from sklearn_dfd.features import MobileNetV2Features
from sklearn_dfd.images import ImageError, as_image_list, describe, read_source
from sklearn_dfd.mobilenet import Trunk, feature_shape, fold_batch_norm
from sklearn_dfd.onnx_graph import OnnxGraph

__all__ = ["to_onnx"]


@validate_params(
    {
        "pipe": "no_validation",
        "path": [str, os.PathLike],
        "calibration_images": "no_validation",
    },
    prefer_skip_nested_validation=True,
)
def to_onnx(pipe, path, *, calibration_images=None):
    """Write a fitted detector as one ONNX file, which needs neither Python nor torch.

    The model takes RGB images as they are, of any size, and does all the rest: squashing to a
    square, normalisation, the network, and the probabilities. These differ from ``predict_proba``
    by less than 1e-4.

    Parameters
    ----------
    pipe : Pipeline
        Fitted, of the two steps of :func:`~sklearn_dfd.make_deepfake_pipeline`.

    path : str or path
        File to write.

    calibration_images : sequence of images, default=None
        Where given, the network computes with integers of 8 bits, and the file is a quarter of the
        size. The ranges of what flows through are measured on these images: take a hundred or more
        of those that the detector was trained on. Probabilities then differ by several per cent,
        single ones by much more: measure the score of the file before you ship it.

    Raises
    ------
    TypeError
        If ``pipe`` is another estimator. Take ``best_estimator_`` of a search; calibrations and
        ensembles are not written.
    NotFittedError
        If ``pipe`` is not fitted.
    ValueError
        If the pipeline computes in bfloat16, which the file does not.
    WeightsError
        If the trunk's weights were left out when ``pipe`` was saved, and are not found.
    ImageError
        An OSError and a ValueError: a calibration image cannot be used.
    ImportError
        If onnx is not installed, or onnxruntime with ``calibration_images``.

    Notes
    -----
    The input is called ``images``: uint8, of shape (n_images, height, width, 3), upright RGB. Both
    n_images and the size are free from call to call; images of different sizes go in one call
    each. The output is called ``probabilities``: float32, of shape (n_images, n_classes).

    Squashing is that of Pillow to the last bit, and takes 24 bytes a pixel of the images while it
    works: pass large photographs one at a time.

    Decoding stays with the caller, and so does the orientation: of photographs from phones it is
    in the EXIF data (:func:`PIL.ImageOps.exif_transpose`).

    The file's metadata hold the ``classes`` (JSON, in the order of the probabilities), the
    ``layer`` and the ``image_size``, the ``fingerprint`` of the trunk's weights, and the version of
    this package.

    Examples
    --------
    >>> import json
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> import onnxruntime
    >>> from sklearn_dfd import make_deepfake_pipeline
    >>> from sklearn_dfd.datasets import make_spliced_photos
    >>> from sklearn_dfd.export import to_onnx
    >>> photos = make_spliced_photos(40, random_state=0)
    >>> pipe = make_deepfake_pipeline(weights=None, image_size=64, max_epochs=1, random_state=0)
    >>> pipe = pipe.fit(photos.data, photos.target)
    >>> with TemporaryDirectory() as directory:
    ...     path = Path(directory, "detector.onnx")
    ...     to_onnx(pipe, path)
    ...     session = onnxruntime.InferenceSession(path)
    >>> probability = session.run(None, {"images": photos.data[:5]})[0]
    >>> bool(np.abs(probability - pipe.predict_proba(photos.data[:5])).max() < 1e-4)
    True
    >>> json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    [0, 1]
    """
    features, classifier = _steps(pipe)
    _check_installed("onnx" if calibration_images is None else "onnxruntime")
    graph = OnnxGraph()
    side = features.image_size
    x = graph.add_squash("images", side)
    cpu = torch.device("cpu")
    with own_torch_state(cpu):
        x = graph.add_trunk(Trunk(features._trunk_arrays(), features.layer_), x)
        shape = feature_shape(features.layer_, side)
        x = _add_tail(graph, classifier.net_.module_, x, shape)
    model = graph.model(
        ["n_images", "height", "width", 3],
        graph.add("Softmax", x, axis=1, name="probabilities"),
        ["n_images", len(classifier.classes_)],
    )
    model.producer_name, model.producer_version = "sklearn-dfd", __version__
    for key, value in {
        "classes": json.dumps(classifier.classes_.tolist(), default=str),
        "layer": str(features.layer_),
        "image_size": str(side),
        "fingerprint": features.fingerprint_,
        "sklearn_dfd": __version__,
    }.items():
        model.metadata_props.add(key=key, value=value)
    if calibration_images is not None:
        model = _quantized(model, calibration_images, side)
    Path(path).write_bytes(model.SerializeToString())


def _check_installed(package):
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f'to_onnx needs {package}, not installed here: pip install "sklearn-dfd[onnx]".'
        ) from error


def _steps(pipe):
    steps = [step for _, step in pipe.steps] if isinstance(pipe, Pipeline) else []
    if [type(step) for step in steps] != [MobileNetV2Features, DeepFakeClassifier]:
        known = " and ".join(type(step).__name__ for step in steps) or type(pipe).__name__
        hint = ""
        if hasattr(pipe, "best_estimator_"):
            hint = " Pass its best_estimator_."
        elif isinstance(pipe, AugmentedClassifier):
            hint = " Pass its estimator_, which judges a photograph without its mirror image."
        raise TypeError(
            "to_onnx writes a Pipeline of MobileNetV2Features and DeepFakeClassifier, not "
            f"{known}.{hint}"
        )
    check_is_fitted(pipe)
    if steps[0].precision != "float32":
        raise ValueError(
            f"the pipeline computes in {steps[0].precision} and the file would not: "
            'set_params(features__precision="float32"), and see whether it still is as good.'
        )
    return steps


def _add_tail(graph, tail, x, shape):
    """Add the trained blocks and the head, from features to logits."""
    if tail.input_shape != shape:
        x = graph.add("Reshape", x, graph.constant(np.array([-1, *tail.input_shape])))
    if tail.features is not None:
        blocks = copy.deepcopy(tail.features).cpu().eval().requires_grad_(False)
        x = graph.add("GlobalAveragePool", graph.add_blocks(fold_batch_norm(blocks), x))
    x = graph.add("Flatten", x)
    for layer in tail.head:
        if isinstance(layer, nn.Linear):
            weight, bias = graph.constant(layer.weight), graph.constant(layer.bias)
            x = graph.add("Gemm", x, weight, bias, transB=1)
        elif isinstance(layer, nn.ReLU):
            x = graph.add("Relu", x)
    return x


def _quantized(model, images, side):
    """Turn convolutions into those of integers, by the ranges that ``images`` give."""
    import onnx
    from onnxruntime import quantization

    sources = as_image_list(images)

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.rows = iter(range(len(sources)))

        def get_next(self):
            row = next(self.rows, None)
            if row is None:
                return None
            try:
                return {"images": load_rgb(read_source(sources[row]), side)[np.newaxis]}
            except (OSError, ValueError, TypeError) as error:
                failure = (row, describe(sources[row]), str(error))
                raise ImageError([failure], len(sources), hint="Leave it out.") from error

    metadata = list(model.metadata_props)
    # asks for no preparation: BatchNorm is folded, and the shapes are known
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory() as directory:
        written = Path(directory, "int8.onnx")
        quantization.quantize_static(
            model,
            written,
            Reader(),
            op_types_to_quantize=["Conv", "Gemm"],
            per_channel=True,
            reduce_range=True,  # 7 bits of weights: sums of 8 overflow on processors without VNNI
            weight_type=quantization.QuantType.QInt8,
        )
        quantized = onnx.load(written)
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(metadata)
    quantized.producer_name, quantized.producer_version = "sklearn-dfd", __version__
    return quantized
