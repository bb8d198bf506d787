"""The transformer: from images to rows of features of the frozen blocks of MobileNetV2."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from numbers import Integral
from os import PathLike
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data
from tqdm.auto import tqdm

from sklearn_dfd._core.callbacks import CallbackSupportMixin
from sklearn_dfd._core.extraction import Extraction
from sklearn_dfd._core.feature_rows import FeatureRows, Origin
from sklearn_dfd._core.images.decoding import Decoding
from sklearn_dfd._core.images.sources import as_image_list, describe, forgives, rows_of_nan
from sklearn_dfd._core.messages import warn_user
from sklearn_dfd._core.network.engines import onnx_engine, resolve_engine, torch_engine
from sklearn_dfd._core.network.mobilenet import LAST_BLOCK, Trunk, feature_shape, trunk_names
from sklearn_dfd._core.network.pooling import pooled, pooled_width
from sklearn_dfd._core.persistence import restored_state, saved_state
from sklearn_dfd._core.runtime.devices import (
    in_halves,
    one_core_threads,
    own_torch_state,
    resolve_device,
    working_device,
)
from sklearn_dfd._core.sklearn_private import (
    Interval,
    StrOptions,
    fit_context,
    kept_by_pipeline,
)
from sklearn_dfd.exceptions import ImageError
from sklearn_dfd.feature_store import FeatureStore, MemoryStore, open_store
from sklearn_dfd.weights import find_weights, fingerprint, load_weights

# changes whenever the same bytes would give other features: rows kept under an older number are
# then not found, and computed again. What changes for some images alone is in
# `decoding.feature_digest`, so that the rows of the others are still found.
_PREPROCESSING = 1
_CPU_BATCH_SIZE = 4  # the trunk's working set then stays in the cache of a core
_GPU_BATCH_SIZE = 64


class MobileNetV2Features(CallbackSupportMixin, TransformerMixin, BaseEstimator):
    """Compute features of images with the frozen first blocks of MobileNetV2.

    Each image is turned upright by its EXIF orientation, converted to sRGB, resized to a square
    (aspect ratio not kept; bilinear, antialiased), normalised with ImageNet's mean and standard
    deviation, and run through torchvision's ``mobilenet_v2`` [1]_ up to and including
    ``features[layer]``, in evaluation mode. Nothing is learned: ``fit`` loads the weights.

    The features of an image are computed once. They are kept under a hash of the image's content,
    so cross-validation and grid search over a pipeline find them again, whatever the order, the
    file names or the fold.

    Parameters
    ----------
    layer : int or "pool", default=15
        The last block, 0 to 18, or ``"pool"`` for the 1280 averaged features after all blocks.
        Earlier blocks keep more detail and give more features: 12,544 per image at block 10, 7,840
        at block 15.

    weights : "imagenet", path or None, default="imagenet"
        Weights of the network. ``"imagenet"`` stands for torchvision's
        ``MobileNet_V2_Weights.IMAGENET1K_V1``, downloaded once into torch's cache and verified; a
        path is that of a state dict of ``mobilenet_v2`` saved by ``torch.save``; None gives random
        weights from a fixed seed.

    image_size : int, default=224
        Side of the square that images are resized to, in pixels; 32 or more.

    pooling : {"mean", "grid"}, default=None
        How the maps of the last block are summarised. ``"mean"`` gives one number per channel,
        ``"grid"`` the mean and the standard deviation of each channel in each of 3 x 3 cells: 96
        and 1,728 numbers at block 13, for any classifier of scikit-learn. None gives the maps
        themselves, which :class:`DeepFakeClassifier` takes.

    batch_size : int or "auto", default="auto"
        Number of images per pass. ``"auto"`` takes 4 on the CPU and 64 on other devices.

    device : str or list of str, default="auto"
        Device that runs the network: ``"auto"`` (CUDA, else MPS, else the CPU), ``"cpu"``,
        ``"cuda"``, ``"cuda:1"`` or ``"mps"``. From a list such as ``["cuda:0", "cuda:1"]``, one
        device is held while images are computed: whatever computes at the same time, in threads or
        processes, holds another one, or waits.

    engine : {"auto", "torch", "onnxruntime"}, default="auto"
        Library that runs the network. ``"auto"`` takes onnxruntime where it is installed
        (``pip install "sklearn-dfd[onnx]"``), on the CPU in float32, and torch otherwise. The
        features differ by rounding.

    precision : {"float32", "bfloat16"}, default="float32"
        Precision of the computation; the features are float32 in any case. ``"bfloat16"`` is meant
        for processors that have instructions for it: on one without them it was thirty times slower
        than float32 (``python benchmarks/run.py --only bfloat16``). Its features differ by a few
        per cent.

    memory : None, path, FeatureStore or MemoryStore, default=None
        Place where features are kept. None keeps them in the memory of this process, the latest 512
        MiB, which is 17,000 images at layer 15
        (``sklearn_dfd.feature_store.IN_PROCESS.max_bytes``); each worker of ``n_jobs`` then has its
        own. A path names a directory that processes share, now and later: each image is computed
        once, and found again by its content. ``Pipeline(memory=...)`` of scikit-learn is something
        else: it keeps the whole result of ``fit_transform`` under a hash of its arguments. For a
        list of paths these are the file names, so a changed file is not noticed, and each fold and
        each ``transform`` is computed anew. Leave that parameter at None: ``fit`` on paths warns
        otherwise.

    n_jobs : int, default=None
        Number of threads, of one core each, that decode images and run the trunk. None takes as
        many as torch would use in this process; -1 all cores that it may use.

    max_pixels : int or None, default=None
        Number of pixels above which an image file is not decoded and counts as an image that cannot
        be used. A number overrides the limit that Pillow is set to, even if it is higher, and
        reaches the workers of ``n_jobs`` with the estimator. While images are read under a number
        above Pillow's limit, that limit is lifted in the process. None takes
        ``PIL.Image.MAX_IMAGE_PIXELS`` as each process has set it, 89 million by default. Any limit
        other than these 89 million is also applied to images whose features are kept, which takes
        about as long as finding them. With ``decoding="fast"`` the pixels that are decoded count,
        except those of progressive files, which are in memory at their full size in any case.

    decoding : {"exact", "fast"}, default="exact"
        How much of a JPEG file is decoded. ``"exact"`` decodes all pixels. ``"fast"`` decodes large
        JPEG and MPO files at a half, a quarter or an eighth of their size, the smallest of these at
        which both sides have at least twice ``image_size`` pixels: at 224, this is the case for
        shorter sides of 896 pixels or more. Smaller files, other formats, images in memory, and
        views other than mirror images are decoded exactly. Features differ slightly (see Notes) and
        are kept apart in ``memory``.

    on_error : {"raise", "nan"}, default="raise"
        What happens to an image that cannot be used: ``"raise"`` raises an error that names all of
        them; ``"nan"`` gives rows of NaN and a warning that names them.
        :class:`DeepFakeClassifier` takes no rows of NaN: in a pipeline with it leave the default,
        and use :func:`~sklearn_dfd.detect`, which judges the other images.

    verbose : int, default=0
        Verbosity; 1 shows a progress bar of the images that are computed.

    store_weights_in_pickle : bool, default=True
        Whether a transformer saved by pickle, joblib or skops holds ``weights_``. With False it
        holds only their fingerprint. Once loaded, it takes the weights from ``weights`` when it
        computes (``set_params(weights=...)`` names another place), and refuses weights with another
        fingerprint.

    Attributes
    ----------
    layer_ : int or "pool"
        The last block, as fitted.

    weights_ : dict of str to ndarray
        Weights of the blocks up to ``layer``; with them, a saved transformer needs no other file.
        Absent after loading a transformer saved with ``store_weights_in_pickle=False``.

    fingerprint_ : str
        Hash of ``weights_``.

    n_features_in_ : int
        Always 1; present only where ``X`` was a table or an array with one column.

    feature_names_in_ : ndarray of shape (1,)
        The name of that column; present only where it has one.

    See Also
    --------
    DeepFakeClassifier : Trains the blocks after ``layer``.

    Notes
    -----
    Colours are converted to sRGB where a file, or a PIL image, embeds a profile of another RGB or
    CMYK colour space, such as the Display P3 of phones. Files without a profile, with a damaged
    one, or with one of a grey image are treated as sRGB.

    ``decoding="fast"`` saves most of the time that photographs of many megapixels take, and changes
    few pixels of the square by more than one level of 255. The features of 12 photographs that were
    enlarged to 12 megapixels had a relative error with a median of 2 % to 3 %, depending on the
    layer, and of 4.1 % at most, and the probabilities of a detector changed by 0.002 on average and
    0.01 at most (``benchmarks/decoding.py``, with ImageNet weights at the default size). The
    classifier does not distinguish the rows of the two: it may be fitted on one kind and applied to
    the other. Whatever needs all pixels of a photograph decodes them exactly, and counts them in
    full for ``max_pixels``: augmented views, :func:`~sklearn_dfd.robustness.evaluate_robustness`,
    :class:`~sklearn_dfd.inspection.GradCAMDisplay` and
    :func:`~sklearn_dfd.export.measure_onnx_loss`.

    Settings of Pillow stay in the process that makes them and do not reach the workers of
    ``n_jobs``: ``PIL.Image.MAX_IMAGE_PIXELS`` (use ``max_pixels``),
    ``PIL.ImageFile.LOAD_TRUNCATED_IMAGES`` (features of files that are read under it are kept apart
    from others), and plugins for further formats. HEIC photographs are read, in all processes,
    where pillow-heif is installed.

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

    _parameter_constraints: dict[str, Any] = {  # noqa: RUF012
        "layer": [Interval(Integral, 0, LAST_BLOCK, closed="both"), StrOptions({"pool"})],
        "weights": [str, PathLike, None],
        "image_size": [Interval(Integral, 32, None, closed="left")],
        "pooling": [StrOptions({"mean", "grid"}), None],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "device": [str, torch.device, list],
        "engine": [StrOptions({"auto", "torch", "onnxruntime"})],
        "precision": [StrOptions({"float32", "bfloat16"})],
        "memory": [str, PathLike, FeatureStore, MemoryStore, None],
        "n_jobs": [Integral, None],
        "max_pixels": [Interval(Integral, 1, None, closed="left"), None],
        "decoding": [StrOptions({"exact", "fast"})],
        "on_error": [StrOptions({"raise", "nan"})],
        "verbose": ["verbose"],
        "store_weights_in_pickle": ["boolean"],
    }

    # for each parameter added later, the value that corresponds to what older releases did
    _parameters_of_older_files: dict[str, Any] = {  # noqa: RUF012
        "engine": "torch",
        "precision": "float32",
        "verbose": 0,
        "max_pixels": None,
        "pooling": None,
        "decoding": "exact",
        "store_weights_in_pickle": True,
    }

    def __init__(
        self,
        layer: int | Literal["pool"] = 15,
        *,
        weights: str | PathLike[str] | None = "imagenet",
        image_size: int = 224,
        pooling: Literal["mean", "grid"] | None = None,
        batch_size: int | Literal["auto"] = "auto",
        device: str | torch.device | list[str] | list[torch.device] = "auto",
        engine: Literal["auto", "torch", "onnxruntime"] = "auto",
        precision: Literal["float32", "bfloat16"] = "float32",
        memory: str | PathLike[str] | FeatureStore | MemoryStore | None = None,
        n_jobs: int | None = None,
        max_pixels: int | None = None,
        decoding: Literal["exact", "fast"] = "exact",
        on_error: Literal["raise", "nan"] = "raise",
        verbose: int = 0,
        store_weights_in_pickle: bool = True,
    ) -> None:
        self.layer = layer
        self.weights = weights
        self.image_size = image_size
        self.pooling = pooling
        self.batch_size = batch_size
        self.device = device
        self.engine = engine
        self.precision = precision
        self.memory = memory
        self.n_jobs = n_jobs
        self.max_pixels = max_pixels
        self.decoding = decoding
        self.on_error = on_error
        self.verbose = verbose
        self.store_weights_in_pickle = store_weights_in_pickle

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Load the weights; the images are counted, but not read.

        Parameters
        ----------
        X : sequence of n_images images
            The images; see :meth:`transform`.

        y : None
            Ignored; present by convention.

        Returns
        -------
        self : MobileNetV2Features
            The fitted transformer.

        Raises
        ------
        WeightsError
            If the weights cannot be found or are not MobileNetV2's. It is an OSError and a
            ValueError, and says where to put them.
        TypeError
            If ``X`` is not a collection of images.
        ValueError
            If ``X`` holds no images or arrays of another shape, a parameter is out of its range,
            the maps are too small for ``pooling="grid"``, or the device does not exist on this
            machine.
        ImportError
            If the engine is not installed.
        """
        task = self._init_callback_context()
        task.call_on_fit_task_begin(estimator=self, X=X, y=y)
        images = as_image_list(X)
        if any(isinstance(image, str | PathLike) for image in images) and kept_by_pipeline():
            warn_user(
                "Pipeline(memory=...) keeps features by the names of the files, not by what is in "
                "them: a file that changes under its name keeps its old features. Leave it out and "
                "pass memory to MobileNetV2Features, which keeps them by content: "
                'set_params(memory=None, features__memory="feature-cache"), where "features" is '
                "the name of the step."
            )
        pooled_width(self.layer, self.image_size, self.pooling)
        resolve_engine(self.engine, resolve_device(self.device), self.precision)
        arrays = load_weights(self.weights)
        # last of all, so that an earlier fit stays as it is if this one is refused
        for name in ("n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)
        if len(getattr(X, "shape", ())) == 2:
            validate_data(self, X, skip_check_array=True)
        self.layer_ = self.layer
        self._fitted_pooling = (self.pooling, self.image_size)
        self.weights_ = {name: arrays[name] for name in trunk_names(self.layer)}
        self.fingerprint_ = fingerprint(self.weights_)
        task.call_on_fit_task_end(estimator=self, X=X, y=y, reconstruction_attributes={})
        return self

    def transform(self, X: Any) -> npt.NDArray[np.float32]:
        """Compute the features of images, or find them again.

        If there are more than 64 images, all of them are opened and their headers checked before
        the first is computed.

        Parameters
        ----------
        X : sequence of n_images images
            A list, 1-D array, Series or one-column table of images of any size: paths (str or
            Path, ``~`` is expanded; also `zipfile.Path`), PIL images, encoded bytes, binary file
            objects, or uint8 arrays of shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4). Or one
            uint8 array of shape (n_images, H, W) or (n_images, H, W, C) with C of 1, 3 or 4.
            Colour arrays are in RGB order; those of OpenCV are in BGR order: pass
            ``image[..., ::-1]`` of what ``cv2.imread`` returns, or
            ``cv2.cvtColor(image, cv2.COLOR_BGR2RGB)``. Files that are open, unlike their paths,
            cannot be sent to the workers of ``n_jobs``.

        Returns
        -------
        features : ndarray of float32, shape (n_images, n_features)
            Channel by channel, each row by row; with ``pooling="grid"`` the means of all channels,
            then the deviations.

        Raises
        ------
        ImageError
            If images are missing, not images, damaged or too large, unless ``on_error="nan"``. It
            is an OSError and a ValueError, and names the rows and paths of all of them. What was
            computed before stays in ``memory``.
        TypeError
            If ``X`` is not a collection of images.
        ValueError
            If ``X`` holds no images or arrays of another shape, or is a column of another name
            than in ``fit``.
        NotFittedError
            If the transformer is not fitted.
        WeightsError
            If the transformer was saved without its weights, and ``weights`` does not provide
            them. It is an OSError and a ValueError.
        """
        features, failures = features_and_failures(self, X)
        if failures:
            warn_user(rows_of_nan(failures, len(features)))
        return features

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """Return the names of the columns: ``mobilenetv2_block15_0`` and so on.

        Those of pooled maps are called ``mobilenetv2_block13_grid_0``.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Ignored, since the features have nothing to do with the name of the column of images.

        Returns
        -------
        names : ndarray of object, shape (n_features,)
            One name per feature.

        Raises
        ------
        NotFittedError
            If the transformer is not fitted.
        """
        check_is_fitted(self)
        block = "pool" if self.layer_ == "pool" else f"block{self.layer_}"
        if self.pooling is not None:
            block += f"_{self.pooling}"
        return np.array(
            [f"mobilenetv2_{block}_{i}" for i in range(self._n_features())], dtype=object
        )

    @property
    def _n_features_out(self) -> int:
        return self._n_features()

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _network(self, device: torch.device) -> tuple[Callable[[Any], Any], int]:
        """Return the trunk as a function from pixels to rows, and the batch size."""
        engine = resolve_engine(self.engine, device, self.precision, fitted=True)
        weights = _Weights(trunk_weights(self), self.fingerprint_)
        run = _trunk(weights, self.layer_, device, engine, self.precision)
        if self.pooling is not None:
            shape = feature_shape(self.layer_, self.image_size)
            run = _pooling(run, shape, self.pooling)
        batch_size = self.batch_size
        if batch_size == "auto":
            batch_size = _CPU_BATCH_SIZE if device.type == "cpu" else _GPU_BATCH_SIZE
        return run, batch_size

    def __getstate__(self) -> dict[str, Any]:
        """Return what is saved; without the weights if ``store_weights_in_pickle`` is False."""
        state = saved_state(super().__getstate__())
        if not self.store_weights_in_pickle:
            state.pop("weights_", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state that this release or an earlier one saved."""
        super().__setstate__(restored_state(self, state))

    def _n_features(self) -> int:
        return pooled_width(self.layer_, self.image_size, self.pooling)


