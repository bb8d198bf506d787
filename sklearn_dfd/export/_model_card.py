"""The card of a detector: what it was trained on, what it is for, and how far to trust it."""

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.metrics import roc_auc_score
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_is_fitted, column_or_1d
from tqdm.auto import tqdm

from sklearn_dfd._core.group_answers import params_within
from sklearn_dfd._core.groups import check_groups
from sklearn_dfd._core.shortcuts.report import ShortcutReport
from sklearn_dfd._core.sklearn_private import HasMethods, validate_params
from sklearn_dfd._core.validation import (
    Label,
    check_same_two_classes,
    import_extra,
    resolve_pos_label,
)
from sklearn_dfd._core.version import __version__
from sklearn_dfd.metrics import bootstrap_interval, equal_error_rate, tpr_at_fpr

if TYPE_CHECKING:
    from pandas import DataFrame
    from skops.card import Card

__all__ = ["make_model_card"]

_TITLE = "Detector of manipulated photographs"
_INTENDED_USE = (
    "An aid to a person who judges whether a face photograph was manipulated, who sees the "
    "photograph, and who may overrule the detector. Its output is not proof, and no decision about "
    "a person may rest on it alone."
)
_LIMITS = (
    "The detector knows the kinds of manipulation, cameras and faces of its training photographs. "
    "For others, and for photographs that were compressed, scaled or edited since, the scores "
    "below say nothing beyond what is measured there. A probability holds for the mixture of "
    "classes in the training data: where manipulations are rare, most alarms are false."
)
_MAX_FPR = 0.01
_ROC_AUC = "ROC AUC (0.5 is guessing)"
_EER = "Equal error rate (0.5 is guessing)"
_LEVEL = 0.95
_N_RESAMPLES = 1000
_TAGS = ("sklearn-dfd", "deepfake-detection", "image-forensics")
_PACKAGES = ("scikit-learn", "torch", "skorch", "numpy", "pillow")
# parameters that may hold a path, which others should not see
_MAY_BE_PATHS = {"weights": ("imagenet",), "memory": ()}


