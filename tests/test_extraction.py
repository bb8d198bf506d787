"""Tests of sklearn_dfd.extraction: each image once, however many ask, whatever ends halfway."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import weakref
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sklearn_dfd
from sklearn_dfd import extraction, feature_store
from sklearn_dfd.extraction import Extraction
from sklearn_dfd.feature_store import IN_PROCESS, FeatureStore, MemoryStore, new_owner

SIDE = 8
WIDTH = SIDE * SIDE * 3
RECIPE = "pixels as they are"
PATIENCE = 30  # seconds, of a lease that lasts 120


def make_pixels(n):
    return np.random.default_rng(0).integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)


def rows_of(pixels):
    """What the network of these tests makes of pixels."""
    return pixels.reshape(len(pixels), -1).astype(np.float32) / 7


class Network:
    """Function from pixels to rows that notes how often each image went through."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds
        self.seen = []

    def __call__(self, pixels):
        time.sleep(self.seconds)
        self.seen.extend(image.tobytes() for image in pixels)
        return rows_of(pixels)

    def assert_saw_once(self, pixels):
        assert sorted(self.seen) == sorted(image.tobytes() for image in pixels)


def write(directory, pixels):
    paths = [directory / f"{i}.png" for i in range(len(pixels))]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path, compress_level=0)
    return paths


@pytest.fixture
def pixels():
    return make_pixels(150)


@pytest.fixture
def files(pixels, tmp_path):
    (tmp_path / "images").mkdir()
    return write(tmp_path / "images", pixels)


@pytest.fixture(params=["memory", "directory"])
def store(request, tmp_path):
    return MemoryStore(10**9) if request.param == "memory" else FeatureStore(tmp_path / "store")


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as pool:
        yield pool


def extract(images, run, store, *, batch_size=4, go_on=False, n_threads=2):
    """Survey and compute, in a pool of its own."""
    with ThreadPoolExecutor(n_threads) as pool:
        extraction = Extraction(images, WIDTH, RECIPE, store, pool)
        extraction.survey()
        extraction.compute(run, SIDE, batch_size, go_on=go_on)
    return extraction


@pytest.fixture(autouse=True)
def no_endless_waiting(monkeypatch):
    """End those that would wait for each other for ever, so that no thread is left behind."""
    deadline = time.monotonic() + PATIENCE
    for cls in (MemoryStore, FeatureStore):

        def claim(self, keys, owner, original=cls.claim):
            assert time.monotonic() < deadline, "nobody gets any further"
            return original(self, keys, owner)

        monkeypatch.setattr(cls, "claim", claim)


def at_once(*jobs):
    """Results of functions run by threads of their own, within reason."""
    with ThreadPoolExecutor(len(jobs)) as threads:
        futures = [threads.submit(job) for job in jobs]
        return [future.result(timeout=2 * PATIENCE) for future in futures]


# what is filled in


def test_survey_then_compute(files, pixels, store, pool):
    network = Network()
    job = Extraction(files, WIDTH, RECIPE, store, pool)
    job.survey()
    assert network.seen == []
    assert sorted(job.missing.values()) == [[row] for row in range(150)]
    assert {len(key) for key in job.missing} == {16}
    assert job.failures == {}
    job.compute(network, SIDE, 4, go_on=False)
    network.assert_saw_once(pixels)
    assert job.features.dtype == np.float32
    np.testing.assert_array_equal(job.features, rows_of(pixels))
    assert store.info()["n_rows"] == 150


def test_what_is_kept_is_found_by_the_survey(files, pixels, store, pool):
    extract(files[:100], Network(), store)
    job = Extraction(files[::-1], WIDTH, RECIPE, store, pool)
    job.survey()
    np.testing.assert_array_equal(job.features[50:], rows_of(pixels[:100])[::-1])
    assert sorted(job.missing.values()) == [[row] for row in range(50)]
    network = Network()
    job.compute(network, SIDE, 4, go_on=False)
    network.assert_saw_once(pixels[100:])
    np.testing.assert_array_equal(job.features, rows_of(pixels)[::-1])


