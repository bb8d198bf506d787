"""Tests of _core.network.training, against scikit-learn and autograd."""

import copy

import numpy as np
import pytest
import skorch
import torch
from sklearn.metrics import accuracy_score, log_loss
from torch.nn import functional as F

from sklearn_dfd._core.network.fitting import one_cycle
from sklearn_dfd._core.network.mobilenet import tail_input_shape
from sklearn_dfd._core.network.rows import Rows, distinct_rows
from sklearn_dfd._core.network.tail import Tail, Tails
from sklearn_dfd._core.network.training import (
    EVALUATION_BATCH_SIZE,
    N_MEASURED,
    TailNet,
)

N_ROWS, N_CLASSES = 600, 3
WIDTHS = {"pool": 12, 17: 320 * 4}
layers = pytest.mark.parametrize("layer", WIDTHS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_rows(layer="pool", n_rows=N_ROWS):
    rng = np.random.default_rng(0)
    y = rng.integers(0, N_CLASSES, n_rows)
    X = rng.normal(size=(n_rows, WIDTHS[layer])) + 0.3 * y[:, None]
    weight = rng.uniform(0.1, 3, n_rows)
    return Rows(X.astype(np.float32), y, (weight / weight.mean()).astype(np.float32))


@pytest.fixture
def make_net(arrays):
    def make(layer="pool", *, dropout=0.0, **kwargs):
        shape = tail_input_shape(layer, WIDTHS[layer])
        tail = Tail(layer, shape, (8,), N_CLASSES, dropout)
        tail.initialize(None if layer == "pool" else arrays, seeded())
        tail.set_dropout(dropout, seeded(1))
        options = {"generator": seeded(2), "lr": 1e-3, "batch_size": 64, "verbose": 0, **kwargs}
        return TailNet(Tails([tail]), **options).initialize()

    return make


def state_of(net):
    return {name: value.clone() for name, value in net.module_.state_dict().items()}


def assert_same_state(actual, expected):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=0, atol=0, msg=name)


def expected_gradients(module, X, y, weight, l1_factor):
    """Compute the gradients of the whole objective by autograd."""
    module = copy.deepcopy(module).train()
    module.zero_grad()
    loss = (F.cross_entropy(module(X), y, reduction="none") * weight).mean()
    penalty = sum(parameter.abs().sum() for parameter in module.parameters())
    (loss + l1_factor * penalty).backward()
    return loss.detach(), {name: p.grad for name, p in module.named_parameters()}


# what is measured


@layers
def test_measures_are_scikit_learns(make_net, layer):
    net, rows = make_net(layer, dropout=0.5), make_rows(layer)
    assert len(rows) > 2 * EVALUATION_BATCH_SIZE
    p = net.predict_proba(rows.X).astype(np.float64)
    p /= p.sum(axis=1, keepdims=True)
    loss, accuracy = net.measure(rows)
    options = {"sample_weight": rows.weight.astype(np.float64)}
    assert loss == pytest.approx(log_loss(rows.y, p, **options), rel=1e-5)
    assert accuracy == pytest.approx(accuracy_score(rows.y, p.argmax(1), **options), rel=1e-9)
    assert isinstance(loss, float) and isinstance(accuracy, float)
    unweighted = net.measure(Rows(rows.X, rows.y))
    assert unweighted == pytest.approx((log_loss(rows.y, p), accuracy_score(rows.y, p.argmax(1))))
    assert abs(unweighted[0] - loss) > 1e-4


def test_scale_of_the_weights_does_not_matter_to_measures(make_net):
    net, rows = make_net(), make_rows()
    tripled = Rows(rows.X, rows.y, 3 * rows.weight)
    assert net.measure(tripled) == pytest.approx(net.measure(rows), rel=1e-6)


def test_measures_are_of_the_rows_that_count(make_net):
    net, rows = make_net(), make_rows()
    order = np.arange(5, 300, 7)
    part = net.measure(Rows(rows.X, rows.y, rows.weight, order))
    assert part == pytest.approx(
        net.measure(Rows(rows.X[order], rows.y[order], rows.weight[order]))
    )
    assert part != pytest.approx(net.measure(rows), rel=1e-3)


@layers
@pytest.mark.parametrize("l1_factor", [0.0, 1e-4, 0.3])
def test_penalty_is_the_norm_of_all_parameters(make_net, layer, l1_factor):
    net = make_net(layer, l1_factor=l1_factor)
    norm = sum(p.detach().double().abs().sum().item() for p in net.module_.parameters())
    assert norm > 1
    assert net.penalty() == pytest.approx(l1_factor * norm, rel=1e-5)


# what is trained


