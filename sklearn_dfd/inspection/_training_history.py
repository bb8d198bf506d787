"""Learning curves: accuracy and loss of each epoch of training."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sklearn_dfd._core.axes import COLORS, axes_for, tidy
from sklearn_dfd.classifier import DeepFakeClassifier
from sklearn_dfd.inspection._gradcam import unwrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

__all__ = ["TrainingHistoryDisplay"]

_PANELS = (("accuracy", "Accuracy"), ("loss", "Cross-entropy"))
_MARKERS = (".", "s", "^", "D", "v", "P", "X")  # of the trainings, in addition to their colours
_NO_VALIDATION = (
    "Training rows only: pass X_val and y_val to fit, or set\n"
    "early_stopping=True, to see accuracy and loss in validation."
)

_History = Sequence[Mapping[str, Any]]


class TrainingHistoryDisplay:
    """Accuracy and loss of each epoch, of one or several trainings.

    It is made by :meth:`from_estimator` or :meth:`from_cv_results`. The parameters are stored as
    attributes.

    Parameters
    ----------
    histories : list of list of dict
        The ``history_`` of each training; see :class:`~sklearn_dfd.DeepFakeClassifier`.

    names : list of str, default=None
        The name of each training in the legend. None leaves a single training without a name,
        and calls several ``"fold 1"``, ``"fold 2"`` and so on.

    best_epochs : list of (int or None), default=None
        The epoch, from 1, that early stopping chose in each training; None where it chose none.

    n_classes : int, default=None
        Number of classes, for lines at the accuracy and the cross-entropy of guessing among
        equally frequent classes. None draws no such lines.

    Attributes
    ----------
    figure_ : matplotlib Figure
        The figure that holds the curves.

    axes_ : ndarray of matplotlib Axes, shape (2,)
        The axes of accuracy and of cross-entropy.

    lines_ : list of two lists of matplotlib Line2D
        The curves in each of ``axes_``: for each training that of the training rows, followed by
        that of the validation rows where there are any.

    See Also
    --------
    sklearn_dfd.DeepFakeClassifier : Its ``history_`` holds the figures.
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

    def __init__(
        self,
        histories: Sequence[_History],
        *,
        names: Sequence[str] | None = None,
        best_epochs: Sequence[int | None] | None = None,
        n_classes: int | None = None,
    ) -> None:
        self.histories = histories
        self.names = names
        self.best_epochs = best_epochs
        self.n_classes = n_classes

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        *,
        name: str | None = None,
        ax: npt.ArrayLike | None = None,
    ) -> Self:
        """Plot the training of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            A fitted :class:`~sklearn_dfd.DeepFakeClassifier`, a Pipeline that ends in one, or a
            search or another meta-estimator that fitted either.

        name : str, default=None
            Name of the training in the legend.

        ax : array-like of two matplotlib Axes, default=None
            See :meth:`plot`.

        Returns
        -------
        display : TrainingHistoryDisplay
            The display, plotted.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        TypeError
            If ``estimator`` holds no :class:`~sklearn_dfd.DeepFakeClassifier`.
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If ``ax`` is not two Axes.
        """
        names = None if name is None else [name]
        return cls._from_estimators([estimator], names).plot(ax=ax)

    @classmethod
    def from_cv_results(
        cls, cv_results: Mapping[str, Any], *, ax: npt.ArrayLike | None = None
    ) -> Self:
        """Plot the trainings of a cross-validation, with a colour and a marker for each fold.

        Parameters
        ----------
        cv_results : dict
            What :func:`sklearn.model_selection.cross_validate` returns with
            ``return_estimator=True``, for an estimator that :meth:`from_estimator` accepts.

        ax : array-like of two matplotlib Axes, default=None
            See :meth:`plot`.

        Returns
        -------
        display : TrainingHistoryDisplay
            The display, plotted.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If ``cv_results`` does not hold the fitted estimators, or ``ax`` is not two Axes.
        TypeError, NotFittedError
            If :meth:`from_estimator` raises it for one of the estimators.
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
    def _from_estimators(
        cls, estimators: Sequence[BaseEstimator], names: Sequence[str] | None
    ) -> Self:
        classifiers = [_fitted_classifier(estimator) for estimator in estimators]
        numbers = {len(classifier.classes_) for classifier in classifiers}
        return cls(
            histories=[classifier.history_ for classifier in classifiers],
            names=names,
            best_epochs=[_chosen_epoch(classifier) for classifier in classifiers],
            n_classes=numbers.pop() if len(numbers) == 1 else None,
        )

    def plot(self, ax: npt.ArrayLike | None = None) -> Self:
        """Plot accuracy and cross-entropy side by side.

        Training curves are solid, validation curves are dashed, and a ring marks the epoch that
        early stopping chose. Dotted lines are the values of guessing among equally frequent
        classes. The cross-entropy does not include the L1 penalty; its axis is logarithmic where
        the values span more than a factor of ten. Where no validation rows were measured, the
        figure says how to get them.

        Parameters
        ----------
        ax : array-like of two matplotlib Axes, default=None
            The axes of accuracy and of cross-entropy. None makes a new figure.

        Returns
        -------
        self : TrainingHistoryDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If ``ax`` is not two Axes, or ``names`` or ``best_epochs`` do not have one item for
            each training.
        """
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
        self.axes_ = axes_for(
            ax,
            2,
            "accuracy and one for cross-entropy",
            f"{type(self).__name__}.plot",
            n_columns=2,
            size=(4.9, 3.9),
        )
        self.figure_ = self.axes_[0].figure
        self.lines_ = []
        for axes, (measure, label) in zip(self.axes_, _PANELS, strict=True):
            lines = []
            for i, (history, prefix, best) in enumerate(
                zip(self.histories, prefixes, best_epochs, strict=True)
            ):
                style = {
                    "color": COLORS[i % len(COLORS)],
                    "marker": _MARKERS[i % len(_MARKERS)],
                    "ms": 4 if i % len(_MARKERS) else 8,
                }
                lines += _plot_history(axes, history, measure, prefix, best, style)
            self.lines_.append(lines)
            axes.set(xlabel="Epoch", ylabel=label)
            _set_ticks(axes)
            tidy(axes)
        handles = list(self.lines_[1])
        chance = self._plot_chance()
        accuracy, loss = self.axes_
        _set_limits(accuracy, loss, self.lines_, self.n_classes)
        if any(best is not None for best in best_epochs):
            handles += self.axes_[1].plot(
                [], [], "o", ls="", ms=10, mfc="none", color="0.4", label="epoch kept"
            )
        beside = {"loc": "upper left", "bbox_to_anchor": (1.02, 1)} if ax is None else {}
        self.axes_[1].legend(handles=[*handles, *chance], frameon=False, **beside)
        if all(len(lines) == n for lines in self.lines_):
            self.axes_[0].set_title(_NO_VALIDATION, fontsize="small", loc="left", color="0.3")
        return self

    def _plot_chance(self) -> "list[Line2D]":
        """Draw what guessing gives; return what the legend shows of it."""
        if self.n_classes is None:
            return []
        values = (1 / self.n_classes, np.log(self.n_classes))
        return [
            axes.axhline(value, color="0.4", ls=":", lw=1.2, label="guessing")
            for axes, value in zip(self.axes_, values, strict=True)
        ][:1]


def _set_ticks(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _set_limits(
    accuracy: "Axes",
    loss: "Axes",
    lines: "Sequence[Sequence[Line2D]]",
    n_classes: int | None,
) -> None:
    """Let the curves fill the axes; a loss of several orders of magnitude gets a log scale."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    shown = [np.concatenate([np.ravel(line.get_ydata()) for line in part]) for part in lines]
    if n_classes is not None:
        shown = [np.append(shown[0], 1 / n_classes), np.append(shown[1], np.log(n_classes))]
    accuracy.set_ylim(max(0, np.nanmin(shown[0]) - 0.1), 1.02)
    losses = shown[1][np.isfinite(shown[1]) & (shown[1] > 0)]
    if not len(losses):
        return
    low, high = losses.min(), losses.max()
    if high > 10 * low:
        loss.set_yscale("log")
        loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        loss.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        loss.yaxis.set_minor_formatter(NullFormatter())
        loss.set_ylim(low / 1.2, high * 1.2)
    else:
        margin = 0.08 * (high - low) or 0.1 * high
        loss.set_ylim(max(0, low - margin), high + margin)