@validate_params(
    {
        "estimator": [HasMethods("predict_proba")],
        "y_true": ["array-like"],
        "y_proba": ["array-like"],
        "data": [str],
        "pos_label": [Real, str, "boolean", None],
        "groups": ["array-like", None],
        "robustness": [HasMethods("to_dict"), None],
        "shortcuts": [ShortcutReport, None],
        "intended_use": [str],
        "limits": [str],
        "license": [str, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    },
    prefer_skip_nested_validation=True,
)
def make_model_card(
    estimator: BaseEstimator,
    y_true: npt.ArrayLike,
    y_proba: npt.ArrayLike,
    *,
    data: str,
    pos_label: Label | None = None,
    groups: npt.ArrayLike | None = None,
    robustness: "DataFrame | None" = None,
    shortcuts: ShortcutReport | None = None,
    intended_use: str = _INTENDED_USE,
    limits: str = _LIMITS,
    license: str | None = None,
    random_state: int | np.random.RandomState | None = None,
    verbose: int = 0,
) -> "Card":
    """Make a model card: data, scores with intervals, robustness, intended use and limits.

    Parameters
    ----------
    estimator : classifier
        The fitted detector: a pipeline of :func:`~sklearn_dfd.make_deepfake_pipeline`, or a
        search, a calibration or another meta-estimator of one.

    y_true : array-like of shape (n_test,)
        Labels, of both classes, of photographs that the detector was neither trained nor tuned
        on: a test set, or the test folds of a cross-validation.

    y_proba : array-like of shape (n_test, 2)
        What ``predict_proba`` returned for these photographs: both columns, so that the wrong one
        cannot be passed.

    data : str
        What the photographs are, where they come from, and under which licence.

    pos_label : int, float, bool or str, default=None
        The class to detect. None means 1 or True if the labels are 0 and 1, -1 and 1, or booleans,
        as in scikit-learn. With any other labels it must be given.

    groups : array-like of shape (n_test,), default=None
        The group of each photograph. The intervals resample whole groups.

    robustness : DataFrame, default=None
        The result of :func:`~sklearn_dfd.robustness.evaluate_robustness`.

    shortcuts : ShortcutReport, default=None
        The result of :func:`~sklearn_dfd.model_selection.check_shortcuts` for the photographs that
        the detector was trained and tested on, or for the test photographs.

    intended_use, limits : str
        The paragraphs of these names. The defaults hold for any detector of this package; yours
        should be more specific.

    license : str, default=None
        Identifier of the licence of the detector, such as ``"bsd-3-clause"``, for the metadata
        header.

    random_state : int, RandomState instance or None, default=None
        Seed of the resampling for the intervals.

    verbose : int, default=0
        Whether to show a progress bar of the intervals.

    Returns
    -------
    card : skops.card.Card
        ``card.save(path)`` writes it as Markdown, and ``card.add`` adds to it. The text begins
        with the metadata header that model hubs read. No local path is in it: parameters that
        hold one, such as ``memory``, are shown as "a local path".

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    ValueError
        If ``y_true`` does not hold the two classes of the estimator, ``y_proba`` is not the whole
        of ``predict_proba``, ``pos_label`` is not a class or is needed and missing, lengths
        differ, or a group label is missing.
    ImportError
        If skops is not installed.

    See Also
    --------
    sklearn_dfd.metrics.bootstrap_interval : Computes the intervals.

    Notes
    -----
    The share of positives found at 1 % false alarms is left out, with a sentence that says so,
    where there are fewer than 100 negatives: no threshold then allows a single false alarm.

    Examples
    --------
    >>> from sklearn.model_selection import GroupKFold, cross_val_predict
    >>> from sklearn_dfd import make_deepfake_pipeline
    >>> from sklearn_dfd.datasets import make_spliced_photos
    >>> from sklearn_dfd.export import make_model_card
    >>> photos = make_spliced_photos(60, random_state=0)
    >>> pipe = make_deepfake_pipeline(weights=None, image_size=64, max_epochs=1, random_state=0)
    >>> y_proba = cross_val_predict(
    ...     pipe, photos.data, photos.target, groups=photos.groups, cv=GroupKFold(2),
    ...     method="predict_proba",
    ... )
    >>> card = make_model_card(
    ...     pipe.fit(photos.data, photos.target), photos.target, y_proba,
    ...     data="60 synthetic pictures, half of them spliced.", groups=photos.groups,
    ... )
    >>> "Intended use" in card.render()
    True
    """
    skops_card = import_extra("skops.card", "make_model_card")
    check_is_fitted(estimator)
    truth: npt.NDArray[Any] = column_or_1d(y_true)
    probability = _both_columns(y_proba)
    check_consistent_length(truth, probability)
    if groups is not None:
        groups = check_groups(groups, len(truth), "photographs")
    classes = check_same_two_classes(truth, estimator.classes_, name="y_true")
    call = "make_model_card(estimator, y_true, y_proba, data=data, {})."
    pos_label = resolve_pos_label(pos_label, classes, call)
    y_score = probability[:, classes.index(pos_label)]
    positive = truth == pos_label
    scores = _scores(positive, y_score, pos_label, groups, random_state, verbose)
    card = _card_class(skops_card.Card)(estimator, template=None)
    card.header = _header(license)
    for name, text in {
        "": _about(classes, pos_label),
        "/Intended use": intended_use,
        "/Limits": limits,
        "/Data": data,
        "/Shortcuts": _shortcuts(shortcuts),
        "/How to load it": _loading(pos_label),
    }.items():
        card.add(**{_TITLE + name: text})
    tables = {"Scores": _table_of(scores)}
    about = {"Scores": _tested_on(truth, groups, positive, classes, pos_label)}
    if robustness is None:
        card.add(**{f"{_TITLE}/Robustness": "Not measured."})
    else:
        about["Robustness"], tables["Robustness"] = _robustness(robustness, scores[_ROC_AUC][0])
    tables["Parameters"] = _parameters(estimator)
    tables["Versions"] = _versions()
    for name, table in tables.items():
        card.add_table(**{f"{_TITLE}/{name}": table}, description=about.get(name))
        card.select(f"{_TITLE}/{name}").title = name  # skops makes the whole path the title
    return card


def _card_class(base: Any) -> Any:
    """Return a class of skops' cards that begin with a metadata header."""

    class ModelCard(base):
        header = ""

        def render(self) -> str:
            return self.header + super().render()

        def save(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
            super().save(path, *args, **kwargs)
            file = Path(path)
            file.write_text(self.header + file.read_text("utf-8"), "utf-8")

    return ModelCard


def _header(license: str | None) -> str:
    """Write the metadata that model hubs read, as YAML between two lines of dashes."""
    lines = ["library_name: sklearn-dfd", "pipeline_tag: image-classification"]
    if license is not None:
        lines.append(f"license: {json.dumps(license)}")  # a string of JSON is one of YAML
    lines += ["tags:", *(f"- {tag}" for tag in _TAGS)]
    return "\n".join(["---", *lines, "---", ""])


def _about(classes: list[Label], pos_label: Label) -> str:
    return (
        f"Classes: {', '.join(map(str, classes))}. The class to detect is {pos_label}. Made on "
        f"{datetime.now(UTC).date().isoformat()} with sklearn-dfd {__version__}."
    )


def _loading(pos_label: Label) -> str:
    return f"""Install the versions below, and load only files from people you trust.

```python
import joblib
from sklearn_dfd import detect

detector = joblib.load("detector.joblib")
print(detect(detector, ["photo.jpg"], pos_label={pos_label!r}))
```"""


def _both_columns(y_proba: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Check that these are probabilities of both classes."""
    probability = np.asarray(y_proba, dtype=np.float64)
    if probability.ndim != 2 or probability.shape[1] != 2:
        raise ValueError(
            f"y_proba has the shape {probability.shape}: pass what predict_proba returns, of shape "
            "(n_photographs, 2), and not one of its columns."
        )
    fine = (probability >= 0).all(axis=1) & (np.abs(probability.sum(axis=1) - 1) < 1e-3)
    for row in np.flatnonzero(~fine)[:1]:
        raise ValueError(
            f"y_proba holds {probability[row].tolist()} in row {row}: pass what predict_proba "
            "returns. The probabilities of both classes sum to 1."
        )
    return probability


def _photographs(label: Label) -> str:
    return f"{label} photographs" if isinstance(label, str) else f"photographs of class {label}"


def _allows_alarms(positive: npt.NDArray[np.bool_]) -> bool:
    """Return whether the rate of false alarms allows a single one."""
    return bool(np.sum(~positive) * _MAX_FPR >= 1)


def _scores(
    positive: npt.NDArray[np.bool_],
    y_score: npt.NDArray[np.float64],
    pos_label: Label,
    groups: npt.NDArray[Any] | None,
    random_state: int | np.random.RandomState | None,
    verbose: int,
) -> dict[str, tuple[float, float, float]]:
    """Return each score with the ends of its interval."""
    metrics = {_ROC_AUC: roc_auc_score, _EER: equal_error_rate}
    if _allows_alarms(positive):
        metrics[f"{_photographs(pos_label)} found, at 1 % false alarms"] = tpr_at_fpr
    scores = {}
    for name, metric in tqdm(metrics.items(), unit="interval", disable=not verbose):
        low, high = bootstrap_interval(
            metric,
            positive,
            y_score,
            groups=groups,
            n_resamples=_N_RESAMPLES,
            confidence_level=_LEVEL,
            random_state=random_state,
        )
        scores[name] = (float(metric(positive, y_score)), low, high)
    return scores


def _table_of(scores: dict[str, tuple[float, float, float]]) -> dict[str, list[str]]:
    return {
        "score": list(scores),
        "value": [f"{value:.3f}" for value, _, _ in scores.values()],
        f"{100 * _LEVEL:g} % interval": [
            f"{low:.3f} to {high:.3f}" for _, low, high in scores.values()
        ],
    }


def _tested_on(
    y_true: npt.NDArray[Any],
    groups: npt.NDArray[Any] | None,
    positive: npt.NDArray[np.bool_],
    classes: list[Label],
    pos_label: Label,
) -> str:
    """Say what the scores are based on."""
    counts = ", ".join(f"{np.sum(y_true == label)} {label}" for label in classes)
    n_negatives = int(np.sum(~positive))
    positives = _photographs(pos_label)
    negatives = _photographs(next(label for label in classes if label != pos_label))
    if groups is None:
        together = "Each counts as independent of the others, since no groups were given."
    else:
        together = f"They form {len(np.unique(groups))} groups, which were resampled as a whole."
    if _allows_alarms(positive):
        n_alarms = int(n_negatives * _MAX_FPR)
        alarms = (
            f"1 % false alarms means that at most {n_alarms} of the {n_negatives} {negatives} "
            f"are called {pos_label}."
        )
    else:
        alarms = (
            f"The share of {positives} found at 1 % false alarms is left out: it takes at least "
            f"{round(1 / _MAX_FPR)} {negatives} to measure, and there are {n_negatives}."
        )
    return (
        f"On {len(y_true)} photographs that the detector was not trained on ({counts}). {together} "
        f"The intervals hold {100 * _LEVEL:g} % of {_N_RESAMPLES:,} resamples. {alarms}"
    )


def _shortcuts(report: ShortcutReport | None) -> str:
    """Say how well the classes can be told apart without looking at the photographs."""
    if report is None:
        return "Whether headers and metadata of the files reveal the labels was not checked."
    low, high = report.interval
    text = (
        f"A rule that sees the headers and metadata of the files and no pixels has a ROC AUC of "
        f"{report.roc_auc:.3f} ({100 * report.confidence:g} % interval {low:.3f} to {high:.3f}, "
        f"{report.n_images} files, {report.n_groups} groups; 0.5 is chance)."
    )
    if report.excludes_chance:
        best = max(report.attributes, key=lambda row: row.roc_auc)
        text += f" Most of it lies in: {best.attribute} ({best.example})."
    return text


def _robustness(results: "DataFrame", roc_auc: float) -> tuple[str, dict[str, list[str]]]:
    """Describe the table of robustness, and make it; a figure has one interval in the card."""
    rows = results.to_dict("records")
    same = any(row["distortion"] == "none" and abs(row["roc_auc"] - roc_auc) < 5e-4 for row in rows)
    level = results.attrs.get("confidence_level")
    kind = "confidence" if level is None else f"{100 * level:g} %"
    about = f"In brackets: {kind} intervals. " + (
        "The photographs are those of the scores above."
        if same
        else "These figures are of other photographs, or of another fit, than the scores above."
    )
    table: dict[str, list[str]] = {"photographs": [], "ROC AUC": [], "accuracy": []}
    for row in rows:
        as_is = row["distortion"] == "none"
        table["photographs"].append(
            "as they are" if as_is else f"{row['distortion']} {row['level']:g}"
        )
        for title, score in (("ROC AUC", "roc_auc"), ("accuracy", "accuracy")):
            interval = f"{row[f'{score}_low']:.3f} to {row[f'{score}_high']:.3f}"
            if as_is and same and score == "roc_auc":
                interval = "see above"
            table[title].append(f"{row[score]:.3f} ({interval})")
    return about, table


def _parameters(estimator: BaseEstimator) -> dict[str, list[str]]:
    """List the parameters, without any path of the machine that the detector comes from."""
    params = params_within(estimator)
    shown = {
        name: _without_paths(value, name.rpartition("__")[2])
        for name, value in sorted(params.items())
        if not any(other.startswith(f"{name}__") for other in params)  # the parts are listed
        and name != "steps"
        and not name.endswith("__steps")
    }
    return {"parameter": list(shown), "value": list(shown.values())}


def _without_paths(value: Any, name: str = "") -> str:
    """Write a value of a parameter as text that holds no path and no address in memory."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, os.PathLike):
        return "a local path"
    if isinstance(value, str):
        path = value not in _MAY_BE_PATHS[name] if name in _MAY_BE_PATHS else _is_path(value)
        return "a local path" if path else value
    if isinstance(value, Mapping):
        return ", ".join(f"{_without_paths(k)}: {_without_paths(v)}" for k, v in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return f"({', '.join(map(_without_paths, value))})"
    return getattr(value, "__name__", type(value).__name__)


def _is_path(text: str) -> bool:
    return any(sign in text for sign in ("/", "\\", "~"))


def _versions() -> dict[str, list[str]]:
    versions = {
        "Python": platform.python_version(),
        "sklearn-dfd": __version__,
        **{package: version(package) for package in _PACKAGES},
    }
    return {"package": list(versions), "version": list(versions.values())}