@layers
@pytest.mark.parametrize("l1_factor", [0.0, 0.01])
def test_gradients_are_autograds(make_net, layer, l1_factor):
    net, rows = make_net(layer, l1_factor=l1_factor), make_rows(layer)
    with torch.no_grad():  # where |p| has no derivative
        net.module_.tails[0].head[0].weight[::2] = 0
        net.module_.tails[0].head[-1].bias.zero_()
    ((X, (y, weight)), *_) = rows.batches(64)
    loss, gradients = expected_gradients(net.module_, X, y, weight, l1_factor)
    net.module_.zero_grad()
    step = net.train_step_single((X, (y, weight)))
    torch.testing.assert_close(step["loss"].detach(), loss)
    for name, parameter in net.module_.named_parameters():
        expected = gradients[name]
        scale = max(expected.abs().max().item(), 1e-6)
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-4 * scale, msg=name)


def test_zero_parameters_get_no_push_from_the_penalty(make_net):
    rows = make_rows()
    batch = next(rows.batches(64))
    gradients = []
    for l1_factor in (0.0, 0.5):
        net = make_net(l1_factor=l1_factor)
        with torch.no_grad():
            net.module_.tails[0].head[-1].bias[:] = torch.tensor([0.0, 2.0, -2.0])
        net.module_.zero_grad()
        net.train_step_single(batch)
        gradients.append(net.module_.tails[0].head[-1].bias.grad.clone())
    torch.testing.assert_close(gradients[1] - gradients[0], torch.tensor([0.0, 0.5, -0.5]))


