"""Images that share a part, such as eyes pasted from one into the other, found by local features.

A pasted eye covers a few pixels of a thumbnail, so it is searched for in detail: corners and blobs
that look the same in both images and lie in the same arrangement. Nothing is drawn at random while
two images are compared: each feature has a size and a direction, so each pair of features says
where all others would have to be.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from sklearn.utils import gen_batches
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from sklearn_dfd._core.copies.local_features import Features, mirror

# The search for features that are alike
_FEATURES_PER_CELL = 400  # at least
_CELL_GROWTH = 0.6  # features per cell for each square root of all, which takes the least time
_N_CELLS_TRIED = 3
_N_ALIKE = 16  # other features that one may resemble; one that resembles this many says nothing
_ALIKE = 0.95  # least cosine of two descriptors
_N_VOTES = 3  # features alike that make two images worth comparing
_AT_ONCE = 512

# The comparison of two images
_MATCHING = 0.93  # least cosine of two descriptors
_AMBIGUITY = 0.85**2  # the nearest must be nearer than so much of the next: squared distances
_APART = 5.0  # pixels from the nearest to the next
_MAX_TURN, _MAX_ZOOM = 0.8, 1.3  # between two images, in radians and octaves
_TURN, _ZOOM = 0.35, 0.5  # by how much features of one arrangement may differ in it
_NEAR, _NEARER = 6.0, 3.0  # pixels that a feature may be off its place, before and after fitting
_N_HYPOTHESES = 5
_N_FITS = 4
_SPACING = 3.0  # pixels; features nearer to one another than this count once

_Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def shared_parts(
    first: Sequence[Features],
    second: Sequence[Features] | None,
    mirrored: bool,
    parallel: Parallel,
    verbose: int | bool = 0,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Find images that share a part.

    Parameters
    ----------
    first : sequence of n_first Features
        Features of images.
    second : sequence of n_second Features, or None
        Features of the images to compare them with; None compares those of `first` with each other.
    mirrored : bool
        Whether the mirror images of `first` are compared too.
    parallel : joblib.Parallel
        Threads to search in.
    verbose : int, default=0
        Whether to show progress bars.

    Returns
    -------
    i, j : ndarray of shape (n_pairs,), dtype int64
        Rows of `first` and of `second`. Within one set, a pair may come in either order or in both.
    n_shared : ndarray of shape (n_pairs,), dtype int64
        Number of features that both images have in the same arrangement.
    """
    turns = []
    # Otherwise each thread's products of matrices would run in as many threads as there are cores.
    with threadpool_limits(1, user_api="blas"):
        for own in [first, [mirror(f) for f in first]] if mirrored else [first]:
            turns.append(
                _compared(
                    own, first if second is None else second, second is None, parallel, verbose
                )
            )
    i, j, n_shared = (np.concatenate(values) for values in zip(*turns, strict=True))
    return i, j, n_shared


