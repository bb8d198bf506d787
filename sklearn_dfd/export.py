"""The detector for other runtimes: one file of ONNX or ExecuTorch, from images to probabilities."""

import copy
import importlib
import json
import os
import tempfile
from functools import partial
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch
from sklearn.utils._param_validation import Interval, validate_params
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d
from torch import nn

from sklearn_dfd._version import __version__
from sklearn_dfd.augmented_classifier import AugmentedClassifier
from sklearn_dfd.classifier import DeepFakeClassifier
from sklearn_dfd.decoding import load_rgb, to_rgb
from sklearn_dfd.devices import own_torch_state
from sklearn_dfd.features import MobileNetV2Features
from sklearn_dfd.images import ImageError, as_image_list, describe, read_all, read_source
from sklearn_dfd.metrics import bootstrap_interval
from sklearn_dfd.mobilenet import Trunk, feature_shape, fold_batch_norm
from sklearn_dfd.onnx_graph import OnnxGraph

__all__ = ["measure_onnx_loss", "to_executorch", "to_onnx"]


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
        single ones by much more: :func:`measure_onnx_loss` before you ship the file.

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

    See Also
    --------
    measure_onnx_loss : What the file's probabilities are worth.

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
        tails = classifier.net_.module_.members()
        logits = [_add_tail(graph, tail, x, shape) for tail in tails]
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
    for key, value in _metadata(features, classifier).items():
        model.metadata_props.add(key=key, value=value)
    if calibration_images is not None:
        model = _quantized(model, calibration_images, side)
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
    pipe,
    path,
    X,
    y,
    *,
    groups=None,
    n_resamples=1000,
    confidence_level=0.95,
    random_state=None,
):
    """Measure what is lost by the file of a detector: in ROC AUC, and in single probabilities.

    Parameters
    ----------
    pipe : Pipeline or AugmentedClassifier
        What was given to :func:`to_onnx`, of two classes.

    path : str or path
        The file that :func:`to_onnx` wrote.

    X : sequence of n_images images
        Photographs that the detector was not trained on, see
        :meth:`~sklearn_dfd.MobileNetV2Features.transform`.

    y : array-like of shape (n_images,)
        Their labels; both classes must occur.

    groups : array-like of shape (n_images,), default=None
        What belongs together, and is resampled together for the interval.

    n_resamples : int, default=1000
        See :func:`~sklearn_dfd.metrics.bootstrap_interval`.

    confidence_level : float, default=0.95
        Of the interval.

    random_state : int, RandomState instance or None, default=None
        Determines the resamples.

    Returns
    -------
    loss : :class:`~sklearn.utils.Bunch`
        roc_auc, roc_auc_of_file : float
            The scores of ``predict_proba`` and of the file.
        lost, low, high : float
            The former less the latter, and the ends of the confidence interval of that difference.
        mean_difference, max_difference : float
            By how much the probabilities of a photograph differ, on average and at most.

    Raises
    ------
    TypeError, NotFittedError
        If ``pipe`` is another estimator, or not fitted, see :func:`to_onnx`.
    ValueError
        If lengths differ, ``y`` has not the two classes of the detector, the file has others, or
        there is one group only.
    ImageError
        An OSError and a ValueError: images cannot be used; it names them all.
    ImportError
        If onnxruntime is not installed.

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
    features, classifier, _ = _steps(pipe)
    _check_installed("onnxruntime", extra="onnx")
    import onnxruntime

    images, y = as_image_list(X), column_or_1d(y)
    check_consistent_length(images, y, groups)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    written = json.loads(session.get_modelmeta().custom_metadata_map.get("classes", "null"))
    classes = json.loads(_metadata(features, classifier)["classes"])
    if written != classes:
        raise ValueError(
            f"{os.fspath(path)!r} is the file of another detector: its classes are {written}, not "
            f"{classes}."
        )
    if len(classes) != 2 or set(y.tolist()) != set(classifier.classes_.tolist()):
        raise ValueError(
            f"y holds the labels {np.unique(y).tolist()} and the detector knows the classes "
            f"{classes}: both must be the same two."
        )
    probability = np.empty((len(images), 2))
    probability[:, 0] = pipe.predict_proba(images)[:, 1]
    decode = partial(to_rgb, max_pixels=features.max_pixels)
    for row in range(len(images)):  # one at a time: their sizes may differ
        (image,) = read_all(images, decode, [row])
        pixels = np.asarray(image)[np.newaxis]
        probability[row, 1] = session.run(None, {"images": pixels})[0][0, 1]
    low, high = bootstrap_interval(
        _auc_lost,
        y,
        probability,
        groups=groups,
        n_resamples=n_resamples,
        confidence_level=confidence_level,
        random_state=random_state,
    )
    difference = np.abs(probability[:, 0] - probability[:, 1])
    return Bunch(
        roc_auc=float(roc_auc_score(y, probability[:, 0])),
        roc_auc_of_file=float(roc_auc_score(y, probability[:, 1])),
        lost=_auc_lost(y, probability),
        low=low,
        high=high,
        mean_difference=float(difference.mean()),
        max_difference=float(difference.max()),
    )


def _auc_lost(y, both):
    """Area under the curve that the second column has less than the first."""
    return float(roc_auc_score(y, both[:, 0]) - roc_auc_score(y, both[:, 1]))


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

    Whoever squashes by another filter than Pillow's antialiased bilinear one, along the rows first
    (``image.resize((side, image.height), PIL.Image.Resampling.BILINEAR)``, and the same again to
    ``(side, side)``), gets other probabilities: measure the score with the filter that you ship.

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
        self.tails = nn.ModuleList(_FoldedTail(member) for member in tail.members())
        self.requires_grad_(False)
        for parameter in self.parameters():  # XNNPACK orders them itself, from torch's order only
            parameter.data = parameter.clone(memory_format=torch.contiguous_format)

    def forward(self, images):
        if self.mirrored:
            images = torch.cat([images, images.flip(2)])
        rows = self.trunk(images)
        x = sum(tail(rows).softmax(1) for tail in self.tails) / len(self.tails)
        return x.mean(0, keepdim=True) if self.mirrored else x


class _FoldedTail(nn.Module):
    """From features to logits, by the trained blocks with BatchNorm folded in, and the head."""

    def __init__(self, tail):
        super().__init__()
        self.shape = tail.input_shape
        self.blocks = _folded_blocks(tail)
        self.head = nn.Sequential(*(copy.deepcopy(layer).cpu() for layer in _head(tail)))

    def forward(self, x):
        if self.blocks is not None:
            x = self.blocks(x.unflatten(1, self.shape)).mean((2, 3))
        return self.head(x)


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
