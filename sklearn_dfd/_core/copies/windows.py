"""Two thumbnails compared window by window: the correlation that the best windows reach.

All arrays have pixels first and pairs last, so each operation runs over many pairs at once.
"""

from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from scipy.ndimage import gaussian_filter1d
from sklearn.utils import gen_batches
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from sklearn_dfd._core.copies.candidates import Framing, candidates, framings
from sklearn_dfd._core.copies.thumbnails import SIDE, Box, stretching

_TRIM = 0.02  # share that is cut off each side, for the sizes between those of the framings
_REACH = 3  # how far from its place a window is searched for in each direction, in pixels
_PLAY = 1  # by how much a window may be shifted differently from the others
_LEAST_CONTRAST = 2.0  # standard deviation, in grey levels, of a window that is not flat
_LEAST_TELLING = 0.25  # share of windows that must not be flat
_FINEST = 0.7  # standard deviation of a blur that hides small displacements by crops
_COARSEST = 2.25  # standard deviation of the blur that is left of light and shade
_NOISE = 1.0  # standard deviation, in grey levels, of the noise of compression
_PAIRS_AT_ONCE = 64  # what fits the cache of a core


class _Look(NamedTuple):
    """Windows of one size that are searched for in the other thumbnail."""

    window: int  # side, a multiple of the stride
    stride: int
    agreeing: float  # share of the windows that must be found again
    handicap: float  # what is subtracted from the correlation of such windows


# An edit of the whole face spares few of the large windows and more of the small ones. Small
# windows match by chance more easily, so they must agree better.
_FIRST_LOOK = _Look(window=12, stride=6, agreeing=0.4, handicap=0)
_SECOND_LOOK = _Look(window=8, stride=4, agreeing=0.3, handicap=0.045)
_WORTH_A_SECOND = 0.65  # similarity at the first look; most pairs of strangers have less

_BLURS = tuple(
    gaussian_filter1d(np.eye(SIDE), sigma, axis=0, mode="nearest") for sigma in (_FINEST, _COARSEST)
)


