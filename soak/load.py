"""A fitted pipeline and a store shared by threads and processes: predictions, memory, handles."""

import multiprocessing
import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd.feature_store import MemoryStore

PATIENCE = 120  # seconds that the other processes may take longer


def fitted_pipeline(memory):
    """Fit a small pipeline; return it with images and their probabilities."""
    images = np.random.default_rng(0).integers(0, 256, (64, 40, 40, 3), dtype=np.uint8)
    pipe = make_deepfake_pipeline(
        17, weights=None, image_size=32, memory=memory, max_epochs=1, random_state=0, device="cpu"
    )
    pipe.fit(images, np.arange(64) % 2)
    return pipe, images, pipe.predict_proba(images)


def _predict(pipe, images, expected, n_calls, seconds, seed):
    """Predict some images together with a new one, repeatedly; count the calls."""
    rng = np.random.default_rng(seed)
    deadline = time.monotonic() + seconds
    for done in range(n_calls):
        if time.monotonic() > deadline:
            return done
        rows = rng.permutation(len(images))[: rng.integers(1, 9)]
        new = rng.integers(0, 256, (1, *images.shape[1:]), dtype=np.uint8)
        p = pipe.predict_proba(np.concatenate([images[rows], new]))
        assert np.isfinite(p).all()
        np.testing.assert_allclose(p[:-1], expected[rows], rtol=0, atol=1e-5)
    return n_calls


def _child(pipe, images, expected, n_threads, n_calls, seconds, done):
    warnings.simplefilter("ignore")
    seeds = [[os.getpid(), thread] for thread in range(n_threads)]
    with ThreadPoolExecutor(n_threads) as pool:
        calls = pool.map(
            lambda seed: _predict(pipe, images, expected, n_calls, seconds, seed), seeds
        )
        done.put(sum(calls))


def shared(directory, n_processes, n_threads, n_calls, seconds, method="spawn"):
    """Predict in threads of several processes at once, on one store.

    Each thread calls `n_calls` times, or for so many seconds; returns the number of calls.
    """
    pipe, images, expected = fitted_pipeline(str(Path(directory, "store")))
    context = multiprocessing.get_context(method)
    done = context.SimpleQueue()
    arguments = (pipe, images, expected, n_threads, n_calls, seconds, done)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads, from 3.12
        processes = [context.Process(target=_child, args=arguments) for _ in range(n_processes)]
        with ThreadPoolExecutor(1) as own:
            calls = own.submit(_child, *arguments)
            for process in processes:  # while the threads of this one are at it
                process.start()
    calls.result()
    deadline = time.monotonic() + seconds + PATIENCE
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
        stuck = process.exitcode is None
        if stuck:
            process.kill()
            process.join()
        assert not stuck, "a process did not end"
        assert process.exitcode == 0, f"exit status {process.exitcode}"
    return sum(done.get() for _ in range(n_processes + 1))


def _status():
    """Resident memory, open files and threads, once those that are ending have ended."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    n_files, n_threads = [], []
    for _ in range(20):
        n_files.append(len(os.listdir("/proc/self/fd")))
        n_threads.append(len(os.listdir("/proc/self/task")))
        time.sleep(0.05)
    return pages * os.sysconf("SC_PAGE_SIZE"), min(n_files), min(n_threads)


def flat(n_predictions, seconds=float("inf"), memory=None):
    """Predict image by image, each a new one; how memory, files and threads grow.

    Returns
    -------
    done : int
        Predictions.
    growth : float
        Of resident memory, as a fraction, since the first tenth of the predictions or seconds.
    n_files, n_threads : int
        More of them than after the first tenth.
    """
    pipe, _, _ = fitted_pipeline(MemoryStore(2**20) if memory is None else memory)
    rng = np.random.default_rng(1)
    start = time.monotonic()
    before = None
    for done in range(n_predictions):
        passed = time.monotonic() - start
        if before is None and (done >= n_predictions // 10 or passed > seconds / 10):
            before = _status()
        if before is not None and passed > seconds:
            break
        p = pipe.predict_proba(rng.integers(0, 256, (1, 40, 40, 3), dtype=np.uint8))
        assert np.isfinite(p).all()
    else:
        done = n_predictions
    after = _status()
    return done, after[0] / before[0] - 1, after[1] - before[1], after[2] - before[2]
