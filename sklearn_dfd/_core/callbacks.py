"""Callbacks in ``fit``: those of scikit-learn, which has them from 1.9 on.

With an older scikit-learn there is no ``set_callbacks``, and nobody to call.
"""

from contextlib import nullcontext

import numpy as np

from sklearn_dfd._core.sklearn_private import safe_indexing

__all__ = ["CallbackSupportMixin", "NoCallbacks", "training_data"]


class NoCallbacks:
    """The context of a task that no callback follows, in place of scikit-learn's."""

    def subcontext(self, **task):
        """Return the context of a part of the task, which nobody follows either."""
        return self

    def propagate_callback_context(self, estimator):
        """Lend no callbacks to a part."""
        return nullcontext()

    def call_on_fit_task_begin(self, **known):
        """Call nobody."""
        return self

    def call_on_fit_task_end(self, **known):
        """Call nobody, so that nobody asks to stop."""
        return False


try:
    from sklearn.callback import CallbackSupportMixin
except ModuleNotFoundError:  # scikit-learn < 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """In place of scikit-learn's: ``fit`` can ask for a context all the same."""

        def _init_callback_context(self, **task):
            return NoCallbacks()


def training_data(X, y, sample_weight, kept=None):
    """Collect what callbacks are told about the rows, as arguments of a context's ``call_on_...``.

    The values are functions, which scikit-learn calls only for a callback that wants the value:
    rows set aside cost a copy of the others.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        As given to ``fit``: in a DataFrame the columns keep the names that ``predict`` expects.
    y : ndarray of shape (n_samples,)
    sample_weight : ndarray of shape (n_samples,), or None
        None where ``fit`` was given none: not every scorer takes weights.
    kept : ndarray of intp, or None
        The rows that are trained on; None for all that have a weight.

    Returns
    -------
    arguments : dict
        ``X``, ``y`` and ``metadata``.
    """
    if kept is None and sample_weight is not None:
        kept = np.flatnonzero(sample_weight)  # the others may be of a class that is left out

    def part(values):
        return values if kept is None else safe_indexing(values, kept)

    return {
        "X": lambda: part(X),
        "y": lambda: part(y),
        "metadata": lambda: (
            None if sample_weight is None else {"sample_weight": part(sample_weight)}
        ),
    }
