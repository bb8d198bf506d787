"""How much of a detector's score is left after what happens to images on their way."""

from collections.abc import Callable, Iterator
from functools import partial
from numbers import Integral, Real
from typing import Any

import numpy as np
from PIL import Image
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted, column_or_1d

from sklearn_dfd._core.groups import check_groups
from sklearn_dfd._core.images.decoding import RawImage, check_header, to_rgb
from sklearn_dfd._core.images.distortions import DISTORTIONS, check_level, distort
from sklearn_dfd._core.images.sources import as_image_list, read_all
from sklearn_dfd._core.sklearn_private import HasMethods, Interval, validate_params
from sklearn_dfd._core.validation import import_extra
from sklearn_dfd.metrics import bootstrap_interval

__all__ = ["RobustnessDisplay", "distort", "evaluate_robustness"]

_CHUNK = 64  # images judged together
_CHUNK_PIXELS = 2**24  # of all of them together, from which on no other is added
_SCORES = {"accuracy": "Accuracy", "roc_auc": "ROC AUC"}
_AS_IS = {"marker": "o", "ls": "", "ms": 7, "mfc": "white", "mew": 1.5}


def _conditions(distortions):
    """Pairs of distortion and level; those of all distortions for None."""
    if distortions is None:
        distortions = {name: distortion.levels for name, distortion in DISTORTIONS.items()}
    if unknown := set(distortions) - set(DISTORTIONS):
        raise ValueError(
            f"distortions has {sorted(map(str, unknown))}; those that exist are "
            f"{list(DISTORTIONS)}."
        )
    for name, levels in distortions.items():
        if np.ndim(levels) != 1:
            raise ValueError(f"distortions[{name!r}] is {levels!r}: pass a list of levels.")
    conditions = [(name, level) for name, levels in distortions.items() for level in levels]
    for name, level in conditions:
        check_level(name, level)
    return conditions


