"""Checks that several parts of the package share, and the messages that go with them."""

import importlib
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

#: A label of a class, as a plain Python value.
Label = bool | int | float | str

# the extra of this package that installs each optional dependency
_EXTRAS = {
    "av": "video",
    "captum": "explain",
    "cv2": "copies",
    "executorch": "executorch",
    "matplotlib": "plot",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "pandas": "table",
    "skops": "skops",
}


def import_extra(module: str, needed_by: str, *, extra: str | None = None) -> ModuleType:
    """Import a module of an optional dependency.

    Parameters
    ----------
    module : str
        Name of the module, such as ``"matplotlib.pyplot"``.
    needed_by : str
        The function, class or parameter that needs it, for the message.
    extra : str, default=None
        The extra that installs all that is needed; None for that of the package alone.

    Returns
    -------
    module : module

    Raises
    ------
    ImportError
        If the package is not installed. The message names the extra that installs it.
    """
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{needed_by} needs {package}, which is not installed: pip install "
            f'"sklearn-dfd[{extra or _EXTRAS[package]}]"'
        ) from error


def resolve_pos_label(
    pos_label: object, classes: Any, call: str, *, name: str = "pos_label"
) -> Label:
    """Return the positive class, by the rule that scikit-learn follows.

    If the labels are 0 and 1, -1 and 1, or False and True, the positive one is 1 or True. Any other
    labels do not say which of them is meant, so it must be named.

    Parameters
    ----------
    pos_label : label or None
        What the caller was given.
    classes : array-like of shape (n_classes,)
        The labels that occur, sorted.
    call : str
        How to name the class in a call, for the message, with ``{}`` in place of the argument:
        ``"detect(estimator, X, {})"``.
    name : str, default="pos_label"
        Name of the parameter.

    Returns
    -------
    pos_label : bool, int, float or str
        The class, as a plain Python value.

    Raises
    ------
    ValueError
        If ``pos_label`` is not one of the classes, or is None where the labels leave open which
        class is meant.
    """
    labels = np.asarray(classes).tolist()
    if pos_label is None:
        if len(labels) <= 2 and all(_is_number(label) for label in labels):
            for usual in ({0, 1}, {-1, 1}):
                if usual.issuperset(labels):
                    # True where the labels are booleans, and also where the only one is the other
                    return next((label for label in labels if label == 1), 1)
        example = call.format(f"{name}={labels[0]!r}")
        raise ValueError(
            f"{name} must be given for the classes {labels}: their names do not say which of them "
            f"is to be detected. Write, for example, {example}"
        )
    for label in labels:
        if label == pos_label:
            return label
    shown = np.asarray(pos_label).tolist()
    raise ValueError(f"{name}={shown!r} is not one of the classes {labels}.")


def _is_number(label: object) -> bool:
    return isinstance(label, bool | int | float)


def check_same_two_classes(y: npt.NDArray[Any], classes: Any, *, name: str = "y") -> list[Label]:
    """Check that labels are of the two classes of a detector, and that both occur.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        The labels.
    classes : array-like of shape (n_classes,)
        ``classes_`` of the detector.
    name : str, default="y"
        Name of the labels in the message.

    Returns
    -------
    classes : list of two labels
        As plain Python values.

    Raises
    ------
    ValueError
        If the detector has more than two classes, or ``y`` holds other labels, or only one.
    """
    known: list[Label] = np.asarray(classes).tolist()
    found = set(y.tolist())
    if len(known) != 2:
        raise ValueError(f"Two classes are needed, and the detector was fitted on {known}.")
    if found != set(known):
        raise ValueError(
            f"{name} holds the labels {sorted(found, key=str)} and the detector knows the classes "
            f"{known}: both must be the same two."
        )
    return known
