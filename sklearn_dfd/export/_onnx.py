"""The detector for other runtimes: one ONNX file, from images to probabilities."""

import json
import os
import tempfile
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch
from sklearn.utils.validation import check_consistent_length, column_or_1d
from torch import nn

from sklearn_dfd._core.bootstrap import auc_lost
from sklearn_dfd._core.images.decoding import Decoding, load_rgb, to_rgb
from sklearn_dfd._core.images.reading import read_all, read_source
from sklearn_dfd._core.images.sources import as_image_list, describe
from sklearn_dfd._core.network.mobilenet import Trunk, feature_shape
from sklearn_dfd._core.network.onnx_graph import OnnxGraph
from sklearn_dfd._core.network.pooling import grid_matrices
from sklearn_dfd._core.runtime.devices import own_torch_state
from sklearn_dfd._core.sklearn_private import Interval, validate_params
from sklearn_dfd._core.validation import check_same_two_classes, import_extra
from sklearn_dfd._core.version import __version__
from sklearn_dfd.augmented_classifier import AugmentedClassifier
from sklearn_dfd.classifier import DeepFakeClassifier
from sklearn_dfd.exceptions import ImageError
from sklearn_dfd.export._exportable import (
    detector_steps,
    file_metadata,
)
from sklearn_dfd.features import decoding_of, trunk_weights
from sklearn_dfd.metrics import bootstrap_interval

__all__ = ["measure_onnx_loss", "to_onnx"]


