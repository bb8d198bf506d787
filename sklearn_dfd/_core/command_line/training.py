"""Train a detector, measure it on photographs of other groups, and save it."""

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Any
from uuid import uuid4

import click
import joblib
import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd._core.command_line.classes import class_to_detect
from sklearn_dfd._core.command_line.folders import Labelled, read_labelled, shortcuts_of
from sklearn_dfd._core.command_line.rows import refuse_to_overwrite
from sklearn_dfd._core.group_answers import Judged
from sklearn_dfd._core.groups import too_few_groups
from sklearn_dfd._core.messages import on_one_line
from sklearn_dfd._core.runtime.devices import resolve_device
from sklearn_dfd._core.validation import Label, import_extra
from sklearn_dfd.augmented_classifier import AugmentedClassifier
from sklearn_dfd.export import make_model_card, to_onnx
from sklearn_dfd.metrics import bootstrap_interval, choose_unsure_band
from sklearn_dfd.model_selection import ShortcutReport
from sklearn_dfd.weights import load_weights

_SEED = 0
_MAX_ERROR = 0.05  # of the answers outside of the band that is suggested
_PRESETS: dict[str, Any] = {"fast": "fast", "accurate": "accurate", "method": None}


def train_detector(
    folder: str,
    class_names: tuple[str, str] | None,
    group_pattern: str | None,
    output: str,
    preset: str,
    weights: str,
    pos_label: str | None,
    folds: int,
    calibrate: bool,
    card: str | None,
    memory: str | None,
    device: str,
    overwrite: bool,
) -> None:
    """Do all that `sklearn-dfd train` does."""
    # everything that can be known to fail is tried before hours are spent
    refuse_to_overwrite(output, overwrite)
    refuse_to_overwrite(card, overwrite)
    write = _writer(output, calibrate)
    if card is not None:
        import_extra("skops.card", "--card")
    resolve_device(device)
    load_weights(weights)
    detector = make_deepfake_pipeline(
        preset=_PRESETS[preset],
        weights=weights,
        device=device,
        memory=memory,
        random_state=_SEED,
    )
    with _replacing(card) as unfinished_card:
        with _replacing(output) as unfinished:
            photographs = read_labelled(folder, class_names, group_pattern)
            if class_names is not None and pos_label is None:
                pos_label = class_names[-1]
            positive = class_to_detect(pos_label, photographs.classes)
            splits = _splits(photographs, folds)
            report = shortcuts_of(photographs)
            fitted, probability = _measured_and_fitted(detector, photographs, splits, calibrate)
            write(fitted, unfinished)
        # the detector stays, whatever fails from here on
        scores = _scores(photographs, probability, positive)
        _say(photographs, report, scores, folds, output)
        click.echo(_band(photographs, probability, positive))
        if card is not None:
            make_model_card(
                fitted,
                photographs.labels,
                probability,
                data=f"{len(photographs.labels)} photographs in {folds} folds by source.",
                pos_label=positive,
                groups=photographs.groups,
                shortcuts=report if isinstance(report, ShortcutReport) else None,
                random_state=_SEED,
            ).save(unfinished_card)


def _writer(output: str, calibrated: bool) -> Callable[[Any, str], object]:
    """Return what writes a file with this ending; raise an error if nothing can."""
    ending = Path(output).suffix.lower()
    if ending == ".joblib":
        return joblib.dump
    if ending == ".skops":
        write: Callable[[Any, str], object] = import_extra("skops.io", "a skops file").dump
        return write
    if ending != ".onnx":
        raise click.UsageError(
            f"--output {click.format_filename(output)}: the name must end in .joblib, .skops or "
            ".onnx."
        )
    import_extra("onnx", "an ONNX file")
    if calibrated:
        raise click.UsageError(
            "An ONNX file cannot hold a calibrated detector: add --no-calibrate, or write a "
            ".joblib or .skops file."
        )
    return to_onnx


