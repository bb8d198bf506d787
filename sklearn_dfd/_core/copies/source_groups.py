"""Which images were made from the same photograph, found by comparing thumbnails.

Grey thumbnails are compared location by location: an edit that replaces a mouth leaves hair,
outline and background where they were, while two people who look alike agree nowhere exactly.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

from sklearn_dfd._core.copies.local_features import Features, local_features
from sklearn_dfd._core.copies.parts import shared_parts
from sklearn_dfd._core.copies.thumbnails import thumbnail
from sklearn_dfd._core.copies.windows import matches
from sklearn_dfd._core.groups import check_groups
from sklearn_dfd._core.images.decoding import DerivedImage, RawImage, content_digest, to_rgb
from sklearn_dfd._core.images.reading import read_all
from sklearn_dfd._core.images.sources import as_image_list, describe, place_of
from sklearn_dfd._core.sklearn_private import Interval, validate_params
from sklearn_dfd._core.validation import import_extra
from sklearn_dfd.exceptions import LeakageError

__all__ = ["check_leakage", "find_copies", "find_source_groups"]


_CONSTRAINTS: dict[str, list[object]] = {
    "threshold": [Interval(Real, 0, 1, closed="right")],
    "mirrored": ["boolean"],
    "parts": ["boolean"],
    "n_jobs": [Integral, None],
    "verbose": ["verbose"],
}


@validate_params(_CONSTRAINTS, prefer_skip_nested_validation=True)
def find_source_groups(
    X: Any,
    *,
    groups: npt.ArrayLike | None = None,
    threshold: float = 0.89,
    mirrored: bool = False,
    parts: bool = False,
    n_jobs: int | None = None,
    verbose: int | bool = 0,
) -> npt.NDArray[np.int64]:
    """Group images that were made from the same photograph.

    Images share a group if :func:`find_copies` links them, directly or through others. A photograph
    and its views (:class:`~sklearn_dfd.augmentation.View`) always do, whatever the views show.

    Parameters
    ----------
    X : sequence of images
        Paths, PIL images, uint8 arrays or encoded bytes, as for
        :meth:`MobileNetV2Features.transform`. Each is read once.
    groups : array-like of shape (n_images,), default=None
        What is known to belong together, such as the `groups` of a loader: images that share a
        label stay in one group. Frames of one film always do.
    threshold : float, default=0.89
        Lowest similarity at which two images are linked, above 0 and up to 1. Before you change it,
        look at the pairs that :func:`find_copies` finds just above and below it: a false link
        merges two groups, which wastes a little data; a missed link makes a score too high.
    mirrored : bool, default=False
        Whether to recognise mirror images too. This takes twice the time.
    parts : bool, default=False
        Whether to link also images that share only a part, such as eyes or a mouth pasted from one
        into the other; see the notes of :func:`find_copies`. This needs OpenCV:
        ``pip install "sklearn-dfd[copies]"``.
    n_jobs : int, default=None
        Number of threads that read and compare images, as in joblib; None means one.
    verbose : int, default=0
        Whether to show progress bars: for reading, for searching and for comparing.

    Returns
    -------
    groups : ndarray of shape (n_images,), dtype int64
        Group of each image, for :class:`~sklearn.model_selection.GroupKFold` and other splitters,
        numbered from 0 in order of appearance. An image that shares its photograph with no other is
        a group of its own, unless ``groups`` or its film say otherwise.

    Raises
    ------
    ImageError
        If images cannot be used; the error names them all.
    ImportError
        If ``parts`` is True and OpenCV is not installed.
    TypeError, ValueError
        If ``X`` is not a collection of images or is empty, a parameter is out of its range, or
        ``groups`` has another length or holds a missing label.

    See Also
    --------
    find_copies : Find the pairs behind the groups, to look at them.
    check_leakage : Raise an error where training and test images share a photograph.

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from sklearn_dfd.model_selection import find_source_groups
    >>> china, flower = load_sample_images().images
    >>> edited = china.copy()
    >>> edited[200:320, 250:400] = flower[200:320, 250:400]
    >>> find_source_groups([china, flower, edited, flower[10:, 20:]])
    array([0, 1, 0, 1])
    """
    images = as_image_list(X)
    known = [] if groups is None else [check_groups(groups, len(images), "images").tolist()]
    known.append([row if film is None else film for row, film in enumerate(_films(images))])
    pairs, _ = _linked(images, None, threshold, mirrored, parts, n_jobs, verbose)
    pairs = np.concatenate([pairs, *map(_to_first, known)])
    graph = coo_array((np.ones(len(pairs), bool), tuple(pairs.T)), shape=(len(images),) * 2)
    component = connected_components(graph, directed=False)[1]
    _, first, number = np.unique(component, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number].astype(np.int64)


@validate_params(_CONSTRAINTS, prefer_skip_nested_validation=True)
def find_copies(
    X: Any,
    Y: Any = None,
    *,
    threshold: float = 0.89,
    mirrored: bool = False,
    parts: bool = False,
    n_jobs: int | None = None,
    verbose: int | bool = 0,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Find pairs of images that were made from the same photograph.

    This finds copies that were saved again, scaled, recoloured or cropped by up to about a third of
    a side, and edits that replace up to about a quarter of the picture, such as eyes, nose and
    mouth together; it misses many edits that replace half of the picture. Two photographs of one
    person, or of two people who look alike, are not a pair; nor are images that are rotated by more
    than a few degrees.

    Parameters
    ----------
    X : sequence of images
        Images, as for :func:`find_source_groups`.
    Y : sequence of images, default=None
        Other images. If given, each pair consists of an image of ``X`` and one of ``Y``; None looks
        for pairs within ``X``.
    threshold : float, default=0.89
        Lowest similarity of a pair, above 0 and up to 1.
    mirrored : bool, default=False
        Whether to recognise mirror images too. This takes twice the time.
    parts : bool, default=False
        Whether to link also images that share only a part, such as eyes or a mouth pasted from one
        into the other; see Notes. This needs OpenCV: ``pip install "sklearn-dfd[copies]"``.
    n_jobs : int, default=None
        Number of threads that read and compare images, as in joblib; None means one.
    verbose : int, default=0
        Whether to show progress bars: for reading, for searching and for comparing.

    Returns
    -------
    pairs : ndarray of shape (n_pairs, 2), dtype int64
        Two rows of ``X``, the smaller one first; or a row of ``X`` and a row of ``Y``. The most
        similar pair comes first. An image that has many copies is paired with the nearest few only.
        If ``X`` contains identical files, only the first is paired with other images; if it
        contains a photograph and its views, only the first of these is sure to be paired with the
        others.
    similarity : ndarray of shape (n_pairs,), dtype float64
        Similarity of each pair: the correlation that its best windows reach (see Notes), or 1 for
        identical files and for views of one photograph. With ``parts=True``, it is at least
        ``n / (n + 1)`` for images that share n features, so the default threshold links those that
        share 9.

    Raises
    ------
    ImageError
        If images cannot be used; the error names them all.
    ImportError
        If ``parts`` is True and OpenCV is not installed.
    TypeError, ValueError
        If ``X`` or ``Y`` is not a collection of images or is empty, or a parameter is out of its
        range.

    Notes
    -----
    Unrelated photographs in the same plain frame, or behind the same plain mask, are not a pair,
    and a frame that was added to a copy does not hide it: bars of one colour on opposite sides are
    cut off first, and larger areas of one colour are filled in from their surroundings, in
    thumbnails of 48 x 48 grey pixels. A patterned frame may stay, and so may a mask that
    compression has made uneven or that lies next to a large area of one colour: then unrelated
    photographs may be linked.

    Light and shade are removed from the thumbnails by a difference of Gaussians [1]_. First, even
    smaller thumbnails are compared as wholes, each with parts of the others: the twenty nearest of
    each image in parts, and the four nearest of each as a whole, are candidates.

    Then each of the 49 overlapping windows of 12 x 12 pixels of one candidate is searched for
    around its place in the other, by normalised cross-correlation [2]_; the similarity is what the
    best two fifths of the windows reach. Where it is 0.65 or more, 121 windows of 8 x 8 pixels are
    searched for too; what the best three tenths of these reach, less 0.045, is the similarity if it
    is higher. Both are repeated with 2 % cut off each side of one image or the other.

    If there are hundreds of copies of one photograph, each is paired with some of them, not with
    all, so they may form several groups. Time grows with the square of the number of images, memory
    in proportion to it.

    With ``parts=True``, local features (SIFT [3]_, compared as in [4]_) are searched for as well,
    up to 300 in each image, in grey and with a longer side of 400 pixels. Two images share a
    feature if it looks nearly the same in both and unlike all others of the same image, and lies
    where it must if one image is shifted, turned by up to 45 degrees and scaled by up to 2.5 to fit
    the other. A feature that 16 or more others resemble does not count.

    This links images that have a part in common, wherever it comes from: eyes or a mouth that were
    pasted, but also two shots of one scene, cloths of one pattern, and a large sign or watermark in
    unrelated photographs, which is best cut off first. A part with few corners, such as plain skin,
    or one that was blurred, is missed. The features take 43 kB per image, and twice as much during
    the search, whose time grows with the power 1.5 of the number of images.

    References
    ----------
    .. [1] D. Marr, E. Hildreth (1980). Theory of edge detection. Proceedings of the Royal Society
       of London B 207.
    .. [2] J. P. Lewis (1995). Fast normalized cross-correlation. Vision Interface.
    .. [3] D. Lowe (2004). Distinctive image features from scale-invariant keypoints. International
       Journal of Computer Vision 60.
    .. [4] R. Arandjelovic, A. Zisserman (2012). Three things everyone should know to improve object
       retrieval. CVPR.

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from sklearn_dfd.model_selection import find_copies
    >>> china, flower = load_sample_images().images
    >>> pairs, similarity = find_copies([china, flower], [flower // 2])
    >>> pairs
    array([[1, 0]])
    >>> similarity > 0.95
    array([ True])
    """
    images = as_image_list(X)
    others = None if Y is None else as_image_list(Y)
    return _linked(images, others, threshold, mirrored, parts, n_jobs, verbose)


