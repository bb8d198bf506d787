"""Extractions and grid searches killed at random moments, and begun again on the same store."""

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline

from sklearn_dfd import DeepFakeClassifier, MobileNetV2Features
from sklearn_dfd._core.extraction import _BATCHES_AHEAD, _KEPT_TOGETHER
from sklearn_dfd.feature_store import FeatureStore

N_IMAGES = 300
#: Images that a kill may cost: those of a transaction, and the batches ahead of it.
REMAINDER = _KEPT_TOGETHER + _BATCHES_AHEAD * 4
PATIENCE = 300  # seconds for one run, on a machine that has much else to do


class Logged(MobileNetV2Features):
    """Notes each image that is computed, in the file ``<memory>.log``."""

    def _network(self, device):
        run, *rest = super()._network(device)

        def logged(pixels):
            rows = run(pixels)
            time.sleep(0.02)  # so that most of the time, and of the kills, is here
            file = os.open(f"{self.memory}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(file, b"\n" * len(pixels))
            os.close(file)
            return rows

        return logged, *rest


def write_images(directory, n_images=N_IMAGES):
    """Write small photographs of noise; return their paths."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    paths = [str(directory / f"{i}.png") for i in range(n_images)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return paths


def extract(paths, memory):
    """Extract features; return them as bytes."""
    features = Logged(2, weights=None, image_size=32, memory=memory, engine="torch", n_jobs=2)
    return features.fit_transform(paths).tobytes()


def search(paths, memory):
    """Search a grid; return scores and probabilities as bytes."""
    features = Logged(2, weights=None, image_size=32, memory=memory, engine="torch")
    head = DeepFakeClassifier("pool", hidden_layer_sizes=(4,), max_epochs=1, random_state=0)
    pipe = Pipeline([("features", features), ("classifier", head)])
    grid = {"classifier__lr": [1e-4, 1e-3]}
    fitted = GridSearchCV(pipe, grid, cv=2, error_score="raise")
    fitted.fit(paths, np.arange(len(paths)) % 2)
    return fitted.cv_results_["mean_test_score"].tobytes() + fitted.predict_proba(paths).tobytes()


WORKS = {"extraction": extract, "search": search}


def _work(name, paths, memory, begun, result):
    warnings.simplefilter("ignore")
    begun.send(True)
    begun.close()
    Path(result).write_bytes(WORKS[name](paths, memory))


def _start(context, name, paths, memory, result):
    begun, tell = context.Pipe(duplex=False)  # no lock, which the dead would keep
    process = context.Process(target=_work, args=(name, paths, memory, tell, result))
    process.start()
    with begun, tell:
        assert begun.poll(PATIENCE), "a run did not begin"
    return process, time.monotonic()


def n_in_vain(memory):
    """Count the images that were run through the network, and are not in the store."""
    log, store = Path(f"{memory}.log"), Path(memory)
    if not log.exists():
        return 0
    with tempfile.TemporaryDirectory() as directory:
        # a copy, since to look into a store that was left by a kill is to repair it
        copy = Path(directory, "store")
        if store.exists():
            shutil.copytree(store, copy)
        return log.stat().st_size - FeatureStore(copy).info()["n_rows"]


def kill_and_resume(name, n_kills, directory, seed, seconds=float("inf"), counts=None):
    """Kill a work at random moments until there were enough kills; check each end of it.

    Parameters
    ----------
    name : "extraction" or "search"
    n_kills : int
        At least, unless the seconds are over before.
    directory : path
        That does not exist.
    seed : int
    seconds : float
        After which no more kills are begun.
    counts : Counter
        Where to count, so that they are known after an error too.

    Returns
    -------
    counts : Counter
        Number of ``"kills"`` and of ``"endings"``, runs to the end; and the ``"worst"`` number of
        images that were computed in vain because of one kill.
    """
    deadline = time.monotonic() + seconds
    counts = Counter() if counts is None else counts
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sklearn_dfd"])  # which takes seconds, once
    directory, rng = Path(directory), random.Random(seed)
    paths = write_images(directory / "images")
    result = directory / "result"
    process, start = _start(context, name, paths, str(directory / "undisturbed"), str(result))
    process.join(PATIENCE)
    assert process.exitcode == 0, f"exit status {process.exitcode}, undisturbed"
    usual = time.monotonic() - start
    expected = result.read_bytes()
    n_done = 0
    for run in itertools.count():
        if n_done >= n_kills or time.monotonic() > deadline:
            return counts
        memory = directory / f"store {run}"
        result.unlink()
        n_before, vain_before = n_done, 0
        while not result.exists():
            may_kill = n_done < min(n_kills, n_before + 8) and time.monotonic() < deadline
            patience = rng.uniform(0, 0.8 * usual) if may_kill else PATIENCE
            process, _ = _start(context, name, paths, str(memory), str(result))
            process.join(patience)
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
                process.join(PATIENCE)
                assert may_kill, f"a run did not end in {PATIENCE} s"
            assert process.exitcode in (-signal.SIGKILL, 0), f"exit status {process.exitcode}"
            if process.exitcode != 0:
                n_done += 1
                counts["kills"] += 1
                vain = n_in_vain(memory)
                counts["worst"] = max(counts["worst"], vain - vain_before)
                assert vain - vain_before <= REMAINDER, f"{vain - vain_before} images in vain"
                vain_before = vain
            if result.exists() and result.stat().st_size < len(expected):
                result.unlink()  # killed while it was written
        assert result.read_bytes() == expected, "other results than those of an undisturbed run"
        assert n_in_vain(memory) == vain_before, "images computed again without a kill"
        counts["endings"] += 1
        shutil.rmtree(memory)
