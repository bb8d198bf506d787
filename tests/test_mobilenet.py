"""Tests of _core.network.mobilenet, with torchvision's own mobilenet_v2 as the reference."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torchvision_reference import (
    LAYERS,
    expected_features,
    photographs,
    relative_error,
    torchvision_model,
)

from sklearn_dfd._core.network import mobilenet
from sklearn_dfd._core.network.mobilenet import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Trunk,
    feature_shape,
    tail_input_shape,
    trunk_names,
)
from sklearn_dfd.weights import fingerprint, load_weights

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
    """Return the layers and sizes that an error message says would fit."""
    found = re.findall(r"layer=('pool'|\"pool\"|\w+) at image_size=(\d+)", message)
    return [(layer, int(size)) for layer, size in found]


@pytest.mark.parametrize(
    ("layer", "width", "fitting"),
    [
        (15, 64 * 14 * 14, ("10", 224)),
        (10, 160 * 7 * 7, ("15", 224)),
        (18, 320 * 5 * 5, ("17", 160)),
        (np.int64(3), 3 * 7 * 7, None),
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
