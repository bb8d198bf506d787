"""Classes as they are named on a command line."""

from collections.abc import Sequence
from shlex import quote

import click

from sklearn_dfd._core.validation import Label, resolve_pos_label


def class_called(name: str, classes: Sequence[Label], option: str) -> Label:
    """Return the class that an option names, of whatever type it is."""
    by_name = {str(label): label for label in classes}
    if name not in by_name:
        raise click.UsageError(f"{option} {name}: the classes are {_listed(classes)}.")
    return by_name[name]


def class_to_detect(name: str | None, classes: Sequence[Label]) -> Label:
    """Return the class that is to be detected, named or by default."""
    if name is not None:
        return class_called(name, classes, "--pos-label")
    if "fake" in classes:
        return "fake"
    try:
        return resolve_pos_label(None, classes, "{}")
    except ValueError:
        raise click.UsageError(
            f"Which class is to be detected? The classes are {_listed(classes)}: name one of "
            f"them, as in --pos-label {quote(str(classes[0]))}."
        ) from None


def _listed(classes: Sequence[Label]) -> str:
    return ", ".join(map(str, classes))