@contextmanager
def _replacing(path: str | None) -> Iterator[str]:
    """Give a file another name, until it is complete and takes its place."""
    if path is None:
        yield ""
        return
    folder, name = os.path.split(path)
    unfinished = os.path.join(folder, f".unfinished-{uuid4().hex}-{name}")
    # now, so that an error about a missing or read-only folder comes at once
    open(unfinished, "xb").close()
    try:
        yield unfinished
    except BaseException:
        os.unlink(unfinished)
        raise
    os.replace(unfinished, path)


_Splits = list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]


def _splits(photographs: Labelled, folds: int) -> _Splits:
    """Return the rows to train on and to test on of each fold, all of them with both classes."""
    labels, groups = photographs.labels, photographs.groups
    if len(photographs.classes) != 2:
        raise click.UsageError(
            f"A detector tells two classes apart, and there are {len(photographs.classes)}: name "
            "two of them with --class-names."
        )
    few = too_few_groups(labels, groups, folds, "photographs", named=False)
    if few:
        raise click.UsageError(f"{few} Use fewer --folds, or photographs of more sources.")
    cv = StratifiedGroupKFold(folds, shuffle=True, random_state=_SEED)
    splits = list(cv.split(labels, labels.astype(str), groups))
    if any(len(set(labels[train])) < 2 for train, _ in splits):
        raise click.UsageError(
            "The groups are so large that a fold holds all photographs of a class: use fewer "
            "--folds, or photographs of more sources."
        )
    return splits


def _measured_and_fitted(
    detector: Any, photographs: Labelled, splits: _Splits, calibrate: bool
) -> tuple[Any, npt.NDArray[np.float64]]:
    """Fit one detector per fold and one on all; return the latter, and the folds' predictions."""
    paths, labels = photographs.paths, photographs.labels.astype(str)
    scores = np.empty(len(labels))
    everything = np.arange(len(labels))
    augmented = isinstance(detector, AugmentedClassifier)
    features = "estimator__features" if augmented else "features"
    fits = [*splits, (everything, everything[:0])]
    for fold, (train, test) in enumerate(tqdm(fits, desc="training", unit="fit")):
        fitted = clone(detector)
        if fold == 0:  # the other fits need the same features
            fitted.set_params(**{f"{features}__verbose": 1})
        fitted.fit(paths[train], labels[train])
        if len(test):
            scores[test] = _score(fitted, paths[test], calibrate)
    fitted.set_params(**{f"{features}__memory": None})  # that folder stays here
    if augmented:
        fitted.estimator_.set_params(features__memory=None)
    if not calibrate:
        return fitted, np.stack([1 - scores, scores], axis=1)
    probability = np.empty((len(labels), 2))
    for train, test in splits:
        probability[test] = _calibrated(scores, labels, train).predict_proba(test)
    calibrated = _calibrated(scores, labels, everything)
    calibrated.set_params(estimator=FrozenEstimator(fitted), cv=None)
    calibrated.calibrated_classifiers_[0].estimator = calibrated.estimator
    return calibrated, probability


def _score(detector: Any, paths: Any, calibrate: bool) -> npt.NDArray[np.float64]:
    """Return the scores that scikit-learn would calibrate, or the probabilities."""
    if calibrate and hasattr(detector, "decision_function"):
        return np.asarray(detector.decision_function(paths), dtype=np.float64)
    return np.asarray(detector.predict_proba(paths)[:, 1], dtype=np.float64)


def _calibrated(
    scores: npt.NDArray[np.float64], labels: Any, rows: npt.NDArray[np.intp]
) -> CalibratedClassifierCV:
    """Calibrate with the scores of some rows, which stand in for a detector's output on images."""
    classes = np.unique(labels)
    known = Judged(
        np.stack([-scores, scores], axis=1), classes, lambda: classes[(scores > 0).astype(int)]
    )
    every = np.arange(len(rows))
    calibrated = CalibratedClassifierCV(
        FrozenEstimator(known), method="sigmoid", cv=[(every, every)]
    )
    return calibrated.fit(rows, labels[rows])


