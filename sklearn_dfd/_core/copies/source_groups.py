"""Which images come from one photograph, where nobody wrote it down.

Grey thumbnails are compared location by location: an edit that replaces a mouth leaves hair,
outline and background where they were, while two people who look alike agree nowhere exactly.
"""

from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sklearn_dfd._core.copies.thumbnails import matches, thumbnail
from sklearn_dfd._core.images.decoding import DerivedImage, RawImage, content_digest, to_rgb
from sklearn_dfd._core.images.sources import as_image_list, describe, read_all
from sklearn_dfd._core.sklearn_private import Interval, validate_params
from sklearn_dfd.exceptions import LeakageError

__all__ = ["check_leakage", "find_copies", "find_source_groups"]


_CONSTRAINTS = {
    "threshold": [Interval(Real, 0, 1, closed="right")],
    "mirrored": ["boolean"],
    "n_jobs": [Integral, None],
}


@validate_params(_CONSTRAINTS, prefer_skip_nested_validation=True)
def find_source_groups(
    X: Any, *, threshold: float = 0.89, mirrored: bool = False, n_jobs: int | None = None
) -> np.ndarray:
    """Find which images were made from one photograph.

    Images share a group if :func:`find_copies` links them, directly or through others. A photograph
    and its views (:class:`~sklearn_dfd.augmentation.View`) always do, whatever the views show.

    Parameters
    ----------
    X : sequence of images
        Paths, PIL images, uint8 arrays or encoded bytes, as for
        :meth:`MobileNetV2Features.transform`. Each is read once.
    threshold : float, default=0.89
        Similarity, above 0 and up to 1, from which two images are linked. Look at the pairs of
        :func:`find_copies` around it before you change it: one false link merges two groups, which
        costs a little data, and a missed one lets a score flatter.
    mirrored : bool, default=False
        Whether mirror images count, too. It takes twice the time.
    n_jobs : int, default=None
        Threads that read and compare images, as in joblib; None is one.

    Returns
    -------
    groups : ndarray of shape (n_images,), dtype int64
        For :class:`~sklearn.model_selection.GroupKFold` and the like; numbered from 0 in order of
        appearance. An image that shares its photograph with no other is a group of its own.

    Raises
    ------
    ImageError
        If images cannot be used; it names them all.
    TypeError, ValueError
        If ``X`` is no collection of images or holds none, or a parameter is out of its range.

    See Also
    --------
    find_copies : The pairs behind the groups, to look at.
    check_leakage : A guard between training and test images.

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
    pairs, _ = _linked(images, None, threshold, mirrored, n_jobs)
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
    n_jobs: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find pairs of images that were made from one photograph.

    Found are copies that were saved again, scaled, recoloured or cropped by up to about a third of
    a side, and edits that replace up to about a quarter of the picture, as eyes, nose and mouth in
    one; of edits that replace half of it, many are missed. Two photographs of one person, or of two
    people who look alike, are no pair; nor are images turned by more than a few degrees.

    Parameters
    ----------
    X : sequence of images
        As for :func:`find_source_groups`.
    Y : sequence of images, default=None
        If given, pairs of an image of ``X`` and one of ``Y`` are looked for, instead of pairs
        within ``X``.
    threshold : float, default=0.89
        The least similarity of a pair, above 0 and up to 1.
    mirrored : bool, default=False
        Whether mirror images count, too. It takes twice the time.
    n_jobs : int, default=None
        Threads that read and compare images, as in joblib; None is one.

    Returns
    -------
    pairs : ndarray of shape (n_pairs, 2), dtype int64
        Rows in ``X``, the smaller one first; or row in ``X`` and row in ``Y``. The most similar
        pair comes first. An image of many copies is paired with its nearest few only, and of
        identical files in ``X`` only the first is paired with others; of a photograph and its views
        in ``X`` only the first is sure to be paired with the other views.
    similarity : ndarray of shape (n_pairs,), dtype float64
        Of each pair: the correlation that the best of its windows reach (see Notes), 1 for
        identical files and for views of one photograph.

    Raises
    ------
    ImageError
        If images cannot be used; it names them all.
    TypeError, ValueError
        If ``X`` or ``Y`` is no collection of images or holds none, or a parameter is out of its
        range.

    Notes
    -----
    Strangers in one plain frame or behind one plain mask are no pair, and a frame that was added to
    a copy does not hide it: bars of one colour on opposite sides are cut off first, and in
    thumbnails of 48 x 48 grey pixels larger areas of one colour are filled from around them. A
    frame with a pattern may stay, and a mask that compression has made uneven or that has much else
    of one colour beside it: then strangers may be linked.
    The thumbnails are freed of light and shade by a difference of Gaussians [1]_. First, still
    smaller ones are compared as wholes, each with parts of the others: the nearest twenty of each
    image in parts, and the nearest four of each as a whole, are candidates.
    Then each of the 49 overlapping windows of 12 x 12 of one candidate is looked for around its
    place in the other, by normalised cross-correlation [2]_: what the best two fifths of them reach
    is the similarity. Where it is 0.65 or more, 121 windows of 8 x 8 are looked for, too; what the
    best three tenths of these reach, less 0.045, is the similarity if it is higher; and both are
    repeated with 2 % cut off each side of the one or the other.
    Of hundreds of copies of one photograph each is paired with some, not with all, so that they may
    fall into a few groups.
    Time grows with the square of the number of images, memory in proportion to it.

    References
    ----------
    .. [1] D. Marr, E. Hildreth (1980). Theory of edge detection. Proceedings of the Royal Society
       of London B 207.
    .. [2] J. P. Lewis (1995). Fast normalized cross-correlation. Vision Interface.

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
    return _linked(images, None if Y is None else as_image_list(Y), threshold, mirrored, n_jobs)


@validate_params(_CONSTRAINTS, prefer_skip_nested_validation=True)
def check_leakage(
    train: Any,
    test: Any,
    *,
    threshold: float = 0.89,
    mirrored: bool = False,
    n_jobs: int | None = None,
) -> None:
    """Check that no image to test on is made from a photograph that is trained on.

    Views (:class:`~sklearn_dfd.augmentation.View`) of a photograph are made from it, whatever they
    show. For anything else see :func:`find_copies`.

    Parameters
    ----------
    train, test : sequence of images
        As for :func:`find_source_groups`.
    threshold : float, default=0.89
        The least similarity of a pair, above 0 and up to 1.
    mirrored : bool, default=False
        Whether mirror images count, too. It takes twice the time.
    n_jobs : int, default=None
        Threads that read and compare images, as in joblib; None is one.

    Raises
    ------
    LeakageError
        A ValueError: there are such images. The message lists the first ten, the attributes
        ``pairs`` and ``similarity`` hold what :func:`find_copies` returns.
    ImageError
        If images cannot be used; it names them all.
    TypeError, ValueError
        If ``train`` or ``test`` is no collection of images or holds none, or a parameter is out of
        its range.

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from sklearn_dfd.model_selection import check_leakage
    >>> china, flower = load_sample_images().images
    >>> check_leakage([china], [flower])
    >>> check_leakage([china], [flower, china[:, 20:]])  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    LeakageError: 1 of 2 test images are made from photographs that are trained on: ...
    """
    train, test = as_image_list(train), as_image_list(test)
    pairs, similarity = _linked(train, test, threshold, mirrored, n_jobs)
    if not len(pairs):
        return
    shown = "; ".join(
        f"test row {j} ({describe(test[j])}) and training row {i} ({describe(train[i])}), "
        f"similarity {value:.2f}"
        for (i, j), value in zip(pairs[:10], similarity, strict=False)
    )
    more = f"; ... and {len(pairs) - 10} more pairs" if len(pairs) > 10 else ""
    raise LeakageError(
        f"{len(set(pairs[:, 1]))} of {len(test)} test images are made from photographs that are "
        f"trained on: {shown}{more}. Remove them from one side, or split again by the groups that "
        "find_source_groups returns for all images together.",
        pairs,
        similarity,
    )


def _linked(
    images: Sequence[Any] | np.ndarray,
    others: Sequence[Any] | np.ndarray | None,
    threshold: float,
    mirrored: bool,
    n_jobs: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the pairs of `find_copies`."""
    parallel = Parallel(n_jobs=n_jobs, prefer="threads")
    thumbs, digests, origins = _read(images, parallel)
    # Identical files stand for one: of a thousand copies the nearest few would all be copies.
    kept = np.array(list(_first_rows(digests).values()))
    thumbs = thumbs[kept]
    other_digests, other_origins = digests, origins
    if others is None:
        turns = [(matches(thumbs, None, mirrored, parallel), kept, kept)]
    else:
        other_thumbs, other_digests, other_origins = _read(others, parallel)
        rows = np.arange(len(others))
        # The first of a pair is also tried in parts, so that each side is the first once.
        turns = [
            (matches(thumbs, other_thumbs, mirrored, parallel), kept, rows),
            (matches(other_thumbs, thumbs, mirrored, parallel), rows, kept),
        ]
    found: dict[tuple[int, int], float] = {}
    for turn, (matched, rows_of_first, rows_of_second) in enumerate(turns):
        for i, j, similarity in matched:
            near = similarity >= threshold
            pairs = np.stack([rows_of_first[i[near]], rows_of_second[j[near]]], axis=1)
            if others is None:
                pairs.sort(axis=1)
            elif turn == 1:
                pairs = pairs[:, ::-1]
            for (a, b), value in zip(pairs.tolist(), similarity[near].tolist(), strict=True):
                found[a, b] = max(found.get((a, b), 0.0), value)
    # Views of one photograph are of one photograph, also where they show nothing in common.
    for a, b in found:
        if origins[a] == other_origins[b]:
            found[a, b] = 1.0
    for of_first, of_second in ((digests, other_digests), (origins, other_origins)):
        first_row = _first_rows(of_first)
        for b, content in enumerate(of_second):
            a = first_row.get(content, -1)
            if a >= 0 and (others is not None or a != b):
                found[a, b] = 1.0
    pairs = np.array(list(found), dtype=np.int64).reshape(-1, 2)
    values = np.array(list(found.values()), dtype=np.float64)
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -values))
    return pairs[order], values[order]


def _first_rows(contents: list[bytes]) -> dict[bytes, int]:
    """Row in which each content comes first."""
    rows: dict[bytes, int] = {}
    for row, content in enumerate(contents):
        rows.setdefault(content, row)
    return rows


def _read(
    images: Sequence[Any] | np.ndarray, parallel: Parallel
) -> tuple[np.ndarray, list[bytes], list[bytes]]:
    """Read each image once: thumbnail, digest of its content, and of what it is a view of."""

    def in_threads(call: Callable, sources: Iterable) -> Iterable:
        return parallel(delayed(call)(source) for source in sources)

    thumbs, digests, origins = zip(
        *read_all(images, _thumbnail_and_digests, apply=in_threads), strict=True
    )
    return np.stack(thumbs), list(digests), list(origins)


def _thumbnail_and_digests(raw: RawImage) -> tuple[np.ndarray, bytes, bytes]:
    thumb, digest = thumbnail(to_rgb(raw)), content_digest(raw)
    if not isinstance(raw, DerivedImage):
        return thumb, digest, digest
    while isinstance(raw, DerivedImage):
        raw = raw.raw
    return thumb, digest, content_digest(raw)
