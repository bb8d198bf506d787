"""Scores of one answer per group, in cross-validation and by hand."""

import copy
import pickle
import re

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.datasets import make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, get_scorer, make_scorer, roc_auc_score
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    GroupKFold,
    cross_val_score,
    cross_validate,
)

from sklearn_dfd import detect, metrics
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.metrics import (
    GroupScorer,
    equal_error_rate,
    make_group_scorer,
    make_neg_equal_error_rate_scorer,
    make_tpr_at_fpr_scorer,
)
from sklearn_dfd.pipeline import make_deepfake_pipeline


@pytest.fixture(scope="module")
def films():
    """240 frames of 60 films: their features, classes in words, films, and sources of films."""
    rng = np.random.default_rng(0)
    of_film = rng.integers(0, 2, 60)
    film = np.repeat(np.arange(60), 4)
    X = rng.normal(size=(240, 3)) + of_film[film][:, np.newaxis] + rng.normal(size=(60, 3))[film]
    order = rng.permutation(240)
    names = np.array([f"film {i:02}" for i in range(60)])
    return (
        X[order],
        np.array(["real", "fake"])[of_film][film][order],
        names[film][order],
        (film // 3)[order],
    )


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def by_hand(metric, model, X, y, groups, *, labels=False, pos_label="fake"):
    """The score of one answer per group, in a plain loop."""
    column = model.classes_.tolist().index(pos_label)
    p = np.clip(model.predict_proba(X)[:, column], 1e-6, 1 - 1e-6)
    truth, score = [], []
    for group in np.unique(groups):
        inside = groups == group
        truth.append(int(y[inside][0] == pos_label))
        odds = np.mean(np.log(p[inside] / (1 - p[inside])))
        score.append(1 / (1 + np.exp(-odds)))
    score = np.array(score)
    return metric(truth, (score > 0.5).astype(int) if labels else score)


@pytest.mark.parametrize(
    ("scoring", "metric", "labels"),
    [
        ("roc_auc", roc_auc_score, False),
        ("accuracy", accuracy_score, True),
        ("f1", f1_score, True),
        (make_scorer(f1_score), f1_score, True),
        (make_neg_equal_error_rate_scorer(), lambda *both: -equal_error_rate(*both), False),
        (make_tpr_at_fpr_scorer(max_fpr=0.2), None, False),
    ],
)
@pytest.mark.parametrize("pos_label", ["fake", "real"])
def test_scores_equal_a_plain_loop(scoring, metric, labels, pos_label, films):
    X, y, groups, _ = films
    model = LogisticRegression(C=0.01).fit(X[:60], y[:60])
    if metric is None:
        metric = lambda *both: metrics.tpr_at_fpr(*both, max_fpr=0.2)  # noqa: E731
    scorer = make_group_scorer(scoring, pos_label=pos_label)
    expected = by_hand(metric, model, X, y, groups, labels=labels, pos_label=pos_label)
    score = scorer(model, X, y, groups=groups)
    assert type(score) is float
    assert score == pytest.approx(expected, rel=1e-12)
    assert scorer(model, X.tolist(), y.tolist(), groups=groups.tolist()) == score
    series = (pd.Series(y), pd.Series(groups, index=np.arange(240)[::-1]))
    assert scorer(model, pd.DataFrame(X).to_numpy(), series[0], groups=series[1]) == score


NAMES = [
    *["accuracy", "average_precision", "balanced_accuracy", "f1", "jaccard", "matthews_corrcoef"],
    *["neg_brier_score", "neg_log_loss", "precision", "recall", "roc_auc", "d2_log_loss_score"],
]


@pytest.mark.parametrize("name", NAMES)
def test_a_group_per_image_scores_as_scikit_learn_does(name, films):
    X, y, _, _ = films
    numbers = (y == "fake").astype(int)
    model = LogisticRegression().fit(X[:60], numbers[:60])
    expected = get_scorer(name)(model, X, numbers)
    assert make_group_scorer(name)(model, X, numbers, groups=np.arange(240)) == expected
    named = LogisticRegression().fit(X[:60], y[:60])
    scorer = make_group_scorer(name, pos_label="fake")
    assert scorer(named, X, y, groups=np.arange(240)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "name", ["accuracy", "balanced_accuracy", "f1_macro", "neg_log_loss", "roc_auc_ovr"]
)
def test_more_than_two_classes(name):
    X, y = make_blobs(90, centers=3, cluster_std=8, random_state=0)
    y = np.array(["copied", "genuine", "spliced"])[y]
    model = LogisticRegression().fit(X, y)
    expected = get_scorer(name)(model, X, y)
    scorer = make_group_scorer(name)
    assert scorer(model, X, y, groups=np.arange(90)) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="pos_label is for two classes"):
        make_group_scorer(name, pos_label="copied")(model, X, y, groups=np.arange(90))


