"""Crops around the largest face in an image, made when they are needed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image

from sklearn_dfd._core.images.decoding import pixel_limit, to_rgb
from sklearn_dfd._core.images.face_detector import (
    Face,
    are_one_face,
    detector_digest,
    find_faces,
    overlap,
)
from sklearn_dfd._core.images.reading import read_all, read_source
from sklearn_dfd._core.images.sources import (
    ImageLike,
    ImageView,
    LazyImage,
    describe,
    is_original,
)

__all__ = ["FaceCrop"]

#: What is done with an image in which no face is found.
OnMissing: TypeAlias = Literal["full", "nan", "raise"]
ON_MISSING = ("full", "nan", "raise")

#: Left, top, right and bottom in pixels of the upright image.
Box: TypeAlias = tuple[int, int, int, int]

_VERSION = 1  # changes whenever another box would be cut out of the same image
_NO_FACE = "no face was found in it"
# Seconds from a frame of a film to those whose boxes smooth its own. They are all later, so the
# film is decoded in one direction.
_LATER = (0.1, 0.2)


def _followed_face(image: Image.Image, later: Iterable[Image.Image]) -> Face | None:
    """Find the largest face in an image, and smooth its box over images that follow it.

    The box is the mean of the boxes of one face. A face that is not found in the image itself, as
    happens in a blurred frame, counts if two later images show it in the same place.
    """
    boxes = []
    faces = find_faces(image)
    if faces:
        boxes.append(_largest(faces))
    is_found = bool(boxes)
    for other in later:
        faces = find_faces(other)
        if not faces:
            continue
        if not boxes:
            boxes.append(_largest(faces))
            continue
        closest = max(faces, key=lambda face: overlap(face, boxes[0]))
        if are_one_face(closest, boxes[0]):
            boxes.append(closest)
    if not is_found and len(boxes) < 2:
        return None
    return Face(*np.mean(boxes, axis=0).tolist())


def _largest(faces: list[Face]) -> Face:
    return max(faces, key=lambda face: (face.width * face.height, face))


@dataclass(frozen=True, slots=True, repr=False)
class FaceCrop(ImageView):
    """The largest face in a photograph, which is cut out with a margin when it is needed.

    :class:`FaceCrops` makes these. Such an image stands in ``X`` like any other and replaces its
    photograph. It is a small value without pixels of its own, and counts as an original, not as a
    view of its photograph.

    Parameters
    ----------
    source : path, PIL image, ndarray of uint8, bytes, binary file object, VideoFrame or view
        The photograph, or a frame of a film. Arrays are in RGB order.

    margin : float, default=0.4
        Width of the margin around the face, as a share of the longer side of the face.

    on_missing : {"full", "nan", "raise"}, default="full"
        What is done if no face is found; see :class:`FaceCrops`.

    Raises
    ------
    ValueError
        If `margin` is negative or not finite, or `on_missing` is not one of the three values.

    Examples
    --------
    >>> from sklearn_dfd.augmentation import FaceCrop
    >>> FaceCrop("group.jpg")
    <FaceCrop of 'group.jpg'>
    """

    source: ImageLike
    margin: float = 0.4
    on_missing: OnMissing = "full"

    def __post_init__(self) -> None:
        if not 0 <= self.margin < float("inf"):
            raise ValueError(f"margin is {self.margin!r}; it must be a finite number, 0 or more.")
        if self.on_missing not in ON_MISSING:
            raise ValueError(
                f"on_missing is {self.on_missing!r}; it must be one of "
                f"{', '.join(map(repr, ON_MISSING))}."
            )

    def __repr__(self) -> str:
        return f"<FaceCrop of {describe(self.source)}>"

    @property
    def signature(self) -> str:
        """All that determines the crop: versions, margin, and what a missing face means."""
        missing = "refused" if self.may_refuse else "full"
        return f"face {_VERSION} {detector_digest()} {float(self.margin)} {missing}"

    @property
    def is_original(self) -> bool:
        """Whether it is made from a photograph, and not from a view of one."""
        return is_original(self.source)

    @property
    def may_refuse(self) -> bool:
        """Whether a photograph without a face cannot be used."""
        return self.on_missing != "full"

    def forgives(self, fault: str) -> bool:
        """Return whether a fault gives a row of NaN instead of an error.

        Parameters
        ----------
        fault : str
            What is wrong with the image.

        Returns
        -------
        forgives : bool
            True for a missing face if ``on_missing="nan"``.
        """
        return self.on_missing == "nan" and fault == _NO_FACE

    def render(self, image: Image.Image, random_state: np.random.RandomState) -> Image.Image:
        """Cut the face out of the upright RGB image of the source.

        Parameters
        ----------
        image : PIL image of mode RGB
            The photograph. It is not modified.
        random_state : RandomState
            Not used.

        Returns
        -------
        image : PIL image of mode RGB
            The crop, or the whole photograph if no face is found and ``on_missing="full"``.

        Raises
        ------
        ValueError
            If no face is found, unless ``on_missing="full"``.
        """
        box = self._box(image)
        if box is not None:
            return image.crop(box)
        if self.may_refuse:
            raise ValueError(_NO_FACE)
        return image

    def find_box(self) -> Box | None:
        """Find the box that is cut out, to draw it.

        Returns
        -------
        box : tuple of four int, or None
            Left, top, right and bottom in pixels of the upright photograph; None if no face is
            found.

        Raises
        ------
        ImageError
            If the photograph cannot be read.
        """
        (box,) = read_all([self.source], lambda raw: self._box(to_rgb(raw)))
        return box

    def to_image(self) -> Image.Image:
        """Cut the face out, to look at it.

        Returns
        -------
        image : PIL image of mode RGB
            The crop, in sRGB.

        Raises
        ------
        ImageError
            If the photograph cannot be read, or if no face is found, unless ``on_missing="full"``.
        """
        (image,) = read_all([self], to_rgb)
        return image

    def _box(self, image: Image.Image) -> Box | None:
        """Find the square around the largest face, as far as it lies within the image."""
        face = _followed_face(image, self._later(image))
        if face is None:
            return None
        side = max(face.width, face.height) * (1 + 2 * self.margin)
        x, y = face.left + face.width / 2, face.top + face.height / 2
        return (
            max(0, round(x - side / 2)),
            max(0, round(y - side / 2)),
            min(image.width, round(x + side / 2)),
            min(image.height, round(y + side / 2)),
        )

    def _later(self, image: Image.Image) -> Iterator[Image.Image]:
        """Decode the images shortly after a frame of a film, as far as they can be decoded."""
        if not isinstance(self.source, LazyImage):
            return
        limit = pixel_limit(None)
        if limit is not None:
            limit = max(limit, image.width * image.height)
        for seconds in _LATER:
            try:
                other = to_rgb(read_source(self.source.later(seconds)), limit)
            except (OSError, ValueError):  # such as the end of the film
                return
            if other.size != image.size:
                return
            yield other
