"""The model card says what the detector is for, and how far to trust it."""

import datetime
import platform
import re
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

import sklearn_dfd
from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.export import make_model_card
from sklearn_dfd.feature_store import FeatureStore
from sklearn_dfd.metrics import bootstrap_interval, tpr_at_fpr
from sklearn_dfd.model_selection import ShortcutReport, ShortcutRow

pytest.importorskip("skops")


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    y = np.array(["fake", "real"])[np.arange(200) % 2]
    score = np.clip(0.4 + 0.2 * (y == "real") + rng.normal(0, 0.2, 200), 0, 1)
    estimator = LogisticRegression(C=0.123).fit(score[:, None], y)
    return estimator, y, np.stack([1 - score, score], axis=1), np.arange(200) // 8


def make_card(estimator, y, proba, **options):
    options = {"data": "x", "pos_label": "real", "random_state": 0, **options}
    return make_model_card(estimator, y, proba, **options)


def section(text, name):
    return text.split(f"## {name}\n")[1].split("\n## ")[0]


def robustness_table(roc_auc=0.8):
    table = {"distortion": ["none", "jpeg"], "level": [np.nan, 30.0]}
    for name, value in (("accuracy", 0.75), ("roc_auc", roc_auc)):
        for end, shift in (("", 0), ("_low", -0.05), ("_high", 0.05)):
            table[name + end] = np.array([value, value - 0.1]) + shift
    return pd.DataFrame(table)


def test_sections_and_figures(scored, tmp_path):
    estimator, y, proba, groups = scored
    card = make_card(
        estimator,
        y,
        proba,
        data="Two hundred numbers.",
        groups=groups,
        robustness=robustness_table(),
    )
    card.save(tmp_path / "card.md")
    text = (tmp_path / "card.md").read_text("utf-8")
    assert text == card.render()
    assert "Classes: fake, real. The class to detect is real." in text
    assert "not proof" in section(text, "Intended use")
    assert "most alarms are false" in section(text, "Limits")
    assert "Two hundred numbers." in section(text, "Data")
    scores = section(text, "Scores")
    assert "On 200 photographs" in scores and "100 fake, 100 real" in scores
    assert "25 groups, which were resampled as a whole" in scores
    score = proba[:, 1]
    low, high = bootstrap_interval(roc_auc_score, y, score, groups=groups, random_state=0)
    assert f"{roc_auc_score(y, score):.3f}" in scores
    assert f"{low:.3f} to {high:.3f}" in scores
    assert scores.count(" to ") == 3
    robust = section(text, "Robustness")
    assert "as they are" in robust and "jpeg 30" in robust
    assert "0.700 (0.650 to 0.750)" in robust and "0.750 (0.700 to 0.800)" in robust
    assert "0.123" in section(text, "Parameters")


def test_what_was_not_given_is_said(scored):
    estimator, y, proba, _ = scored
    text = make_card(estimator, y, proba, limits="None.").render()
    assert "Not measured." in section(text, "Robustness")
    assert "independent of the others, since no groups were given" in section(text, "Scores")
    assert section(text, "Limits").strip() == "None."


@pytest.mark.parametrize("column", [0, 1])
def test_the_class_to_detect_decides_the_column(column, scored):
    estimator, y, proba, groups = scored
    label = estimator.classes_[column]
    text = make_card(estimator, y, proba, pos_label=label, groups=groups).render()
    table = section(text, "Scores")
    found = tpr_at_fpr(y == label, proba[:, column])
    assert found != tpr_at_fpr(y != label, proba[:, 1 - column])
    (row,) = [line for line in table.splitlines() if f"{label} photographs found, at 1 %" in line]
    assert f"{found:.3f}" in row
    assert f"{roc_auc_score(y, proba[:, 1]):.3f}" in table
    assert f"pos_label='{label}'" in section(text, "How to load it")


def test_the_class_to_detect_has_to_be_named_where_labels_leave_it_open(scored):
    estimator, y, proba, _ = scored
    with pytest.raises(ValueError, match=r"must be given for the classes \['fake', 'real'\]"):
        make_model_card(estimator, y, proba, data="x")
    numbers = LogisticRegression().fit(proba, y == "real")
    text = make_model_card(numbers, y == "real", proba, data="x", random_state=0).render()
    assert "The class to detect is True." in text


