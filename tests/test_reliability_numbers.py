"""What the package withstands: extreme features and parameters, and a loss that is not finite."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

from sklearn_dfd import DeepFakeClassifier
from sklearn_dfd._core.network import training
from sklearn_dfd._core.network.tail import Tail


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return rng.standard_normal((130, 320 * 4)).astype(np.float32), np.arange(130) % 2


@pytest.fixture(scope="module")
def tail(rows):
    parameters = {"weights": None, "hidden_layer_sizes": (8,), "max_epochs": 1, "random_state": 0}
    return DeepFakeClassifier(17, **parameters).fit(*rows)


def test_predictions_do_not_depend_on_their_neighbours(tail, rows):
    X, _ = rows
    p = tail.predict_proba(X)
    for some in (np.arange(1), np.arange(130)[::-1], np.r_[5, 5, 5], np.arange(60, 129)):
        np.testing.assert_allclose(tail.predict_proba(X[some]), p[some], rtol=0, atol=1e-5)
    beside = np.r_[X[:1], np.full((3, X.shape[1]), 1e4, np.float32)]
    np.testing.assert_allclose(tail.predict_proba(beside)[0], p[0], rtol=0, atol=1e-5)


def test_huge_features_are_named_instead_of_a_probability_of_nan(rows):
    X, y = rows
    head = DeepFakeClassifier("pool", hidden_layer_sizes=(8,), max_epochs=1, random_state=0)
    X = X.copy()
    head.fit(X, y)
    X[7] = 3e38 * np.where(np.arange(X.shape[1]) % 3, 1, -1)
    with pytest.raises(ValueError, match=r"1 of 130 rows of X, the first of them row 7\b.*scale"):
        head.predict_proba(X)
    X[7] = 1e30
    assert np.isfinite(head.predict_proba(X)).all()


def test_huge_features_in_fit():
    X = np.random.default_rng(0).choice([-3e38, 3e38], (40, 20)).astype(np.float32)
    head = DeepFakeClassifier("pool", hidden_layer_sizes=(8,), random_state=0)
    with pytest.raises(ValueError, match=r"became (nan|inf) in epoch 1, batch 1\b.*not fitted"):
        head.fit(X, np.arange(40) % 2)
    assert not hasattr(head, "net_")


@pytest.mark.parametrize(
    "extreme",
    [{"lr": 0}, {"lr": 1e3}, {"l1_factor": 0}, {"l1_factor": 1e3}, {"lr": 1, "dropout": 0.99}],
    ids=str,
)
@pytest.mark.parametrize("X", ["constant", "random"])
def test_extreme_parameters(extreme, X, rows):
    values = np.ones((40, 1280), np.float32) if X == "constant" else rows[0][:40]
    parameters = {"weights": None, "hidden_layer_sizes": (8,), "max_epochs": 2, "random_state": 0}
    tail = DeepFakeClassifier(17, **parameters).set_params(**extreme)
    try:
        tail.fit(values, np.arange(40) % 2)
    except ValueError as error:
        assert "became" in str(error)
    if hasattr(tail, "net_"):
        assert np.isfinite(tail.predict_proba(values)).all()


def spoil(monkeypatch, step):
    """Let the loss be NaN at a step of the training."""
    from sklearn_dfd._core.network.training import TailNet

    get_loss, calls = TailNet.get_loss, []

    def spoiled(self, *args, **kwargs):
        calls.append(1)
        return get_loss(self, *args, **kwargs) * (np.nan if len(calls) == step else 1)

    monkeypatch.setattr(TailNet, "get_loss", spoiled)


def test_loss_that_is_lost_leaves_the_last_good_epoch(monkeypatch, rows):
    X, y = rows
    head = DeepFakeClassifier("pool", hidden_layer_sizes=(8,), batch_size=65, random_state=0)
    expected = clone(head).set_params(max_epochs=2).fit(X, y)
    spoil(monkeypatch, 6)  # with two steps per epoch
    with pytest.raises(ValueError, match=r"nan in epoch 3, batch 2: .*weights of epoch 2, and can"):
        head.fit(X, y)
    np.testing.assert_array_equal(head.predict_proba(X), expected.predict_proba(X))
    assert (head.n_iter_, head.best_epoch_, len(head.history_)) == (2, 2, 2)
    head.partial_fit(X, y)  # continues from there
    assert head.n_iter_ == 3 and np.isfinite(head.predict_proba(X)).all()


def test_loss_that_is_lost_leaves_the_best_epoch(monkeypatch, rows):
    X, y = rows
    head = DeepFakeClassifier(
        "pool", hidden_layer_sizes=(8,), batch_size=65, random_state=0, lr=0.05, early_stopping=True
    )
    # labels that contradict those of training: the validation loss rises from the start
    best = clone(head).set_params(max_epochs=4).fit(X, y, X_val=X[::-1], y_val=y)
    spoil(monkeypatch, 10)
    with pytest.raises(ValueError, match=rf"in epoch 5, .*weights of epoch {best.best_epoch_}\b"):
        head.fit(X, y, X_val=X[::-1], y_val=y)
    assert head.best_epoch_ == best.best_epoch_ < 4
    np.testing.assert_array_equal(head.predict_proba(X), best.predict_proba(X))


def test_step_that_spoils_the_weights_is_found_at_the_end_of_the_epoch(rows):
    X, y = rows
    head = DeepFakeClassifier("pool", hidden_layer_sizes=(8,), batch_size=500, lr=1e30)
    with pytest.raises(ValueError, match=r"became .* in epoch 1, batch 1: lower lr.*not fitted"):
        head.fit(X, y)
    assert not hasattr(head, "net_")


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_predictions_do_not_depend_on_the_size_of_batches(batch_size, tail, rows, monkeypatch):
    p, sizes = tail.predict_proba(rows[0]), []
    forward = Tail.forward

    def counted(self, X, *args, **kwargs):
        sizes.append(len(X))
        return forward(self, X, *args, **kwargs)

    monkeypatch.setattr(Tail, "forward", counted)
    monkeypatch.setattr(training, "EVALUATION_BATCH_SIZE", batch_size)
    np.testing.assert_allclose(tail.predict_proba(rows[0]), p, rtol=0, atol=1e-5)
    assert max(sizes) == min(batch_size, 130)


def test_predictions_do_not_depend_on_the_number_of_threads(tail, rows):
    p = tail.predict_proba(rows[0])
    for n_threads in (1, 3):
        torch.set_num_threads(n_threads)
        np.testing.assert_allclose(tail.predict_proba(rows[0]), p, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["lr", "l1_factor"])
def test_parameters_that_float32_does_not_hold(name, rows):
    head = DeepFakeClassifier("pool", hidden_layer_sizes=(8,)).set_params(**{name: 1e38})
    with pytest.raises(ValueError, match=rf"{name}.* in the range \[0\.0?, 1e\+30\]"):
        head.fit(*rows)
