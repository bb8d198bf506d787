"""Judge photographs and films as they come, in chunks."""

from collections import Counter
from collections.abc import Iterable, Iterator

import click
from tqdm import tqdm

from sklearn_dfd._core.command_line.classes import class_called
from sklearn_dfd._core.command_line.detectors import Detector, load_detector
from sklearn_dfd._core.command_line.paths import is_film, listed
from sklearn_dfd._core.command_line.rows import Row, Rows, refuse_to_overwrite
from sklearn_dfd._core.images.film_pool import times_of_frames
from sklearn_dfd._core.images.films import VideoFrame

_DETECTED, _UNREADABLE = 1, 3
_CHUNK = 128  # photographs and frames whose features are in memory together
_UNREAD, _UNSURE = "could not be read", "not sure"

_Found = tuple[str, str]  # a path, and why there is nothing to judge


def detect_all(
    detector: str,
    paths: tuple[str, ...],
    csv: str | None,
    json: bool,
    pos_label: str | None,
    threshold: float | None,
    unsure: tuple[float, float] | None,
    frames_per_video: int,
    fail_on: str | None,
    null: bool,
    overwrite: bool,
) -> int:
    """Judge photographs and films, write a row for each, and return the exit code."""
    if csv is not None and json:
        raise click.UsageError("--csv and --json cannot be combined.")
    if threshold is not None and unsure is not None:
        raise click.UsageError("--threshold and --unsure cannot be combined.")
    if unsure is not None and not unsure[0] <= unsure[1]:
        raise click.UsageError(
            f"--unsure {unsure[0]:g} {unsure[1]:g}: the lower probability comes first."
        )
    refuse_to_overwrite(csv, overwrite)
    loaded = load_detector(detector, pos_label, threshold, unsure)
    alarm = None if fail_on is None else class_called(fail_on, loaded.classes, "--fail-on")
    detected = False
    said: Counter[str] = Counter()
    kinds: Counter[bool] = Counter()  # whether it is a film
    passed_over: Counter[str] = Counter()
    found = listed(paths, null, passed_over)
    output = Rows(loaded.columns, csv, json, overwrite)
    try:
        # where the rows go to the terminal, they show the progress themselves
        with tqdm(unit="file", disable=None if csv not in (None, "-") else True) as bar:
            for chunk in _chunks(found, frames_per_video):
                rows = _judged(loaded, chunk, frames_per_video)
                output.write(rows)
                said.update(map(_outcome, rows))
                kinds.update(is_film(path) for path, _ in chunk)
                detected |= alarm is not None and any(row["label"] == alarm for row in rows)
                bar.update(len(rows))
    except KeyboardInterrupt:
        click.echo(f"{output.n_written} rows were written, all of them complete.", err=True)
        raise
    finally:
        output.close()
    click.echo(_summary(said, kinds, passed_over, loaded), err=True)
    if detected:
        return _DETECTED
    return _UNREADABLE if said[_UNREAD] else 0


def _chunks(found: Iterable[_Found], n_frames: int) -> Iterator[list[_Found]]:
    """Yield what comes next in lists of few images; a film counts as several."""
    chunk: list[_Found] = []
    n_images = 0
    for path, fault in found:
        chunk.append((path, fault))
        n_images += n_frames if is_film(path) else 1
        if n_images >= _CHUNK:
            yield chunk
            chunk, n_images = [], 0
    if chunk:
        yield chunk


def _judged(detector: Detector, chunk: list[_Found], n_frames: int) -> list[Row]:
    """Return the row of each photograph and film, including what is known to be neither."""
    photographs: dict[int, str] = {}
    films: dict[int, list[VideoFrame]] = {}
    rows: dict[int, Row] = {}
    for i, (path, fault) in enumerate(chunk):
        if not fault and not is_film(path):
            photographs[i] = path
            continue
        try:
            times = [] if fault else times_of_frames(path, n_frames, decode=False)
        except (ImportError, OSError, ValueError) as error:
            fault = str(error)
        if fault:
            rows[i] = {
                **dict.fromkeys(detector.columns),
                "path": path,
                "n_judged": 0,
                "n_not_judged": 0,
                "reading": f"not judged: {fault}",
                "error": fault,
            }
        else:
            films[i] = [VideoFrame(path, seconds) for seconds in times]
    if photographs:
        rows |= zip(photographs, detector.of_photographs(list(photographs.values())), strict=True)
    if films:
        rows |= zip(films, detector.of_films(list(films.values())), strict=True)
    return [rows[i] for i in range(len(chunk))]


def _outcome(row: Row) -> str:
    if row["error"]:
        return _UNREAD
    return _UNSURE if row["label"] is None else f"called {row['label']}"


def _summary(
    said: Counter[str], kinds: Counter[bool], passed_over: Counter[str], detector: Detector
) -> str:
    last = [_UNSURE, _UNREAD]
    first = [outcome for outcome, _ in said.most_common() if outcome not in last]
    parts = [f"{said[outcome]} {outcome}" for outcome in first + last if said[outcome]]
    names = ((False, "photograph"), (True, "film"))
    counted = [f"{n} {name}{'s' if n != 1 else ''}" for kind, name in names if (n := kinds[kind])]
    text = f"{' and '.join(counted)}: {', '.join(parts)}." if parts else "No photographs."
    if passed_over:
        endings = ", ".join(sorted(ending or "no ending" for ending in passed_over)[:5])
        text += (
            f" {passed_over.total()} files in folders are neither images nor films by name "
            f"({endings})."
        )
    if kinds[False] or not kinds[True]:
        text += f" {detector.note}"
    return f"{text} {detector.note_on_films}" if kinds[True] else text
