import copy
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from torchvision.models import mobilenet_v2

from sklearn_dfd import DeepFakeClassifier, classifier, rows
from sklearn_dfd.mobilenet import architecture
from sklearn_dfd.weights import load_weights


@pytest.fixture
def head_data():
    X, y = make_classification(n_samples=120, n_features=20, random_state=0)
    return X.astype(np.float32), y


@pytest.fixture
def head():
    return DeepFakeClassifier(layer="pool", lr=1e-3, max_epochs=4, random_state=0)


@pytest.fixture(scope="module")
def block_data():
    """Rows for the blocks after layer 15: 160 channels of 2 x 2."""
    rng = np.random.default_rng(0)
    y = np.arange(50) % 2
    X = rng.normal(size=(50, 160, 2, 2)) + 0.5 * y[:, None, None, None]
    return X.reshape(50, -1).astype(np.float32), y


@pytest.fixture
def blocks():
    return DeepFakeClassifier(
        weights=None, max_epochs=2, batch_size=16, hidden_layer_sizes=(32,), random_state=0
    )


def parameters_of(classifier):
    return {k: v.cpu().numpy().copy() for k, v in classifier.net_.module_.state_dict().items()}


def assert_same_weights(a, b, atol=0.0):
    a, b = parameters_of(a), parameters_of(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=atol, err_msg=name)


# ---- the training step ----


class ChannelsLast(torch.nn.Module):
    def forward(self, x):
        return x.unflatten(1, (-1, 7, 7)).contiguous(memory_format=torch.channels_last)


class Average(torch.nn.Module):
    """Whose gradient does not lose that order, as AdaptiveAvgPool2d's does."""

    def forward(self, x):
        return x.sum((2, 3)) / 49


