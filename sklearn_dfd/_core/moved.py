"""Addresses of release 0.1.0: names that have moved since can still be imported from there."""

import importlib
import sys
import warnings
from types import ModuleType
from typing import Any

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
    for address in _ADDRESSES:
        package, _, name = address.rpartition(".")
        module = sys.modules.setdefault(address, _OldModule(address))
        setattr(sys.modules[package], name, module)  # as an import would


class _OldModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        addresses = _ADDRESSES[self.__name__]
        if name not in addresses:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        warnings.warn(
            f"{self.__name__}.{name} is at {addresses[name]}.{name} now.",
            FutureWarning,
            stacklevel=2,
        )
        return getattr(importlib.import_module(addresses[name]), name)
