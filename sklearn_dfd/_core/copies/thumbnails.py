"""Grey thumbnails compared location by location: candidates first, then window by window."""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from PIL import Image
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter, uniform_filter1d
from sklearn.utils import gen_batches
from tqdm.auto import tqdm

_SIDE = 48  # of a thumbnail, in pixels, which are the unit of all lengths below
_COARSE_SIDE = 12  # of the smaller thumbnails that candidates are found with
_N_NEIGHBORS = 20  # candidates per image, each image taken in parts
_N_NEIGHBORS_OF_WHOLE = 4  # candidates per image, as a whole of which others are parts
_LEAST_COARSE_SIMILARITY = 0.5  # of a candidate
_SIZES = (
    0.93,
    0.85,
    0.77,
    0.68,
)  # of the parts in which an image is searched for, as shares of its side
_TRIM = 0.02  # share that is cut off each side, for the sizes between these
_REACH = 3  # how far from its place a window is searched for, in each direction
_PLAY = 1  # by how much a window may be shifted differently from the others
_LEAST_CONTRAST = 2.0  # standard deviation, in grey levels, of a window that is not flat
_LEAST_TELLING = 0.25  # share of windows that must not be flat
_FINEST = 0.7  # standard deviation of a blur that hides small displacements by crops
_NOISE = 1.0  # standard deviation, in grey levels, of the noise of compression
_FRAME_SIDE = 384  # the shorter side is not reduced below this before frames are searched for
_FRAME_NOISE = 16  # grey levels by which compression may change a bar of one colour
_FRAME_BLUR = 4  # pixels over which compression may blur its end
_N_FRAMES = 2  # frames within one another
_LEAST_IN_FRAME = 0.2  # share of a side that must be left
_FLAT_SIDE = 5  # of a square of one colour; smaller ones are not filled in
_LEAST_FLAT = 0.04  # share of the picture; smaller areas are not filled in
_ROWS_AT_ONCE = 512  # of thumbnails, in the search for candidates
_PAIRS_AT_ONCE = 128

_Box: TypeAlias = tuple[float, float, float, float]  # top, bottom, left, right, from 0 to 1


class _Look(NamedTuple):
    """Windows of one size that are searched for in the other thumbnail."""

    window: int  # side
    stride: int
    agreeing: float  # share of the windows that must be found again
    handicap: float  # what the correlation of such windows counts less than that of others


# An edit of the whole face spares few of the large windows and more of the small ones. Small
# windows match by chance more easily, so they must agree better.
_FIRST_LOOK = _Look(window=12, stride=6, agreeing=0.4, handicap=0)
_SECOND_LOOK = _Look(window=8, stride=4, agreeing=0.3, handicap=0.045)
_WORTH_A_SECOND = 0.65  # similarity at the first look; most pairs of strangers have less


class _Framing(NamedTuple):
    """The parts of two images that show the same, if both are of one photograph."""

    of_first: _Box
    of_second: _Box
    mirrored: bool


def _framings(mirrored: bool) -> list[_Framing]:
    """List the framings to try: both whole, the second a part of the first, and both shifted.

    The first as a part of the second need not be tried, since each image is the first once.
    """
    whole = (0.0, 1.0, 0.0, 1.0)
    boxes = [(whole, whole)]
    for size in _SIZES:
        places = (0, (1 - size) / 2, 1 - size)
        boxes += [((y, y + size, x, x + size), whole) for y in places for x in places]
    low, high = (0.0, 0.88), (0.12, 1.0)
    middle = (0.06, 0.94)
    for y, x, other_y, other_x in (
        (low, middle, high, middle),
        (middle, low, middle, high),
        (low, low, high, high),
        (low, high, high, low),
    ):
        boxes.append(((*y, *x), (*other_y, *other_x)))
    return [
        _Framing(*pair, flip) for flip in ([False, True] if mirrored else [False]) for pair in boxes
    ]


def thumbnail(image: Image.Image) -> np.ndarray:
    """Shrink an image to a grey square, uint8 of shape (side, side)."""
    grey = image.convert("L").reduce(max(1, min(image.size) // _FRAME_SIDE))
    grey = Image.fromarray(_unframed(np.asarray(grey)))
    return _continued(np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)))


