"""Tests of _core.extraction: several processes, killed ones among them."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from counted_extraction import DECODING, PATIENCE, RECIPE, WIDTH, Network, extract, rows_of

import sklearn_dfd
from sklearn_dfd._core.extraction import Extraction
from sklearn_dfd.feature_store import FeatureStore

pytestmark = pytest.mark.usefixtures("no_endless_waiting")


CHILD = """
import sys
import types
# the modules this needs, without the package, which would import torch
package = sys.modules["sklearn_dfd"] = types.ModuleType("sklearn_dfd")
package.__path__, package.__file__ = [{package!r}], {package!r}
sys.path.insert(0, {tests!r})
from pathlib import Path

import numpy as np
from counted_extraction import Network, extract
from sklearn_dfd.feature_store import FeatureStore

directory, store, seconds, saved = sys.argv[1:]
files = sorted(Path(directory).iterdir(), key=lambda path: int(path.stem))

class Telling(Network):
    def __call__(self, pixels):
        rows = super().__call__(pixels)
        print(len(self.seen), flush=True)
        return rows

network = Telling(float(seconds))
print("ready", flush=True)
sys.stdin.readline()
done = extract(files, network, FeatureStore(store), n_threads=1)
np.save(saved, done.features)
"""


@pytest.fixture
def start_child():
    children = []

    def start(files, store, seconds, saved):
        package = str(Path(sklearn_dfd.__file__).parent)
        code = CHILD.format(tests=str(Path(__file__).parent), package=package)
        child = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, (files[0].parent, store.path, seconds, saved))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        return child

    yield start
    for child in children:
        with child:  # closes its pipes, and waits for it
            child.kill()


def go(*children):
    for child in children:
        assert child.stdout.readline() == "ready\n", child.communicate(timeout=PATIENCE)
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()


def test_two_processes_share_the_work(files, pixels, tmp_path, start_child):
    store = FeatureStore(tmp_path / "store")
    saved = [tmp_path / "0.npy", tmp_path / "1.npy"]
    children = [start_child(files, store, 0.01, path) for path in saved]
    go(*children)
    runs = []
    for child in children:
        output, errors = child.communicate(timeout=PATIENCE)
        assert child.returncode == 0, errors
        runs.append(int([0, *output.split()][-1]))
    assert sum(runs) == 150 and min(runs) > 0
    for path in saved:
        np.testing.assert_array_equal(np.load(path), rows_of(pixels))
    assert store.info()["n_rows"] == 150


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_killed_halfway(files, pixels, tmp_path, start_child):
    store = FeatureStore(tmp_path / "store")
    child = start_child(files, store, 0.02, tmp_path / "never.npy")
    go(child)
    while int(child.stdout.readline()) < 100:
        pass
    child.kill()
    output, _ = child.communicate(timeout=PATIENCE)
    assert child.returncode == -signal.SIGKILL
    n_kept = store.info()["n_rows"]
    assert 64 <= n_kept <= int(["100", *output.split()][-1]) + 4
    with ThreadPoolExecutor(1) as pool:
        survey = Extraction(files, WIDTH, RECIPE, store, pool, DECODING)
        survey.survey()
    left = [row for (row,) in survey.missing.values()]
    assert len(left) == 150 - n_kept > 0
    network = Network()
    start = time.monotonic()
    done = extract(files, network, store)
    assert time.monotonic() - start < 5  # the lease of the dead is not waited for
    network.assert_saw_once(pixels[left])
    np.testing.assert_array_equal(done.features, rows_of(pixels))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_killed_while_another_waits(files, pixels, tmp_path, start_child):
    store = FeatureStore(tmp_path / "store")
    child = start_child(files, store, 0.2, tmp_path / "never.npy")
    go(child)
    assert int(child.stdout.readline()) == 4
    network = Network()
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(extract, files, network, store)
        while len(network.seen) < 20:  # the last ones of all, which the child has not taken on
            assert child.poll() is None and not future.done()
            time.sleep(0.01)
        child.kill()
        child.communicate(timeout=PATIENCE)
        done = future.result(timeout=PATIENCE)
    np.testing.assert_array_equal(done.features, rows_of(pixels))
    network.assert_saw_once(pixels)


GRID_SEARCH = """
import sys
import warnings
from pathlib import Path

import numpy as np
from counted import CountedFeatures
from sklearn.model_selection import GridSearchCV
from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd.feature_store import FeatureStore

if __name__ == "__main__":
    warnings.simplefilter("error")
    store, passes = sys.argv[1:]
    images = np.random.default_rng(0).integers(0, 256, (40, 40, 40, 3), dtype=np.uint8)
    pipeline = make_deepfake_pipeline(
        weights=None,
        image_size=64,
        memory=store,
        device="cpu",
        hidden_layer_sizes=(4,),
        max_epochs=1,
        random_state=0,
    )
    pipeline.steps[0] = ("features", CountedFeatures(**pipeline[0].get_params()))
    grid = {"classifier__lr": [1e-4, 1e-3]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2, error_score="raise")
    search.fit(images, np.arange(40) % 2)
    assert search.predict(images).shape == (40,)
"""

COUNTED = """
import os

from sklearn_dfd import MobileNetV2Features


class CountedFeatures(MobileNetV2Features):
    def _network(self, device):
        run, *rest = super()._network(device)

        def counted(pixels):
            file = os.open({passes!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(file, f"{{os.getpid()}} {{len(pixels)}}\\n".encode())
            os.close(file)
            return run(pixels)

        return counted, *rest
"""


@pytest.mark.slow
def test_grid_search_in_processes_runs_each_image_once(tmp_path):
    passes, store = tmp_path / "passes.txt", tmp_path / "store"
    (tmp_path / "counted.py").write_text(COUNTED.format(passes=str(passes)))
    (tmp_path / "search.py").write_text(textwrap.dedent(GRID_SEARCH))
    root = Path(sklearn_dfd.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "search.py"), str(store), str(passes)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(root)]),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    runs = [line.split() for line in passes.read_text().splitlines()]
    assert sum(int(n_images) for _, n_images in runs) == 40
    assert FeatureStore(store).info()["n_rows"] == 40
