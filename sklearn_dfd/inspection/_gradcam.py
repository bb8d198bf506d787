"""Grad-CAM through trunk and tail: where in an image the evidence for a class comes from."""

import os
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from sklearn.base import BaseEstimator, clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.pipeline import Pipeline
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_is_fitted, column_or_1d
from torch import nn

from sklearn_dfd._core.axes import axes_for
from sklearn_dfd._core.images.decoding import squash, to_rgb
from sklearn_dfd._core.images.reading import read_all
from sklearn_dfd._core.images.sources import as_image_list
from sklearn_dfd._core.network.mobilenet import LAST_BLOCK, Trunk
from sklearn_dfd._core.runtime.devices import own_torch_state
from sklearn_dfd._core.validation import Label, import_extra, resolve_pos_label
from sklearn_dfd.classifier import DeepFakeClassifier
from sklearn_dfd.features import MobileNetV2Features, trunk_weights
from sklearn_dfd.inspection._detect import name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The last block whose maps have 1/16 of the image's side. Measured on spliced photographs, cut
# at 6, 10 and 15: the maps of later blocks are coarse, and the channels of earlier ones do not
# mean the same everywhere, as Grad-CAM supposes.
_USUAL_BLOCK = 13
_BATCH_SIZE = 16
_OPACITY = 0.75  # of a map where the evidence is strongest
_NAME_LENGTH = 26  # characters of a file name that fit above a photograph


