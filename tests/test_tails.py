"""Tests of several tails in one classifier, which are compared with tails trained alone."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import accuracy_score, log_loss

from sklearn_dfd import DeepFakeClassifier
from sklearn_dfd._core.network.rows import Rows
from sklearn_dfd._core.network.tail import Tail, Tails

OPTIONS = pytest.mark.parametrize(
    "options",
    [
        {},
        {"l1_factor": 1e-3, "label_smoothing": 0.1},
        {"ema_decay": 0.9, "lr_schedule": "one_cycle"},
        {"class_weight": {0: 1.0, 1: 3.0}},
    ],
)


def weights_of(clf):
    """Return one state dict per tail."""
    return [tail.state_dict() for tail in clf.net_.module_.tails]


@OPTIONS
@pytest.mark.parametrize("number", [0, 1, 2])
def test_each_learns_as_it_would_alone(number, options, blocks, block_data, monkeypatch):
    """Each has its own initial head and its own order of the rows."""
    blocks.set_params(dropout=0.0, max_epochs=1, **options)
    trained = weights_of(clone(blocks).set_params(n_tails=3).fit(*block_data))[number]
    initialize, batches = Tail.initialize, Rows.batches

    def initialize_later(tail, arrays, generator):
        for _ in range(number):
            initialize(tail, arrays, generator)
        return initialize(tail, arrays, generator)

    def later_batches(rows, batch_size, *, generator=None, **kwargs):
        for _ in range(number if generator is not None else 0):
            torch.randperm(len(rows), generator=generator)
        return batches(rows, batch_size, generator=generator, **kwargs)

    monkeypatch.setattr(Tail, "initialize", initialize_later)
    monkeypatch.setattr(Rows, "batches", later_batches)
    (alone,) = weights_of(blocks.fit(*block_data))
    for name, value in alone.items():
        torch.testing.assert_close(trained[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("changed", ["head", "order"])
def test_tails_differ(changed, head, head_data, monkeypatch):
    """The initial heads alone make them differ, and so does the order of the rows."""
    if changed == "head":
        monkeypatch.setattr(torch, "randperm", lambda n, generator: torch.arange(n))
    else:
        initialize = Tails.initialize

        def alike(tails, arrays, generator):
            initialize(tails, arrays, generator)
            for tail in tails.tails:
                tail.load_state_dict(tails.tails[0].state_dict())
            return tails

        monkeypatch.setattr(Tails, "initialize", alike)
    first, second = weights_of(head.set_params(n_tails=2, dropout=0.0).fit(*head_data))
    assert not torch.equal(first["head.0.weight"], second["head.0.weight"])


def test_probabilities_are_the_mean_of_theirs(blocks, block_data):
    X, _ = block_data
    clf = blocks.set_params(n_tails=3).fit(*block_data)
    module = clf.net_.module_.eval()
    with torch.no_grad():
        each = [tail(torch.from_numpy(X)).softmax(1).numpy() for tail in module.tails]
    assert np.ptp(each, axis=0).max() > 1e-3
    np.testing.assert_allclose(clf.predict_proba(X), np.mean(each, axis=0), atol=1e-6)


def test_the_history_is_that_of_the_mean(head, head_data):
    X, y = head_data
    clf = head.set_params(n_tails=2, l1_factor=1e-4).fit(X, y, X_val=X[:50], y_val=y[:50])
    measured, p = clf.history_[-1], clf.predict_proba(X)
    assert measured["train_loss"] == pytest.approx(log_loss(y, p), rel=1e-5)
    assert measured["train_accuracy"] == accuracy_score(y, p.argmax(1))
    assert measured["valid_loss"] == pytest.approx(log_loss(y[:50], p[:50]), rel=1e-5)
    norms = [
        sum(float(p.detach().abs().sum()) for p in tail.parameters())
        for tail in clf.net_.module_.tails
    ]
    penalty = measured["train_loss_penalized"] - measured["train_loss"]
    assert penalty == pytest.approx(1e-4 * np.mean(norms), rel=1e-4)


def test_dropout_is_another_for_each(head, head_data, monkeypatch):
    """Two tails with the same start and order of rows differ because of dropout alone."""
    monkeypatch.setattr(torch, "randperm", lambda n, generator: torch.arange(n))
    starts = DeepFakeClassifier("pool", n_tails=2, max_epochs=1, lr=0.0, random_state=0)
    starts.set_params(dropout=0.5, warm_start=True).fit(*head_data)
    first, second = starts.net_.module_.tails
    second.load_state_dict(first.state_dict())
    starts.set_params(lr=1e-3).fit(*head_data)
    assert not torch.equal(first.head[0].weight, second.head[0].weight)


def test_fits_repeat_and_are_saved(blocks, block_data):
    X, y = block_data
    clf = blocks.set_params(n_tails=2).fit(X, y)
    expected = clf.predict_proba(X)
    np.testing.assert_array_equal(clone(clf).fit(X, y).predict_proba(X), expected)
    loaded = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(loaded.predict_proba(X), expected)
    loaded.set_params(warm_start=True).fit(X, y)
    assert loaded.n_iter_ == 2 * clf.n_iter_
    with pytest.raises(
        ValueError, match=r"n_tails were \(15, \(32,\), 2\), not \(15, \(32,\), 3\)"
    ):
        loaded.set_params(n_tails=3).fit(X, y)
    with pytest.raises(ValueError, match=r"^partial_fit continues .* 2\), not \(15, \(32,\), 3\)"):
        loaded.partial_fit(X, y)


def test_files_from_before_there_were_several_go_on(blocks, block_data):
    state = blocks.fit(*block_data).__getstate__()
    state["_fitted_shape"] = state["_fitted_shape"][:2]
    del state["n_tails"]
    older = DeepFakeClassifier.__new__(DeepFakeClassifier)
    older.__setstate__(state)
    older.set_params(warm_start=True).fit(*block_data)
    assert older.n_tails == 1 and older.n_iter_ == 4


def test_early_stopping_goes_back_to_the_best_mean(head, head_data):
    X, y = head_data
    clf = head.set_params(n_tails=2, early_stopping=True, n_iter_no_change=3, lr=0.05)
    clf.set_params(max_epochs=20).fit(X[:80], y[:80], X_val=X[80:], y_val=y[80:])
    losses = [row["valid_loss"] for row in clf.history_]
    assert clf.best_epoch_ == np.argmin(losses) + 1 < clf.n_iter_
    assert log_loss(y[80:], clf.predict_proba(X[80:])) == pytest.approx(min(losses), rel=1e-5)


@pytest.mark.parametrize("n_tails", [0, 1.5, "two"])
def test_bad_numbers(head, head_data, n_tails):
    with pytest.raises(ValueError, match="n_tails"):
        head.set_params(n_tails=n_tails).fit(*head_data)