def test_penalty_is_added_once_a_step(make_net):
    """The gradients are zeroed between steps, and Adam sees the sum of both parts."""
    net, rows = make_net(l1_factor=0.01), make_rows()
    reference = copy.deepcopy(net.module_)
    adam = torch.optim.Adam(reference.parameters(), lr=1e-3)
    batches = list(rows.batches(64, generator=seeded(2)))
    for X, (y, weight) in batches:
        _, gradients = expected_gradients(reference, X, y, weight, 0.01)
        for name, parameter in reference.named_parameters():
            parameter.grad = gradients[name]
        adam.step()
    net.notify("on_train_begin", X=rows, y=None)
    net.fit_loop(rows, epochs=1)
    for actual, expected in zip(net.module_.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_labels_are_smoothed_as_by_hand(make_net):
    net, rows = make_net(label_smoothing=0.3), make_rows()
    X, (y, weight) = batch = next(rows.batches(64))
    smooth = 0.7 * F.one_hot(y, N_CLASSES) + 0.3 / N_CLASSES
    expected = -(smooth * F.log_softmax(net.module_(X), dim=1)).sum(1)
    torch.testing.assert_close(net.train_step_single(batch)["loss"], (expected * weight).mean())
    # what is reported is the cross-entropy itself
    loss, _ = net.measure(rows)
    logits = net.module_(torch.from_numpy(rows.X)).detach().double()
    p = torch.softmax(logits, dim=1).numpy()
    assert loss == pytest.approx(log_loss(rows.y, p, sample_weight=rows.weight), rel=1e-4)


def states_of_steps(net, rows, n_epochs):
    """Train, and return the weights after each step."""
    states, step = [], net.train_step

    def watched(*args, **kwargs):
        outcome = step(*args, **kwargs)
        states.append(state_of(net))
        return outcome

    net.train_step = watched
    net.notify("on_train_begin", X=rows, y=None)
    for _ in range(n_epochs):
        net.fit_loop(rows, epochs=1)
    return states


@layers
def test_average_is_that_of_all_steps(make_net, layer):
    rows = make_rows(layer, n_rows=200)
    states = states_of_steps(make_net(layer), rows, 3)
    net = make_net(layer, ema_decay=0.7)
    averaged = states_of_steps(net, rows, 3)
    assert len(states) == len(averaged) == 12
    for plain, other in zip(states, averaged, strict=True):  # training itself is the same
        assert_same_state(other, plain)
    expected = states[0]
    for n, state in enumerate(states[1:], start=1):
        decay = min(0.7, (1 + n) / (10 + n))
        for name, value in state.items():
            if value.is_floating_point():
                value = decay * expected[name].double() + (1 - decay) * value.double()
            expected[name] = value
    for name, value in net.module_.state_dict().items():
        torch.testing.assert_close(value, expected[name].to(value.dtype), msg=name)
    assert not torch.equal(net.module_.tails[0].head[0].weight, states[-1]["tails.0.head.0.weight"])


def test_average_is_there_after_an_interruption(make_net):
    net, rows = make_net(ema_decay=0.9), make_rows()
    states_of_steps(net, rows, 1)
    average, step, left = state_of(net), net.train_step, [2]

    def interrupted(*args, **kwargs):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        outcome = step(*args, **kwargs)
        left.append(state_of(net))
        return outcome

    net.train_step = interrupted
    with pytest.raises(KeyboardInterrupt):
        net.fit_loop(rows, epochs=1)
    decays = [min(0.9, (1 + n) / (10 + n)) for n in (10, 11)]
    for decay, state in zip(decays, left[1:], strict=True):
        average = {k: decay * average[k] + (1 - decay) * state[k] for k in average}
    for name, value in net.module_.state_dict().items():
        torch.testing.assert_close(value, average[name], msg=name)


def test_average_is_what_is_measured(make_net):
    net, rows = make_net(ema_decay=0.9), make_rows()
    net.valid_rows = rows
    states_of_steps(net, rows, 2)
    assert net.history[-1, "valid_loss"] == net.measure(rows)[0]


@pytest.mark.parametrize(("layer", "n_rows"), [("pool", 65), (17, 65), (17, 129)])
def test_one_cycle_rises_and_falls_over_all_steps(make_net, layer, n_rows):
    net, rows, seen = make_net(layer, batch_size=16), make_rows(layer, n_rows=n_rows), []
    step = net.train_step

    def watched(*args, **kwargs):
        seen.append(net.optimizer_.param_groups[0]["lr"])
        return step(*args, **kwargs)

    net.train_step = watched
    with one_cycle(net, 6 * net.n_steps(rows)):
        net.notify("on_train_begin", X=rows, y=None)
        for _ in range(6):
            net.fit_loop(rows, epochs=1)
    top = int(np.argmax(seen))
    assert len(seen) == 6 * len(list(net.get_iterator(rows, training=True)))
    assert top == pytest.approx(0.3 * len(seen) - 1, abs=1)
    assert (np.diff(seen[: top + 1]) > 0).all() and (np.diff(seen[top:]) < 0).all()
    assert max(seen) == pytest.approx(1e-3, rel=0.05) and seen[-1] < 1e-8 < 1e-5 < seen[0]
    # training that continues does so at the given learning rate
    assert net.optimizer_.param_groups[0]["lr"] == 1e-3


@pytest.mark.parametrize(("layer", "sizes"), [("pool", [64, 1]), (17, [65])])
def test_single_row_joins_for_the_sake_of_batch_norm_alone(make_net, layer, sizes):
    net = make_net(layer)
    rows = make_rows(layer, n_rows=65)
    assert [len(X) for X, _ in net.get_iterator(rows, training=True)] == sizes
    assert [len(X) for X, _ in net.get_iterator(rows)] == [64, 1]


def test_iterator_starts_anew_each_epoch(make_net):
    net, rows = make_net(), make_rows()
    iterator = net.get_iterator(rows, training=True)
    epochs = [torch.cat([X for X, _ in iterator]) for _ in range(2)]
    assert len(epochs[0]) == len(epochs[1]) == N_ROWS
    assert not torch.equal(*epochs)


@pytest.mark.parametrize("batch_size", [1, 400])
def test_evaluation_has_batches_of_its_own(make_net, batch_size):
    net = make_net(batch_size=batch_size)
    assert [len(X) for X, _ in net.get_iterator(make_rows())] == [64] * 9 + [24]


# evaluation beside training


@layers
def test_evaluation_changes_nothing(make_net, layer):
    net, rows = make_net(layer, dropout=0.5), make_rows(layer)
    before = state_of(net)
    first = net.measure(rows), net.predict_proba(rows.X[:300])
    second = net.measure(rows), net.predict_proba(rows.X[:300])
    assert first[0] == second[0]
    np.testing.assert_array_equal(first[1], second[1])
    assert_same_state(state_of(net), before)  # BatchNorm's statistics among it


@layers
def test_training_goes_on_after_evaluation_as_if_there_had_been_none(make_net, layer):
    rows = make_rows(layer)
    batch = next(rows.batches(64))
    outcomes = []
    for evaluate in (False, True):
        net = make_net(layer, dropout=0.5, l1_factor=1e-3)
        if evaluate:
            net.measure(rows)
            assert not net.module_.training
        net.train_step(batch)
        assert net.module_.training
        outcomes.append(state_of(net))
    assert_same_state(outcomes[1], outcomes[0])
    moved = [not torch.equal(v, outcomes[0][k]) for k, v in state_of(make_net(layer)).items()]
    assert all(moved)  # BatchNorm's statistics among them


def test_evaluation_step_in_training_mode_drops_and_has_gradients(make_net):
    net, rows = make_net(dropout=0.5), make_rows()
    batch = next(rows.batches(64))
    first, second = (net.evaluation_step(batch, training=True) for _ in range(2))
    assert not torch.equal(first, second) and first.requires_grad
    first, second = (net.evaluation_step(batch) for _ in range(2))
    assert torch.equal(first, second) and not first.requires_grad


# epochs


def train(net, rows, epochs):
    net.notify("on_train_begin", X=rows, y=None)
    net.fit_loop(rows, epochs=epochs)
    net.notify("on_train_end", X=rows, y=None)
    return net


TRAIN_COLUMNS = {"train_loss", "train_loss_penalized", "train_accuracy"}
VALID_COLUMNS = {"valid_loss", "valid_accuracy"}


@pytest.mark.parametrize("validated", [False, True])
def test_columns_of_the_history(make_net, validated):
    valid_rows = make_rows(n_rows=50) if validated else None
    net = make_net(dropout=0.5, l1_factor=1e-3, valid_rows=valid_rows)
    rows = make_rows(n_rows=N_MEASURED)
    for epoch in (1, 2):
        train(net, rows, epochs=1)
        assert len(net.history) == epoch
        last = net.history[-1]
        columns = {name for name in last if name.startswith(("train_", "valid_"))}
        expected = TRAIN_COLUMNS | (VALID_COLUMNS if validated else set())
        assert columns - {"train_batch_count"} == expected
        assert last["epoch"] == epoch and last["dur"] > 0
        # measured after the epoch, not averaged over it
        loss, accuracy = net.measure(rows)
        assert (last["train_loss"], last["train_accuracy"]) == (loss, accuracy)
        assert last["train_loss_penalized"] == pytest.approx(loss + net.penalty(), rel=1e-6)
        assert net.penalty() > 0
        if validated:
            assert (last["valid_loss"], last["valid_accuracy"]) == net.measure(valid_rows)
    assert net.history[1, "train_loss"] < net.history[0, "train_loss"]


def test_at_most_256_rows_of_all_classes_are_measured(make_net):
    rng, rows = np.random.default_rng(0), make_rows(n_rows=900)
    rows = distinct_rows(rows.X, (rng.random(900) < 0.1).astype(np.int64), np.ones(900))
    net = train(make_net(), rows, epochs=1)
    measured = rows.evenly(N_MEASURED)
    assert len(set(measured.order)) == N_MEASURED and set(measured.order) <= set(rows.order)
    # in each class the same share as in all, to within one row
    assert measured.y[measured.order].sum() == pytest.approx(rows.y.sum() * 256 / 900, abs=1)
    last = net.history[-1]
    assert (last["train_loss"], last["train_accuracy"]) == net.measure(measured)
    assert net.measure(measured) != net.measure(rows)
    assert rows.evenly(900) is rows


@pytest.mark.parametrize(("value", "name"), [(np.nan, "nan"), (np.inf, "inf")])
def test_loss_that_is_not_finite_names_epoch_and_batch(make_net, monkeypatch, value, name):
    net, rows = make_net(l1_factor=1e-3), make_rows(n_rows=180)  # three batches
    get_loss, calls, states = net.get_loss, [], []

    def fifth_is_lost(*args, **kwargs):
        calls.append(1)
        states.append(state_of(net))
        return get_loss(*args, **kwargs) * (value if len(calls) == 5 else 1)

    monkeypatch.setattr(net, "get_loss", fifth_is_lost)
    with pytest.raises(ValueError, match=rf"became {name} in epoch 2, batch 2\b.*lr"):
        train(net, rows, epochs=3)
    assert len(calls) == 5
    assert_same_state(state_of(net), states[-1])  # the step was not made


def test_plain_arrays_can_be_predicted(make_net):
    net, rows = make_net(), make_rows()
    assert isinstance(net, skorch.NeuralNet)
    p = net.predict_proba(rows.X)
    assert p.shape == (N_ROWS, N_CLASSES) and p.dtype == np.float32
    with torch.no_grad():
        expected = net.module_.eval()(torch.from_numpy(rows.X)).softmax(1).numpy()
    np.testing.assert_allclose(p, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(net.predict_proba(torch.from_numpy(rows.X)), p, rtol=1e-6)
    np.testing.assert_allclose(net.predict_proba(rows), p, rtol=1e-6)


def test_plain_arrays_with_labels_become_rows(make_net):
    net, rows = make_net(), make_rows()
    dataset = net.get_dataset(rows.X, rows.y)
    assert isinstance(dataset, Rows)
    np.testing.assert_array_equal(dataset.y, rows.y)
    assert net.get_dataset(rows) is rows


def test_verbose_prints_a_row_an_epoch(make_net, capsys):
    net = make_net(verbose=1, valid_rows=make_rows(n_rows=50))
    capsys.readouterr()
    train(net, make_rows(), epochs=3)
    header, rule, *lines = capsys.readouterr().out.strip().splitlines()
    assert {"epoch", *TRAIN_COLUMNS, *VALID_COLUMNS, "dur"} <= set(header.split())
    assert set(rule.split()[0]) == {"-"}
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    train(make_net(), make_rows(), epochs=1)
    assert capsys.readouterr().out == ""
