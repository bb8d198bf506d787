"""Rows of features that know which network made them, for the classifier to check."""

import re
from typing import Any, NamedTuple

import numpy as np

_COLUMN = re.compile(r"mobilenetv2_(?:block(\d+)(?:_(mean|grid))?|(pool))_\d+")


class Origin(NamedTuple):
    """What made rows of features.

    Parameters
    ----------
    layer : int or "pool"
        The last block of the trunk.
    image_size : int or None
        Side of the resized images, in pixels; None where it is not known.
    fingerprint : str or None
        Hash of the weights of the trunk; None where it is not known.
    pooling : str or None, default=None
        How the maps were summarised.
    """

    layer: int | str
    image_size: int | None
    fingerprint: str | None
    pooling: str | None = None


class FeatureRows(np.ndarray):
    """An array of features with their origin.

    Rows that are selected, copied, pickled or sent to a worker keep it, even as a memory map of
    joblib. The result of a computation is a plain array.

    Parameters
    ----------
    rows : ndarray of shape (n_images, n_features)
        They are not copied.
    origin : Origin
    """

    origin: Origin | None

    def __new__(cls, rows: np.ndarray, origin: Origin | None) -> "FeatureRows":
        made = rows.view(cls)
        made.origin = origin
        return made

    def __array_finalize__(self, source: Any) -> None:
        self.origin = getattr(source, "origin", None)

    def __array_wrap__(self, array: np.ndarray, context: Any = None, return_scalar: bool = False):
        plain = array.view(np.ndarray)
        return plain.reshape(1)[0] if plain.ndim == 0 else plain

    def __reduce__(self):
        # the array within is pickled as any other: joblib can hand it over as a memory map
        return FeatureRows, (self.view(np.ndarray), self.origin)


def origin_of(X: Any) -> Origin | None:
    """Find out what made rows of features.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Rows as the transformer returned them, a selection of these, or a table whose columns have
        the names that the transformer gave them.

    Returns
    -------
    origin : Origin or None
        None if it is not known.
    """
    if isinstance(X, FeatureRows):
        return X.origin
    columns = getattr(X, "columns", None)
    match = None if columns is None else _COLUMN.fullmatch(str(next(iter(columns), "")))
    if match is None:
        return None
    return Origin("pool" if match[3] else int(match[1]), None, None, match[2])


def check_origin(
    origin: Origin, layer: int | str, fitted: tuple[Any, ...] | None, name: str
) -> None:
    """Check that rows were made by the trunk that a tail continues, or was fitted after.

    Parameters
    ----------
    origin : Origin
        What made the rows.
    layer : int or "pool"
        The block that the tail follows. With ``"pool"`` a head is trained on rows of any kind.
    fitted : tuple or None
        The fields of the origin of the rows in ``fit``; None if they are not known, or in ``fit``.
    name : str
        What the message calls the rows.

    Raises
    ------
    ValueError
        If the trunk ends at another block, or if something that is known about both origins
        differs.
    """
    if origin.pooling is not None and layer != "pool":
        raise ValueError(
            f"{name} was made by MobileNetV2Features(pooling={origin.pooling!r}), and the blocks "
            f"after layer={layer!r} take whole maps. Set pooling=None, or use a classifier of "
            'scikit-learn, as make_deepfake_pipeline(preset="fast") does.'
        )
    if layer not in ("pool", origin.layer):
        raise ValueError(
            f"{name} was made by MobileNetV2Features(layer={origin.layer!r}), but this classifier "
            f"continues after layer={layer!r}. Both steps must be cut at the same layer: "
            f"make_deepfake_pipeline(layer={origin.layer!r}), or in a search "
            'param_grid=[{"features__layer": [k], "classifier__layer": [k]} for k in (10, 15)].'
        )
    known = origin if fitted is None else Origin(*fitted)  # of older files: without pooling
    for what, was, now in zip(Origin._fields, known, origin, strict=True):
        if None not in (was, now) and was != now:
            what = "weights of the fingerprint" if what == "fingerprint" else what
            raise ValueError(
                f"{name} was made by MobileNetV2Features with {what} {now!r}, but this classifier "
                f"was fitted on features made with {was!r}: set it back, or fit again."
            )
