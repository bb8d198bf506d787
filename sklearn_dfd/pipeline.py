"""The two steps in one Pipeline, cut at the same layer."""

from sklearn.pipeline import Pipeline

from sklearn_dfd.classifier import DeepFakeClassifier
from sklearn_dfd.features import MobileNetV2Features


def make_deepfake_pipeline(
    layer=15,
    *,
    weights="imagenet",
    device="auto",
    image_size=224,
    memory=None,
    n_jobs=None,
    on_error="raise",
    **classifier_params,
):
    """Build the detector: features of images, then the fine-tuned tail.

    Parameters
    ----------
    layer : int or "pool", default=15
        Where MobileNetV2 is cut: the last block of the frozen trunk, for both steps.

    weights : "imagenet", path or None, default="imagenet"
        Weights of both steps.

    device : str or list of str, default="auto"
        Device of both steps, or several to choose from.

    image_size : int, default=224
        Side of the square that images are squashed to.

    memory : None, path, FeatureStore or MemoryStore, default=None
        Where features are kept, see :class:`MobileNetV2Features`.

    n_jobs : int, default=None
        Threads that decode images and run the trunk.

    on_error : {"raise", "nan"}, default="raise"
        What an image that cannot be used does. The classifier does not take rows of NaN.

    **classifier_params
        All other parameters of :class:`DeepFakeClassifier`, ``batch_size`` among them.

    Returns
    -------
    pipeline : sklearn.pipeline.Pipeline
        With the steps ``"features"`` and ``"classifier"``.

    Examples
    --------
    >>> from sklearn_dfd import make_deepfake_pipeline
    >>> from sklearn_dfd.datasets import make_spliced_photos
    >>> photos = make_spliced_photos(40, random_state=0)
    >>> pipe = make_deepfake_pipeline(weights=None, max_epochs=1, random_state=0)
    >>> pipe.fit(photos.data, photos.target).predict(photos.data).shape
    (40,)
    """
    features = MobileNetV2Features(
        layer,
        weights=weights,
        image_size=image_size,
        device=device,
        memory=memory,
        n_jobs=n_jobs,
        on_error=on_error,
    )
    classifier = DeepFakeClassifier(layer, weights=weights, device=device, **classifier_params)
    return Pipeline([("features", features), ("classifier", classifier)])