@validate_params(_CONSTRAINTS, prefer_skip_nested_validation=True)
def check_leakage(
    train: Any,
    test: Any,
    *,
    threshold: float = 0.89,
    mirrored: bool = False,
    parts: bool = False,
    n_jobs: int | None = None,
    verbose: int | bool = 0,
) -> None:
    """Raise an error if a test image was made from a photograph in the training set.

    Views (:class:`~sklearn_dfd.augmentation.View`) count as made from their photograph, and frames
    of one film as made from one another, whatever they show. :func:`find_copies` describes what
    else is recognised.

    Parameters
    ----------
    train, test : sequence of images
        Images to train on and images to test on, as for :func:`find_source_groups`.
    threshold : float, default=0.89
        Lowest similarity at which two images count as made from the same photograph, above 0 and up
        to 1.
    mirrored : bool, default=False
        Whether to recognise mirror images too. This takes twice the time.
    parts : bool, default=False
        Whether to link also images that share only a part, such as eyes or a mouth pasted from one
        into the other; see the notes of :func:`find_copies`. This needs OpenCV:
        ``pip install "sklearn-dfd[copies]"``.
    n_jobs : int, default=None
        Number of threads that read and compare images, as in joblib; None means one.
    verbose : int, default=0
        Whether to show progress bars: for reading, for searching and for comparing.

    Raises
    ------
    LeakageError
        If there are such images. It is a ValueError; the message lists the first ten pairs, the
        attributes ``pairs`` and ``similarity`` hold all that :func:`find_copies` returns, and a
        pair for each test frame of a film that is trained on.
    ImageError
        If images cannot be used; the error names them all.
    ImportError
        If ``parts`` is True and OpenCV is not installed.
    TypeError, ValueError
        If ``train`` or ``test`` is not a collection of images or is empty, or a parameter is out of
        its range.

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from sklearn_dfd.model_selection import check_leakage
    >>> china, flower = load_sample_images().images
    >>> check_leakage([china], [flower])
    >>> check_leakage([china], [flower, china[:, 20:]])  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    LeakageError: 1 of 2 test images were made from photographs in the training set: ...
    """
    train, test = as_image_list(train), as_image_list(test)
    pairs, similarity = _linked(train, test, threshold, mirrored, parts, n_jobs, verbose)
    known = set(map(tuple, pairs.tolist()))
    of_films = [pair for pair in _of_one_film(train, test) if pair not in known]
    pairs = np.array([*of_films, *pairs.tolist()], dtype=np.int64).reshape(-1, 2)
    similarity = np.concatenate([np.ones(len(of_films)), similarity])
    if not len(pairs):
        return
    shown = "; ".join(
        f"test row {j} ({describe(test[j])}) and training row {i} ({describe(train[i])}), "
        f"similarity {value:.2f}"
        for (i, j), value in zip(pairs[:10], similarity, strict=False)
    )
    more = f"; ... and {len(pairs) - 10} more pairs" if len(pairs) > 10 else ""
    raise LeakageError(
        f"{len(set(pairs[:, 1]))} of {len(test)} test images were made from photographs in the "
        f"training set: {shown}{more}. Remove them from one side, or split again by the groups "
        "that find_source_groups returns for all images together.",
        pairs,
        similarity,
    )


