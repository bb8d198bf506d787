"""Fakes made from real photographs, to train on: parts of a face under a soft mask.

After "Detecting Deepfakes with Self-Blended Images" (K. Shiohara, T. Yamasaki, CVPR 2022), whose
masks come from landmarks; these come from where eyes, nose and mouth of a centred face are.
"""

from functools import partial

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter

from sklearn_dfd._core.images.decoding import load_rgb
from sklearn_dfd._core.images.reading import read_all

# centre and half-axes, in shares of the sides
_PARTS = {
    "left eye": (0.37, 0.42, 0.12, 0.07),
    "right eye": (0.63, 0.42, 0.12, 0.07),
    "nose": (0.50, 0.56, 0.08, 0.12),
    "mouth": (0.50, 0.72, 0.15, 0.09),
}


def _mask(rng, side):
    y, x = np.mgrid[:side, :side] / side
    mask = np.zeros((side, side), dtype=bool)
    shift, scale = rng.normal(0, 0.03, 2), np.exp(rng.normal(0, 0.12))
    for part in rng.permutation(list(_PARTS))[: rng.integers(1, 5)]:
        *centre, width, height = _PARTS[part]
        left, top = 0.5 + (np.array(centre) - 0.5) * scale + shift
        width, height = scale * np.exp(rng.normal(0, 0.2, 2)) * (width, height)
        mask |= ((x - left) / width) ** 2 + ((y - top) / height) ** 2 < 1
    return mask


def _moved(image, rng, far):
    scale, middle = np.exp(rng.normal(0, 0.06)), len(image) / 2
    offset = middle - (middle + rng.normal(0, far, 2)) / scale
    layers = [
        affine_transform(layer, np.eye(2) / scale, offset=offset, order=1, mode="nearest")
        for layer in np.moveaxis(image, 2, 0)
    ]
    return np.stack(layers, axis=2)


def blend(photograph, donor, rng, side=160):
    """Return a fake, uint8 of shape (side, side, 3); a donor that is the photograph is changed."""
    pixels = read_all([photograph, donor], partial(load_rgb, image_size=side))
    face, other = (image.astype(np.float32) for image in pixels)
    mask = _mask(rng, side)
    if photograph == donor:
        other = _moved(other, rng, far=2.5) * np.exp(rng.normal(0, 0.08, 3)) + rng.normal(0, 8)
        soft = gaussian_filter(other, (1, 1, 0))
        other = other + rng.uniform(-1, 0.6) * (other - soft)  # blurred, or sharpened
    else:
        other = _moved(other, rng, far=4)
        if mask.any():  # the colours of what it covers
            own, foreign = face[mask], other[mask]
            spread = (own.std(0) + 4) / (foreign.std(0) + 4)
            matched = (other - foreign.mean(0)) * np.clip(spread, 0.7, 1.4) + own.mean(0)
            other += rng.uniform(0.5, 1) * (matched - other)
    weight = rng.choice([0.75, 1, 1, 1]) * gaussian_filter(
        mask.astype(np.float32), rng.uniform(0.6, 4)
    )
    return np.clip(face + weight[..., None] * (other - face), 0, 255).astype(np.uint8)


def with_blends(X, y, n_blends, own, random_state=0):
    """Add ``n_blends`` fakes to each real photograph (label 0), from its own or others' parts."""
    rng = np.random.default_rng(random_state)
    real = np.flatnonzero(y == 0)
    data = list(X)
    for photograph in np.repeat(real, n_blends):
        donor = photograph if own else rng.choice(real[real != photograph])
        data.append(blend(X[photograph], X[donor], rng))
    return data, np.concatenate([y, np.ones(len(data) - len(X), dtype=y.dtype)])
