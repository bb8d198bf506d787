"""How much of a detector's score remains after the usual processing of shared images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.base import BaseEstimator
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted, column_or_1d
from tqdm.auto import tqdm

from sklearn_dfd._core.axes import COLORS, axes_for, tidy
from sklearn_dfd._core.group_answers import params_within
from sklearn_dfd._core.groups import check_groups
from sklearn_dfd._core.images.decoding import RawImage, check_header, to_rgb
from sklearn_dfd._core.images.distortions import DISTORTIONS, check_level, distort
from sklearn_dfd._core.images.film_pool import films_stay_open
from sklearn_dfd._core.images.reading import read_all
from sklearn_dfd._core.images.sources import as_image_list, describe
from sklearn_dfd._core.sklearn_private import HasMethods, Interval, validate_params
from sklearn_dfd._core.validation import check_same_two_classes, import_extra
from sklearn_dfd.exceptions import ImageError
from sklearn_dfd.metrics import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from pandas import DataFrame

__all__ = ["RobustnessDisplay", "distort", "evaluate_robustness"]

_CHUNK = 64  # images judged together
_CHUNK_PIXELS = 2**24  # number of pixels at which a chunk is full
_SCORES = {"accuracy": "Accuracy", "roc_auc": "ROC AUC"}
_STYLES: tuple[dict[str, Any], ...] = (
    {"color": COLORS[0], "ls": "--"},
    {"color": COLORS[1], "ls": "-"},
)  # of the scores
_AS_IS: dict[str, Any] = {"marker": "o", "ms": 7, "mfc": "white", "mew": 1.5}

_Distortions = Mapping[str, Sequence[float]]


def _conditions(distortions: _Distortions | None) -> list[tuple[str, float]]:
    """Return pairs of a distortion and a level, those of all distortions for None."""
    if distortions is None:
        distortions = {name: distortion.levels for name, distortion in DISTORTIONS.items()}
    if unknown := set(distortions) - set(DISTORTIONS):
        raise ValueError(
            f"distortions has {sorted(map(str, unknown))}, which do not exist: the distortions "
            f"are {list(DISTORTIONS)}."
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
        "verbose": ["verbose"],
    },
    prefer_skip_nested_validation=True,
)
def evaluate_robustness(
    estimator: BaseEstimator,
    X: Any,
    y: npt.ArrayLike,
    *,
    groups: npt.ArrayLike | None = None,
    distortions: _Distortions | None = None,
    n_resamples: int = 500,
    confidence_level: float = 0.95,
    random_state: int | np.random.RandomState | None = None,
    verbose: int = 0,
) -> "DataFrame":
    """Score a fitted detector on images as they are, and after the usual processing.

    Photographs are saved again, scaled down, blurred and brightened wherever they are shared, and
    the traces that a detector relies on are the first to be lost. Each distortion changes every
    image of both classes, and the detector is not trained again.

    Parameters
    ----------
    estimator : classifier
        A classifier of two classes, fitted on *other* images than ``X``: a pipeline of
        :func:`~sklearn_dfd.make_deepfake_pipeline`, or any classifier of images with ``predict``
        and ``decision_function`` or ``predict_proba``.

    X : sequence of n_images images
        The images to test on; see :meth:`~sklearn_dfd.MobileNetV2Features.transform`.

    y : array-like of shape (n_images,)
        Their labels, by position. Both classes must occur. It does not matter which one is
        positive: accuracy and ROC AUC are the same for both.

    groups : array-like of shape (n_images,), default=None
        The group of each image. Groups are resampled as a whole for the intervals.

    distortions : dict of str to list of levels, default=None
        The distortions and their levels; see :func:`~sklearn_dfd.robustness.distort`. None means
        ``{"jpeg": [90, 70, 50, 30], "resize": [0.75, 0.5, 0.25], "blur": [1, 2, 3],
        "noise": [5, 10, 20], "brightness": [0.5, 0.75, 1.25, 1.5]}``.

    n_resamples : int, default=500
        Number of resamples for each interval, see
        :func:`~sklearn_dfd.metrics.bootstrap_interval`. There are two intervals per row of the
        result.

    confidence_level : float, default=0.95
        The confidence level of the intervals.

    random_state : int, RandomState instance or None, default=None
        Seed of the resampling, which is the same for all rows of the result. The distortions do
        not depend on it.

    verbose : int, default=0
        Whether to show progress bars: one of the images judged, and one of the intervals.

    Returns
    -------
    results : pandas.DataFrame
        One row for the images as they are, followed by one row per distortion and level. The
        columns are:

        distortion : str
            The name of the distortion; "none" in the first row.
        level : float64
            Its level; NaN in the first row.
        accuracy, roc_auc : float64
            The scores.
        accuracy_low, accuracy_high, roc_auc_low, roc_auc_high : float64
            The ends of their confidence intervals.

        ``results.attrs["confidence_level"]`` is the confidence level of the intervals.

    Raises
    ------
    ImportError
        If pandas is not installed. This is raised before anything is computed.
    NotFittedError
        If the estimator is not fitted.
    ImageError
        If images cannot be used; their positions in ``X`` are counted from 0. All images that
        cannot be opened are named before anything is computed; what else the estimator refuses,
        when it is judged.
    ValueError, TypeError
        If ``X`` is not a collection of images, lengths differ, a group label is missing, ``y``
        does not hold the two classes of the estimator, or a distortion or level does not exist.

    See Also
    --------
    RobustnessDisplay : Plots the result.

    Notes
    -----
    At most 64 images are decoded at a time, and fewer where they are large. A pipeline with
    ``memory=directory`` also keeps the features of the distorted images, which makes a second
    evaluation quick; ``estimator.set_params(features__memory=None)`` saves the disk space.

    Distortions are applied to all pixels of a photograph, even with ``decoding="fast"``: it counts
    in full for ``max_pixels``.

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
    truth: npt.NDArray[Any] = column_or_1d(y)
    if groups is not None:
        groups = check_groups(groups, len(images), "images")
    check_consistent_length(images, truth)
    check_same_two_classes(truth, estimator.classes_)
    options: dict[str, Any] = {
        "groups": groups,
        "n_resamples": n_resamples,
        "confidence_level": confidence_level,
        "random_state": check_random_state(random_state).randint(np.iinfo(np.int32).max),
    }
    # so that unusable groups or images are reported before much is computed
    bootstrap_interval(accuracy_score, truth, truth, **{**options, "n_resamples": 1})
    limit = _max_pixels(estimator)
    read_all(images, partial(check_header, max_pixels=limit))
    labels = np.empty((1 + len(conditions), len(images)), dtype=object)
    scores = np.empty((1 + len(conditions), len(images)))
    # decoded here and again by the estimator, each film is opened once
    with films_stay_open(), tqdm(total=labels.size, unit="image", disable=not verbose) as bar:
        for rows, pixels in _chunks(images, partial(to_rgb, max_pixels=limit)):
            with _named_among(images, rows):
                labels[0, rows], scores[0, rows] = _judge(estimator, [images[row] for row in rows])
            bar.update(len(rows))
            for i, (name, level) in enumerate(conditions, start=1):
                apply = DISTORTIONS[name].apply
                distorted = [np.asarray(apply(image, level)) for image in pixels]
                with _named_among(images, rows, f" ({name} {level:g})"):
                    labels[i, rows], scores[i, rows] = _judge(estimator, distorted)
                bar.update(len(rows))

    results = pandas.DataFrame([("none", np.nan), *conditions], columns=["distortion", "level"])
    results["level"] = results["level"].astype(np.float64)
    labels = labels.astype(truth.dtype)
    with tqdm(total=2 * len(results), unit="interval", disable=not verbose) as bar:
        for score, metric, judged in (
            ("accuracy", accuracy_score, labels),
            ("roc_auc", roc_auc_score, scores),
        ):
            results[score] = [metric(truth, row) for row in judged]
            ends = []
            for row in judged:
                ends.append(bootstrap_interval(metric, truth, row, **options))
                bar.update()
            results[f"{score}_low"], results[f"{score}_high"] = np.array(ends).T
    results.attrs["confidence_level"] = confidence_level
    return results


