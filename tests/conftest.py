"""Fixtures for all tests: weights that need no network, real data, stores, rows, guards."""

import functools
import ipaddress
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cores
import numpy as np
import pytest
import torch
from counted_extraction import PATIENCE, make_pixels, write
from sklearn.datasets import make_classification
from torchvision.models import mobilenet_v2
from torchvision_reference import torchvision_model

from sklearn_dfd import DeepFakeClassifier
from sklearn_dfd._core.images import film_process
from sklearn_dfd.feature_store import IN_PROCESS, FeatureStore, MemoryStore
from sklearn_dfd.weights import load_weights

# so that what fails in their assertions is shown
pytest.register_assert_rewrite("same_weights", "stored_rows")

# A shell that is not interactive starts jobs in the background with Ctrl-C ignored, and so would be
# all processes that are started here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# a script for the type checker, which is not run
collect_ignore = ["typed"]

# what `pytest -n auto` shares out --------------------------------------------------------------

#: Tests that start many processes or watch memory run one at a time; they last longest, so first.
ONE_AT_A_TIME = {
    "test_device_slots.py",
    "test_extraction_memory.py",
    "test_extraction_processes.py",
    "test_feature_matrix.py",
    "test_feature_store_processes.py",
    "test_reliability.py",
}
#: Files whose tests share nothing and take long.
TEST_BY_TEST = {"test_docs.py", "test_examples.py", "test_sklearn_checks.py"}


def pytest_xdist_auto_num_workers(config):
    """Give a worker to each core, within reason: each of them imports torch."""
    return min(8, cores.n_cores())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Say which tests go to the same worker: those of a file, which share its fixtures."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        name = item.path.name
        if name not in TEST_BY_TEST:
            group = "one at a time" if name in ONE_AT_A_TIME else str(item.path)
            item.add_marker(pytest.mark.xdist_group(group))
    if cores.N_WORKERS > 1:
        items.sort(key=lambda item: item.path.name not in ONE_AT_A_TIME)


_SHARED = Path(__file__).resolve().parents[2] / "shared"


def _shared(*parts):
    path = _SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{Path('..', 'shared', *parts)}, next to the repository, is not available")
    return path


@pytest.fixture(scope="session")
def real_weights():
    """Path of a mobilenet_v2 state dict that knows ImageNet."""
    return _shared("weights", "mobilenet_v2_imagenet.pth")


@pytest.fixture(scope="session")
def real_faces():
    """Directory with real and manipulated photographs, one folder per class."""
    return _shared("data", "real_and_fake_faces_160")


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory):
    """Path of a whole torchvision state dict, classifier included, with random values.

    They keep the scale of what flows through, and no BatchNorm among them is the identity.
    """
    rng = np.random.default_rng(20240229)
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in mobilenet_v2().state_dict().items()}
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
            continue
        if len(shape) > 1:
            array = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith("running_var") or name.endswith("weight"):
            array = rng.uniform(0.7, 1.4, shape)
        else:
            array = rng.normal(0, 0.1, shape)
        state[name] = torch.tensor(array, dtype=torch.float32)
    path = tmp_path_factory.mktemp("weights") / "mobilenet_v2.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="session")
def reference(weights_file):
    """torchvision's model with the weights of `weights_file`."""
    return torchvision_model(weights_file)


@pytest.fixture
def arrays(weights_file):
    """Our reading of `weights_file`."""
    return load_weights(weights_file)


@pytest.fixture
def state(weights_file):
    """A state dict of the test's own, with the weights of `weights_file`."""
    return torch.load(weights_file, weights_only=True)


# feature stores, and files to extract features of


@pytest.fixture(params=["memory", "directory"])
def any_store(request, tmp_path):
    return MemoryStore(10**9) if request.param == "memory" else FeatureStore(tmp_path / "store")


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "store")


@pytest.fixture
def pixels():
    return make_pixels(150)


@pytest.fixture
def files(pixels, tmp_path):
    (tmp_path / "images").mkdir()
    return write(tmp_path / "images", pixels)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def no_endless_waiting(monkeypatch):
    """End threads that would wait for each other forever, so that none is left behind."""
    deadline = time.monotonic() + PATIENCE
    for cls in (MemoryStore, FeatureStore):

        def claim(self, keys, owner, original=cls.claim):
            assert time.monotonic() < deadline, "nobody gets any further"
            return original(self, keys, owner)

        monkeypatch.setattr(cls, "claim", claim)


# classifiers, and rows for them


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


@pytest.fixture
def received(monkeypatch):
    """What each fit of the classifier was given."""
    calls = []
    fit = DeepFakeClassifier.fit

    @functools.wraps(fit)
    def watched(self, X, y, **metadata):
        calls.append({"n_rows": len(X), **metadata})
        return fit(self, X, y, **metadata)

    monkeypatch.setattr(DeepFakeClassifier, "fit", watched)
    return calls


# films


_IN_CHILD = """
import sys
if any("film_server" in argument for argument in sys.orig_argv):
    import os, time, ctypes
    from sklearn_dfd._core.images import film, film_file, film_server
    pixels_at = film.OpenFilm.pixels_at
    def change(self, seconds):
        name = os.path.basename(self._film.path)
        if name.startswith("segfault"):
            ctypes.string_at(0)
        if name.startswith("abort"):
            os.abort()
        if name.startswith("exit"):
            os._exit(3)
        if name.startswith("slow"):
            time.sleep(60)
        return pixels_at(self, seconds)
    film.OpenFilm.pixels_at = change
"""


@pytest.fixture
def in_child(monkeypatch, tmp_path_factory):
    """Return a function that runs code where films are decoded.

    Films whose names begin with "segfault", "abort" or "exit" end that process in this way, and one
    that is called "slow" takes a minute.
    """

    def run(code=""):
        folder = tmp_path_factory.mktemp("site")
        indented = "".join(f"    {line}\n" for line in code.splitlines())
        (folder / "sitecustomize.py").write_text(_IN_CHILD + indented)
        path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
        film_process._processes.end()

    run()
    yield run
    film_process._processes.end()


# guards


def _is_local(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in {"localhost", "", None}


def _refuse(host):
    if not _is_local(host.decode() if isinstance(host, bytes) else host):
        # not an OSError, which code that expects to be offline would take for an answer
        pytest.fail(f"a test asked for the network: {host!r}")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Fail a test at once that looks up, or connects to, another machine."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex
    create_connection, getaddrinfo = socket.create_connection, socket.getaddrinfo

    def guarded(original):
        def call(self, address):
            if self.family in {socket.AF_INET, socket.AF_INET6}:
                _refuse(address[0])
            return original(self, address)

        return call

    def guarded_create_connection(address, *args, **kwargs):
        _refuse(address[0])
        return create_connection(address, *args, **kwargs)

    def guarded_getaddrinfo(host, *args, **kwargs):
        _refuse(host)
        return getaddrinfo(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded(connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded(connect_ex))
    monkeypatch.setattr(socket, "create_connection", guarded_create_connection)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)


@pytest.fixture(autouse=True)
def no_features_from_other_tests():
    """Empty the store that all estimators of a process share."""
    IN_PROCESS.clear()
    yield
    IN_PROCESS.clear()


@pytest.fixture(autouse=True)
def same_number_of_threads():
    """Leave the next test as many of torch's threads as this one had."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
