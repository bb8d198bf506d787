"""What estimators are saved as: plain values with a format number; and files of older releases.

Pickle, joblib and skops save the same state. The audit of skops sees all of it, so it must not
contain opaque objects.
"""

import os
import sys
from typing import Any

from sklearn_dfd._core.version import __version__

# format 1 is that of release 0.1.0, whose files contain no number
FORMAT = 2


def saved_state(state: dict[str, Any]) -> dict[str, Any]:
    """Turn the attributes of an estimator into the contents of a file.

    Parameters
    ----------
    state : dict
        The attributes by name, which are not changed.

    Returns
    -------
    state : dict
        The attributes, with names instead of devices and strings instead of path objects, whose
        classes differ between systems, and with the number of the format.
    """
    state = {name: _plain(value) for name, value in state.items()}
    return {**state, "_format": FORMAT, "_release": __version__}


def restored_state(estimator: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Turn the contents of a file into the attributes of an estimator of this release.

    Parameters
    ----------
    estimator : object
        The estimator. For each parameter that was added after release 0.1.0, its
        ``_parameters_of_older_files`` has the value that corresponds to what was done before the
        parameter existed, which need not be its default.
    state : dict
        What :func:`saved_state` returned, in this release or an earlier one. It is not changed.

    Returns
    -------
    state : dict
        The attributes by name.

    Raises
    ------
    ValueError
        If the file was saved by a later release, in a format that is unknown to this one.
    """
    state = dict(state)
    number, release = state.pop("_format", 1), state.pop("_release", "0.1.0")
    if number > FORMAT:
        raise ValueError(
            f"This {type(estimator).__name__} was saved by sklearn-dfd {release} in format "
            f"{number}, and sklearn-dfd {__version__}, which is installed here, knows formats up "
            f"to {FORMAT}: pip install 'sklearn-dfd>={release}'."
        )
    return {**estimator._parameters_of_older_files, **state}


def _plain(value: Any) -> Any:
    torch = sys.modules.get("torch")  # if it is not imported, no value is one of its devices
    if torch is not None and isinstance(value, torch.device):
        return str(value)
    if isinstance(value, list):  # of devices
        return [_plain(part) for part in value]
    return os.fsdecode(value) if isinstance(value, os.PathLike) else value