@validate_params(
    {
        "pipe": "no_validation",
        "path": [str, os.PathLike],
        "calibration_images": "no_validation",
    },
    prefer_skip_nested_validation=True,
)
def to_onnx(
    pipe: Pipeline | AugmentedClassifier,
    path: str | os.PathLike[str],
    *,
    calibration_images: Any = None,
) -> None:
    """Write a fitted detector as one ONNX file, which needs neither Python nor torch.

    The model takes RGB images of any size and does all the rest: resizing to a square (aspect
    ratio not kept), normalisation, the network, and the probabilities. These differ from
    ``predict_proba`` by less than 1e-4.

    Parameters
    ----------
    pipe : Pipeline or AugmentedClassifier
        A fitted detector of :func:`~sklearn_dfd.make_deepfake_pipeline`, with any preset. If the
        detector averages over mirror images, so does the file.

    path : str or path
        The file to write.

    calibration_images : sequence of images, default=None
        If given, the network computes with 8-bit integers, and the file is a quarter of the size.
        The ranges of the activations are measured on these images: pass a hundred or more of those
        that the detector was trained on. The probabilities then differ by several per cent, and
        some by much more: use :func:`measure_onnx_loss` before you ship the file.

    Raises
    ------
    TypeError
        If ``pipe`` is another estimator. Pass the ``best_estimator_`` of a search; calibrations
        and ensembles cannot be written.
    NotFittedError
        If ``pipe`` is not fitted.
    ValueError
        If the pipeline computes in bfloat16, which the file does not, or its steps do not fit
        together, because the layer, the image size or the weights of one were changed.
    WeightsError
        If the trunk's weights were left out when ``pipe`` was saved, and are not found.
    ImageError
        If a calibration image cannot be used.
    ImportError
        If onnx is not installed, or onnxruntime with ``calibration_images``.

    See Also
    --------
    measure_onnx_loss : Measures how much the file's scores differ.

    Notes
    -----
    The input is called ``images``: uint8, of shape (n_images, height, width, 3), upright, in RGB
    order (an array from ``cv2.imread`` is BGR: pass ``image[..., ::-1]``). Both n_images and the
    size may change from call to call; images of different sizes need separate calls. The output is
    called ``probabilities``: float32, of shape (n_images, n_classes).

    The resizing equals Pillow's to the last bit, and takes 24 bytes per pixel of the images: pass
    large photographs one at a time.

    Decoding is left to the caller, and so is the orientation, which photographs from phones have in
    their EXIF data (:func:`PIL.ImageOps.exif_transpose`). If the pipeline has ``decoding="fast"``
    and decodes fewer pixels of a photograph, the probabilities differ by more than 1e-4.

    The metadata of the file hold the ``classes`` (JSON, in the order of the probabilities), the
    ``layer`` and the ``image_size``, the ``fingerprint`` of the trunk's weights, the version of
    this package, and ``max_pixels`` where it is set.

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
    features, steps, mirrored = detector_steps(pipe, linear=True)
    classifier = steps[-1]
    import_extra("onnx" if calibration_images is None else "onnxruntime", "to_onnx")
    graph = OnnxGraph()
    side = features.image_size
    x = graph.add_squash("images", side)
    if mirrored:  # after resizing: Pillow's filter is symmetric
        x = graph.add_mirrored(x)
    cpu = torch.device("cpu")
    with own_torch_state(cpu):
        x = graph.add_trunk(Trunk(trunk_weights(features), features.layer_), x)
        shape = feature_shape(features.layer_, side)
        x = _add_pooling(graph, features.pooling, x, shape)
        if isinstance(classifier, DeepFakeClassifier):
            tails = classifier.net_.module_.tails
            logits = [_add_tail(graph, tail, x, shape) for tail in tails]
        else:
            logits = [_add_linear(graph, steps[0], classifier, x)]
    n_classes = len(classifier.classes_)
    name = "of_both" if mirrored else "probabilities"
    if len(logits) == 1:
        x = graph.add("Softmax", *logits, axis=1, name=name)
    else:
        x = graph.add("Mean", *(graph.add("Softmax", each, axis=1) for each in logits), name=name)
    if mirrored:
        x = graph.add("Reshape", x, graph.constant(np.array([2, -1, n_classes])))
        x = graph.add("ReduceMean", x, axes=[0], keepdims=0, name="probabilities")
    model = graph.model(["n_images", "height", "width", 3], x, ["n_images", n_classes])
    model.producer_name, model.producer_version = "sklearn-dfd", __version__
    for key, value in file_metadata(features, classifier).items():
        model.metadata_props.add(key=key, value=value)
    if calibration_images is not None:
        model = _quantized(model, calibration_images, decoding_of(features))
    Path(path).write_bytes(model.SerializeToString())


@validate_params(
    {
        "pipe": "no_validation",
        "path": [str, os.PathLike],
        "X": "no_validation",
        "y": ["array-like"],
        "groups": ["array-like", None],
        "n_resamples": [Interval(Integral, 1, None, closed="left")],
        "confidence_level": [Interval(Real, 0, 1, closed="neither")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def measure_onnx_loss(
    pipe: Pipeline | AugmentedClassifier,
    path: str | os.PathLike[str],
    X: Any,
    y: npt.ArrayLike,
    *,
    groups: npt.ArrayLike | None = None,
    n_resamples: int = 1000,
    confidence_level: float = 0.95,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Measure what the file of a detector loses in ROC AUC, and how much probabilities differ.

    Parameters
    ----------
    pipe : Pipeline or AugmentedClassifier
        The detector of two classes that was given to :func:`to_onnx`.

    path : str or path
        The file that :func:`to_onnx` wrote.

    X : sequence of n_images images
        Photographs that the detector was not trained on, see
        :meth:`~sklearn_dfd.MobileNetV2Features.transform`.

    y : array-like of shape (n_images,)
        Their labels, by position. Both classes must occur. It does not matter which one is
        positive: all measurements are the same for both.

    groups : array-like of shape (n_images,), default=None
        The group of each photograph. Groups are resampled as a whole for the interval.

    n_resamples : int, default=1000
        Number of resamples; see :func:`~sklearn_dfd.metrics.bootstrap_interval`.

    confidence_level : float, default=0.95
        The confidence level of the interval.

    random_state : int, RandomState instance or None, default=None
        Seed of the resampling.

    Returns
    -------
    loss : :class:`~sklearn.utils.Bunch`
        The measurements, as attributes:

        roc_auc, roc_auc_of_file : float
            The ROC AUC of ``predict_proba`` and that of the file.
        lost, low, high : float
            The former minus the latter, and the ends of the confidence interval of that difference.
        mean_difference, max_difference : float
            The mean and the largest absolute difference between the two probabilities of a
            photograph.

    Raises
    ------
    TypeError
        If ``pipe`` is another estimator (see :func:`to_onnx`).
    NotFittedError
        If ``pipe`` is not fitted.
    ValueError
        If lengths differ, ``y`` does not hold the two classes of the detector, the file has other
        classes, or all photographs form one group.
    ImageError
        If images cannot be used. All of them are named, by their positions in ``X``.
    ImportError
        If onnxruntime is not installed.

    See Also
    --------
    to_onnx : Writes the file.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn_dfd import make_deepfake_pipeline
    >>> from sklearn_dfd.datasets import make_spliced_photos
    >>> from sklearn_dfd.export import measure_onnx_loss, to_onnx
    >>> photos = make_spliced_photos(60, random_state=0)
    >>> train, test = photos.groups < 15, photos.groups >= 15
    >>> pipe = make_deepfake_pipeline(weights=None, image_size=64, max_epochs=1, random_state=0)
    >>> pipe = pipe.fit(photos.data[train], photos.target[train])
    >>> with TemporaryDirectory() as directory:
    ...     path = Path(directory, "detector.onnx")
    ...     to_onnx(pipe, path)
    ...     loss = measure_onnx_loss(
    ...         pipe, path, photos.data[test], photos.target[test],
    ...         groups=photos.groups[test], random_state=0,
    ...     )
    >>> f"{loss.max_difference:.3f}"
    '0.000'
    """
    features, steps, _ = detector_steps(pipe, linear=True)
    classifier = steps[-1]
    onnxruntime = import_extra("onnxruntime", "measure_onnx_loss")

    images = as_image_list(X)
    truth: npt.NDArray[Any] = column_or_1d(y)
    check_consistent_length(images, truth, groups)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    written = json.loads(session.get_modelmeta().custom_metadata_map.get("classes", "null"))
    classes = json.loads(file_metadata(features, classifier)["classes"])
    if written != classes:
        raise ValueError(
            f"{os.fspath(path)!r} is the file of another detector: its classes are {written}, not "
            f"{classes}."
        )
    check_same_two_classes(truth, classifier.classes_)
    probability = np.empty((len(images), 2))
    probability[:, 0] = pipe.predict_proba(images)[:, 1]
    decode = partial(to_rgb, max_pixels=features.max_pixels)
    for row in range(len(images)):  # one at a time: their sizes may differ
        (image,) = read_all(images, decode, [row])
        pixels = np.asarray(image)[np.newaxis]
        probability[row, 1] = session.run(None, {"images": pixels})[0][0, 1]
    low, high = bootstrap_interval(
        auc_lost,
        truth,
        probability,
        groups=groups,
        n_resamples=n_resamples,
        confidence_level=confidence_level,
        random_state=random_state,
    )
    difference = np.abs(probability[:, 0] - probability[:, 1])
    return Bunch(
        roc_auc=float(roc_auc_score(truth, probability[:, 0])),
        roc_auc_of_file=float(roc_auc_score(truth, probability[:, 1])),
        lost=auc_lost(truth, probability),
        low=low,
        high=high,
        mean_difference=float(difference.mean()),
        max_difference=float(difference.max()),
    )


