"""The classifier: scikit-learn's face of the tail and its training."""

import copy
from contextlib import nullcontext
from numbers import Integral, Real
from os import PathLike

import numpy as np
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
from sklearn_dfd._core.feature_rows import Origin, origin_of
from sklearn_dfd._core.groups import check_groups
from sklearn_dfd._core.network.mobilenet import LAST_BLOCK, tail_input_shape, trunk_names
from sklearn_dfd._core.network.rows import Rows, distinct_rows, set_aside
from sklearn_dfd._core.network.tail import Tail, Tails
from sklearn_dfd._core.network.training import TailNet
from sklearn_dfd._core.persistence import restored_state, saved_state
from sklearn_dfd._core.runtime.devices import own_torch_state, resolve_device, working_device
from sklearn_dfd._core.runtime.heap import kept_heap
from sklearn_dfd._core.sklearn_private import Interval, StrOptions, check_sample_weight, fit_context
from sklearn_dfd.exceptions import LossError
from sklearn_dfd.weights import fingerprint, load_weights

_LARGEST = 1e30  # of a parameter that float32 must still hold after Adam's corrections
_MEASURES = (
    "epoch",
    "train_loss",
    "train_loss_penalized",
    "train_accuracy",
    "valid_loss",
    "valid_accuracy",
)


