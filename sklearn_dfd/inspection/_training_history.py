"""Displays of what a training did, and of where a decision comes from."""

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sklearn_dfd._core.validation import import_extra
from sklearn_dfd.classifier import DeepFakeClassifier
from sklearn_dfd.inspection._gradcam import GradCAMDisplay, unwrapped

__all__ = ["GradCAMDisplay", "TrainingHistoryDisplay"]

_PANELS = (("accuracy", "Accuracy"), ("loss", "Cross-entropy"))


class TrainingHistoryDisplay:
    """Accuracy and loss of each epoch of one training or of several.

    Made by :meth:`from_estimator` or :meth:`from_cv_results`. All parameters are stored as
    attributes.

    Parameters
    ----------
    histories : list of list of dict
        For each training its ``history_``, see :class:`DeepFakeClassifier`.

    names : list of str, default=None
        For each training the name it has in the legend. None for none where there is one
        training, and for ``"fold 1"``, ``"fold 2"`` and so on where there are several.

    best_epochs : list of (int or None), default=None
        For each training the epoch (from 1) that early stopping chose; None where none did.

    Attributes
    ----------
    figure_ : matplotlib Figure
        Figure with the curves.

    axes_ : ndarray of shape (2,) of matplotlib Axes
        Of accuracy and of cross-entropy.

    lines_ : list of two lists of matplotlib Line2D
        The curves in each of ``axes_``: for each training that of the training rows, and then
        that of the validation rows if there were any.

    See Also
    --------
    DeepFakeClassifier : Its ``history_`` holds the figures.
    sklearn.model_selection.LearningCurveDisplay : Scores by the number of training rows.

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.model_selection import cross_validate
    >>> from sklearn_dfd import DeepFakeClassifier
    >>> from sklearn_dfd.inspection import TrainingHistoryDisplay
    >>> X, y = make_classification(random_state=0)
    >>> clf = DeepFakeClassifier(layer="pool", max_epochs=3, early_stopping=True, random_state=0)
    >>> cv_results = cross_validate(clf, X, y, cv=2, return_estimator=True)
    >>> display = TrainingHistoryDisplay.from_cv_results(cv_results)
    >>> [line.get_label() for line in display.lines_[0]]
    ['fold 1, training', 'fold 1, validation', 'fold 2, training', 'fold 2, validation']
    """

    def __init__(self, histories, *, names=None, best_epochs=None):
        self.histories = histories
        self.names = names
        self.best_epochs = best_epochs

    @classmethod
    def from_estimator(cls, estimator, *, name=None, ax=None):
        """Plot the training of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            A fitted :class:`DeepFakeClassifier`, a Pipeline that ends in one, or a search or
            another meta-estimator that fitted either.

        name : str, default=None
            Name of the training in the legend.

        ax : pair of matplotlib Axes, default=None
            See :meth:`plot`.

        Returns
        -------
        display : TrainingHistoryDisplay

        Raises
        ------
        TypeError
            If there is no :class:`DeepFakeClassifier` in ``estimator``.
        NotFittedError
            If it is not fitted.
        """
        names = None if name is None else [name]
        return cls._from_estimators([estimator], names).plot(ax=ax)

    @classmethod
    def from_cv_results(cls, cv_results, *, ax=None):
        """Plot the trainings of a cross-validation, one colour a fold.

        Parameters
        ----------
        cv_results : dict
            What :func:`sklearn.model_selection.cross_validate` returns with
            ``return_estimator=True``, for an estimator that :meth:`from_estimator` takes.

        ax : pair of matplotlib Axes, default=None
            See :meth:`plot`.

        Returns
        -------
        display : TrainingHistoryDisplay

        Raises
        ------
        ValueError
            If the fitted estimators are not in ``cv_results``.
        TypeError, NotFittedError
            As in :meth:`from_estimator`.
        """
        if "estimator" not in cv_results:
            raise ValueError(
                "cv_results holds no fitted estimators: pass return_estimator=True to "
                "cross_validate."
            )
        estimators = cv_results["estimator"]
        names = [f"fold {i}" for i in range(1, len(estimators) + 1)]
        return cls._from_estimators(estimators, names).plot(ax=ax)

    @classmethod
    def _from_estimators(cls, estimators, names):
        classifiers = [_fitted_classifier(estimator) for estimator in estimators]
        return cls(
            histories=[classifier.history_ for classifier in classifiers],
            names=names,
            best_epochs=[_chosen_epoch(classifier) for classifier in classifiers],
        )

    def plot(self, ax=None):
        """Plot accuracy and cross-entropy side by side.

        Training curves are solid and validation curves dashed; a ring marks the epoch that early
        stopping chose. Neither counts the L1 penalty.

        Parameters
        ----------
        ax : pair of matplotlib Axes, default=None
            Where to plot accuracy and cross-entropy. None for a new figure.

        Returns
        -------
        self : object

        Raises
        ------
        ImportError
            If matplotlib is missing. Says how to install it.
        ValueError
            If ``ax`` is not two Axes, or ``names`` or ``best_epochs`` are not one a training.
        """
        plt = import_extra("matplotlib.pyplot", f"{type(self).__name__}.plot")
        from matplotlib.ticker import MaxNLocator

        n = len(self.histories)
        prefixes = self.names
        if prefixes is None:
            prefixes = [""] if n == 1 else [f"fold {i}" for i in range(1, n + 1)]
        best_epochs = [None] * n if self.best_epochs is None else self.best_epochs
        if len(prefixes) != n or len(best_epochs) != n:
            raise ValueError(
                f"There are {n} histories, but {len(prefixes)} names and {len(best_epochs)} "
                "best_epochs."
            )
        if ax is None:
            _, ax = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
        self.axes_ = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
        if len(self.axes_) != 2:
            raise ValueError(
                "ax takes two matplotlib Axes, one for accuracy and one for cross-entropy; got "
                f"{len(self.axes_)}."
            )
        self.figure_ = self.axes_[0].figure
        self.lines_ = []
        for axes, (measure, label) in zip(self.axes_, _PANELS, strict=True):
            lines = []
            for i, (history, prefix, best) in enumerate(
                zip(self.histories, prefixes, best_epochs, strict=True)
            ):
                lines += _plot_history(axes, history, measure, prefix, best, color=f"C{i}")
            self.lines_.append(lines)
            axes.set(xlabel="Epoch", ylabel=label)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        self.axes_[0].set_ylim(0, 1.02)
        self.axes_[1].set_ylim(bottom=0)
        handles = list(self.lines_[1])
        if any(best is not None for best in best_epochs):
            handles += self.axes_[1].plot([], [], "o", mfc="none", color="0.4", label="epoch kept")
        self.axes_[1].legend(
            handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False
        )
        return self