@pytest.mark.parametrize("l1_factor", [0.0, 1e-4])
@pytest.mark.parametrize("layer", [15, 17, 18])
def test_one_epoch_equals_a_plain_torch_loop(layer, l1_factor, weights_file):
    """Torchvision's blocks and a head, trained as anybody would, with maps in channels-last order.

    In the other order torch rounds differently, and a ReLU6 on the verge switches: where the
    gradient of a parameter is next to nothing, Adam's step then has the other sign.
    """
    rng = np.random.default_rng(1)
    X = rng.normal(size=(33, {15: 160, 17: 320, 18: 1280}[layer] * 49)).astype(np.float32)
    y = rng.integers(0, 2, 33)
    clf = DeepFakeClassifier(
        layer, weights=weights_file, dropout=0.0, lr=1e-3, l1_factor=l1_factor, random_state=3
    ).set_params(batch_size=16, max_epochs=1)

    model = mobilenet_v2()
    model.load_state_dict(torch.load(weights_file, weights_only=True))
    head = torch.nn.Sequential(
        torch.nn.Linear(1280, 512),
        torch.nn.ReLU(),
        torch.nn.Linear(512, 256),
        torch.nn.ReLU(),
        torch.nn.Linear(256, 2),
    )
    # the head at random as ours: a rate of 0 leaves it as it was
    start = clone(clf).set_params(lr=0.0).fit(X, y).net_.module_.head
    linear = [module for module in start if isinstance(module, torch.nn.Linear)]
    for mine, given in zip(head[::2], linear, strict=True):
        mine.load_state_dict(given.state_dict())
    reference = torch.nn.Sequential(
        ChannelsLast(),
        *model.features[layer + 1 :],
        Average(),
        head,
    ).train()

    clf.fit(X, y)
    order = clf._rows(X, y, np.ones(len(X))).order
    generator = torch.Generator().manual_seed(clf._order_seed)
    order = order[torch.randperm(len(order), generator=generator).numpy()]
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-3)
    # 33 rows in batches of 16 leave one over: it joins the second, but where there is no BatchNorm
    for batch in np.split(order, [16] if layer < 18 else [16, 32]):
        loss = torch.nn.functional.cross_entropy(
            reference(torch.tensor(X[batch])), torch.tensor(y[batch])
        )
        loss = loss + l1_factor * sum(p.abs().sum() for p in reference.parameters())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    pairs = list(zip(clf.net_.module_.parameters(), reference.parameters(), strict=True))
    statistics = [m for m in reference.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    ours = [m for m in clf.net_.module_.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for a, b in zip(ours, statistics, strict=True):
        pairs += [(a.running_mean, b.running_mean), (a.running_var, b.running_var)]
    assert len(pairs) > 5
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_history_is_measured_in_evaluation_mode(block_data, blocks):
    X, y = block_data
    blocks.set_params(dropout=0.5).fit(X, y)
    probabilities = blocks.predict_proba(X)
    last = blocks.history_[-1]
    loss = -np.log(probabilities[np.arange(len(y)), y]).mean()
    assert last["train_loss"] == pytest.approx(loss, rel=1e-5)
    assert last["train_accuracy"] == pytest.approx(blocks.score(X, y))
    norm = sum(p.abs().sum().item() for p in blocks.net_.module_.parameters())
    assert last["train_loss_penalized"] == pytest.approx(loss + 1e-4 * norm, rel=1e-5)
    assert [row["epoch"] for row in blocks.history_] == [1, 2]
    assert blocks.n_iter_ == blocks.best_epoch_ == 2


def test_averaged_weights_are_kept_and_predict(block_data, blocks):
    plain = clone(blocks).fit(*block_data)
    averaged = blocks.set_params(ema_decay=0.5).fit(*block_data)
    assert averaged.history_[-1]["train_loss"] != plain.history_[-1]["train_loss"]
    again = pickle.loads(pickle.dumps(averaged))
    assert_same_weights(again, averaged)
    p = averaged.predict_proba(block_data[0])[np.arange(50), block_data[1]]
    assert -np.log(p).mean() == pytest.approx(averaged.history_[-1]["train_loss"], rel=1e-4)


def test_l1_shrinks_the_norm(head_data, head):
    norms = []
    for factor in (0.0, 1e-2):
        net = clone(head).set_params(l1_factor=factor).fit(*head_data).net_
        norms.append(sum(p.abs().sum().item() for p in net.module_.parameters()))
    assert norms[1] < 0.95 * norms[0]


def test_tail_starts_from_the_given_weights(block_data, blocks):
    blocks.set_params(lr=0.0, max_epochs=1).fit(*block_data)
    arrays = load_weights(None)
    for name, parameter in blocks.net_.module_.features.named_parameters():
        np.testing.assert_array_equal(parameter.detach().numpy(), arrays[f"features.{name}"])


@pytest.mark.parametrize("n_samples", [2, 3, 17])
def test_few_rows_and_a_last_batch_of_one(n_samples):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_samples, 160)).astype(np.float32)  # 1 x 1: BatchNorm needs two rows
    y = np.arange(n_samples) % 2
    clf = DeepFakeClassifier(weights=None, batch_size=16, max_epochs=1).fit(X, y)
    assert np.isfinite(clf.predict_proba(X)).all()


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


# ---- validation rows and early stopping ----


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
    """The rows that a fit trains on, and those that it sets aside."""
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


# ---- going on from a fit ----


def test_warm_start_goes_on(head, head_data):
    X, y = head_data
    head.set_params(warm_start=True).fit(X, y)
    loss = head.history_[-1]["train_loss"]
    head.fit(X, y)
    assert [row["epoch"] for row in head.history_] == list(range(1, 9))
    assert head.history_[4]["train_loss"] < loss
    with pytest.raises(ValueError, match="warm_start=True goes on with the classes"):
        head.fit(X, y + 1)
    with pytest.raises(ValueError, match="features"):
        head.fit(X[:, 1:], y)
    with pytest.raises(ValueError, match="hidden_layer_sizes were"):
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


# ---- labels and weights of classes ----


