"""The factory of detectors: both steps in one Pipeline, cut at the same layer."""

import difflib
import os
from collections.abc import Set
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

import numpy as np
from sklearn.pipeline import Pipeline

from sklearn_dfd._core.sklearn_private import StrOptions, validate_params
from sklearn_dfd.augmented_classifier import AugmentedClassifier
from sklearn_dfd.classifier import DeepFakeClassifier
from sklearn_dfd.features import MobileNetV2Features

if TYPE_CHECKING:
    import torch

    from sklearn_dfd.feature_store import FeatureStore, MemoryStore

__all__ = ["make_deepfake_pipeline"]

# chosen by measurement: docs/real_and_fake_faces.md, benchmarks/settings.py
_PRESETS: dict[str | None, dict[str, Any]] = {
    None: {"layer": 15, "image_size": 224},
    "accurate": {
        "layer": 4,
        "image_size": 224,
        "lr": 2e-4,
        "lr_schedule": "one_cycle",
        "label_smoothing": 0.1,
        "dropout": 0.4,
        "ema_decay": 0.995,
        "max_epochs": 2,
    },
    "fast": {"layer": 13, "image_size": 224, "pooling": "grid", "C": 1e-3},
}

# what of LogisticRegression may be set
_LINEAR_PARAMS = frozenset({"C", "class_weight", "random_state"})
_CLASSIFIERS = {
    None: "DeepFakeClassifier",
    "accurate": "DeepFakeClassifier",
    "fast": 'the classifier of preset="fast" (C, class_weight, random_state)',
}

# names that the same thing has in other libraries
_ELSEWHERE = {
    "learning_rate": "lr",
    "learning_rate_init": "lr",
    "epochs": "max_epochs",
    "n_epochs": "max_epochs",
    "max_iter": "max_epochs",
    "l1": "l1_factor",
    "alpha": "l1_factor",
    "seed": "random_state",
    "patience": "n_iter_no_change",
    "cache": "memory",
    "img_size": "image_size",
}


class _StepParams(TypedDict, total=False):
    """Parameters of one of the two steps."""

    hidden_layer_sizes: tuple[int, ...] | list[int]
    dropout: float
    lr: float
    lr_schedule: Literal["constant", "one_cycle"]
    label_smoothing: float
    ema_decay: float | None
    n_tails: int
    l1_factor: float
    max_epochs: int
    class_weight: dict[Any, float] | Literal["balanced"] | None
    early_stopping: bool
    validation_fraction: float
    n_iter_no_change: int
    warm_start: bool
    random_state: int | np.random.RandomState | None
    batch_size: int
    engine: Literal["auto", "torch", "onnxruntime"]
    precision: Literal["float32", "bfloat16"]
    max_pixels: int | None
    decoding: Literal["exact", "fast"]
    store_weights_in_pickle: bool


class _FastParams(TypedDict, total=False):
    """Parameters of the steps of ``preset="fast"``."""

    C: float
    class_weight: dict[Any, float] | Literal["balanced"] | None
    random_state: int | np.random.RandomState | None
    pooling: Literal["mean", "grid"] | None
    batch_size: int | Literal["auto"]
    engine: Literal["auto", "torch", "onnxruntime"]
    precision: Literal["float32", "bfloat16"]
    decoding: Literal["exact", "fast"]
    max_pixels: int | None
    store_weights_in_pickle: bool


@overload
def make_deepfake_pipeline(
    layer: int | Literal["pool"] | None = ...,
    *,
    preset: Literal["fast"],
    weights: str | os.PathLike[str] | None = ...,
    device: "str | torch.device | list[str]" = ...,
    image_size: int | None = ...,
    memory: "str | os.PathLike[str] | FeatureStore | MemoryStore | None" = ...,
    n_jobs: int | None = ...,
    verbose: int = ...,
    **params: Unpack[_FastParams],
) -> Pipeline: ...


@overload
def make_deepfake_pipeline(
    layer: int | Literal["pool"] | None = ...,
    *,
    preset: None = ...,
    weights: str | os.PathLike[str] | None = ...,
    device: "str | torch.device | list[str]" = ...,
    image_size: int | None = ...,
    memory: "str | os.PathLike[str] | FeatureStore | MemoryStore | None" = ...,
    n_jobs: int | None = ...,
    verbose: int = ...,
    **params: Unpack[_StepParams],
) -> Pipeline: ...


@overload
def make_deepfake_pipeline(
    layer: int | Literal["pool"] | None = ...,
    *,
    preset: Literal["accurate"],
    weights: str | os.PathLike[str] | None = ...,
    device: "str | torch.device | list[str]" = ...,
    image_size: int | None = ...,
    memory: "str | os.PathLike[str] | FeatureStore | MemoryStore | None" = ...,
    n_jobs: int | None = ...,
    verbose: int = ...,
    **params: Unpack[_StepParams],
) -> AugmentedClassifier: ...


