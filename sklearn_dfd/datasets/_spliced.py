"""Photographs made on the spot, half of them with a piece pasted in."""

from numbers import Integral
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images
from sklearn.utils import Bunch, check_random_state

from sklearn_dfd._core.sklearn_private import Interval, validate_params

_TILE_HEIGHT, _TILE_WIDTH = 142, 128  # 3 x 5 of them in a photograph of 427 x 640 pixels

_SPLICED_DESCR = """\
{n_genuine} genuine and {n_spliced} spliced images in {n_groups} groups, made from the two
photographs that scikit-learn ships, china.jpg and flower.jpg. Each is cut into 15 disjoint tiles,
and an image shows a part of one tile, its group. A genuine image is a crop. A spliced one is such a
crop with a soft-edged ellipse pasted in that comes from elsewhere in the same tile, enlarged,
rotated, recoloured a little and grainier. Both classes thus show the same things, and only the
traces of the edit tell them apart. Half of all images, of either class, are mirrored.

This is a toy task to try the package with, no benchmark: it shows no faces, comes from two
photographs, and its edits are coarse. A score on it says nothing about detecting deepfakes.
"""


def _splice(
    crop: np.ndarray, tile: np.ndarray, corner: tuple[int, int], rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Paste a piece of the tile into a crop of it, which has its upper left corner at `corner`."""
    size = len(crop)
    half_y, half_x = rng.uniform(0.25, 0.35, size=2) * size
    y, x = rng.uniform(0.37, 0.63, size=2) * size
    rows, columns = np.mgrid[:size, :size] + 0.5
    radius = np.hypot((rows - y) / half_y, (columns - x) / half_x)
    alpha = np.clip((1 - radius) / 0.2, 0, 1)[..., np.newaxis]

    # Of several places to copy from, the one farthest from where the piece goes.
    places = rng.uniform(0.25, 0.75, size=(8, 2)) * tile.shape[:2]
    from_y, from_x = places[np.argmax(np.hypot(*(places - corner - (y, x)).T))]
    # A piece may reach over the tile's edge: it is mirrored there, never the neighbour shown.
    margin = size // 2
    padded = np.pad(tile, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    angle, scale = rng.uniform(-0.4, 0.4), rng.uniform(1.2, 1.6)
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    from_y, from_x = margin + from_y - sin * x - cos * y, margin + from_x - cos * x + sin * y
    piece = Image.fromarray(padded).transform(
        (size, size),
        Image.Transform.AFFINE,
        (cos, -sin, from_x, sin, cos, from_y),
        Image.Resampling.BICUBIC,
    )
    pasted = np.asarray(piece) * rng.uniform(0.95, 1.05, size=3) + rng.uniform(-5, 5, size=3)
    pasted = np.clip(pasted + rng.normal(0, 17, size=crop.shape), 0, 255)
    return np.rint(crop * (1 - alpha) + pasted * alpha).astype(np.uint8), alpha[..., 0] > 0


@validate_params(
    {
        "n_samples": [Interval(Integral, 2, None, closed="left")],
        "image_size": [Interval(Integral, 32, _TILE_WIDTH, closed="both")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_spliced_photos(
    n_samples: int = 400, *, image_size: int = 96, random_state: Any = None
) -> Bunch:
    """Make photographs, half of them with a piece of the same photograph pasted in.

    A toy task to try the package with, no benchmark: the two photographs that scikit-learn ships
    are cut into 30 tiles, and every image, genuine or spliced, shows pixels of one tile only.

    Parameters
    ----------
    n_samples : int, default=400
        Number of images, at least 2. From 60 on every group holds both classes.
    image_size : int, default=96
        Height and width of the images in pixels, from 32 to 128.
    random_state : int, RandomState instance or None, default=None
        Pass an int for the same images in every call.

    Returns
    -------
    photos : :class:`~sklearn.utils.Bunch`
        data : ndarray of shape (n_samples, image_size, image_size, 3), dtype uint8
            The images, RGB.
        target : ndarray of shape (n_samples,), dtype int64
            0 for genuine, 1 for spliced; of an odd number one more is genuine.
        target_names : ndarray of shape (2,), dtype object
            "genuine" and "spliced".
        groups : ndarray of shape (n_samples,), dtype int64
            Number of the tile, 0 to 29.
        masks : ndarray of shape (n_samples, image_size, image_size), dtype bool
            Where the pasted piece is, its soft edge included. All False for genuine images.
        DESCR : str
            Description of how the images are made.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Examples
    --------
    >>> from sklearn_dfd.datasets import make_spliced_photos
    >>> photos = make_spliced_photos(60, random_state=0)
    >>> photos.data.shape, photos.target.sum(), len(set(photos.groups))
    ((60, 96, 96, 3), np.int64(30), 30)
    """
    rng = check_random_state(random_state)
    photos = np.stack(load_sample_images().images)[:, : 3 * _TILE_HEIGHT]
    tiles = photos.reshape(2, 3, _TILE_HEIGHT, 5, _TILE_WIDTH, 3).swapaxes(2, 3)
    tiles = tiles.reshape(-1, _TILE_HEIGHT, _TILE_WIDTH, 3)
    # Genuine and spliced in turn, two of a tile together, each tile once before any comes again.
    groups = np.resize(rng.permutation(len(tiles)), (n_samples + 1) // 2).repeat(2)[:n_samples]
    order = rng.permutation(n_samples)
    target, groups = order % 2, groups[order]

    data = np.empty((n_samples, image_size, image_size, 3), dtype=np.uint8)
    masks = np.zeros((n_samples, image_size, image_size), dtype=bool)
    for row, tile in enumerate(tiles[groups]):
        top = rng.randint(_TILE_HEIGHT - image_size + 1)
        left = rng.randint(_TILE_WIDTH - image_size + 1)
        image, mask = tile[top : top + image_size, left : left + image_size], masks[row]
        if target[row]:
            image, mask = _splice(image, tile, (top, left), rng)
        mirror = slice(None, None, rng.choice([-1, 1]))
        data[row], masks[row] = image[:, mirror], mask[:, mirror]
    n_spliced = target.sum()
    return Bunch(
        data=data,
        target=target.astype(np.int64),
        target_names=np.array(["genuine", "spliced"], dtype=object),
        groups=groups.astype(np.int64),
        masks=masks,
        DESCR=_SPLICED_DESCR.format(
            n_genuine=n_samples - n_spliced, n_spliced=n_spliced, n_groups=len(np.unique(groups))
        ),
    )
