"""Views of photographs: changed at random, the same in every process, made when they are needed."""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from sklearn.base import BaseEstimator
from sklearn.utils import Bunch, check_random_state
from sklearn.utils.validation import column_or_1d

from sklearn_dfd._core.groups import check_groups, check_groups_of_views
from sklearn_dfd._core.images.decoding import to_rgb
from sklearn_dfd._core.images.distortions import DISTORTIONS
from sklearn_dfd._core.images.sources import (
    ImageView,
    as_image_list,
    describe,
    number_by_origin,
    read_all,
)
from sklearn_dfd._core.sklearn_private import (
    Interval,
    StrOptions,
    fit_context,
    num_samples,
    safe_indexing,
    validate_params,
)

__all__ = ["ImageAugmenter", "View", "augment"]

# Views are drawn here and made by Pillow: the random transforms of torchvision draw from torch's
# global generator, call the same functions of Pillow, and take seconds to import.

# Pixels of the longer side. Of what blur and JPEG do to single pixels of a larger photograph
# nothing is left at the size that a network sees, and it would take a second.
_LONGEST_SHARED = 1024


def _gentle(image: Image.Image, random_state: np.random.RandomState) -> Image.Image:
    """Mirror, crop and recolour: what leaves the traces of an edit as they are."""
    if random_state.uniform() < 0.5:
        image = ImageOps.mirror(image)
    image = _random_crop(image, random_state)
    return _recoloured(image, random_state) if random_state.uniform() < 0.5 else image