def _unframed(grey: np.ndarray) -> np.ndarray:
    """Cut off frames: bars of one colour, alike on two opposite sides, that end along a line."""
    for _ in range(2 * _N_FRAMES):
        unlike = np.abs(grey - np.median(grey[0])) > _FRAME_NOISE
        share = unlike.mean(axis=1)
        # A bar ends abruptly, a plain background little by little, where somebody's head begins.
        (start, end), (stop, other_end) = (
            (np.argmax(lines > 0.1), np.argmax(lines > 0.5)) for lines in (share, share[::-1])
        )
        sharp = start <= end <= start + _FRAME_BLUR and stop <= other_end <= stop + _FRAME_BLUR
        inside = grey[
            end + 1 : len(grey) - other_end - 1
        ]  # without the lines in between, which mix
        alike = abs(end - other_end) <= 2
        if start and stop and sharp and alike and len(inside) > _LEAST_IN_FRAME * len(grey):
            grey = inside
        grey = grey.T
    return grey


def _continued(thumb: np.ndarray) -> np.ndarray:
    """Fill in areas of one colour from around them, so that the edge of a mask is not matched."""
    flat = maximum_filter(thumb, _FLAT_SIDE) == minimum_filter(thumb, _FLAT_SIDE)
    # Most must have the same colour: a plain wall, which is kept, is lighter on one side.
    of_one = flat & (thumb == np.bincount(thumb[flat], minlength=1).argmax())
    if of_one.mean() < _LEAST_FLAT or 2 * of_one.sum() < flat.sum():
        return thumb
    # Out to their edges, and over the pixels there that mix both sides.
    flat = maximum_filter(of_one, _FLAT_SIDE + 2)
    if flat.all():
        return thumb
    x = thumb.astype(np.float32)
    known = 1 - flat.astype(np.float32)
    filled = np.full_like(x, (x * known).sum() / known.sum())
    for sigma in (16, 8, 4, 2, 1):
        weight = gaussian_filter(known, sigma)
        near = np.minimum(10 * weight, 1)
        filled += near * (gaussian_filter(x * known, sigma) / np.maximum(weight, 1e-6) - filled)
    return np.where(flat, filled, x).round().astype(np.uint8)


