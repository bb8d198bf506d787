"""Maps summarised by a few numbers per channel: by their means, or by cells of a grid."""

import numpy as np
import numpy.typing as npt

from sklearn_dfd._core.network.mobilenet import LAST_BLOCK, feature_shape

#: Cells along each side of the grid.
GRID = 3


def pooled_width(layer: int | str, image_size: int, pooling: str | None) -> int:
    """Compute the number of features of one image.

    Parameters
    ----------
    layer : int or "pool"
        The last block of the trunk, 0 to 18, or "pool".
    image_size : int
        Side of the square image, in pixels.
    pooling : {"mean", "grid"} or None
        How the maps are summarised; see `pooled`.

    Returns
    -------
    width : int

    Raises
    ------
    ValueError
        If ``layer`` is "pool", which is pooled already, or the maps are smaller than the grid.
    """
    shape = feature_shape(layer, image_size)
    if pooling is None:
        return int(np.prod(shape))
    if layer == "pool":
        raise ValueError(
            f'layer="pool" gives the averages of block {LAST_BLOCK}, and nothing is left for '
            f"pooling={pooling!r}: leave pooling=None, or set layer={LAST_BLOCK}."
        )
    if pooling == "mean":
        return shape[0]
    if shape[1] < GRID:
        raise ValueError(
            f'pooling="grid" needs maps of {GRID} x {GRID} or more, and those of layer={layer} '
            f"have {shape[1]} x {shape[1]} at image_size={image_size}: raise image_size, take an "
            'earlier layer, or pooling="mean".'
        )
    return 2 * shape[0] * GRID**2


def pooled(
    rows: npt.NDArray[np.float32], shape: tuple[int, ...], pooling: str
) -> npt.NDArray[np.float32]:
    """Summarise maps.

    Parameters
    ----------
    rows : ndarray of float32, shape (n_images, channels * side * side)
        What the trunk returns.
    shape : (int, int, int)
        Channels, side and side of the maps.
    pooling : {"mean", "grid"}
        ``"mean"`` averages each map. ``"grid"`` takes the mean and the standard deviation of each
        map in each of 3 x 3 cells.

    Returns
    -------
    summaries : ndarray of float32, shape (n_images, n_features)
        One mean per channel; or the means of all channels, cell by cell, then the deviations.
    """
    maps = rows.reshape(len(rows), shape[0], -1)
    if pooling == "mean":
        return maps.mean(axis=2)
    weights, cells = grid_matrices(shape[1])
    means = maps @ weights
    # from the mean of its own cell: a difference of squares would cancel
    deviations = np.sqrt(np.square(maps - means @ cells) @ weights)
    return np.concatenate([means, deviations], axis=1).reshape(len(rows), -1)


def grid_matrices(side: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Make the matrices that average maps over cells, and spread the cells over maps again.

    Parameters
    ----------
    side : int
        Side of the maps, in pixels.

    Returns
    -------
    weights : ndarray of float32, shape (side * side, 9)
        The weight of each pixel in the mean of each cell, row by row. Each pixel is in one cell;
        where three does not divide the side, cells differ by one pixel.
    cells : ndarray of float32, shape (9, side * side)
        One where a pixel is in a cell, zero elsewhere.
    """
    of_axis = np.zeros((side, GRID), dtype=np.float32)
    for cell, pixels in enumerate(np.array_split(np.arange(side), GRID)):
        of_axis[pixels, cell] = 1 / len(pixels)
    weights = np.kron(of_axis, of_axis)
    return weights, np.ascontiguousarray((weights > 0).T, dtype=np.float32)
