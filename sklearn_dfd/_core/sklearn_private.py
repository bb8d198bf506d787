"""All that this package takes from private modules of scikit-learn, in one place."""

import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, TypeVar

from joblib.memory import MemorizedFunc
from sklearn.base import _fit_context
from sklearn.utils import _safe_indexing as safe_indexing
from sklearn.utils._missing import is_pandas_na
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils._param_validation import validate_params as _validate_params
from sklearn.utils.validation import _check_sample_weight as check_sample_weight
from sklearn.utils.validation import _num_samples as num_samples

__all__ = [
    "HasMethods",
    "Interval",
    "StrOptions",
    "check_sample_weight",
    "fit_context",
    "is_pandas_na",
    "kept_by_pipeline",
    "num_samples",
    "safe_indexing",
    "validate_params",
]

_Called = TypeVar("_Called", bound=Callable[..., Any])

# scikit-learn's decorators are not annotated: type checkers would forget what they decorate


def fit_context(*, prefer_skip_nested_validation: bool) -> Callable[[_Called], _Called]:
    """Decorate ``fit``: parameters are checked first, as ``_parameter_constraints`` say."""
    return _fit_context(prefer_skip_nested_validation=prefer_skip_nested_validation)


def validate_params(
    constraints: Mapping[str, Any], *, prefer_skip_nested_validation: bool
) -> Callable[[_Called], _Called]:
    """Decorate a function: its arguments are checked first, as the constraints say."""
    return _validate_params(
        constraints, prefer_skip_nested_validation=prefer_skip_nested_validation
    )


def kept_by_pipeline() -> bool:
    """Whether the fit that runs now is one whose result ``Pipeline(memory=...)`` keeps."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_back is not None:
        if frame.f_globals.get("__name__") == "sklearn.pipeline":
            if isinstance(frame.f_back.f_locals.get("self"), MemorizedFunc):
                return True
        frame = frame.f_back
    return False
