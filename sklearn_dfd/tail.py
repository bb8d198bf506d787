"""The tail: the blocks after the trunk and a new head; faster than torch's in evaluation.

Training runs torchvision's modules as they are: most of it is matrix products already. In
evaluation on the CPU the maps of a batch lie channel by channel, as a matrix of (channels,
rows x pixels). A 1x1 convolution is then one matrix product, with BatchNorm folded into it, and a
depthwise convolution on a small map is a product with one small matrix a channel.
"""

import copy
from functools import lru_cache

import torch
from torch import nn
from torch.nn import functional as F

from sklearn_dfd.mobilenet import POOLED_WIDTH, architecture, load_blocks

# up to this side a depthwise convolution is faster as a product with a (pixels x pixels) matrix
_MATRIX_SIDE = 8


class Tail(nn.Module):
    """The trained part: the blocks after the trunk, average pool, and a new head.

    Parameters
    ----------
    layer : int or "pool"
        The last block of the trunk; "pool" leaves the head alone.
    input_shape : tuple of int
        Shape of one row of features, see :func:`tail_input_shape`.
    hidden_layer_sizes : sequence of int
        Widths of the hidden layers of the head.
    n_classes : int
        Number of outputs (logits).
    dropout : float
        Probability of zeroing a hidden unit of the head in training.
    """

    def __init__(self, layer, input_shape, hidden_layer_sizes, n_classes, dropout):
        super().__init__()
        self.input_shape = input_shape
        self.features = None
        width = input_shape[0]
        with torch.device("meta"):  # no draw from torch's global generator
            if layer != "pool":
                self.features = copy.deepcopy(architecture().features[layer + 1 :])
                width = POOLED_WIDTH
            layers: list[nn.Module] = []
            for hidden in hidden_layer_sizes:
                linear = nn.Linear(width, hidden, dtype=torch.float32)
                layers += [linear, nn.ReLU(), Dropout(dropout)]
                width = hidden
            last = nn.Linear(width, n_classes, dtype=torch.float32)
            self.head = nn.Sequential(*layers, last)

    def initialize(self, arrays, generator):
        """Fill the blocks from ``arrays`` and the head at random, as nn.Linear does."""
        if self.features is not None:
            load_blocks(self.features, arrays)
        self.head.to_empty(device="cpu")
        for module in self.head:
            if isinstance(module, nn.Linear):
                bound = module.in_features**-0.5
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        return self

    def set_dropout(self, p, generator):
        """Let dropout zero at the rate ``p``, drawing from ``generator`` on the module's device."""
        for module in self.head:
            if isinstance(module, Dropout):
                module.p, module.generator = p, generator

    def has_batch_norm(self):
        """Whether statistics are taken over the rows of a batch."""
        return any(isinstance(module, nn.BatchNorm2d) for module in self.modules())

    def has_one_pixel(self):
        """Whether a BatchNorm layer sees maps of one pixel, and thus a single value of one row."""
        side = self.input_shape[-1]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                side = -(-side // module.stride[0])
        return self.has_batch_norm() and side == 1

    def forward(self, X):
        """Logits of shape (n_rows, n_classes) for rows of features (n_rows, width)."""
        if self.features is not None:
            maps = X.unflatten(1, self.input_shape)
            if self.training or X.device.type != "cpu":
                X = self.features(maps).mean((2, 3))
            else:
                X = _as_matrix_products(self.features, maps)
        return self.head(X)


class Dropout(nn.Module):
    """Dropout that draws from a generator of its own.

    torch's own module draws from the global generator, which every thread of the process
    shares: two fits in two threads would then change each other's masks.
    """

    def __init__(self, p):
        super().__init__()
        self.p = p
        self.generator = None

    def forward(self, x):
        """Zero each number with probability ``p``, and scale the rest, in training mode."""
        if not self.training or self.p == 0:
            return x
        mask = torch.empty_like(x).bernoulli_(1 - self.p, generator=self.generator)
        return x * mask.div_(1 - self.p)


def _as_matrix_products(blocks, maps):
    """Run blocks in evaluation mode on matrices of (channels, rows x pixels), and average."""
    n_rows, channels, side, _ = maps.shape
    x = maps.transpose(0, 1).reshape(channels, -1)
    for block in blocks:
        y, y_side = x, side
        for convolution, norm, clamped in _units(block):
            y, y_side = _unit(convolution, norm, y, n_rows, y_side)
            if clamped:
                y = F.relu6(y, inplace=True)
        x, side = (x + y if getattr(block, "use_res_connect", False) else y), y_side
    return x.reshape(len(x), n_rows, -1).mean(2).T


def _units(block):
    """Yield the convolutions of a block, each with its BatchNorm, and whether ReLU6 follows."""
    layers = [m for m in block.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.ReLU6)]
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.Conv2d):
            yield layer, layers[i + 1], i + 2 < len(layers) and isinstance(layers[i + 2], nn.ReLU6)


def _unit(convolution, norm, x, n_rows, side):
    """Convolve and normalise in one: BatchNorm in evaluation mode is an affine map."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = (norm.bias - norm.running_mean * scale).unsqueeze(1)
    weight = convolution.weight * scale.reshape(-1, 1, 1, 1)
    if convolution.kernel_size == (1, 1):
        return torch.addmm(shift, weight.flatten(1), x), side
    channels, stride = len(x), convolution.stride[0]
    if side <= _MATRIX_SIDE:
        placement = _placement(side, stride).to(weight.dtype)
        matrices = (weight.flatten(1) @ placement).reshape(channels, side**2, -1)
        y, side = torch.bmm(x.reshape(channels, n_rows, -1), matrices), -(-side // stride)
    else:
        maps = x.reshape(channels, n_rows, side, side).transpose(0, 1)
        y = F.conv2d(maps, weight, stride=stride, padding=1, groups=channels).transpose(0, 1)
        side = y.shape[-1]
    return y.reshape(channels, -1).add_(shift), side


@lru_cache(maxsize=16)
def _placement(side, stride):
    """Where each of 3x3 weights stands in the (pixels in, pixels out) matrix, flattened."""
    with torch.inference_mode(False):
        pixels = torch.eye(side * side, dtype=torch.float32).reshape(-1, 1, side, side)
        return F.unfold(pixels, 3, padding=1, stride=stride).transpose(0, 1).flatten(1).contiguous()