_ALWAYS_RAISE = ContextVar("_ALWAYS_RAISE", default=False)


@contextmanager
def image_errors_are_raised() -> Iterator[None]:
    """Raise an ImageError for unusable images within this block, whatever ``on_error`` says.

    For callers that skip such images themselves: in the steps after the transformer, a row of NaN
    would raise an error, or be judged as if it were an image.
    """
    token = _ALWAYS_RAISE.set(True)
    try:
        yield
    finally:
        _ALWAYS_RAISE.reset(token)


def features_and_failures(
    transformer: MobileNetV2Features, X: Any
) -> tuple[npt.NDArray[np.float32], list[tuple[int, str, str]]]:
    """Compute the features of images, without a warning for those that cannot be used.

    Parameters
    ----------
    transformer : MobileNetV2Features
        Fitted.
    X : sequence of n_images images
        See :meth:`MobileNetV2Features.transform`.

    Returns
    -------
    features : ndarray of float32, shape (n_images, n_features)
        The features.
    failures : list of (int, str, str)
        Row, name and reason of each image whose row is NaN.

    Raises
    ------
    ImageError
        If images cannot be used, unless ``on_error="nan"``.
    """
    check_is_fitted(transformer)
    origin = origin_of_features(transformer)
    images = as_image_list(X)
    if hasattr(transformer, "n_features_in_") and len(getattr(X, "shape", ())) == 2:
        validate_data(transformer, X, reset=False, skip_check_array=True)
    recipe = (
        f"{transformer.fingerprint_} {transformer.layer_} {transformer.image_size} {_PREPROCESSING}"
    )
    if transformer.precision != "float32":
        recipe += f" {transformer.precision}"
    if transformer.pooling is not None:
        recipe += f" {transformer.pooling}"
    if transformer.decoding != "exact":
        recipe += f" {transformer.decoding}"
    strict = _ALWAYS_RAISE.get()
    go_on = transformer.on_error == "nan" and not strict
    with one_core_threads(transformer.n_jobs) as pool:
        extraction = Extraction(
            images,
            transformer._n_features_out,
            recipe,
            open_store(transformer.memory),
            pool,
            decoding_of(transformer),
        )
        extraction.survey()
        if extraction.must_stop and not go_on:
            extraction.find_faults()
        elif extraction.missing:
            with (
                working_device(transformer.device, fitted=True) as device,
                tqdm(
                    total=len(extraction.missing), unit="image", disable=not transformer.verbose
                ) as bar,
            ):
                run, batch_size = transformer._network(device)
                extraction.compute(run, batch_size, go_on=go_on, progress=bar.update)
    features, faults = extraction.features, extraction.failures
    failures = [(row, describe(images[row]), faults[row]) for row in sorted(faults)]
    if (failures and not go_on) and (
        strict or not all(forgives(images[row], fault) for row, _, fault in failures)
    ):
        raise ImageError(failures, len(images), hint=_what_to_do())
    features[sorted(faults)] = np.nan
    return FeatureRows(features, origin), failures


