"""Tests of sklearn_dfd.classifier: validation rows, given or set aside, and early stopping."""

import numpy as np
import pytest
from same_weights import assert_same_weights
from sklearn.base import clone

from sklearn_dfd import classifier
from sklearn_dfd._core.network import rows


def test_validation_rows_are_measured_and_not_trained_on(block_data, blocks):
    X, y = block_data
    plain = clone(blocks).fit(X[:30], y[:30])
    blocks.fit(X[:30], y[:30], X_val=X[30:], y_val=y[30:])
    assert_same_weights(plain, blocks)
    last = blocks.history_[-1]
    assert last["valid_accuracy"] == pytest.approx(blocks.score(X[30:], y[30:]))
    probabilities = blocks.predict_proba(X[30:])[np.arange(20), y[30:]]
    assert last["valid_loss"] == pytest.approx(-np.log(probabilities).mean(), rel=1e-5)
    assert "valid_loss" not in plain.history_[-1]


def test_early_stopping_keeps_the_best_epoch(head):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 20)).astype(np.float32), rng.integers(0, 2, 200)
    head.set_params(early_stopping=True, max_epochs=100, n_iter_no_change=3, lr=3e-3)
    head.fit(X[:100], y[:100], X_val=X[100:], y_val=y[100:])
    losses = [row["valid_loss"] for row in head.history_]
    assert head.best_epoch_ == np.argmin(losses) + 1
    assert head.n_iter_ == head.best_epoch_ + 3 < 100
    probabilities = head.predict_proba(X[100:])[np.arange(100), y[100:]]
    assert -np.log(probabilities).mean() == pytest.approx(min(losses), rel=1e-5)


def split_made_by(estimator, X, y, groups, monkeypatch):
    """Return the rows that a fit trains on, and those that it sets aside."""
    seen = []
    original = rows.set_aside

    def spy(*args):
        seen.extend(original(*args))
        return seen

    monkeypatch.setattr(classifier, "set_aside", spy)
    estimator.fit(X, y, groups=groups)
    return seen[0].order, seen[1].order


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.7])
def test_early_stopping_sets_whole_groups_aside(head, head_data, fraction, monkeypatch):
    X, y = head_data
    groups = np.arange(len(X)) // 3
    head.set_params(early_stopping=True, validation_fraction=fraction)
    train, valid = split_made_by(head, X, y, groups, monkeypatch)
    assert not set(groups[train]) & set(groups[valid])
    assert sorted([*train, *valid]) == list(range(len(X)))
    assert len(valid) == pytest.approx(fraction * len(X), abs=6)
    assert y[valid].mean() == pytest.approx(y.mean(), abs=0.2)
    assert "valid_loss" in head.history_[0]


def test_early_stopping_without_groups_stratifies(head, head_data, monkeypatch):
    X, y = head_data
    y = (np.arange(len(X)) % 4 == 0).astype(int)
    head.set_params(early_stopping=True, validation_fraction=0.2)
    _, valid = split_made_by(head, X, y, None, monkeypatch)
    assert len(valid) == 24 and y[valid].sum() == 6


