"""One answer per group: what a detector calls it, with its own threshold if any, and its score."""

import copy
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import get_scorer
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import MetadataRequest

from sklearn_dfd._core.answers import AGGREGATES, Aggregate, combine, number_groups
from sklearn_dfd._core.groups import check_groups
from sklearn_dfd._core.sklearn_private import num_samples
from sklearn_dfd._core.validation import Label, resolve_pos_label


class Judged(ClassifierMixin, BaseEstimator):
    """A stand-in for a detector that has judged all there is: its images are row numbers.

    Parameters
    ----------
    probability : ndarray of shape (n_rows, n_classes)
        The probabilities.
    classes : ndarray of shape (n_classes,)
        The classes, in the order of the columns.
    call : callable
        Returns the class that each row is called, as an ndarray of shape (n_rows,).
    """

    def __init__(
        self,
        probability: npt.NDArray[np.float64],
        classes: npt.NDArray[Any],
        call: Callable[[], npt.NDArray[Any]],
    ) -> None:
        self.probability = probability
        self.classes = classes
        self.call = call
        self.classes_ = classes

    def fit(self, X: object, y: object) -> Self:
        """Do nothing: without this method scikit-learn would not take it for an estimator."""
        return self

    def predict_proba(self, X: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        """Return the probabilities of some rows."""
        return self.probability[np.asarray(X)]

    def predict(self, X: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        """Return the class that some rows are called."""
        return self.call()[np.asarray(X)]


def called_by(detector: Any, probability: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Return what a detector calls images of some probabilities, with its own threshold if any.

    Parameters
    ----------
    detector : classifier
        A fitted detector.
    probability : ndarray of shape (n_rows, n_classes)
        Probabilities, which need not be of images.

    Returns
    -------
    labels : ndarray of shape (n_rows,)

    Raises
    ------
    ValueError
        If the detector has a threshold that is not one of probabilities.
    """
    classes = np.asarray(detector.classes_)
    more_probable = classes[probability.argmax(axis=1)]
    by_threshold = find_within(detector, (FixedThresholdClassifier, TunedThresholdClassifierCV))
    if by_threshold is None or not len(probability):
        return more_probable
    # its own code decides, for a stand-in that knows probabilities and nothing else
    stand_in = copy.copy(by_threshold)
    stand_in.estimator_ = Judged(probability, classes, lambda: more_probable)
    try:
        return np.asarray(stand_in.predict(np.arange(len(probability))))
    except AttributeError as error:
        raise ValueError(
            f"The threshold of {type(by_threshold).__name__} is one of the "
            f"{by_threshold.response_method}, which is not known of several images together: fit "
            'it with response_method="predict_proba".'
        ) from error


def find_within(estimator: Any, wanted: Any, through: tuple[Any, ...] = ()) -> Any:
    """Look for an estimator of a kind inside those that pass on its output.

    Parameters
    ----------
    estimator : classifier
        A fitted detector. Pipelines, searches and frozen estimators are looked into.
    wanted : type or tuple of types
        The kind that is looked for.
    through : tuple of types, default=()
        Other meta-estimators that are looked into, by their attribute ``estimator_``.

    Returns
    -------
    found : classifier or None
        The outermost one; None if there is none.
    """
    while not isinstance(estimator, wanted):
        if isinstance(estimator, Pipeline):
            estimator = estimator.steps[-1][1]
        elif hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif isinstance(estimator, FrozenEstimator):
            estimator = estimator.estimator
        elif isinstance(estimator, through):
            estimator = estimator.estimator_
        else:
            return None
    return estimator


def params_within(estimator: Any) -> dict[str, Any]:
    """Return the parameters of an estimator and of all inside, frozen ones too.

    Parameters
    ----------
    estimator : estimator
        Of a search, its best estimator. ``get_params`` of a frozen estimator does not look into it.

    Returns
    -------
    params : dict of str to object
        Values by name, such as ``"estimator__estimator__features__layer"``.
    """
    estimator = getattr(estimator, "best_estimator_", estimator)
    params = estimator.get_params() if hasattr(estimator, "get_params") else {}
    frozen = {f"{name}__": value for name, value in params.items()}
    for prefix, value in {"": estimator, **frozen}.items():
        if isinstance(value, FrozenEstimator):
            within = params_within(value.estimator)
            params |= {f"{prefix}estimator__{name}": inner for name, inner in within.items()}
    return params


class GroupScorer:
    """Scorer of one answer per group, made by :func:`~sklearn_dfd.metrics.make_group_scorer`.

    It requests ``groups`` of scikit-learn's metadata routing.

    Parameters
    ----------
    scoring : str or callable
        Name of a scorer of scikit-learn, or a scorer.

    pos_label : int, float, bool, str or None
        The class that is label 1 for the scorer. None leaves the labels as they are.

    aggregate : {"mean_log_odds", "median"}
        How the probabilities of a group are combined.

    See Also
    --------
    sklearn_dfd.metrics.make_group_scorer : Makes such a scorer, and has an example.
    """

    def __init__(
        self, scoring: str | Callable[..., float], pos_label: Label | None, aggregate: Aggregate
    ) -> None:
        self._scoring = scoring
        self._pos_label = pos_label
        self._aggregate: Aggregate = aggregate
        self._groups: bool | str | None = True

    def __repr__(self) -> str:
        """Return the call that makes this scorer."""
        options = f", pos_label={self._pos_label!r}" if self._pos_label is not None else ""
        if self._aggregate != AGGREGATES[0]:
            options += f", aggregate={self._aggregate!r}"
        return f"make_group_scorer({self._scoring!r}{options})"

    def get_metadata_routing(self) -> MetadataRequest:
        """Return what the scorer requests of scikit-learn's metadata routing.

        Returns
        -------
        routing : MetadataRequest
            The request of ``groups``.
        """
        request = MetadataRequest(owner=self)
        request.score.add_request(param="groups", alias=self._groups)
        return request

    def set_score_request(self, *, groups: bool | str | None = True) -> Self:
        """Set the name under which the groups are passed.

        Parameters
        ----------
        groups : bool, str or None, default=True
            True for ``groups``, the initial setting. A string is another name under which they are
            passed, for splits by groups other than those that are scored:
            ``cross_validate(..., params={"groups": sources, "film": films})`` with
            ``groups="film"``.

        Returns
        -------
        self : GroupScorer
            The scorer itself.

        Raises
        ------
        RuntimeError
            If metadata routing is not enabled.
        """
        if not get_config()["enable_metadata_routing"]:
            raise RuntimeError(
                "Requests are for metadata routing: enable it first by "
                "sklearn.set_config(enable_metadata_routing=True)."
            )
        self._groups = groups
        return self

    def __call__(self, estimator: Any, X: Any, y: npt.ArrayLike, *, groups: Any = None) -> float:
        """Score a detector by one answer per group.

        Parameters
        ----------
        estimator : classifier
            A fitted detector.

        X : sequence of n_images images
            The images.

        y : array-like of shape (n_images,)
            The class of each image, the same for all images of a group.

        groups : array-like of shape (n_images,)
            The group of each image.

        Returns
        -------
        score : float
            The score; greater is better.

        Raises
        ------
        ValueError
            If groups are missing or not one per image, or images of one group have different
            labels.
        """
        if groups is None:
            raise ValueError(
                f"{self!r} needs the groups, which reach a scorer by metadata routing alone: call "
                "sklearn.set_config(enable_metadata_routing=True), and pass them as "
                'params={"groups": groups}.'
            )
        names, codes = number_groups(check_groups(groups, num_samples(X), "images"))
        y = _label_of_each(names, codes, np.asarray(y))
        classes = np.asarray(estimator.classes_)
        each = np.asarray(estimator.predict_proba(X), dtype=np.float64)
        probability = combine(each, codes, self._aggregate)
        judged = Judged(probability, classes, lambda: called_by(estimator, probability))
        if self._pos_label is not None:
            if len(classes) != 2:
                raise ValueError(
                    f"pos_label is for two classes, and the detector knows {classes.tolist()}: "
                    "leave it out."
                )
            positive = resolve_pos_label(self._pos_label, classes, "")
            judged = Judged(
                probability if classes[1] == positive else probability[:, ::-1],
                np.array([0, 1]),  # scorers take 1 to be the positive class
                lambda: (called_by(estimator, probability) == positive).astype(int),
            )
            y = (y == positive).astype(int)
        return float(get_scorer(self._scoring)(judged, np.arange(len(names)), y))


def _label_of_each(
    names: npt.NDArray[Any], codes: npt.NDArray[np.intp], y: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Return the label of each group, which must be the same for all of its images."""
    if len(y) != len(codes):
        raise ValueError(f"There are {len(y)} labels for {len(codes)} images.")
    first = np.unique(codes, return_index=True)[1]
    for row in np.flatnonzero(y != y[first[codes]])[:1]:
        labels = sorted(set(y[codes == codes[row]].tolist()), key=str)
        raise ValueError(
            f"Group {names.tolist()[codes[row]]!r} holds images of the classes {labels}, for "
            f"example rows {first[codes[row]]} and {row}: one answer per group can only be scored "
            "where all images of a group have the same label."
        )
    return y[first]
