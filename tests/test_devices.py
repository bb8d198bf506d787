"""Tests of sklearn_dfd.devices: devices that are there or not, and threads of one core each."""

import inspect
import threading
import time
import warnings
from concurrent.futures import CancelledError, ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch

from sklearn_dfd.devices import one_core_threads, own_torch_state, resolve_device
from sklearn_dfd.mobilenet import Trunk
from sklearn_dfd.weights import load_weights


@pytest.fixture
def machine(monkeypatch):
    """Make torch believe in another machine."""

    def have(n_cuda=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: n_cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n_cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return have


# resolve_device


@pytest.mark.parametrize(
    ("n_cuda", "mps", "expected"),
    [
        (0, False, "cpu"),
        (1, False, "cuda"),
        (4, False, "cuda"),
        (0, True, "mps"),
        (1, True, "cuda"),
    ],
)
@pytest.mark.parametrize("fitted", [False, True])
def test_auto_takes_the_best_there_is(machine, n_cuda, mps, expected, fitted):
    machine(n_cuda, mps)
    assert resolve_device("auto", fitted=fitted) == torch.device(expected)


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:0", "cuda:1", "mps"])
@pytest.mark.parametrize("kind", [str, torch.device])
@pytest.mark.parametrize("fitted", [False, True])
def test_device_that_is_there_is_taken_as_it_is(machine, device, kind, fitted):
    machine(n_cuda=2, mps=True)
    assert resolve_device(kind(device), fitted=fitted) == torch.device(device)


@pytest.mark.parametrize(
    ("device", "n_cuda", "match"),
    [
        ("cuda", 0, "'cuda': there is no cuda device on this machine"),
        ("cuda:0", 0, "'cuda:0': there is no cuda device on this machine"),
        ("cuda:1", 1, r"'cuda:1': this machine has 1 cuda device.*from 0"),
        ("cuda:5", 2, r"'cuda:5': this machine has 2 cuda device.*from 0"),
        ("mps", 1, "'mps': there is no mps device on this machine"),
        ("cpu:1", 0, r"'cpu:1': this machine has 1 cpu device"),
        (torch.device("cuda", 1), 1, r"'cuda:1': this machine has 1 cuda device"),
    ],
)
def test_device_that_is_not_there(machine, device, n_cuda, match):
    machine(n_cuda)
    with pytest.raises(ValueError, match=match) as caught:
        resolve_device(device)
    assert ("cuda" if n_cuda else "cpu") in str(caught.value).partition("On this machine:")[2]


@pytest.mark.parametrize(("device", "n_cuda"), [("cuda", 0), ("cuda:1", 1), ("mps", 1)])
def test_fitted_estimator_of_another_machine_predicts_on_the_cpu(machine, device, n_cuda):
    machine(n_cuda)
    with pytest.warns(UserWarning, match=f"device='{device}': .*this machine.*predicting on the"):
        assert resolve_device(device, fitted=True) == torch.device("cpu")


def test_warning_points_at_the_caller_of_the_estimator(machine):
    machine()

    def predict():  # as an estimator does, for a person
        return resolve_device("cuda", fitted=True)

    with pytest.warns(UserWarning, match="predicting on the CPU") as caught:
        here, _ = inspect.currentframe().f_lineno, predict()
    assert (caught[0].filename, caught[0].lineno) == (__file__, here)


@pytest.mark.parametrize("device", ["gpu", "meta", "xpu", "CPU ", "cuda:", "", None, 1.5, []])
@pytest.mark.parametrize("fitted", [False, True])
def test_device_that_nobody_knows(machine, device, fitted):
    machine(n_cuda=1, mps=True)
    with pytest.raises(ValueError, match=r'is not a device this package knows.*"auto", "cpu"'):
        resolve_device(device, fitted=fitted)


@pytest.mark.parametrize("n_cuda", [0, 1])
def test_number_of_a_device_that_is_not_there(machine, n_cuda):
    machine(n_cuda)
    with pytest.raises(ValueError, match=r"device='?3'?.*device"):
        resolve_device(3)


# one_core_threads


def at_once(pool, n):
    """Whether n tasks run at the same time in the pool."""
    barrier = threading.Barrier(n)

    def task():
        try:
            barrier.wait(timeout=1)
        except threading.BrokenBarrierError:
            return False
        return True

    futures = [pool.submit(task) for _ in range(n)]
    return all(future.result() for future in futures)


def idents(pool, n=24):
    """The threads that run many tasks."""

    def task(_):
        time.sleep(0.002)
        return threading.get_ident()

    return set(pool.map(task, range(n)))


@pytest.fixture
def cores(monkeypatch):
    """Make joblib and torch believe in a number of cores."""

    def have(n):
        monkeypatch.setattr(joblib, "cpu_count", lambda *_, **__: n)
        torch.set_num_threads(n)

    return have


@pytest.mark.parametrize("n_jobs", [None, 1, 2, -1])
def test_each_thread_uses_one_core(cores, n_jobs):
    cores(2)
    with one_core_threads(n_jobs) as pool:
        seen = [pool.submit(torch.get_num_threads).result() for _ in range(4)]
        seen += list(pool.map(lambda _: torch.get_num_threads(), range(8)))
    assert set(seen) == {1}


@pytest.mark.parametrize("n_jobs", [None, 1, 2])
@pytest.mark.parametrize("before", [1, 2, 3])
def test_callers_number_of_threads_is_unchanged(n_jobs, before):
    torch.set_num_threads(before)
    with one_core_threads(n_jobs) as pool:
        list(pool.map(lambda _: torch.ones(9).sum(), range(4)))
    assert torch.get_num_threads() == before
    with ThreadPoolExecutor(1) as later:  # nor that of threads to come
        assert later.submit(torch.get_num_threads).result() == before


def test_callers_number_of_threads_is_unchanged_after_an_exception():
    torch.set_num_threads(3)
    with pytest.raises(ZeroDivisionError), one_core_threads(2) as pool:
        pool.submit(lambda: 1 / 0).result()
    assert torch.get_num_threads() == 3
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == 3


def test_an_exception_does_not_wait_for_what_has_not_begun():
    begun = []

    def task(i):
        begun.append(i)
        time.sleep(0.02)

    with pytest.raises(KeyError), one_core_threads(1) as pool:
        futures = [pool.submit(task, i) for i in range(200)]
        raise KeyError
    assert len(begun) < 100
    with pytest.raises(CancelledError):
        futures[-1].result()


def test_no_thread_outlives_its_pool():
    before = set(threading.enumerate())
    with one_core_threads(2) as pool:
        list(pool.map(lambda _: time.sleep(0.01), range(4)))
        assert set(threading.enumerate()) - before
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    ("n_cores", "n_jobs", "expected"),
    [(3, None, 3), (3, 1, 1), (3, 2, 2), (3, 3, 3), (3, 8, 3), (1, 8, 1), (3, 1000, 3)],
)
def test_threads_never_outnumber_the_cores(cores, n_cores, n_jobs, expected):
    cores(n_cores)
    with one_core_threads(n_jobs) as pool:
        assert at_once(pool, expected)
        assert len(idents(pool)) <= expected