def _plot_history(
    axes: "Axes",
    history: _History,
    measure: str,
    prefix: str,
    best: int | None,
    style: Mapping[str, Any],
) -> "list[Line2D]":
    """Plot one measure of one training; return the training and the validation line."""
    epochs = [row["epoch"] for row in history]
    lines = []
    for part, key, dashes in (("training", "train", "-"), ("validation", "valid", "--")):
        values = [row.get(f"{key}_{measure}", np.nan) for row in history]
        if not np.isfinite(values).any():
            continue
        label = f"{prefix}, {part}" if prefix else part
        lines += axes.plot(epochs, values, dashes, label=label, **style)
        if part == "validation" and best is not None:
            value = values[epochs.index(best)]
            axes.plot(
                best, value, "o", ms=12, mfc="none", mew=1.5, color=style["color"], clip_on=False
            )
    return lines


def _fitted_classifier(estimator: Any) -> DeepFakeClassifier:
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
        "net_",
        msg=f"This {type(estimator).__name__} is not fitted yet: call fit first. A search keeps "
        "the training of its best estimator with refit=True.",
    )
    return inner


def _chosen_epoch(classifier: DeepFakeClassifier) -> int | None:
    """Return the epoch that early stopping chose; None where none was chosen."""
    best = classifier.best_epoch_
    chosen = classifier.early_stopping and "valid_loss" in classifier.history_[best - 1]
    return best if chosen else None
