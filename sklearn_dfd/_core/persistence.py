"""What estimators are saved as: plain values under a format number, and files of older releases.

One state serves pickle, joblib and skops. skops' audit sees all of it, so nothing in it may be an
opaque object.
"""

import os
import sys

from sklearn_dfd._core.version import __version__

# 1 is that of release 0.1.0, whose files have no number in them
FORMAT = 2


def saved_state(state):
    """Turn the attributes of an estimator into what a file holds.

    Parameters
    ----------
    state : dict
        Attributes by name; it is not changed.

    Returns
    -------
    state : dict
        With names in place of devices and strings in place of path objects, which are of another
        class on another system, and with the number of the format.
    """
    state = {name: _plain(value) for name, value in state.items()}
    return {**state, "_format": FORMAT, "_release": __version__}


def restored_state(estimator, state):
    """Turn what a file holds into the attributes of an estimator of this release.

    Parameters
    ----------
    estimator : object
        Its ``_parameters_of_older_files`` gives each parameter that came after release 0.1.0 the
        value that stands for what was done before it came, whatever its default is now.
    state : dict
        As :func:`saved_state` gave it, in this release or an earlier one; it is not changed.

    Returns
    -------
    state : dict

    Raises
    ------
    ValueError
        If a later release saved it, in a format that this one does not know.
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


def _plain(value):
    torch = sys.modules.get("torch")  # where nobody has imported it, nothing is one of its devices
    if torch is not None and isinstance(value, torch.device):
        return str(value)
    if isinstance(value, list):  # of devices
        return [_plain(part) for part in value]
    return os.fsdecode(value) if isinstance(value, os.PathLike) else value
