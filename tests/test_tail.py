"""Tests of _core.network.tail, with torchvision's own blocks as the reference."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision_reference import (
    LAYERS,
    expected_features,
    make_tail,
    photographs,
    relative_error,
    torchvision_model,
)

from sklearn_dfd._core.network.mobilenet import Trunk, feature_shape
from sklearn_dfd._core.network.tail import Dropout
from sklearn_dfd.weights import fingerprint, load_weights


def expected_logits(model, head, X, layer):
    """Compute logits by torchvision's blocks and average pool, and a head written out."""
    if layer != "pool":
        x = X.reshape(len(X), *feature_shape(layer, 64))
        for block in model.features[layer + 1 :]:
            x = block(x)
        X = F.adaptive_avg_pool2d(x, 1).flatten(1)
    X = F.relu(F.linear(X, head["0.weight"], head["0.bias"]))
    X = F.relu(F.linear(X, head["3.weight"], head["3.bias"]))
    return F.linear(X, head["6.weight"], head["6.bias"])


@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_tail_begins_as_torchvisions_blocks(reference, arrays, layer):
    X = expected_features(reference, photographs(3, 64), layer)
    tail = make_tail(arrays, layer).eval()
    logits = tail(X)
    assert logits.shape == (3, 2)
    expected = expected_logits(reference, tail.head.state_dict(), X, layer)
    assert relative_error(logits, expected) < 1e-4


@torch.no_grad()
def test_tail_begins_as_torchvisions_blocks_with_real_weights(real_weights):
    model = torchvision_model(real_weights)
    X = expected_features(model, photographs(3, 64), 15)
    tail = make_tail(load_weights(real_weights), 15).eval()
    expected = expected_logits(model, tail.head.state_dict(), X, 15)
    assert relative_error(tail(X), expected) < 1e-4


@torch.no_grad()
def test_trunk_and_tail_make_the_whole_network(reference, arrays):
    images = photographs(2, 64)
    whole = make_tail(arrays, "pool").eval()(expected_features(reference, images, "pool"))
    for layer in (0, 10, 15, 18):
        tail = make_tail(arrays, layer).eval()
        assert relative_error(tail(Trunk(arrays, layer)(images)), whole) < 1e-3


@pytest.mark.parametrize("layer", LAYERS)
def test_tail_parameters_are_torchvisions_and_the_heads(arrays, layer):
    tail = make_tail(arrays, layer, hidden=(512, 256))
    blocks = torchvision_model().features[19 if layer == "pool" else layer + 1 :]
    expected = {f"features.{n}": tuple(p.shape) for n, p in blocks.named_parameters()}
    expected |= {
        "head.0.weight": (512, 1280),
        "head.0.bias": (512,),
        "head.3.weight": (256, 512),
        "head.3.bias": (256,),
        "head.6.weight": (2, 256),
        "head.6.bias": (2,),
    }
    assert {name: tuple(p.shape) for name, p in tail.named_parameters()} == expected
    statistics = {f"features.{n}" for n, _ in blocks.named_buffers()}
    assert {name for name, _ in tail.named_buffers()} == statistics


def test_tail_of_the_method_has_as_many_parameters_as_the_method_says():
    # features[16], [17] and [18] of mobilenet_v2, then 1280-512-256-2
    blocks = 320_000 + 473_920 + 412_160
    head = 1280 * 512 + 512 + 512 * 256 + 256 + 256 * 2 + 2
    tail = make_tail(load_weights(None), 15, hidden=(512, 256))
    assert sum(p.numel() for p in tail.parameters()) == blocks + head


def test_l1_norm_of_the_real_tail_is_the_methods(real_weights):
    tail = make_tail(load_weights(real_weights), 15, hidden=(512, 256))
    assert 5.4e4 < sum(p.abs().sum().item() for p in tail.parameters()) < 7.5e4


@pytest.mark.parametrize("hidden", [(), (7,), [5, 4, 3]])
@pytest.mark.parametrize("n_classes", [2, 5])
def test_head_has_the_widths_asked_for(arrays, hidden, n_classes):
    tail = make_tail(arrays, "pool", hidden=hidden, n_classes=n_classes)
    widths = [(m.in_features, m.out_features) for m in tail.head if hasattr(m, "in_features")]
    assert widths == list(zip([1280, *hidden], [*hidden, n_classes], strict=True))
    assert tail(torch.ones(3, 1280)).shape == (3, n_classes)


