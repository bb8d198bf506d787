"""Rows of results, written in chunks: as lines for people, as CSV, and as JSON."""

import csv
import io
import json
import os
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import IO, Any, TypeAlias

import click

from sklearn_dfd._core.command_line.paths import is_film
from sklearn_dfd._core.messages import on_one_line

#: The columns of `sklearn_dfd.detect`, and ``n_judged`` and ``n_not_judged``; None where there is
#: no label or probability.
Row: TypeAlias = dict[str, Any]


class Rows:
    """Writes rows, all of a chunk at once, so that an interrupted run leaves whole rows.

    Parameters
    ----------
    columns : sequence of str
        The keys of each row, in order.
    csv_file : str or None
        The CSV file, or ``-`` for CSV on standard output.
    as_json : bool
        Whether to print a JSON object per line.
    overwrite : bool
        Whether the CSV file may exist.

    Attributes
    ----------
    n_written : int
        Number of rows that were written.
    """

    def __init__(
        self, columns: Sequence[str], csv_file: str | None, as_json: bool, overwrite: bool
    ) -> None:
        self.n_written = 0
        self._columns = columns
        self._width = 0
        self._format = self._lines
        self._file: IO[str] = sys.stdout
        # a file name has its own bytes, whatever they are; no other text has a lone surrogate
        errors = sys.getfilesystemencodeerrors()
        if csv_file is None:
            _reconfigure(sys.stdout, errors="backslashreplace")
            if as_json:
                self._format = self._json
            return
        self._format = self._csv
        if csv_file == "-":
            _reconfigure(sys.stdout, encoding="utf-8", errors=errors, newline="")
        else:
            self._file = open(
                csv_file, "w" if overwrite else "x", encoding="utf-8", errors=errors, newline=""
            )
        self._put(_as_csv([columns]))

    def write(self, rows: Sequence[Row]) -> None:
        """Write the rows of a chunk."""
        self._put(self._format(rows))
        self.n_written += len(rows)

    def close(self) -> None:
        """Close the file, if it is not standard output."""
        if self._file is not sys.stdout:
            self._file.close()

    def _put(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()

    def _csv(self, rows: Sequence[Row]) -> str:
        return _as_csv([[row[name] for name in self._columns] for row in rows])

    def _json(self, rows: Sequence[Row]) -> str:
        # in ASCII: what is not UTF-8 in a name is an escaped surrogate
        return "".join(json.dumps(row) + "\n" for row in rows)

    def _lines(self, rows: Sequence[Row]) -> str:
        """Write for people: what it is called, how probable that is, and the path."""
        probability = [name for name in self._columns if name.startswith("probability_")]
        said = [row["reading"] if not row["error"] else "not judged" for row in rows]
        head = "reading" if not self._width else ""
        self._width = max(self._width, *map(len, said), len(head))
        lines = []
        if head:
            names = (f"P({name.removeprefix('probability_')})" for name in probability)
            lines.append("  ".join([f"{head:{self._width}}", *names, "path"]))
        for text, row in zip(said, rows, strict=True):
            numbers = [
                f"{'' if row[name] is None else format(row[name], '.3f'):>{len(name) - 9}}"
                for name in probability
            ]
            path = on_one_line(row["path"]) + _remark(row)
            lines.append("  ".join([f"{text:{self._width}}", *numbers, path]))
        return "".join(line + "\n" for line in lines)


def _remark(row: Row) -> str:
    """Say what is wrong with a photograph or a film, or how many frames of a film were judged."""
    if row["error"]:
        return f": {row['error']}"
    n_frames = row["n_judged"] + row["n_not_judged"]
    if not is_film(row["path"]):
        return ""
    judged = f"{row['n_judged']} of " if row["n_not_judged"] else ""
    return f" ({judged}{n_frames} frame{'s' if n_frames != 1 else ''})"


def _as_csv(rows: Sequence[Sequence[Any]]) -> str:
    lines: list[str] = []
    # with its usual end of line, whose two characters it quotes: names may hold either
    csv.writer(SimpleNamespace(write=lines.append)).writerows(rows)
    return "".join(line.removesuffix("\r\n") + "\n" for line in lines)


def _reconfigure(file: Any, **options: Any) -> None:
    if isinstance(file, io.TextIOWrapper):
        file.reconfigure(**options)


def refuse_to_overwrite(path: str | None, overwrite: bool) -> None:
    """Raise a usage error where a file would be replaced."""
    if path not in (None, "-") and not overwrite and os.path.lexists(str(path)):
        raise click.UsageError(
            f"{click.format_filename(str(path))} exists: name another file, or pass --overwrite to "
            "replace it."
        )
