"""The tail: the blocks after the trunk and a new head.

Parameters and modules are those of torchvision. On the CPU the blocks run with their maps in
channels-last order throughout, in which convolutions are nearly as fast as plain matrix products.
The gradients must have that order too: a single one in torch's default order, such as torch's
average pool returns, would be copied by each layer before it.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sklearn_dfd._core.network.mobilenet import (
    POOLED_WIDTH,
    architecture,
    fold_batch_norm,
    load_blocks,
)

Arrays: TypeAlias = Mapping[str, np.ndarray]


class Tail(nn.Module):
    """The trained part: the blocks after the trunk, an average pool, and a new head.

    Parameters
    ----------
    layer : int or "pool"
        The last block of the trunk; with "pool" there is nothing but the head.
    input_shape : tuple of int
        Shape of one row of features; see `tail_input_shape`.
    hidden_layer_sizes : sequence of int
        Widths of the hidden layers of the head.
    n_classes : int
        Number of outputs (logits).
    dropout : float
        Probability of zeroing a hidden unit of the head in training.
    """

    def __init__(
        self,
        layer: int | str,
        input_shape: tuple[int, ...],
        hidden_layer_sizes: Sequence[int],
        n_classes: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.features: Any = None
        width = input_shape[0]
        with torch.device("meta"):  # nothing is drawn from torch's global generator
            if not isinstance(layer, str):
                self.features = copy.deepcopy(architecture().features[layer + 1 :])
                width = POOLED_WIDTH
            layers: list[nn.Module] = []
            for hidden in hidden_layer_sizes:
                linear = nn.Linear(width, hidden, dtype=torch.float32)
                layers += [linear, nn.ReLU(), Dropout(dropout)]
                width = hidden
            last = nn.Linear(width, n_classes, dtype=torch.float32)
            self.head = nn.Sequential(*layers, last)

    def initialize(self, arrays: Arrays | None, generator: torch.Generator) -> "Tail":
        """Fill the blocks from ``arrays``, and the head at random as nn.Linear does."""
        if self.features is not None:
            load_blocks(self.features, arrays or {})
        self.head.to_empty(device="cpu")
        for module in self.head:
            if isinstance(module, nn.Linear):
                bound = module.in_features**-0.5
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        return self

    def set_dropout(self, p: float, generator: torch.Generator | None = None) -> None:
        """Let dropout zero at rate ``p``, drawing from ``generator``, or as before if None.

        The generator is one of the module's device.
        """
        for module in self.head:
            if isinstance(module, Dropout):
                module.p, module.generator = p, generator or module.generator

    def has_batch_norm(self) -> bool:
        """Whether statistics are taken over the rows of a batch."""
        return any(isinstance(module, nn.BatchNorm2d) for module in self.modules())

    def has_one_pixel(self) -> bool:
        """Whether a BatchNorm layer sees maps of one pixel, and so one value per row."""
        side = self.input_shape[-1]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                side = -(-side // module.stride[0])
        return self.has_batch_norm() and side == 1

    def folded(self) -> "Tail":
        """Return a copy on the CPU for evaluation, with BatchNorm folded into the convolutions."""
        copied = copy.deepcopy(self).cpu().eval().requires_grad_(False)
        if copied.features is not None:
            fold_batch_norm(copied.features)
        return copied

    def plain(self, X: Tensor) -> Tensor:
        """Compute the logits by calling each module, so that exporters and hooks see them all."""
        if self.features is not None:
            X = self.features(X.unflatten(1, self.input_shape)).mean((2, 3))
        return self.head(X)

    def forward(self, X: Tensor) -> Tensor:
        """Compute the logits, of shape (n_rows, n_classes), of rows of features."""
        if self.features is None or X.device.type != "cpu":
            return self.plain(X)
        maps = X.unflatten(1, self.input_shape)
        return self.head(_pooled(self.features, maps, self.training))


class Tails(nn.Module):
    """One or more tails that start from different heads, learn apart and judge by their mean.

    Parameters
    ----------
    tails : sequence of Tail
        All of the same shape.
    """

    def __init__(self, tails: Sequence[Tail]) -> None:
        super().__init__()
        self.tails: Any = nn.ModuleList(tails)

    def initialize(self, arrays: Arrays | None, generator: torch.Generator) -> "Tails":
        """Fill all of them; the first is filled as it would be if it were alone."""
        for tail in self.tails:
            tail.initialize(arrays, generator)
        return self

    def set_dropout(self, p: float, generator: torch.Generator | None = None) -> None:
        """Let dropout zero at rate ``p``, drawing different units for each tail."""
        for tail in self.tails:
            tail.set_dropout(p, generator)

    def load_arrays(self, arrays: Arrays) -> None:
        """Take parameters and statistics from a file, of this release or an older one."""
        state = {
            # files written before all tails were in a list give those of a single one no prefix
            name if name.startswith("tails.") else f"tails.0.{name}": torch.tensor(array)
            for name, array in arrays.items()
        }
        self.load_state_dict(state, assign=True)

    def has_batch_norm(self) -> bool:
        """Whether statistics are taken over the rows of a batch."""
        return self.tails[0].has_batch_norm()

    def has_one_pixel(self) -> bool:
        """Whether a BatchNorm layer sees maps of one pixel, and so one value per row."""
        return self.tails[0].has_one_pixel()

    def forward(self, X: Tensor) -> Tensor:
        """Compute the logits of the mean probabilities, of shape (n_rows, n_classes)."""
        logits = [tail(X) for tail in self.tails]
        if len(logits) == 1:
            return logits[0]
        # up to a constant, which softmax does not see
        return torch.stack(logits, dim=2).log_softmax(1).logsumexp(2)


class Dropout(nn.Module):
    """Dropout that draws from a generator of its own.

    torch's own module draws from the global generator, which all threads of the process share:
    fits in two threads would change each other's masks.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Zero each number with probability ``p``, and scale the rest, in training mode."""
        if not self.training or self.p == 0:
            return x
        mask = torch.empty_like(x).bernoulli_(1 - self.p, generator=self.generator)
        return x * mask.div_(1 - self.p)