def test_another_recipe_is_other_features(files, pixels, store, pool):
    extract(files[:10], Network(), store)
    job = Extraction(files[:10], WIDTH, "another", store, pool)
    job.survey()
    assert len(job.missing) == 10


def test_copies_are_computed_once(files, pixels, store, tmp_path):
    copy = tmp_path / "copy.png"
    copy.write_bytes(files[0].read_bytes())
    # far apart, so that they are not surveyed together
    images = [*files, copy, *files[:5], files[0].read_bytes()]
    network = Network()
    job = extract(images, network, store)
    network.assert_saw_once(pixels)
    expected = rows_of(pixels[[*range(150), 0, *range(5), 0]])
    np.testing.assert_array_equal(job.features, expected)
    assert sorted(job.missing.values())[:2] == [[0, 150, 151, 156], [1, 152]]


@pytest.mark.parametrize("batch_size", [1, 7, 64, 500])
def test_size_of_the_batches(files, pixels, batch_size):
    sizes = []

    def run(pixels):
        sizes.append(len(pixels))
        return rows_of(pixels)

    job = extract(files, run, MemoryStore(10**9), batch_size=batch_size)
    np.testing.assert_array_equal(job.features, rows_of(pixels))
    assert sum(sizes) == 150
    assert max(sizes) == min(batch_size, 64)


def test_nothing_to_compute(files, store):
    extract(files, Network(), store)
    network = Network()
    job = extract(files, network, store)
    assert job.missing == {} and network.seen == []


# images that cannot be used


@pytest.fixture
def bad_files(tmp_path):
    """By name: what only decoding shows, and what a look at the file shows."""
    truncated, text = tmp_path / "truncated.png", tmp_path / "text.png"
    noise = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(truncated)
    truncated.write_bytes(truncated.read_bytes()[:2000])
    text.write_text("dear diary")
    return {"truncated": truncated, "text": text, "missing": tmp_path / "not there.png"}


def test_failures_of_the_survey(files, bad_files, store, pool):
    images = [files[0], bad_files["text"], bad_files["missing"], files[1], bad_files["text"]]
    job = Extraction(images, WIDTH, RECIPE, store, pool)
    job.survey()
    assert sorted(job.failures) == [1, 2, 4]
    assert "format" in job.failures[1] and job.failures[1] == job.failures[4]
    assert "not exist" in job.failures[2]
    assert sorted(job.missing.values()) == [[0], [3]]


def test_going_on_after_failures(files, bad_files, pixels, store):
    bad = bad_files["truncated"]
    images = [bad, *files[:75], bad_files["text"], *files[75:], bad]
    network = Network()
    job = extract(images, network, store, go_on=True)
    assert sorted(job.failures) == [0, 76, 152]
    assert "truncated" in job.failures[0] and job.failures[0] == job.failures[152]
    network.assert_saw_once(pixels)
    good = np.delete(np.arange(153), [0, 76, 152])
    np.testing.assert_array_equal(job.features[good], rows_of(pixels))
    assert store.info()["n_rows"] == 150


def test_batch_without_a_good_image(bad_files, store):
    def run(pixels):
        raise AssertionError("there is nothing to run")

    job = extract([bad_files["truncated"]] * 3, run, store, go_on=True)
    assert sorted(job.failures) == [0, 1, 2]


def test_stopping_at_a_failure_keeps_what_was_computed(files, bad_files, pixels, store):
    network = Network(0.001)
    job = extract([bad_files["truncated"], *files], network, store, batch_size=2)
    assert sorted(job.failures) == [0]
    assert 0 < len(network.seen) < 100  # those that were under way
    assert store.info()["n_rows"] == len(network.seen)
    # and all claims are given up
    extract(files, network, store)
    network.assert_saw_once(pixels)


def test_network_that_fails_gives_its_claims_up(files, pixels, store):
    def run(pixels):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        extract(files, run, store)
    start = time.monotonic()
    network = Network()
    extract(files, network, store)
    network.assert_saw_once(pixels)
    assert time.monotonic() - start < PATIENCE


