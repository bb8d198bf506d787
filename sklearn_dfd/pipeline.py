"""The two steps in one Pipeline, cut at the same layer; and the settings of it that have a name."""

from typing import Any

from sklearn.pipeline import Pipeline

from sklearn_dfd._core.sklearn_private import StrOptions, validate_params
from sklearn_dfd.augmented_classifier import AugmentedClassifier
from sklearn_dfd.classifier import DeepFakeClassifier
from sklearn_dfd.features import MobileNetV2Features

# by measurement: docs/real_and_fake_faces.md, benchmarks/settings.py
_PRESETS: dict[str | None, dict[str, Any]] = {
    None: {"layer": 15, "image_size": 224},
    "accurate": {
        "layer": 4,
        "image_size": 160,
        "lr": 2e-4,
        "lr_schedule": "one_cycle",
        "label_smoothing": 0.1,
        "dropout": 0.4,
        "ema_decay": 0.995,
        "n_tails": 3,
        "max_epochs": 2,
    },
}


@validate_params({"preset": [StrOptions({"accurate"}), None]}, prefer_skip_nested_validation=True)
def make_deepfake_pipeline(
    layer=None,
    *,
    preset=None,
    weights="imagenet",
    device="auto",
    image_size=None,
    memory=None,
    n_jobs=None,
    on_error="raise",
    **params,
):
    """Build the detector: features of images, then the fine-tuned tail.

    Parameters
    ----------
    layer : int or "pool", default=None
        Where MobileNetV2 is cut: the last block of the frozen trunk, for both steps. None for 15,
        or what the preset says.

    preset : {"accurate"}, default=None
        ``"accurate"`` takes many times as long to train and tells more apart: cut at block 4,
        it trains three tails on eight views of each photograph beside it, with smoothed labels,
        more dropout and a one-cycle learning rate, and judges by their mean, averaged weights and
        both mirror images.

    weights : "imagenet", path or None, default="imagenet"
        Weights of both steps.

    device : str or list of str, default="auto"
        Device of both steps, or several to choose from.

    image_size : int, default=None
        Side of the square that images are squashed to. None for 224, or what the preset says.

    memory : None, path, FeatureStore or MemoryStore, default=None
        Where features are kept, see :class:`MobileNetV2Features`.

    n_jobs : int, default=None
        Threads that decode images and run the trunk.

    on_error : {"raise", "nan"}, default="raise"
        What an image that cannot be used does. The classifier does not take rows of NaN.

    **params
        All other parameters of :class:`DeepFakeClassifier`, ``batch_size`` and ``verbose`` among
        them, and those that :class:`MobileNetV2Features` alone has, such as ``engine``,
        ``max_pixels`` or ``store_weights_in_pickle``. They come before those of the preset.

    Returns
    -------
    detector : sklearn.pipeline.Pipeline or AugmentedClassifier
        A Pipeline with the steps ``"features"`` and ``"classifier"``; with ``preset="accurate"``
        an :class:`~sklearn_dfd.augmented_classifier.AugmentedClassifier` of such a Pipeline, whose
        parameters have names like ``estimator__classifier__lr``.

    Raises
    ------
    ValueError
        If there is no such preset.
    TypeError
        If neither step has a parameter of that name.

    Examples
    --------
    >>> from sklearn_dfd import make_deepfake_pipeline
    >>> from sklearn_dfd.datasets import make_spliced_photos
    >>> photos = make_spliced_photos(40, random_state=0)
    >>> pipe = make_deepfake_pipeline(weights=None, max_epochs=1, random_state=0)
    >>> pipe.fit(photos.data, photos.target).predict(photos.data).shape
    (40,)
    """
    known = DeepFakeClassifier().get_params()
    of_features = {name: params.pop(name) for name in params.keys() - known.keys()}
    unknown = of_features.keys() - MobileNetV2Features().get_params().keys()
    if unknown:
        raise TypeError(
            f"make_deepfake_pipeline takes no {', '.join(sorted(unknown))}: neither "
            "MobileNetV2Features nor DeepFakeClassifier has a parameter of that name."
        )
    settings = {**_PRESETS[preset], **params}
    usual_layer, usual_size = settings.pop("layer"), settings.pop("image_size")
    layer = usual_layer if layer is None else layer
    image_size = usual_size if image_size is None else image_size
    features = MobileNetV2Features(
        layer,
        weights=weights,
        image_size=image_size,
        device=device,
        memory=memory,
        n_jobs=n_jobs,
        on_error=on_error,
        **of_features,
    )
    classifier = DeepFakeClassifier(layer, weights=weights, device=device, **settings)
    pipeline = Pipeline([("features", features), ("classifier", classifier)])
    return pipeline if preset is None else AugmentedClassifier(pipeline)
