"""torchvision's own MobileNetV2, and inputs for it: what trunk and tail are compared with."""

from functools import cache

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.models import mobilenet_v2

from sklearn_dfd._core.network.mobilenet import IMAGENET_MEAN, IMAGENET_STD, feature_shape
from sklearn_dfd._core.network.tail import Tail

LAYERS = [*range(19), "pool"]


@cache
def torchvision_model(path=None):
    """torchvision's mobilenet_v2 in evaluation mode; on the meta device without a path."""
    with torch.device("meta"):
        model = mobilenet_v2()
    if path is not None:
        model.load_state_dict(torch.load(path, weights_only=True), assign=True)
    return model.eval()


def photographs(n_images, size, seed=0):
    """Random images with structure at several scales."""
    rng = np.random.default_rng(seed)
    image = np.zeros((n_images, size, size, 3))
    for grain in (1, 4, 16):
        cells = -(-size // grain)
        noise = rng.normal(0, 40, (n_images, cells, cells, 3))
        image += noise.repeat(grain, 1).repeat(grain, 2)[:, :size, :size]
    return torch.tensor(np.clip(image + 120, 0, 255).astype(np.uint8))


@torch.no_grad()
def expected_features(model, images, layer):
    """Features by torchvision's modules alone, as its documentation says."""
    mean = torch.tensor(IMAGENET_MEAN).reshape(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD).reshape(1, 3, 1, 1)
    x = (images.permute(0, 3, 1, 2).contiguous().float() / 255 - mean) / std
    for block in model.features[: (18 if layer == "pool" else layer) + 1]:
        x = block(x)
    if layer == "pool":
        x = F.adaptive_avg_pool2d(x, 1)
    return x.flatten(1)


def assert_same_arrays(arrays, state):
    """Arrays of ours are those of a state dict of torchvision's."""
    names = [n for n in state if n.startswith("features.") and "num_batches" not in n]
    assert sorted(arrays) == sorted(names)
    for name in names:
        assert arrays[name].dtype == np.float32
        np.testing.assert_array_equal(arrays[name], state[name].numpy())


def relative_error(result, expected):
    return ((result - expected).abs().max() / expected.abs().max()).item()


def make_tail(arrays, layer=15, size=64, hidden=(32, 8), n_classes=2, dropout=0.2, seed=0):
    tail = Tail(layer, feature_shape(layer, size), hidden, n_classes, dropout)
    return tail.initialize(arrays, torch.Generator().manual_seed(seed))
