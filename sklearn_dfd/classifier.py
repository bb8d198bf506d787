"""The classifier: what scikit-learn sees of the tail and its training."""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from os import PathLike
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import assert_all_finite, check_random_state
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from sklearn_dfd._core.callbacks import CallbackSupportMixin, NoCallbacks, training_data
from sklearn_dfd._core.feature_rows import FeatureRows, check_origin, origin_of
from sklearn_dfd._core.groups import check_groups
from sklearn_dfd._core.images.sources import images_in
from sklearn_dfd._core.network.fitting import Fitting, one_cycle
from sklearn_dfd._core.network.mobilenet import LAST_BLOCK, tail_input_shape, trunk_names
from sklearn_dfd._core.network.rows import Rows, distinct_rows, set_aside
from sklearn_dfd._core.network.tail import Tail, Tails
from sklearn_dfd._core.network.training import TailNet
from sklearn_dfd._core.persistence import restored_state, saved_state
from sklearn_dfd._core.runtime.devices import own_torch_state, resolve_device, working_device
from sklearn_dfd._core.sklearn_private import Interval, StrOptions, check_sample_weight, fit_context
from sklearn_dfd.exceptions import LossError
from sklearn_dfd.weights import fingerprint, load_weights

_LARGEST = 1e30  # of a parameter, so that float32 still holds it after Adam's corrections


