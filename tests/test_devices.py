"""Tests of _core.runtime.devices: devices that may be missing, and threads of one core each."""

import os
import pickle
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import CancelledError, ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import cross_val_predict

from sklearn_dfd import (
    DeepFakeClassifier,
    MobileNetV2Features,
    features,
    make_deepfake_pipeline,
)
from sklearn_dfd._core.network.engines import torch_engine
from sklearn_dfd._core.network.mobilenet import Trunk
from sklearn_dfd._core.runtime.devices import (
    in_halves,
    one_core_threads,
    own_torch_state,
    resolve_device,
)
from sklearn_dfd.feature_store import IN_PROCESS
from sklearn_dfd.weights import load_weights


@pytest.fixture
def machine(monkeypatch):
    """Let torch report the devices of another machine."""

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


def warned_at_once(call, match="predicting on the CPU"):
    """Check that a call warns once, at the line of the call in this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert len(caught) == 1
    assert match in str(caught[0].message)
    assert (caught[0].filename, caught[0].lineno) == (__file__, call.__code__.co_firstlineno)


@pytest.fixture(scope="module")
def of_another_machine():
    """A fitted pipeline whose device is not on this machine, and its images."""
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    pipe = make_deepfake_pipeline(
        weights=None, image_size=32, max_epochs=1, hidden_layer_sizes=(4,), random_state=0
    ).fit(images, np.arange(8) % 2)
    return pipe.set_params(features__device="cuda:77", classifier__device="cuda:77"), images


def test_warning_points_at_the_line_of_the_user_and_comes_once(of_another_machine):
    pipe, images = of_another_machine
    y = np.arange(8) % 2
    IN_PROCESS.clear()
    warned_at_once(lambda: pipe[0].transform(images))
    IN_PROCESS.clear()
    warned_at_once(lambda: pipe.predict(images))
    IN_PROCESS.clear()
    fold = [(np.array([0]), np.arange(8))]
    warned_at_once(lambda: cross_val_predict(FrozenEstimator(pipe), images, y, cv=fold))


def test_warning_of_a_loaded_classifier_comes_once_where_it_is_loaded(of_another_machine, tmp_path):
    pipe, _ = of_another_machine
    rows = np.zeros((2, 160), np.float32)
    content = pickle.dumps(pipe[1])
    warned_at_once(lambda: pickle.loads(content).predict(rows))
    joblib.dump(pipe[1], tmp_path / "clf.joblib")
    warned_at_once(lambda: joblib.load(tmp_path / "clf.joblib").predict(rows))


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
    """Return whether n tasks run at the same time in the pool."""
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
    """Return the threads that run many tasks."""

    def task(_):
        time.sleep(0.002)
        return threading.get_ident()

    return set(pool.map(task, range(n)))


@pytest.fixture
def cores(monkeypatch):
    """Let joblib and torch report a number of cores."""

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


# what a caller may have set, by the names of torch 2.9 or those of before; by both they contradict
NEWER = pytest.mark.skipif(
    not hasattr(torch.backends.cudnn, "conv"), reason="needs torch 2.9 or later"
)
PRECISIONS = [
    "pass",
    "torch.set_float32_matmul_precision('high')",
    "torch.set_float32_matmul_precision('medium')",
    "cuda.matmul.allow_tf32 = True; cudnn.allow_tf32 = False",
    "cudnn.enabled = False; cudnn.benchmark = True",
    pytest.param("cudnn.conv.fp32_precision = 'ieee'", marks=NEWER),
    pytest.param("torch.backends.fp32_precision = 'tf32'", marks=NEWER),
    pytest.param("mkldnn.matmul.fp32_precision = 'bf16'", marks=NEWER),
]


@pytest.mark.parametrize("setting", PRECISIONS)
def test_full_precision_whatever_the_caller_set(setting):
    subprocess.run([sys.executable, "-W", "error", "-c", PRECISION_CODE, setting], check=True)


PRECISION_CODE = """
import sys, warnings, torch
from torch.backends import cuda, cudnn, mkldnn
from sklearn_dfd._core.runtime.devices import own_torch_state

def state(*places):
    values = [cudnn.enabled, cudnn.deterministic, cudnn.benchmark]
    for read in (lambda: cudnn.allow_tf32, torch.get_float32_matmul_precision):
        try:
            values.append(read())
        except RuntimeError:
            values.append("torch refuses")
    if hasattr(cudnn, "conv"):
        places = cudnn.conv, cudnn.rnn, cuda.matmul, mkldnn.conv, mkldnn.matmul
    return values + [place.fp32_precision for place in places]

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    exec(sys.argv[1])
before = state()
# of two threads: the first to come is the first to leave
several = [own_torch_state(torch.device("cpu")) for _ in range(2)]
for each in several:
    each.__enter__()
for each in several:
    inside = state()
    assert inside[:5] == [True, True, False, False, "highest"], inside
    assert set(inside[5:]) <= {"ieee"}, inside
    each.__exit__(None, None, None)
assert state() == before, (state(), before)
"""


def test_a_low_precision_that_the_caller_set_changes_no_probability(head, head_data):
    X, y = head_data
    expected = head.fit(X, y).predict_proba(X)
    torch.set_float32_matmul_precision("medium")
    try:
        np.testing.assert_array_equal(head.predict_proba(X), expected)
        np.testing.assert_array_equal(head.fit(X, y).predict_proba(X), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_process_forked_from_within_begins_anew():
    code = """
