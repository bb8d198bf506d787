"""Say what is in a folder of photographs, and what would make a score too good to be true."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedKFold

from sklearn_dfd._core.command_line.folders import Labelled, read_labelled, shortcuts_of
from sklearn_dfd._core.images.folders import entries_of, files_below
from sklearn_dfd._core.messages import on_one_line
from sklearn_dfd.exceptions import ImageError
from sklearn_dfd.model_selection import find_source_groups

_UNREADABLE = 3
_FOLDS = 5
_SEEN = "as far as thumbnails show"


def check_folder(folder: str, class_names: Sequence[str] | None, group_pattern: str | None) -> int:
    """Print what is in a folder, and return the exit code."""
    if class_names is None and not any(map(os.path.isdir, entries_of(Path(folder)))):
        n_unreadable = _check_unlabelled(folder)
    else:
        photographs = read_labelled(folder, class_names, group_pattern)
        n_unreadable = photographs.n_unreadable
        _check_labelled(folder, photographs)
    return _UNREADABLE if n_unreadable else 0


def _check_unlabelled(folder: str) -> int:
    """Check photographs without labels, and return how many files cannot be read."""
    files = [str(file) for file in files_below(Path(folder), set())]
    if not files:
        raise ValueError(f"{folder!r} is empty.")
    failures: list[tuple[int, str, str]] = []
    try:
        sources = find_source_groups(files, n_jobs=-1, verbose=sys.stderr.isatty())
    except ImageError as error:
        failures = error.failures
        click.echo(f"{len(failures)} of {len(files)} files cannot be used as images:")
        for _, name, reason in failures:
            click.echo(f"  {name}: {reason}")
        click.echo()
        faulty = {row for row, _, _ in failures}
        usable = [file for row, file in enumerate(files) if row not in faulty]
        sources = find_source_groups(usable, n_jobs=-1) if usable else np.zeros(0, dtype=int)
    n_usable = len(files) - len(failures)
    _say_groups(sources)
    click.echo(
        "There are no subfolders, and so no labels: what a split would leak, and whether headers "
        "reveal the labels, was not checked."
    )
    click.echo(
        f"\nIn short: {n_usable:,} photographs from {_n_groups(sources):,} sources, {_SEEN}; files "
        f"that cannot be read: {len(failures):,}."
    )
    return len(failures)


def _check_labelled(folder: str, photographs: Labelled) -> None:
    labels, sources = photographs.labels, photographs.sources
    counts = Counter(labels.tolist())
    n = len(labels)
    click.echo(f"{on_one_line(folder)}: {n:,} photographs that can be read")
    for name in photographs.classes:
        click.echo(f"  {counts[name]:>7,}  {on_one_line(name)}")
    click.echo()
    _say_groups(sources, labels)
    n_groups = _n_groups(photographs.groups)
    if n_groups < _n_groups(sources):
        click.echo(f"With those that share a subfolder or a key, they form {n_groups:,} groups.")
    leaked = _leaked(labels, photographs.groups)
    if leaked is None:
        split = "What a plain split leaks was not checked, since a class has too few photographs"
    else:
        split = (
            f"In a plain split into {_FOLDS} folds {leaked:,} of {n:,} photographs "
            f"({leaked / n:.1%}) are tested by detectors that were trained on others of their group"
        )
    click.echo(f"{split}.")
    report = shortcuts_of(photographs)
    if isinstance(report, str):
        headers = "headers and metadata were not checked"
        click.echo(f"\nHeaders and metadata were not checked: {report}.")
    else:
        click.echo(f"\n{report}")
        low, high = report.interval
        verdict = "reveal" if report.excludes_chance else "are not shown to reveal"
        headers = (
            f"headers and metadata {verdict} the labels (ROC AUC {report.roc_auc:.2f}, 95 % "
            f"interval {low:.2f} to {high:.2f})"
        )
    click.echo(
        f"\nIn short: {n:,} photographs in {n_groups:,} groups, {_SEEN}; "
        f"{headers}; files that cannot be read: {photographs.n_unreadable:,}."
    )


def _n_groups(groups: npt.NDArray[np.int64]) -> int:
    return len(np.unique(groups))


def _say_groups(
    sources: npt.NDArray[np.int64], labels: npt.NDArray[np.object_] | None = None
) -> None:
    sizes = np.bincount(sources) if len(sources) else np.zeros(0, dtype=int)
    text = f"They come from {len(sizes):,} sources, {_SEEN}"
    if (several := sizes[sizes > 1]).size:
        text += (
            f". Sources with more than one photograph: {len(several):,}, the largest with "
            f"{several.max():,}"
        )
        if labels is not None:
            in_pairs = set(zip(sources.tolist(), labels.tolist(), strict=True))
            mixed = Counter(source for source, _ in in_pairs)
            text += f"; with photographs in two classes: {sum(n > 1 for n in mixed.values()):,}"
    click.echo(f"{text}.")


def _leaked(labels: npt.NDArray[np.object_], groups: npt.NDArray[np.int64]) -> int | None:
    """Count photographs that a plain split tests while others of their group are trained on."""
    if min(Counter(labels.tolist()).values()) < _FOLDS:
        return None
    cv = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    folds = cv.split(np.zeros(len(labels)), labels.astype(str))
    return int(sum(np.isin(groups[test], groups[train]).sum() for train, test in folds))