def _linked(
    images: Sequence[Any] | np.ndarray,
    others: Sequence[Any] | np.ndarray | None,
    threshold: float,
    mirrored: bool,
    parts: bool,
    n_jobs: int | None,
    verbose: int | bool,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Find the pairs of `find_copies`."""
    if parts:
        import_extra("cv2", "parts=True")  # before hours of reading
    parallel = Parallel(n_jobs=n_jobs, require="sharedmem")
    read = _read(images, parts, parallel, verbose)
    read_others = read if others is None else _read(others, parts, parallel, verbose)
    # One of several identical files represents them all: otherwise the nearest few of each would be
    # its own copies.
    kept = np.array(list(_first_rows(read.digests).values()))
    thumbs = read.thumbs[kept]
    if others is None:
        turns = [(matches(thumbs, None, mirrored, parallel, verbose), kept, kept)]
    else:
        rows = np.arange(len(others))
        # Parts are tried of the first of a pair only, so each side has to be the first once.
        turns = [
            (matches(thumbs, read_others.thumbs, mirrored, parallel, verbose), kept, rows),
            (matches(read_others.thumbs, thumbs, mirrored, parallel, verbose), rows, kept),
        ]
    if parts:
        turns.append(
            _shared_parts(
                read, None if others is None else read_others, mirrored, parallel, verbose
            )
        )
    found: dict[tuple[int, int], float] = {}
    for turn, ((i, j, similarity), rows_of_first, rows_of_second) in enumerate(turns):
        near = similarity >= threshold
        pairs = np.stack([rows_of_first[i[near]], rows_of_second[j[near]]], axis=1)
        if others is None:
            pairs.sort(axis=1)
        elif turn == 1:
            pairs = pairs[:, ::-1]
        for (a, b), value in zip(pairs.tolist(), similarity[near].tolist(), strict=True):
            found[a, b] = max(found.get((a, b), 0.0), value)
    if parts and others is not None:  # one of several copies and views was compared
        rows_of: dict[bytes, list[int]] = {}
        for b, origin in enumerate(read_others.origins):
            rows_of.setdefault(origin, []).append(b)
        for (a, b), value in list(found.items()):
            for other in rows_of[read_others.origins[b]]:
                found.setdefault((a, other), value)
    # Views are of their photograph even if they have nothing in common that could be seen.
    for a, b in found:
        if read.origins[a] == read_others.origins[b]:
            found[a, b] = 1.0
    for of_first, of_second in (
        (read.digests, read_others.digests),
        (read.origins, read_others.origins),
    ):
        first_row = _first_rows(of_first)
        for b, content in enumerate(of_second):
            a = first_row.get(content, -1)
            if a >= 0 and (others is not None or a != b):
                found[a, b] = 1.0
    pairs = np.array(list(found), dtype=np.int64).reshape(-1, 2)
    values = np.array(list(found.values()), dtype=np.float64)
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -values))
    return pairs[order], values[order]


def _films(images: Iterable[Any]) -> list[Hashable]:
    """Return the film that each image is a frame of; None for other images."""
    return [None if place is None else place[0] for place in map(place_of, images)]


def _of_one_film(train: Iterable[Any], test: Iterable[Any]) -> list[tuple[int, int]]:
    """Pair each test frame with the first training frame of its film."""
    first = _first_rows(_films(train))
    first.pop(None, None)
    return [(first[film], row) for row, film in enumerate(_films(test)) if film in first]


def _to_first(labels: Sequence[Hashable]) -> npt.NDArray[np.int64]:
    """Return the pair of each row and the first one with the same label."""
    first = _first_rows(labels)
    return np.array([(first[label], row) for row, label in enumerate(labels)])


def _first_rows(contents: Iterable[Hashable]) -> dict[Hashable, int]:
    """Return the row in which each content comes first."""
    rows: dict[Hashable, int] = {}
    for row, content in enumerate(contents):
        rows.setdefault(content, row)
    return rows


def _shared_parts(
    read: "_Read",
    read_others: "_Read | None",
    mirrored: bool,
    parallel: Parallel,
    verbose: int | bool,
) -> tuple[
    tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]],
    npt.NDArray[np.int64],
    npt.NDArray[np.int64],
]:
    """Compare local features of one view of each photograph, as `matches` compares thumbnails."""
    sides = [read] if read_others is None else [read, read_others]
    rows = [np.array(list(_first_rows(side.origins).values())) for side in sides]
    features = [
        [side.features[row] for row in kept] for side, kept in zip(sides, rows, strict=True)
    ]
    second = None if read_others is None else features[-1]
    i, j, n_shared = shared_parts(features[0], second, mirrored, parallel, verbose)
    return (i, j, n_shared / (n_shared + 1)), rows[0], rows[-1]


class _Read(NamedTuple):
    """What is kept of images: thumbnails, digests of content and of origin, and local features."""

    thumbs: npt.NDArray[np.uint8]
    digests: list[bytes]
    origins: list[bytes]
    features: list[Features]  # empty, unless parts are compared


def _read(
    images: Sequence[Any] | np.ndarray, parts: bool, parallel: Parallel, verbose: int | bool
) -> _Read:
    """Read each image once."""

    def in_threads(call: Callable[[Any], Any], sources: Iterable[Any]) -> Iterable[Any]:
        sources = tqdm(
            sources, desc="reading", total=len(images), unit="image", disable=not verbose
        )
        return parallel(delayed(call)(source) for source in sources)

    thumbs, digests, origins, features = zip(
        *read_all(images, partial(_read_one, parts=parts), apply=in_threads), strict=True
    )
    return _Read(
        np.stack(thumbs), list(digests), list(origins), [f for f in features if f is not None]
    )


def _read_one(
    raw: RawImage, parts: bool
) -> tuple[npt.NDArray[np.uint8], bytes, bytes, Features | None]:
    image, digest = to_rgb(raw), content_digest(raw)
    thumb, features = thumbnail(image), local_features(image) if parts else None
    origin = digest
    if isinstance(raw, DerivedImage):
        while isinstance(raw, DerivedImage):
            raw = raw.raw
        origin = content_digest(raw)
    return thumb, digest, origin, features
