"""Tests of sklearn_dfd.weights: files, what can be wrong with them, and random weights."""

import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import mobilenet_v2, resnet18
from torchvision_reference import assert_same_arrays

import sklearn_dfd
from sklearn_dfd import weights
from sklearn_dfd._core.network import mobilenet
from sklearn_dfd._core.network.mobilenet import Trunk
from sklearn_dfd.exceptions import WeightsError
from sklearn_dfd.weights import fingerprint, load_weights

STEM = "features.0.0.weight"  # 32 x 3 x 3 x 3, the first convolution


@pytest.fixture
def saved(tmp_path):
    """Return a function that saves an object to a file."""

    def save(content):
        path = tmp_path / "weights.pth"
        torch.save(content, path)
        return path

    return save


# a path


@pytest.mark.parametrize("kind", [str, Path])
def test_path_is_loaded(weights_file, state, kind):
    assert_same_arrays(load_weights(kind(weights_file)), state)


def test_path_may_start_at_home(weights_file, state, monkeypatch):
    monkeypatch.setenv("HOME", str(weights_file.parent))
    assert_same_arrays(load_weights(f"~/{weights_file.name}"), state)


def test_path_named_imagenet_is_a_path(weights_file, state, tmp_path, monkeypatch):
    shutil.copyfile(weights_file, tmp_path / "imagenet")
    monkeypatch.chdir(tmp_path)
    assert_same_arrays(load_weights(Path("imagenet")), state)


def test_path_is_read_again_when_the_file_changes(saved, state):
    path = saved(state)
    first = load_weights(path)
    state[STEM] += 1
    second = load_weights(saved(state))
    np.testing.assert_allclose(second[STEM], first[STEM] + 1, rtol=1e-6)


def test_error_is_both_an_os_error_and_a_value_error():
    assert issubclass(WeightsError, OSError)
    assert issubclass(WeightsError, ValueError)
    error = pickle.loads(pickle.dumps(WeightsError("no such weights")))
    assert type(error) is WeightsError
    assert str(error) == "no such weights"


def test_missing_path(tmp_path):
    with pytest.raises(WeightsError, match=r"nowhere\.pth.*no such file"):
        load_weights(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("name", ["ImageNet", "imagnet", "IMAGENET1K_V1", "DEFAULT"])
def test_misspelt_imagenet(name):
    with pytest.raises(WeightsError, match=rf'{name}.*no such file.* weights="imagenet" for'):
        load_weights(name)


def test_path_at_home_that_is_missing_is_shown_in_full(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=rf"'~/mine.pth': .*no such file \({tmp_path}/mine.pth"):
        load_weights("~/mine.pth")


def test_directory(tmp_path):
    with pytest.raises(WeightsError, match=tmp_path.name):
        load_weights(tmp_path)


@pytest.mark.parametrize("content", [b"", b"just a text", b"\x80\x04junk", b"PK\x03\x04" * 99])
def test_file_of_another_kind(tmp_path, content):
    path = tmp_path / "odd.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"odd\.pth.*cannot be read as a state dict") as error:
        load_weights(path)
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"", "it is empty"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "a JPEG image"),
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    ],
)
def test_kind_of_file_is_named(tmp_path, start, kind):
    path = tmp_path / "odd.pth"
    path.write_bytes(start and start + bytes(100))
    with pytest.raises(WeightsError, match=rf"odd\.pth.*{kind}"):
        load_weights(path)


def test_pickled_module_is_told_to_save_its_state_dict(tmp_path):
    path = tmp_path / "module.pth"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(WeightsError) as error:
        load_weights(path)
    message = str(error.value)
    assert "torch.nn.modules.linear.Linear" in message
    assert "torch.save(model.state_dict()" in message
    assert "likely" not in message and "weights_only" not in message


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_truncated_file(weights_file, tmp_path, share):
    content = weights_file.read_bytes()
    path = tmp_path / "short.pth"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match=r"short\.pth.*cannot be read"):
        load_weights(path)