@contextmanager
def _named_among(images: Any, rows: Sequence[int], distorted: str = "") -> Iterator[None]:
    """Let the error of an estimator that refuses some images name their rows among all."""
    try:
        yield
    except ImageError as error:
        failures = [
            (rows[position], describe(images[rows[position]]), f"{reason}{distorted}")
            for position, _, reason in error.failures
        ]
        raise ImageError(failures, len(images)) from None


def _max_pixels(estimator: Any) -> int | None:
    """Return the pixel limit of the transformer inside; None if there is none, or several."""
    params = params_within(estimator)
    limits = {value for name, value in params.items() if name.split("__")[-1] == "max_pixels"}
    return limits.pop() if len(limits) == 1 else None


def _chunks(
    images: Any, decode: Callable[[RawImage], Image.Image]
) -> Iterator[tuple[list[int], list[Image.Image]]]:
    """Yield the rows and the decoded images of chunks that fit in memory."""
    rows: list[int] = []
    pixels: list[Image.Image] = []
    for row in range(len(images)):
        rows.append(row)
        pixels += read_all(images, decode, [row])
        n_pixels = sum(image.width * image.height for image in pixels)
        if len(rows) == _CHUNK or n_pixels >= _CHUNK_PIXELS or row == len(images) - 1:
            yield rows, pixels
            rows, pixels = [], []


