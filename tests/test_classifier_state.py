"""Tests of sklearn_dfd.classifier: what a fit depends on and leaves behind, and saved files."""

import contextlib
import copy
import io
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from same_weights import assert_same_weights, parameters_of
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, cross_validate
from sklearn.utils.class_weight import compute_class_weight

from sklearn_dfd import DeepFakeClassifier
from sklearn_dfd._core.network.mobilenet import architecture

# ---- repeatable, and nothing carried over ----


def test_same_seed_same_weights_whatever_the_global_state(block_data, blocks):
    torch.manual_seed(1)
    np.random.seed(1)
    first = clone(blocks).fit(*block_data)
    torch.manual_seed(2)
    np.random.seed(2)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    second = clone(blocks).fit(*block_data)
    assert_same_weights(first, second)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    other = clone(blocks).set_params(random_state=1).fit(*block_data)
    assert not np.array_equal(
        first.predict_proba(block_data[0]), other.predict_proba(block_data[0])
    )


def test_fit_starts_afresh(block_data, blocks):
    X, y = block_data
    once = clone(blocks).fit(X, y)
    twice = clone(blocks).fit(X[::-1], 1 - y).fit(X, y)
    assert_same_weights(once, twice)
    assert len(twice.history_) == 2


def test_folds_share_nothing(block_data, blocks):
    X, y = block_data
    groups = np.arange(50) // 5
    folds = cross_validate(
        blocks, X, y, groups=groups, cv=GroupKFold(2), return_estimator=True, return_indices=True
    )
    train = folds["indices"]["train"][1]
    assert_same_weights(folds["estimator"][1], clone(blocks).fit(X[train], y[train]))


def test_fits_in_threads_do_not_disturb_each_other(block_data, blocks):
    alone = clone(blocks).fit(*block_data)
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda _: clone(blocks).fit(*block_data), range(4)))
    for other in together:
        assert_same_weights(alone, other, atol=1e-6)


def test_same_weights_in_another_process(head_data, head, tmp_path):
    joblib.dump((head, *head_data), tmp_path / "in")
    code = (
        "import joblib, sys; clf, X, y = joblib.load(sys.argv[1]);"
        "joblib.dump(clf.fit(X, y).predict_proba(X), sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "in", tmp_path / "out"], check=True)
    expected = head.fit(*head_data).predict_proba(head_data[0])
    np.testing.assert_allclose(joblib.load(tmp_path / "out"), expected, rtol=0, atol=1e-6)


def test_weights_equal_copies_and_order_does_not_matter(block_data, blocks):
    X, y = block_data
    counts = np.random.default_rng(0).integers(0, 4, len(X))
    weighted = clone(blocks).fit(X, y, sample_weight=counts)
    repeated = clone(blocks).fit(np.repeat(X, counts, axis=0), np.repeat(y, counts))
    assert_same_weights(weighted, repeated)
    scaled = clone(blocks).fit(X[::-1], y[::-1], sample_weight=counts[::-1] * 8.0)
    assert_same_weights(weighted, scaled)


# ---- continuing from a fit ----


def test_warm_start_goes_on(head, head_data):
    X, y = head_data
    head.set_params(warm_start=True).fit(X, y)
    loss = head.history_[-1]["train_loss"]
    head.fit(X, y)
    assert [row["epoch"] for row in head.history_] == list(range(1, 9))
    assert head.history_[4]["train_loss"] < loss
    with pytest.raises(ValueError, match="warm_start=True continues with the classes"):
        head.fit(X, y + 1)
    with pytest.raises(ValueError, match="features"):
        head.fit(X[:, 1:], y)
    with pytest.raises(ValueError, match="hidden_layer_sizes and n_tails were"):
        head.set_params(hidden_layer_sizes=(8,)).fit(X, y)


def test_partial_fit(head, head_data):
    X, y = head_data
    with pytest.raises(ValueError, match="classes"):
        clone(head).partial_fit(X, y)
    head.partial_fit(X[y == 0], y[y == 0], classes=[0, 1])  # a batch of one class will come
    for _ in range(15):
        head.partial_fit(X, y)
    assert head.n_iter_ == 16 and head.score(X, y) > 0.9
    with pytest.raises(ValueError, match="is not what came before"):
        head.partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="not among the classes"):
        head.partial_fit(X, y + 1)
    with pytest.raises(ValueError, match="features"):
        head.partial_fit(X[:, 1:], y)


