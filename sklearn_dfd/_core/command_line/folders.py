"""A folder of labelled photographs as `check` and `train` see it."""

import re
import sys
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import click
import numpy as np
import numpy.typing as npt

from sklearn_dfd._core.groups import too_few_groups
from sklearn_dfd.datasets import load_image_folder
from sklearn_dfd.datasets._folders import number_groups
from sklearn_dfd.exceptions import ImageError
from sklearn_dfd.model_selection import ShortcutReport, check_shortcuts, find_source_groups

_LEFT_OUT = re.compile(r"(\d+) of \d+ files ")  # how the loader's own warning begins


class Labelled(NamedTuple):
    """The photographs of a folder that can be read.

    Parameters
    ----------
    paths : ndarray of str
    labels : ndarray of str
        The name of each photograph's class.
    classes : list of str
        In the order in which they were named, or else sorted.
    groups : ndarray of int
        Photographs of one source, of one subfolder or of one key share a group.
    sources : ndarray of int
        Photographs that show the same source share a number.
    n_unreadable : int
    """

    paths: npt.NDArray[np.object_]
    labels: npt.NDArray[np.object_]
    classes: list[str]
    groups: npt.NDArray[np.int64]
    sources: npt.NDArray[np.int64]
    n_unreadable: int


def read_labelled(
    folder: str, class_names: Sequence[str] | None, group_pattern: str | None
) -> Labelled:
    """Read a folder with one subfolder per class, and name the files that cannot be used."""
    names = None if class_names is None else list(class_names)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            faces = load_image_folder(
                folder, class_names=names, group_pattern=group_pattern, on_error="warn"
            )
        except ImageError as error:
            raise ImageError(
                error.failures,
                error.n_images,
                hint="Each class needs photographs that can be read.",
                n_shown=None,
            ) from None
    n_unreadable = 0
    for warning in caught:
        click.echo(f"{warning.message}\n")
        if left_out := _LEFT_OUT.match(str(warning.message)):
            n_unreadable += int(left_out[1])
    sources = find_source_groups(faces.data, n_jobs=-1, verbose=sys.stderr.isatty())
    both = zip(faces.groups.tolist(), sources.tolist(), strict=True)
    return Labelled(
        faces.data,
        faces.target_names[faces.target],
        faces.target_names.tolist(),
        number_groups([[("known", a), ("found", b)] for a, b in both]),
        sources,
        n_unreadable,
    )


def shortcuts_of(photographs: Labelled) -> ShortcutReport | str:
    """Return what headers and metadata say about the labels, or why that is not known."""
    if len(photographs.classes) != 2:
        return f"the files of two classes are compared, and there are {len(photographs.classes)}"
    few = too_few_groups(photographs.labels, photographs.groups, 5, "photographs", named=False)
    if few:
        return few.rstrip(".")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the report says the same
        return check_shortcuts(photographs.paths, photographs.labels, groups=photographs.groups)