def test_one_figure_has_one_interval(scored):
    estimator, y, proba, groups = scored
    auc = roc_auc_score(y, proba[:, 1])
    text = make_card(estimator, y, proba, groups=groups, robustness=robustness_table(auc)).render()
    low, high = bootstrap_interval(roc_auc_score, y, proba[:, 1], groups=groups, random_state=0)
    assert text.count(f"{low:.3f} to {high:.3f}") == 1
    robust = section(text, "Robustness")
    assert f"{auc:.3f} (see above)" in robust
    assert "The photographs are those of the scores above." in robust
    other = section(
        make_card(estimator, y, proba, robustness=robustness_table(auc - 0.1)).render(),
        "Robustness",
    )
    assert "of other photographs, or of another fit, than the scores above" in other


@pytest.mark.parametrize(("n_negatives", "enough"), [(15, False), (99, False), (100, True)])
def test_a_rate_that_too_few_negatives_stand_behind_is_left_out(n_negatives, enough):
    y = np.repeat([1, 0], [120, n_negatives])
    score = np.clip(np.random.default_rng(0).normal(0.4 + 0.2 * y, 0.2), 0, 1)
    proba = np.stack([1 - score, score], axis=1)
    estimator = LogisticRegression().fit(proba, y)
    scores = section(
        make_model_card(estimator, y, proba, data="x", random_state=0).render(), "Scores"
    )
    assert ("photographs of class 1 found, at 1 % false alarms" in scores) == enough
    if enough:
        assert "at most 1 of the 100 photographs of class 0 are called 1" in scores
    else:
        assert "at least 100 photographs of class 0 to measure, and there are" in scores
        assert f"there are {n_negatives}." in scores


def test_the_header_that_hubs_read(scored):
    estimator, y, proba, _ = scored
    text = make_card(estimator, y, proba, license="bsd-3-clause").render()
    _, header, body = text.split("---\n", 2)
    lines = header.splitlines()
    assert "library_name: sklearn-dfd" in lines and 'license: "bsd-3-clause"' in lines
    assert lines[lines.index("tags:") + 1 :][:2] == ["- sklearn-dfd", "- deepfake-detection"]
    assert body.startswith("\n# Detector of manipulated photographs")
    assert "license" not in make_card(estimator, y, proba).render().split("---\n")[1]


def test_date_versions_and_how_to_load(scored):
    estimator, y, proba, _ = scored
    days = [datetime.datetime.now(datetime.UTC).date().isoformat()]
    text = make_card(estimator, y, proba).render()
    days.append(datetime.datetime.now(datetime.UTC).date().isoformat())
    assert any(f"Made on {day} with sklearn-dfd {sklearn_dfd.__version__}" in text for day in days)
    versions = section(text, "Versions")
    for package in (platform.python_version(), sklearn.__version__, version("torch")):
        assert package in versions
    (snippet,) = re.findall(r"```python\n(.*?)```", section(text, "How to load it"), re.DOTALL)
    compile(snippet, "snippet", "exec")
    assert "joblib.load(" in snippet and "detect(detector" in snippet


@pytest.mark.parametrize(
    "wrap",
    [
        lambda pipe, X, y: pipe,
        lambda pipe, X, y: GridSearchCV(pipe, {"classifier__lr": [1e-3]}, cv=2).fit(X, y),
        lambda pipe, X, y: CalibratedClassifierCV(FrozenEstimator(pipe)).fit(X, y),
        lambda pipe, X, y: CalibratedClassifierCV(
            FrozenEstimator(GridSearchCV(pipe, {"classifier__lr": [1e-3]}, cv=2).fit(X, y))
        ).fit(X, y),
        lambda pipe, X, y: Pipeline(
            [("same", FunctionTransformer()), ("detector", pipe)], memory=str(pipe[0].memory)
        ),
    ],
)
@pytest.mark.parametrize("as_store", [False, True])
def test_no_local_path_is_shown(wrap, as_store, tmp_path, weights_file):
    # names that no card has by chance, as it may have those of the folders above them
    home, weights = tmp_path / "alice", tmp_path / "bobby" / "charlie.pth"
    home.mkdir()
    weights.parent.mkdir()
    shutil.copy(weights_file, weights)
    photos = make_spliced_photos(12, random_state=0)
    pipe = make_deepfake_pipeline(
        weights=weights,
        image_size=32,
        memory=FeatureStore(home) if as_store else str(home),
        max_epochs=1,
        hidden_layer_sizes=(16,),
        random_state=0,
    ).fit(photos.data, photos.target)
    detector = wrap(pipe, photos.data, photos.target)
    text = make_model_card(
        detector, photos.target, pipe.predict_proba(photos.data), data="x", random_state=0
    ).render()
    for part in ("alice", "bobby", "charlie", str(tmp_path), "0x"):
        assert part not in text
    # (of a search the parameters are those of its best detector)
    assert "hidden_layer_sizes" in section(text, "Parameters")
    assert "(16)" in section(text, "Parameters") and "param_grid" not in text
    within = getattr(getattr(detector, "estimator", None), "estimator", detector)
    lr = "0.001" if hasattr(within, "best_estimator_") else "0.0001"
    assert re.search(rf"classifier__lr +\| +{lr} ", section(text, "Parameters"))


