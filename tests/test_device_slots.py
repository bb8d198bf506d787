"""Several devices shared out. Torch computes on "cpu:0" and on "cpu:1": they stand in for GPUs."""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV, cross_validate

from sklearn_dfd import DeepFakeClassifier, MobileNetV2Features
from sklearn_dfd._core.runtime import devices
from sklearn_dfd._core.runtime.device_slots import device_slot
from sklearn_dfd.feature_store import IN_PROCESS

TWO = [torch.device("cpu:0"), torch.device("cpu:1")]
NAMES = ["cpu:0", "cpu:1"]


@pytest.fixture(autouse=True)
def locks(tmp_path, monkeypatch):
    """A separate directory for locks, in this process and in those it starts."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return str(tmp_path)


@pytest.fixture
def two_devices(monkeypatch):
    monkeypatch.setattr(devices, "_missing", lambda device: None)


def meet(directory, device):
    """Wait until both devices have been held, which takes two holders at the same time."""
    Path(directory, str(device).replace(":", "-")).touch()
    deadline = time.monotonic() + 120
    while not all(Path(directory, name.replace(":", "-")).exists() for name in NAMES):
        assert time.monotonic() < deadline, "alone all the time"
        time.sleep(0.01)


def work(directory):
    """Hold one of two devices for a while, and return which one and when."""
    tempfile.tempdir = directory
    with device_slot(TWO) as device:
        start = time.time()
        meet(directory, device)
        time.sleep(0.05)
        return str(device), start, time.time()


def assert_shared_out(held):
    """Check that no two held a device at the same time, and that both were held."""
    overlaps = [
        (first[0], second[0])
        for first, second in combinations(held, 2)
        if first[1] < second[2] and second[1] < first[2]
    ]
    assert overlaps and all(first != second for first, second in overlaps)
    assert {device for device, _, _ in held} == set(NAMES)


def test_threads_take_turns(locks):
    with ThreadPoolExecutor(4) as pool:
        assert_shared_out(list(pool.map(work, [locks] * 8)))


@pytest.mark.slow
def test_processes_take_turns(locks):
    assert_shared_out(joblib.Parallel(n_jobs=3)(joblib.delayed(work)(locks) for _ in range(6)))


def test_both_are_held_before_anybody_waits():
    barrier = threading.Barrier(2, timeout=10)
    waiting = threading.Event()
    release = threading.Event()
    order = []

    def hold():
        with device_slot(TWO) as device:
            barrier.wait()  # passed only by two at once
            waiting.set()
            release.wait(10)
            order.append("released")
            return str(device)

    def come_late():
        waiting.wait(10)
        with device_slot(TWO):
            order.append("late")

    with ThreadPoolExecutor(3) as pool:
        first, second, late = pool.submit(hold), pool.submit(hold), pool.submit(come_late)
        waiting.wait(10)
        time.sleep(0.3)
        assert order == []
        release.set()
        assert {first.result(), second.result()} == set(NAMES)
        late.result()
    assert order[0] == "released"


HOLD = """
import os, sys, time, torch
from sklearn_dfd._core.runtime.device_slots import device_slot
with device_slot([torch.device("cpu:0")]):
    {then}
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(then="pass"):
    """Another process that holds the first device; it is killed in the end."""
    command = [sys.executable, "-c", HOLD.format(then=then)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def is_free(device):
    """Return whether the device is free, so that another thread gets it at once."""
    got = threading.Event()

    def take():
        with device_slot([device]):
            got.set()

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    thread.join(1)
    return got.is_set()


def test_a_killed_worker_gives_its_device_back():
    with holder():
        assert not is_free(TWO[0])
        with device_slot(TWO) as device:
            assert device == TWO[1]
    assert is_free(TWO[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_does_not_hold_on_to_the_device():
    child = "os.fork() or (os.close(1), time.sleep(15), os._exit(0))"
    with holder(child):
        pass  # killed; its child still lives
    assert is_free(TWO[0])


def test_an_error_gives_the_device_back():
    with pytest.raises(ZeroDivisionError), device_slot(TWO[:1]):
        1 / 0  # noqa: B018
    assert is_free(TWO[0])


def test_who_holds_a_device_need_not_wait_for_itself():
    with device_slot(TWO[:1]) as outer:
        with device_slot(TWO[:1]) as inner:
            assert inner == outer
        assert not is_free(outer)  # still ours
    assert is_free(outer)


def test_a_thread_comes_back_to_its_device():
    with ThreadPoolExecutor(1) as pool:

        def second():
            with device_slot(TWO[1:]):
                pass
            with device_slot(TWO) as device:
                return device

        assert pool.submit(second).result() == TWO[1]


# ---- in estimators ----


@pytest.fixture(scope="module")
def data():
    return make_classification(n_samples=60, n_features=8, random_state=0)


@pytest.fixture
def classifier():
    return DeepFakeClassifier(
        layer="pool", hidden_layer_sizes=(4,), max_epochs=2, random_state=0, device=NAMES
    )


class Slow(DeepFakeClassifier):
    """A classifier whose fits last long enough to overlap, also in workers without fixtures."""

    def fit(self, X, y):
        tempfile.tempdir = self.weights  # not looked for with layer="pool"
        devices._missing = lambda device: None
        return super().fit(X, y)

    def _train(self, *args):
        start = time.time()
        super()._train(*args)
        meet(self.weights, self.net_.device)
        self.held_ = str(self.net_.device), start, time.time()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_fits_of_a_cross_validation_are_spread(data, locks, two_devices, backend):
    slow = Slow("pool", weights=locks, hidden_layer_sizes=(4,), max_epochs=1, device=NAMES)
    with joblib.parallel_config(backend):
        folds = cross_validate(slow, *data, cv=6, n_jobs=3, return_estimator=True)
    assert_shared_out([fitted.held_ for fitted in folds["estimator"]])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # distributed's
def test_fits_in_dask_workers_are_spread(data, locks, two_devices, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.getcwd()]))
    slow = Slow("pool", weights=locks, hidden_layer_sizes=(4,), max_epochs=1, device=NAMES)
    with (
        distributed.LocalCluster(
            n_workers=3,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            local_directory=locks,
        ) as cluster,
        distributed.Client(cluster) as client,
        joblib.parallel_config("dask"),
    ):
        client.wait_for_workers(3, timeout=120)
        folds = cross_validate(slow, *data, cv=6, return_estimator=True)
    assert_shared_out([fitted.held_ for fitted in folds["estimator"]])


def test_a_search_gives_what_one_device_gives(data, classifier, two_devices):
    search = GridSearchCV(classifier, {"lr": [1e-4, 1e-2]}, cv=3)
    with joblib.parallel_config("threading", n_jobs=2):
        spread = clone(search).fit(*data).cv_results_["mean_test_score"]
    alone = clone(search).set_params(estimator__device="cpu").fit(*data)
    np.testing.assert_allclose(spread, alone.cv_results_["mean_test_score"])


def test_training_goes_on_where_the_net_is(data, classifier, two_devices):
    with device_slot(TWO[1:]):
        pass
    classifier.partial_fit(*data, classes=[0, 1])
    assert classifier.net_.device == TWO[1]
    with device_slot(TWO[:1]):
        pass
    classifier.partial_fit(*data)
    assert classifier.net_.device == TWO[1] and classifier.n_iter_ == 2


def test_images_are_computed_on_a_device_of_their_own(two_devices, monkeypatch):
    seen = []
    network = MobileNetV2Features._network

    def watched(self, device):
        seen.append([is_free(device) for device in TWO])
        return network(self, device)

    monkeypatch.setattr(MobileNetV2Features, "_network", watched)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    features = MobileNetV2Features(weights=None, image_size=32, device=NAMES, engine="torch")
    rows = features.fit_transform(images)
    assert sorted(seen[0]) == [False, True]
    features.transform(images)  # nothing to compute: no device is needed
    assert len(seen) == 1
    IN_PROCESS.clear()
    np.testing.assert_allclose(rows, features.set_params(device="cpu").transform(images))


def test_saved_with_devices_that_are_not_here(data, classifier, two_devices, monkeypatch):
    expected = classifier.fit(*data).predict_proba(data[0])
    content = pickle.dumps(classifier)
    monkeypatch.undo()
    loaded = pickle.loads(content)  # one of the two is here
    assert loaded.net_.device == TWO[0]
    np.testing.assert_allclose(loaded.predict_proba(data[0]), expected, atol=1e-6)
    classifier.device = ["cuda:98", "cuda:99"]
    content = pickle.dumps(classifier)
    with pytest.warns(UserWarning, match="on the CPU"):
        loaded = pickle.loads(content)
    np.testing.assert_allclose(loaded.predict_proba(data[0]), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["cpu:0", "cuda:99"], "cuda:99"),
        ([], "not a device"),
        (["cpu", "gpu"], "'gpu' is not a device"),
        (["cpu", "auto"], "name each"),
        (["cpu:0", "cpu:0"], "twice"),
        ([["cpu"]], "name each"),
    ],
    ids=str,
)
def test_bad_lists(data, classifier, given, message):
    with pytest.raises(ValueError, match=message):
        classifier.set_params(device=given).fit(*data)
    with pytest.raises(ValueError, match=message):
        MobileNetV2Features(weights=None, device=given).fit(["a.jpg"])


# ---- real devices ----


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_search_over_all_gpus(data, classifier):
    names = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    classifier.set_params(device=names)
    with joblib.parallel_config("threading", n_jobs=2 * len(names)):
        folds = cross_validate(classifier, *data, cv=4 * len(names), return_estimator=True)
    assert {str(fitted.net_.device) for fitted in folds["estimator"]} == set(names)
    on_cpu = cross_validate(classifier.set_params(device="cpu"), *data, cv=4 * len(names))
    np.testing.assert_allclose(folds["test_score"], on_cpu["test_score"], atol=0.05)
