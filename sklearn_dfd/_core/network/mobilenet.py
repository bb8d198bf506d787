"""MobileNetV2 [1]_, where it is cut, and the frozen trunk.

The parameters have torchvision's names, and the modules compute what torchvision's modules do.
They are built here because ``import torchvision`` takes as long as ``import torch``, and predicting
with a saved detector should not need it. This module knows nothing of scikit-learn, files or
training.

References
----------
.. [1] M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen (2018). MobileNetV2: Inverted
   Residuals and Linear Bottlenecks. CVPR.
"""

import copy
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

LAST_BLOCK = 18
POOLED_WIDTH = 1280
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# table 2 of the paper: expansion, output channels, number of blocks, stride of the first of them
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

# output channels of features[0] ... features[18], and the blocks that halve the resolution
_CHANNELS = (32, 16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320, 1280)
_HALVING = (0, 2, 4, 7, 14)


@lru_cache(maxsize=1)
def architecture() -> Any:
    """Build MobileNetV2 on torch's meta device: names, shapes and structure without values."""
    with torch.device("meta"):
        model = nn.Module()
        model.features = nn.Sequential(*_blocks())
    return model.float().eval()  # even if the caller has set another default dtype


def _blocks() -> Iterator[nn.Module]:
    yield _unit(3, 32, 3, stride=2)
    width = 32
    for expansion, channels, n_blocks, stride in _STAGES:
        for i in range(n_blocks):
            yield InvertedResidual(width, channels, expansion, stride if i == 0 else 1)
            width = channels
    yield _unit(width, POOLED_WIDTH, 1)


def _unit(
    width: int, channels: int, kernel_size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Build a convolution followed by BatchNorm and ReLU6."""
    padding = kernel_size // 2
    return nn.Sequential(
        nn.Conv2d(width, channels, kernel_size, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """A block that expands the channels, filters each of them and projects them to fewer."""

    def __init__(self, width: int, channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        inside = width * expansion
        self.use_res_connect = stride == 1 and width == channels
        self.conv = nn.Sequential(
            *([_unit(width, inside, 1)] if expansion > 1 else []),
            _unit(inside, inside, 3, stride=stride, groups=inside),
            nn.Conv2d(inside, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute maps of shape (n_images, channels, side / stride, side / stride)."""
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


def feature_shape(layer: int | str, image_size: int) -> tuple[int, ...]:
    """Compute the shape of the features of one image.

    Parameters
    ----------
    layer : int or "pool"
        The last block of the trunk, 0 to 18, or "pool" for all of them and the average pool.
    image_size : int
        Side of the square image, in pixels.

    Returns
    -------
    shape : tuple of int
        ``(channels, side, side)``, or ``(1280,)`` for "pool".
    """
    if isinstance(layer, str):
        return (POOLED_WIDTH,)
    side = image_size
    for block in _HALVING:
        if block <= layer:
            side = -(-side // 2)
    return (_CHANNELS[layer], side, side)


def tail_input_shape(layer: int | str, width: int) -> tuple[int, ...]:
    """Compute the shape that a row of ``width`` features has as the input of the tail.

    Returns
    -------
    shape : tuple of int
        ``(channels, side, side)``, or ``(width,)`` for "pool", whose head takes any width.

    Raises
    ------
    ValueError
        If no square image has that many features at that layer; the message names layers at which
        it does.
    """
    if isinstance(layer, str):
        return (width,)
    side = _side(layer, width)
    if side is not None:
        return (_CHANNELS[layer], side, side)
    expected = feature_shape(layer, 224)
    fits = [
        f"layer={candidate!r} at image_size={size}"
        for size in sorted(range(32, 513, 32), key=lambda size: size != 224)
        for candidate in [*range(LAST_BLOCK + 1), "pool"]
        if np.prod(feature_shape(candidate, size)) == width
    ]
    hint = f"It would fit {' or '.join(fits[:4])}." if fits else "No layer gives such rows."
    raise ValueError(
        f"X has {width} feature(s), which does not fit layer={layer}: the blocks after it take "
        f"{' x '.join(map(str, expected))} = {np.prod(expected)} at image_size=224, or "
        f"{expected[0]} x side x side at another. {hint} For vectors of any width, use "
        'layer="pool".'
    )


def _side(layer: int, width: int) -> int | None:
    """Compute the side of the maps of ``width`` numbers at ``layer``; None if there are none."""
    side = round((width / _CHANNELS[layer]) ** 0.5)
    return side if side and _CHANNELS[layer] * side * side == width else None


def trunk_names(layer: int | str) -> list[str]:
    """List the names of the parameters and statistics of the trunk up to ``layer``."""
    last = LAST_BLOCK if isinstance(layer, str) else layer
    return [
        name
        for name in architecture().state_dict()
        if int(name.split(".")[1]) <= last and not name.endswith("num_batches_tracked")
    ]


class Trunk(nn.Module):
    """The frozen blocks, from images to rows of features.

    BatchNorm is folded into the convolutions, which is exact in evaluation mode, the only mode
    there is. So is the scale of the normalisation of the images. Their mean is subtracted from the
    pixels, because the zeros that the convolution pads with must stand for it.

    Parameters
    ----------
    arrays : dict of str to ndarray
        Weights by torchvision's names.
    layer : int or "pool"
        The last block, 0 to 18, or "pool".
    precision : torch.dtype, default=torch.float32
        The dtype of weights and maps.
    """

    shift: torch.Tensor

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        layer: int | str,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        last = LAST_BLOCK if isinstance(layer, str) else layer
        blocks = copy.deepcopy(architecture().features[: last + 1])
        load_blocks(blocks, arrays)
        self.features = fold_batch_norm(blocks.eval())
        self.pool = layer == "pool"
        self.precision = precision
        self.requires_grad_(False)
        scale = 255 * torch.tensor(IMAGENET_STD, dtype=torch.float32).reshape(3, 1, 1)
        shift = 255 * torch.tensor(IMAGENET_MEAN, dtype=torch.float32).reshape(3, 1, 1)
        self.features[0][0].weight.div_(scale)
        self.features.to(precision)
        self.register_buffer("shift", shift)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute features.

        Parameters
        ----------
        images : Tensor of uint8, shape (n_images, side, side, 3)

        Returns
        -------
        features : Tensor of float32, shape (n_images, n_features)
            Maps flattened channel by channel.
        """
        # a permuted view of (n, side, side, 3) already is in channels-last order
        x = images.permute(0, 3, 1, 2) - self.shift
        x = self.features(x.to(self.precision)).float()
        if self.pool:
            x = x.mean((2, 3))
        return x.contiguous().flatten(1)


def load_blocks(blocks: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Fill ``blocks``, which are on the meta device, with copies of ``arrays``."""
    state = {
        name: torch.tensor(0)
        if name.endswith("num_batches_tracked")
        else torch.tensor(arrays[f"features.{name}"])
        for name in blocks.state_dict()
    }
    blocks.load_state_dict(state, assign=True)
    for parameter in blocks.parameters():
        parameter.requires_grad_(True)


def fold_batch_norm(module: nn.Module) -> Any:
    """Replace each convolution followed by BatchNorm by one convolution, throughout, in place."""
    for name, child in module.named_children():
        module.register_module(name, fold_batch_norm(child))
    if isinstance(module, nn.Sequential):
        layers = list(module)
        for i in range(len(layers) - 1):
            convolution, norm = layers[i], layers[i + 1]
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[i] = fuse_conv_bn_eval(convolution, norm)
                module[i + 1] = nn.Identity()
    return module