@pytest.mark.usefixtures("routing")
@pytest.mark.parametrize("n_jobs", [None, 2])
def test_cross_validation_reports_per_film_and_per_frame(films, n_jobs):
    X, y, groups, _ = films
    model = LogisticRegression()
    scores = cross_validate(
        model,
        X,
        y,
        cv=GroupKFold(3),
        params={"groups": groups},
        scoring={"film": make_group_scorer("roc_auc", pos_label="fake"), "frame": "roc_auc"},
        return_indices=True,
        n_jobs=n_jobs,
    )
    for fold, (train, test) in enumerate(zip(*scores["indices"].values(), strict=True)):
        fitted = LogisticRegression().fit(X[train], y[train])
        film = by_hand(roc_auc_score, fitted, X[test], y[test], groups[test])
        assert scores["test_film"][fold] == pytest.approx(film, rel=1e-12)
        frame = roc_auc_score(y[test] == "fake", fitted.predict_proba(X[test])[:, 0])
        assert scores["test_frame"][fold] == pytest.approx(frame, rel=1e-12)
    assert (scores["test_film"] != scores["test_frame"]).any()


@pytest.mark.usefixtures("routing")
def test_films_of_one_source_stay_together_and_are_scored_apart(films):
    X, y, film, source = films
    scorer = make_group_scorer("accuracy").set_score_request(groups="film")
    assert isinstance(scorer, GroupScorer)
    options = {"cv": GroupKFold(4), "scoring": scorer}
    scores = cross_val_score(
        LogisticRegression(), X, y, params={"groups": source, "film": film}, **options
    )
    for fold, (train, test) in enumerate(GroupKFold(4).split(X, y, source)):
        fitted = LogisticRegression().fit(X[train], y[train])
        expected = by_hand(accuracy_score, fitted, X[test], y[test], film[test], labels=True)
        assert scores[fold] == pytest.approx(expected)
    search = GridSearchCV(LogisticRegression(), {"C": [0.001, 1]}, **options)
    search.fit(X, y, groups=source, film=film)
    assert search.cv_results_["mean_test_score"][1] == pytest.approx(scores.mean())
    assert search.score(X, y, film=film) == pytest.approx(
        by_hand(accuracy_score, search.best_estimator_, X, y, film, labels=True)
    )


def test_the_threshold_of_a_detector_counts(films):
    X, y, groups, _ = films
    model = LogisticRegression().fit(X[:60], y[:60])
    p = model.predict_proba(X)[:, 0]
    strict = FixedThresholdClassifier(model, threshold=0.8, pos_label="fake").fit(X[:60], y[:60])
    table = pd.DataFrame({"log_odds": np.log(p / (1 - p)), "film": groups, "y": y})
    films_ = table.groupby("film").agg({"log_odds": "mean", "y": "first"})
    expected = ((films_["log_odds"] >= np.log(4)) == (films_["y"] == "fake")).mean()
    for pos_label in (None, "fake", "real"):
        scorer = make_group_scorer("accuracy", pos_label=pos_label)
        assert scorer(strict, X, y, groups=groups) == pytest.approx(expected)
    assert make_group_scorer("accuracy")(model, X, y, groups=groups) != pytest.approx(expected)


