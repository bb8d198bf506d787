"""The detector for other runtimes: one file of ONNX or ExecuTorch, from images to probabilities."""

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

__all__ = ["to_executorch", "to_onnx"]


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
    pipe : Pipeline or AugmentedClassifier
        Fitted, of the two steps of :func:`~sklearn_dfd.make_deepfake_pipeline`, or what it makes
        with ``preset="accurate"``: where that averages over both mirror images, so does the file.

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
    features, classifier, mirrored = _steps(pipe)
    _check_installed("onnx" if calibration_images is None else "onnxruntime", extra="onnx")
    graph = OnnxGraph()
    side = features.image_size
    x = graph.add_squash("images", side)
    if mirrored:  # once squashed: Pillow's filter is the same from both sides
        x = graph.add_mirrored(x)
    cpu = torch.device("cpu")
    with own_torch_state(cpu):
        x = graph.add_trunk(Trunk(features._trunk_arrays(), features.layer_), x)
        shape = feature_shape(features.layer_, side)
        x = _add_tail(graph, classifier.net_.module_, x, shape)
    n_classes = len(classifier.classes_)
    x = graph.add("Softmax", x, axis=1, name="of_both" if mirrored else "probabilities")
    if mirrored:
        x = graph.add("Reshape", x, graph.constant(np.array([2, -1, n_classes])))
        x = graph.add("ReduceMean", x, axes=[0], keepdims=0, name="probabilities")
    model = graph.model(["n_images", "height", "width", 3], x, ["n_images", n_classes])
    model.producer_name, model.producer_version = "sklearn-dfd", __version__
    for key, value in _metadata(features, classifier).items():
        model.metadata_props.add(key=key, value=value)
    if calibration_images is not None:
        model = _quantized(model, calibration_images, side)
    Path(path).write_bytes(model.SerializeToString())


@validate_params(
    {"pipe": "no_validation", "path": [str, os.PathLike]}, prefer_skip_nested_validation=True
)
def to_executorch(pipe, path):
    """Write a fitted detector as one ExecuTorch program, as torch's runtime for phones takes it.

    The program takes an RGB image that is squashed to a square already, and does the rest:
    normalisation, the network, and the probabilities. These differ from ``predict_proba`` by less
    than 1e-4. It is lowered to XNNPACK, which computes on the CPUs of phones.

    Parameters
    ----------
    pipe : Pipeline or AugmentedClassifier
        Fitted, see :func:`to_onnx`.

    path : str or path
        File to write; its name usually ends in ``.pte``.

    Raises
    ------
    TypeError
        If ``pipe`` is another estimator, see :func:`to_onnx`.
    NotFittedError
        If ``pipe`` is not fitted.
    ValueError
        If the pipeline computes in bfloat16, which the file does not.
    WeightsError
        If the trunk's weights were left out when ``pipe`` was saved, and are not found.
    ImportError
        If executorch is not installed.

    See Also
    --------
    to_onnx : A file that squashes images of any size itself, and takes many at a time.

    Notes
    -----
    The method ``forward`` takes uint8 of shape (1, image_size, image_size, 3), upright RGB, one
    image a call: a program has its memory laid out in advance. It returns float32 of shape
    (1, n_classes).

    Whoever squashes by another filter than Pillow's antialiased bilinear one
    (``image.resize((side, side), PIL.Image.Resampling.BILINEAR)``) gets other probabilities:
    measure the score with the filter that you ship.

    Methods without arguments give what the metadata of an ONNX file hold, as strings: ``classes``
    (JSON, in the order of the probabilities), ``layer``, ``image_size``, ``fingerprint`` and
    ``sklearn_dfd``.

    Examples
    --------
    >>> from sklearn_dfd.export import to_executorch
    >>> to_executorch(pipe, "detector.pte")  # doctest: +SKIP
    """
    features, classifier, mirrored = _steps(pipe)
    _check_installed("executorch.exir", extra="executorch")
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    side = features.image_size
    with own_torch_state(torch.device("cpu")):
        trunk = Trunk(features._trunk_arrays(), features.layer_)
        model = _FromSquared(trunk, classifier.net_.module_, mirrored).eval()
        example = torch.zeros((1, side, side, 3), dtype=torch.uint8)
        program = to_edge_transform_and_lower(
            torch.export.export(model, (example,)),
            partitioner=[XnnpackPartitioner()],
            constant_methods=_metadata(features, classifier),
        ).to_executorch()
    Path(path).write_bytes(program.buffer)


class _FromSquared(nn.Module):
    """From squashed pixels to probabilities, by modules that torch's converters know."""

    def __init__(self, trunk, tail, mirrored):
        super().__init__()
        self.mirrored = mirrored
        self.trunk = trunk
        self.shape = tail.input_shape
        self.blocks = _folded_blocks(tail)
        self.head = nn.Sequential(*(copy.deepcopy(layer).cpu() for layer in _head(tail)))
        self.requires_grad_(False)
        for parameter in self.parameters():  # XNNPACK orders them itself, from torch's order only
            parameter.data = parameter.clone(memory_format=torch.contiguous_format)

    def forward(self, images):
        if self.mirrored:
            images = torch.cat([images, images.flip(2)])
        x = self.trunk(images)
        if self.blocks is not None:
            x = self.blocks(x.unflatten(1, self.shape)).mean((2, 3))
        x = self.head(x).softmax(1)
        return x.mean(0, keepdim=True) if self.mirrored else x


def _check_installed(module, *, extra):
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module.partition('.')[0]} is needed to write this file, and not installed here: "
            f'pip install "sklearn-dfd[{extra}]".'
        ) from error


def _metadata(features, classifier):
    """Collect what the reader of a file needs to know, as strings."""
    return {
        "classes": json.dumps(classifier.classes_.tolist(), default=str),
        "layer": str(features.layer_),
        "image_size": str(features.image_size),
        "fingerprint": features.fingerprint_,
        "sklearn_dfd": __version__,
    }


def _steps(pipe):
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


def _add_tail(graph, tail, x, shape):
    """Add the trained blocks and the head, from features to logits."""
    if tail.input_shape != shape:
        x = graph.add("Reshape", x, graph.constant(np.array([-1, *tail.input_shape])))
    blocks = _folded_blocks(tail)
    if blocks is not None:
        x = graph.add("GlobalAveragePool", graph.add_blocks(blocks, x))
    x = graph.add("Flatten", x)
    for layer in _head(tail):
        if isinstance(layer, nn.Linear):
            weight, bias = graph.constant(layer.weight), graph.constant(layer.bias)
            x = graph.add("Gemm", x, weight, bias, transB=1)
        else:
            x = graph.add("Relu", x)
    return x


def _folded_blocks(tail):
    """Copy the trained blocks, with BatchNorm folded in; None where there are none."""
    if tail.features is None:
        return None
    return fold_batch_norm(copy.deepcopy(tail.features).cpu().eval().requires_grad_(False))


def _head(tail):
    """Leave out dropout, which does nothing when one predicts."""
    return [layer for layer in tail.head if isinstance(layer, nn.Linear | nn.ReLU)]


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
