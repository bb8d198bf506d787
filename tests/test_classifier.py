import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from same_weights import assert_same_weights
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold
from torchvision.models import mobilenet_v2

from sklearn_dfd import DeepFakeClassifier
from sklearn_dfd.augmentation import View
from sklearn_dfd.weights import load_weights

# ---- the training step ----


class ChannelsLast(torch.nn.Module):
    def forward(self, x):
        return x.unflatten(1, (-1, 7, 7)).contiguous(memory_format=torch.channels_last)


class Average(torch.nn.Module):
    """An average whose gradient keeps that order, unlike that of AdaptiveAvgPool2d."""

    def forward(self, x):
        return x.sum((2, 3)) / 49


@pytest.mark.parametrize("l1_factor", [0.0, 1e-4])
@pytest.mark.parametrize("layer", [15, 17, 18])
def test_one_epoch_equals_a_plain_torch_loop(layer, l1_factor, weights_file):
    """Train torchvision's blocks and a head by a plain loop, with maps in channels-last order.

    In torch's default order rounding differs, so that an activation at the edge of ReLU6 can fall
    on the other side. If the gradient of a parameter is almost zero, Adam's step then has the
    opposite sign.
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
    start = clone(clf).set_params(lr=0.0).fit(X, y).net_.module_.tails[0].head
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
    for name, parameter in blocks.net_.module_.tails[0].features.named_parameters():
        np.testing.assert_array_equal(parameter.detach().numpy(), arrays[f"features.{name}"])


@pytest.mark.parametrize("n_samples", [2, 3, 17])
def test_few_rows_and_a_last_batch_of_one(n_samples):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_samples, 160)).astype(np.float32)  # 1 x 1: BatchNorm needs two rows
    y = np.arange(n_samples) % 2
    clf = DeepFakeClassifier(weights=None, batch_size=16, max_epochs=1).fit(X, y)
    assert np.isfinite(clf.predict_proba(X)).all()


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
        (
            np.where(np.arange(120) == 5, np.nan, 0),
            r"groups has no label in row 5 \(nan\): a row that",
        ),
        (["a", None] * 60, r"groups has no label in row 1 \(None\): a row that"),
        (np.ones((120, 2)), "pass one label per row"),
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


# ---- images in place of features ----


def images_in_all_guises():
    photo = np.zeros((40, 40, 3), np.uint8)
    image = Image.fromarray(photo)
    return {
        "array": np.stack([photo] * 4),
        "grey array": np.zeros((4, 40, 40), np.uint8),
        "paths": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"],
        "path objects": [Path("a.jpg")] * 4,
        "array of paths": np.array(["a.jpg"] * 4),
        "array of path objects": np.array(["a.jpg"] * 4, dtype=object),
        "column of an array": np.array([["a.jpg"]] * 4, dtype=object),
        "series": pd.Series(["a.jpg"] * 4, index=[9, 8, 7, 6]),
        "column": pd.DataFrame({"path": ["a.jpg"] * 4}),
        "PIL": [image] * 4,
        "list of arrays": [photo, photo[:30], photo, photo],
        "bytes": [b"\xff\xd8"] * 4,
        "views": [View(image, 0, "gentle")] * 4,
        "path": "a.jpg",
    }


@pytest.mark.parametrize("guise", images_in_all_guises())
def test_images_are_sent_to_the_step_that_takes_them(head, head_data, guise):
    X = images_in_all_guises()[guise]
    match = r"DeepFakeClassifier takes rows of features.*MobileNetV2Features.*make_deepfake_pipe"
    y = np.arange(4) % 2
    with pytest.raises(ValueError, match=match):
        head.fit(X, y)
    with pytest.raises(ValueError, match=match):
        head.partial_fit(X, y, classes=[0, 1])
    head.fit(*head_data)
    for call in (head.predict, head.predict_proba):
        with pytest.raises(ValueError, match=match):
            call(X)
    with pytest.raises(ValueError, match=f"X_val .*{match}"):
        head.fit(*head_data, X_val=X, y_val=y)


@pytest.mark.parametrize("wrap", [list, pd.DataFrame, np.asfortranarray, lambda X: X.tolist()])
def test_features_of_any_kind_are_no_images(head, head_data, wrap):
    X, y = head_data
    head.fit(wrap(X), y)
    with pytest.raises(ValueError, match=r"1D array|X has 1 feature"):
        head.predict(X[:, 0])