_Interval = tuple[float, float, float]


def _scores(
    photographs: Labelled, probability: npt.NDArray[np.float64], positive: Label
) -> tuple[_Interval, _Interval]:
    """Return ROC AUC and accuracy, each with the ends of its interval."""
    column = _column(photographs, positive)
    truth = photographs.labels == positive
    # the more probable class is called, the first of two equals
    called = probability.argmax(axis=1) == column
    found = []
    for metric, given in ((roc_auc_score, probability[:, column]), (accuracy_score, called)):
        low, high = bootstrap_interval(
            metric, truth, given, groups=photographs.groups, random_state=_SEED
        )
        found.append((float(metric(truth, given)), low, high))
    return found[0], found[1]


def _column(photographs: Labelled, positive: Label) -> int:
    return sorted(photographs.classes).index(str(positive))


def _band(photographs: Labelled, probability: npt.NDArray[np.float64], positive: Label) -> str:
    """Say between which probabilities `detect` should not answer."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an end of the band that is infinite says the same
            (low, high), answered = choose_unsure_band(
                photographs.labels.astype(str),
                probability[:, _column(photographs, positive)],
                max_error=_MAX_ERROR,
                pos_label=str(positive),
                groups=photographs.groups,
            )
    except ValueError:
        return (
            "No band for detect --unsure is suggested: there are too few photographs, or too many "
            "errors."
        )
    # rounded so that the band becomes wider
    low, high = (round_(end * 1000) / 1000 for round_, end in ((np.floor, low), (np.ceil, high)))
    name = quote(str(positive))
    return (
        f"With detect --pos-label {name} --unsure {low:g} {high:g}, {answered:.0%} of such "
        f"photographs get an answer, and at most {_MAX_ERROR:.0%} of either answer are wrong (with "
        "a confidence of 95 %)."
    )


def _say(
    photographs: Labelled,
    report: ShortcutReport | str,
    scores: tuple[_Interval, _Interval],
    folds: int,
    output: str,
) -> None:
    counts = Counter(photographs.labels.tolist())
    n, n_groups = len(photographs.labels), len(np.unique(photographs.groups))
    classes = ", ".join(f"{counts[name]:,} {on_one_line(name)}" for name in photographs.classes)
    click.echo(
        f"{n:,} photographs ({classes}) in {n_groups:,} groups; files that could not be read: "
        f"{photographs.n_unreadable:,}."
    )
    if isinstance(report, str):
        click.echo(f"Headers and metadata were not checked: {report}.")
    elif report.excludes_chance:
        low, high = report.interval
        click.echo(
            "Headers and metadata alone reveal the labels: their ROC AUC is "
            f"{report.roc_auc:.2f} ({low:.2f} to {high:.2f}), and the scores below may be partly "
            "due to that. sklearn-dfd check shows which attributes do it."
        )
    click.echo(
        f"{click.format_filename(output)} is trained on all of them. These are the scores of "
        "detectors that were trained in the same way, each tested on photographs of groups that it "
        f"had not seen, in {folds} folds (95 % intervals):"
    )
    most, count = counts.most_common(1)[0]
    auc, accuracy = scores
    click.echo(f"ROC AUC  {_beside(auc, 0.5, 'guessing')}")
    click.echo(f"accuracy {_beside(accuracy, count / n, f'always saying {most!r}')}")


def _beside(score: _Interval, baseline: float, name: str) -> str:
    """Put a score next to one that takes no detector, and say if it may be no better."""
    value, low, high = score
    no_better = ", so this may be no better" if baseline >= low else ""
    return f"{value:.2f} ({low:.2f} to {high:.2f}); {name} reaches {baseline:.2f}{no_better}."