def _pooled(blocks: nn.Sequential, maps: Tensor, training: bool) -> Tensor:
    """Run blocks on maps in channels-last order, and average over the pixels."""
    x = maps.contiguous(memory_format=torch.channels_last)
    run = _trained if training else _folded
    for block in blocks:
        y = run(block, x)
        x = x + y if getattr(block, "use_res_connect", False) else y
    # unlike that of a mean, the gradient of a sum is a view
    return x.sum((2, 3)) / (x.shape[2] * x.shape[3])


def _units(block: nn.Module) -> list[tuple[Any, Any, bool]]:
    """Return each convolution of a block with its BatchNorm, and whether ReLU6 follows."""
    layers = [m for m in block.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.ReLU6)]
    return [
        (layer, layers[i + 1], i + 2 < len(layers) and isinstance(layers[i + 2], nn.ReLU6))
        for i, layer in enumerate(layers)
        if isinstance(layer, nn.Conv2d)
    ]


def _trained(block: nn.Module, x: Tensor) -> Tensor:
    """Run a block, normalising by the statistics of the batch."""
    for convolution, norm, clamped in _units(block):
        x = convolution(x)
        if clamped:
            norm.num_batches_tracked.add_(1)
            mean, var = norm.running_mean, norm.running_var
            x = _NormClamp.apply(x, norm.weight, norm.bias, mean, var, norm.momentum, norm.eps)
        else:
            x = norm(x)
    return x


def _folded(block: nn.Module, x: Tensor) -> Tensor:
    """Run a block in evaluation mode, in which BatchNorm is part of the convolution."""
    for convolution, norm, clamped in _units(block):
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        x = F.conv2d(
            x,
            convolution.weight * scale.reshape(-1, 1, 1, 1),
            norm.bias - norm.running_mean * scale,
            convolution.stride,
            convolution.padding,
            groups=convolution.groups,
        )
        if clamped:
            x = F.relu6(x, inplace=True)
    return x


class _NormClamp(torch.autograd.Function):
    """BatchNorm in training and ReLU6, by torch's own kernels, with half of their memory.

    As two modules they would keep, or clone, the map between them.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, momentum, eps):
        y, mean, invstd = torch.native_batch_norm(
            x, weight, bias, running_mean, running_var, True, momentum, eps
        )
        y.clamp_(0, 6)
        ctx.save_for_backward(x, weight, mean, invstd, y)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx, gradient):
        x, weight, mean, invstd, y = ctx.saved_tensors
        gradients = torch.ops.aten.native_batch_norm_backward(
            torch.ops.aten.hardtanh_backward(gradient, y, 0, 6),
            x,
            weight,
            None,
            None,
            mean,
            invstd,
            True,
            ctx.eps,
            [True, True, True],
        )
        return *gradients, None, None, None, None
