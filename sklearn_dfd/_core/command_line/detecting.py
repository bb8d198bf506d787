"""Judge photographs as they come, in chunks."""

from collections import Counter
from itertools import islice

import click
from tqdm import tqdm

from sklearn_dfd._core.command_line.classes import class_called
from sklearn_dfd._core.command_line.detectors import Detector, load_detector
from sklearn_dfd._core.command_line.paths import listed
from sklearn_dfd._core.command_line.rows import Row, Rows, refuse_to_overwrite

_DETECTED, _UNREADABLE = 1, 3
_CHUNK = 128  # photographs whose features are in memory together


def detect_all(
    detector: str,
    paths: tuple[str, ...],
    csv: str | None,
    json: bool,
    pos_label: str | None,
    threshold: float | None,
    fail_on: str | None,
    null: bool,
    overwrite: bool,
) -> int:
    """Judge photographs, write a row for each, and return the exit code."""
    if csv is not None and json:
        raise click.UsageError("--csv and --json exclude one another.")
    refuse_to_overwrite(csv, overwrite)
    loaded = load_detector(detector, pos_label, threshold)
    alarm = None if fail_on is None else class_called(fail_on, loaded.classes, "--fail-on")
    called: Counter[object] = Counter()
    passed_over: Counter[str] = Counter()
    photographs = listed(paths, null, passed_over)
    output = Rows(loaded.columns, csv, json, overwrite)
    try:
        # where the rows go to the terminal, they show the progress themselves
        with tqdm(unit="image", disable=None if csv not in (None, "-") else True) as bar:
            while chunk := list(islice(photographs, _CHUNK)):
                rows = _judged(loaded, chunk)
                output.write(rows)
                called.update(row["label"] if not row["error"] else None for row in rows)
                bar.update(len(rows))
    except KeyboardInterrupt:
        click.echo(f"{called.total()} rows are written, and complete.", err=True)
        raise
    finally:
        output.close()
    click.echo(_summary(called, passed_over, loaded.note), err=True)
    n_unreadable = called.pop(None, 0)
    if alarm is not None and called[alarm]:
        return _DETECTED
    return _UNREADABLE if n_unreadable else 0


def _judged(detector: Detector, chunk: list[tuple[str, str]]) -> list[Row]:
    """Return the row of each photograph, also of those that are known to be none."""
    usable = [path for path, fault in chunk if not fault]
    judged = iter(detector.rows(usable) if usable else [])
    empty = dict.fromkeys(detector.columns)
    return [
        {**empty, "path": path, "reading": f"not judged: {fault}", "error": fault}
        if fault
        else next(judged)
        for path, fault in chunk
    ]


def _summary(called: Counter[object], passed_over: Counter[str], note: str) -> str:
    parts = [f"{n} called {label}" for label, n in called.most_common() if label is not None]
    if called[None]:
        parts.append(f"{called[None]} could not be read")
    text = f"{called.total()} photographs: {', '.join(parts)}." if parts else "No photographs."
    if passed_over:
        endings = ", ".join(sorted(ending or "no ending" for ending in passed_over)[:5])
        text += f" {passed_over.total()} files in folders are no images by name ({endings})."
    return f"{text} {note}"