@pytest.mark.parametrize(
    "path", ["cache", "~/cache", "/home/alice", r"C:\Users\alice", Path("elsewhere")]
)
def test_paths_of_all_kinds_are_hidden(path, scored):
    estimator, y, proba, _ = scored
    pipe = Pipeline([("classifier", estimator)], memory=path)
    parameters = section(make_card(pipe, y, proba).render(), "Parameters")
    assert str(path) not in parameters.replace("Parameters", "")
    assert "a local path" in parameters


def test_progress(scored, capsys):
    estimator, y, proba, groups = scored
    make_card(estimator, y, proba, groups=groups)
    assert capsys.readouterr().err == ""
    make_card(estimator, y, proba, groups=groups, verbose=1)
    assert "3/3" in capsys.readouterr().err


def test_errors(scored, monkeypatch):
    estimator, y, proba, groups = scored
    with pytest.raises(ValueError, match=r"labels \['real'\] and .* \['fake', 'real'\]: both"):
        make_card(estimator, y[1::2], proba[1::2])
    with pytest.raises(ValueError, match=r"y_true holds the labels \[False, True\]"):
        make_card(estimator, y == "real", proba)
    with pytest.raises(ValueError, match=r"pos_label='Fake' is not one of .* \['fake', 'real'\]"):
        make_card(estimator, y, proba, pos_label="Fake")
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        make_card(estimator, y, proba[1:])
    with pytest.raises(ValueError, match="groups has 199 values for 200 photographs: pass one"):
        make_card(estimator, y, proba, groups=groups[1:])
    with pytest.raises(NotFittedError):
        make_card(LogisticRegression(), y, proba)
    monkeypatch.setitem(sys.modules, "skops.card", None)
    with pytest.raises(ImportError, match=r'pip install "sklearn-dfd\[skops\]"'):
        make_card(estimator, y, proba)


def test_a_column_of_probabilities_is_refused(scored):
    """One column would not say which class it is for."""
    estimator, y, proba, _ = scored
    for wrong in (proba[:, 0], proba[:, :1], np.c_[proba, proba[:, 0]]):
        with pytest.raises(ValueError, match=r"y_proba has the shape .* not one of its col"):
            make_card(estimator, y, wrong)
    for wrong in (proba * 2, proba - 0.5, np.where(np.arange(200)[:, None] == 7, np.nan, proba)):
        with pytest.raises(ValueError, match=r"y_proba holds .* in row \d+: .* sum to 1"):
            make_card(estimator, y, wrong)


def test_what_the_files_give_away_is_said(scored):
    estimator, y, proba, _ = scored
    row = ShortcutRow("software", 0.7, 0.6, 0.8, "Editor: 40 % of fake, 0 % of real", True)
    report = ShortcutReport(0.7, (0.6, 0.8), [row], [], ["fake", "real"], 200, 25, 0.95)
    text = section(make_card(estimator, y, proba, shortcuts=report).render(), "Shortcuts")
    assert "ROC AUC of 0.700 (95 % interval 0.600 to 0.800, 200 files, 25 groups" in text
    assert "Most of it lies in: software (Editor: 40 % of fake, 0 % of real)." in text
    chance = report._replace(roc_auc=0.52, interval=(0.45, 0.6))
    text = section(make_card(estimator, y, proba, shortcuts=chance).render(), "Shortcuts")
    assert "0.520" in text and "software" not in text
    assert "was not checked" in section(make_card(estimator, y, proba).render(), "Shortcuts")
    with pytest.raises(ValueError, match="'shortcuts' parameter"):
        make_card(estimator, y, proba, shortcuts=0.7)