def origin_of_features(transformer: MobileNetV2Features) -> Origin:
    """Return what the rows of a fitted transformer know about it.

    Parameters
    ----------
    transformer : MobileNetV2Features
        Fitted.

    Returns
    -------
    origin : Origin
        The layer, the image size, the fingerprint of the weights and the pooling.

    Raises
    ------
    ValueError
        If its maps are pooled, and the image size or the pooling was changed after fitting: the
        number of features would not show this to a classifier.
    """
    pooling, image_size = transformer.pooling, transformer.image_size
    fitted = getattr(transformer, "_fitted_pooling", (pooling, image_size))  # not in older files
    if fitted != (pooling, image_size) and (pooling or fitted[0]):
        raise ValueError(
            f"MobileNetV2Features was fitted with pooling={fitted[0]!r} and "
            f"image_size={fitted[1]}, and has pooling={pooling!r} and image_size={image_size} now: "
            "set them back, or fit again."
        )
    return Origin(transformer.layer_, image_size, transformer.fingerprint_, pooling)


def _what_to_do() -> str:
    hint = (
        "Repair them, or leave their rows out; a fitted detector judges the others with "
        'sklearn_dfd.detect. (MobileNetV2Features(on_error="nan") gives rows of NaN in their '
        "place, which DeepFakeClassifier does not take.)"
    )
    if multiprocessing.current_process().name != "MainProcess":
        hint += (
            " This is a worker process: plugins and settings of Pillow in the main process do not "
            "reach it."
        )
    return hint


