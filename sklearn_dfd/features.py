"""The transformer: images in, rows of features of MobileNetV2's frozen blocks out."""

import warnings
from collections import deque
from functools import lru_cache
from numbers import Integral
from os import PathLike

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from sklearn_dfd.devices import one_core_threads, resolve_device
from sklearn_dfd.feature_store import FeatureStore, MemoryStore, open_store, row_key
from sklearn_dfd.images import (
    ImageError,
    as_image_list,
    check_header,
    content_digest,
    describe,
    load_rgb,
    read_source,
)
from sklearn_dfd.mobilenet import LAST_BLOCK, Trunk, feature_shape, trunk_names
from sklearn_dfd.weights import fingerprint, load_weights

# changes whenever the same bytes would give other features: rows kept under an older one are
# then not found, and computed again
_PREPROCESSING = 1
_CPU_BATCH_SIZE = 4  # the trunk's working set then stays in the cache of a core
_GPU_BATCH_SIZE = 64
_BATCHES_AHEAD = 16
_ROWS_A_WRITE = 64
_IMAGE_PROBLEMS = (OSError, ValueError, TypeError)


class MobileNetV2Features(TransformerMixin, BaseEstimator):
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

    device : str, default="auto"
        ``"auto"`` (CUDA, else MPS, else the CPU), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.

    memory : None, path, FeatureStore or MemoryStore, default=None
        Where features are kept. None is the memory of this process, up to 512 MiB
        (``sklearn_dfd.feature_store.IN_PROCESS.max_bytes``). A path is a directory that many
        processes may share, today and later.

    n_jobs : int, default=None
        Threads, of one core each, that decode images and run the trunk. None takes as many as
        torch would use in this process; -1 all cores that it may use.

    on_error : {"raise", "nan"}, default="raise"
        What an image that cannot be used does: an error that names it, or a row of NaN and a
        warning that names it.

    Attributes
    ----------
    weights_ : dict of str to ndarray
        Weights of the blocks up to ``layer``, so that a saved transformer needs no other file.

    fingerprint_ : str
        Hash of ``weights_``.

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
        "device": [str, torch.device],
        "memory": [str, PathLike, FeatureStore, MemoryStore, None],
        "n_jobs": [Integral, None],
        "on_error": [StrOptions({"raise", "nan"})],
    }

    def __init__(
        self,
        layer=15,
        *,
        weights="imagenet",
        image_size=224,
        batch_size="auto",
        device="auto",
        memory=None,
        n_jobs=None,
        on_error="raise",
    ):
        self.layer = layer
        self.weights = weights
        self.image_size = image_size
        self.batch_size = batch_size
        self.device = device
        self.memory = memory
        self.n_jobs = n_jobs
        self.on_error = on_error

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Load the weights; the images are counted, not read.

        Parameters
        ----------
        X : sequence of images
            See :meth:`transform`.

        y : ignored

        Returns
        -------
        self : object

        Raises
        ------
        WeightsError
            An OSError and a ValueError: the weights cannot be had. Says what to do.
        ValueError, TypeError
            If ``X`` is not a collection of images, or the device is not there.
        """
        as_image_list(X)
        resolve_device(self.device)
        arrays = load_weights(self.weights)
        self.weights_ = {name: arrays[name] for name in trunk_names(self.layer)}
        self.fingerprint_ = fingerprint(self.weights_)
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
            If ``X`` is not a collection of images.
        """
        check_is_fitted(self)
        images = as_image_list(X)
        features = np.empty((len(images), self._n_features()), dtype=np.float32)
        store = open_store(self.memory)
        failures: dict[int, str] = {}
        with one_core_threads(self.n_jobs) as pool:
            missing = self._survey(images, store, pool, features, failures)
            if missing and (self.on_error == "nan" or not failures):
                self._compute(images, missing, store, pool, features, failures)
        if failures:
            named = [(i, describe(images[i]), failures[i]) for i in sorted(failures)]
            error = ImageError(named, len(images))
            if self.on_error == "raise":
                raise error
            features[sorted(failures)] = np.nan
            warnings.warn(f"{error} Their rows are NaN.", stacklevel=2)
        return features

    def get_feature_names_out(self, input_features=None):
        """Names of the columns: ``mobilenetv2_block15_0`` and so on.

        Parameters
        ----------
        input_features : ignored
            A column of images has no names worth keeping.

        Returns
        -------
        names : ndarray of object, shape (n_features,)
        """
        check_is_fitted(self)
        block = "pool" if self.layer == "pool" else f"block{self.layer}"
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

    def _n_features(self):
        return int(np.prod(feature_shape(self.layer, self.image_size)))

    def _recipe(self):
        """All that determines the features of an image, besides the image."""
        return f"{self.fingerprint_} {self.layer} {self.image_size} {_PREPROCESSING}"

    def _survey(self, images, store, pool, features, failures):
        """Look at every image: fill the rows that are kept, and return where to compute the rest.

        Returns
        -------
        missing : dict of bytes to list of int
            Rows of each distinct image that has to be computed, by its key.
        """
        missing: dict[bytes, list[int]] = {}
        recipe = self._recipe()
        for start in range(0, len(images), _ROWS_A_WRITE):
            stop = min(start + _ROWS_A_WRITE, len(images))
            some = [images[i] for i in range(start, stop)]
            rows_of: dict[bytes, list[int]] = {}
            raws = {}
            for i, (raw, digest) in zip(range(start, stop), pool.map(_read, some), strict=True):
                if isinstance(raw, Exception):
                    failures[i] = str(raw)
                    continue
                key = row_key(digest, recipe)
                rows_of.setdefault(key, []).append(i)
                raws[key] = raw
            unknown = [key for key in rows_of if key not in missing]
            for key, row in store.fetch(unknown):
                features[rows_of.pop(key)] = row
            faults = pool.map(_header_fault, [raws[key] for key in rows_of])
            for (key, rows), fault in zip(rows_of.items(), faults, strict=True):
                if fault:
                    failures.update(dict.fromkeys(rows, fault))
                else:
                    missing.setdefault(key, []).extend(rows)
        return missing

    def _compute(self, images, missing, store, pool, features, failures):
        """Run the trunk on the missing images, a few batches ahead, and keep the results."""
        device = resolve_device(self.device, fitted=True)
        trunk = _trunk(_Weights(self.weights_, self.fingerprint_), self.layer, device)
        batch_size = self.batch_size
        if batch_size == "auto":
            batch_size = _CPU_BATCH_SIZE if device.type == "cpu" else _GPU_BATCH_SIZE
        recipe = self._recipe()
        keys = list(missing)
        batches = deque(keys[i : i + batch_size] for i in range(0, len(keys), batch_size))
        running: deque = deque()
        kept_keys: list[bytes] = []
        kept_rows: list[np.ndarray] = []
        while running or batches:
            while batches and len(running) < _BATCHES_AHEAD:
                batch = batches.popleft()
                some = [images[missing[key][0]] for key in batch]
                running.append((batch, pool.submit(_run, trunk, some, self.image_size, device)))
            batch, future = running.popleft()
            outcome, rows = future.result()
            computed = iter(rows)
            for key, result in zip(batch, outcome, strict=True):
                if isinstance(result, Exception):
                    failures.update(dict.fromkeys(missing[key], str(result)))
                    continue
                row = next(computed)
                features[missing[key]] = row
                # keyed by what was decoded: the file may have changed since it was surveyed
                kept_keys.append(row_key(result, recipe))
                kept_rows.append(row)
            if failures and self.on_error == "raise":
                batches.clear()
            if len(kept_keys) >= _ROWS_A_WRITE or not (running or batches):
                store = _keep(store, kept_keys, kept_rows)
                kept_keys, kept_rows = [], []


