"""The detector as one ExecuTorch program, for phones."""

import os
from pathlib import Path
from typing import Any

import torch
from sklearn.pipeline import Pipeline
from torch import nn

from sklearn_dfd._core.network.mobilenet import Trunk
from sklearn_dfd._core.runtime.devices import own_torch_state
from sklearn_dfd._core.sklearn_private import validate_params
from sklearn_dfd._core.validation import import_extra
from sklearn_dfd.augmented_classifier import AugmentedClassifier
from sklearn_dfd.export._exportable import (
    detector_steps,
    file_metadata,
)
from sklearn_dfd.features import trunk_weights

__all__ = ["to_executorch"]


@validate_params(
    {"pipe": "no_validation", "path": [str, os.PathLike]}, prefer_skip_nested_validation=True
)
def to_executorch(pipe: Pipeline | AugmentedClassifier, path: str | os.PathLike[str]) -> None:
    """Write a fitted detector as one ExecuTorch program, for torch's runtime on phones.

    The program takes an RGB image that is already resized to a square (aspect ratio not kept),
    and does the rest: normalisation, the network, and the probabilities. These differ from
    ``predict_proba`` by less than 1e-4. It is lowered to XNNPACK, which runs on the CPUs of phones.

    Parameters
    ----------
    pipe : Pipeline or AugmentedClassifier
        A fitted detector; see :func:`to_onnx`.

    path : str or path
        The file to write; its name usually ends in ``.pte``.

    Raises
    ------
    TypeError
        If ``pipe`` is another estimator (see :func:`to_onnx`).
    NotFittedError
        If ``pipe`` is not fitted.
    ValueError
        If the pipeline computes in bfloat16, which the file does not, or its steps do not fit
        together, because the layer, the image size or the weights of one were changed.
    WeightsError
        If the trunk's weights were left out when ``pipe`` was saved, and are not found.
    ImportError
        If executorch is not installed.

    See Also
    --------
    to_onnx : Writes a file that resizes images of any size itself, and takes many at a time.

    Notes
    -----
    The method ``forward`` takes uint8 of shape (1, image_size, image_size, 3), upright, in RGB
    order, one image per call: the memory of a program is laid out in advance. It returns float32
    of shape (1, n_classes).

    Resizing by another filter than Pillow's antialiased bilinear one, first along the rows
    (``image.resize((side, image.height), PIL.Image.Resampling.BILINEAR)``) and then to
    ``(side, side)``, gives other probabilities: measure the score with the filter that you ship.

    Methods without arguments return what the metadata of an ONNX file hold, as strings:
    ``classes`` (JSON, in the order of the probabilities), ``layer``, ``image_size``,
    ``fingerprint`` and ``sklearn_dfd``.

    Examples
    --------
    >>> from sklearn_dfd.export import to_executorch
    >>> to_executorch(pipe, "detector.pte")  # doctest: +SKIP
    """
    features, (classifier,), mirrored = detector_steps(pipe, linear=False)
    if features.pooling is not None:
        raise ValueError(
            f"A program has no step for the summaries of pooling={features.pooling!r}: fit with "
            "pooling=None, or write an ONNX file."
        )
    import_extra("executorch.exir", "to_executorch")
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    side = features.image_size
    with own_torch_state(torch.device("cpu")):
        trunk = Trunk(trunk_weights(features), features.layer_)
        model = _FromSquared(trunk, classifier.net_.module_.tails, mirrored).eval()
        example = torch.zeros((1, side, side, 3), dtype=torch.uint8)
        program = to_edge_transform_and_lower(
            torch.export.export(model, (example,)),
            partitioner=[XnnpackPartitioner()],
            constant_methods=file_metadata(features, classifier),
        ).to_executorch()
    Path(path).write_bytes(program.buffer)


class _FromSquared(nn.Module):
    """From resized pixels to probabilities, with modules that torch's converters know."""

    def __init__(self, trunk: Trunk, tails: Any, mirrored: bool) -> None:
        super().__init__()
        self.mirrored = mirrored
        self.trunk = trunk
        self.tails: Any = nn.ModuleList(tail.folded() for tail in tails)
        self.requires_grad_(False)
        for parameter in self.parameters():  # XNNPACK reorders them itself, from torch's order only
            parameter.data = parameter.clone(memory_format=torch.contiguous_format)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.mirrored:
            images = torch.cat([images, images.flip(2)])
        rows = self.trunk(images)
        x: Any = sum(tail.plain(rows).softmax(1) for tail in self.tails) / len(self.tails)
        return x.mean(0, keepdim=True) if self.mirrored else x