@pytest.mark.parametrize(
    "labels",
    [["real", "fake"], [True, False], [-1, 1], [2.0, 5.0], ["a", "b", "c"], [7, 8, 9, 10]],
    ids=str,
)
def test_labels_of_any_type(labels):
    rng = np.random.default_rng(0)
    codes = np.arange(90) % len(labels)
    X = rng.normal(size=(90, 8)) + 3 * np.eye(8)[codes]
    y = np.array(labels)[codes]
    clf = DeepFakeClassifier(layer="pool", lr=3e-3, max_epochs=20, random_state=0)
    predicted = clf.fit(X, y).predict(X)
    np.testing.assert_array_equal(clf.classes_, np.unique(labels))
    assert predicted.dtype == y.dtype and (predicted == y).mean() > 0.9
    probabilities = clf.predict_proba(X)
    assert probabilities.shape == (90, len(labels)) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("given", ["balanced", {"real": 1.0, "fake": 8.0}], ids=str)
def test_class_weight(given):
    rng = np.random.default_rng(0)
    y = np.where(np.arange(180) % 9 == 0, "fake", "real")
    X = rng.normal(size=(180, 4)) + (y == "fake")[:, None]
    clf = DeepFakeClassifier(layer="pool", lr=1e-3, random_state=0)
    plain = (clone(clf).fit(X, y).predict(X) == "fake").mean()
    weighted = (clf.set_params(class_weight=given).fit(X, y).predict(X) == "fake").mean()
    assert weighted > plain + 0.1


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
    loaded.partial_fit(X, y)  # training goes on
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


# ---- search ----


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_grid_search(head_data, head, n_jobs):
    X, y = head_data
    search = GridSearchCV(
        head, {"lr": [1e-4, 1e-3], "l1_factor": [0, 1e-4]}, cv=GroupKFold(3), n_jobs=n_jobs
    ).fit(X, y, groups=np.arange(len(X)) // 4)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_params_["lr"] == 1e-3


# ---- bad input ----


def test_not_fitted():
    for call in (DeepFakeClassifier().predict, DeepFakeClassifier().predict_proba):
        with pytest.raises(NotFittedError):
            call(np.zeros((2, 7840)))


def test_rows_that_are_not_finite_are_named(head, head_data):
    X, y = head_data
    X = X.copy()
    X[3, 0], X[17, 2], X[40] = np.nan, np.inf, 1e30
    X = X.astype(np.float64)
    X[41, 0] = 1e300
    with pytest.raises(
        ValueError, match=r"NaN or infinity.*in 3 of 120 rows: 3, 17, 41\b.*on_error"
    ):
        head.fit(X, y)
    head.fit(*head_data)
    with pytest.raises(ValueError, match="rows: 3, 17"):
        head.predict(X)
    with pytest.raises(ValueError, match="X_val contains NaN"):
        head.fit(*head_data, X_val=X, y_val=y)


def test_width_that_does_not_fit_says_what_it_would_fit():
    y = np.arange(4) % 2
    with pytest.raises(
        ValueError, match=r"7840 feature\(s\).*layer=10.*64 x 14 x 14.*fit layer=14"
    ):
        DeepFakeClassifier(10, weights=None).fit(np.zeros((4, 7840)), y)
    with pytest.raises(ValueError, match=r"1280 feature\(s\).* layer='pool'|1280.*layer=pool"):
        DeepFakeClassifier(weights=None).fit(np.zeros((4, 1280)), y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.zeros(120)}, r"y has one class: 0\.0\."),
        ({"y": np.repeat("fake", 120)}, r"y has one class: 'fake'\."),
        ({"y": np.arange(119) % 2}, "inconsistent numbers of samples"),
        ({"y": np.linspace(0, 1, 120)}, "Unknown label type"),
        ({"y": np.where(np.arange(120) == 5, np.nan, 0.0)}, "NaN"),
        ({"X_val": np.zeros((3, 20))}, "y_val"),
        ({"y_val": np.zeros(3)}, "X_val"),
        ({"X_val": np.zeros((3, 19)), "y_val": np.zeros(3)}, "features"),
        ({"X_val": np.zeros((3, 20)), "y_val": [0, 1, 2]}, "y_val has labels"),
        ({"sample_weight": -np.ones(120)}, "[Nn]egative"),
        ({"sample_weight": np.ones(119)}, "sample_weight"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_arguments_of_fit(head, head_data, change, message):
    X, y = head_data
    with pytest.raises(ValueError, match=message):
        head.fit(X, **{"y": y, **change})


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (np.arange(119), "groups has 119 values for 120 rows: pass one for each"),
        (np.where(np.arange(120) == 5, np.nan, 0), r"groups has no label in row 5 \(nan\): give"),
        (["a", None] * 60, r"groups has no label in row 1 \(None\): give"),
        (np.ones((120, 2)), "pass one label for each"),
    ],
    ids=["short", "nan", "None", "two columns"],
)
def test_what_are_no_groups(head, head_data, early_stopping, groups, message):
    with pytest.raises(ValueError, match=message):
        head.set_params(early_stopping=early_stopping).fit(*head_data, groups=groups)


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("layer", 19, "layer"),
        ("layer", "pooled", "layer"),
        ("lr", -1.0, "lr"),
        ("l1_factor", -1e-4, "l1_factor"),
        ("dropout", 1.0, "dropout"),
        ("batch_size", 0, "batch_size"),
        ("max_epochs", 0, "max_epochs"),
        ("hidden_layer_sizes", (512, 0), "hidden_layer_sizes"),
        ("hidden_layer_sizes", 512, "hidden_layer_sizes"),
        ("validation_fraction", 1.0, "validation_fraction"),
        ("device", "gpu", "not a device"),
        ("device", "cuda:99", "cuda"),
    ],
)
def test_bad_parameters(head, head_data, parameter, value, message):
    with pytest.raises(ValueError, match=message):
        head.set_params(**{parameter: value}).fit(*head_data)