def matches(
    first: npt.NDArray[np.uint8],
    second: npt.NDArray[np.uint8] | None,
    mirrored: bool,
    parallel: Parallel,
    verbose: int | bool = 0,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Compare each thumbnail, whole and in parts, with those most like it.

    Parameters
    ----------
    first, second, mirrored, parallel, verbose
        As for `candidates`.

    Returns
    -------
    i, j : ndarray of shape (n_pairs,), dtype int64
        Rows of `first` and of `second`. Within one set, a pair may come in either order or in both.
    similarity : ndarray of shape (n_pairs,), dtype float64
        Similarity of each pair.
    """
    # Otherwise each thread's products of matrices would run in as many threads as there are cores.
    with threadpool_limits(1, user_api="blas"):
        other = first if second is None else second
        framing, i, j = candidates(first, second, mirrored, parallel, verbose)
        order = np.argsort(framing, kind="stable")  # so that many can be compared at once
        framing, i, j = framing[order], i[order], j[order]
        batches = []
        for k, tried in enumerate(framings(mirrored)):
            start, stop = np.searchsorted(framing, [k, k + 1])
            batches += [
                (tried, slice(start + some.start, start + some.stop))
                for some in gen_batches(stop - start, _PAIRS_AT_ONCE)
            ]
        with tqdm(desc="comparing", total=len(i), unit="pair", disable=not verbose) as bar:

            def compared(tried: Framing, pairs: slice) -> npt.NDArray[np.float64]:
                similarity = _similarity(first[i[pairs]], other[j[pairs]], tried)
                bar.update(len(similarity))
                return similarity

            found = parallel(delayed(compared)(*batch) for batch in batches)
        return i, j, np.concatenate([np.zeros(0), *found])


def _similarity(
    first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8], framing: Framing
) -> npt.NDArray[np.float64]:
    """Return the correlation that the best windows of each pair reach, of shape (n_pairs,)."""
    of_first, of_second, mirrored = framing
    x, y = _detail(first, of_first, mirrored), _detail(second, of_second)
    similarity = _agreement(x, y, _FIRST_LOOK)
    again = np.flatnonzero(similarity >= _WORTH_A_SECOND)
    if not len(again):
        return similarity
    x, y = x.take(again, axis=2), y.take(again, axis=2)
    best = np.maximum(similarity[again], _agreement(x, y, _SECOND_LOOK))
    # A crop of a size between those of the framings is off by half a pixel at its sides, which is
    # enough to spoil most windows that an edit has spared.
    closer_x = _detail(first[again], _inside(of_first), mirrored)
    closer_y = _detail(second[again], _inside(of_second))
    for u, v in ((closer_x, y), (x, closer_y)):
        for look in (_FIRST_LOOK, _SECOND_LOOK):
            best = np.maximum(best, _agreement(u, v, look))
    similarity[again] = best
    return similarity


def _inside(box: Box) -> Box:
    """Shrink a box by a little on each side."""
    top, bottom, left, right = box
    height, width = _TRIM * (bottom - top), _TRIM * (right - left)
    return top + height, bottom - height, left + width, right - width


def _detail(
    thumbs: npt.NDArray[np.uint8], box: Box, mirrored: bool = False
) -> npt.NDArray[np.float32]:
    """Enlarge a part of each thumbnail and keep its lines and edges.

    Light and shade are left out: they are much the same in all portraits.
    """
    n = len(thumbs)
    top, bottom, left, right = box
    pixels = np.ascontiguousarray(thumbs.transpose(1, 2, 0), dtype=np.float32).reshape(SIDE, -1)
    blurred = []
    for blur in _BLURS:
        rows = (blur @ stretching(top, bottom)).astype(np.float32)
        columns = (blur @ stretching(left, right)[:: -1 if mirrored else 1]).astype(np.float32)
        blurred.append(columns @ (rows @ pixels).reshape(SIDE, SIDE, n))
    return blurred[0] - blurred[1]


def _agreement(
    x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], look: _Look
) -> npt.NDArray[np.float64]:
    """Return the correlation that the best windows reach in one look, less its handicap."""
    window, stride, n = look.window, look.stride, x.shape[2]
    n_cells = SIDE // stride  # squares of one stride, which the windows are made of
    at_rest = slice(_REACH, _REACH + SIDE - window + 1, stride)
    y = np.pad(y, ((_REACH, _REACH), (_REACH, _REACH), (0, 0)), mode="edge")
    n_pixels = window**2
    floor = np.float32(n_pixels * _NOISE**2)
    x_sum, y_sum = _sums(x, window)[::stride, ::stride], _sums(y, window)
    x_power, y_power = _sums(x * x, window)[::stride, ::stride], _sums(y * y, window)
    x_spread = np.maximum(x_power - x_sum**2 / n_pixels, 0)
    y_spread = np.maximum(y_power - y_sum**2 / n_pixels, 0)
    x_scale, y_scale = 1 / np.sqrt(x_spread + floor), 1 / np.sqrt(y_spread + floor)
    x_mean = x_sum / n_pixels
    n_windows = len(x_sum)
    shifts = range(2 * _REACH + 1)
    found = np.empty((len(shifts), len(shifts), n_windows, n_windows, n), dtype=np.float32)
    x_lines = x.reshape(n_cells, stride, SIDE * n)
    for down, right in product(shifts, shifts):
        shifted = y[down : down + SIDE, right : right + SIDE].reshape(x_lines.shape)
        lines = np.einsum("ijk,ijk->ik", x_lines, shifted)
        cells = lines.reshape(n_cells, n_cells, stride, n).sum(axis=2)
        together = _adjacent(_adjacent(cells, window // stride, 0), window // stride, 1)
        here = (
            slice(down, down + SIDE - window + 1, stride),
            slice(right, right + SIDE - window + 1, stride),
        )
        together -= x_mean * y_sum[here]
        together *= x_scale
        np.multiply(together, y_scale[here], out=found[down, right])
    # All windows must be shifted by the same distance, but for what a wrong scale makes of it:
    # windows that are free to move find a hairline or a shoulder of someone else.
    found = _highest_nearby(_highest_nearby(found, axis=0), axis=1)
    # A flat window matches nothing or anything, so it counts only where one of the two is not flat.
    spread = np.maximum(x_spread, y_spread[at_rest, at_rest])
    telling = spread >= n_pixels * _LEAST_CONTRAST**2
    n_telling = telling.sum(axis=(0, 1))
    if not telling.all():
        found = np.where(telling, found, np.float32(-1))
    found = np.ascontiguousarray(found.reshape(len(shifts) ** 2, -1, n).transpose(2, 0, 1))
    found.sort(axis=2)
    rank = n_windows**2 - 1 - (look.agreeing * n_telling).astype(int)
    similarity = found[np.arange(n), :, rank].max(axis=1).astype(np.float64) - look.handicap
    return np.where(n_telling >= _LEAST_TELLING * n_windows**2, similarity.clip(0, 1), 0)


def _sums(images: npt.NDArray[np.float32], window: int) -> npt.NDArray[np.float32]:
    """Return the sum of every window, at the position of its upper left corner."""
    return _adjacent(_adjacent(images, window, 0), window, 1)


def _adjacent(values: npt.NDArray[np.float32], n: int, axis: int) -> npt.NDArray[np.float32]:
    """Sum every `n` adjacent entries, in steps of doubled length."""
    values = values.swapaxes(0, axis)
    n_sums = len(values) - n + 1
    total: npt.NDArray[np.float32] | np.float32 = np.float32(0)
    done, length = 0, 1
    while done < n:
        if n & length:
            total = total + values[done : done + n_sums]
            done += length
        if done < n:
            values = values[:-length] + values[length:]
        length *= 2
    return np.asarray(total).swapaxes(0, axis)


def _highest_nearby(values: npt.NDArray[np.float32], axis: int) -> npt.NDArray[np.float32]:
    """Replace each entry by the highest of those at most `_PLAY` steps away."""
    values = values.swapaxes(0, axis)
    highest = values.copy()
    for step in range(1, _PLAY + 1):
        np.maximum(highest[step:], values[:-step], out=highest[step:])
        np.maximum(highest[:-step], values[step:], out=highest[:-step])
    return highest.swapaxes(0, axis)