def _read(source):
    """Content and digest of an image, or what is wrong with it."""
    try:
        raw = read_source(source)
        return raw, content_digest(raw)
    except _IMAGE_PROBLEMS as error:
        return error, None


def _header_fault(raw):
    """What is wrong with an image's header; None where it is sound."""
    try:
        return check_header(raw)
    except _IMAGE_PROBLEMS as error:
        return str(error)


def _run(trunk, sources, image_size, device):
    """Decode some images and run the trunk on those that can be.

    Returns
    -------
    outcome : list of bytes or Exception
        For each source the digest of its content, or what is wrong with it.
    rows : ndarray of float32, shape (n_decoded, n_features)
    """
    outcome, pixels = [], []
    for source in sources:
        try:
            raw = read_source(source)
            pixels.append(load_rgb(raw, image_size))
            outcome.append(content_digest(raw))
        except _IMAGE_PROBLEMS as error:
            outcome.append(error)
    if not pixels:
        return outcome, []
    with torch.inference_mode():
        return outcome, trunk(torch.from_numpy(np.stack(pixels)).to(device)).cpu().numpy()


def _keep(store, keys, rows):
    """Add rows to a store; where it can't be written, say so and go on without it."""
    try:
        store.add(keys, rows)
    except OSError as error:
        warnings.warn(
            f"features are not kept, and computed again the next time: {error}", stacklevel=4
        )
        return MemoryStore(max_bytes=0)
    return store


class _Weights:
    """Weights that compare by their fingerprint, to find a trunk that was built from them."""

    def __init__(self, arrays, fingerprint):
        self.arrays, self.fingerprint = arrays, fingerprint

    def __hash__(self):
        return hash(self.fingerprint)

    def __eq__(self, other):
        return self.fingerprint == other.fingerprint


@lru_cache(maxsize=2)
def _trunk(weights, layer, device):
    """Build the trunk; clones in a cross-validation share it."""
    return Trunk(weights.arrays, layer).to(device)