def test_batch_norm_on_one_pixel_needs_two_rows(block_data, blocks):
    X, y = block_data
    for change in ({"batch_size": 1}, {}):
        few = clone(blocks).set_params(**change)
        with pytest.raises(ValueError, match=r"distinct row\(s\) in batches.*of one pixel"):
            few.partial_fit(
                X[:1, :160] if not change else X[:, :160], y[:1] if not change else y, [0, 1]
            )
    clone(blocks).partial_fit(X[:1], y[:1], classes=[0, 1])  # on 2 x 2 one row will do


def test_a_loss_that_is_not_finite_stops(head, head_data):
    X, y = head_data
    with pytest.raises(
        ValueError, match=r"loss became (nan|inf) in epoch \d+, batch \d+.*lower lr"
    ):
        head.set_params(lr=1e30).fit(X, y)


def test_column_vector_of_labels_warns(head, head_data):
    X, y = head_data
    with pytest.warns(DataConversionWarning):
        head.fit(X, y[:, None])


def test_verbose_prints_a_row_an_epoch(head, head_data, capsys):
    head.fit(*head_data)
    assert capsys.readouterr().out == ""
    head.set_params(verbose=1).fit(*head_data)
    out = capsys.readouterr().out
    assert "train_loss" in out and len(out.strip().splitlines()) == 2 + 4


def test_training_does_not_change_its_input(block_data, blocks):
    X, y = block_data[0].copy(), block_data[1].copy()
    X.flags.writeable = y.flags.writeable = False
    blocks.fit(X, y)
    np.testing.assert_array_equal(X, block_data[0])


# ---- states that must not matter, or must not linger ----


@contextmanager
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
    with pytest.raises(ValueError, match="cannot set aside"):
        head.fit(X, y + 5, groups=np.zeros(len(X)))
    with pytest.raises(NotFittedError):
        head.predict(X)


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


@pytest.mark.parametrize("n_groups", [6, 10])
def test_groups_of_one_class_each_can_be_set_aside(head, head_data, n_groups, monkeypatch):
    X, _ = head_data
    groups = np.arange(len(X)) % n_groups
    y = groups % 2
    head.set_params(early_stopping=True)
    train, valid = split_made_by(head, X, y, groups, monkeypatch)
    assert not set(groups[train]) & set(groups[valid])
    assert set(y[train]) == set(y[valid]) == {0, 1}
