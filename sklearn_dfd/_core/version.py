"""The version of this package, which saved detectors carry."""

__version__ = "0.2.0.dev0"