class DeepFakeClassifier(CallbackSupportMixin, ClassifierMixin, BaseEstimator):
    """Fine-tune the last blocks of MobileNetV2 on features of images, with an L1 penalty.

    The *tail* of the network is trained: the blocks of MobileNetV2 [1]_ after ``layer``, which
    start from their ImageNet weights, an average pool and a new head of fully connected layers.
    Its input are rows of features, as :class:`MobileNetV2Features` computes them with the same
    ``layer``; it does not take images. Adam minimises the cross-entropy plus ``l1_factor`` times
    the L1 norm of all parameters of the tail.

    Identical rows with the same label count as one row, whose weight is the sum of theirs. A
    ``sample_weight`` of 2 is therefore exactly equivalent to two copies of a row, the order of the
    rows does not matter, and copies of a row are never on both sides of the split that
    ``early_stopping`` makes.

    Parameters
    ----------
    layer : int or "pool", default=15
        The last block that the features were computed with, from 0 to 18. With ``"pool"`` only the
        head is trained, on vectors of any width.

    weights : "imagenet", path or None, default="imagenet"
        The weights that the blocks of the tail start from; see :class:`MobileNetV2Features`. They
        are not needed, and not loaded, with ``layer="pool"`` or ``layer=18``.

    hidden_layer_sizes : array-like of int, default=(512, 256)
        The widths of the hidden layers of the head, between the 1280 pooled features and the
        logits.

    dropout : float, default=0.2
        The probability of zeroing each hidden unit of the head in training.

    lr : float, default=1e-4
        The learning rate of Adam.

    lr_schedule : {"constant", "one_cycle"}, default="constant"
        How the learning rate changes during ``fit``. ``"one_cycle"`` raises it to ``lr`` over the
        first 30 % of all steps and lowers it to almost zero until the last step [2]_.

    label_smoothing : float, default=0.0
        The share of each label that is spread evenly over all classes in training [3]_, from 0 to
        less than 1. It keeps the probabilities of a detector that fits every row away from 0 and
        1.

    ema_decay : float or None, default=None
        The decay of an exponential moving average of the weights and BatchNorm statistics over all
        steps [4]_. If given, the averages predict and are what is measured after each epoch; the
        decay is smaller in the first steps. 0.995 averages over about 200 steps. With None, the
        weights of the last step are used.

    n_tails : int, default=1
        The number of tails to train. Each has its own random head, order of rows and dropout, and
        the predicted probabilities are the mean of theirs [5]_, because the result of a single
        training depends in part on chance. Training time and memory are proportional to it.

    l1_factor : float, default=1e-4
        The weight of the L1 norm of all parameters of the tail, BatchNorm and biases included. The
        norm is about 5.5e4 at the start, so 1e-4 adds 5.5 to a cross-entropy of 0.69.

    max_epochs : int, default=10
        The number of passes over the training rows.

    batch_size : int, default=64
        The number of rows per step. If one row would be left for the last batch, it joins the batch
        before it, because BatchNorm cannot take statistics over a single row.

    class_weight : dict, "balanced" or None, default=None
        The weights of the classes, as for the classifiers of scikit-learn. They multiply the
        weights of all rows of ``fit``, including the validation rows; ``"balanced"`` computes them
        from ``y`` and ``sample_weight``.

    early_stopping : bool, default=False
        Whether to stop training when the validation loss no longer falls, and to keep the weights
        of the best epoch. The validation rows are ``X_val`` if ``fit`` is given any. Otherwise some
        of the training rows are set aside, stratified by class and in whole groups if ``groups``
        are given.

    validation_fraction : float, default=0.1
        The fraction of the rows to set aside with ``early_stopping`` if there is no ``X_val``. With
        ``groups`` it is as near to that as whole groups allow.

    n_iter_no_change : int, default=5
        The number of epochs without a lower validation loss after which ``early_stopping`` stops.

    warm_start : bool, default=False
        Whether ``fit`` continues from the weights of the last call, with new moments of Adam,
        instead of starting over.

    device : str or list of str, default="auto"
        The device to train and predict on: ``"auto"`` (CUDA, else MPS, else the CPU), ``"cpu"``,
        ``"cuda"``, ``"cuda:1"`` or ``"mps"``. From a list such as ``["cuda:0", "cuda:1"]`` each fit
        takes a device that no other fit is using, whether in threads, in processes of ``n_jobs`` or
        in Dask workers on this machine, and waits while there is none.

    random_state : int, RandomState instance or None, default=None
        Determines the initial heads, the order of the rows, dropout and the split of
        ``early_stopping``. The global random states of numpy and torch are never changed, and only
        read if this is None.

    verbose : int, default=0
        Whether to print one row of figures per epoch (1) or nothing (0).

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.

    n_features_in_ : int
        The number of features per row.

    net_ : skorch.NeuralNet
        The trained net. ``net_.module_.tails`` are its tails, as torch modules.

    history_ : list of dict
        One entry per epoch, which ``pandas.DataFrame`` takes as rows: ``epoch`` (from 1),
        ``train_loss`` (mean cross-entropy), ``train_loss_penalized`` (with the L1 penalty),
        ``train_accuracy`` and, with validation rows, ``valid_loss`` and ``valid_accuracy``. All are
        measured after the epoch in evaluation mode, without dropout and with fixed BatchNorm
        statistics, and weighted by the weights of the rows times those of their classes. At most
        256 training rows are measured, the same ones in every epoch, with each class in proportion.
        With several tails ``train_loss_penalized`` adds the mean of their penalties.

    n_iter_ : int
        The number of epochs trained.

    best_epoch_ : int
        The epoch (from 1) whose weights were kept: the one with the lowest validation loss with
        ``early_stopping``, otherwise the last one.

    See Also
    --------
    MobileNetV2Features : Computes the features.
    make_deepfake_pipeline : Makes a Pipeline of both.

    Notes
    -----
    With scikit-learn 1.9 or later, ``set_callbacks`` takes callbacks such as
    :class:`~sklearn.callback.ProgressBar` and :class:`~sklearn.callback.ScoringMonitor`. Each
    epoch of ``fit`` is a task. When it ends, callbacks are given the rows that are trained on,
    without those that ``early_stopping`` sets aside, and a ``fitted_estimator`` with the weights of
    that epoch. If one of them returns True, training stops as it does after the last epoch.
    ``partial_fit`` calls no callbacks.

    If ``fit`` or ``partial_fit`` is interrupted (Ctrl-C) or fails during training, the classifier
    keeps the weights of the last whole epoch, with ``early_stopping`` those of the best one, and
    can predict. If no epoch was completed it is not fitted.

    References
    ----------
    .. [1] M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen (2018). MobileNetV2: Inverted
       Residuals and Linear Bottlenecks. CVPR.

    .. [2] L. N. Smith, N. Topin (2019). Super-Convergence: Very Fast Training of Neural Networks
       Using Large Learning Rates. SPIE.

    .. [3] C. Szegedy, V. Vanhoucke, S. Ioffe, J. Shlens, Z. Wojna (2016). Rethinking the
       Inception Architecture for Computer Vision. CVPR.

    .. [4] B. T. Polyak, A. B. Juditsky (1992). Acceleration of Stochastic Approximation by
       Averaging. SIAM Journal on Control and Optimization.

    .. [5] B. Lakshminarayanan, A. Pritzel, C. Blundell (2017). Simple and Scalable Predictive
       Uncertainty Estimation using Deep Ensembles. NeurIPS.

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from sklearn_dfd import DeepFakeClassifier
    >>> X, y = make_classification(n_samples=200, random_state=0)
    >>> clf = DeepFakeClassifier(layer="pool", lr=1e-3, random_state=0).fit(X, y)
    >>> clf.predict_proba(X[:3]).shape
    (3, 2)
    >>> clf.history_[-1]["train_loss"] < clf.history_[0]["train_loss"]
    True
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        "layer": [Interval(Integral, 0, LAST_BLOCK, closed="both"), StrOptions({"pool"})],
        "weights": [str, PathLike, None],
        "hidden_layer_sizes": ["array-like"],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "lr": [Interval(Real, 0, _LARGEST, closed="both")],
        "lr_schedule": [StrOptions({"constant", "one_cycle"})],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "ema_decay": [Interval(Real, 0, 1, closed="left"), None],
        "n_tails": [Interval(Integral, 1, None, closed="left")],
        "l1_factor": [Interval(Real, 0, _LARGEST, closed="both")],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "device": [str, torch.device, list],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    # for each parameter added later, the value that corresponds to what older files did
    _parameters_of_older_files: dict = {  # noqa: RUF012
        "lr_schedule": "constant",
        "label_smoothing": 0.0,
        "ema_decay": None,
        "n_tails": 1,
    }

    net_: TailNet
    classes_: npt.NDArray[np.generic]
    history_: list[dict[str, float]]
    n_iter_: int
    best_epoch_: int

    def __init__(
        self,
        layer: int | Literal["pool"] = 15,
        *,
        weights: str | PathLike[str] | None = "imagenet",
        hidden_layer_sizes: Sequence[int] = (512, 256),
        dropout: float = 0.2,
        lr: float = 1e-4,
        lr_schedule: Literal["constant", "one_cycle"] = "constant",
        label_smoothing: float = 0.0,
        ema_decay: float | None = None,
        n_tails: int = 1,
        l1_factor: float = 1e-4,
        max_epochs: int = 10,
        batch_size: int = 64,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        warm_start: bool = False,
        device: str | torch.device | list[str] | list[torch.device] = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.layer = layer
        self.weights = weights
        self.hidden_layer_sizes = hidden_layer_sizes
        self.dropout = dropout
        self.lr = lr
        self.lr_schedule = lr_schedule
        self.label_smoothing = label_smoothing
        self.ema_decay = ema_decay
        self.n_tails = n_tails
        self.l1_factor = l1_factor
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None = None,
        groups: npt.ArrayLike | None = None,
        *,
        X_val: npt.ArrayLike | None = None,
        y_val: npt.ArrayLike | None = None,
        sample_weight_val: npt.ArrayLike | None = None,
    ) -> Self:
        """Train the tail.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of features. They are converted to float32; a memory map of float32 is not copied.

        y : array-like of shape (n_samples,)
            Labels of any type, of two or more classes.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, relative to one another.

        groups : array-like of shape (n_samples,), default=None
            Group labels: ``early_stopping`` sets whole groups aside.

        X_val : array-like of shape (n_val, n_features), default=None
            Validation rows, which are measured after each epoch and decide when to stop with
            ``early_stopping``.

        y_val : array-like of shape (n_val,), default=None
            Labels of the validation rows.

        sample_weight_val : array-like of shape (n_val,), default=None
            Weights of the validation rows, relative to one another. As those of the training rows,
            they are multiplied by ``class_weight``.

        Returns
        -------
        self : DeepFakeClassifier
            The fitted classifier.

        Raises
        ------
        ValueError
            If ``X`` holds images, NaN or infinity (the message names the rows), its width does not
            fit ``layer`` (the message names layers that do), ``y`` has a single class, lengths
            differ, a group label is missing, the device is unknown, or groups cannot be split.
        LossError
            If the loss or a weight is no longer finite; the message names the epoch and the batch.
            A LossError is a ValueError.
        WeightsError
            If the weights cannot be loaded. A WeightsError is an OSError and a ValueError.
        """
        again = self.warm_start and hasattr(self, "net_")
        with self._kept_if_refused() as accept:
            features, labels, weight = self._check_rows(X, y, sample_weight, reset=not again)
            if groups is not None:
                groups = check_groups(groups, len(features))
            if (X_val is None) != (y_val is None):
                raise ValueError("X_val and y_val go together: one of them is missing.")
            if X_val is None and sample_weight_val is not None:
                raise ValueError("sample_weight_val goes together with X_val and y_val.")
            classes = np.unique(labels[weight > 0])
            if len(classes) < 2:
                raise ValueError(
                    f"{type(self).__name__} needs at least two classes with positive weight to "
                    f"tell apart; y has one class: {classes.tolist()[0]!r}."
                )
            if not again:
                self._start(classes, X)
            elif not np.array_equal(classes, self.classes_):
                raise ValueError(
                    f"warm_start=True continues with the classes {self.classes_}, but y has "
                    f"{classes}."
                )
            else:
                self._check_same_shape("warm_start=True")
            with working_device(self.device) as device, own_torch_state(device):
                tails = self.net_.module_ if again else self._new_tails()
                rows, valid_rows, kept = self._rows(features, labels, weight), None, None
                if X_val is not None:
                    valid_rows = self._validation_rows(
                        X_val, y_val, sample_weight_val, self._class_weights(labels, weight)
                    )
                elif self.early_stopping:
                    rows, valid_rows = set_aside(
                        rows, groups, self.validation_fraction, self._split_seed, self.classes_
                    )
                    kept = np.sort(rows.order)
                net = self._make_net(tails, device)
                self._check_batches(net, rows)
                accept()
                task = self._init_callback_context(max_subtasks=self.max_epochs)
                data = training_data(X, labels, None if sample_weight is None else weight, kept)
                if self.lr_schedule == "one_cycle":
                    with one_cycle(net, self.max_epochs * net.n_steps(rows)):
                        self._train(net, rows, valid_rows, self.max_epochs, task, data)
                else:
                    self._train(net, rows, valid_rows, self.max_epochs, task, data)
        return self

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        classes: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
    ) -> Self:
        """Train for one epoch on the given rows, continuing from the present weights.

        ``lr``, ``batch_size``, ``dropout``, ``l1_factor``, ``label_smoothing``, ``ema_decay``,
        ``class_weight`` and ``verbose`` are those of this call. The learning rate is constant:
        ``lr_schedule`` applies to ``fit``, which knows the number of epochs.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of features.

        y : array-like of shape (n_samples,)
            Labels of the rows.

        classes : array-like of shape (n_classes,), default=None
            All labels that can occur. They are required in the first call, unless ``fit`` was
            called before.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, relative to one another.

        Returns
        -------
        self : DeepFakeClassifier
            The classifier, trained for one more epoch.

        Raises
        ------
        ValueError
            If :meth:`fit` would raise one, a label is not among the classes, or the classes,
            ``layer``, ``hidden_layer_sizes`` or ``n_tails`` have changed since the last call; or
            if ``class_weight="balanced"``, which depends on all rows.
        """
        first = not hasattr(self, "net_")
        if not first:
            self._validate_params()  # which scikit-learn does in the first call only
        if self.class_weight == "balanced":
            raise ValueError(
                'class_weight="balanced" depends on all labels, and partial_fit sees some of them: '
                'pass a dict, dict(zip(classes, compute_class_weight("balanced", '
                "classes=np.array(classes), y=all_labels))), with compute_class_weight from "
                "sklearn.utils.class_weight."
            )
        features, labels, weight = self._check_rows(X, y, sample_weight, reset=first)
        if first:
            if classes is None:
                raise ValueError(
                    "The first call of partial_fit needs classes: all labels that can come."
                )
            known = np.unique(np.asarray(classes))
            if len(known) < 2:
                raise ValueError(f"classes={known} is one class; two or more are needed.")
            self._start(known, X)
        elif classes is not None and not np.array_equal(
            np.unique(np.asarray(classes)), self.classes_
        ):
            raise ValueError(f"classes={classes} is not what came before: {self.classes_}.")
        if not first:
            self._check_same_shape("partial_fit")
        rows = self._rows(features, labels, weight)
        several = isinstance(self.device, list)
        devices = [self.net_.device] if several and not first else self.device
        with working_device(devices) as device, own_torch_state(device):
            net = self._make_net(self._new_tails(), device) if first else self.net_
            self._check_batches(net, rows)
            if not first:
                net.adopt(**self._net_parameters())
                net.module_.set_dropout(self.dropout)
            self._train(net, rows, None, 1, NoCallbacks(), {})
        return self

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[np.generic]:
        """Predict labels.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of features.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            The most probable label of each row, with the dtype of ``classes_``.

        Raises
        ------
        NotFittedError
            If the classifier is not fitted.
        ValueError
            If :meth:`predict_proba` would raise one.
        """
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(axis=1)]

    def predict_proba(self, X: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Predict the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of features.

        Returns
        -------
        p : ndarray of shape (n_samples, n_classes), dtype float32
            Probabilities, in the order of ``classes_``; each row sums to 1.

        Raises
        ------
        NotFittedError
            If the classifier is not fitted.
        ValueError
            If rows have another width than those of ``fit``, are images or not finite, or are so
            large that their probabilities are not finite (the message names them).
        """
        check_is_fitted(self)
        features = self._check_features(X, reset=False)
        with own_torch_state(torch.device(self.net_.device)):
            probabilities = self.net_.predict_proba(features)
        wrong = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
        if len(wrong):
            raise ValueError(
                f"{len(wrong)} of {len(features)} rows of X, the first of them row {wrong[0]}, "
                "have features so large that their probabilities are not finite: scale them as "
                "those of fit."
            )
        return probabilities

    def __sklearn_is_fitted__(self) -> bool:
        """Return whether there is a net: other attributes outlive a fit that failed."""
        return hasattr(self, "net_")

    def _check_rows(self, X, y, sample_weight, *, reset, suffix="") -> tuple[Any, Any, Any]:
        """Validate rows with labels and weights; return X as float32."""
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None."
            )
        X = self._check_features(X, reset=reset, name=f"X{suffix}")
        y = column_or_1d(y, warn=True)
        check_consistent_length(X, y)
        assert_all_finite(y, input_name=f"y{suffix}")
        check_classification_targets(y)
        return X, y, check_sample_weight(sample_weight, X, ensure_non_negative=True)

    def _check_features(self, X, *, reset, name="X") -> Any:
        images = None if isinstance(X, FeatureRows) else images_in(X)
        if images is not None:
            raise ValueError(
                f"{name} {images}, and {type(self).__name__} takes rows of features, of shape "
                "(n_samples, n_features). For images put MobileNetV2Features before it in a "
                "Pipeline, as make_deepfake_pipeline() does, and use that instead."
            )
        self._check_origin(origin_of(X), name, reset)
        # values out of range are not finite then, and reported below; the sum of large ones may be
        with np.errstate(over="ignore", invalid="ignore"):
            X = validate_data(
                self, X, dtype=np.float32, order="C", ensure_all_finite=False, reset=reset
            )
            finite = np.isfinite(X.sum()) or np.isfinite(X).all()
        if not finite:
            rows = np.flatnonzero(~np.isfinite(X).all(axis=1))
            more = f" and {len(rows) - 10} more" if len(rows) > 10 else ""
            raise ValueError(
                f"Input {name} contains NaN or infinity, or values too large for float32, in "
                f"{len(rows)} of {len(X)} rows: {', '.join(map(str, rows[:10]))}{more}. Rows of "
                'images that could not be read are NaN with on_error="nan": leave them out.'
            )
        return X

    def _check_origin(self, origin, name, reset):
        """Raise if the trunk that made the rows is not the one that the tail continues."""
        if origin is None:
            return
        if not reset:
            fitted = getattr(self, "_origin", None)  # older files lack it
            check_origin(origin, self._fitted_shape[0], fitted, name)
            return
        check_origin(origin, self.layer, None, name)
        if origin.fingerprint and self.layer not in ("pool", LAST_BLOCK):
            arrays = load_weights(self.weights)
            own = fingerprint({key: arrays[key] for key in trunk_names(self.layer)})
            if own != origin.fingerprint:
                raise ValueError(
                    f"{name} was made by MobileNetV2Features with other weights than "
                    f"weights={self.weights!r}, from which this classifier starts: pass both "
                    "steps the same, as make_deepfake_pipeline(weights=...) does."
                )

    def _encode(self, y, name):
        """Turn labels into codes from 0 to k - 1."""
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(
                f"{name} has labels that are not among the classes {self.classes_}: {unknown}."
            )
        return np.searchsorted(self.classes_, y).astype(np.int64)

    def _class_weights(self, y, sample_weight):
        """Compute the weight of each class from the rows of positive weight."""
        if self.class_weight is None:
            return np.ones(len(self.classes_))
        positive = sample_weight > 0
        return compute_class_weight(
            self.class_weight,
            classes=self.classes_,
            y=y[positive],
            sample_weight=np.asarray(sample_weight, dtype=np.float64)[positive],
        )

    def _rows(self, X, y, sample_weight):
        """Collect the distinct rows of positive weight, weighted by their classes too."""
        positive = np.flatnonzero(sample_weight > 0)
        codes = np.zeros(len(X), dtype=np.int64)
        codes[positive] = self._encode(y[positive], "y")
        weight = np.asarray(sample_weight, dtype=np.float64)
        return distinct_rows(X, codes, weight * self._class_weights(y, sample_weight)[codes])

    def _validation_rows(self, X, y, sample_weight, weight_of_class):
        X, y, sample_weight = self._check_rows(X, y, sample_weight, reset=False, suffix="_val")
        positive = np.flatnonzero(sample_weight > 0)
        codes = np.zeros(len(X), dtype=np.int64)
        codes[positive] = self._encode(y[positive], "y_val")
        weight = sample_weight * weight_of_class[codes]
        if not weight.any():
            raise ValueError("No validation row has a positive weight.")
        return Rows(X, codes, weight.astype(np.float32), positive)

    @contextmanager
    def _kept_if_refused(self):
        """Leave an earlier fit as it is if this one is refused before it is accepted."""
        before = self.__dict__.copy()
        try:
            yield before.clear  # accepts it, and lets go of the earlier one
        except BaseException:
            if before:
                self.__dict__.clear()
                self.__dict__.update(before)
            raise

    def _start(self, classes, X):
        """Forget the last fit, and draw the seeds of this one."""
        self.__dict__.pop("net_", None)
        origin = origin_of(X)
        self._origin = None if origin is None else tuple(origin)
        self.classes_ = classes
        self.history_ = []
        self.n_iter_ = self.best_epoch_ = 0
        random_state = check_random_state(self.random_state)
        seeds = random_state.randint(np.iinfo(np.int32).max, size=4)
        self._head_seed, self._order_seed, self._dropout_seed, self._split_seed = map(int, seeds)

    def _shape_parameters(self):
        return self.layer, tuple(self.hidden_layer_sizes), self.n_tails

    def _check_same_shape(self, what):
        if self._shape_parameters() != self._fitted_shape:
            raise ValueError(
                f"{what} continues with the existing network; layer, hidden_layer_sizes and "
                f"n_tails were {self._fitted_shape}, not {self._shape_parameters()}."
            )

    def _new_tails(self):
        sizes = tuple(self.hidden_layer_sizes)
        if not all(isinstance(size, int | np.integer) and size > 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes={sizes} are not all integers of 1 or more.")
        self._fitted_shape = self._shape_parameters()
        tails = self._empty_tails()
        arrays = None if self.layer in ("pool", LAST_BLOCK) else load_weights(self.weights)
        return tails.initialize(arrays, torch.Generator().manual_seed(self._head_seed))

    def _empty_tails(self):
        layer, sizes, n_tails = self._fitted_shape
        shape = tail_input_shape(layer, self.n_features_in_)
        widths = sizes, len(self.classes_)
        return Tails([Tail(layer, shape, *widths, self.dropout) for _ in range(n_tails)])

    def _make_net(self, tails, device):
        """Wrap tails into a skorch net on the device, with generators of its own.

        Their seeds change with the number of epochs, so that continuing does not repeat the first
        ones.
        """
        dropout_generator = torch.Generator(device).manual_seed(self._dropout_seed + self.n_iter_)
        tails.set_dropout(self.dropout, dropout_generator)
        return TailNet(
            tails,
            generator=torch.Generator().manual_seed(self._order_seed + self.n_iter_),
            device=device,
            **self._net_parameters(),
        ).initialize()

    def _net_parameters(self):
        names = ("l1_factor", "label_smoothing", "ema_decay", "lr", "batch_size", "verbose")
        return {name: getattr(self, name) for name in names}

    def _check_batches(self, net, rows):
        if min(len(rows), self.batch_size) == 1 and net.module_.has_one_pixel():
            raise ValueError(
                f"{len(rows)} distinct row(s) in batches of batch_size={self.batch_size}: on maps "
                f"of one pixel the BatchNorm layers after layer={self.layer} need two or more."
            )

    def _train(self, net, rows, valid_rows, n_epochs, task, data):
        """Train epoch by epoch, and tell the callbacks of ``task`` about each of them.

        They are given ``data`` and, if they ask for it, a copy of the classifier.
        """
        stopping = self.early_stopping and valid_rows is not None
        fitting = Fitting(
            net,
            rows,
            valid_rows,
            n_before=self.n_iter_,
            kept_before=self.best_epoch_,
            patience=self.n_iter_no_change if stopping else None,
        )
        try:
            self.net_ = net
            task.call_on_fit_task_begin(estimator=self, **data)
            fitting.begin()
            for _ in range(n_epochs):
                epoch = task.subcontext(task_name="epoch")
                epoch.call_on_fit_task_begin(estimator=self, **data)
                self.history_.append(fitting.run_epoch())
                self.n_iter_ = self.best_epoch_ = fitting.n_epochs
                stop = epoch.call_on_fit_task_end(
                    estimator=self,
                    **data,
                    # scikit-learn's copy of the classifier has all else, or shares what stays
                    reconstruction_attributes=lambda: {"history_": self.history_.copy()},
                )
                if stop or fitting.is_exhausted():
                    break
            fitting.end()
            self.best_epoch_ = fitting.kept_epoch
            task.call_on_fit_task_end(estimator=self, **data, reconstruction_attributes={})
        except BaseException as error:  # Ctrl-C too: half an epoch must not pass for a fit
            left = self._go_back(fitting)
            if isinstance(error, LossError):
                raise LossError(f"{error} {left}") from None
            error.add_note(left)
            raise

    def _go_back(self, fitting):
        """Return to the weights of the last or best whole epoch, if any; say to which."""
        self.n_iter_ = fitting.n_epochs
        del self.history_[self.n_iter_ :]
        self.best_epoch_ = fitting.kept_epoch
        if not self.best_epoch_:
            self.net_.valid_rows = None
            del self.net_
            return "No epoch was completed: the classifier is not fitted."
        fitting.go_back()
        return f"The classifier keeps the weights of epoch {self.best_epoch_}, and can predict."

    def __getstate__(self):
        """Leave out the net, which knows a device, and keep its weights as plain arrays."""
        state = saved_state(super().__getstate__())
        net = state.pop("net_", None)
        if net is not None:
            state["_tail_state"] = {
                name: tensor.cpu().numpy() for name, tensor in net.module_.state_dict().items()
            }
        return state

    def __setstate__(self, state):
        """Rebuild the net from its weights, on a device that exists here."""
        state = restored_state(self, state)
        arrays = state.pop("_tail_state", None)
        if len(state.get("_fitted_shape", ())) == 2:
            state["_fitted_shape"] += (1,)  # files of 0.1.0 know of one tail
        super().__setstate__(state)
        if arrays is not None:
            device = resolve_device(self.device, fitted=True)
            with own_torch_state(device):
                tails = self._empty_tails()
                tails.load_arrays(arrays)
                self.net_ = self._make_net(tails, device)