class GradCAMDisplay:
    """Where in photographs the evidence for a class comes from, by Grad-CAM.

    It is made by :meth:`from_estimator`, with the method of [1]_. The parameters are stored as
    attributes.

    Parameters
    ----------
    photos : list of n_images ndarray of uint8, shape (height, width, 3)
        The photographs, upright, in RGB order.

    maps : ndarray of float32, shape (n_images, height, width)
        The evidence for the class, 0 or more, at each pixel of each photograph. If the
        photographs differ in size, this is an ndarray of object, shape (n_images,), that holds an
        ndarray of shape (height, width) for each.

    probability : ndarray of shape (n_images,)
        The probability of the class, from ``predict_proba`` of the whole estimator.

    class_of_interest : int, float, bool or str
        The class whose evidence is shown.

    names : list of str, default=None
        Names of the photographs, for the titles.

    called : ndarray of shape (n_images,), default=None
        The classes that the estimator predicts.

    y_true : ndarray of shape (n_images,), default=None
        The true classes, where they are known.

    Attributes
    ----------
    figure_ : matplotlib Figure
        The figure that holds the photographs.

    axes_ : ndarray of matplotlib Axes, shape (n_images,)
        One for each photograph.

    images_ : list of n_images matplotlib AxesImage
        The maps drawn over the photographs.

    colorbar_ : matplotlib Colorbar
        The scale that all maps share.

    See Also
    --------
    sklearn_dfd.detect : Lists what images are called, with probabilities.

    Notes
    -----
    Grad-CAM shows what the network used, which need not be what was edited: measured on real
    photographs, it says little about which parts of a face were replaced (Trust, in the
    documentation, has the figures). It is coarse: with photographs of 224 pixels and the default
    ``block``, a map has 14 x 14 cells, and 7 x 7 after block 14 or later.

    The photographs are shown, and the maps computed, from all their pixels, even with
    ``decoding="fast"``: they count in full for ``max_pixels``.

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
    >>> display = GradCAMDisplay.from_estimator(pipe, photos.data[:4], photos.target[:4])
    >>> display.maps.shape
    (4, 96, 96)
    """

    def __init__(
        self,
        photos: list[npt.NDArray[np.uint8]],
        maps: npt.NDArray[Any],
        *,
        probability: npt.NDArray[np.floating[Any]],
        class_of_interest: Label,
        names: list[str] | None = None,
        called: npt.NDArray[Any] | None = None,
        y_true: npt.NDArray[Any] | None = None,
    ) -> None:
        self.photos = photos
        self.maps = maps
        self.probability = probability
        self.class_of_interest = class_of_interest
        self.names = names
        self.called = called
        self.y_true = y_true

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: Any,
        y: npt.ArrayLike | None = None,
        *,
        class_of_interest: Label | None = None,
        block: int | None = None,
        ax: "npt.ArrayLike | Axes | None" = None,
    ) -> Self:
        """Compute the maps of some photographs with captum, and plot them.

        Parameters
        ----------
        estimator : classifier
            A fitted Pipeline that ends in :class:`~sklearn_dfd.MobileNetV2Features` and
            :class:`~sklearn_dfd.DeepFakeClassifier`, with any ``layer`` but ``"pool"``, or a
            search or another meta-estimator that fitted one. The maps are computed on the device
            of the classifier.

        X : sequence of n_images images
            The photographs; see :meth:`~sklearn_dfd.MobileNetV2Features.transform`.

        y : array-like of shape (n_images,), default=None
            Their true labels, by position, for the titles.

        class_of_interest : int, float, bool or str, default=None
            The class whose evidence is shown. None means 1 or True if the labels are 0 and 1, -1
            and 1, or booleans, as in scikit-learn. With any other labels, or more than two, it must
            be given.

        block : int, default=None
            The block of MobileNetV2, 0 to 18, whose maps are weighed. None means 13, the last one
            with maps of 1/16 of the image's side, or ``layer`` if that is later.

        ax : matplotlib Axes or array-like of matplotlib Axes, default=None
            One for each photograph; see :meth:`plot`.

        Returns
        -------
        display : GradCAMDisplay
            The display, plotted.

        Raises
        ------
        ImportError
            If captum or matplotlib is not installed.
        TypeError
            If ``estimator`` holds no such Pipeline, or ``X`` is not a collection of images.
        NotFittedError
            If the estimator is not fitted.
        ImageError
            If images cannot be used. All of them are named, by their positions in ``X``, counted
            from 0.
        WeightsError
            If the pipeline was saved without its weights, and they are not found.
        ValueError
            If the pipeline is cut at ``"pool"``, the class or the block does not exist, the class
            is needed and missing, or ``y`` has another length or other labels.
        """
        caller = f"{cls.__name__}.from_estimator"
        import_extra("matplotlib", caller)
        import_extra("captum.attr", caller)
        *before, features, classifier = _fitted_steps(estimator, caller)
        classes = classifier.classes_.tolist()
        class_of_interest = resolve_pos_label(
            class_of_interest, classes, f"{caller}(estimator, X, {{}}).", name="class_of_interest"
        )
        one = isinstance(block, int | np.integer) and block in range(LAST_BLOCK + 1)
        if block is not None and not one:
            block = np.asarray(block).tolist()
            raise ValueError(f"block={block!r} does not exist: the blocks are 0 to {LAST_BLOCK}.")
        judged = X
        y_true = None
        if y is not None:
            y_true = column_or_1d(y)
            check_consistent_length(as_image_list(X), y_true)
            if strange := set(y_true.tolist()) - set(classes):
                raise ValueError(
                    f"y holds the labels {sorted(strange, key=str)}, and the detector knows the "
                    f"classes {classes}."
                )
        names = [name_of(image) for image in as_image_list(X)]
        for step in before:
            if hasattr(step, "transform"):  # a sampler acts in fit alone
                X = step.transform(X)
        photos = read_all(as_image_list(X), partial(to_rgb, max_pixels=features.max_pixels))
        pixels = np.stack([np.asarray(squash(photo, features.image_size)) for photo in photos])
        # from the whole detector, which may average, calibrate or weigh what the network says
        column = np.asarray(estimator.classes_).tolist().index(class_of_interest)
        probability = estimator.predict_proba(judged)[:, column]
        called = np.asarray(estimator.predict(judged))
        maps = _grad_cam(features, classifier, pixels, classes.index(class_of_interest), block)
        return cls(
            [np.asarray(photo) for photo in photos],
            _upsampled(maps, [photo.size for photo in photos]),
            probability=probability,
            class_of_interest=class_of_interest,
            names=names,
            called=called,
            y_true=y_true,
        ).plot(ax=ax)

    def evidence_in(
        self, masks: Sequence[npt.ArrayLike]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return how dense the evidence is in regions, such as those known to be edited.

        Parameters
        ----------
        masks : sequence of n_images array-like of bool, shape (height, width)
            The pixels of the region in each photograph.

        Returns
        -------
        inside : ndarray of float32, shape (n_images,)
            The mean of the map over the pixels of the region.

        outside : ndarray of float32, shape (n_images,)
            The mean of the map over all other pixels.

        Raises
        ------
        ValueError
            If there is not one mask for each photograph, or if masks differ in size from their
            photograph, are not of bool, or leave no pixel inside or outside of the region. All
            such masks are named by their positions, counted from 0.
        """
        regions = [np.asarray(mask) for mask in masks]
        if len(regions) != len(self.photos):
            n = len(self.photos)
            raise ValueError(f"{len(regions)} masks for {n} photographs: pass one each.")
        faults = [
            f"row {row}: {fault}"
            for row, (mask, photo) in enumerate(zip(regions, self.photos, strict=True))
            if (fault := _fault_of(mask, photo.shape[:2]))
        ]
        if faults:
            more = f"; ... and {len(faults) - 10} more" if len(faults) > 10 else ""
            raise ValueError(
                f"{len(faults)} of {len(regions)} masks cannot be used: "
                f"{'; '.join(faults[:10])}{more}. Leave those photographs out, or repair the masks."
            )
        inside = [map_[mask].mean() for map_, mask in zip(self.maps, regions, strict=True)]
        outside = [map_[~mask].mean() for map_, mask in zip(self.maps, regions, strict=True)]
        return np.array(inside, dtype=np.float32), np.array(outside, dtype=np.float32)

    def plot(self, ax: "npt.ArrayLike | Axes | None" = None) -> Self:
        """Plot the photographs in grey, with their maps over them.

        All maps share one scale, from none to the strongest evidence in any of the photographs: a
        photograph without bright colours holds little of it. The title names the photograph, what
        it is called, its true class where that is known, and the probability. It is bold where
        the call is wrong.

        Parameters
        ----------
        ax : matplotlib Axes or array-like of matplotlib Axes, default=None
            One for each photograph. None makes a new figure.

        Returns
        -------
        self : GradCAMDisplay
            The display itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If ``ax`` is not one Axes for each photograph.
        """
        n = len(self.photos)
        self.axes_ = axes_for(
            ax,
            n,
            f"each of {n} photographs",
            f"{type(self).__name__}.plot",
            n_columns=4,
            size=(2.6, 3.1),
            extra_height=0.2,
        )
        self.figure_ = self.axes_[0].figure
        strongest = max(float(map_.max()) for map_ in self.maps) or 1.0
        self.images_ = []
        for row, (axes, photo, map_) in enumerate(
            zip(self.axes_, self.photos, self.maps, strict=True)
        ):
            axes.imshow(photo.mean(axis=-1), cmap="gray", vmin=0, vmax=255)
            self.images_.append(
                axes.imshow(
                    map_,
                    cmap="inferno",
                    vmin=0,
                    vmax=strongest,
                    alpha=_OPACITY * map_ / strongest,
                )
            )
            axes.set(xticks=[], yticks=[])
            wrong = self._is_wrong(row)
            axes.set_title(
                self._title(row), fontsize="small", fontweight="bold" if wrong else "normal"
            )
        self.colorbar_ = self._add_colorbar(strongest)
        return self

    def _is_wrong(self, row: int) -> bool:
        if self.called is None or self.y_true is None:
            return False
        return bool(self.called[row] != self.y_true[row])

    def _title(self, row: int) -> str:
        lines = []
        if self.names is not None:
            lines.append(_short(self.names[row], row))
        calls = [] if self.called is None else [f"called {self.called[row]}"]
        if self.y_true is not None:
            calls.append(f"is {self.y_true[row]}")
        if calls:
            lines.append(", ".join(calls))
        return "\n".join([*lines, f"P({self.class_of_interest}) = {self.probability[row]:.2f}"])

    def _add_colorbar(self, strongest: float) -> Any:
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import ListedColormap, Normalize

        # the colours of the maps as they look over a photograph of middle grey
        share = np.linspace(0, 1, 256)[:, np.newaxis]
        colors = _OPACITY * share * colormaps["inferno"](share.ravel())[:, :3]
        colors += (1 - _OPACITY * share) * 0.5
        scale = ScalarMappable(Normalize(0, strongest), ListedColormap(colors))
        bar = self.figure_.colorbar(scale, ax=list(self.axes_), fraction=0.03, pad=0.02)
        bar.set_label(f"Evidence for {self.class_of_interest}")
        bar.set_ticks([0, strongest], labels=["none", "strongest"])
        return bar


def _short(name: str, row: int) -> str:
    """Return a name that fits above a photograph."""
    if name.startswith(("array ", "PIL image ", "view of ")) or name.endswith(" bytes"):
        return f"image {row}"
    name = os.path.basename(name)
    half = _NAME_LENGTH // 2
    return name if len(name) <= _NAME_LENGTH else f"{name[: half - 1]}…{name[-half:]}"


def unwrapped(estimator: Any, kinds: Any) -> Any:
    """Look into searches and meta-estimators of scikit-learn for an estimator of some kinds.

    Parameters
    ----------
    estimator : estimator
        The outermost estimator.
    kinds : type or union of types
        The kinds that are looked for.

    Returns
    -------
    inner : object
        The first one of these kinds; the innermost estimator where there is none.
    """
    # what they fitted comes before what they were given
    while not isinstance(estimator, kinds):
        for name in ("best_estimator_", "estimator_", "estimator"):
            if hasattr(estimator, name):
                inner = getattr(estimator, name)
                is_template = name == "estimator" or hasattr(estimator, "estimators_")
                # these two predict with what they were given
                given = isinstance(estimator, FrozenEstimator | FixedThresholdClassifier)
                if is_template and not given and inner is not None:
                    inner = clone(inner)  # its own fit is not that of the meta-estimator
                estimator = inner
                break
        else:
            break
    return estimator


def _fault_of(mask: npt.NDArray[Any], shape: tuple[int, ...]) -> str | None:
    """Say what is wrong with the mask of a photograph; None where nothing is."""
    if mask.dtype != bool:
        return f"its values are {mask.dtype}, not bool"
    if mask.shape != shape:
        return f"its shape is {mask.shape}, but that of its photograph is {shape}"
    if not mask.any():
        return "no pixel is in the region"
    return "no pixel is outside of the region" if mask.all() else None


def _fitted_steps(estimator: Any, caller: str) -> list[Any]:
    """Find the steps of a fitted pipeline of ours inside searches and meta-estimators."""
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
            f'{caller} needs features that have locations, and those of layer="pool" are averages '
            "over the image: fit with layer=18, which is the same network without the average."
        )
    if steps[-2].pooling is not None:
        raise ValueError(
            f"{caller} needs features that have locations, and those of "
            f"pooling={steps[-2].pooling!r} are summaries of the maps: fit with pooling=None."
        )
    return steps


class _Network(nn.Module):
    """The log-odds of one class against all others, from images.

    The blocks of the tail are called one by one, because captum must see them, while the tail
    itself runs them as functions. The outputs differ by rounding.
    """

    def __init__(self, trunk: Trunk, tail: Any, class_index: int) -> None:
        super().__init__()
        self.trunk, self.tail, self.class_index = trunk, tail, class_index

    def blocks(self) -> list[nn.Module]:
        return [*self.trunk.features, *(self.tail.features or ())]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.tail.plain(self.trunk(images))
        others = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
        others[self.class_index] = False
        # unlike the gradient of a probability, this one does not vanish where a class is certain
        return logits[:, self.class_index] - logits[:, others].logsumexp(1)


def _grad_cam(
    features: MobileNetV2Features,
    classifier: DeepFakeClassifier,
    pixels: npt.NDArray[np.uint8],
    class_index: int,
    block: int | None = None,
) -> npt.NDArray[np.float32]:
    """Compute Grad-CAM's maps of the evidence for a class.

    Parameters
    ----------
    features : MobileNetV2Features
        The fitted transformer, with a `layer` from 0 to 18.
    classifier : DeepFakeClassifier
        The classifier, fitted at the same layer. The maps are computed on its device.
    pixels : ndarray of uint8, shape (n_images, side, side, 3)
        The images, in RGB order.
    class_index : int
        Position of the class in `classifier.classes_`.
    block : int or None
        The block whose maps are weighed, 0 to 18. None means 13, or the last block of the trunk if
        that is later.

    Returns
    -------
    maps : ndarray of float32, shape (n_images, map_side, map_side)
        The maps, 0 or more. With several tails, they are the mean of the maps of each.
    """
    from captum.attr import LayerGradCam

    device = torch.device(classifier.net_.device)
    if block is None:
        block = max(_USUAL_BLOCK, int(features.layer_))
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


def _upsampled(maps: npt.NDArray[np.float32], sizes: list[tuple[int, int]]) -> npt.NDArray[Any]:
    """Enlarge maps to the sizes of their photographs, given as (width, height)."""
    enlarged = [
        np.asarray(Image.fromarray(map_).resize(size, Image.Resampling.BILINEAR))
        for map_, size in zip(maps, sizes, strict=True)
    ]
    if len(set(sizes)) == 1:
        return np.stack(enlarged)
    several = np.empty(len(enlarged), dtype=object)
    several[:] = enlarged
    return several