@validate_params(
    {
        "estimator": [HasMethods("predict")],
        "X": "no_validation",
        "y": ["array-like"],
        "groups": ["array-like", None],
        "distortions": [dict, None],
        "n_resamples": [Interval(Integral, 1, None, closed="left")],
        "confidence_level": [Interval(Real, 0, 1, closed="neither")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def evaluate_robustness(
    estimator,
    X,
    y,
    *,
    groups=None,
    distortions=None,
    n_resamples=500,
    confidence_level=0.95,
    random_state=None,
):
    """Score a fitted detector on images as they are, and as they become on their way.

    Photographs are saved again, scaled down, blurred and brightened wherever they are shared, and
    the traces that a detector lives on are the first to go. Each distortion changes every image,
    of both classes, and the detector is not trained again.

    Parameters
    ----------
    estimator : classifier
        Fitted, on *other* images than ``X``, of two classes: a pipeline of
        :func:`~sklearn_dfd.make_deepfake_pipeline`, or anything with ``predict`` and
        ``decision_function`` or ``predict_proba`` that takes images.

    X : sequence of n_images images
        See :meth:`~sklearn_dfd.MobileNetV2Features.transform`.

    y : array-like of shape (n_images,)
        Their labels; both classes must occur.

    groups : array-like of shape (n_images,), default=None
        What belongs together, and is resampled together for the intervals.

    distortions : dict of str to list of levels, default=None
        What to do to the images, see :func:`~sklearn_dfd.robustness.distort`. None for
        ``{"jpeg": [90, 70, 50, 30], "resize": [0.75, 0.5, 0.25], "blur": [1, 2, 3],
        "noise": [5, 10, 20], "brightness": [0.5, 0.75, 1.25, 1.5]}``.

    n_resamples : int, default=500
        Number of resamples for each interval, of which there are many, see
        :func:`~sklearn_dfd.metrics.bootstrap_interval`.

    confidence_level : float, default=0.95
        Of the intervals.

    random_state : int, RandomState instance or None, default=None
        Determines the resamples, which are the same for all rows of the result. The distortions
        do not depend on it.

    Returns
    -------
    results : pandas.DataFrame
        One row for each distortion and level, after that of the images as they are.

        distortion : str
            Its name; "none" in the first row.
        level : float64
            Its level; NaN in the first row.
        accuracy, roc_auc : float64
            The scores.
        accuracy_low, accuracy_high, roc_auc_low, roc_auc_high : float64
            Ends of their confidence intervals.

    Raises
    ------
    ImportError
        If pandas is missing, before anything is computed.
    NotFittedError
        If the estimator is not fitted.
    ImageError
        If images cannot be used: all that cannot be opened, before anything is computed.
    ValueError, TypeError
        If ``X`` is not a collection of images, lengths differ, a group is missing, ``y`` has not
        the two classes of the estimator, or there is no such distortion or level.

    See Also
    --------
    RobustnessDisplay : Plots the result.

    Notes
    -----
    Images stream: at most 64 of them are decoded at a time, and fewer where they are large.
    A pipeline with ``memory=directory`` keeps the features of the distorted images too, and a
    second evaluation is quick; ``estimator.set_params(features__memory=None)`` spares the disk.

    Examples
    --------
    >>> from sklearn_dfd import make_deepfake_pipeline
    >>> from sklearn_dfd.datasets import make_spliced_photos
    >>> from sklearn_dfd.robustness import evaluate_robustness
    >>> photos = make_spliced_photos(60, random_state=0)
    >>> train, test = photos.groups < 15, photos.groups >= 15
    >>> pipe = make_deepfake_pipeline(weights=None, image_size=64, max_epochs=1, random_state=0)
    >>> pipe = pipe.fit(photos.data[train], photos.target[train])
    >>> results = evaluate_robustness(
    ...     pipe, photos.data[test], photos.target[test], groups=photos.groups[test],
    ...     distortions={"jpeg": [90, 30]}, n_resamples=100, random_state=0,
    ... )
    >>> results["distortion"].tolist(), results["level"].tolist()
    (['none', 'jpeg', 'jpeg'], [nan, 90.0, 30.0])
    """
    pandas = import_extra("pandas", "evaluate_robustness")
    check_is_fitted(estimator)
    conditions = _conditions(distortions)
    images = as_image_list(X)
    y = column_or_1d(y)
    if groups is not None:
        groups = check_groups(groups, len(images), "images")
    check_consistent_length(images, y)
    classes = np.asarray(estimator.classes_).tolist()
    if len(classes) != 2 or set(y.tolist()) != set(classes):
        raise ValueError(
            f"y holds the labels {np.unique(y).tolist()} and the estimator knows the classes "
            f"{classes}: both must be the same two."
        )
    options = {
        "groups": groups,
        "n_resamples": n_resamples,
        "confidence_level": confidence_level,
        "random_state": check_random_state(random_state).randint(np.iinfo(np.int32).max),
    }
    # what is wrong with the groups, or an image, shows before much is computed
    bootstrap_interval(accuracy_score, y, y, **{**options, "n_resamples": 1})
    limit = _max_pixels(estimator)
    read_all(images, partial(check_header, max_pixels=limit))
    labels = np.empty((1 + len(conditions), len(images)), dtype=object)
    scores = np.empty((1 + len(conditions), len(images)))
    for rows, pixels in _chunks(images, partial(to_rgb, max_pixels=limit)):
        labels[0, rows], scores[0, rows] = _judge(estimator, [images[row] for row in rows])
        for i, (name, level) in enumerate(conditions, start=1):
            apply = DISTORTIONS[name].apply
            distorted = [np.asarray(apply(image, level)) for image in pixels]
            labels[i, rows], scores[i, rows] = _judge(estimator, distorted)

    results = pandas.DataFrame([("none", np.nan), *conditions], columns=["distortion", "level"])
    results["level"] = results["level"].astype(np.float64)
    labels = labels.astype(y.dtype)
    for score, metric, judged in (
        ("accuracy", accuracy_score, labels),
        ("roc_auc", roc_auc_score, scores),
    ):
        results[score] = [metric(y, row) for row in judged]
        ends = [bootstrap_interval(metric, y, row, **options) for row in judged]
        results[f"{score}_low"], results[f"{score}_high"] = np.array(ends).T
    return results


def _max_pixels(estimator: Any) -> int | None:
    """Limit of pixels of the transformer within; None where there is none, or are several."""
    params = estimator.get_params() if hasattr(estimator, "get_params") else {}
    limits = {value for name, value in params.items() if name.split("__")[-1] == "max_pixels"}
    return limits.pop() if len(limits) == 1 else None


def _chunks(
    images: Any, decode: Callable[[RawImage], Image.Image]
) -> Iterator[tuple[list[int], list[Image.Image]]]:
    """Yield rows and decoded images, few enough to be held in memory."""
    rows: list[int] = []
    pixels: list[Image.Image] = []
    for row in range(len(images)):
        rows.append(row)
        pixels += read_all(images, decode, [row])
        n_pixels = sum(image.width * image.height for image in pixels)
        if len(rows) == _CHUNK or n_pixels >= _CHUNK_PIXELS or row == len(images) - 1:
            yield rows, pixels
            rows, pixels = [], []


def _judge(estimator, images):
    """Labels and scores of some images."""
    if hasattr(estimator, "decision_function"):
        return estimator.predict(images), estimator.decision_function(images)
    return estimator.predict(images), estimator.predict_proba(images)[:, 1]


class RobustnessDisplay:
    """Scores of a detector by how much images are distorted.

    Made by :meth:`from_estimator`, or from what :func:`evaluate_robustness` returned. All
    parameters are stored as attributes.

    Parameters
    ----------
    results : pandas.DataFrame
        What :func:`evaluate_robustness` returns.

    Attributes
    ----------
    figure_ : matplotlib Figure
        Figure with the curves.

    axes_ : ndarray of matplotlib Axes
        One for each distortion, in the order of ``results``.

    lines_ : list of two matplotlib Line2D
        For each of ``axes_`` the curves of the accuracy and of the ROC AUC.

    See Also
    --------
    evaluate_robustness : Computes the scores.
    sklearn_dfd.robustness.distort : Tells what the distortions are.

    Examples
    --------
    >>> import pandas as pd
    >>> from sklearn_dfd.robustness import RobustnessDisplay
    >>> results = pd.DataFrame({"distortion": ["none", "jpeg"], "level": [float("nan"), 50]})
    >>> for score in ("accuracy", "roc_auc"):
    ...     results[score] = [0.9, 0.7]
    ...     results[f"{score}_low"], results[f"{score}_high"] = [0.8, 0.6], [1.0, 0.8]
    >>> display = RobustnessDisplay(results).plot()
    >>> [axes.get_xlabel() for axes in display.axes_]
    ['JPEG quality']
    """

    def __init__(self, results):
        self.results = results

    @classmethod
    def from_estimator(cls, estimator, X, y, *, ax=None, **options):
        """Evaluate a fitted detector, and plot its scores.

        Parameters
        ----------
        estimator : classifier
            Fitted on other images, see :func:`evaluate_robustness`.

        X : sequence of n_images images
            See :meth:`~sklearn_dfd.MobileNetV2Features.transform`.

        y : array-like of shape (n_images,)
            Their labels.

        ax : sequence of matplotlib Axes, default=None
            See :meth:`plot`.

        **options
            The keyword arguments of :func:`evaluate_robustness`, ``groups`` among them.

        Returns
        -------
        display : RobustnessDisplay
            Its ``results`` are those of :func:`evaluate_robustness`, which says what it raises.
        """
        import_extra("matplotlib", f"{cls.__name__}.from_estimator")
        return cls(evaluate_robustness(estimator, X, y, **options)).plot(ax=ax)

    def plot(self, ax=None):
        """Plot a panel for each distortion, from mild to severe as far as there is such an order.

        Hollow marks are the images as they are, bands the confidence intervals. The dotted line is
        guessing, of the ROC AUC.

        Parameters
        ----------
        ax : sequence of matplotlib Axes, default=None
            One for each distortion. None for a new figure.

        Returns
        -------
        self : object

        Raises
        ------
        ImportError
            If matplotlib is missing. Says how to install it.
        ValueError
            If ``results`` holds no distortion, or ``ax`` is not one Axes for each.
        """
        plt = import_extra("matplotlib.pyplot", f"{type(self).__name__}.plot")

        names = list(dict.fromkeys(name for name in self.results["distortion"] if name != "none"))
        if not names:
            raise ValueError("results holds the images as they are only: no distortion to plot.")
        figure = None
        if ax is None:
            n_columns = min(len(names), 3)
            n_rows = -(-len(names) // n_columns)
            figure = plt.figure(
                figsize=(max(2.8 * n_columns, 6), 0.4 + 2.5 * n_rows), layout="constrained"
            )
            ax = [figure.add_subplot(n_rows, n_columns, i + 1) for i in range(len(names))]
        self.axes_ = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
        if len(self.axes_) != len(names):
            raise ValueError(
                f"ax takes one matplotlib Axes for each of {names}; got {len(self.axes_)}."
            )
        self.figure_ = self.axes_[0].figure
        self.lines_ = [
            self._plot_panel(axes, name) for axes, name in zip(self.axes_, names, strict=True)
        ]
        lowest = min(self.results[f"{score}_low"].min() for score in _SCORES)
        for axes in self.axes_:
            axes.set_ylim(min(0.45, lowest - 0.05), 1.02)
        marks = [
            *self.lines_[-1],
            *axes.plot([], [], **_AS_IS, color="0.4", label="as is"),
            axes.fill_between([], [], color="0.4", alpha=0.2, lw=0, label="confidence interval"),
        ]
        if figure is None:
            axes.legend(handles=marks, frameon=False)
        else:
            figure.legend(handles=marks, loc="outside upper center", ncols=4, frameon=False)
        return self

    def _plot_panel(self, axes, name):
        """Plot both scores under one distortion; return their lines."""
        distortion = DISTORTIONS[name]
        shown = self.results[self.results["distortion"].isin(["none", name])]
        shown = shown.fillna({"level": distortion.undistorted})
        shown = shown.sort_values("level", ascending=not distortion.descending, kind="stable")
        untouched = int(np.flatnonzero(shown["distortion"] == "none")[0])
        places = np.arange(len(shown))
        lines = []
        for i, (score, label) in enumerate(_SCORES.items()):
            values = shown[score].to_numpy()
            lines += axes.plot(places, values, ".-", color=f"C{i}", label=label)
            axes.plot(untouched, values[untouched], "o", ms=7, mfc="white", mew=1.5, color=f"C{i}")
            axes.fill_between(
                places,
                shown[f"{score}_low"],
                shown[f"{score}_high"],
                color=f"C{i}",
                alpha=0.15,
                lw=0,
            )
        axes.axhline(0.5, color="0.6", ls=":", lw=1)
        ticks = [f"{value:g}" for value in shown["level"]]
        ticks[untouched] = "as is"
        axes.set_xticks(places, ticks)
        axes.set_xlabel(distortion.label)
        place = axes.get_subplotspec()
        if place is None or place.is_first_col():
            axes.set_ylabel("Score")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        return lines