# several at once


@pytest.mark.parametrize("batch_size", [4, 64])
def test_two_threads_share_the_work(files, pixels, store, batch_size):
    network = Network(0.002)
    together = threading.Barrier(2)

    def job():
        together.wait(PATIENCE)
        return extract(files, network, store, batch_size=batch_size)

    for done in at_once(job, job):
        np.testing.assert_array_equal(done.features, rows_of(pixels))
        assert done.failures == {}
    network.assert_saw_once(pixels)


@pytest.mark.parametrize("n_threads", [2, 4])
def test_threads_that_hold_many_images_do_not_wait_for_each_other(store, n_threads):
    """Each is asked for more than it has claimed, while the others hold the rest."""
    pixels = make_pixels(900)
    network = Network(0.002)
    together = threading.Barrier(n_threads)

    def job():
        together.wait(PATIENCE)
        return extract(pixels, network, store, batch_size=32)

    start = time.monotonic()
    for done in at_once(*[job] * n_threads):
        np.testing.assert_array_equal(done.features, rows_of(pixels))
    network.assert_saw_once(pixels)
    assert time.monotonic() - start < PATIENCE


def test_threads_that_come_from_both_ends(files, pixels, store):
    network = Network(0.002)
    forwards, backwards = at_once(
        lambda: extract(files, network, store),
        lambda: extract(files[::-1], network, store),
    )
    np.testing.assert_array_equal(forwards.features, rows_of(pixels))
    np.testing.assert_array_equal(backwards.features, rows_of(pixels)[::-1])
    network.assert_saw_once(pixels)


def test_store_too_small_to_share_by(files, pixels):
    store = MemoryStore(10 * WIDTH * 4)
    network = Network(0.001)
    job = lambda: extract(files, network, store)  # noqa: E731
    for done in at_once(job, job):
        np.testing.assert_array_equal(done.features, rows_of(pixels))
    assert set(network.seen) == {image.tobytes() for image in pixels}
    assert store.info()["n_rows"] == 10


@pytest.mark.parametrize("go_on", [False, True])
def test_failure_in_one_thread_does_not_hold_up_another(files, bad_files, pixels, store, go_on):
    """The first takes the bad image on, fails, and must leave the rest to the second."""
    started, network = threading.Event(), Network(0.002)

    def run(pixels):
        started.set()
        return network(pixels)

    def first():
        return extract([*files[:6], bad_files["truncated"], *files], run, store, go_on=go_on)

    def second():
        assert started.wait(PATIENCE)
        return extract([*files, bad_files["truncated"]], run, store, go_on=True)

    begin = time.monotonic()
    failed, complete = at_once(first, second)
    assert time.monotonic() - begin < PATIENCE
    assert sorted(failed.failures) == [6]
    assert sorted(complete.failures) == [150]
    np.testing.assert_array_equal(complete.features[:150], rows_of(pixels))
    network.assert_saw_once(pixels)


def test_claim_of_one_that_lives_is_waited_for(files, pixels, store):
    with ThreadPoolExecutor(1) as pool:
        survey = Extraction(files[:20], WIDTH, RECIPE, store, pool)
        survey.survey()
    keys, owner = list(survey.missing), new_owner()
    assert store.claim(keys[:8], owner) == set(keys[:8])
    network = Network()

    def other():
        deadline = time.monotonic() + PATIENCE
        while len(network.seen) < 12 or store.info()["n_rows"] < 12:
            assert time.monotonic() < deadline  # it keeps its own rows before it waits
            time.sleep(0.01)
        time.sleep(0.2)
        seen = len(network.seen)
        store.add(keys[:5], rows_of(pixels[:5]) + 1)
        store.release(owner)
        return seen

    done, seen = at_once(lambda: extract(files[:20], network, store), other)
    assert seen == 12
    # five rows are the other's; three it gave up
    network.assert_saw_once(pixels[5:20])
    np.testing.assert_array_equal(done.features[:5], rows_of(pixels[:5]) + 1)
    np.testing.assert_array_equal(done.features[5:], rows_of(pixels[5:20]))