def _judge(
    estimator: BaseEstimator, images: Sequence[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Return labels and scores of some images."""
    if hasattr(estimator, "decision_function"):
        return estimator.predict(images), estimator.decision_function(images)
    return estimator.predict(images), estimator.predict_proba(images)[:, 1]


class RobustnessDisplay:
    """Scores of a detector against the strength of image distortions.

    It is made by :meth:`from_estimator`, or from the result of :func:`evaluate_robustness`. The
    parameters are stored as attributes.

    Parameters
    ----------
    results : pandas.DataFrame
        The result of :func:`evaluate_robustness`.

    Attributes
    ----------
    figure_ : matplotlib Figure
        The figure that holds the curves.

    axes_ : ndarray of matplotlib Axes, shape (n_distortions,)
        One for each distortion, in the order of ``results``.

    lines_ : list of two-element lists of matplotlib Line2D
        For each of ``axes_`` the curves of accuracy and ROC AUC.

    See Also
    --------
    evaluate_robustness : Computes the scores.
    sklearn_dfd.robustness.distort : Describes the distortions.

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

    def __init__(self, results: "DataFrame") -> None:
        self.results = results

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: Any,
        y: npt.ArrayLike,
        *,
        groups: npt.ArrayLike | None = None,
        distortions: _Distortions | None = None,
        n_resamples: int = 500,
        confidence_level: float = 0.95,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
        ax: "npt.ArrayLike | Axes | None" = None,
    ) -> Self:
        """Evaluate a fitted detector, and plot its scores.

        Parameters
        ----------
        estimator : classifier
            A classifier fitted on other images; see :func:`evaluate_robustness`.

        X : sequence of n_images images
            The images to test on; see :meth:`~sklearn_dfd.MobileNetV2Features.transform`.

        y : array-like of shape (n_images,)
            Their labels.

        groups : array-like of shape (n_images,), default=None
            The group of each image.

        distortions : dict of str to list of levels, default=None
            The distortions and their levels, as in :func:`evaluate_robustness`.

        n_resamples : int, default=500
            Number of resamples for each interval.

        confidence_level : float, default=0.95
            The confidence level of the intervals.

        random_state : int, RandomState instance or None, default=None
            Seed of the resampling.

        verbose : int, default=0
            Whether to show progress bars.

        ax : matplotlib Axes or array-like of matplotlib Axes, default=None
            One for each distortion; see :meth:`plot`.

        Returns
        -------
        display : RobustnessDisplay
            The display, with the scores in ``results``.

        Raises
        ------
        ImportError
            If pandas or matplotlib is not installed. This is raised before anything is computed.
        NotFittedError, ImageError, ValueError, TypeError
            If :func:`evaluate_robustness` or :meth:`plot` raises it.
        """
        import_extra("matplotlib", f"{cls.__name__}.from_estimator")
        results = evaluate_robustness(
            estimator,
            X,
            y,
            groups=groups,
            distortions=distortions,
            n_resamples=n_resamples,
            confidence_level=confidence_level,
            random_state=random_state,
            verbose=verbose,
        )
        return cls(results).plot(ax=ax)

    def plot(self, ax: "npt.ArrayLike | Axes | None" = None) -> Self:
        """Plot a panel for each distortion, from mild to severe where there is such an order.

        Hollow markers are the images as they are, and bands are the confidence intervals. The
        dotted line is the ROC AUC of guessing.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of matplotlib Axes, default=None
            One for each distortion. None makes a new figure.

        Returns
        -------
        self : RobustnessDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If ``results`` holds no distortion, or ``ax`` is not one Axes for each.
        """
        names = list(dict.fromkeys(name for name in self.results["distortion"] if name != "none"))
        if not names:
            raise ValueError("results holds only the images as they are: no distortion to plot.")
        self.axes_ = axes_for(
            ax,
            len(names),
            f"each of the distortions {names}",
            f"{type(self).__name__}.plot",
            n_columns=3,
            size=(2.9 if len(names) > 1 else 6, 2.5),
            extra_height=0.4,
        )
        self.figure_ = self.axes_[0].figure
        self.lines_ = [
            self._plot_panel(axes, name) for axes, name in zip(self.axes_, names, strict=True)
        ]
        lowest = min(self.results[f"{score}_low"].min() for score in _SCORES)
        for axes in self.axes_:
            axes.set_ylim(min(0.45, lowest - 0.05), 1.02)
        level = self.results.attrs.get("confidence_level")
        interval = "confidence interval" if level is None else f"{100 * level:g} % interval"
        last = self.axes_[-1]
        marks = [
            *self.lines_[-1],
            *last.plot([], [], **_AS_IS, ls="", color="0.4", label="as is"),
            last.fill_between([], [], color="0.4", alpha=0.2, lw=0, label=interval),
            *last.plot([], [], color="0.6", ls=":", lw=1, label="guessing (ROC AUC)"),
        ]
        if ax is None:
            columns = 5 if len(names) > 2 else 3
            self.figure_.legend(
                handles=marks, loc="outside upper center", ncols=columns, frameon=False
            )
        else:
            last.legend(handles=marks, frameon=False)
        return self

    def _plot_panel(self, axes: "Axes", name: str) -> "list[Line2D]":
        """Plot both scores under one distortion; return their lines."""
        distortion = DISTORTIONS[name]
        shown = self.results[self.results["distortion"].isin(["none", name])]
        shown = shown.fillna({"level": distortion.undistorted})
        shown = shown.sort_values("level", ascending=not distortion.descending, kind="stable")
        untouched = int(np.flatnonzero(shown["distortion"] == "none")[0])
        places = np.arange(len(shown))
        lines = []
        for (score, label), style in zip(_SCORES.items(), _STYLES, strict=True):
            values = shown[score].to_numpy()
            lines += axes.plot(places, values, marker=".", label=label, **style)
            axes.plot(untouched, values[untouched], **_AS_IS, color=style["color"])
            axes.fill_between(
                places,
                shown[f"{score}_low"],
                shown[f"{score}_high"],
                color=style["color"],
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
        tidy(axes)
        return lines
