"""Text for messages: printable, and on one line; and warnings at the user's own line."""

import sys
import warnings
from types import FrameType

# whose frames may lie between a user's call and a warning of this package
_IN_BETWEEN = frozenset(
    {"concurrent", "contextlib", "copy", "imblearn", "joblib", "pickle", "sklearn", "sklearn_dfd"}
    | {"skops", "skorch", "threading", "torch"}
)


def on_one_line(text: str) -> str:
    """Escape what cannot be printed or encoded, such as control characters and lone surrogates."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def brief(error: Exception) -> str:
    """Return the type and the text of an exception on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}".removesuffix(": ")


def warn_user(message: str, category: type[UserWarning] = UserWarning) -> None:
    """Warn at the line of the user's code that led here, however deep in a pipeline that was."""
    level = 1
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _package_of(frame) in _IN_BETWEEN:
        level, frame = level + 1, frame.f_back
    # in a thread of this package there is no such line
    warnings.warn(message, category, stacklevel=level + 1 if frame is not None else 2)


def _package_of(frame: FrameType) -> str:
    return frame.f_globals.get("__name__", "").partition(".")[0]