def _sharing(image: Image.Image, random_state: np.random.RandomState) -> Image.Image:
    """Change a photograph as taking, editing and sharing it does."""
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
    """Cut out 80 to 100 % of the area, of nearly the same aspect, along whole pixels.

    A crop that is resampled would wipe out traces of an edit that a detector should see.
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
    # changes whenever a seed would give another picture: features kept under an older one are
    # then not found, and computed again
    version: int


_RECIPES = {
    "sharing": _Recipe(_sharing, 1),
    "gentle": _Recipe(_gentle, 1),
    "contrast": _Recipe(_contrast, 1),
    "mirrored": _Recipe(_mirrored, 1),
}


@dataclass(frozen=True, slots=True, repr=False)
class View(ImageView):
    """A photograph, changed at random; made when it is needed.

    A view stands in ``X`` like any other image, also beside such: in lists, and in arrays and
    columns of objects. It is a small value that is cheap to send to other processes, hashable
    where its source is, and holds no pixels of its own. What it shows depends on the *content*
    of its source, the recipe and the seed, and on nothing else, so that
    :class:`~sklearn_dfd.MobileNetV2Features` finds its features again under another name, in
    another fold or process, and computes them anew when the source has changed.

    Parameters
    ----------
    source : path, PIL image, ndarray of uint8, bytes or View
        The photograph.

    seed : int
        Views of one photograph differ by it. One seed changes each photograph in a way of its own.

    recipe : {"sharing", "gentle", "contrast", "mirrored"}, default="sharing"
        What may happen to the photograph; see :class:`ImageAugmenter`.

    Raises
    ------
    TypeError, ValueError
        If the seed is no integer, or there is no such recipe.

    Examples
    --------
    >>> from sklearn_dfd.augmentation import View
    >>> View("faces/a.jpg", seed=3)
    <View 3 ('sharing') of 'faces/a.jpg'>
    >>> View("faces/a.jpg", seed=3) == View("faces/a.jpg", 3)
    True
    """

    source: Any
    seed: int
    recipe: str = "sharing"

    def __post_init__(self):
        if not isinstance(self.seed, Integral):
            raise TypeError(f"seed is {self.seed!r}; it must be an integer.")
        if self.recipe not in _RECIPES:
            raise ValueError(f"recipe is {self.recipe!r}; there are {', '.join(_RECIPES)}.")

    def __repr__(self):
        return f"<View {self.seed} ({self.recipe!r}) of {describe(self.source)}>"

    @property
    def signature(self) -> str:
        """Recipe with its version, and seed: all that determines the view besides its source."""
        return f"{self.recipe} {_RECIPES[self.recipe].version} {self.seed}"

    def render(self, image: Image.Image, random_state: np.random.RandomState) -> Image.Image:
        """Make the view from the upright RGB image of its source.

        Parameters
        ----------
        image : PIL image of mode RGB
            It is not modified.
        random_state : RandomState
            Seeded by the content of the source and the signature.

        Returns
        -------
        view : PIL image of mode RGB
        """
        return _RECIPES[self.recipe].render(image, random_state)

    def to_image(self) -> Image.Image:
        """Make the view, to look at it.

        Returns
        -------
        view : PIL image of mode RGB

        Raises
        ------
        ImageError
            If its photograph cannot be read.
        """
        (image,) = read_all([self], to_rgb)
        return image


class ImageAugmenter(BaseEstimator):
    """Add views of each photograph, to train on.

    A sampler as in imbalanced-learn: in an ``imblearn.pipeline.Pipeline``, before
    :class:`~sklearn_dfd.MobileNetV2Features`, it acts in ``fit`` alone. In a cross-validation of
    that pipeline views are made of the training side only, and what is tested are photographs as
    they are. It needs imbalanced-learn for nothing else.

    Parameters
    ----------
    n_views : int, default=3
        Views of each photograph. With one ``random_state``, the first three of five views are the
        three that ``n_views=3`` gives.

    recipe : {"sharing", "gentle", "contrast", "mirrored"}, default="sharing"
        - ``"sharing"``, after what photographs go through until somebody sees them: half of the
          views are mirrored; all are cropped to 80 to 100 % of the area, and scaled down where
          the longer side is still above 1024 pixels; half get another brightness, contrast and
          saturation, within 20 %; a quarter is scaled down, by 0.5 to 0.9, and up again; a
          quarter is blurred, with a standard deviation of 0.2 to 1.5 pixels; half are saved again
          as JPEG, of quality 50 to 95. Blur and JPEG at random are after [1]_.
        - ``"gentle"``: mirrored, cropped and recoloured as above, and nothing that blurs the traces
          of an edit.
        - ``"contrast"``: mirrored, turned upside down, contrast stretched (autocontrast) and
          histogram equalised, each with probability 1/2.
        - ``"mirrored"``: left and right swapped, and nothing else; the seed does not matter.

    keep_originals : bool, default=True
        Whether the photographs themselves come before their views.

    random_state : int, RandomState instance or None, default=None
        Draws the seeds of the views. With an int, a photograph has the same views in all folds and
        candidates of a search, wherever it stands, and the features of each are computed once;
        otherwise every fit makes other views.

    Attributes
    ----------
    sample_indices_ : ndarray of shape (n_resampled,), dtype int64
        The row in ``X`` that each row of the last result shows.

    See Also
    --------
    augment : The same with groups, for scikit-learn's own pipelines.
    sklearn_dfd.model_selection.OriginalsSplit : Keeps views on the training side.

    Notes
    -----
    Views are made by Pillow, from random numbers of their own: torch's global generator is left
    alone.

    ``DeepFakeClassifier(early_stopping=True)`` behind this sampler would set aside views of
    photographs that it trains on. Pass it photographs of its own to validate on (``X_val``), or
    use :func:`augment`, whose groups it can split by.

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
    (array(['b.jpg', <View 209652396 ('sharing') of 'a.jpg'>], dtype=object), [0, 1, 0, 1])
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        "n_views": [Interval(Integral, 1, None, closed="left")],
        "recipe": [StrOptions(set(_RECIPES))],
        "keep_originals": ["boolean"],
        "random_state": ["random_state"],
    }

    def __init__(self, n_views=3, *, recipe="sharing", keep_originals=True, random_state=None):
        self.n_views = n_views
        self.recipe = recipe
        self.keep_originals = keep_originals
        self.random_state = random_state

    @fit_context(prefer_skip_nested_validation=True)
    def fit_resample(self, X, y):
        """Return photographs and their views, with their targets; nothing is read.

        Parameters
        ----------
        X : sequence of n_images images
            See :meth:`MobileNetV2Features.transform`.

        y : array-like of shape (n_images,)
            Targets.

        Returns
        -------
        X_resampled : ndarray of object, shape (n_resampled,)
            The photographs in their order, then the first view of each, and so on; ``n_resampled``
            is ``n_images * (n_views + 1)``, or without originals ``n_images * n_views``.

        y_resampled : of the type of ``y``, shape (n_resampled,)
            Their targets.

        Raises
        ------
        TypeError, ValueError
            If ``X`` is not a collection of images, or ``y`` of another length.
        """
        images = as_image_list(X)
        _check_length("y", y, images)
        data, rows = _with_views(
            images, self.n_views, self.recipe, self.keep_originals, self.random_state
        )
        self.sample_indices_ = rows
        return data, safe_indexing(y, rows)

    def __sklearn_tags__(self):
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
        **ImageAugmenter._parameter_constraints,
    },
    prefer_skip_nested_validation=True,
)
def augment(
    X: Any,
    y: Any = None,
    groups: Any = None,
    *,
    n_views: int = 3,
    recipe: str = "sharing",
    keep_originals: bool = True,
    random_state: Any = None,
) -> Bunch:
    """Put views beside photographs, with the groups that keep them together.

    Parameters
    ----------
    X : sequence of n_images images
        See :meth:`sklearn_dfd.MobileNetV2Features.transform`. None is read.
    y : array-like of shape (n_images,), default=None
        Targets.
    groups : array-like of shape (n_images,), default=None
        What must stay together. None makes each photograph a group: the same path twice, and views
        that are in ``X`` already, share the group of their photograph.
    n_views : int, default=3
        Views of each photograph.
    recipe : {"sharing", "gentle", "contrast", "mirrored"}, default="sharing"
        What may happen to a photograph; see :class:`ImageAugmenter`.
    keep_originals : bool, default=True
        Whether the photographs themselves come before their views.
    random_state : int, RandomState instance or None, default=None
        Pass an int for the same views in every call.

    Returns
    -------
    faces : :class:`~sklearn.utils.Bunch`
        data : ndarray of object, shape (n_samples,)
            The photographs in their order, then the first view of each, and so on.
        target : ndarray of shape (n_samples,), or None
            Targets, where ``y`` was given.
        groups : ndarray of shape (n_samples,)
            Views have the group of their photograph.
        is_original : ndarray of bool, shape (n_samples,)
            Whether it is no view.

    Raises
    ------
    TypeError, ValueError
        If ``X`` is not a collection of images, ``y`` or ``groups`` have another length, groups are
        missing or differ for one photograph, or a parameter is out of its range.

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
        is_original=np.array([not isinstance(image, ImageView) for image in data]),
    )


def _check_length(name, values, images):
    n_values = num_samples(values)
    if n_values != len(images):
        raise ValueError(f"{name} has {n_values} values for {len(images)} images: pass one each.")


def _with_views(images, n_views, recipe, keep_originals, random_state):
    """Return an array of images and views, and the row that each comes from."""
    seeds = check_random_state(random_state).randint(np.iinfo(np.int32).max, size=n_views)
    sources = list(images)
    data = sources if keep_originals else []
    data = data + [View(source, int(seed), recipe) for seed in seeds for source in sources]
    array = np.empty(len(data), dtype=object)
    for row, image in enumerate(data):  # one by one: numpy would unpack images that are arrays
        array[row] = image
    return array, np.arange(len(data)) % len(sources)
