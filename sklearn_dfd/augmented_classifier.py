"""A detector that trains on views of photographs, and judges photographs and mirror images."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn import config_context, get_config
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags
from sklearn.utils.metadata_routing import MetadataRequest, get_routing_for_object
from sklearn.utils.validation import check_is_fitted, column_or_1d, has_fit_parameter

from sklearn_dfd._core.callbacks import CallbackSupportMixin, training_data
from sklearn_dfd._core.group_answers import find_within, params_within
from sklearn_dfd._core.images.sources import as_image_list, describe
from sklearn_dfd._core.persistence import restored_state, saved_state
from sklearn_dfd._core.sklearn_private import HasMethods, Interval, fit_context
from sklearn_dfd.augmentation import ImageAugmenter, Recipe, View, augment
from sklearn_dfd.exceptions import ImageError


class AugmentedClassifier(CallbackSupportMixin, MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """Train a detector on photographs and views of them; judge photographs and mirror images.

    ``fit`` makes views of the rows that it is given, and of nothing else. In cross-validation and
    searches over this estimator, no view of a test photograph is ever trained on, and photographs
    are tested as they are.

    Parameters
    ----------
    estimator : classifier
        A classifier that takes images: a pipeline of :class:`~sklearn_dfd.MobileNetV2Features` and
        :class:`~sklearn_dfd.DeepFakeClassifier`. It is cloned.

    n_views : int, default=8
        Number of views of each photograph to train on, in addition to the photograph; 0 for none.

    recipe : {"gentle", "sharing", "contrast", "mirrored"}, default="gentle"
        What may happen to a photograph in a view, see
        :class:`~sklearn_dfd.augmentation.ImageAugmenter`.

    average_mirrored : bool, default=True
        Whether to average the probabilities of a photograph and its mirror image. The network then
        runs twice per photograph, which is read and decoded once.

    random_state : int, default=0
        Seed of the views. Only an int is allowed: all fits of a search then make the same views,
        and the features of each are computed once.

    Attributes
    ----------
    estimator_ : classifier
        The fitted clone.

    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.

    See Also
    --------
    make_deepfake_pipeline : Returns such a classifier for ``preset="accurate"``.
    sklearn_dfd.augmentation.ImageAugmenter : Makes the same views in imbalanced-learn's pipelines.

    Notes
    -----
    Each photograph takes ``n_views + 1`` rows of features in training. Those of a large collection
    do not fit into the memory of the process: give the transformer a directory (``memory=``), or
    ``FeatureStore(directory, dtype="float16")`` to halve the space.

    With scikit-learn 1.9 or later ``set_callbacks`` registers its callbacks. Those that propagate
    to sub-estimators, such as :class:`~sklearn.callback.ProgressBar`, are called for each epoch.
    This classifier itself passes the photographs to callbacks, and not their views.

    Examples
    --------
    >>> from sklearn_dfd import make_deepfake_pipeline
    >>> from sklearn_dfd.augmented_classifier import AugmentedClassifier
    >>> from sklearn_dfd.datasets import make_spliced_photos
    >>> photos = make_spliced_photos(40, random_state=0)
    >>> pipe = make_deepfake_pipeline(weights=None, image_size=64, max_epochs=1, random_state=0)
    >>> detector = AugmentedClassifier(pipe, n_views=1).fit(photos.data, photos.target)
    >>> detector.predict_proba(photos.data[:3]).shape
    (3, 2)
    """

    _parameter_constraints: dict[str, Any] = {  # noqa: RUF012
        **ImageAugmenter._parameter_constraints,
        "estimator": [HasMethods(["fit", "predict_proba"])],
        "n_views": [Interval(Integral, 0, None, closed="left")],
        "average_mirrored": ["boolean"],
        "random_state": [Interval(Integral, 0, None, closed="left")],
    }
    del _parameter_constraints["keep_originals"]

    # for each parameter added later, the value that corresponds to what older releases did
    _parameters_of_older_files: dict[str, Any] = {}  # noqa: RUF012

    def __init__(
        self,
        estimator: Any,
        *,
        n_views: int = 8,
        recipe: Recipe = "gentle",
        average_mirrored: bool = True,
        random_state: int = 0,
    ) -> None:
        self.estimator = estimator
        self.n_views = n_views
        self.recipe = recipe
        self.average_mirrored = average_mirrored
        self.random_state = random_state

    @fit_context(prefer_skip_nested_validation=False)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        groups: Any = None,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Train on photographs and their views.

        Parameters
        ----------
        X : sequence of n_images images
            The photographs; see :meth:`~sklearn_dfd.MobileNetV2Features.transform`.

        y : array-like of shape (n_images,)
            The label of each photograph.

        sample_weight : array-like of shape (n_images,), default=None
            The weight of each photograph; a view weighs as much as its photograph.

        groups : array-like of shape (n_images,), default=None
            Labels of the photographs that stay together where the classifier sets rows aside
            (``early_stopping``). None makes each photograph a group. Views are always on the side
            of their photograph.

        X_val : sequence of n_val images, default=None
            Photographs to validate on. The classifier evaluates them after each epoch, as they are:
            no views are made of them. A pipeline transforms them as it does ``X``, with or without
            metadata routing.

        y_val : array-like of shape (n_val,), default=None
            The label of each photograph in ``X_val``.

        sample_weight_val : array-like of shape (n_val,), default=None
            The weight of each photograph in ``X_val``.

        Returns
        -------
        self : AugmentedClassifier
            The fitted classifier.

        Raises
        ------
        ImageError
            If images cannot be used; the error names them all, and says if they are in ``X_val``.
        TypeError
            If ``X`` or ``X_val`` is not a collection of images.
        ValueError
            If lengths differ, weights or validation rows are passed that the classifier does not
            take, the classifier splits its input itself (as ``CalibratedClassifierCV`` does, or
            some with ``early_stopping=True``) and no groups reach it, or it has a threshold of its
            own.
        """
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None."
            )
        faces = augment(
            X,
            y,
            groups,
            n_views=max(self.n_views, 1),
            recipe=self.recipe,
            random_state=self.random_state,
        )
        originals = as_image_list(X)
        n_images = len(originals)
        rows = np.arange((self.n_views + 1) * n_images)
        images, target, groups = (faces[name][rows] for name in ("data", "target", "groups"))
        metadata = {"groups": groups}
        if sample_weight is not None:
            sample_weight = column_or_1d(sample_weight)
            if len(sample_weight) != n_images:
                raise ValueError(
                    f"sample_weight has {len(sample_weight)} values for {n_images} images: pass "
                    "one per image."
                )
            metadata["sample_weight"] = sample_weight[rows % n_images]
        if X_val is not None:
            metadata["X_val"] = as_image_list(X_val)
        if y_val is not None:
            metadata["y_val"] = y_val
        if sample_weight_val is not None:
            metadata["sample_weight_val"] = sample_weight_val
        estimator = clone(self.estimator)
        data = training_data(originals, target[:n_images], sample_weight)
        task = self._init_callback_context(max_subtasks=1)
        task.call_on_fit_task_begin(estimator=self, **data)
        part = task.subcontext(task_name="fit-estimator")
        with part.propagate_callback_context(estimator):
            part.call_on_fit_task_begin(estimator=self, **data)
            try:
                self.estimator_ = _fit_with(estimator, images, target, metadata)
            except ImageError as error:
                raise _of_photographs(error, images, n_images, metadata.get("X_val")) from None
            part.call_on_fit_task_end(estimator=self, **data)
        self.classes_ = self.estimator_.classes_
        task.call_on_fit_task_end(estimator=self, **data, reconstruction_attributes={})
        return self

    def predict_proba(self, X: Any) -> npt.NDArray[np.float32]:
        """Predict the probability of each class.

        Parameters
        ----------
        X : sequence of n_images images
            The photographs; see :meth:`~sklearn_dfd.MobileNetV2Features.transform`.

        Returns
        -------
        p : ndarray of float32, shape (n_images, n_classes)
            Probabilities in the order of ``classes_``; each row sums to 1.

        Raises
        ------
        NotFittedError
            If the classifier is not fitted.
        ImageError
            If images cannot be used; the error names them all.
        TypeError, ValueError
            If ``X`` is not a collection of images.
        """
        check_is_fitted(self)
        if not self.average_mirrored:
            return self.estimator_.predict_proba(X)
        # side by side, so that each photograph is read, decoded and resized once
        both = [image for x in as_image_list(X) for image in (x, View(x, 0, "mirrored"))]
        try:
            probability = self.estimator_.predict_proba(both)
        except ImageError as error:
            named = {row // 2: reason for row, _, reason in reversed(error.failures)}
            failures = [(row, describe(both[2 * row]), named[row]) for row in sorted(named)]
            raise ImageError(failures, len(both) // 2, error.hint, error.n_shown) from None
        return (probability[::2] + probability[1::2]) / 2

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Predict labels.

        Parameters
        ----------
        X : sequence of n_images images
            The photographs; see :meth:`~sklearn_dfd.MobileNetV2Features.transform`.

        Returns
        -------
        y : ndarray of shape (n_images,)
            The most probable label of each photograph, of the type of ``classes_``.

        Raises
        ------
        NotFittedError
            If the classifier is not fitted.
        ImageError
            If images cannot be used; the error names them all.
        TypeError, ValueError
            If ``X`` is not a collection of images.
        """
        codes = self.predict_proba(X).argmax(axis=1)
        return self.classes_[codes]

    def get_metadata_routing(self) -> MetadataRequest:
        """Return what scikit-learn's metadata routing may pass to this classifier.

        Groups and weights are routed to it where ``set_fit_request`` and ``set_score_request``
        request them or, where these methods were not called, where its ``estimator`` requests them.

        Returns
        -------
        routing : MetadataRequest
            The requests of ``fit`` and ``score``.
        """
        request = super().get_metadata_routing()
        asked = get_routing_for_object(self.estimator)
        for method in ("fit", "score"):
            own = getattr(request, method)
            unset = [name for name, alias in own.requests.items() if alias is None]
            for name in asked.consumes(method, unset):
                own.add_request(param=name, alias=True)
        return request

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes and the number of the format."""
        return saved_state(super().__getstate__())

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state that this release or an earlier one saved."""
        super().__setstate__(restored_state(self, state))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags


def _of_photographs(
    error: ImageError, images: Any, n_images: int, X_val: Sequence[Any] | None
) -> ImageError:
    """Name the photographs that cannot be used, and none of their views."""
    if X_val is not None and _are_of(error, X_val, images):
        return ImageError(
            error.failures,
            error.n_images,
            hint="They are in X_val. Repair them, or leave them out.",
            n_shown=error.n_shown,
        )
    named = {row % n_images: why for row, _, why in reversed(error.failures)}
    failures = [(row, describe(images[row]), named[row]) for row in sorted(named)]
    return ImageError(failures, n_images, hint="Repair them, or leave them out.")


def _are_of(error: ImageError, some: Sequence[Any], others: Sequence[Any]) -> bool:
    """Return whether an error is about some images: by their number, or else by their names."""
    if not len(some) == len(others) == error.n_images:
        return len(some) == error.n_images

    def named_like(images: Sequence[Any]) -> bool:
        # a step before may have made views of them
        return all(name.endswith(describe(images[row])) for row, name, _ in error.failures)

    return named_like(some) and not named_like(others)


def _pipelines(estimator: Any) -> list[Pipeline]:
    """Return a pipeline and those at its end, one within the other."""
    found = []
    while isinstance(estimator, Pipeline):
        found.append(estimator)
        estimator = estimator.steps[-1][1]
    return found


def _fit_with(estimator: Any, X: Any, y: Any, metadata: dict[str, Any]) -> Any:
    """Fit with the metadata that the classifier at the end takes, and with X_val transformed."""
    pipelines = _pipelines(estimator)
    if "X_val" not in metadata or not pipelines:
        return estimator.fit(X, y, **_requested(estimator, metadata))
    before = [pipeline.transform_input for pipeline in pipelines]
    for pipeline in pipelines:
        pipeline.transform_input = [*(pipeline.transform_input or ()), "X_val"]
    routing = get_config()["enable_metadata_routing"]
    # a Pipeline transforms X_val under metadata routing alone; nothing else here needs it
    with config_context(enable_metadata_routing=True):
        if not routing:  # as without it: the classifier alone is given weights
            for pipeline in pipelines:
                for _, step in pipeline.steps[:-1]:
                    _request_nothing(step, metadata)
        estimator.fit(X, y, **_requested(estimator, metadata))
    for pipeline, given in zip(pipelines, before, strict=True):
        pipeline.transform_input = given  # otherwise no clone could be fitted without routing
    return estimator


def _request_nothing(step: Any, metadata: dict[str, Any]) -> None:
    """Let a transformer and those within it ask for no metadata."""
    inside = step.get_params().values() if hasattr(step, "get_params") else ()
    for transformer in (step, *inside):
        taken = [name for name in metadata if has_fit_parameter(transformer, name)]
        if taken and hasattr(transformer, "set_fit_request"):
            transformer.set_fit_request(**dict.fromkeys(taken, False))


def _requested(estimator: Any, metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata that a classifier's ``fit`` takes, under the names it has there.

    With metadata routing the classifier at the end is made to request it: which views are of one
    photograph must reach it, and only this module knows.
    """
    pipelines = _pipelines(estimator)
    last = pipelines[-1].steps[-1][1] if pipelines else estimator
    prefix = "".join(f"{pipeline.steps[-1][0]}__" for pipeline in pipelines)
    taken = {name for name in metadata if has_fit_parameter(last, name)}
    if get_config()["enable_metadata_routing"]:
        if taken:
            last.set_fit_request(**dict.fromkeys(taken, True))
        taken = get_routing_for_object(estimator).consumes("fit", metadata)
        prefix = ""
    kind = type(last).__name__
    if find_within(last, (FixedThresholdClassifier, TunedThresholdClassifierCV)) is not None:
        raise ValueError(
            f"The threshold of {kind} would not be used: an AugmentedClassifier calls the more "
            f"probable class. Put the AugmentedClassifier into the {kind}."
        )
    if "groups" not in taken:
        _refuse_to_part_views(last, len(metadata["groups"]), "X_val" in taken)
    for name in metadata:
        # a classifier that splits nothing does not need groups
        if name not in taken and name != "groups":
            raise ValueError(f"{kind} takes no {name}: leave it out.")
    return {f"{prefix}{name}": metadata[name] for name in taken}


def _refuse_to_part_views(classifier: Any, n_rows: int, validated: bool) -> None:
    """Raise an error if a classifier, or one within it, would split its rows without groups."""
    kind, params = type(classifier).__name__, params_within(classifier)
    for path, value in params.items():
        name = path.rpartition("__")[2]
        if name == "cv":
            what_to_do = (
                f"Put the AugmentedClassifier into the {kind}, where it makes views of the "
                "training side alone."
            )
        elif name == "early_stopping" and not validated:
            # "auto" is that of scikit-learn's histogram-based gradient boosting
            if not (value is True or (value == "auto" and n_rows > 10_000)):
                continue
            what_to_do = "Set early_stopping=False."
        elif name == "n_iter_no_change" and not validated:
            # without the other parameter a number is all that gradient boosting needs
            if value is None or f"{path[: -len(name)]}early_stopping" in params:
                continue
            what_to_do = "Set n_iter_no_change=None."
        else:
            continue
        raise ValueError(
            f"{kind} splits its input itself, and no groups reach it: views of a photograph would "
            f"be on both sides. {what_to_do}"
        )
