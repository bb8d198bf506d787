"""A detector that trains on views of its photographs, and judges them in both mirror images."""

from numbers import Integral

import numpy as np
from sklearn import config_context, get_config
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.validation import check_is_fitted, column_or_1d, has_fit_parameter

from sklearn_dfd._core.callbacks import CallbackSupportMixin, training_data
from sklearn_dfd._core.images.sources import as_image_list, describe
from sklearn_dfd._core.persistence import restored_state, saved_state
from sklearn_dfd._core.sklearn_private import HasMethods, Interval, fit_context
from sklearn_dfd.augmentation import ImageAugmenter, View, augment
from sklearn_dfd.exceptions import ImageError


class AugmentedClassifier(CallbackSupportMixin, MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """Train a detector on photographs and views of them; judge photographs and mirror images.

    ``fit`` makes the views, of the rows that it is given and of nothing else: in cross-validation
    and searches over this estimator no view of a photograph to test on is trained on. What is
    tested are photographs as they are.

    Parameters
    ----------
    estimator : classifier
        Takes images: a pipeline of :class:`~sklearn_dfd.MobileNetV2Features` and
        :class:`~sklearn_dfd.DeepFakeClassifier`. It is cloned.

    n_views : int, default=8
        Views of each photograph to train on, beside the photograph; 0 for none.

    recipe : {"sharing", "gentle", "contrast", "mirrored"}, default="gentle"
        What may happen to a photograph in a view, see
        :class:`~sklearn_dfd.augmentation.ImageAugmenter`.

    average_mirrored : bool, default=True
        Whether the probability of a photograph is the mean of its own and of that of its mirror
        image, which takes twice the time.

    random_state : int, default=0
        Seed of the views. An int alone: all fits of a search then make the same views, and the
        features of each are computed once.

    Attributes
    ----------
    estimator_ : classifier
        The fitted clone.

    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.

    See Also
    --------
    make_deepfake_pipeline : ``preset="accurate"`` makes one.
    sklearn_dfd.augmentation.ImageAugmenter : The same views, for imbalanced-learn's pipelines.

    Notes
    -----
    Every photograph takes ``n_views + 1`` rows of features in training. Those of a large
    collection do not fit the memory of the process: give the transformer a directory
    (``memory=``), and ``FeatureStore(directory, dtype="float16")`` to halve it.

    With scikit-learn 1.9 or later ``set_callbacks`` takes its callbacks. Those that come down from
    it to its parts, such as :class:`~sklearn.callback.ProgressBar`, learn of each epoch. What this
    classifier itself tells are the photographs, and not their views.

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

    _parameter_constraints: dict = {  # noqa: RUF012
        **ImageAugmenter._parameter_constraints,
        "estimator": [HasMethods(["fit", "predict_proba"])],
        "n_views": [Interval(Integral, 0, None, closed="left")],
        "average_mirrored": ["boolean"],
        "random_state": [Interval(Integral, 0, None, closed="left")],
    }
    del _parameter_constraints["keep_originals"]

    # what a file of an earlier release did, by each parameter that has come since its first
    _parameters_of_older_files: dict = {}  # noqa: RUF012

    def __init__(
        self, estimator, *, n_views=8, recipe="gentle", average_mirrored=True, random_state=0
    ):
        self.estimator = estimator
        self.n_views = n_views
        self.recipe = recipe
        self.average_mirrored = average_mirrored
        self.random_state = random_state

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None, groups=None, X_val=None, y_val=None):
        """Train on photographs and their views.

        Parameters
        ----------
        X : sequence of n_images images
            See :meth:`~sklearn_dfd.MobileNetV2Features.transform`.

        y : array-like of shape (n_images,)
            Their labels.

        sample_weight : array-like of shape (n_images,), default=None
            Weights; a view weighs as much as its photograph.

        groups : array-like of shape (n_images,), default=None
            What stays together where the classifier sets rows aside (``early_stopping``). None
            makes each photograph a group: its views are on its side in any case.

        X_val : sequence of n_val images, default=None
            Photographs to validate on, which the classifier measures after each epoch, as they
            are: no views are made of them. A pipeline transforms them as it does ``X``, with
            metadata routing or without.

        y_val : array-like of shape (n_val,), default=None
            Their labels.

        Returns
        -------
        self : AugmentedClassifier
            Fitted.

        Raises
        ------
        ImageError
            If images cannot be used; it names them all.
        ValueError, TypeError
            If ``X`` or ``X_val`` is not a collection of images, lengths differ, the classifier
            takes no weights or validation rows, or it splits what it is given by itself (as
            ``CalibratedClassifierCV``) and no groups reach it.
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
                    "one each."
                )
            metadata["sample_weight"] = sample_weight[rows % n_images]
        if X_val is not None:
            metadata["X_val"] = as_image_list(X_val)
        if y_val is not None:
            metadata["y_val"] = y_val
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
                n_val = len(metadata.get("X_val", ()))
                raise _of_photographs(error, images, n_images, n_val) from None
            part.call_on_fit_task_end(estimator=self, **data)
        self.classes_ = self.estimator_.classes_
        task.call_on_fit_task_end(estimator=self, **data, reconstruction_attributes={})
        return self

    def predict_proba(self, X):
        """Predict the probability of each class.

        Parameters
        ----------
        X : sequence of n_images images
            See :meth:`~sklearn_dfd.MobileNetV2Features.transform`.

        Returns
        -------
        p : ndarray of float32, shape (n_images, n_classes)
            In the order of ``classes_``; each row sums to 1.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ImageError
            If images cannot be used; it names them all.
        """
        check_is_fitted(self)
        probability = self.estimator_.predict_proba(X)
        if self.average_mirrored:
            mirrored = [View(image, 0, "mirrored") for image in as_image_list(X)]
            probability = (probability + self.estimator_.predict_proba(mirrored)) / 2
        return probability

    def predict(self, X):
        """Predict labels.

        Parameters
        ----------
        X : sequence of n_images images
            See :meth:`~sklearn_dfd.MobileNetV2Features.transform`.

        Returns
        -------
        y : ndarray of shape (n_images,)
            The most probable label of each image, of the type of ``classes_``.
        """
        codes = self.predict_proba(X).argmax(axis=1)
        return self.classes_[codes]

    def get_metadata_routing(self):
        """Return what scikit-learn's metadata routing may pass to this classifier.

        Groups and weights are routed to it where ``set_fit_request`` and ``set_score_request`` say
        so or, where they say nothing, where its ``estimator`` asks for them.

        Returns
        -------
        routing : MetadataRequest
        """
        request = super().get_metadata_routing()
        asked = get_routing_for_object(self.estimator)
        for method in ("fit", "score"):
            own = getattr(request, method)
            unset = [name for name, alias in own.requests.items() if alias is None]
            for name in asked.consumes(method, unset):
                own.add_request(param=name, alias=True)
        return request

    def __getstate__(self):
        """Put the number of the format beside the attributes."""
        return saved_state(super().__getstate__())

    def __setstate__(self, state):
        """Take the state of this release or of an earlier one."""
        super().__setstate__(restored_state(self, state))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags


