"""Which pairs of thumbnails are worth comparing: the nearest of each, whole and in parts."""

from itertools import pairwise
from threading import Lock
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from scipy.ndimage import gaussian_filter1d
from sklearn.utils import gen_batches
from tqdm.auto import tqdm

from sklearn_dfd._core.copies.thumbnails import SIDE, Box, stretching

_COARSE_SIDE = 12  # of the smaller thumbnails that candidates are found with
_N_NEIGHBORS = 20  # candidates per image, each image taken in parts
_N_NEIGHBORS_OF_WHOLE = 4  # candidates per image that may be parts of it
_LEAST_SIMILARITY = 0.5  # of a candidate
_SIZES = (0.93, 0.85, 0.77, 0.68)  # of the parts that are searched for, as shares of the side
_NOISE = 1.0  # standard deviation, in grey levels, of the noise of compression
# A first search in fewer dimensions, whose nearest are compared in all of them.
_N_DIMENSIONS = 48
_N_SHORTLISTED = 100  # in place of _N_NEIGHBORS
_N_SHORTLISTED_OF_WHOLE = 12  # in place of _N_NEIGHBORS_OF_WHOLE
_LEAST_SHORTLISTED = 0.2  # in place of _LEAST_SIMILARITY
_N_SAMPLED = 10_000  # thumbnails that the dimensions are chosen by
_ROWS_AT_ONCE, _COLUMNS_AT_ONCE = 512, 1024  # what fits the cache of a core

_PAIR = np.dtype([("first", np.int32), ("second", np.int32), ("similarity", np.float32)])
_WHOLE: Box = (0.0, 1.0, 0.0, 1.0)


class Framing(NamedTuple):
    """The parts of two images that show the same, if both are of one photograph."""

    of_first: Box
    of_second: Box
    mirrored: bool


def framings(mirrored: bool) -> list[Framing]:
    """List the framings to try: both whole, the second a part of the first, and both shifted.

    The first as a part of the second need not be tried, since each image is the first once.

    Parameters
    ----------
    mirrored : bool
        Whether each is tried with the first mirrored, too.

    Returns
    -------
    framings : list of Framing
        The framings.
    """
    boxes = [(_WHOLE, _WHOLE)]
    for size in _SIZES:
        places = (0, (1 - size) / 2, 1 - size)
        boxes += [((y, y + size, x, x + size), _WHOLE) for y in places for x in places]
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
        Framing(*pair, flip) for flip in ([False, True] if mirrored else [False]) for pair in boxes
    ]