class MakesDirectory:
    """An object whose unpickling runs code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False], ids=["torch.save", "plain pickle"])
def test_code_in_a_file_is_never_run(tmp_path, state, zipped):
    proof = tmp_path / "code-was-run"
    content = {**state, STEM: MakesDirectory(str(proof))}
    path = tmp_path / "malicious.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"malicious\.pth.*cannot be read"):
        load_weights(path)
    assert not proof.exists()
    torch.load(path, weights_only=False)  # the code was there to be run
    assert proof.exists()


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3)], ids=["list", "tensor"])
def test_something_else_saved_by_torch(saved, content):
    with pytest.raises(WeightsError, match=rf"holds a {type(content).__name__}, not a state dict"):
        load_weights(saved(content))


WRAPPED = {
    "checkpoint": lambda state: {"epoch": 3, "state_dict": state},
    "parallel": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "both": lambda state: {"model": {f"net.{name}": tensor for name, tensor in state.items()}},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_hint_how_to_unwrap_a_state_dict_works(saved, state, kind, tmp_path, monkeypatch):
    with pytest.raises(WeightsError, match=r"holds a state dict .* Save it alone") as error:
        load_weights(saved(WRAPPED[kind](state)))
    _, *lines = str(error.value).splitlines()
    monkeypatch.chdir(tmp_path)
    exec("\n".join(line.strip() for line in lines), {})
    assert_same_arrays(load_weights("mobilenet_v2.pth"), state)


def test_another_architecture(saved):
    with torch.device("meta"):
        model = resnet18()
    other = {name: torch.zeros(t.shape) for name, t in model.state_dict().items()}
    with pytest.raises(WeightsError, match=rf"{STEM} is missing.*and \d+ more") as caught:
        load_weights(saved(other))
    assert "does not fit torchvision's mobilenet_v2" in str(caught.value)
    assert len(str(caught.value)) < 600


def test_wrong_width_is_named(saved):
    with torch.device("meta"):
        model = mobilenet_v2(width_mult=0.5)
    narrow = {name: torch.zeros(t.shape) for name, t in model.state_dict().items()}
    match = r"features\.0\.0\.weight is \(16, 3, 3, 3\), not \(32, 3, 3, 3\)"
    with pytest.raises(WeightsError, match=match):
        load_weights(saved(narrow))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_named(saved, state, value):
    state["features.17.conv.3.running_var"][5] = value
    with pytest.raises(WeightsError, match=r"features\.17\.conv\.3\.running_var is not finite"):
        load_weights(saved(state))


def test_values_beyond_float32_are_named(saved, state):
    state[STEM] = state[STEM].double()
    state[STEM][0, 0, 0, 0] = 1e300
    with pytest.raises(WeightsError, match=f"{STEM} is not finite"):
        load_weights(saved(state))


def test_tensor_without_values_is_named(saved, state):
    state[STEM] = state[STEM].to("meta")
    with pytest.raises(WeightsError, match=STEM):
        load_weights(saved(state))


def test_every_fault_counts(saved, state):
    del state[STEM]
    state["features.5.conv.0.0.weight"] = torch.zeros(3)
    state["features.9.conv.0.0.weight"][:] = float("nan")
    state["features.18.0.weight"] = "a string"
    with pytest.raises(WeightsError, match=r"missing.*\(3,\), not.*not finite and 1 more\."):
        load_weights(saved(state))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(saved, state, dtype):
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}
    arrays = load_weights(saved(state))
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(arrays[STEM], state[STEM].float().numpy())


def test_classifier_and_counters_are_not_needed(saved, state):
    needed = {n: t for n, t in state.items() if "classifier" not in n and "num_batches" not in n}
    assert len(needed) < len(state)
    assert_same_arrays(load_weights(saved(needed)), state)


def test_parameters_are_taken_as_well(saved, state):
    # what state_dict(keep_vars=True) and dict(model.named_parameters()) hold
    kept = {n: torch.nn.Parameter(t) if t.ndim > 1 else t for n, t in state.items()}
    assert_same_arrays(load_weights(saved(kept)), state)


def test_real_weights(real_weights):
    assert_same_arrays(load_weights(real_weights), torch.load(real_weights, weights_only=True))


# None


RANDOM_FINGERPRINT = "7f027e741cc4552c3c60d5a320d902b0"


def test_random_weights_never_change():
    # features kept in stores would be lost
    assert fingerprint(load_weights(None)) == RANDOM_FINGERPRINT


def test_random_weights_are_the_same_in_another_process():
    code = """
