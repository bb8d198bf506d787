"""The card says what the detector is for, and how far to trust it."""

import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from sklearn_dfd.export import make_model_card
from sklearn_dfd.metrics import bootstrap_interval, tpr_at_fpr

pytest.importorskip("skops")


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    y = np.array(["fake", "real"])[np.arange(200) % 2]
    score = np.clip(0.4 + 0.2 * (y == "real") + rng.normal(0, 0.2, 200), 0, 1)
    estimator = LogisticRegression(C=0.123).fit(score[:, None], y)
    return estimator, y, score, np.arange(200) // 8


def section(text, name):
    return text.split(f"## {name}\n")[1].split("\n## ")[0]


def test_sections_and_figures(scored, tmp_path):
    estimator, y, score, groups = scored
    robustness = {
        "distortion": np.array(["none", "jpeg"], dtype=object),
        "level": np.array([np.nan, 30.0]),
    }
    for name, value in (("accuracy", 0.75), ("roc_auc", 0.8)):
        for end, shift in (("", 0), ("_low", -0.05), ("_high", 0.05)):
            robustness[name + end] = np.array([value, value - 0.1]) + shift
    card = make_model_card(
        estimator,
        y,
        score,
        data="Two hundred numbers.",
        groups=groups,
        robustness=pd.DataFrame(robustness),
        random_state=0,
    )
    card.save(tmp_path / "card.md")
    text = (tmp_path / "card.md").read_text("utf-8")
    assert "Classes: fake, real." in text
    assert "no proof" in section(text, "Intended use")
    assert "most alarms are false" in section(text, "Limits")
    assert "Two hundred numbers." in section(text, "Data")
    scores = section(text, "Scores")
    assert "On 200 photographs" in scores and "100 fake, 100 real" in scores
    assert "25 groups, which were resampled as a whole" in scores
    low, high = bootstrap_interval(roc_auc_score, y, score, groups=groups, random_state=0)
    assert f"{roc_auc_score(y, score):.3f}" in scores
    assert f"{low:.3f} to {high:.3f}" in scores
    assert scores.count(" to ") == 3
    robust = section(text, "Robustness")
    assert "as they are" in robust and "jpeg 30" in robust
    assert "0.700 (0.650 to 0.750)" in robust and "0.750 (0.700 to 0.800)" in robust
    assert "0.123" in section(text, "Parameters")


def test_what_was_not_given_is_said(scored):
    estimator, y, score, _ = scored
    card = make_model_card(estimator, y, score, data="x", random_state=0, limits="None.")
    text = card.render()
    assert "Not measured." in section(text, "Robustness")
    assert "independent of the others, since no groups were given" in section(text, "Scores")
    assert section(text, "Limits").strip() == "None."


def test_the_class_that_is_to_be_found(scored):
    estimator, y, score, groups = scored
    card = make_model_card(
        estimator, y, 1 - score, data="x", pos_label="fake", groups=groups, random_state=0
    )
    table = section(card.render(), "Scores")
    found = tpr_at_fpr(y == "fake", 1 - score)
    assert found != tpr_at_fpr(y, score)
    (row,) = [line for line in table.splitlines() if "fake photographs found, at 1 %" in line]
    assert f"{found:.3f}" in row
    assert f"{roc_auc_score(y, score):.3f}" in table


def test_errors(scored, monkeypatch):
    estimator, y, score, groups = scored
    with pytest.raises(ValueError, match=r"estimator, \['fake', 'real'\], not \['real'\]"):
        make_model_card(estimator, y[1::2], score[1::2], data="x")
    with pytest.raises(ValueError, match=r"the two classes of .* not \[False, True\]"):
        make_model_card(estimator, y == "real", score, data="x")
    with pytest.raises(ValueError, match=r"pos_label='Fake' is not a class: \['fake', 'real'\]"):
        make_model_card(estimator, y, score, data="x", pos_label="Fake")
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        make_model_card(estimator, y, score[1:], data="x")
    with pytest.raises(ValueError, match="groups has 199 values for 200 photographs: pass one"):
        make_model_card(estimator, y, score, data="x", groups=groups[1:])
    with pytest.raises(NotFittedError):
        make_model_card(LogisticRegression(), y, score, data="x")
    monkeypatch.setitem(sys.modules, "skops.card", None)
    with pytest.raises(ImportError, match=r'pip install "sklearn-dfd\[skops\]"'):
        make_model_card(estimator, y, score, data="x")