@pytest.mark.parametrize("n_jobs", [-1, -2, None, 64])
def test_threads_do_not_outnumber_the_cores_of_this_machine(n_jobs):
    torch.set_num_threads(joblib.cpu_count() + 5)
    with one_core_threads(n_jobs) as pool:
        assert len(idents(pool)) <= joblib.cpu_count()


def test_as_many_threads_as_torch_would_use(cores):
    cores(4)
    torch.set_num_threads(2)  # as joblib sees to in its workers
    with one_core_threads() as pool:
        assert at_once(pool, 2)
        assert len(idents(pool)) <= 2


@pytest.mark.parametrize(("n_cores", "expected"), [(2, 2), (4, 3)])
def test_training_keeps_to_the_cores_of_a_container(cores, n_cores, expected):
    cores(n_cores)
    torch.set_num_threads(3)
    with own_torch_state(torch.device("cpu")):
        assert torch.get_num_threads() == expected
    assert torch.get_num_threads() == 3


def test_inside_one_of_its_threads_there_is_one_thread(cores):
    cores(2)

    def inner():
        with one_core_threads() as pool:
            return len(idents(pool)), torch.get_num_threads()

    with one_core_threads() as pool:
        assert pool.submit(inner).result() == (1, 1)
    assert torch.get_num_threads() == 2


def test_no_jobs_at_all():
    with pytest.raises(ValueError, match="n_jobs"), one_core_threads(0):
        pass


def test_same_numbers_from_one_thread_as_from_many(weights_file):
    trunk = Trunk(load_weights(weights_file), 10)
    rng = np.random.default_rng(0)
    batches = torch.tensor(rng.integers(0, 256, (6, 2, 64, 64, 3), dtype=np.uint8))
    results = []
    for n_jobs in (1, 2):
        with one_core_threads(n_jobs) as pool:
            results.append(torch.cat(list(pool.map(trunk, batches))))
    assert torch.equal(results[0], results[1])


# a real device


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("layer", [10, 15, "pool"])
def test_features_on_cuda_are_those_on_the_cpu(weights_file, layer):
    rng = np.random.default_rng(0)
    images = torch.tensor(rng.integers(0, 256, (4, 224, 224, 3), dtype=np.uint8))
    trunk = Trunk(load_weights(weights_file), layer)
    expected = trunk(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        device = resolve_device("cuda")
    features = trunk.to(device)(images.to(device))
    assert features.device.type == "cuda"
    error = (features.cpu() - expected).abs().max() / expected.abs().max()
    assert error < 1e-3


def test_pools_that_overlap_restore_what_was_before_the_first():
    before = torch.get_num_threads()
    first, second = one_core_threads(), one_core_threads()
    with first:
        second.__enter__()
    second.__exit__(None, None, None)
    with ThreadPoolExecutor(1) as pool:  # a thread to come, for which torch noted a number
        assert pool.submit(torch.get_num_threads).result() == before