def _plot_history(axes, history, measure, prefix, best, color):
    """Plot one measure of one training; return the training and the validation line."""
    epochs = [row["epoch"] for row in history]
    lines = []
    for part, key, style in (("training", "train", "-"), ("validation", "valid", "--")):
        values = [row.get(f"{key}_{measure}", np.nan) for row in history]
        if not np.isfinite(values).any():
            continue
        label = f"{prefix}, {part}" if prefix else part
        lines += axes.plot(epochs, values, style, marker=".", color=color, label=label)
        if part == "validation" and best is not None:
            value = values[epochs.index(best)]
            axes.plot(best, value, "o", ms=10, mfc="none", mew=1.5, color=color, clip_on=False)
    return lines


def _fitted_classifier(estimator):
    """Find the DeepFakeClassifier at the end of pipelines, searches and meta-estimators."""
    inner = unwrapped(estimator, DeepFakeClassifier | Pipeline)
    while isinstance(inner, Pipeline):
        inner = unwrapped(inner.steps[-1][1], DeepFakeClassifier | Pipeline)
    if not isinstance(inner, DeepFakeClassifier):
        there = "" if inner is estimator else f" with a {type(inner).__name__} in that place"
        raise TypeError(
            "TrainingHistoryDisplay takes a fitted DeepFakeClassifier, a Pipeline that ends in "
            "one, or a search or another meta-estimator that fitted either; got "
            f"{type(estimator).__name__}{there}."
        )
    check_is_fitted(
        inner,
        "history_",
        msg=f"This {type(estimator).__name__} is not fitted yet: call fit first. Of a search, "
        "refit=True keeps the training of the best estimator.",
    )
    return inner


def _chosen_epoch(classifier):
    """Epoch that early stopping chose; None where none was chosen."""
    best = classifier.best_epoch_
    chosen = classifier.early_stopping and "valid_loss" in classifier.history_[best - 1]
    return best if chosen else None