def test_partial_fit_equals_fit_epoch_by_epoch(head, head_data):
    whole = clone(head).fit(*head_data)
    for _ in range(4):
        head.partial_fit(*head_data, classes=[0, 1])
    assert_same_weights(whole, head)


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 1e-5},
        {"l1_factor": 1e-2},
        {"dropout": 0.7},
        {"batch_size": 7},
        {"label_smoothing": 0.3},
        {"ema_decay": 0.5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_partial_fit_takes_the_parameters_of_the_call(head, head_data, change):
    same, changed = clone(head), clone(head)
    for classifier, params in ((same, {}), (changed, change)):
        classifier.partial_fit(*head_data, classes=[0, 1])
        classifier.set_params(**params).partial_fit(*head_data)
    with pytest.raises(AssertionError):
        assert_same_weights(changed, same, atol=1e-6)


def test_partial_fit_learns_at_the_present_rate(head, head_data):
    before = head.partial_fit(*head_data, classes=[0, 1]).predict_proba(head_data[0])
    head.set_params(lr=1e-12, l1_factor=0.0).partial_fit(*head_data)
    np.testing.assert_allclose(head.predict_proba(head_data[0]), before, atol=1e-5)
    head.set_params(verbose=1)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        head.partial_fit(*head_data)
    assert "train_loss" in out.getvalue()


@pytest.mark.parametrize(
    "params", [{"lr": -1e-3}, {"l1_factor": -1.0}, {"batch_size": 0}, {"dropout": 1.5}], ids=str
)
def test_partial_fit_checks_the_parameters_of_the_call(head, head_data, params):
    head.partial_fit(*head_data, classes=[0, 1])
    before = copy.deepcopy(head)
    with pytest.raises(ValueError, match=f"'{next(iter(params))}' parameter"):
        head.set_params(**params).partial_fit(*head_data)
    assert_same_weights(head, before)


def test_one_row_on_maps_of_one_pixel_spoils_nothing():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 160)).astype(np.float32), np.arange(20) % 2
    clf = DeepFakeClassifier(15, weights=None, max_epochs=1, hidden_layer_sizes=(4,))
    before = clf.fit(X, y).predict_proba(X)
    with pytest.raises(ValueError, match="two or more"):
        clf.set_params(batch_size=1).fit(X, y)
    with pytest.raises(ValueError, match="two or more"):
        clf.partial_fit(X, y)
    np.testing.assert_array_equal(clf.predict_proba(X), before)


def test_going_on_after_early_stopping_begins_at_the_best_epoch(head, head_data):
    """Not at the last one, whose weights the average and the optimizer had followed."""
    X, y = head_data
    head.set_params(early_stopping=True, n_iter_no_change=2, max_epochs=60, lr=0.05, ema_decay=0.9)
    head.fit(X, y)
    assert head.best_epoch_ < head.n_iter_
    again = copy.deepcopy(head)
    for classifier in (head, again):
        classifier.set_params(lr=1e-7, l1_factor=0.0).partial_fit(X, y)
    assert_same_weights(head, again, atol=1e-4)


def test_partial_fit_cannot_balance_classes(head, head_data):
    X, y = head_data
    head.set_params(class_weight="balanced")
    with pytest.raises(ValueError, match=r"dict\(zip\(classes, compute_class_weight") as caught:
        head.partial_fit(X[y == 0], y[y == 0], classes=[0, 1])
    classes, all_labels = [0, 1], y
    hint = re.search(r"dict\(zip.*?\)\)\)", str(caught.value)).group()
    names = {"classes": classes, "all_labels": all_labels}
    given = eval(hint, {"compute_class_weight": compute_class_weight, "np": np, **names})
    head.set_params(class_weight=given).partial_fit(X[y == 0], y[y == 0], classes=[0, 1])
    assert head.n_iter_ == 1


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        (lambda clf, X, y: clf.fit(X[:, 1:], np.zeros(len(X))), "two classes"),
        (lambda clf, X, y: clf.fit(np.full((120, 3), np.nan), y), "NaN"),
        (lambda clf, X, y: clf.fit(X[:, 1:], y, groups=[1]), "groups has 1 values"),
        (lambda clf, X, y: clf.fit(X[:, 1:], y, X_val=X), "go together"),
    ],
    ids=["one class", "NaN", "groups", "X_val"],
)
def test_a_refused_fit_leaves_the_earlier_one(head, head_data, fit, message):
    X, y = head_data
    before = head.fit(X, y).predict_proba(X)
    with pytest.raises(ValueError, match=message):
        fit(head, X, y)
    assert head.n_features_in_ == 20
    for left in (head, pickle.loads(pickle.dumps(head))):
        np.testing.assert_allclose(left.predict_proba(X), before, atol=1e-6)


def test_one_cycle_of_a_single_step_learns(head, head_data):
    X, y = head_data
    head.set_params(max_epochs=1, batch_size=len(X))
    constant = clone(head).fit(X, y)
    assert_same_weights(constant, head.set_params(lr_schedule="one_cycle").fit(X, y))


# ---- persistence ----


def test_unfitted_pickles_are_small():
    assert len(pickle.dumps(DeepFakeClassifier())) < 600