def claim_all(files, directory, owner):
    store = FeatureStore(directory)
    with ThreadPoolExecutor(1) as pool:
        survey = Extraction(files, WIDTH, RECIPE, store, pool)
        survey.survey()
    assert len(store.claim(list(survey.missing), owner)) == len(files)
    return store


@pytest.mark.skipif(os.name != "posix", reason="needs process ids that can be asked for")
def test_claim_of_a_process_that_ended_lapses(files, pixels, tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait(PATIENCE)
    node, _, name = new_owner().rsplit(" ", 2)
    store = claim_all(files[:10], tmp_path / "store", f"{node} {child.pid} {name}")
    network = Network()
    start = time.monotonic()
    extract(files[:10], network, store)
    assert time.monotonic() - start < 5
    network.assert_saw_once(pixels[:10])


def test_claim_of_another_machine_lapses_by_the_clock(files, pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_store, "_CLAIM_SECONDS", 1)
    store = claim_all(files[:10], tmp_path / "store", f"another machine {os.getpid()} name")
    network = Network()
    start = time.monotonic()
    extract(files[:10], network, store)
    assert 0.5 < time.monotonic() - start < 5
    network.assert_saw_once(pixels[:10])


# several processes

CHILD = """
import sys
import types
# the modules this needs, without the package, which would import torch
package = sys.modules["sklearn_dfd"] = types.ModuleType("sklearn_dfd")
package.__path__, package.__file__ = [{package!r}], {package!r}
sys.path.insert(0, {tests!r})
from test_extraction import *

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
        survey = Extraction(files, WIDTH, RECIPE, store, pool)
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
    def _network(self):
        run, *rest = super()._network()

        def counted(pixels):
            file = os.open({passes!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(file, f"{{os.getpid()}} {{len(pixels)}}\\n".encode())
            os.close(file)
            return run(pixels)

        return counted, *rest
"""


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


# stores that fail


def full(self, keys, rows):
    raise OSError("database or disk is full")


def test_store_that_cannot_be_added_to(files, pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(FeatureStore, "add", full)
    network = Network()
    with pytest.warns(UserWarning, match=r"disk is full.*this process only") as caught:
        done = extract(files, network, FeatureStore(tmp_path))
    assert len(caught) == 1
    np.testing.assert_array_equal(done.features, rows_of(pixels))
    network.assert_saw_once(pixels)


def test_what_a_full_store_could_not_keep_is_kept_in_this_process(files, tmp_path, monkeypatch):
    monkeypatch.setattr(FeatureStore, "add", full)
    with pytest.warns(UserWarning, match="disk is full"):
        extract(files, Network(), FeatureStore(tmp_path))
    assert IN_PROCESS.info()["n_rows"] == 150


def test_full_store_does_not_hold_up_others(files, pixels, tmp_path, monkeypatch):
    """The claims on it are given up, though nothing can be kept in it."""
    store, network = FeatureStore(tmp_path), Network()
    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "add", full)
        with pytest.warns(UserWarning, match="disk is full"):
            extract(files[:10], Network(), store)
    done = extract(files[:10], network, store)
    np.testing.assert_array_equal(done.features, rows_of(pixels[:10]))
    network.assert_saw_once(pixels[:10])
    assert store.info()["n_rows"] == 10


def test_mistakes_in_adding_are_not_taken_for_a_full_disk(files, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="float8"):
            extract(files[:5], Network(), FeatureStore(tmp_path, dtype="float8"))


# what is in memory at once


class Census:
    """Counts how many of some objects are alive."""

    def __init__(self):
        self.lock = threading.RLock()  # objects may die within it
        self.alive = self.most = self.total = 0

    def born(self):
        with self.lock:
            self.alive += 1
            self.total += 1
            self.most = max(self.most, self.alive)

    def died(self):
        with self.lock:
            self.alive -= 1


def test_few_decoded_images_are_alive_at_once(monkeypatch):
    census, load_rgb = Census(), extraction.load_rgb

    def watched(*args):
        image = load_rgb(*args)
        census.born()
        weakref.finalize(image, census.died)
        return image

    monkeypatch.setattr(extraction, "load_rgb", watched)
    pixels = make_pixels(600)
    extract(pixels, Network(0.001), MemoryStore(10**9), n_threads=3)
    gc.collect()
    assert census.total == 600 and census.alive == 0
    assert census.most <= 2 * 3 * 4  # of each thread a batch, and one that is about to go


def test_few_batches_run_ahead_of_those_that_are_kept(monkeypatch):
    network, placed, ahead = Network(), [0], []
    place = Extraction._place

    def slow_place(self, batch, *outcome):
        time.sleep(0.005)
        ahead.append(len(network.seen) - placed[0])
        placed[0] += len(batch)
        return place(self, batch, *outcome)

    monkeypatch.setattr(Extraction, "_place", slow_place)
    extract(make_pixels(600), network, MemoryStore(10**9), batch_size=4)
    assert len(network.seen) == 600
    assert 4 * 4 < max(ahead) <= 4 * 20


def test_few_files_are_in_memory_during_the_survey(tmp_path, monkeypatch, pool):
    class Content(bytes):
        """Bytes that can be watched: weak references to them there are none."""

        def __init__(self, content):
            census.born()

        def __del__(self):
            census.died()

    census, read_source = Census(), extraction.read_source
    monkeypatch.setattr(extraction, "read_source", lambda source: Content(read_source(source)))
    files = write(tmp_path, make_pixels(800))
    monkeypatch.setattr(extraction, "_HELD_BYTES", sum(os.path.getsize(f) for f in files[:100]))
    job = Extraction(files, WIDTH, RECIPE, MemoryStore(10**9), pool)
    job.survey()
    assert len(job.missing) == 800
    gc.collect()
    assert census.total == 800 and 90 <= census.alive <= 110
    assert census.most <= 300


@pytest.mark.parametrize(("held", "n_read"), [(2**20, 80), (0, 160)])
def test_files_that_are_held_are_not_read_again(held, n_read, files, monkeypatch, store):
    read, read_source = [], extraction.read_source

    def counted(source):
        read.append(source)
        return read_source(source)

    monkeypatch.setattr(extraction, "read_source", counted)
    monkeypatch.setattr(extraction, "_HELD_BYTES", held)
    job = extract(files[:80], rows_of, store)
    assert len(read) == n_read
    assert store.info()["n_rows"] == 80 and not job._held


class AtOnce(Executor):
    """Does all that it is given before anything is fetched: the most that can be ahead."""

    def submit(self, call, /, *args):
        future = Future()
        future.set_result(call(*args))
        return future

    def map(self, *args):
        return map(*args)


@pytest.mark.parametrize(("batch_size", "most"), [(1, 32), (4, 80), (64, 64 * 17)])
def test_what_a_kill_at_the_worst_moment_costs(batch_size, most):
    """The bound that docs/reliability.md names."""
    pixels, network, costs = make_pixels(2 * most), Network(), []
    store = MemoryStore(10**9)

    def run(pixels):
        rows = network(pixels)
        costs.append(len(network.seen) - store.info()["n_rows"])
        return rows

    work = Extraction(pixels, WIDTH, RECIPE, store, AtOnce())
    work.survey()
    work.compute(run, SIDE, batch_size, go_on=False)
    assert len(network.seen) == 2 * most
    assert most / 2 < max(costs) <= most


def test_rows_are_kept_as_the_work_goes_on(store):
    """Not at the end: an interruption must not cost hours."""
    pixels, n_kept = make_pixels(400), []

    def run(pixels):
        n_kept.append(store.info()["n_rows"])
        return rows_of(pixels)

    extract(pixels, run, store, n_threads=1)
    assert n_kept[0] == 0
    assert n_kept[len(n_kept) // 2] >= 64
    assert 400 - n_kept[-1] <= 200
    assert len(set(n_kept)) > 3
