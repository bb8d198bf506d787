"""Tests of sklearn_dfd.mobilenet and tail, with torchvision's own mobilenet_v2 as the reference."""

import re
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.models import mobilenet_v2

from sklearn_dfd import mobilenet
from sklearn_dfd.mobilenet import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Trunk,
    feature_shape,
    tail_input_shape,
    trunk_names,
)
from sklearn_dfd.tail import Dropout, Tail
from sklearn_dfd.weights import fingerprint, load_weights

LAYERS = [*range(19), "pool"]


@cache
def torchvision_model(path=None):
    """torchvision's mobilenet_v2 in evaluation mode; on the meta device without a path."""
    with torch.device("meta"):
        model = mobilenet_v2()
    if path is not None:
        model.load_state_dict(torch.load(path, weights_only=True), assign=True)
    return model.eval()


@pytest.fixture(scope="module")
def reference(weights_file):
    return torchvision_model(weights_file)


@pytest.fixture
def arrays(weights_file):
    return load_weights(weights_file)


def photographs(n_images, size, seed=0):
    """Random images with structure at several scales."""
    rng = np.random.default_rng(seed)
    image = np.zeros((n_images, size, size, 3))
    for grain in (1, 4, 16):
        cells = -(-size // grain)
        noise = rng.normal(0, 40, (n_images, cells, cells, 3))
        image += noise.repeat(grain, 1).repeat(grain, 2)[:, :size, :size]
    return torch.tensor(np.clip(image + 120, 0, 255).astype(np.uint8))


@torch.no_grad()
def expected_features(model, images, layer):
    """Features by torchvision's modules alone, as its documentation says."""
    mean = torch.tensor(IMAGENET_MEAN).reshape(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD).reshape(1, 3, 1, 1)
    x = (images.permute(0, 3, 1, 2).contiguous().float() / 255 - mean) / std
    for block in model.features[: (18 if layer == "pool" else layer) + 1]:
        x = block(x)
    if layer == "pool":
        x = F.adaptive_avg_pool2d(x, 1)
    return x.flatten(1)


def relative_error(result, expected):
    return ((result - expected).abs().max() / expected.abs().max()).item()


def make_tail(arrays, layer=15, size=64, hidden=(32, 8), n_classes=2, dropout=0.2, seed=0):
    tail = Tail(layer, feature_shape(layer, size), hidden, n_classes, dropout)
    return tail.initialize(arrays, torch.Generator().manual_seed(seed))


# shapes and names


def test_normalisation_is_that_of_the_weights():
    assert IMAGENET_MEAN == (0.485, 0.456, 0.406)
    assert IMAGENET_STD == (0.229, 0.224, 0.225)


@pytest.mark.parametrize("size", [224, 160, 96, 33])
def test_feature_shape_is_torchvisions(size):
    x = torch.empty((1, 3, size, size), device="meta")
    for layer, block in enumerate(torchvision_model().features):
        x = block(x)
        assert feature_shape(layer, size) == tuple(x.shape[1:])
    assert feature_shape("pool", size) == (x.shape[1],) == (1280,)


def test_feature_shape_of_the_method():
    assert feature_shape(15, 224) == (160, 7, 7)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("size", [224, 160, 33])
def test_tail_input_shape_is_what_the_trunk_gives(layer, size):
    shape = feature_shape(layer, size)
    assert tail_input_shape(layer, int(np.prod(shape))) == shape


@pytest.mark.parametrize("width", [1, 7, 40_000])
def test_the_head_alone_takes_any_width(width):
    assert tail_input_shape("pool", width) == (width,)


def hints(message):
    """The layers and sizes that an error names as fitting."""
    found = re.findall(r"layer=('pool'|\"pool\"|\w+) at image_size=(\d+)", message)
    return [(layer, int(size)) for layer, size in found]


@pytest.mark.parametrize(
    ("layer", "width", "fitting"),
    [
        (15, 64 * 14 * 14, ("10", 224)),
        (10, 160 * 7 * 7, ("15", 224)),
        (18, 320 * 5 * 5, ("17", 160)),
        (3, 3 * 7 * 7, None),
        (15, 1, None),
        (15, 0, None),
    ],
)
def test_features_that_do_not_fit_a_layer(layer, width, fitting):
    with pytest.raises(ValueError, match=rf"X has {width} feature.*layer={layer}\b") as caught:
        tail_input_shape(layer, width)
    message = str(caught.value)
    assert str(np.prod(feature_shape(layer, 224))) in message
    assert 'layer="pool"' in message
    if fitting:
        assert fitting in hints(message)
    else:
        assert hints(message) == []
        assert "No layer" in message


@pytest.mark.parametrize(
    ("layer", "width"), [(15, 12_544), (10, 7840), (18, 7840), (0, 1280), (15, 1280)]
)
def test_what_an_error_names_fits_and_is_named_once(layer, width):
    with pytest.raises(ValueError, match="would fit") as caught:
        tail_input_shape(layer, width)
    found = hints(str(caught.value))
    assert found
    assert len(set(found)) == len(found)
    for candidate, size in found:
        # to be typed as it stands: a number, or a quoted word
        assert candidate != "pool"
        candidate = "pool" if "pool" in candidate else int(candidate)
        assert np.prod(feature_shape(candidate, size)) == width


@pytest.mark.parametrize("layer", LAYERS)
def test_trunk_names_are_torchvisions(layer):
    last = 18 if layer == "pool" else layer
    blocks = torchvision_model().features[: last + 1]
    expected = {f"features.{name}" for name in blocks.state_dict() if "num_batches" not in name}
    assert set(trunk_names(layer)) == expected
    assert len(trunk_names(layer)) == len(expected)


def test_architecture_holds_no_values_and_draws_none():
    before = torch.get_rng_state()
    mobilenet.architecture.cache_clear()
    state = mobilenet.architecture().state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(tensor.is_meta for tensor in state.values())
    assert all(name.startswith("features.") for name in state)


# Trunk


@pytest.mark.parametrize("layer", LAYERS)
def test_trunk_is_torchvisions(reference, arrays, layer):
    images = photographs(2, 96)
    features = Trunk(arrays, layer)(images)
    assert features.dtype == torch.float32
    assert features.shape == (2, np.prod(feature_shape(layer, 96)))
    assert features.is_contiguous()
    assert not features.requires_grad
    assert relative_error(features, expected_features(reference, images, layer)) < 1e-3


@pytest.mark.parametrize("size", [33, 160, 224])
def test_trunk_is_torchvisions_at_other_sizes(reference, arrays, size):
    images = photographs(2, size)
    expected = expected_features(reference, images, 15)
    assert relative_error(Trunk(arrays, 15)(images), expected) < 1e-3


@pytest.mark.parametrize("layer", [10, 15, "pool"])
def test_trunk_is_torchvisions_with_real_weights(real_weights, layer):
    images = photographs(3, 224)
    expected = expected_features(torchvision_model(real_weights), images, layer)
    features = Trunk(load_weights(real_weights), layer)(images)
    assert relative_error(features, expected) < 1e-3


@pytest.mark.parametrize("layer", [10, 15, "pool"])
def test_rows_do_not_depend_on_their_neighbours(arrays, layer):
    images = photographs(5, 96)
    images[1] = 255
    images[3] = 0
    trunk = Trunk(arrays, layer)
    together = trunk(images)
    for i in range(5):
        assert relative_error(together[i : i + 1], trunk(images[i : i + 1])) < 1e-5


def test_trunk_is_always_in_evaluation_mode(arrays):
    images = photographs(3, 64)
    trunk = Trunk(arrays, 15)
    before = trunk(images)
    assert torch.equal(trunk.train()(images), before)
    assert torch.equal(trunk(images), before)  # no statistics have moved


def test_trunk_needs_the_weights_it_names_and_no_others(arrays):
    images = photographs(1, 64)
    names = trunk_names(6)
    needed = {name: arrays[name] for name in names}
    assert torch.equal(Trunk(needed, 6)(images), Trunk(arrays, 6)(images))
    del needed[names[-1]]
    with pytest.raises(KeyError, match=re.escape(names[-1])):
        Trunk(needed, 6)


def test_trunk_has_nothing_to_train(arrays):
    parameters = list(Trunk(arrays, 15).parameters())
    assert parameters
    assert not any(parameter.requires_grad for parameter in parameters)


def test_trunk_leaves_the_arrays_alone(arrays):
    own = {name: array.copy() for name, array in arrays.items()}  # may be written to
    trunk = Trunk(own, "pool")
    trunk(photographs(1, 64))
    assert fingerprint(own) == fingerprint(arrays)
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.zero_()
    assert fingerprint(own) == fingerprint(arrays)
    for array in own.values():
        array[...] = 0
    assert torch.isfinite(trunk(photographs(1, 64))).all()


def test_trunk_may_be_used_by_several_threads(arrays):
    trunk = Trunk(arrays, 10)
    batches = [photographs(2, 64, seed) for seed in range(8)]
    expected = [trunk(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for result, wanted in zip(pool.map(trunk, batches), expected, strict=True):
            assert relative_error(result, wanted) < 1e-5


# Tail


def expected_logits(model, head, X, layer):
    """Logits by torchvision's blocks, its average pool, and a head written out."""
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
    tail.set_generator(generator)
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
    tail.set_generator(torch.Generator().manual_seed(0))
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
    tail.train().set_generator(torch.Generator().manual_seed(0))
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


# Dropout


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
    tail.set_generator(generator)
    layers = [module for module in tail.modules() if isinstance(module, Dropout)]
    assert len(layers) == 3
    assert all(module.generator is generator and module.p == 0.25 for module in layers)


def test_training_of_a_tail_drops_and_repeats(arrays):
    X = torch.ones(8, 1280)
    tail = make_tail(arrays, "pool", dropout=0.5).train()

    def logits(seed):
        tail.set_generator(torch.Generator().manual_seed(seed))
        return tail(X).detach()

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))
    assert logits(1).std(0).max() > 0  # equal rows, different masks
