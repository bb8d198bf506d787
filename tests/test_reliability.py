"""What the package withstands: short runs of what `make soak` does for an hour.

Hostile images and extreme numbers have files of their own.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import kills
import load
import numpy as np
import pytest
from image_files import encode, picture
from PIL import Image

import sklearn_dfd
from sklearn_dfd import MobileNetV2Features, feature_store
from sklearn_dfd._core.images import decoding
from sklearn_dfd._core.images.decoding import to_rgb
from sklearn_dfd.feature_store import FeatureStore

posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")


def features(**parameters):
    return MobileNetV2Features(0, weights=None, image_size=32, engine="torch", **parameters)


# crashes -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
@pytest.mark.parametrize(("name", "n_kills"), [("extraction", 8), ("search", 2)])
def test_killed_at_random_and_resumed(name, n_kills, tmp_path):
    counts = kills.kill_and_resume(name, n_kills, tmp_path, seed=0)
    assert counts["kills"] >= n_kills and counts["endings"] >= 1


@pytest.mark.parametrize("method", ["fetch", "claim", "add", "release"])
def test_store_that_fails_at_any_call_costs_a_warning(method, tmp_path, monkeypatch):
    images = [encode(Image.fromarray(picture(8, 8, seed=i)), "PNG") for i in range(70)]
    expected = features().fit_transform(images)
    feature_store.IN_PROCESS.clear()
    original = getattr(FeatureStore, method)
    calls = []

    def fail(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > (method == "release"):  # the first of which is a look whether it works
            raise OSError("the feature store is on a disk that is full")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(FeatureStore, method, fail)
    with pytest.warns(UserWarning, match=r"full; features are kept in this process only") as caught:
        rows = features(memory=tmp_path / "store").fit_transform(images)
    assert len(caught) == 1
    np.testing.assert_array_equal(rows, expected)


@contextmanager
def files_of_at_most(n_bytes):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@posix
def test_disk_that_fills_up(tmp_path, monkeypatch):
    # the claims that could not be given up are waited for
    monkeypatch.setattr(feature_store, "_CLAIM_SECONDS", 2)
    images = [encode(Image.fromarray(picture(8, 8, seed=i)), "PNG") for i in range(200)]
    expected = features().fit_transform(images)
    feature_store.IN_PROCESS.clear()
    extractor = features(memory=tmp_path / "store")
    with files_of_at_most(3 * 2**20), pytest.warns(UserWarning, match="this process only"):
        rows = extractor.fit_transform(images)
    np.testing.assert_array_equal(rows, expected)
    feature_store.IN_PROCESS.clear()
    np.testing.assert_array_equal(extractor.transform(images), expected)  # space again
    assert extractor.memory.exists() and FeatureStore(extractor.memory).info()["n_rows"] == 200


# concurrency -------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_process_predicts_and_fits(tmp_path):
    assert load.shared(tmp_path, 1, 2, 3, seconds=60, method="fork") == 12


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_while_threads_hold_what_the_child_needs():
    """What other threads of the parent hold at that moment must not be held for ever."""
    image = Image.fromarray(picture())
    store = feature_store.IN_PROCESS
    store.claim([b"taken on by a thread of the parent"], "somebody")

    def child():
        assert to_rgb(image).size == image.size
        assert store.claim([b"taken on by a thread of the parent"], "me")

    process = multiprocessing.get_context("fork").Process(target=child)
    with decoding._loading, decoding._silenced_for_all(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    process.join(30)
    alive = process.is_alive()
    process.kill()
    process.join()
    store.release("somebody")
    assert not alive and process.exitcode == 0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_files_and_threads_stay_flat():
    done, growth, n_files, n_threads = load.flat(150)
    assert done == 150
    assert growth < 0.05 and n_files <= 0 and n_threads <= 0


# determinism -------------------------------------------------------------------------------------

FIT = """
import hashlib, sys, warnings
import numpy as np
from sklearn.model_selection import GridSearchCV
from sklearn_dfd import make_deepfake_pipeline
warnings.simplefilter("error")
images = np.random.default_rng(0).integers(0, 256, (16, 40, 40, 3), dtype=np.uint8)
y = np.array(["real", "fake"])[np.arange(16) % 2]
memory, n_jobs, n_jobs_of_search = sys.argv[1] or None, int(sys.argv[2]), int(sys.argv[3])
pipe = make_deepfake_pipeline(17, weights=None, image_size=32, memory=memory, n_jobs=n_jobs,
                              hidden_layer_sizes=(4,), max_epochs=1, random_state=0, device="cpu")
grid = {"classifier__lr": [1e-4, 1e-3]}
search = GridSearchCV(pipe, grid, cv=2, error_score="raise", n_jobs=n_jobs_of_search)
search.fit(images, y)
p = search.predict_proba(images)
print(hashlib.sha256(p.tobytes() + search.cv_results_["mean_test_score"].tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_same_result_whatever_the_hash_seed_the_store_and_n_jobs(tmp_path):
    root = str(Path(sklearn_dfd.__file__).parents[1])
    digests = set()
    for hash_seed, memory, n_jobs, n_jobs_of_search in [
        ("0", "", 1, 1),
        ("1", str(tmp_path), 2, 1),
        ("7", str(tmp_path), 1, 1),  # all found
        ("2", str(tmp_path / "another"), 1, 2),
    ]:
        done = subprocess.run(
            [sys.executable, "-c", FIT, memory, str(n_jobs), str(n_jobs_of_search)],
            # the workers of a search have their share of the cores, and others round differently
            env={
                **os.environ,
                "PYTHONPATH": root,
                "PYTHONHASHSEED": hash_seed,
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout.strip())
    assert len(digests) == 1
