"""Images that are encoded again when they are needed, all in the same way."""

from dataclasses import dataclass
from io import BytesIO
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sklearn_dfd._core.images.decoding import MIN_SIDE, squash, to_rgb
from sklearn_dfd._core.images.reading import read_all
from sklearn_dfd._core.images.sources import (
    ImageLike,
    ImageView,
    as_image_list,
    describe,
    is_original,
)
from sklearn_dfd._core.sklearn_private import Interval, validate_params

__all__ = ["EqualizedImage", "equalize_encoding"]

_VERSION = 1  # changes whenever the same image would be encoded to other pixels
_LONGEST_SIDE = 65_500  # of a JPEG file, in pixels
_CONSTRAINTS = {
    "quality": [Interval(Integral, 1, 95, closed="both")],
    "image_size": [Interval(Integral, MIN_SIDE, _LONGEST_SIDE, closed="both"), None],
}


@dataclass(frozen=True, slots=True, repr=False)
class EqualizedImage(ImageView):
    """A photograph saved again as JPEG, in the same way as all others, when it is needed.

    :func:`equalize_encoding` makes these. Such an image stands in ``X`` like any other, in place of
    its photograph. It is a small value without pixels of its own, and counts as an original, not as
    a view of its photograph.

    Parameters
    ----------
    source : path, PIL image, ndarray of uint8, bytes, binary file object or view
        The photograph. Arrays are in RGB order.

    quality : int, default=75
        JPEG quality, from 1 to 95.

    image_size : int or None, default=None
        Side in pixels of the square that the photograph is resized to before it is saved (aspect
        ratio not kept). None keeps its size.

    Raises
    ------
    ValueError
        If the quality or the size is out of its range.

    Examples
    --------
    >>> from sklearn_dfd.augmentation import EqualizedImage
    >>> EqualizedImage("faces/a.png")
    <EqualizedImage (quality 75) of 'faces/a.png'>
    """

    source: ImageLike
    quality: int = 75
    image_size: int | None = None

    def __post_init__(self) -> None:
        for name, allowed in _CONSTRAINTS.items():
            value = getattr(self, name)
            if not (value is None and None in allowed) and not allowed[0].is_satisfied_by(value):
                raise ValueError(f"{name} is {value!r}; it must be {allowed[0]}.")

    def __repr__(self) -> str:
        size = "" if self.image_size is None else f", {self.image_size} pixels"
        return f"<EqualizedImage (quality {self.quality}{size}) of {describe(self.source)}>"

    @property
    def signature(self) -> str:
        """Version, quality and size: all that determines the image apart from its source."""
        return f"equalized {_VERSION} {self.quality} {self.image_size}"

    @property
    def is_original(self) -> bool:
        """Whether it is made from a photograph, and not from a view of one."""
        return is_original(self.source)

    def render(self, image: Image.Image, random_state: np.random.RandomState) -> Image.Image:
        """Save and open the upright RGB image of the source.

        Parameters
        ----------
        image : PIL image of mode RGB
            The photograph. It is not modified.
        random_state : RandomState
            Not used.

        Returns
        -------
        image : PIL image of mode RGB
            What the new file shows.

        Raises
        ------
        ValueError
            If a side is longer than a JPEG file can hold.
        """
        return to_rgb(self._encoded(image), max_pixels=_LONGEST_SIDE**2)

    def to_bytes(self) -> bytes:
        """Save the photograph in the way in which it is saved wherever it is used.

        Returns
        -------
        file : bytes
            The content of a JPEG file without any metadata.

        Raises
        ------
        ImageError
            If the photograph cannot be read.
        """
        (file,) = read_all([self.source], lambda raw: self._encoded(to_rgb(raw)))
        return file

    def to_image(self) -> Image.Image:
        """Open what :meth:`to_bytes` returns, to look at it.

        Returns
        -------
        image : PIL image of mode RGB
            The image, in sRGB.

        Raises
        ------
        ImageError
            If the photograph cannot be read.
        """
        (image,) = read_all([self], to_rgb)
        return image

    def _encoded(self, image: Image.Image) -> bytes:
        if self.image_size is not None:
            image = squash(image, self.image_size)
        if max(image.size) > _LONGEST_SIDE:
            raise ValueError(
                f"it is {image.width}x{image.height} pixels, and a JPEG file has at most "
                f"{_LONGEST_SIDE:,} on a side: pass image_size to equalize_encoding"
            )
        file = BytesIO()
        image.save(file, "JPEG", quality=int(self.quality), subsampling="4:2:0")
        return file.getvalue()


@validate_params({"X": "no_validation"} | _CONSTRAINTS, prefer_skip_nested_validation=True)
def equalize_encoding(
    X: Any, *, quality: int = 75, image_size: int | None = None
) -> npt.NDArray[np.object_]:
    """Give all images the same format, tables, subsampling and metadata.

    A detector that is trained on the result cannot learn from the header with which program or
    quality a file was saved, since every image is decoded, turned upright, and saved again as JPEG
    with the same quality and 4:2:0 subsampling, without metadata. Nothing is read here: each image
    is made when it is needed, and its features are kept like those of any other image. Equalise the
    images that are tested or judged later, too.

    Traces of an earlier compression in the pixels are covered, not removed. The lower the quality,
    and the more the image is reduced, the less is left of them, but also of the traces of an edit.

    Parameters
    ----------
    X : sequence of n_images images
        The photographs; see :meth:`sklearn_dfd.MobileNetV2Features.transform`.

    quality : int, default=75
        JPEG quality, from 1 to 95. It should not be higher than that of most files.

    image_size : int or None, default=None
        Side in pixels of the square that photographs are resized to before they are saved (aspect
        ratio not kept), such as the ``image_size`` of the detector. None keeps their sizes, which
        may reveal labels, too.

    Returns
    -------
    images : ndarray of object, shape (n_images,)
        An :class:`EqualizedImage` for each photograph, in the order of ``X``.

    Raises
    ------
    TypeError
        If ``X`` is not a collection of images.
    ValueError
        If ``X`` holds no images or arrays of another shape, or a parameter is out of its range.

    See Also
    --------
    sklearn_dfd.model_selection.check_shortcuts : Measures what the files reveal about the labels.

    Examples
    --------
    >>> from sklearn_dfd.augmentation import equalize_encoding
    >>> equalize_encoding(["a.jpg", "b.png"], quality=80)
    array([<EqualizedImage (quality 80) of 'a.jpg'>,
           <EqualizedImage (quality 80) of 'b.png'>], dtype=object)
    """
    images = as_image_list(X)
    equalized = np.empty(len(images), dtype=object)
    for row, image in enumerate(images):
        equalized[row] = EqualizedImage(image, quality, image_size)
    return equalized
