"""Callbacks in ``fit``: those of scikit-learn 1.9 or later.

With an older scikit-learn there is no ``set_callbacks``, and no callback is called.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from sklearn_dfd._core.sklearn_private import safe_indexing

__all__ = ["CallbackSupportMixin", "NoCallbacks", "training_data"]


class NoCallbacks:
    """The context of a task without callbacks, with the methods of scikit-learn's contexts."""

    def subcontext(self, **task: Any) -> "NoCallbacks":
        """Return the context of a part of the task, which has no callbacks either."""
        return self

    def propagate_callback_context(self, estimator: Any) -> AbstractContextManager[None]:
        """Pass no callbacks on to an inner estimator."""
        return nullcontext()

    def call_on_fit_task_begin(self, **known: Any) -> "NoCallbacks":
        """Call no callback."""
        return self

    def call_on_fit_task_end(self, **known: Any) -> bool:
        """Call no callback; return False, because none asks to stop."""
        return False


try:
    from sklearn.callback import CallbackSupportMixin
except ModuleNotFoundError:  # scikit-learn < 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """A stand-in for scikit-learn's class, so that ``fit`` can ask for a context."""

        def _init_callback_context(self, **task):
            return NoCallbacks()


def training_data(
    X: Any, y: Any, sample_weight: Any, kept: Any = None
) -> dict[str, Callable[[], Any]]:
    """Collect what callbacks are passed about the rows, as arguments of a ``call_on_...`` method.

    The values are functions that scikit-learn calls only if a callback wants the value, because
    the rows that remain if some are set aside have to be copied.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        The rows as given to ``fit``: the columns of a DataFrame keep the names that ``predict``
        expects.
    y : ndarray of shape (n_samples,)
        The labels.
    sample_weight : ndarray of shape (n_samples,), or None
        The weights; None if ``fit`` was given none, because not every scorer takes weights.
    kept : ndarray of intp, or None
        The rows that are trained on; None for all rows of positive weight.

    Returns
    -------
    arguments : dict
        The functions ``X``, ``y`` and ``metadata``.
    """
    if kept is None and sample_weight is not None:
        kept = np.flatnonzero(sample_weight)  # other rows may be of a class that is left out

    def part(values):
        return values if kept is None else safe_indexing(values, kept)

    return {
        "X": lambda: part(X),
        "y": lambda: part(y),
        "metadata": lambda: (
            None if sample_weight is None else {"sample_weight": part(sample_weight)}
        ),
    }