class DeepFakeClassifier(CallbackSupportMixin, ClassifierMixin, BaseEstimator):
    """Fine-tuned tail of MobileNetV2 with an L1 penalty.

    The blocks of MobileNetV2 [1]_ after ``layer``, average pool, and a new head are trained
    on the features that :class:`MobileNetV2Features` gives at the same ``layer``, by Adam, on
    the cross-entropy plus ``l1_factor`` times the L1 norm of all the parameters of the tail.

    Rows that are identical, label included, count as one row with their weights added. So
    ``sample_weight=2`` is exactly the same as two copies of a row, the order of the rows does
    not matter, and no copy can be on both sides of the split that ``early_stopping`` makes.

    Parameters
    ----------
    layer : int or "pool", default=15
        The last block of the trunk that made the features, 0 to 18. With ``"pool"`` the head
        alone is trained, on vectors of any width.

    weights : "imagenet", path or None, default="imagenet"
        Weights that the blocks of the tail start from, see :class:`MobileNetV2Features`. Not
        used, nor looked for, with ``layer="pool"`` or ``layer=18``.

    hidden_layer_sizes : array-like of int, default=(512, 256)
        Widths of the hidden layers of the head, between 1280 pooled features and the logits.

    dropout : float, default=0.2
        Probability of zeroing a hidden unit of the head in training.

    lr : float, default=1e-4
        Learning rate of Adam.

    lr_schedule : {"constant", "one_cycle"}, default="constant"
        ``"one_cycle"`` lets the learning rate of ``fit`` rise to ``lr`` over the first three
        tenths of all steps, and fall to nothing until the last one [2]_: more epochs then do not
        overshoot.

    label_smoothing : float, default=0.0
        Share of each label that is spread evenly over all classes in training [3]_, from 0 to
        less than 1: probabilities of a detector that fits every row stay away from 0 and 1.

    ema_decay : float or None, default=None
        Where given, the classifier predicts, and measures its epochs, with an exponential moving
        average of the weights and BatchNorm statistics of all steps, of this decay [4]_; it falls
        short of it in the first steps. 0.995 averages over about 200 steps. None for the weights
        of the last step.

    n_tails : int, default=1
        Tails to train, each with a head of its own that starts from other values, rows in an order
        of its own, and dropout of its own. The probabilities are the mean of theirs [5]_: what a
        single training ends with is in part chance. Time and memory grow with them.

    l1_factor : float, default=1e-4
        Weight of the L1 norm of all parameters of the tail, BatchNorm and biases included. That
        norm is about 5.5e4 at the start, so that 1e-4 adds 5.5 to a cross-entropy of 0.69.

    max_epochs : int, default=10
        Passes over the training rows.

    batch_size : int, default=64
        Rows a step. A last batch of one row, whose statistics BatchNorm should not learn from,
        joins the one before it.

    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, as everywhere in scikit-learn.

    early_stopping : bool, default=False
        Whether to stop when the validation loss no longer falls, and to keep the weights of
        the best epoch. The validation rows are ``X_val`` where ``fit`` is given some, and
        otherwise set aside from the training rows: stratified, whole groups where ``groups``
        are given.

    validation_fraction : float, default=0.1
        Fraction of the rows to set aside with ``early_stopping`` and no ``X_val``. As near as
        whole groups allow.

    n_iter_no_change : int, default=5
        Epochs without a lower validation loss after which ``early_stopping`` stops.

    warm_start : bool, default=False
        Whether ``fit`` goes on from the weights of the last call, with Adam's moments at zero,
        instead of starting afresh.

    device : str or list of str, default="auto"
        ``"auto"`` (CUDA, else MPS, else the CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
        Of several, as ``["cuda:0", "cuda:1"]``, a fit holds one: whatever is fitted at the same
        time, in threads, in processes of ``n_jobs`` or in Dask workers of this machine, holds
        another, or waits.

    random_state : int, RandomState instance or None, default=None
        Determines the initial heads, the order of the rows, dropout, and the split of
        ``early_stopping``. The global generators of numpy and torch are neither read, unless
        this is None, nor changed.

    verbose : int, default=0
        1 prints a row of figures an epoch.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.

    n_features_in_ : int
        Width of a row.

    net_ : skorch.NeuralNet
        The trained net; ``net_.module_`` is the torch module.

    history_ : list of dict
        One row an epoch, fit for ``pandas.DataFrame``: ``epoch`` (from 1), ``train_loss`` (mean
        cross-entropy), ``train_loss_penalized`` (with the L1 penalty), ``train_accuracy``, and,
        with validation rows, ``valid_loss`` and ``valid_accuracy``. All measured after the
        epoch in evaluation mode: no dropout, fixed BatchNorm statistics. Of several tails
        ``train_loss_penalized`` adds the mean of their penalties.

    n_iter_ : int
        Epochs trained.

    best_epoch_ : int
        The epoch (from 1) whose weights were kept: that of the lowest validation loss with
        ``early_stopping``, otherwise the last.

    See Also
    --------
    MobileNetV2Features : Makes the features.
    make_deepfake_pipeline : Both in one Pipeline.

    Notes
    -----
    With scikit-learn 1.9 or later ``set_callbacks`` takes its callbacks, such as
    :class:`~sklearn.callback.ProgressBar` and :class:`~sklearn.callback.ScoringMonitor`. Each
    epoch of ``fit`` is a task; at its end callbacks get the rows that are trained on, without
    those that ``early_stopping`` sets aside, and a ``fitted_estimator`` with the weights of that
    epoch. Where one returns True, training stops as after the last epoch. ``partial_fit`` calls
    none.

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

    # what a file of an earlier release did, by each parameter that has come since
    _parameters_of_older_files: dict = {  # noqa: RUF012
        "lr_schedule": "constant",
        "label_smoothing": 0.0,
        "ema_decay": None,
        "n_tails": 1,
    }

    net_: TailNet

    def __init__(
        self,
        layer=15,
        *,
        weights="imagenet",
        hidden_layer_sizes=(512, 256),
        dropout=0.2,
        lr=1e-4,
        lr_schedule="constant",
        label_smoothing=0.0,
        ema_decay=None,
        n_tails=1,
        l1_factor=1e-4,
        max_epochs=10,
        batch_size=64,
        class_weight=None,
        early_stopping=False,
        validation_fraction=0.1,
        n_iter_no_change=5,
        warm_start=False,
        device="auto",
        random_state=None,
        verbose=0,
    ):
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
    def fit(self, X, y, sample_weight=None, groups=None, X_val=None, y_val=None):
        """Train the tail.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of features, cast to float32 where they are not. A memory map is not copied.

        y : array-like of shape (n_samples,)
            Labels of any type, of two or more classes.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows; their scale does not matter.

        groups : array-like of shape (n_samples,), default=None
            Rows of one group stay on one side of the split that ``early_stopping`` makes.

        X_val : array-like of shape (n_val, n_features), default=None
            Validation rows, measured after each epoch; they decide with ``early_stopping``.

        y_val : array-like of shape (n_val,), default=None
            Their labels.

        Returns
        -------
        self : DeepFakeClassifier
            Fitted.

        Raises
        ------
        ValueError
            For NaN or infinite features (naming the rows), a width that does not fit ``layer``
            (naming what it would fit), a single class, lengths that differ, a group that is
            missing, an unknown device, groups that cannot be split, or a loss that is no longer
            finite (naming epoch and batch). The classifier is then left with the weights of the
            last epoch before, of the best one with ``early_stopping``; after none, unfitted.
        WeightsError
            An OSError and a ValueError: the weights cannot be had.
        """
        again = self.warm_start and hasattr(self, "net_")
        given_X, weighted = X, sample_weight is not None
        X, y, sample_weight = self._check_rows(X, y, sample_weight, reset=not again)
        if groups is not None:
            groups = check_groups(groups, len(X))
        if (X_val is None) != (y_val is None):
            raise ValueError("X_val and y_val go together: one of them is missing.")
        classes = np.unique(y[sample_weight > 0])
        if len(classes) < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least two classes with positive weight to tell "
                f"apart; y has one class: {classes.tolist()[0]!r}."
            )
        if not again:
            self._start(classes)
        elif not np.array_equal(classes, self.classes_):
            raise ValueError(
                f"warm_start=True goes on with the classes {self.classes_}, but y has {classes}."
            )
        else:
            self._check_same_shape("warm_start=True")
        with working_device(self.device) as device, own_torch_state(device):
            tail = self.net_.module_ if again else self._new_tail()
            rows, valid_rows, kept = self._rows(X, y, sample_weight), None, None
            if X_val is not None:
                X_val, y_val, weight = self._check_rows(
                    X_val, y_val, None, reset=False, name="X_val"
                )
                valid_rows = Rows(X_val, self._encode(y_val, "y_val"), weight)
            elif self.early_stopping:
                rows, valid_rows = set_aside(
                    rows, groups, self.validation_fraction, self._split_seed, self.classes_
                )
                kept = np.sort(rows.order)
            self.net_ = self._make_net(tail, device)
            task = self._init_callback_context(max_subtasks=self.max_epochs)
            data = training_data(given_X, y, sample_weight if weighted else None, kept)
            cycled = self.lr_schedule == "one_cycle"
            with self.net_.one_cycle(self.max_epochs, rows) if cycled else nullcontext():
                self._train(rows, valid_rows, self.max_epochs, task, data)
        return self

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Train one epoch on the given rows, going on from the present weights.

        ``lr_schedule`` is for ``fit``, which knows how many epochs there will be.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of features.

        y : array-like of shape (n_samples,)
            Their labels.

        classes : array-like of shape (n_classes,), default=None
            All labels that can come; needed in the first call, unless ``fit`` came before.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows, relative to one another.

        Returns
        -------
        self : DeepFakeClassifier
            Trained for one epoch more.

        Raises
        ------
        ValueError
            As in :meth:`fit`; and for labels that are not among the classes, or classes,
            ``layer``, ``hidden_layer_sizes`` or ``n_tails`` that change.
        """
        first = not hasattr(self, "net_")
        X, y, sample_weight = self._check_rows(X, y, sample_weight, reset=first)
        if first:
            if classes is None:
                raise ValueError(
                    "The first call of partial_fit needs classes: all labels that can come."
                )
            classes = np.unique(classes)
            if len(classes) < 2:
                raise ValueError(f"classes={classes} is one class; two or more are needed.")
            self._start(classes)
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(f"classes={classes} is not what came before: {self.classes_}.")
        if not first:
            self._check_same_shape("partial_fit")
        rows = self._rows(X, y, sample_weight)
        several = isinstance(self.device, list)
        device = [self.net_.device] if several and not first else self.device
        with working_device(device) as device, own_torch_state(device):
            if first:
                self.net_ = self._make_net(self._new_tail(), device)
            self._train(rows, None, 1, NoCallbacks(), {})
        return self

    def predict(self, X):
        """Predict labels.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of features.

        Returns
        -------
        y : ndarray of shape (n_samples,)
            The most probable label of each row, of the type of ``classes_``.
        """
        probabilities = self.predict_proba(X)
        return self.classes_[probabilities.argmax(axis=1)]

    def predict_proba(self, X):
        """Predict the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of features.

        Returns
        -------
        p : ndarray of float32, shape (n_samples, n_classes)
            In the order of ``classes_``; each row sums to 1.

        Raises
        ------
        NotFittedError
            Before ``fit``.
        ValueError
            For rows of another width, or that are not finite, or so large that their
            probabilities would not be (naming them).
        """
        check_is_fitted(self, "net_")
        X = self._check_features(X, reset=False)
        with own_torch_state(torch.device(self.net_.device)):
            probabilities = self.net_.predict_proba(X)
        wrong = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
        if len(wrong):
            raise ValueError(
                f"{len(wrong)} of {len(X)} rows of X, the first of them row {wrong[0]}, have "
                "features so large that their probabilities are not finite: scale them as those "
                "of fit."
            )
        return probabilities

    def _check_rows(self, X, y, sample_weight, *, reset, name="X"):
        """Validate rows with labels and weights; X in float32."""
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None."
            )
        X = self._check_features(X, reset=reset, name=name)
        y = column_or_1d(y, warn=True)
        check_consistent_length(X, y)
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        return X, y, check_sample_weight(sample_weight, X, ensure_non_negative=True)

    def _check_features(self, X, *, reset, name="X"):
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
        """Raise where the trunk that made the rows is not the one that the tail goes on from."""
        if reset:
            self._origin = None if origin is None else tuple(origin)
        if origin is None:
            return
        # with "pool" the head is trained on vectors of any kind
        layer = self.layer if reset else self._fitted_shape[0]
        if layer not in ("pool", origin.layer):
            raise ValueError(
                f"{name} was made by MobileNetV2Features(layer={origin.layer!r}), but this "
                f"{type(self).__name__} goes on after layer={layer!r}. Both steps must be cut at "
                f"one layer: make_deepfake_pipeline(layer={origin.layer!r}), or in a search "
                'param_grid=[{"features__layer": [k], "classifier__layer": [k]} for k in (10, 15)].'
            )
        if reset:
            self._check_weights(origin, name)
        known = getattr(self, "_origin", None) or origin  # older files do not have it
        for what, was, now in zip(Origin._fields, known, origin, strict=True):
            if None not in (was, now) and was != now:
                what = "weights of the fingerprint" if what == "fingerprint" else what
                raise ValueError(
                    f"{name} was made by MobileNetV2Features with {what} {now!r}, but this "
                    f"{type(self).__name__} was fitted on features made with {was!r}: set it back, "
                    "or fit again."
                )

    def _check_weights(self, origin, name):
        """Raise where trunk and tail would start from the weights of two networks."""
        if origin.fingerprint is None or self.layer in ("pool", LAST_BLOCK):
            return
        arrays = load_weights(self.weights)
        own = fingerprint({key: arrays[key] for key in trunk_names(self.layer)})
        if own != origin.fingerprint:
            raise ValueError(
                f"{name} was made by MobileNetV2Features with other weights than "
                f"weights={self.weights!r}, which this {type(self).__name__} starts from: pass "
                "both steps the same, as make_deepfake_pipeline(weights=...) does."
            )

    def _encode(self, y, name):
        """Codes 0 to k - 1 of labels."""
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(
                f"{name} has labels that are not among the classes {self.classes_}: {unknown}."
            )
        return np.searchsorted(self.classes_, y).astype(np.int64)

    def _rows(self, X, y, sample_weight):
        """Distinct rows of positive weight, with the weights of their classes."""
        positive = np.flatnonzero(sample_weight > 0)
        codes = np.zeros(len(X), dtype=np.int64)
        codes[positive] = self._encode(y[positive], "y")
        sample_weight = np.asarray(sample_weight, dtype=np.float64)
        if self.class_weight is not None:
            weight_of_class = compute_class_weight(
                self.class_weight,
                classes=self.classes_,
                y=y[positive],
                sample_weight=sample_weight[positive],
            )
            sample_weight = sample_weight * weight_of_class[codes]
        return distinct_rows(X, codes, sample_weight)

    def _start(self, classes):
        """Forget the last fit, and draw the seeds of this one."""
        self.__dict__.pop("net_", None)
        self.classes_ = classes
        self.history_ = []
        self.n_iter_ = 0
        random_state = check_random_state(self.random_state)
        seeds = random_state.randint(np.iinfo(np.int32).max, size=4)
        self._head_seed, self._order_seed, self._dropout_seed, self._split_seed = map(int, seeds)

    def _shape_parameters(self):
        return self.layer, tuple(self.hidden_layer_sizes), self.n_tails

    def _check_same_shape(self, what):
        if self._shape_parameters() != self._fitted_shape:
            raise ValueError(
                f"{what} goes on with the network that is there; layer, hidden_layer_sizes and "
                f"n_tails were {self._fitted_shape}, not {self._shape_parameters()}."
            )

    def _new_tail(self):
        sizes = tuple(self.hidden_layer_sizes)
        if not all(isinstance(size, int | np.integer) and size > 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes={sizes} are not all integers of 1 or more.")
        self._fitted_shape = self._shape_parameters()
        tail = self._empty_tail()
        arrays = None if self.layer in ("pool", LAST_BLOCK) else load_weights(self.weights)
        return tail.initialize(arrays, torch.Generator().manual_seed(self._head_seed))

    def _empty_tail(self):
        layer, sizes, n_tails = self._fitted_shape
        shape = tail_input_shape(layer, self.n_features_in_)
        widths = sizes, len(self.classes_)
        tails = [Tail(layer, shape, *widths, self.dropout) for _ in range(n_tails)]
        return tails[0] if len(tails) == 1 else Tails(tails)

    def _make_net(self, tail, device):
        """Wrap a tail into a skorch net on the device, with generators of its own.

        Their seeds move on with the epochs, so that going on does not repeat the first ones.
        """
        dropout_generator = torch.Generator(device).manual_seed(self._dropout_seed + self.n_iter_)
        tail.set_dropout(self.dropout, dropout_generator)
        return TailNet(
            tail,
            l1_factor=self.l1_factor,
            label_smoothing=self.label_smoothing,
            ema_decay=self.ema_decay,
            generator=torch.Generator().manual_seed(self._order_seed + self.n_iter_),
            lr=self.lr,
            batch_size=self.batch_size,
            verbose=self.verbose,
            device=device,
        ).initialize()

    @kept_heap()
    def _train(self, rows, valid_rows, n_epochs, task, data):
        """Train epoch by epoch; with ``early_stopping`` stop, and go back to the best.

        The callbacks of ``task`` learn of each epoch, with ``data`` and a copy of the classifier.
        """
        net = self.net_
        if min(len(rows), self.batch_size) == 1 and net.module_.has_one_pixel():
            raise ValueError(
                f"{len(rows)} distinct row(s) in batches of batch_size={self.batch_size}: on maps "
                f"of one pixel the BatchNorm layers after layer={self.layer} need two or more."
            )
        net.valid_rows = valid_rows
        stopping = self.early_stopping and valid_rows is not None
        best_loss, best_epoch = np.inf, self.n_iter_
        best_state = copy.deepcopy(net.module_.state_dict())
        task.call_on_fit_task_begin(estimator=self, **data)
        net.notify("on_train_begin", X=rows, y=None)
        for _ in range(n_epochs):
            epoch = task.subcontext(task_name="epoch")
            epoch.call_on_fit_task_begin(estimator=self, **data)
            try:
                net.fit_loop(rows, epochs=1)
            except LossError as error:
                raise LossError(f"{error} {self._go_back(best_state, best_epoch)}") from None
            self.n_iter_ = self.best_epoch_ = self.n_iter_ + 1
            measured = {**net.history[-1], "epoch": self.n_iter_}
            self.history_.append({key: measured[key] for key in _MEASURES if key in measured})
            if not stopping or measured["valid_loss"] < best_loss:
                best_loss, best_epoch = measured.get("valid_loss", np.inf), self.n_iter_
                best_state = copy.deepcopy(net.module_.state_dict())
            stop = epoch.call_on_fit_task_end(
                estimator=self,
                **data,
                # of the copy that scikit-learn makes all else is its own, or stays as it is
                reconstruction_attributes=lambda: {"history_": self.history_.copy()},
            )
            if stop or (stopping and self.n_iter_ - best_epoch >= self.n_iter_no_change):
                break
        net.notify("on_train_end", X=rows, y=None)
        net.valid_rows = None  # the net must not keep the data
        if stopping:
            net.module_.load_state_dict(best_state)
            self.best_epoch_ = best_epoch
        task.call_on_fit_task_end(estimator=self, **data, reconstruction_attributes={})

    def _go_back(self, state, epoch):
        """Return to the last weights that were good, where there are any; say to which."""
        self.net_.valid_rows = None
        if epoch == 0:
            del self.net_
            return "Nothing was learned before: the classifier is not fitted."
        self.net_.restart(state)
        self.best_epoch_ = epoch
        return f"The classifier is left with the weights of epoch {epoch}, fit to predict."

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
                tail = self._empty_tail()
                tensors = {name: torch.tensor(array) for name, array in arrays.items()}
                tail.load_state_dict(tensors, assign=True)
                self.net_ = self._make_net(tail, device)