import os, sys, torch
from sklearn_dfd._core.runtime.devices import one_core_threads, own_torch_state
torch.set_num_threads(2)
with one_core_threads(1):
    torch.set_num_threads(1)
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        with one_core_threads(1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
if child:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert torch.get_num_threads() == 2
else:  # it has left what it never entered
    torch.set_num_threads(3)
    with one_core_threads(1):
        torch.set_num_threads(1)
    assert torch.get_num_threads() == 3
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


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


# too small a memory


def small_memory(run, limit, error):
    """Make a function that fails as torch does for more than a number of rows."""

    def attempt(rows, *args, **kwargs):
        attempt.sizes.append(len(rows))
        if len(rows) > limit:
            raise error
        return run(rows, *args, **kwargs)

    attempt.sizes = []
    return attempt


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 18.1 GB)"),
        RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("[enforce fail] . DefaultCPUAllocator: not enough memory: you tried"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
        # onnxruntime's errors derive from Exception alone
        Exception("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer"),
        Exception("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc"),
    ],
    ids=["cuda", "mps", "cpu", "windows", "cublas", "cudnn", "python", "onnxruntime", "c++"],
)
@pytest.mark.parametrize(("limit", "n_warnings"), [(100, 0), (7, 0), (4, 1), (1, 6)])
def test_a_batch_too_large_is_halved(error, limit, n_warnings):
    rows = np.arange(14).reshape(7, 2)
    run = small_memory(lambda part: part + 1, limit, error)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        np.testing.assert_array_equal(in_halves(run, rows, np.concatenate), rows + 1)
    assert len(caught) == n_warnings
    assert all("memory is too small for" in str(warning.message) for warning in caught)


def test_one_row_too_large_is_an_error():
    run = small_memory(None, 0, torch.cuda.OutOfMemoryError("CUDA out of memory"))
    with (
        pytest.warns(UserWarning, match="too small for 2 rows at once: continuing with 1"),
        pytest.raises(torch.cuda.OutOfMemoryError),
    ):
        in_halves(run, np.zeros((2, 2)), np.concatenate)
    assert run.sizes == [2, 1]


@pytest.mark.parametrize(
    "error",
    [RuntimeError("CUDA error: device-side assert"), ValueError(), Exception("Invalid rank")],
)
def test_other_errors_are_raised(error):
    run = small_memory(None, 0, error)
    with pytest.raises(type(error)):
        in_halves(run, np.zeros((8, 2)), np.concatenate)
    assert run.sizes == [8]


def test_features_where_the_memory_is_small(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    transformer = MobileNetV2Features(
        weights=None, image_size=32, engine="torch", batch_size=8, n_jobs=1
    )
    expected = transformer.fit_transform(images)
    IN_PROCESS.clear()
    features._trunk.cache_clear()
    error = torch.cuda.OutOfMemoryError("CUDA out of memory")
    engine, engines = features.torch_engine, []

    def small(trunk, device):
        engines.append(small_memory(engine(trunk, device), 3, error))
        return engines[0]

    monkeypatch.setattr(features, "torch_engine", small)
    with pytest.warns(UserWarning, match="too small for [48] rows"):
        rows = transformer.transform(images)
    features._trunk.cache_clear()
    assert sorted(engines[0].sizes) == [1, 2, 2, 2, 2, 4, 4, 8]
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)


def test_predictions_where_the_memory_is_small(monkeypatch):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(70, 5)).astype(np.float32), np.arange(70) % 2
    clf = DeepFakeClassifier("pool", hidden_layer_sizes=(4,), max_epochs=1, random_state=0)
    expected = clf.fit(X, y).predict_proba(X)
    small = small_memory(clf.net_.infer, 40, RuntimeError("CUDA out of memory"))
    monkeypatch.setattr(clf.net_, "infer", small)
    with pytest.warns(UserWarning, match="too small for 64 rows at once: continuing with 32"):
        probabilities = clf.predict_proba(X)
    assert small.sizes == [64, 32, 32, 6]
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


def test_training_does_not_go_on_with_other_batches(monkeypatch):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(70, 5)).astype(np.float32), np.arange(70) % 2
    clf = DeepFakeClassifier("pool", hidden_layer_sizes=(4,), max_epochs=1).fit(X, y)
    tail = clf.net_.module_.tails[0]
    small = small_memory(tail.forward, 40, RuntimeError("CUDA out of memory"))
    monkeypatch.setattr(tail, "forward", small)
    with pytest.raises(RuntimeError, match="out of memory"):
        clf.partial_fit(X, y)


# a real device


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("layer", [10, 15, "pool"])
def test_features_on_cuda_are_those_on_the_cpu(weights_file, layer):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 224, 224, 3), dtype=np.uint8)
    trunk = Trunk(load_weights(weights_file), layer)
    expected = trunk(torch.from_numpy(images)).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        device = resolve_device("cuda")
    features = torch_engine(trunk, device)(images)
    assert next(trunk.parameters()).device.type == "cuda"
    error = abs(features - expected).max() / abs(expected).max()
    assert error < 1e-3


def test_pools_that_overlap_restore_what_was_before_the_first():
    before = torch.get_num_threads()
    first, second = one_core_threads(), one_core_threads()
    with first:
        second.__enter__()
    second.__exit__(None, None, None)
    with ThreadPoolExecutor(1) as pool:  # a thread to come, for which torch noted a number
        assert pool.submit(torch.get_num_threads).result() == before
