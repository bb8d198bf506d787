"""The axes that displays are drawn on: those that the caller gave, or a new grid."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sklearn_dfd._core.validation import import_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colours that remain distinct with any colour vision deficiency (Okabe and Ito, 2008).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def axes_for(
    ax: "Axes | npt.ArrayLike | None",
    n: int,
    each: str,
    caller: str,
    *,
    n_columns: int,
    size: tuple[float, float],
    extra_height: float = 0.0,
) -> npt.NDArray[Any]:
    """Return the axes to draw on, one for each panel.

    Parameters
    ----------
    ax : matplotlib Axes, array-like of matplotlib Axes or None
        What the caller was given. None makes a new figure.
    n : int
        Number of panels.
    each : str
        What the panels show, for the message.
    caller : str
        The method that needs matplotlib, for the message.
    n_columns : int
        The most panels in one row of a new figure.
    size : (float, float)
        Width and height of a panel of a new figure, in inches.
    extra_height : float, default=0.0
        Height of a new figure in addition to that of its panels, in inches.

    Returns
    -------
    axes : ndarray of object, shape (n,)

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If ``ax`` is not ``n`` matplotlib Axes.
    """
    plt = import_extra("matplotlib.pyplot", caller)
    if ax is None:
        n_columns = min(n, n_columns)
        n_rows = -(-n // n_columns)
        figure = plt.figure(
            figsize=(size[0] * n_columns, size[1] * n_rows + extra_height), layout="constrained"
        )
        given = [figure.add_subplot(n_rows, n_columns, i + 1) for i in range(n)]
    else:
        given = np.atleast_1d(np.asarray(ax, dtype=object)).ravel().tolist()
    axes = np.empty(len(given), dtype=object)
    axes[:] = given
    strange = [type(each).__name__ for each in given if not isinstance(each, plt.Axes)]
    if len(axes) != n or strange:
        got = f"a {strange[0]}" if strange else str(len(axes))
        raise ValueError(f"ax must hold {n} matplotlib Axes, one for {each}; got {got}.")
    return axes


def tidy(axes: "Axes") -> None:
    """Give axes a light grid, and no frame above and on the right."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