def _add_tail(graph: OnnxGraph, tail: Any, x: str, shape: tuple[int, ...]) -> str:
    """Add the trained blocks and the head, from features to logits."""
    if tail.input_shape != shape:
        x = graph.add("Reshape", x, graph.constant(np.array([-1, *tail.input_shape])))
    tail = tail.folded()
    if tail.features is not None:
        x = graph.add("GlobalAveragePool", graph.add_blocks(tail.features, x))
    x = graph.add("Flatten", x)
    for layer in tail.head:  # dropout does nothing in evaluation
        if isinstance(layer, nn.Linear):
            weight, bias = graph.constant(layer.weight), graph.constant(layer.bias)
            x = graph.add("Gemm", x, weight, bias, transB=1)
        elif isinstance(layer, nn.ReLU):
            x = graph.add("Relu", x)
    return x


def _add_pooling(graph: OnnxGraph, pooling: str | None, x: str, shape: tuple[int, ...]) -> str:
    """Add the nodes that summarise the maps, as `pooled` does."""
    if pooling is None:
        return x
    if pooling == "mean":
        return graph.add("GlobalAveragePool", x)
    weights, cells = map(graph.constant, grid_matrices(shape[1]))
    x = graph.add("Reshape", x, graph.constant(np.array([0, 0, shape[1] * shape[2]])))
    means = graph.add("MatMul", x, weights)
    away = graph.add("Sub", x, graph.add("MatMul", means, cells))
    squares = graph.add("MatMul", graph.add("Mul", away, away), weights)
    return graph.add("Concat", means, graph.add("Sqrt", squares), axis=1)


def _add_linear(
    graph: OnnxGraph, scaler: StandardScaler, classifier: LogisticRegression, x: str
) -> str:
    """Add a standardised linear classifier, from features to logits."""
    weight, bias = classifier.coef_, classifier.intercept_
    if len(classifier.classes_) == 2:  # one row of weights, for the second class
        weight, bias = np.vstack([0 * weight, weight]), np.append(0 * bias, bias)
    if scaler.with_std:
        weight = weight / scaler.scale_
    if scaler.with_mean:  # otherwise the mean is known, and not subtracted
        bias = bias - weight @ scaler.mean_
    of_float32 = (graph.constant(each.astype(np.float32)) for each in (weight, bias))
    return graph.add("Gemm", graph.add("Flatten", x), *of_float32, transB=1)


def _quantized(model: Any, images: Any, decoding: Decoding) -> Any:
    """Turn convolutions into integer ones, by the ranges that activations have on ``images``."""
    import onnx
    from onnxruntime import quantization

    sources = as_image_list(images)

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = iter(range(len(sources)))

        def get_next(self) -> dict[str, Any] | None:
            row = next(self.rows, None)
            if row is None:
                return None
            try:
                pixels = load_rgb(read_source(sources[row]), *decoding)
                return {"images": pixels[np.newaxis]}
            except (OSError, ValueError, TypeError) as error:
                failure = (row, describe(sources[row]), str(error))
                raise ImageError([failure], len(sources), hint="Leave it out.") from error

    metadata = list(model.metadata_props)
    # needs no preparation: BatchNorm is folded, and the shapes are known
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