def test_copies_are_never_on_both_sides(head, head_data, monkeypatch):
    X, y = np.repeat(head_data[0], 3, axis=0), np.repeat(head_data[1], 3)
    head.set_params(early_stopping=True)
    train, valid = split_made_by(head, X, y, None, monkeypatch)
    assert len(train) + len(valid) == 120
    assert not set(train // 3) & set(valid // 3)


@pytest.mark.parametrize("n_groups", [1, 2])
def test_groups_that_cannot_be_split(head, head_data, n_groups):
    X, y = head_data
    groups = y if n_groups == 2 else np.zeros(len(X))  # each class a group of its own
    head.set_params(early_stopping=True)
    with pytest.raises(ValueError, match=f"cannot set aside.* in {n_groups} groups"):
        head.fit(X, y, groups=groups)


@pytest.mark.parametrize("grouped", [True, False])
def test_a_class_that_cannot_be_set_aside_is_named(head, head_data, grouped):
    X, _ = head_data
    n = 20 if grouped else 1
    y = np.where(np.arange(len(X)) < n, "fake", "real")
    groups = np.where(y == "fake", "a", np.arange(len(X)).astype(str)) if grouped else None
    message = (
        r"Class fake has too few distinct rows \(1\) to be on 2 sides\. .* more rows of this cl"
    )
    if grouped:
        message = (
            r"120 distinct rows in 101 groups\. Class fake has all its 20 distinct rows in 1 group"
            r"\(s\), 'a': it cannot be on 2 sides\. Pass X_val and y_val, or more groups of this"
        )
    with pytest.raises(ValueError, match=message):
        head.set_params(early_stopping=True).fit(X, y, groups=groups)


@pytest.mark.parametrize("n_groups", [6, 10])
def test_groups_of_one_class_each_can_be_set_aside(head, head_data, n_groups, monkeypatch):
    X, _ = head_data
    groups = np.arange(len(X)) % n_groups
    y = groups % 2
    head.set_params(early_stopping=True)
    train, valid = split_made_by(head, X, y, groups, monkeypatch)
    assert not set(groups[train]) & set(groups[valid])
    assert set(y[train]) == set(y[valid]) == {0, 1}


# ---- weights of validation rows ----


def log_loss_of(clf, X, y, weight):
    p = clf.predict_proba(X)[np.arange(len(y)), y]
    return np.average(-np.log(p), weights=weight)


WEIGHT_OF_CLASS = {"balanced": (2 / 3, 2.0), None: (1.0, 1.0), "dict": (1.0, 5.0)}


@pytest.mark.parametrize("class_weight", WEIGHT_OF_CLASS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_all_rows_are_measured_by_one_rule(
    head, head_data, class_weight, weighted, given, monkeypatch
):
    """Each row counts with its weight times that of its class, computed from ``y`` of fit."""
    X, y = head_data[0], (np.arange(120) % 4 == 0).astype(int)
    weight_of_class = np.array(WEIGHT_OF_CLASS[class_weight])
    weight = np.where(np.arange(120) % 3 == 0, 3.0, 1.0) if weighted else np.ones(120)
    head.set_params(early_stopping=not given, validation_fraction=0.3, max_epochs=1)
    if class_weight == "dict":
        head.set_params(class_weight={0: 1.0, 1: 5.0})
    else:
        head.set_params(class_weight=class_weight)
    passed = weight if weighted else None
    if given:
        X_val, y_val = X[:50] + 0.1, y[50:100]
        head.fit(
            X,
            y,
            passed,
            X_val=X_val,
            y_val=y_val,
            sample_weight_val=passed[50:100] if weighted else None,
        )
        train, expected = (
            np.arange(120),
            log_loss_of(head, X_val, y_val, weight[50:100] * weight_of_class[y_val]),
        )
    else:
        seen = []
        monkeypatch.setattr(
            classifier, "set_aside", lambda *args: seen.extend(rows.set_aside(*args)) or seen
        )
        head.fit(X, y, passed)
        train, valid = seen[0].order, seen[1].order
        expected = log_loss_of(head, X[valid], y[valid], (weight * weight_of_class[y])[valid])
    measured = head.history_[0]
    assert measured["valid_loss"] == pytest.approx(expected, rel=1e-4)
    of_train = log_loss_of(head, X[train], y[train], (weight * weight_of_class[y])[train])
    assert measured["train_loss"] == pytest.approx(of_train, rel=1e-4)


def test_weights_of_validation_rows_decide_when_to_stop(head):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 20)).astype(np.float32), rng.integers(0, 2, 200)
    head.set_params(early_stopping=True, max_epochs=60, n_iter_no_change=3, lr=3e-3)
    validation = {"X_val": X[60:], "y_val": y[60:]}
    weight = np.r_[np.zeros(70), np.ones(70)]
    weighted = clone(head).fit(X[:60], y[:60], **validation, sample_weight_val=weight)
    half = clone(head).fit(X[:60], y[:60], X_val=X[130:], y_val=y[130:])
    assert [row["valid_loss"] for row in weighted.history_] == pytest.approx(
        [row["valid_loss"] for row in half.history_], rel=1e-5
    )
    assert weighted.best_epoch_ == half.best_epoch_


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sample_weight_val": np.ones(3)}, "sample_weight_val goes together with X_val and y_val"),
        (
            {"X_val": np.zeros((3, 20)), "y_val": [0, 1, 1], "sample_weight_val": np.ones(2)},
            "shape",
        ),
        (
            {"X_val": np.zeros((3, 20)), "y_val": [0, 1, 1], "sample_weight_val": -np.ones(3)},
            "egati",
        ),
        (
            {"X_val": np.zeros((3, 20)), "y_val": [0, 1, 1], "sample_weight_val": np.zeros(3)},
            "non-zero|positive weight",  # scikit-learn's words, or ours with an older one
        ),
    ],
)
def test_bad_weights_of_validation_rows(head, head_data, arguments, message):
    with pytest.raises(ValueError, match=message):
        head.fit(*head_data, **arguments)


def test_validation_rows_without_weight_may_have_other_labels(head, head_data):
    X, y = head_data
    expected = clone(head).fit(X[:60], y[:60], X_val=X[60:100], y_val=y[60:100])
    y_val, weight = y[60:].copy(), np.ones(60)
    y_val[40:], weight[40:] = 2, 0
    head.fit(X[:60], y[:60], X_val=X[60:], y_val=y_val, sample_weight_val=weight)
    assert head.history_[-1]["valid_loss"] == pytest.approx(expected.history_[-1]["valid_loss"])
    assert head.history_[-1]["valid_accuracy"] == expected.history_[-1]["valid_accuracy"]