@validate_params(
    {"preset": [StrOptions({"accurate", "fast"}), None]}, prefer_skip_nested_validation=True
)
def make_deepfake_pipeline(
    layer: int | Literal["pool"] | None = None,
    *,
    preset: Literal["accurate", "fast"] | None = None,
    weights: str | os.PathLike[str] | None = "imagenet",
    device: "str | torch.device | list[str]" = "auto",
    image_size: int | None = None,
    memory: "str | os.PathLike[str] | FeatureStore | MemoryStore | None" = None,
    n_jobs: int | None = None,
    verbose: int = 0,
    **params: Any,
) -> Pipeline | AugmentedClassifier:
    """Build a detector: features of images, then the fine-tuned tail of the network.

    Parameters
    ----------
    layer : int or "pool", default=None
        Where MobileNetV2 is cut: the last block of the frozen trunk, for both steps. None means 15,
        or the layer of the preset.

    preset : {"accurate", "fast"}, default=None
        ``"accurate"`` separates better and takes much longer to train: about 25 minutes of one core
        for 1,300 photographs. It cuts the network at block 4 and trains its tail on each photograph
        and eight views of it, with smoothed labels, more dropout, a one-cycle learning rate and
        averaged weights. Its probabilities are means over a photograph and its mirror image;
        ``n_tails=3`` averages over three trainings too, in three times the time. The result is
        another kind of object (see Returns). ``"fast"`` fine-tunes nothing: a logistic regression
        takes the means and standard deviations of block 13 on a grid of 3 x 3 cells, which fits in
        seconds once the features are computed.

    weights : "imagenet", path or None, default="imagenet"
        Weights of both steps; see :class:`MobileNetV2Features`.

    device : str, torch.device or list of str, default="auto"
        Device of both steps, or several to choose from.

    image_size : int, default=None
        Side in pixels of the square that images are resized to (aspect ratio not kept). None means
        224, or the size of the preset.

    memory : None, path, FeatureStore or MemoryStore, default=None
        Where features are kept, by the content of the images; see :class:`MobileNetV2Features`.
        ``Pipeline(memory=)`` of scikit-learn is something else: it keeps results by file name.

    n_jobs : int, default=None
        Threads that decode images and run the trunk.

    verbose : int, default=0
        1 shows a progress bar for the features and prints a line of figures per epoch.

    **params
        Any other parameter of :class:`DeepFakeClassifier`, such as ``lr``, ``l1_factor``,
        ``max_epochs`` or ``batch_size``, and those that only :class:`MobileNetV2Features` has,
        such as ``engine``, ``decoding`` or ``max_pixels``. They take precedence over those of the
        preset. With ``preset="fast"``, parameters of :class:`MobileNetV2Features` and ``C``,
        ``class_weight`` and ``random_state`` of
        :class:`~sklearn.linear_model.LogisticRegression`.

    Returns
    -------
    detector : sklearn.pipeline.Pipeline or AugmentedClassifier
        A Pipeline with the steps ``"features"`` and ``"classifier"``: its parameters have names
        like ``classifier__lr``, and ``fit`` takes groups as ``classifier__groups``. With
        ``preset="accurate"`` it is an :class:`AugmentedClassifier` of such a Pipeline: names are
        like ``estimator__classifier__lr``, and ``fit`` takes ``groups``. With ``preset="fast"``
        it is a Pipeline with the steps ``"features"``, ``"scaler"``
        (:class:`~sklearn.preprocessing.StandardScaler`) and ``"classifier"``
        (:class:`~sklearn.linear_model.LogisticRegression`), which needs no groups in ``fit``.

    Raises
    ------
    ValueError
        If there is no such preset.
    TypeError
        If neither step has a parameter of a given name, or ``on_error`` is given.

    Examples
    --------
    >>> from sklearn_dfd import make_deepfake_pipeline
    >>> from sklearn_dfd.datasets import make_spliced_photos
    >>> photos = make_spliced_photos(40, random_state=0)
    >>> pipe = make_deepfake_pipeline(weights=None, max_epochs=1, random_state=0)
    >>> pipe.fit(photos.data, photos.target).predict(photos.data).shape
    (40,)
    """
    settings = {**_PRESETS[preset], **params}
    usual_layer, usual_size = settings.pop("layer"), settings.pop("image_size")
    layer = usual_layer if layer is None else layer
    image_size = usual_size if image_size is None else image_size
    fast = preset == "fast"
    of_classifier = _LINEAR_PARAMS if fast else DeepFakeClassifier().get_params().keys()
    _check_names(settings.keys() - of_classifier, of_classifier, preset)
    features = MobileNetV2Features(
        layer,
        weights=weights,
        image_size=image_size,
        device=device,
        memory=memory,
        n_jobs=n_jobs,
        verbose=verbose,
        **{name: settings.pop(name) for name in settings.keys() - of_classifier},
    )
    if fast:
        # here, since importing them takes time that no other detector needs
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        linear = LogisticRegression(max_iter=1000, **settings)
        return Pipeline(
            [("features", features), ("scaler", StandardScaler()), ("classifier", linear)]
        )
    classifier = DeepFakeClassifier(
        layer, weights=weights, device=device, verbose=verbose, **settings
    )
    pipeline = Pipeline([("features", features), ("classifier", classifier)])
    return pipeline if preset is None else AugmentedClassifier(pipeline)


def _check_names(of_features: Set[str], of_classifier: Set[str], preset: str | None) -> None:
    """Raise a TypeError where neither step has a parameter, and suggest the one that is meant."""
    if "on_error" in of_features:
        raise TypeError(
            "make_deepfake_pipeline takes no on_error: the classifier cannot use rows of NaN. "
            "Leave unusable images out before fit (ImageError.failures lists them all); detect "
            "judges the others."
        )
    known = of_classifier | MobileNetV2Features().get_params().keys()
    for name in sorted(of_features - known):
        usual = _ELSEWHERE.get(name)
        close = [usual] if usual in known else difflib.get_close_matches(name, sorted(known))
        raise TypeError(
            f"make_deepfake_pipeline takes no {name!r}: neither MobileNetV2Features nor "
            f"{_CLASSIFIERS[preset]} has a parameter of that name."
            + (f" Did you mean {close[0]!r}?" if close else "")
        )