def _of_photographs(error, images, n_images, n_val):
    """Name the photographs that cannot be used, and none of their views."""
    if error.n_images != len(images):
        return error  # of photographs to validate on
    if n_val == len(images) and any(
        name != describe(images[row]) for row, name, _ in error.failures
    ):
        return error  # of as many of them
    names = {row % n_images: (row % n_images, *rest) for row, *rest in reversed(error.failures)}
    failures = [names[row] for row in sorted(names)]
    return ImageError(failures, n_images, hint="Repair them, or leave them out.")


def _fit_with(estimator, X, y, metadata):
    """Fit, with the metadata that the classifier at the end takes, and X_val transformed."""
    if "X_val" not in metadata or not isinstance(estimator, Pipeline):
        return estimator.fit(X, y, **_requested(estimator, metadata))
    before = estimator.transform_input
    estimator.transform_input = [*(before or ()), "X_val"]
    with config_context(enable_metadata_routing=True):  # without it a Pipeline transforms X alone
        estimator.fit(X, y, **_requested(estimator, metadata))
    estimator.transform_input = before  # or else no clone of it could be fitted without routing
    return estimator


def _requested(estimator, metadata):
    """Return the metadata that a classifier's ``fit`` takes, by the names it has there.

    With metadata routing the classifier at the end is made to ask: which views are of one
    photograph must reach it, and nobody but this file knows.
    """
    last, prefix = estimator, ""
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        prefix = f"{name}__"
    taken = {name for name in metadata if has_fit_parameter(last, name)}
    if get_config()["enable_metadata_routing"]:
        if taken:
            last.set_fit_request(**dict.fromkeys(taken, True))
        taken = get_routing_for_object(estimator).consumes("fit", metadata)
        prefix = ""
    kind = type(last).__name__
    if "groups" not in taken and "cv" in last.get_params(deep=False):
        raise ValueError(
            f"{kind} splits what it is given by itself, and no groups reach it there: views of a "
            f"photograph would be on both sides. Put the AugmentedClassifier into the {kind}, "
            "where it makes views of the training side alone."
        )
    for name in metadata:
        # to a classifier that splits nothing groups say nothing
        if name not in taken and name != "groups":
            raise ValueError(f"{kind} takes no {name}: leave it out.")
    return {f"{prefix}{name}": metadata[name] for name in taken}
