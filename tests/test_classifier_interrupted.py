"""Tests of sklearn_dfd.classifier: what is left of a training that was interrupted or failed."""

import pickle

import numpy as np
import pytest
from same_weights import assert_same_weights
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from sklearn_dfd._core.network.training import TailNet
from sklearn_dfd.exceptions import LossError

ERRORS = pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), RuntimeError("CUDA out of memory"), SystemExit(1)], ids=repr
)


@pytest.fixture
def interrupt(monkeypatch):
    """Raise an error at a step of the training, in the middle of an epoch."""
    step, steps = TailNet.train_step, []

    def at(number, error):
        steps.clear()

        def interrupted(self, batch, **kwargs):
            steps.append(batch)
            if len(steps) == number:
                raise error
            return step(self, batch, **kwargs)

        monkeypatch.setattr(TailNet, "train_step", interrupted)

    yield at
    monkeypatch.undo()


def assert_unfitted(clf, X):
    for call in (check_is_fitted, lambda clf: clf.predict(X)):
        with pytest.raises(NotFittedError):
            call(clf)
    assert not hasattr(pickle.loads(pickle.dumps(clf)), "net_")


@ERRORS
def test_before_the_first_epoch_ends_nothing_is_fitted(head, head_data, interrupt, error):
    interrupt(2, error)
    with pytest.raises(type(error)) as caught:
        head.set_params(batch_size=40).fit(*head_data)
    assert caught.value is error and "not fitted" in error.__notes__[-1]
    assert_unfitted(head, head_data[0])


@ERRORS
@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9}, {"lr_schedule": "one_cycle"}], ids=str)
def test_after_a_whole_epoch_its_weights_are_kept(head, head_data, interrupt, error, options):
    X, y = head_data
    head.set_params(batch_size=40, **options)  # three steps per epoch
    seen = []
    run = TailNet.run_single_epoch

    def watched(self, iterator, training, *args, **kwargs):
        run(self, iterator, training, *args, **kwargs)
        if training:
            seen.append({k: v.clone() for k, v in self.module_.state_dict().items()})

    interrupt(3 + 3 + 2, error)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(type(error)) as caught:
        patch.setattr(TailNet, "run_single_epoch", watched)
        head.fit(X, y)
    assert caught.value is error and "epoch 2, and can predict" in error.__notes__[-1]
    assert head.n_iter_ == head.best_epoch_ == len(head.history_) == len(head.net_.history) == 2
    for name, tensor in head.net_.module_.state_dict().items():
        np.testing.assert_array_equal(tensor, seen[1][name])
    assert np.isfinite(head.predict_proba(X)).all()
    assert head.net_.valid_rows is None
    assert head.net_.optimizer_.param_groups[0]["lr"] == head.lr
    head.partial_fit(X, y)
    assert head.n_iter_ == 3 and [row["epoch"] for row in head.history_] == [1, 2, 3]


@ERRORS
def test_with_early_stopping_the_best_epoch_is_kept(head, head_data, interrupt, error):
    X, y = head_data
    head.set_params(early_stopping=True, n_iter_no_change=50, max_epochs=50, lr=0.05, batch_size=40)
    whole = clone(head).set_params(max_epochs=9).fit(X[:80], y[:80], X_val=X[80:], y_val=y[80:])
    assert whole.best_epoch_ < 9
    interrupt(2 * 9 + 2, error)
    with pytest.raises(type(error)):
        head.fit(X[:80], y[:80], X_val=X[80:], y_val=y[80:])
    assert head.n_iter_ == 9 and head.best_epoch_ == whole.best_epoch_
    assert_same_weights(head, whole)
    assert head.net_.valid_rows is None  # a copy or a pickle of it holds no data


@ERRORS
@pytest.mark.parametrize("how", ["warm_start", "partial_fit"])
def test_going_on_that_fails_leaves_what_was_there(head, head_data, interrupt, error, how):
    X, y = head_data
    head.set_params(batch_size=40, warm_start=True).fit(X, y)
    before = clone(head).fit(X, y)
    interrupt(2, error)
    with pytest.raises(type(error)):
        head.fit(X, y) if how == "warm_start" else head.partial_fit(X, y)
    assert head.n_iter_ == head.best_epoch_ == len(head.history_) == 4
    assert_same_weights(head, before)


def test_going_on_from_the_best_epoch_that_fails_stays_there(head, head_data, interrupt):
    X, y = head_data
    head.set_params(early_stopping=True, n_iter_no_change=3, max_epochs=30, lr=0.05, batch_size=40)
    head.set_params(warm_start=True).fit(X[:80], y[:80], X_val=X[80:], y_val=y[80:])
    best, expected = head.best_epoch_, head.predict_proba(X)
    assert best < head.n_iter_
    interrupt(1, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        head.fit(X[:80], y[:80])
    assert head.best_epoch_ == best
    np.testing.assert_array_equal(head.predict_proba(X), expected)


def test_the_first_partial_fit_that_fails_is_no_fit(head, head_data, interrupt):
    interrupt(1, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        head.partial_fit(*head_data, classes=[0, 1])
    assert_unfitted(head, head_data[0])


def test_a_second_fit_that_fails_is_no_fit(head, head_data, interrupt):
    head.fit(*head_data)
    interrupt(1, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        head.fit(*head_data)
    assert_unfitted(head, head_data[0])


@pytest.mark.parametrize("where", ["on_fit_task_begin", "on_fit_task_end"])
def test_a_callback_that_fails(head, head_data, where):
    pytest.importorskip("sklearn.callback")

    class Failing:
        def setup(self, estimator, context):
            self.n = 0

        def on_fit_task_begin(self, estimator, context):
            self.count("on_fit_task_begin", context)

        def on_fit_task_end(self, estimator, context):
            self.count("on_fit_task_end", context)

        def count(self, what, context):
            self.n += what == where and context.task_name == "epoch"
            if self.n == 3:
                raise OSError("disk full")

        def teardown(self, estimator, context):
            pass

    with pytest.raises(OSError, match="disk full"):
        head.set_callbacks(Failing()).fit(*head_data)
    n = 2 if where == "on_fit_task_begin" else 3
    assert head.n_iter_ == head.best_epoch_ == n
    shorter = clone(head).set_callbacks().set_params(max_epochs=n).fit(*head_data)
    assert_same_weights(head, shorter)


def test_a_training_that_cannot_begin_is_no_fit():
    X, y = np.ones((2, 160), np.float32) * [[1], [2]], np.array([0, 1])
    from sklearn_dfd import DeepFakeClassifier

    clf = DeepFakeClassifier(weights=None, batch_size=1)
    with pytest.raises(ValueError, match="of one pixel"):
        clf.fit(X, y)
    assert_unfitted(clf, X)


def test_a_loss_that_is_not_finite_says_what_is_left(head, head_data, monkeypatch):
    get_loss, calls = TailNet.get_loss, []

    def spoiled(self, *args, **kwargs):
        calls.append(1)
        return get_loss(self, *args, **kwargs) * (np.nan if len(calls) == 5 else 1)

    monkeypatch.setattr(TailNet, "get_loss", spoiled)
    with pytest.raises(LossError, match=r"epoch 2, batch 2.*keeps the weights of epoch 1"):
        head.set_params(batch_size=40).fit(*head_data)
    assert head.n_iter_ == len(head.history_) == 1
