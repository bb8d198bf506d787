"""Tests of _core.extraction: how much is in memory at once, and not yet kept."""

import gc
import os
import threading
import time
import weakref
from concurrent.futures import Executor, Future

import pytest
from counted_extraction import (
    DECODING,
    RECIPE,
    WIDTH,
    Network,
    extract,
    make_pixels,
    rows_of,
    write,
)

from sklearn_dfd._core import extraction
from sklearn_dfd._core.extraction import Extraction
from sklearn_dfd._core.images import reading
from sklearn_dfd.feature_store import MemoryStore

pytestmark = pytest.mark.usefixtures("no_endless_waiting")


@pytest.fixture
def store(any_store):
    return any_store


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

    census, read_source = Census(), reading.read_source
    monkeypatch.setattr(reading, "read_source", lambda source: Content(read_source(source)))
    files = write(tmp_path, make_pixels(800))
    monkeypatch.setattr(extraction, "_HELD_BYTES", sum(os.path.getsize(f) for f in files[:100]))
    job = Extraction(files, WIDTH, RECIPE, MemoryStore(10**9), pool, DECODING)
    job.survey()
    assert len(job.missing) == 800
    gc.collect()
    assert census.total == 800 and 90 <= census.alive <= 110
    assert census.most <= 300


@pytest.mark.parametrize(("held", "n_read"), [(2**20, 80), (0, 160)])
def test_files_that_are_held_are_not_read_again(held, n_read, files, monkeypatch, store):
    read, read_source = [], reading.read_source

    def counted(source):
        read.append(source)
        return read_source(source)

    monkeypatch.setattr(reading, "read_source", counted)
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

    work = Extraction(pixels, WIDTH, RECIPE, store, AtOnce(), DECODING)
    work.survey()
    work.compute(run, batch_size, go_on=False)
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
