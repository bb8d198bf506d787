"""Local features of an image: what its corners and blobs look like, from OpenCV's SIFT."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from sklearn_dfd._core.runtime.process_state import WhileAny
from sklearn_dfd._core.validation import import_extra

N_FEATURES = 300  # per image, those of the highest contrast
_SIDE = 400  # of the longer side of an image, in pixels, when features are searched for
_LENGTH = 255  # of a descriptor


class Features(NamedTuple):
    """Local features of one image.

    Attributes
    ----------
    places : ndarray of shape (n_features,), dtype complex64
        Centres, x + iy, in pixels of the reduced image.
    arrows : ndarray of shape (n_features,), dtype complex64
        Numbers with the size of each feature as magnitude and its direction as argument.
    descriptors : ndarray of shape (n_features, 128), dtype uint8
        Square roots of the histograms of SIFT, as vectors of length 255.
    """

    places: npt.NDArray[np.complex64]
    arrows: npt.NDArray[np.complex64]
    descriptors: npt.NDArray[np.uint8]


@contextmanager
def _one_thread_of_opencv() -> Iterator[None]:
    cv2 = import_extra("cv2", "parts=True")
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


_one_thread = WhileAny(_one_thread_of_opencv)


def local_features(image: Image.Image) -> Features:
    """Find the local features of an image.

    Parameters
    ----------
    image : PIL image
        The image, in any size.

    Returns
    -------
    features : Features
        At most `N_FEATURES` of them.
    """
    cv2 = import_extra("cv2", "parts=True")
    factor = _SIDE / max(image.size)
    size = [max(1, round(factor * side)) for side in image.size]
    grey = image.convert("L").resize((size[0], size[1]), Image.Resampling.BILINEAR)
    with _one_thread():
        points, histograms = cv2.SIFT_create().detectAndCompute(np.asarray(grey), None)
    if not points:
        none = np.empty(0, dtype=np.complex64)
        return Features(none, none, np.empty((0, 128), dtype=np.uint8))
    x, y, diameter, angle, contrast = np.array(
        [(*point.pt, point.size, point.angle, point.response) for point in points]
    ).T
    kept = np.lexsort((diameter, angle, y, x, -contrast))[:N_FEATURES]
    shares = histograms[kept] / histograms[kept].sum(axis=1, keepdims=True).clip(1)
    return Features(
        (x + 1j * y)[kept].astype(np.complex64),
        (diameter * np.exp(1j * np.deg2rad(angle)))[kept].astype(np.complex64),
        np.round(_LENGTH * np.sqrt(shares)).astype(np.uint8),
    )


# What becomes of a descriptor if the image is mirrored: of its rows, columns and directions.
_MIRRORED = np.arange(128).reshape(4, 4, 8)[::-1][:, :, -np.arange(8)].ravel()


def mirror(features: Features) -> Features:
    """Return the features that the mirror image of an image has."""
    return Features(
        -features.places.conj(), -features.arrows.conj(), features.descriptors[:, _MIRRORED]
    )
