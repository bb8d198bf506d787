"""Values of attributes in words: the one that separates two classes best, or the only one."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from sklearn_dfd._core.shortcuts.headers import NONE, Attribute


def name_of(label: object) -> str:
    """Return the name of a class in a sentence."""
    return label if isinstance(label, str) else f"class {label}"


def telling_value(
    attribute: Attribute,
    columns: Mapping[str, Sequence[str | float]],
    target: npt.NDArray[np.int64],
    names: Sequence[str],
) -> str:
    """Say which value of an attribute separates the classes best, and its share of each.

    Parameters
    ----------
    attribute : Attribute
        The attribute.
    columns : mapping from str to sequence of n_files str or float
        What the headers say.
    target : ndarray of shape (n_files,), dtype int64
        0 or 1.
    names : sequence of two str
        Names of the classes.

    Returns
    -------
    text : str
        Such as "about quality 87: 21 % of fake, 0 % of real".
    """
    best, said = -1.0, ""
    for name in (*attribute.kinds, *attribute.numbers):
        values = np.asarray(columns[name])
        distinct, codes = np.unique(values, return_inverse=True)
        if said and (len(distinct) == 1 or (name in attribute.numbers and attribute.kinds)):
            continue
        counts = np.zeros((2, len(distinct)))
        np.add.at(counts, (target, codes), 1)
        shares = counts / counts.sum(axis=1, keepdims=True)
        if name in attribute.numbers:
            shares = np.cumsum(shares, axis=1)
            weight = np.abs(shares[0] - shares[1])
        else:  # its part of the chi-squared distance: a value that one class lacks tells most
            weight = (shares[0] - shares[1]) ** 2 / (shares[0] + shares[1])
            weight -= 1e-9 * (distinct == NONE)  # of two that tell as much, the one that is there
        at = int(np.argmax(weight))
        if weight[at] > best:
            best = float(weight[at])
            number = name in attribute.numbers
            value = _limit(name, float(distinct[at])) if number else str(distinct[at])
            order = (0, 1) if shares[0, at] > shares[1, at] else (1, 0)
            said = f"{value}: " + ", ".join(
                f"{100 * shares[i, at]:.0f} % of {names[i]}" for i in order
            )
    return said


def only_value(attribute: Attribute, columns: Mapping[str, Sequence[str | float]]) -> str:
    """Return the value that all files have, or nearly all."""
    texts = []
    for name in (*attribute.kinds, *attribute.numbers):
        distinct, counts = np.unique(np.asarray(columns[name]), return_counts=True)
        value = distinct[np.argmax(counts)]
        if name == "time":
            texts.append("unknown" if np.isnan(value) else _time(value))
        else:
            texts.append(f"{value:.4g}" if distinct.dtype.kind == "f" else str(value))
    return " x ".join(texts)


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def _limit(name: str, value: float) -> str:
    """Write "up to" a number, with what it counts."""
    if np.isnan(value):
        return "any"
    if name == "time":
        return f"until {_time(value)}"
    return {
        "width": f"at most {value:.0f} pixels wide",
        "height": f"at most {value:.0f} pixels high",
        "aspect": f"width at most {value:.3g} times the height",
        "density": f"at most {value:.3g} bytes per pixel",
        "n_segments": f"at most {value:.0f} segments",
    }[name]