def matches(
    first: np.ndarray,
    second: np.ndarray | None,
    mirrored: bool,
    parallel: Parallel,
    verbose: int | bool = 0,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Compare each thumbnail, whole and in parts, with those most like it.

    Parameters
    ----------
    first : ndarray of shape (n_first, side, side), dtype uint8
        Thumbnails, as `thumbnail` makes them.
    second : ndarray of shape (n_second, side, side), dtype uint8, or None
        Thumbnails to compare them with; None compares those of `first` with each other.
    mirrored : bool
        Whether the mirror images of `first` are compared too.
    parallel : joblib.Parallel
        Threads to compare in.
    verbose : int, default=0
        Whether to show a progress bar.

    Yields
    ------
    i, j : ndarray of shape (n_pairs,), dtype int64
        Rows of `first` and of `second`. Within one set, a pair may come in either order or in both.
    similarity : ndarray of shape (n_pairs,), dtype float64
        Similarity of each pair.
    """
    within = second is None
    other = first if second is None else second
    batches = list(_candidates(first, other, _framings(mirrored), within))
    with tqdm(
        desc="comparing", total=sum(len(i) for _, i, _ in batches), unit="pair", disable=not verbose
    ) as bar:

        def compared(
            framing: _Framing, i: npt.NDArray[np.int64], j: npt.NDArray[np.int64]
        ) -> npt.NDArray[np.float64]:
            similarity = _similarity(first[i], other[j], framing)
            bar.update(len(i))
            return similarity

        scores = parallel(delayed(compared)(*batch) for batch in batches)
    for (_, i, j), similarity in zip(batches, scores, strict=True):
        yield i, j, similarity


def _candidates(
    first: np.ndarray, second: np.ndarray, framings: list[_Framing], within: bool
) -> Iterator[tuple[_Framing, np.ndarray, np.ndarray]]:
    """Yield candidates: how to frame them, rows of `first` and rows of `second`."""
    of_second: dict[_Box, np.ndarray] = {}
    for framing in framings:
        if framing.of_second not in of_second:
            # In batches: 100,000 enlarged thumbnails take a gigabyte.
            of_second[framing.of_second] = np.concatenate(
                [
                    _coarse(_part(second[at], framing.of_second))
                    for at in gen_batches(len(second), _ROWS_AT_ONCE)
                ]
            )
    n_neighbors = min(_N_NEIGHBORS, len(second) - within)
    if not n_neighbors:
        return

    def framed(
        parts: list[np.ndarray], start: int, i: np.ndarray, j: np.ndarray
    ) -> Iterator[tuple[_Framing, np.ndarray, np.ndarray]]:
        # Which framing it was is cheaper to compute for the few candidates than to keep for all.
        best = np.argmax(
            [
                np.einsum("ij,ij->i", descriptors[i], of_second[framing.of_second][j])
                for descriptors, framing in zip(parts, framings, strict=True)
            ],
            axis=0,
        )
        for k in np.unique(best):
            chosen = np.flatnonzero(best == k)
            for some in gen_batches(len(chosen), _PAIRS_AT_ONCE):
                yield framings[k], start + i[chosen[some]], j[chosen[some]]

    taken = []  # pairs, each as one number
    # Many copies of one photograph all have the same few nearest images, and the other copies would
    # not be candidates in the framing that fits. So each of `second` has a few candidates too.
    value = np.full((_N_NEIGHBORS_OF_WHOLE, len(second)), -1, dtype=np.float32)
    row = np.zeros((_N_NEIGHBORS_OF_WHOLE, len(second)), dtype=np.int64)
    for at in gen_batches(len(first), _ROWS_AT_ONCE):
        of_first = [_coarse(_part(first[at], f.of_first, f.mirrored)) for f in framings]
        nearest = np.full((at.stop - at.start, len(second)), -1, dtype=np.float32)
        for descriptors, framing in zip(of_first, framings, strict=True):
            np.maximum(nearest, descriptors @ of_second[framing.of_second].T, out=nearest)
        if within:
            nearest[np.arange(len(nearest)), np.arange(at.start, at.stop)] = -1
        j = np.argpartition(-nearest, n_neighbors - 1, axis=1)[:, :n_neighbors].ravel()
        i = np.arange(len(nearest)).repeat(n_neighbors)
        i, j = i[(near := nearest[i, j] > _LEAST_COARSE_SIMILARITY)], j[near]
        taken.append((at.start + i) * len(second) + j)
        value, row = _highest(value, row, nearest, at.start)
        yield from framed(of_first, at.start, i, j)
    near = value > _LEAST_COARSE_SIMILARITY
    i, j = row[near], np.nonzero(near)[1]
    new = ~np.isin(i * len(second) + j, np.concatenate(taken))
    i, j = i[new], j[new]
    for at in gen_batches(len(first), _ROWS_AT_ONCE):
        here = (i >= at.start) & (i < at.stop)
        if here.any():
            of_first = [_coarse(_part(first[at], f.of_first, f.mirrored)) for f in framings]
            yield from framed(of_first, at.start, i[here] - at.start, j[here])


def _highest(
    value: np.ndarray, row: np.ndarray, more: np.ndarray, start: int
) -> tuple[np.ndarray, np.ndarray]:
    """Merge more rows into the highest values of each column so far, and into their row numbers."""
    n_kept, columns = len(value), np.arange(value.shape[1])
    if len(more) > n_kept:
        rows = np.argpartition(-more, n_kept - 1, axis=0)[:n_kept]
    else:
        rows = np.arange(len(more))[:, np.newaxis].repeat(len(columns), axis=1)
    value = np.concatenate([value, more[rows, columns]])
    row = np.concatenate([row, start + rows])
    chosen = np.argpartition(-value, n_kept - 1, axis=0)[:n_kept]
    return value[chosen, columns], row[chosen, columns]


def _part(thumbs: np.ndarray, box: _Box, mirrored: bool = False) -> np.ndarray:
    """Enlarge a part of each thumbnail to the size of the whole, as float32."""
    top, bottom, left, right = box
    columns = _interpolation(left, right)[:: -1 if mirrored else 1]
    return _interpolation(top, bottom) @ thumbs.astype(np.float32) @ columns.T


def _interpolation(start: float, stop: float) -> np.ndarray:
    """Make the matrix that stretches a part of a line of pixels over its whole, linearly."""
    places = _SIDE * start + (np.arange(_SIDE) + 0.5) * (stop - start) - 0.5
    distance = np.abs(places[:, np.newaxis] - np.arange(_SIDE))
    weights = np.maximum(1 - distance, 0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _coarse(thumbs: np.ndarray) -> np.ndarray:
    """Describe each thumbnail by a unit vector: how much lighter each place is than around it."""
    n, step = len(thumbs), _SIDE // _COARSE_SIDE
    x = thumbs.reshape(n, _COARSE_SIDE, step, _COARSE_SIDE, step).mean(axis=(2, 4))
    x = x - _blurred(x, 2.0)
    # The local contrast is normalised, so that a dark corner counts as much as a bright one.
    x = (x / np.sqrt(_blurred(x * x, 2.0) + _NOISE**2)).reshape(n, -1)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)


def _similarity(first: np.ndarray, second: np.ndarray, framing: _Framing) -> np.ndarray:
    """Return the correlation that the best windows of each pair reach, of shape (n_pairs,)."""
    of_first, of_second, mirrored = framing
    x = _detail(_part(first, of_first, mirrored))
    y = _detail(_part(second, of_second))
    similarity = _agreement(x, y, _FIRST_LOOK)
    again = np.flatnonzero(similarity >= _WORTH_A_SECOND)
    if not len(again):
        return similarity
    x, y = x[again], y[again]
    best = np.maximum(similarity[again], _agreement(x, y, _SECOND_LOOK))
    # A crop of a size between those of the framings is off by half a pixel at its sides, which is
    # enough to spoil most windows that an edit has spared.
    closer_x = _detail(_part(first[again], _inside(of_first), mirrored))
    closer_y = _detail(_part(second[again], _inside(of_second)))
    for u, v in ((closer_x, y), (x, closer_y)):
        for look in (_FIRST_LOOK, _SECOND_LOOK):
            best = np.maximum(best, _agreement(u, v, look))
    similarity[again] = best
    return similarity


def _inside(box: _Box) -> _Box:
    """Shrink a box by a little on each side."""
    top, bottom, left, right = box
    height, width = _TRIM * (bottom - top), _TRIM * (right - left)
    return top + height, bottom - height, left + width, right - width


def _agreement(x: np.ndarray, y: np.ndarray, look: _Look) -> np.ndarray:
    """Return the correlation that the best windows reach in one look, less its handicap."""
    window, stride, reach = look.window, look.stride, _REACH
    y = np.pad(y, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    n_pixels = window**2
    floor = n_pixels * _NOISE**2
    x_mean, x_power = _window_means(x, window), _window_means(x * x, window)
    x_mean, x_power = x_mean[:, ::stride, ::stride], x_power[:, ::stride, ::stride]
    y_mean, y_power = _window_means(y, window), _window_means(y * y, window)
    x_spread = n_pixels * np.maximum(x_power - x_mean**2, 0) + floor
    y_spread = n_pixels * np.maximum(y_power - y_mean**2, 0) + floor
    n_windows = x_mean.shape[1]
    starts = stride * np.arange(n_windows)[:, np.newaxis]
    places = np.arange(_SIDE)
    inside = ((places >= starts) & (places < starts + window)).astype(np.float32)
    at_rest = slice(reach, reach + _SIDE - window + 1, stride)
    y_at_rest = (y_power - y_mean**2)[:, at_rest, at_rest]
    shifts = range(2 * reach + 1)
    found = np.empty((len(x), len(shifts), len(shifts), n_windows, n_windows), dtype=np.float32)
    for down, right in product(shifts, shifts):
        products = x * y[:, down : down + _SIDE, right : right + _SIDE]
        here = (
            slice(None),
            slice(down, down + _SIDE - window + 1, stride),
            slice(right, right + _SIDE - window + 1, stride),
        )
        together = inside @ (products @ inside.T) - n_pixels * x_mean * y_mean[here]
        found[:, down, right] = together / np.sqrt(x_spread * y_spread[here])
    # All windows must be shifted by the same distance, but for what a wrong scale makes of it:
    # windows that are free to move find a hairline or a shoulder of somebody else.
    found = maximum_filter(found, (1, 1 + 2 * _PLAY, 1 + 2 * _PLAY, 1, 1), mode="nearest")
    # A flat window matches nothing or anything, so it counts only where one of the two is not flat.
    telling = np.maximum(x_power - x_mean**2, y_at_rest) >= _LEAST_CONTRAST**2
    n_telling = telling.sum(axis=(1, 2))
    found = np.where(telling[:, np.newaxis, np.newaxis], found, -1)
    found = np.sort(found.reshape(len(x), len(shifts) ** 2, -1), axis=2)[:, :, ::-1]
    rank = (look.agreeing * n_telling).astype(int)
    similarity = (found[np.arange(len(x)), :, rank].max(axis=1) - look.handicap).clip(0, 1)
    return np.where(n_telling >= _LEAST_TELLING * n_windows**2, similarity, 0)


def _detail(thumbs: np.ndarray) -> np.ndarray:
    """Keep lines and edges only: light and shade are much the same in all portraits."""
    return _blurred(thumbs, _FINEST) - _blurred(thumbs, 2.25)


def _blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    return gaussian_filter(images, (0, sigma, sigma), mode="nearest")


def _window_means(images: np.ndarray, window: int) -> np.ndarray:
    """Return the mean of every window, at the position of its upper left corner."""
    for axis in (1, 2):
        images = uniform_filter1d(images, window, axis=axis, origin=-(window // 2))
    return images[:, : 1 - window, : 1 - window]
