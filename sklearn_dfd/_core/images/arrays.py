"""Arrays as images: which dtypes and shapes are images, and how to convert others."""

import numpy as np
import numpy.typing as npt

#: What may be passed as an image, for messages.
AN_IMAGE_IS = (
    "an image is a path, a PIL image, a uint8 array of shape (H, W), (H, W, 1), (H, W, 3) or "
    "(H, W, 4) in RGB order, the bytes of an image file, or a binary file object"
)


def check_array(image: npt.NDArray[np.generic], *, n_axes: int, name: str) -> None:
    """Check dtype and shape of one image (two axes without channels) or of several (three).

    Parameters
    ----------
    image : ndarray
        One image or several.
    n_axes : {2, 3}
        Number of axes without that of the channels.
    name : str
        What the message calls the array.

    Raises
    ------
    TypeError
        If the array is not of dtype uint8; the message says how to convert its values.
    ValueError
        If the shape is not that of images.
    """
    variable = "X" if n_axes == 3 else "image"
    if image.dtype != np.uint8:
        raise TypeError(
            f"{name} is an array of {image.dtype}, uint8 from 0 to 255 is expected: "
            f"{_how_to_convert(image, variable)}"
        )
    if image.ndim == n_axes + 1 and image.shape[-1] not in (1, 3, 4):
        first = n_axes - 2
        channels_first = image.shape[first] in (1, 3, 4)
        raise ValueError(
            f"{name} has shape {image.shape}, {image.shape[-1]} channels on its last axis where 1, "
            "3 or 4 are expected"
            + (
                f": move the channels last, np.moveaxis({variable}, {first}, -1)"
                if channels_first
                else ""
            )
        )
    if image.ndim not in (n_axes, n_axes + 1):
        raise ValueError(f"{name} has shape {image.shape}; {AN_IMAGE_IS}")


def _how_to_convert(image: npt.NDArray[np.generic], name: str) -> str:
    """Say how to convert values of another dtype to uint8, depending on their range."""
    if image.dtype.kind not in "biuf":
        return "values of this type are not pixels"
    if image.size == 0:
        return f"{name}.astype(np.uint8)"
    if image.dtype.kind == "b":
        return f"np.uint8(255) * {name} where True is white"
    if not np.isfinite(image).all():
        return "some of its values are not finite, replace them first"
    low, high = image.min().item(), image.max().item()
    found = f"its values are from {low:.4g} to {high:.4g}"
    if low < 0:
        return (
            f"{found}, as after a normalisation: undo it first, for example with {name} * std + "
            "mean, until 0 is black"
        )
    if image.dtype.kind == "f" and high <= 1:
        return f"{found}, convert them with np.rint(255 * {name}).astype(np.uint8)"
    if high <= 1:
        return f"{found}, convert them with {name}.astype(np.uint8) * np.uint8(255) if 1 is white"
    if high <= 255:
        rounded = f"np.rint({name})" if image.dtype.kind == "f" else name
        return f"{found}, convert them with {rounded}.astype(np.uint8)"
    white = 65535 if high <= 65535 else high
    return (
        f"{found}, convert them with np.rint({name} * (255 / {white:.10g})).astype(np.uint8) if "
        f"{white:.10g} is white"
    )