def _compared(
    first: Sequence[Features],
    second: Sequence[Features],
    within: bool,
    parallel: Parallel,
    verbose: int | bool,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Compare those images that have features alike."""
    bounds, others_bounds = (
        np.cumsum([0, *(len(f.places) for f in side)]) for side in (first, second)
    )
    descriptors = np.concatenate([f.descriptors for f in first])
    others = descriptors if second is first else np.concatenate([f.descriptors for f in second])
    a, b = _alike(descriptors, others, bounds if within else None, parallel, verbose)
    # What many images have, such as a watermark, says nothing about where a part is from.
    told, others_told = (
        np.bincount(rows, minlength=n[-1]) < _N_ALIKE
        for rows, n in ((a, bounds), (b, others_bounds))
    )
    if within:
        told = others_told = told & others_told
    arrows, others_arrows = (np.concatenate([f.arrows for f in side]) for side in (first, second))
    kept = told[a] & others_told[b] & _within(others_arrows[b] / arrows[a], _MAX_TURN, _MAX_ZOOM)
    a, b = a[kept], b[kept]
    if within:  # each pair of features counts once
        low, high = np.minimum(a, b), np.maximum(a, b)
        a, b = np.divmod(np.unique(low * len(others) + high), len(others))
    i = np.searchsorted(bounds, a, side="right") - 1
    j = np.searchsorted(others_bounds, b, side="right") - 1
    pairs, n_votes = np.unique(i * len(second) + j, return_counts=True)
    i, j = np.divmod(pairs[n_votes >= _N_VOTES], len(second))

    def telling(features: Features, kept: npt.NDArray[np.bool_]) -> Features:
        return Features(features.places[kept], features.arrows[kept], features.descriptors[kept])

    with tqdm(desc="comparing parts", total=len(i), unit="pair", disable=not verbose) as bar:

        def compared(rows: slice) -> list[int]:
            counts = [
                _n_in_arrangement(
                    telling(first[k], told[bounds[k] : bounds[k + 1]]),
                    telling(second[m], others_told[others_bounds[m] : others_bounds[m + 1]]),
                )
                for k, m in zip(i[rows], j[rows], strict=True)
            ]
            bar.update(len(counts))
            return counts

        counts = parallel(delayed(compared)(rows) for rows in gen_batches(len(i), _AT_ONCE))
    return i, j, np.array([n for some in counts for n in some], dtype=np.int64)


def _alike(
    descriptors: npt.NDArray[np.uint8],
    others: npt.NDArray[np.uint8],
    bounds: npt.NDArray[np.int64] | None,
    parallel: Parallel,
    verbose: int | bool,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Find for each descriptor others that are nearly the same, not of the same image.

    The others are put in cells around some of them, which are drawn in the same way each time, and
    only the nearest cells are searched.
    """
    none = np.empty(0, dtype=np.int64)
    if not len(descriptors) or not len(others):
        return none, none
    per_cell = max(_FEATURES_PER_CELL, round(_CELL_GROWTH * len(others) ** 0.5))
    n_cells = max(1, len(others) // per_cell)
    drawn = np.random.default_rng(0).choice(len(others), n_cells, replace=False)
    centres = _unit(others[drawn]).T

    def nearest(rows: npt.NDArray[np.uint8], n: int) -> npt.NDArray[np.int64]:
        return np.argpartition(-(_unit(rows) @ centres), n - 1, axis=1)[:, :n]

    def by_cell(rows: npt.NDArray[np.uint8], n: int) -> list[npt.NDArray[np.int64]]:
        cells = np.concatenate(
            parallel(delayed(nearest)(rows[some], n) for some in gen_batches(len(rows), _AT_ONCE))
        ).ravel()
        order = np.argsort(cells, kind="stable")
        ends = np.searchsorted(cells[order], np.arange(n_cells + 1))
        return [order[start:stop] // n for start, stop in pairwise(ends)]

    searched = by_cell(others, 1)
    queries = by_cell(descriptors, min(n_cells, _N_CELLS_TRIED))
    with tqdm(desc="searching parts", total=n_cells, unit="cell", disable=not verbose) as bar:

        def alike_in(rows: npt.NDArray[np.int64], those: npt.NDArray[np.int64]) -> _Pairs:
            found = [(none, none)]
            those_unit = _unit(others[those]).T
            for some in gen_batches(len(rows), _AT_ONCE):
                cosine = _unit(descriptors[rows[some]]) @ those_unit
                if bounds is not None:
                    image = np.searchsorted(bounds, rows[some], side="right") - 1
                    start, stop = np.searchsorted(those, (bounds[image], bounds[image + 1]))
                    column = np.arange(len(those))
                    cosine[(column >= start[:, np.newaxis]) & (column < stop[:, np.newaxis])] = -1
                if len(those) > _N_ALIKE:
                    best = np.argpartition(-cosine, _N_ALIKE - 1, axis=1)[:, :_N_ALIKE]
                    a, k = np.nonzero(np.take_along_axis(cosine, best, axis=1) >= _ALIKE)
                    b = best[a, k]
                else:
                    a, b = np.nonzero(cosine >= _ALIKE)
                found.append((rows[some][a], those[b]))
            bar.update()
            a, b = (np.concatenate(side) for side in zip(*found, strict=True))
            return a, b

        found = parallel(
            delayed(alike_in)(rows, those) for rows, those in zip(queries, searched, strict=True)
        )
    a, b = (np.concatenate(side) for side in zip(*found, strict=True))
    return a, b


def _unit(descriptors: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    values = descriptors.astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True).clip(1)


def _within(ratio: npt.NDArray[np.complex64], turn: float, zoom: float) -> npt.NDArray[np.bool_]:
    """Tell which similarity transforms turn and scale by no more than this."""
    return (np.abs(np.angle(ratio)) < turn) & (np.abs(np.log2(np.abs(ratio))) < zoom)


def _n_in_arrangement(first: Features, second: Features) -> int:
    """Count the features that two images have in the same arrangement."""
    cosine = _unit(first.descriptors) @ _unit(second.descriptors).T
    if not cosine.size:
        return 0
    a = np.arange(len(cosine))
    b = cosine.argmax(axis=1)
    kept = (cosine.argmax(axis=0)[b] == a) & (cosine[a, b] >= _MATCHING)
    kept &= _within(second.arrows[b] / first.arrows, _MAX_TURN, _MAX_ZOOM)
    a, b = a[kept], b[kept]
    # A pattern that repeats, such as that of a cloth, has the next nearest not much farther away.
    next_b = np.where(_apart(second.places, b), cosine[a], -1).max(axis=1, initial=-1)
    next_a = np.where(_apart(first.places, a), cosine[:, b].T, -1).max(axis=1, initial=-1)
    kept = 1 - cosine[a, b] <= _AMBIGUITY * (1 - np.maximum(next_a, next_b))
    a, b = a[kept], b[kept]
    if len(a) < _N_VOTES:
        return 0
    x, y = first.places[a].astype(np.complex128), second.places[b].astype(np.complex128)
    transform = second.arrows[b] / first.arrows[a]
    # Row h: which pairs lie where the pair h says, if all were turned and scaled as it is.
    off = transform[:, np.newaxis] * (x - x[:, np.newaxis]) - (y - y[:, np.newaxis])
    agree = (np.abs(off) < _NEAR) & _within(transform / transform[:, np.newaxis], _TURN, _ZOOM)
    most = 0
    for h in np.argsort(-agree.sum(axis=1), kind="stable")[:_N_HYPOTHESES]:
        inside = agree[h]
        for _ in range(_N_FITS):
            dx, dy = x - x[inside].mean(), y - y[inside].mean()
            spread = np.vdot(dx[inside], dx[inside]).real
            if spread < _SPACING**2:
                break
            fitted = np.vdot(dx[inside], dy[inside]) / spread
            if not fitted:
                break
            inside = (np.abs(fitted * dx - dy) < _NEARER) & _within(
                transform / fitted, _TURN, _ZOOM
            )
            if not inside.any():
                break
        most = max(most, min(_n_places(x[inside]), _n_places(y[inside])))
    return most


def _apart(places: npt.NDArray[np.complex64], some: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    return np.abs(places - places[some][:, np.newaxis]) > _APART


def _n_places(places: npt.NDArray[np.complex128]) -> int:
    """Count places, those close together once."""
    return len(np.unique(np.round(places / _SPACING)))