def test_saved_and_loaded(block_data, blocks, tmp_path):
    X, y = block_data
    blocks.fit(X, y)
    joblib.dump(blocks, tmp_path / "clf.joblib")
    loaded = joblib.load(tmp_path / "clf.joblib")
    np.testing.assert_array_equal(loaded.predict_proba(X), blocks.predict_proba(X))
    n_bytes = sum(array.nbytes for array in parameters_of(blocks).values())
    assert (tmp_path / "clf.joblib").stat().st_size < 1.1 * n_bytes
    assert loaded.history_ == blocks.history_
    loaded.partial_fit(X, y)  # training continues
    assert loaded.n_iter_ == blocks.n_iter_ + 1


def test_loaded_without_the_device_of_the_training(block_data, blocks):
    X, y = block_data
    expected = blocks.fit(X, y).predict_proba(X)
    blocks.device = "cuda:99"
    content = pickle.dumps(blocks)
    with pytest.warns(UserWarning, match=r"cuda:99.* on the CPU"):
        loaded = pickle.loads(content)
    np.testing.assert_array_equal(loaded.predict_proba(X), expected)


def test_net_is_a_skorch_net(head_data, head):
    import skorch

    head.fit(*head_data)
    assert isinstance(head.net_, skorch.NeuralNet)
    np.testing.assert_allclose(
        head.net_.predict_proba(head_data[0]), head.predict_proba(head_data[0])
    )


def test_copies_of_a_fitted_classifier_are_independent(head_data, head):
    head.fit(*head_data)
    before = head.predict_proba(head_data[0])
    copy.deepcopy(head).set_params(warm_start=True).fit(*head_data)
    np.testing.assert_array_equal(head.predict_proba(head_data[0]), before)


# ---- states that must not matter, or must not linger ----


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize(
    "state",
    [
        lambda: default_dtype(torch.float64),
        lambda: torch.device("meta"),
        torch.inference_mode,
        torch.no_grad,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    ],
    ids=["float64", "meta", "inference_mode", "no_grad", "autocast"],
)
def test_what_the_caller_switched_on_in_torch_does_not_matter(block_data, blocks, state):
    X, y = block_data
    expected = clone(blocks).fit(X, y)
    architecture.cache_clear()
    with state():
        fitted = clone(blocks).fit(X, y).partial_fit(X, y)
        probabilities = pickle.loads(pickle.dumps(fitted)).predict_proba(X)
    expected.partial_fit(X, y)
    assert_same_weights(fitted, expected)
    np.testing.assert_array_equal(probabilities, expected.predict_proba(X))


def test_a_failed_fit_leaves_no_half_fitted_classifier(head, head_data):
    X, y = head_data
    head.set_params(early_stopping=True).fit(X, y)
    before = head.predict_proba(X)
    with pytest.raises(ValueError, match="cannot set aside"):
        head.fit(X, y + 5, groups=np.zeros(len(X)))
    np.testing.assert_array_equal(head.predict_proba(X), before)
    assert head.classes_.tolist() == [0, 1] and len(head.history_) == head.n_iter_ == 4


@pytest.mark.parametrize(
    ("params", "fit", "message"),
    [
        ({}, {"X": np.zeros((50, 7), np.float32)}, "layer"),
        ({"device": "cuda:99"}, {}, "device|CUDA"),
        ({"hidden_layer_sizes": (0,)}, {}, "hidden_layer_sizes"),
        ({"weights": "absent.pth", "layer": 15}, {}, "absent"),
        ({}, {"X_val": np.zeros((2, 640), np.float32), "y_val": [0, 7]}, "not among the classes"),
    ],
    ids=["width", "device", "sizes", "weights", "X_val"],
)
def test_other_refusals_leave_the_earlier_fit(blocks, block_data, params, fit, message):
    X, y = block_data
    before = blocks.fit(X, y).predict_proba(X)
    usual = {name: getattr(blocks, name) for name in params}
    with pytest.raises((ValueError, OSError), match=message):
        blocks.set_params(**params).fit(**{"X": X, "y": y, **fit})
    np.testing.assert_array_equal(blocks.set_params(**usual).predict_proba(X), before)


def test_parameters_set_after_fit_do_not_spoil_the_file(head, head_data):
    X, y = head_data
    expected = head.fit(X, y).predict_proba(X)
    head.set_params(hidden_layer_sizes=(9,), layer=15, dropout=0.5)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(head)).predict_proba(X), expected)


def test_going_on_does_not_repeat_the_first_epochs(head, head_data):
    X, y = head_data
    head.set_params(warm_start=True, lr=0.0).fit(X, y)
    first = torch.randperm(9, generator=head.net_.generator.clone_state())
    head.fit(X, y)
    assert not torch.equal(first, torch.randperm(9, generator=head.net_.generator.clone_state()))


def test_a_class_without_weight_is_left_out(head):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 5)), np.arange(60) % 3
    head.fit(X, y, sample_weight=(y < 2).astype(float))
    np.testing.assert_array_equal(head.classes_, [0, 1])
    without = clone(head).fit(X[y < 2], y[y < 2])
    assert_same_weights(head, without)