def candidates(
    first: npt.NDArray[np.uint8],
    second: npt.NDArray[np.uint8] | None,
    mirrored: bool,
    parallel: Parallel,
    verbose: int | bool = 0,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Find the most similar thumbnails for each, whole and in parts.

    Parameters
    ----------
    first : ndarray of shape (n_first, SIDE, SIDE), dtype uint8
        Thumbnails, as `thumbnail` makes them.
    second : ndarray of shape (n_second, SIDE, SIDE), dtype uint8, or None
        Thumbnails to compare them with; None compares those of `first` with each other.
    mirrored : bool
        Whether the mirror images of `first` are compared too.
    parallel : joblib.Parallel
        Threads to search in.
    verbose : int, default=0
        Whether to show a progress bar.

    Returns
    -------
    framing : ndarray of shape (n_pairs,), dtype int64
        Index of the framing in which each pair is most alike, in ``framings(mirrored)``.
    i, j : ndarray of shape (n_pairs,), dtype int64
        Rows of `first` and of `second`. Within one set, a pair may come in either order or in both.
    """
    search = _Search(first, second, framings(mirrored))
    blocks = list(gen_batches(len(first), _ROWS_AT_ONCE))
    bar = tqdm(
        desc="searching",
        total=len(first),
        unit="image",
        disable=not verbose,
    )

    def searched(rows: slice) -> npt.NDArray[np.void]:
        found = search.nearest(rows)
        bar.update(rows.stop - rows.start)
        return found

    with bar:
        found = np.concatenate(parallel(delayed(searched)(rows) for rows in blocks))
    # Many copies of one photograph all have the same few nearest images, and the other copies would
    # not be candidates in the framing that fits. So each of `second` has a few candidates too.
    pairs = np.sort(search.of_whole.pairs(), order="first")
    ends = np.searchsorted(pairs["first"], [rows.stop for rows in blocks])
    of_whole = np.concatenate(
        parallel(
            delayed(search.compared)(rows, pairs[start:stop])
            for rows, (start, stop) in zip(blocks, pairwise([0, *ends]), strict=True)
        )
    )
    of_whole = _most_similar(of_whole, "second", _N_NEIGHBORS_OF_WHOLE)
    both = np.concatenate([found, of_whole])
    i, j = both["first"].astype(np.int64), both["second"].astype(np.int64)
    _, new = np.unique(i * search.n_second + j, return_index=True)
    return both["framing"][new].astype(np.int64), i[new], j[new]


class _Search:
    """Descriptors of thumbnails, and the search for the most similar ones.

    Parameters
    ----------
    first, second, framings
        As for `candidates` and as `framings` returns them.

    Attributes
    ----------
    n_second : int
        Number of thumbnails that others are compared with.
    of_whole : _Shortlist
        Pairs found so far for each of the second set.
    """

    def __init__(
        self,
        first: npt.NDArray[np.uint8],
        second: npt.NDArray[np.uint8] | None,
        framings: list[Framing],
    ) -> None:
        self._first = first
        self._framings = framings
        self._within = second is None
        second = first if second is None else second
        self.n_second = len(second)
        boxes = dict.fromkeys(framing.of_second for framing in framings)
        # In batches, since 100,000 thumbnails in floating point take a gigabyte.
        self._of_second = {
            box: np.concatenate(
                [_coarse(second[rows], box) for rows in gen_batches(len(second), _ROWS_AT_ONCE)]
            )
            for box in boxes
        }
        sample = self._of_second[_WHOLE][:: -(-len(second) // _N_SAMPLED)].astype(np.float64)
        self._axes = np.linalg.eigh(sample.T @ sample)[1][:, -_N_DIMENSIONS:].astype(np.float32)
        self._in_few = {box: values @ self._axes for box, values in self._of_second.items()}
        self.of_whole = _Shortlist("second", len(second), _N_SHORTLISTED_OF_WHOLE)
        self._adding = Lock()

    def nearest(self, rows: slice) -> npt.NDArray[np.void]:
        """Find the candidates of some rows of the first set."""
        of_first = self._describe(rows)
        in_few = of_first @ self._axes
        n, start = len(of_first), rows.start
        shortlist = _Shortlist("first", n, _N_SHORTLISTED)
        for columns in gen_batches(self.n_second, _COLUMNS_AT_ONCE):
            nearest = np.full((n, columns.stop - columns.start), -1, dtype=np.float32)
            product = np.empty_like(nearest)
            for k, framing in enumerate(self._framings):
                np.matmul(in_few[:, k], self._in_few[framing.of_second][columns].T, out=product)
                np.maximum(nearest, product, out=nearest)
            if self._within:
                same = np.arange(max(start, columns.start), min(rows.stop, columns.stop))
                nearest[same - start, same - columns.start] = -1
            shortlist.add(nearest, nearest >= shortlist.least[:, np.newaxis], 0, columns.start)
            near = nearest >= self.of_whole.least[columns]
            with self._adding:
                self.of_whole.add(nearest, near, start, columns.start)
        pairs = shortlist.pairs()
        pairs["first"] += start
        return _most_similar(self.compared(rows, pairs, of_first), "first", _N_NEIGHBORS)

    def compared(
        self,
        rows: slice,
        pairs: npt.NDArray[np.void],
        of_first: npt.NDArray[np.float32] | None = None,
    ) -> npt.NDArray[np.void]:
        """Compare pairs, which are in the order of some rows, in all dimensions and framings."""
        compared = np.empty(len(pairs), dtype=[*_PAIR.descr, ("framing", np.int16)])
        compared["first"], compared["second"] = pairs["first"], pairs["second"]
        if not len(pairs):
            return compared
        of_first = self._describe(rows) if of_first is None else of_first
        by_box = {
            box: [k for k, framing in enumerate(self._framings) if framing.of_second == box]
            for box in self._of_second
        }
        ends = np.searchsorted(pairs["first"], np.arange(rows.start, rows.stop + 1))
        for descriptors, (start, stop) in zip(of_first, pairwise(ends), strict=True):
            if start < stop:
                values = np.empty((len(self._framings), stop - start), dtype=np.float32)
                for box, which in by_box.items():
                    others = self._of_second[box][pairs["second"][start:stop]]
                    values[which] = descriptors[which] @ others.T
                compared["framing"][start:stop] = values.argmax(axis=0)
                compared["similarity"][start:stop] = values.max(axis=0)
        return compared[compared["similarity"] > _LEAST_SIMILARITY]

    def _describe(self, rows: slice) -> npt.NDArray[np.float32]:
        """Describe rows of the first set, each in all framings."""
        thumbs = self._first[rows]
        described = [_coarse(thumbs, f.of_first, f.mirrored) for f in self._framings]
        return np.stack(described, axis=1)


class _Shortlist:
    """The most similar pairs of each row of one set.

    Parameters
    ----------
    side : {"first", "second"}
        The set whose rows are meant.
    n_rows : int
        Number of its rows.
    n : int
        Number of pairs to keep of each.

    Attributes
    ----------
    least : ndarray of shape (n_rows,), dtype float32
        Similarity that a pair of each row must have to be worth adding.
    """

    def __init__(self, side: Literal["first", "second"], n_rows: int, n: int) -> None:
        self.least = np.full(n_rows, _LEAST_SHORTLISTED, dtype=np.float32)
        self._side, self._n = side, n
        self._kept = np.empty(0, dtype=_PAIR)
        self._added: list[npt.NDArray[np.void]] = []

    def add(
        self,
        similarity: npt.NDArray[np.float32],
        near: npt.NDArray[np.bool_],
        first: int,
        second: int,
    ) -> None:
        """Add those pairs of a block that are near; the block starts at these two rows."""
        i, j = np.nonzero(near)
        pairs = np.empty(len(i), dtype=_PAIR)
        pairs["first"], pairs["second"], pairs["similarity"] = (
            i + first,
            j + second,
            similarity[i, j],
        )
        self._added.append(pairs)
        if sum(map(len, self._added)) > max(len(self._kept), len(self.least)):
            self.pairs()

    def pairs(self) -> npt.NDArray[np.void]:
        """Return the pairs in the order of the rows, the most similar first."""
        pairs = np.concatenate([self._kept, *self._added])
        self._kept, self._added = _most_similar(pairs, self._side, self._n), []
        rows = self._kept[self._side]
        last = (
            self._n
            - 1
            + np.flatnonzero(rows[self._n - 1 :] == rows[: max(len(rows) - self._n + 1, 0)])
        )
        self.least[rows[last]] = self._kept["similarity"][last]
        return self._kept.copy()


def _most_similar(
    pairs: npt.NDArray[np.void], side: Literal["first", "second"], n: int
) -> npt.NDArray[np.void]:
    """Keep the `n` most similar pairs of each row of one set, in order."""
    other = "second" if side == "first" else "first"
    order = np.lexsort((pairs[other], -pairs["similarity"], pairs[side]))
    rows = pairs[side][order]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    return pairs[order[rank < n]]


_BLUR = gaussian_filter1d(np.eye(_COARSE_SIDE), 2.0, axis=0, mode="nearest")
_BLUR_OF_ALL = np.kron(_BLUR, _BLUR).T.astype(np.float32)
_MEANS = np.eye(_COARSE_SIDE).repeat(SIDE // _COARSE_SIDE, axis=1) * _COARSE_SIDE / SIDE


def _coarse(
    thumbs: npt.NDArray[np.uint8], box: Box, mirrored: bool = False
) -> npt.NDArray[np.float32]:
    """Describe a part of each thumbnail by a unit vector.

    It says how much lighter each place is than its surroundings.
    """
    n = len(thumbs)
    top, bottom, left, right = box
    rows = (_MEANS @ stretching(top, bottom)).astype(np.float32)
    columns = (_MEANS @ stretching(left, right)[:: -1 if mirrored else 1]).astype(np.float32)
    x = thumbs.reshape(-1, SIDE).astype(np.float32) @ columns.T
    x = (rows @ x.reshape(n, SIDE, -1)).reshape(n, -1)
    x -= x @ _BLUR_OF_ALL
    # The local contrast is normalised, so a dark corner counts as much as a bright one.
    x /= np.sqrt((x * x) @ _BLUR_OF_ALL + _NOISE**2)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)
