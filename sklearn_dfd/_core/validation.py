"""Checks that several rooms make, and what they say."""

import importlib
from types import ModuleType

# which extra of this package brings what
_EXTRAS = {
    "captum": "explain",
    "executorch": "executorch",
    "matplotlib": "plot",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "pandas": "table",
    "skops": "skops",
}


def import_extra(module: str, needed_by: str) -> ModuleType:
    """Import a module of a package that is installed on request only.

    Parameters
    ----------
    module : str
        Such as ``"matplotlib.pyplot"``.
    needed_by : str
        The function, class or parameter that needs it, for the message.

    Returns
    -------
    module : module

    Raises
    ------
    ImportError
        If it is not installed; names the extra that brings it.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{needed_by} needs {package}, which is not installed: pip install "
            f'"sklearn-dfd[{_EXTRAS[package]}]"'
        ) from error
