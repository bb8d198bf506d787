"""Addresses of release 0.1.0: names that are documented elsewhere since can still be imported."""

import importlib
import sys
import warnings
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_ADDRESSES = {
    "sklearn_dfd.distortions": {"distort": "sklearn_dfd.robustness"},
    "sklearn_dfd.feature_matrix": {"extract_feature_matrix": "sklearn_dfd.export"},
    "sklearn_dfd.images": {"ImageError": "sklearn_dfd.exceptions"},
    "sklearn_dfd.model_card": {"make_model_card": "sklearn_dfd.export"},
    "sklearn_dfd.net": {"LossError": "sklearn_dfd.exceptions"},
    "sklearn_dfd.source_groups": {"find_copies": "sklearn_dfd.model_selection"},
}


def keep_old_addresses() -> None:
    """Let Python's import find modules of release 0.1.0, with what was documented there."""
    if not any(isinstance(finder, _OldModules) for finder in sys.meta_path):
        sys.meta_path.append(_OldModules())


class _OldModules(MetaPathFinder, Loader):
    def find_spec(self, fullname, path=None, target=None):
        return ModuleSpec(fullname, self) if fullname in _ADDRESSES else None

    def exec_module(self, module: ModuleType) -> None:
        addresses = _ADDRESSES[module.__name__]

        def __getattr__(name):
            if name not in addresses:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            warnings.warn(
                f"{module.__name__}.{name} is at {addresses[name]}.{name} now.",
                FutureWarning,
                stacklevel=2,
            )
            return getattr(importlib.import_module(addresses[name]), name)

        module.__getattr__ = __getattr__  # type: ignore[method-assign]