def test_it_agrees_with_the_table_of_detect():
    photos = make_spliced_photos(24, random_state=0)
    y = photos.target_names[photos.target]
    films = np.arange(24) // 3 * 10 + photos.target
    pipe = make_deepfake_pipeline(preset="fast", weights=None, image_size=64).fit(photos.data, y)
    for how in ("mean_log_odds", "median"):
        table = detect(pipe, photos.data, groups=films, aggregate=how, pos_label="spliced")
        expected = roc_auc_score(table.index % 10, table["probability_spliced"])
        scorer = make_group_scorer("roc_auc", pos_label="spliced", aggregate=how)
        assert scorer(pipe, photos.data, y, groups=films) == pytest.approx(expected)


def test_groups_of_both_labels_are_refused(films):
    X, y, groups, _ = films
    model = LogisticRegression().fit(X, y)
    wrong = y.copy()
    row = np.flatnonzero(groups == groups[0])[-1]
    wrong[row] = {"real": "fake", "fake": "real"}[y[row]]
    message = f"Group '{groups[0]}' holds images of the classes ['fake', 'real'], for example rows"
    with pytest.raises(ValueError, match=re.escape(f"{message} 0 and {row}")):
        make_group_scorer("roc_auc")(model, X, wrong, groups=groups)


def test_what_cannot_be_meant(films):
    X, y, groups, _ = films
    model = LogisticRegression().fit(X, y)
    scorer = make_group_scorer("roc_auc", pos_label="fake")
    with pytest.raises(ValueError, match="enable_metadata_routing=True"):
        scorer(model, X, y)
    with pytest.warns(UserWarning, match=r"make_group_scorer\('roc_auc', pos_label='fake'\) needs"):
        cross_val_score(model, X, y, groups=groups, cv=GroupKFold(2), scoring=scorer)
    with pytest.raises(RuntimeError, match="set_config"):
        scorer.set_score_request(groups="film")
    with pytest.raises(ValueError, match="groups has 3 values for 240 images"):
        scorer(model, X, y, groups=groups[:3])
    with pytest.raises(ValueError, match="There are 3 labels for 240 images"):
        scorer(model, X, y[:3], groups=groups)
    with pytest.raises(ValueError, match="no label in row 1"):
        scorer(model, X, y, groups=[None if i == 1 else g for i, g in enumerate(groups)])
    with pytest.raises(ValueError, match="'Fake' is not one of the classes"):
        make_group_scorer("roc_auc", pos_label="Fake")(model, X, y, groups=groups)
    with pytest.raises(ValueError, match="'roc' is not a valid scoring value"):
        make_group_scorer("roc")
    with pytest.raises(ValueError, match="aggregate"):
        make_group_scorer("roc_auc", aggregate="mean")
    for metric in (roc_auc_score, equal_error_rate):
        with pytest.raises(ValueError, match=f"{metric.__name__} is a metric, and a scorer"):
            make_group_scorer(metric)
    with pytest.raises(TypeError):
        make_group_scorer(3)


@pytest.mark.usefixtures("routing")
def test_copies_are_the_same_scorer(films):
    X, y, groups, _ = films
    model = LogisticRegression().fit(X[:60], y[:60])
    scorer = make_group_scorer("f1", pos_label="real", aggregate="median")
    scorer.set_score_request(groups="film")
    assert repr(scorer) == "make_group_scorer('f1', pos_label='real', aggregate='median')"
    for copied in (
        pickle.loads(pickle.dumps(scorer)),
        copy.deepcopy(scorer),
        sklearn.clone(scorer, safe=False),
    ):
        assert repr(copied) == repr(scorer)
        assert copied.get_metadata_routing().score.requests == {"groups": "film"}
        assert copied(model, X, y, groups=groups) == scorer(model, X, y, groups=groups)