def test_every_parameter_of_the_tail_is_trained(arrays):
    tail = make_tail(arrays, 14).train()
    generator = torch.Generator().manual_seed(0)
    tail.set_dropout(0.2, generator)
    X = torch.randn((4, np.prod(feature_shape(14, 64))), generator=generator)
    tail(X).square().sum().backward()
    assert [name for name, p in tail.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("layer", [10, 15, 18, "pool"])
def test_head_is_drawn_from_the_generator_alone(arrays, layer):
    before = torch.get_rng_state()
    first = make_tail(arrays, layer, seed=1).state_dict()
    torch.manual_seed(1)
    again = make_tail(arrays, layer, seed=1).state_dict()
    other = make_tail(arrays, layer, seed=2).state_dict()
    torch.set_rng_state(before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert [n for n in first if n.startswith("head") and torch.equal(first[n], other[n])] == []
    assert all(torch.equal(first[n], other[n]) for n in first if n.startswith("features"))


def test_global_generator_is_left_alone_by_trunk_and_tail(arrays):
    before = torch.get_rng_state()
    Trunk(arrays, 15)(photographs(1, 64))
    tail = make_tail(arrays, 15, dropout=0.5).train()
    tail.set_dropout(0.2, torch.Generator().manual_seed(0))
    tail(torch.ones(2, np.prod(feature_shape(15, 64))))
    assert torch.equal(torch.get_rng_state(), before)


def test_head_begins_as_linear_layers_do(arrays):
    head = make_tail(arrays, "pool", hidden=(512, 256)).head
    for i, width in ((0, 1280), (3, 512), (6, 256)):
        bound = width**-0.5
        weight = head[i].weight
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert 0 < head[i].bias.abs().max() <= bound


def train_in_place(tail, X, n_steps=3):
    tail.train().set_dropout(0.2, torch.Generator().manual_seed(0))
    y = torch.arange(len(X)) % 2
    for _ in range(n_steps):
        tail.zero_grad()
        F.cross_entropy(tail(X), y).backward()
        with torch.no_grad():
            for parameter in tail.parameters():
                parameter.sub_(0.1 * parameter.grad.sign())


@pytest.mark.parametrize("layer", [10, 15, "pool"])
@pytest.mark.parametrize("writeable", [True, False])
def test_training_does_not_reach_the_next_fold(arrays, layer, writeable):
    shared = {n: a.copy() for n, a in arrays.items()} if writeable else arrays
    before = fingerprint(shared)
    tail = make_tail(shared, layer)
    start = {name: tensor.clone() for name, tensor in tail.state_dict().items()}
    X = torch.randn(
        (6, np.prod(feature_shape(layer, 64))), generator=torch.Generator().manual_seed(0)
    )
    train_in_place(tail, X)
    trained = tail.state_dict()
    assert [name for name in start if torch.equal(trained[name], start[name])] == []
    assert fingerprint(shared) == before
    fresh = make_tail(shared, layer).state_dict()
    assert all(torch.equal(fresh[name], start[name]) for name in start)


def test_initializing_again_starts_afresh(arrays):
    tail = make_tail(arrays, "pool")
    start = {name: tensor.clone() for name, tensor in tail.state_dict().items()}
    train_in_place(tail, torch.ones(4, 1280))
    tail.initialize(arrays, torch.Generator().manual_seed(0))
    assert all(torch.equal(tensor, start[name]) for name, tensor in tail.state_dict().items())


@pytest.mark.parametrize("layer", LAYERS)
def test_has_batch_norm(arrays, layer):
    assert make_tail(arrays, layer).has_batch_norm() == (layer not in {18, "pool"})


@torch.no_grad()
def test_evaluation_of_a_tail_does_not_depend_on_neighbours_or_chance(arrays):
    X = torch.randn((5, 160 * 4), generator=torch.Generator().manual_seed(0))
    tail = make_tail(arrays, 15, dropout=0.5).eval()
    together = tail(X)
    assert torch.equal(tail(X), together)
    for i in range(5):
        assert (tail(X[i : i + 1]) - together[i]).abs().max() < 1e-5


def dropout_with(p, seed=0):
    dropout = Dropout(p).train()
    dropout.generator = torch.Generator().manual_seed(seed)
    return dropout


def test_dropout_is_the_identity_in_evaluation():
    x = torch.linspace(-3, 3, 1000)
    assert torch.equal(dropout_with(0.5).eval()(x), x)


def test_no_dropout_is_the_identity_in_training():
    x = torch.linspace(-3, 3, 1000)
    assert torch.equal(dropout_with(0.0)(x), x)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_dropout_zeroes_at_its_rate_and_scales_the_rest(p):
    x = torch.full((1000, 200), 2.0)
    dropped = dropout_with(p)(x)
    zero = dropped == 0
    spread = (p * (1 - p) / x.numel()) ** 0.5
    assert abs(zero.float().mean().item() - p) < 5 * spread
    torch.testing.assert_close(dropped[~zero], torch.full_like(dropped[~zero], 2 / (1 - p)))
    rates = zero.float().mean(0)  # of each unit: rows are drawn apart
    assert (rates - p).abs().max() < 6 * (p * (1 - p) / 1000) ** 0.5


def test_dropout_leaves_its_input_alone_and_passes_the_gradient_of_what_it_kept():
    x = torch.full((50,), 3.0, requires_grad=True)
    dropped = dropout_with(0.5)(x)
    assert (x == 3).all()
    dropped.sum().backward()
    assert torch.equal(x.grad, (dropped != 0) * 2.0)


def test_dropout_draws_from_its_own_generator_alone():
    x = torch.ones(1000)
    before = torch.get_rng_state()
    dropout = dropout_with(0.5, seed=3)
    first, second = dropout(x), dropout(x)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first, second)
    again = dropout_with(0.5, seed=3)
    torch.manual_seed(0)
    torch.rand(5)
    repeated = again(x), again(x)
    torch.set_rng_state(before)
    assert torch.equal(repeated[0], first)
    assert torch.equal(repeated[1], second)
    assert not torch.equal(dropout_with(0.5, seed=4)(x), first)


def test_every_dropout_of_a_tail_draws_from_the_generator_it_is_given(arrays):
    tail = make_tail(arrays, "pool", hidden=(6, 5, 4), dropout=0.25)
    generator = torch.Generator().manual_seed(0)
    tail.set_dropout(0.4, generator)
    layers = [module for module in tail.modules() if isinstance(module, Dropout)]
    assert len(layers) == 3
    assert all(module.generator is generator and module.p == 0.4 for module in layers)


def test_training_of_a_tail_drops_and_repeats(arrays):
    X = torch.ones(8, 1280)
    tail = make_tail(arrays, "pool", dropout=0.5).train()

    def logits(seed):
        tail.set_dropout(0.2, torch.Generator().manual_seed(seed))
        return tail(X).detach()

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))
    assert logits(1).std(0).max() > 0  # equal rows, different masks


@pytest.mark.parametrize("layer", [0, 3, 10, 13, 15, 17])
@pytest.mark.parametrize("size", [64, 224])
def test_matrix_products_equal_convolutions(arrays, layer, size):
    """In evaluation mode, values and gradients are those of torchvision's modules."""
    tail = make_tail(arrays, layer, size).eval()
    shape = feature_shape(layer, size)
    X = torch.rand(3, int(np.prod(shape)), generator=torch.Generator().manual_seed(0))
    plain = tail.head(tail.features(X.unflatten(1, shape)).mean((2, 3)))
    assert relative_error(tail(X), plain) < 1e-5
    # gradients in float64: in float32 a rounding at a kink of ReLU6 switches paths on and off
    tail, X = tail.double(), X.double().requires_grad_()
    plain = tail.head(tail.features(X.unflatten(1, shape)).mean((2, 3)))
    (gradient,) = torch.autograd.grad(tail(X).square().sum(), X)
    (expected,) = torch.autograd.grad(plain.square().sum(), X)
    assert relative_error(gradient, expected) < 1e-9