def decoding_of(transformer: MobileNetV2Features) -> Decoding:
    """Return how a transformer decodes images for its network.

    Parameters
    ----------
    transformer : MobileNetV2Features
        Fitted or not.

    Returns
    -------
    decoding : Decoding
        The arguments of `load_rgb`.
    """
    return Decoding(
        transformer.image_size, transformer.max_pixels, fast=transformer.decoding == "fast"
    )


def trunk_weights(transformer: MobileNetV2Features) -> dict[str, npt.NDArray[Any]]:
    """Return the weights of a fitted transformer, found again where a file left them out.

    Parameters
    ----------
    transformer : MobileNetV2Features
        Fitted.

    Returns
    -------
    weights : dict of str to ndarray

    Raises
    ------
    WeightsError
        If they were not saved, and the parameter ``weights`` does not provide them.
    """
    if hasattr(transformer, "weights_"):
        return transformer.weights_
    return find_weights(
        transformer.weights, trunk_names(transformer.layer_), transformer.fingerprint_
    )


class _Weights:
    """Weights that compare by their fingerprint, to find a trunk that was built from them."""

    def __init__(self, arrays: dict[str, npt.NDArray[Any]], fingerprint: str) -> None:
        self.arrays, self.fingerprint = arrays, fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Weights) and self.fingerprint == other.fingerprint


@lru_cache(maxsize=8)  # devices of a machine, times layers in use
def _trunk(
    weights: _Weights, layer: int | str, device: torch.device, engine: str, precision: str
) -> Callable[[Any], Any]:
    """Build the trunk and what runs it; clones in a cross-validation share it."""
    with own_torch_state(device):
        trunk = Trunk(weights.arrays, layer, getattr(torch, precision))
        run = onnx_engine(trunk) if engine == "onnxruntime" else torch_engine(trunk, device)
    return lambda pixels: in_halves(run, pixels, np.concatenate)


def _pooling(run: Callable[[Any], Any], shape: tuple[int, ...], pooling: str) -> Callable[..., Any]:
    """Let what runs the trunk return summaries of the maps."""
    return lambda pixels: pooled(run(pixels), shape, pooling)
