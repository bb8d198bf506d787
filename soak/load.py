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


def fitted_pipeline(memory):
    """Fit a small pipeline; return it with images and their probabilities."""
    images = np.random.default_rng(0).integers(0, 256, (64, 40, 40, 3), dtype=np.uint8)
    pipe = make_deepfake_pipeline(
        17, weights=None, image_size=32, memory=memory, max_epochs=1, random_state=0, device="cpu"
    )
    pipe.fit(images, np.arange(64) % 2)
    return pipe, images, pipe.predict_proba(images)


def _predict(pipe, images, expected, n_calls, seed):
    rng = np.random.default_rng(seed)
    for _ in range(n_calls):
        rows = rng.permutation(len(images))[: rng.integers(1, 9)]
        p = pipe.predict_proba(images[rows])
        np.testing.assert_allclose(p, expected[rows], rtol=0, atol=1e-5)


def _child(pipe, images, expected, n_threads, n_calls):
    warnings.simplefilter("ignore")
    with ThreadPoolExecutor(n_threads) as pool:
        list(
            pool.map(lambda seed: _predict(pipe, images, expected, n_calls, seed), range(n_threads))
        )


def shared(directory, n_processes, n_threads, n_calls, seconds, method="spawn"):
    """Predict in threads of several processes at once, on one store; count the predictions."""
    pipe, images, expected = fitted_pipeline(str(Path(directory, "store")))
    context = multiprocessing.get_context(method)
    arguments = (pipe, images, expected, n_threads, n_calls)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads, from 3.12
        processes = [context.Process(target=_child, args=arguments) for _ in range(n_processes)]
        for process in processes:
            process.start()
    _child(*arguments)
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
        stuck = process.exitcode is None
        if stuck:
            process.kill()
            process.join()
        assert not stuck, "a process did not end"
        assert process.exitcode == 0, f"exit status {process.exitcode}"
    return (n_processes + 1) * n_threads * n_calls


def _status():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return (
        pages * os.sysconf("SC_PAGE_SIZE"),
        len(os.listdir("/proc/self/fd")),
        len(os.listdir("/proc/self/task")),
    )


def flat(n_predictions, seconds=float("inf"), memory=None):
    """Predict image by image, each a new one; how memory, files and threads grow.

    Returns
    -------
    done : int
        Predictions.
    growth : float
        Of resident memory, as a fraction, since the first tenth of the predictions.
    n_files, n_threads : int
        More of them than after the first tenth.
    """
    pipe, _, _ = fitted_pipeline(MemoryStore(2**20) if memory is None else memory)
    rng = np.random.default_rng(1)
    deadline = time.monotonic() + seconds
    before, done = None, 0
    for i in range(n_predictions):
        p = pipe.predict_proba(rng.integers(0, 256, (1, 40, 40, 3), dtype=np.uint8))
        assert np.isfinite(p).all()
        done += 1
        if before is None and (i >= n_predictions // 10 or time.monotonic() > deadline):
            before = _status()
        if time.monotonic() > deadline and done > n_predictions // 5:
            break
    after = _status()
    return done, after[0] / before[0] - 1, after[1] - before[1], after[2] - before[2]
