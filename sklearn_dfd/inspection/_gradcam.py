"""Grad-CAM through trunk and tail: where in an image the evidence for a class comes from."""

from functools import partial

import numpy as np
import torch
from PIL import Image
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from torch import nn

from sklearn_dfd._core.images.decoding import squash, to_rgb
from sklearn_dfd._core.images.sources import as_image_list, read_all
from sklearn_dfd._core.network.mobilenet import LAST_BLOCK, Trunk
from sklearn_dfd._core.runtime.devices import own_torch_state
from sklearn_dfd._core.validation import import_extra
from sklearn_dfd.classifier import DeepFakeClassifier
from sklearn_dfd.features import MobileNetV2Features, trunk_weights

# Of the blocks whose maps have 1/16 of the image's side the last one. Measured on spliced
# photographs, cut at 6, 10 and 15: maps of later blocks are coarse, channels of earlier ones
# do not mean the same everywhere, as Grad-CAM supposes.
_USUAL_BLOCK = 13
_BATCH_SIZE = 16


class GradCAMDisplay:
    """Where in photographs the evidence for a class comes from, by Grad-CAM [1]_.

    Made by :meth:`from_estimator`. All parameters are stored as attributes.

    Parameters
    ----------
    photos : list of n_images ndarray of uint8, shape (height, width, 3)
        The photographs, upright, RGB.

    maps : ndarray of float32, shape (n_images, height, width)
        For each photograph the evidence for the class, 0 or more, at each of its pixels. Of
        photographs of several sizes this is an ndarray of object, shape (n_images,), that holds an
        ndarray of shape (height, width) for each.

    probability : ndarray of shape (n_images,)
        Of the class, as the ``predict_proba`` of the whole estimator has it.

    class_of_interest : int, float, bool or str
        The class.

    Attributes
    ----------
    figure_ : matplotlib Figure
        Figure with the photographs.

    axes_ : ndarray of matplotlib Axes, shape (n_images,)
        One for each photograph.

    images_ : list of n_images matplotlib AxesImage
        The maps that lie over the photographs.

    See Also
    --------
    sklearn_dfd.detect : The verdicts.

    Notes
    -----
    Grad-CAM tells what the network used, which need not be what was edited. It is coarse: with
    photographs of 224 pixels and the usual ``block``, a map has 14 x 14 places, 7 x 7 after block
    14 or later.

    References
    ----------
    .. [1] R. R. Selvaraju, M. Cogswell, A. Das, R. Vedantam, D. Parikh, D. Batra (2017). Grad-CAM:
       Visual Explanations from Deep Networks via Gradient-based Localization. ICCV.

    Examples
    --------
    >>> from sklearn_dfd import make_deepfake_pipeline
    >>> from sklearn_dfd.datasets import make_spliced_photos
    >>> from sklearn_dfd.inspection import GradCAMDisplay
    >>> photos = make_spliced_photos(40, random_state=0)
    >>> pipe = make_deepfake_pipeline(weights=None, image_size=64, max_epochs=1, random_state=0)
    >>> pipe = pipe.fit(photos.data, photos.target)
    >>> display = GradCAMDisplay.from_estimator(pipe, photos.data[:4])
    >>> display.maps.shape
    (4, 96, 96)
    """

    def __init__(self, photos, maps, *, probability, class_of_interest):
        self.photos = photos
        self.maps = maps
        self.probability = probability
        self.class_of_interest = class_of_interest

    @classmethod
    def from_estimator(cls, estimator, X, *, class_of_interest=None, block=None, ax=None):
        """Compute the maps of some photographs, by captum, and plot them.

        Parameters
        ----------
        estimator : estimator
            A fitted Pipeline that ends in :class:`MobileNetV2Features` and
            :class:`DeepFakeClassifier`, of any ``layer`` but ``"pool"``, or a search or another
            meta-estimator that fitted one. The work is done on the device of the classifier.

        X : sequence of n_images images
            See :meth:`MobileNetV2Features.transform`.

        class_of_interest : int, float, bool or str, default=None
            The class whose evidence is shown. None for ``estimator.classes_[1]`` of two classes.

        block : int, default=None
            The block of MobileNetV2, 0 to 18, whose maps are weighed. None for 13, the last one
            with maps of 1/16 of the image's side, or for ``layer`` where that comes later.

        ax : sequence of matplotlib Axes, default=None
            See :meth:`plot`.

        Returns
        -------
        display : GradCAMDisplay

        Raises
        ------
        ImportError
            If captum or matplotlib is missing. Says how to install it.
        TypeError
            If there is no such Pipeline in ``estimator``, or ``X`` is no collection of images.
        NotFittedError
            If it is not fitted.
        ImageError
            If images cannot be used; it names them all.
        WeightsError
            An OSError and a ValueError: the pipeline was saved without its weights, and they are
            not found.
        ValueError
            If the pipeline is cut at ``"pool"``, there is no such class or block, or there are
            more than two classes and none is named.
        """
        caller = f"{cls.__name__}.from_estimator"
        import_extra("matplotlib", caller)
        import_extra("captum.attr", caller)
        *before, features, classifier = _fitted_steps(estimator, caller)
        classes = classifier.classes_.tolist()
        if class_of_interest is None and len(classes) == 2:
            class_of_interest = classes[1]
        if class_of_interest not in classes:
            class_of_interest = np.asarray(class_of_interest).tolist()
            raise ValueError(
                f"class_of_interest={class_of_interest!r} is none of the classes: {classes}."
            )
        one = isinstance(block, int | np.integer) and block in range(LAST_BLOCK + 1)
        if block is not None and not one:
            block = np.asarray(block).tolist()
            raise ValueError(f"block={block!r} is none of the blocks, 0 to {LAST_BLOCK}.")
        judged = X
        for step in before:
            if hasattr(step, "transform"):  # a sampler acts in fit alone
                X = step.transform(X)
        photos = read_all(as_image_list(X), partial(to_rgb, max_pixels=features.max_pixels))
        pixels = np.stack([np.asarray(squash(photo, features.image_size)) for photo in photos])
        # what the whole detector says, which may average, calibrate or weigh what the network says
        column = np.asarray(estimator.classes_).tolist().index(class_of_interest)
        probability = estimator.predict_proba(judged)[:, column]
        maps = _grad_cam(features, classifier, pixels, classes.index(class_of_interest), block)
        return cls(
            [np.asarray(photo) for photo in photos],
            _upsampled(maps, [photo.size for photo in photos]),
            probability=probability,
            class_of_interest=class_of_interest,
        ).plot(ax=ax)

    def evidence_in(self, masks):
        """Tell how dense the evidence is in regions, such as what is known to be edited.

        Parameters
        ----------
        masks : sequence of n_images array-like of bool, shape (height, width)
            Of each photograph the pixels of the region.

        Returns
        -------
        inside : ndarray of float32, shape (n_images,)
            Mean of the map over the pixels of the region.

        outside : ndarray of float32, shape (n_images,)
            Over all others.

        Raises
        ------
        ValueError
            If there is not one mask for each photograph, or masks have another size than their
            photograph, or hold anything but true and false, or miss it: no pixel is in the region,
            or none outside. Names the rows.
        """
        masks = [np.asarray(mask) for mask in masks]
        if len(masks) != len(self.photos):
            n = len(self.photos)
            raise ValueError(f"{len(masks)} masks for {n} photographs: pass one each.")
        faults = [
            f"row {row}: {fault}"
            for row, (mask, photo) in enumerate(zip(masks, self.photos, strict=True))
            if (fault := _fault_of(mask, photo.shape[:2]))
        ]
        if faults:
            more = f"; ... and {len(faults) - 10} more" if len(faults) > 10 else ""
            raise ValueError(
                f"{len(faults)} of {len(masks)} masks cannot be used: "
                f"{'; '.join(faults[:10])}{more}. Leave those photographs out, or mend the masks."
            )
        inside = [map_[mask].mean() for map_, mask in zip(self.maps, masks, strict=True)]
        outside = [map_[~mask].mean() for map_, mask in zip(self.maps, masks, strict=True)]
        return np.array(inside, dtype=np.float32), np.array(outside, dtype=np.float32)

    def plot(self, ax=None):
        """Plot the photographs in grey, with their maps over them.

        All maps have one scale, from none to the strongest evidence in any of the photographs: one
        that stays dark has little.

        Parameters
        ----------
        ax : sequence of matplotlib Axes, default=None
            One for each photograph. None for a new figure.

        Returns
        -------
        self : object

        Raises
        ------
        ImportError
            If matplotlib is missing. Says how to install it.
        ValueError
            If ``ax`` is not one Axes for each photograph.
        """
        plt = import_extra("matplotlib.pyplot", f"{type(self).__name__}.plot")

        n = len(self.photos)
        if ax is None:
            n_columns = min(n, 4)
            n_rows = -(-n // n_columns)
            figure = plt.figure(figsize=(2.5 * n_columns, 2.8 * n_rows), layout="constrained")
            ax = [figure.add_subplot(n_rows, n_columns, i + 1) for i in range(n)]
        self.axes_ = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
        if len(self.axes_) != n:
            raise ValueError(
                f"ax takes one matplotlib Axes for each of {n} photographs; got {len(self.axes_)}."
            )
        self.figure_ = self.axes_[0].figure
        strongest = max(float(map_.max()) for map_ in self.maps) or 1.0
        self.images_ = []
        for axes, photo, map_, p in zip(
            self.axes_, self.photos, self.maps, self.probability, strict=True
        ):
            axes.imshow(photo.mean(axis=-1), cmap="gray", vmin=0, vmax=255)
            self.images_.append(
                axes.imshow(
                    map_, cmap="inferno", vmin=0, vmax=strongest, alpha=0.75 * map_ / strongest
                )
            )
            axes.set(xticks=[], yticks=[], title=f"{self.class_of_interest}: {p:.0%}")
        return self


def unwrapped(estimator, kinds):
    """Look into searches and meta-estimators of scikit-learn until one of the kinds is there.

    Returns
    -------
    inner : object
        The innermost that there is, where none is of the kinds.
    """
    # what they fitted comes before what they were given
    while not isinstance(estimator, kinds):
        for name in ("best_estimator_", "estimator_", "estimator"):
            if hasattr(estimator, name):
                estimator = getattr(estimator, name)
                break
        else:
            break
    return estimator


def _fault_of(mask, shape):
    """Say what is wrong with the mask of a photograph; None where nothing is."""
    if mask.dtype != bool:
        return f"its values are {mask.dtype}, not bool"
    if mask.shape != shape:
        return f"its shape is {mask.shape}, that of its photograph {shape}"
    if not mask.any():
        return "it misses the photograph: no pixel is in the region"
    return "no pixel is outside of the region" if mask.all() else None


def _fitted_steps(estimator, caller):
    """Find the steps of a fitted pipeline of ours in searches and meta-estimators."""
    inner = unwrapped(estimator, Pipeline)
    steps = []
    if isinstance(inner, Pipeline):
        steps = [step for _, step in inner.steps if step not in (None, "passthrough")]
    kinds = (MobileNetV2Features, DeepFakeClassifier)
    if len(steps) < 2 or not all(map(isinstance, steps[-2:], kinds)):
        raise TypeError(
            f"{caller} takes a fitted Pipeline that ends in MobileNetV2Features and "
            "DeepFakeClassifier, or a search or another meta-estimator that fitted one; got "
            f"{type(estimator).__name__}."
        )
    msg = f"This {type(estimator).__name__} holds no fitted pipeline: call fit first, or pass one "
    msg += "of the pipelines that it fitted."
    check_is_fitted(steps[-2], msg=msg)
    check_is_fitted(steps[-1], "net_", msg=msg)
    if steps[-2].layer_ == "pool":
        raise ValueError(
            f'{caller} needs features that have places, and those of layer="pool" are averages '
            "over the image: fit with layer=18, which is the same network without the average."
        )
    return steps


class _Network(nn.Module):
    """Log-odds of one class against all others, of images.

    The blocks of the tail are called one by one, as captum must see them; the tail itself runs
    them as functions. The outputs differ by rounding.
    """

    def __init__(self, trunk, tail, class_index):
        super().__init__()
        self.trunk, self.tail, self.class_index = trunk, tail, class_index

    def blocks(self):
        return [*self.trunk.features, *self.tail.features]

    def forward(self, images):
        logits = self.tail.plain(self.trunk(images))
        others = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
        others[self.class_index] = False
        # unlike the gradient of a probability, this one does not vanish where a class is certain
        return logits[:, self.class_index] - logits[:, others].logsumexp(1)


def _grad_cam(features, classifier, pixels, class_index, block=None):
    """Compute Grad-CAM's maps of the evidence for a class.

    Parameters
    ----------
    features : MobileNetV2Features
        Fitted, with a `layer` from 0 to 18.
    classifier : DeepFakeClassifier
        Fitted at the same layer. The work is done on its device.
    pixels : ndarray of uint8, shape (n_images, side, side, 3)
    class_index : int
        In `classifier.classes_`.
    block : int or None
        The block whose maps are weighed, 0 to 18; None for 13, or the last one of the trunk where
        that comes later.

    Returns
    -------
    maps : ndarray of float32, shape (n_images, map_side, map_side)
        0 or more. Of several tails the mean of what each gives.
    """
    from captum.attr import LayerGradCam

    device = torch.device(classifier.net_.device)
    if block is None:
        block = max(_USUAL_BLOCK, features.layer_)
    maps = []
    with own_torch_state(device):
        precision = getattr(torch, features.precision)
        trunk = Trunk(trunk_weights(features), features.layer_, precision)
        trunk.to(device)
        explain = []
        for tail in classifier.net_.module_.tails:
            network = _Network(trunk, tail, class_index).eval()
            explain.append(LayerGradCam(network, network.blocks()[block]))
        for start in range(0, len(pixels), _BATCH_SIZE):
            images = torch.from_numpy(pixels[start : start + _BATCH_SIZE]).to(device)
            found = [each.attribute(images, relu_attributions=True) for each in explain]
            mean = torch.stack(found).mean(0)
            maps.append(mean[:, 0].detach().float().cpu().numpy())
    return np.concatenate(maps)


def _upsampled(maps, sizes):
    """Enlarge maps to the sizes of their photographs, (width, height)."""
    enlarged = [
        np.asarray(Image.fromarray(map_).resize(size, Image.Resampling.BILINEAR))
        for map_, size in zip(maps, sizes, strict=True)
    ]
    if len(set(sizes)) == 1:
        return np.stack(enlarged)
    several = np.empty(len(enlarged), dtype=object)
    several[:] = enlarged
    return several
