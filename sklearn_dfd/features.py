"""The transformer: images in, rows of features of MobileNetV2's frozen blocks out."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from numbers import Integral
from os import PathLike

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from tqdm.auto import tqdm

from sklearn_dfd._core.callbacks import CallbackSupportMixin
from sklearn_dfd._core.extraction import Extraction
from sklearn_dfd._core.feature_rows import FeatureRows, Origin
from sklearn_dfd._core.images.sources import as_image_list, describe, rows_of_nan
from sklearn_dfd._core.network.engines import onnx_engine, resolve_engine, torch_engine
from sklearn_dfd._core.network.mobilenet import LAST_BLOCK, Trunk, feature_shape, trunk_names
from sklearn_dfd._core.persistence import restored_state, saved_state
from sklearn_dfd._core.runtime.devices import (
    in_halves,
    one_core_threads,
    own_torch_state,
    resolve_device,
    working_device,
)
from sklearn_dfd._core.sklearn_private import Interval, StrOptions, fit_context
from sklearn_dfd.exceptions import ImageError
from sklearn_dfd.feature_store import FeatureStore, MemoryStore, open_store
from sklearn_dfd.weights import find_weights, fingerprint, load_weights

# changes whenever the same bytes would give other features: rows kept under an older one are
# then not found, and computed again
_PREPROCESSING = 1
_CPU_BATCH_SIZE = 4  # the trunk's working set then stays in the cache of a core
_GPU_BATCH_SIZE = 64


class MobileNetV2Features(CallbackSupportMixin, TransformerMixin, BaseEstimator):
    """Features of images, from the frozen first blocks of MobileNetV2.

    Each image is brought upright by its EXIF orientation, converted to RGB, squashed to a square
    (bilinear, antialiased), normalised with ImageNet's mean and standard deviation, and run
    through torchvision's ``mobilenet_v2`` [1]_ up to and with ``features[layer]``, in evaluation
    mode. Nothing is learned: ``fit`` loads the weights.

    The features of an image are computed once. They are kept by the image's content, so that
    cross-validation and grid search over a pipeline find them again, whatever the order, the
    names or the fold.

    Parameters
    ----------
    layer : int or "pool", default=15
        The last block, 0 to 18, or ``"pool"`` for the 1280 averaged features after all blocks.
        Earlier blocks keep more detail, and more numbers: 12,544 an image at 10, 7,840 at 15.

    weights : "imagenet", path or None, default="imagenet"
        ``"imagenet"`` is torchvision's ``MobileNet_V2_Weights.IMAGENET1K_V1``, downloaded once
        into torch's cache and verified; a path is that of a state dict of ``mobilenet_v2``
        saved by ``torch.save``; None gives random weights from a fixed seed.

    image_size : int, default=224
        Side of the square that images are squashed to, in pixels; 32 or more.

    batch_size : int or "auto", default="auto"
        Images a pass. ``"auto"`` takes 4 on the CPU and 64 on other devices.

    device : str or list of str, default="auto"
        ``"auto"`` (CUDA, else MPS, else the CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
        Of several, as ``["cuda:0", "cuda:1"]``, one is held while images are computed: whatever
        computes at the same time, in threads or processes, holds another, or waits.

    engine : {"auto", "torch", "onnxruntime"}, default="auto"
        What runs the network. ``"auto"`` takes onnxruntime where it is installed
        (``pip install "sklearn-dfd[onnx]"``), on the CPU in float32, and torch otherwise. The
        features differ by rounding.

    precision : {"float32", "bfloat16"}, default="float32"
        Of the computation; the features are float32 in any case. ``"bfloat16"``, for processors
        that are fast at it, is off by some per cent.

    memory : None, path, FeatureStore or MemoryStore, default=None
        Where features are kept. None is the memory of this process, the latest 512 MiB of them,
        17,000 images of layer 15 (``sklearn_dfd.feature_store.IN_PROCESS.max_bytes``); each worker
        of ``n_jobs`` then has its own. A path is a directory that processes share, today and
        later: an image is computed once.

    n_jobs : int, default=None
        Threads, of one core each, that decode images and run the trunk. None takes as many as
        torch would use in this process; -1 all cores that it may use.

    max_pixels : int or None, default=None
        Pixels above which an image file is not decoded, but an image that cannot be used. None
        takes ``PIL.Image.MAX_IMAGE_PIXELS``, 89 million unless you changed it; beyond twice that
        number Pillow itself refuses. Any other limit than these 89 million is also held against
        images whose features are kept, which takes about as long as finding them.

    on_error : {"raise", "nan"}, default="raise"
        What an image that cannot be used does: an error that names it, or a row of NaN and a
        warning that names it.

    verbose : int, default=0
        1 shows a bar of the images that are computed.

    store_weights_in_pickle : bool, default=True
        Whether a saved transformer, by pickle, joblib or skops, holds ``weights_``. With False it
        holds their fingerprint alone, and once loaded takes them from ``weights`` when it computes
        (``set_params(weights=...)`` names another place). Others than those of the fingerprint are
        an error.

    Attributes
    ----------
    layer_ : int or "pool"
        The last block, as fitted.

    weights_ : dict of str to ndarray
        Weights of the blocks up to ``layer``, so that a saved transformer needs no other file.
        Not there after loading one saved with ``store_weights_in_pickle=False``.

    fingerprint_ : str
        Hash of ``weights_``.

    n_features_in_ : int
        1, only where ``X`` was a table or an array with one column.

    feature_names_in_ : ndarray of shape (1,)
        The name of that column, only where it has one.

    See Also
    --------
    DeepFakeClassifier : Trains the blocks after ``layer``.

    References
    ----------
    .. [1] M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen (2018). MobileNetV2: Inverted
       Residuals and Linear Bottlenecks. CVPR.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_dfd import MobileNetV2Features
    >>> images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    >>> MobileNetV2Features(weights=None).fit_transform(images).shape
    (2, 7840)
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        "layer": [Interval(Integral, 0, LAST_BLOCK, closed="both"), StrOptions({"pool"})],
        "weights": [str, PathLike, None],
        "image_size": [Interval(Integral, 32, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "device": [str, torch.device, list],
        "engine": [StrOptions({"auto", "torch", "onnxruntime"})],
        "precision": [StrOptions({"float32", "bfloat16"})],
        "memory": [str, PathLike, FeatureStore, MemoryStore, None],
        "n_jobs": [Integral, None],
        "max_pixels": [Interval(Integral, 1, None, closed="left"), None],
        "on_error": [StrOptions({"raise", "nan"})],
        "verbose": ["verbose"],
        "store_weights_in_pickle": ["boolean"],
    }

    # what a file of an earlier release did, by each parameter that has come since
    _parameters_of_older_files: dict = {  # noqa: RUF012
        "engine": "torch",
        "precision": "float32",
        "verbose": 0,
        "max_pixels": None,
        "store_weights_in_pickle": True,
    }

    def __init__(
        self,
        layer=15,
        *,
        weights="imagenet",
        image_size=224,
        batch_size="auto",
        device="auto",
        engine="auto",
        precision="float32",
        memory=None,
        n_jobs=None,
        max_pixels=None,
        on_error="raise",
        verbose=0,
        store_weights_in_pickle=True,
    ):
        self.layer = layer
        self.weights = weights
        self.image_size = image_size
        self.batch_size = batch_size
        self.device = device
        self.engine = engine
        self.precision = precision
        self.memory = memory
        self.n_jobs = n_jobs
        self.max_pixels = max_pixels
        self.on_error = on_error
        self.verbose = verbose
        self.store_weights_in_pickle = store_weights_in_pickle

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Load the weights; the images are counted, not read.

        Parameters
        ----------
        X : sequence of images
            See :meth:`transform`.

        y : None
            Ignored; here by convention.

        Returns
        -------
        self : MobileNetV2Features
            Fitted.

        Raises
        ------
        WeightsError
            An OSError and a ValueError: the weights cannot be had. Says what to do.
        ValueError, TypeError
            If ``X`` is not a collection of images, or the device is not there.
        ImportError
            If the engine is not installed.
        """
        task = self._init_callback_context()
        task.call_on_fit_task_begin(estimator=self, X=X, y=y)
        as_image_list(X)
        for name in ("n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)
        if len(getattr(X, "shape", ())) == 2:
            validate_data(self, X, skip_check_array=True)
        resolve_engine(self.engine, resolve_device(self.device), self.precision)
        arrays = load_weights(self.weights)
        self.layer_ = self.layer
        self.weights_ = {name: arrays[name] for name in trunk_names(self.layer)}
        self.fingerprint_ = fingerprint(self.weights_)
        task.call_on_fit_task_end(estimator=self, X=X, y=y, reconstruction_attributes={})
        return self

    def transform(self, X):
        """Compute the features of images, or find them again.

        All images are opened and their headers checked before the first is computed.

        Parameters
        ----------
        X : sequence of n_images images
            Paths (str or Path), PIL images, uint8 arrays of shape (H, W), (H, W, 3) or
            (H, W, 4), or encoded bytes, of any sizes; or one uint8 array of shape
            (n_images, H, W) or (n_images, H, W, 3). Also a column of a table.

        Returns
        -------
        features : ndarray of float32, shape (n_images, n_features)
            Channel by channel, each row by row.

        Raises
        ------
        ImageError
            An OSError and a ValueError, that names rows and paths of images which are missing,
            not images, damaged or too large. With ``on_error="nan"`` a warning instead. What was
            computed before stays in ``memory``.
        TypeError, ValueError
            If ``X`` is not a collection of images, or a column of another name.
        WeightsError
            An OSError and a ValueError: the transformer was saved without its weights, and
            ``weights`` does not give them.
        """
        features, failures = features_and_failures(self, X)
        if failures:
            warnings.warn(rows_of_nan(failures, len(features)), stacklevel=2)
        return features

    def get_feature_names_out(self, input_features=None):
        """Names of the columns: ``mobilenetv2_block15_0`` and so on.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Ignored: a column of images has no names worth keeping.

        Returns
        -------
        names : ndarray of object, shape (n_features,)
        """
        check_is_fitted(self)
        block = "pool" if self.layer_ == "pool" else f"block{self.layer_}"
        return np.array(
            [f"mobilenetv2_{block}_{i}" for i in range(self._n_features())], dtype=object
        )

    @property
    def _n_features_out(self):
        return self._n_features()

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _network(self, device):
        """Return the trunk as a function from pixels to rows, and the batch size."""
        engine = resolve_engine(self.engine, device, self.precision, fitted=True)
        weights = _Weights(trunk_weights(self), self.fingerprint_)
        run = _trunk(weights, self.layer_, device, engine, self.precision)
        batch_size = self.batch_size
        if batch_size == "auto":
            batch_size = _CPU_BATCH_SIZE if device.type == "cpu" else _GPU_BATCH_SIZE
        return run, batch_size

    def __getstate__(self):
        """Leave the weights out where ``store_weights_in_pickle`` says so."""
        state = saved_state(super().__getstate__())
        if not self.store_weights_in_pickle:
            state.pop("weights_", None)
        return state

    def __setstate__(self, state):
        """Take the state of this release or of an earlier one."""
        super().__setstate__(restored_state(self, state))

    def _n_features(self):
        return int(np.prod(feature_shape(self.layer_, self.image_size)))


_ALWAYS_RAISE = ContextVar("_ALWAYS_RAISE", default=False)


@contextmanager
def image_errors_are_raised() -> Iterator[None]:
    """Raise an ImageError for unusable images within this block, whatever ``on_error`` says.

    For callers that go on past such images themselves: a row of NaN would be an error, or a
    judgement of nothing, in the steps after the transformer.
    """
    token = _ALWAYS_RAISE.set(True)
    try:
        yield
    finally:
        _ALWAYS_RAISE.reset(token)


def features_and_failures(transformer, X):
    """Return the features, and row, name and reason of each image whose row is NaN."""
    check_is_fitted(transformer)
    images = as_image_list(X)
    if hasattr(transformer, "n_features_in_") and len(getattr(X, "shape", ())) == 2:
        validate_data(transformer, X, reset=False, skip_check_array=True)
    recipe = (
        f"{transformer.fingerprint_} {transformer.layer_} {transformer.image_size} {_PREPROCESSING}"
    )
    if transformer.precision != "float32":
        recipe += f" {transformer.precision}"
    go_on = transformer.on_error == "nan" and not _ALWAYS_RAISE.get()
    with one_core_threads(transformer.n_jobs) as pool:
        extraction = Extraction(
            images,
            transformer._n_features_out,
            recipe,
            open_store(transformer.memory),
            pool,
            transformer.max_pixels,
        )
        extraction.survey()
        if extraction.missing and (go_on or not extraction.failures):
            with (
                working_device(transformer.device, fitted=True) as device,
                tqdm(
                    total=len(extraction.missing), unit="image", disable=not transformer.verbose
                ) as bar,
            ):
                run, batch_size = transformer._network(device)
                extraction.compute(
                    run, transformer.image_size, batch_size, go_on=go_on, progress=bar.update
                )
    features, faults = extraction.features, extraction.failures
    failures = [(row, describe(images[row]), faults[row]) for row in sorted(faults)]
    if failures and not go_on:
        raise ImageError(failures, len(images))
    features[sorted(faults)] = np.nan
    origin = Origin(transformer.layer_, transformer.image_size, transformer.fingerprint_)
    return FeatureRows(features, origin), failures


def trunk_weights(transformer):
    """Return the weights, found again where a file left them out."""
    if hasattr(transformer, "weights_"):
        return transformer.weights_
    return find_weights(
        transformer.weights, trunk_names(transformer.layer_), transformer.fingerprint_
    )


class _Weights:
    """Weights that compare by their fingerprint, to find a trunk that was built from them."""

    def __init__(self, arrays, fingerprint):
        self.arrays, self.fingerprint = arrays, fingerprint

    def __hash__(self):
        return hash(self.fingerprint)

    def __eq__(self, other):
        return self.fingerprint == other.fingerprint


@lru_cache(maxsize=8)  # devices of a machine, times layers in use
def _trunk(weights, layer, device, engine, precision):
    """Build the trunk and what runs it; clones in a cross-validation share it."""
    with own_torch_state(device):
        trunk = Trunk(weights.arrays, layer, getattr(torch, precision))
        run = onnx_engine(trunk) if engine == "onnxruntime" else torch_engine(trunk, device)
    return lambda pixels: in_halves(run, pixels, np.concatenate)
