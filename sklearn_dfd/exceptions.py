"""Errors and warnings of this package."""

from typing import Any

import numpy as np
import numpy.typing as npt

from sklearn_dfd._core.messages import on_one_line

__all__ = ["ImageError", "LeakageError", "LossError", "ShortcutWarning", "WeightsError"]


class ImageError(OSError, ValueError):
    """One or more images cannot be used.

    Parameters
    ----------
    failures : list of (int, str, str)
        Row, name and reason of each image that cannot be used.
    n_images : int
        Number of images among which these were found.
    hint : str, default="Repair them, or leave them out."
        Last sentence of the message, which says what to do; empty for none.
    n_shown : int or None, default=10
        Number of failures that the message lists; None for all. The attribute ``failures`` always
        holds all of them.
    """

    def __init__(
        self,
        failures: list[tuple[int, str, str]],
        n_images: int,
        hint: str = "Repair them, or leave them out.",
        n_shown: int | None = 10,
    ) -> None:
        self.failures = failures
        self.n_images = n_images
        self.hint = hint
        self.n_shown = n_shown
        shown = [f"row {row} ({name}): {reason}" for row, name, reason in failures[:n_shown]]
        n_more = len(failures) - len(shown)
        message = f"{len(failures)} of {n_images} images cannot be used: {'; '.join(shown)}" + (
            f"; ... and {n_more} more." if n_more else "."
        )
        super().__init__(on_one_line(f"{message} {hint}".rstrip()))

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle as type(*args), and args holds the message alone.
        return type(self), (self.failures, self.n_images, self.hint, self.n_shown)


class LeakageError(ValueError):
    """Images in the test data are made from photographs in the training data.

    Parameters
    ----------
    message : str
        What is wrong, and which images are concerned.
    pairs : ndarray of shape (n_pairs, 2), dtype int64
        For each pair its row in the training images and its row in the test images.
    similarity : ndarray of shape (n_pairs,), dtype float64
        Similarity of the two images of each pair, from 0 to 1.
    """

    def __init__(
        self,
        message: str,
        pairs: npt.NDArray[np.int64],
        similarity: npt.NDArray[np.float64],
    ) -> None:
        super().__init__(message)
        self.pairs = pairs
        self.similarity = similarity

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.pairs, self.similarity)


class LossError(ValueError):
    """The loss or a weight is no longer finite."""


class ShortcutWarning(UserWarning):
    """Headers and metadata of image files reveal the labels."""


class WeightsError(OSError, ValueError):
    """The weights cannot be found, or are not those of MobileNetV2."""