import sys, types
package = types.ModuleType("sklearn_dfd")
package.__path__ = [sys.argv[1]]  # as the package, without importing all of it
sys.modules["sklearn_dfd"] = package
import numpy, torch
numpy.random.seed(99)
torch.manual_seed(99)
torch.set_default_dtype(torch.float64)
from sklearn_dfd.weights import fingerprint, load_weights
print(fingerprint(load_weights(None)))
"""
    package = Path(sklearn_dfd.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code, str(package)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == fingerprint(load_weights(None)), done.stderr


@pytest.mark.parametrize("seed", [0, 1])
def test_random_weights_do_not_depend_on_global_seeds(seed):
    expected = fingerprint(load_weights(None))
    weights._random_weights.cache_clear()
    mobilenet.architecture.cache_clear()
    np_state, torch_state = np.random.get_state(), torch.get_rng_state()
    try:
        np.random.seed(seed)
        torch.manual_seed(seed)
        assert fingerprint(load_weights(None)) == expected
    finally:
        np.random.set_state(np_state)
        torch.set_rng_state(torch_state)


@pytest.mark.parametrize("random_weights", [True, False])
def test_global_generators_are_left_alone(weights_file, random_weights):
    weights._random_weights.cache_clear()
    weights._read.cache_clear()
    mobilenet.architecture.cache_clear()
    np.random.seed(random_weights + 321)
    torch.manual_seed(random_weights + 321)
    random.seed(random_weights + 321)
    before = np.random.get_state(), torch.get_rng_state(), random.getstate()
    load_weights(None if random_weights else weights_file)
    after = np.random.get_state(), torch.get_rng_state(), random.getstate()
    np.testing.assert_equal(after[0], before[0])
    assert torch.equal(after[1], before[1])
    assert after[2] == before[2]


@pytest.mark.parametrize("layer", [6, 10, 15, "pool"])
def test_random_weights_keep_the_scale_of_features(layer):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (4, 14, 14, 3), dtype=np.uint8)
    images = torch.tensor(coarse.repeat(16, axis=1).repeat(16, axis=2))
    features = Trunk(load_weights(None), layer)(images).numpy()
    assert 0.1 < features.std() < 10
    distance = np.linalg.norm(features[0] - features[1]) / np.linalg.norm(features[0])
    assert distance > 0.05


# what is returned


@pytest.mark.parametrize("random_weights", [True, False])
def test_arrays_are_read_only_and_the_dictionary_is_the_callers(weights_file, random_weights):
    source = None if random_weights else weights_file
    first = load_weights(source)
    with pytest.raises(ValueError, match="read-only"):
        first[STEM][0] = 0
    expected = sorted(first)
    first["features.0.0.weight"] = None
    del first["features.0.1.weight"]
    second = load_weights(source)
    assert sorted(second) == expected
    assert second[STEM] is not None


def test_arrays_are_shared_between_loads(weights_file):
    # every fit asks again: 9 MB must neither be read nor kept again
    first, second = load_weights(weights_file), load_weights(str(weights_file))
    assert all(first[name] is second[name] for name in first)


# fingerprint


@pytest.fixture
def few():
    rng = np.random.default_rng(0)
    return {
        "a.weight": rng.normal(size=(4, 6)).astype(np.float32),
        "b.bias": rng.normal(size=3).astype(np.float32),
    }


def test_fingerprint_is_32_hexadecimal_digits(few):
    assert len(fingerprint(few)) == 32
    int(fingerprint(few), 16)


def test_fingerprint_changes_with_a_value(few):
    changed = {**few, "b.bias": np.nextafter(few["b.bias"], np.float32(9))}
    assert fingerprint(changed) != fingerprint(few)


def test_fingerprint_changes_with_a_name(few):
    renamed = {"a.weight": few["a.weight"], "c.bias": few["b.bias"]}
    assert fingerprint(renamed) != fingerprint(few)


def test_fingerprint_changes_when_two_arrays_change_places():
    a, b = np.zeros(3, np.float32), np.ones(3, np.float32)
    assert fingerprint({"a": a, "b": b}) != fingerprint({"a": b, "b": a})


def test_fingerprint_changes_with_a_shape(few):
    changed = {**few, "a.weight": few["a.weight"].reshape(6, 4)}
    assert fingerprint(changed) != fingerprint(few)


def test_fingerprint_changes_with_an_array_less(few):
    assert fingerprint({"a.weight": few["a.weight"]}) != fingerprint(few)


def test_fingerprint_knows_neither_order_nor_layout(few):
    same = {
        "b.bias": few["b.bias"].astype(">f4"),
        "a.weight": np.asfortranarray(few["a.weight"]),
    }
    assert fingerprint(same) == fingerprint(few)
