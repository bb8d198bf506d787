"""Tests of sklearn_dfd.feature_store: several processes, killed ones among them."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from stored_rows import assert_keeps, database_of, fill, kept, rows_of

import sklearn_dfd
from sklearn_dfd.feature_store import FeatureStore

CHILD = """
import sys, types
package = types.ModuleType("sklearn_dfd")
package.__path__ = [sys.argv[1]]  # as the package, without importing all of it
sys.modules["sklearn_dfd"] = package
import numpy as np
from sklearn_dfd.feature_store import FeatureStore, row_key

def key_of(i):
    return row_key(f"image {i}".encode(), "recipe")

def rows_of(indices, width=50):
    return np.array([np.arange(width) + 1000 * i + 0.1 for i in indices], dtype=np.float32)

def fill(store, indices, width=50):
    store.add([key_of(i) for i in indices], rows_of(indices, width))

store = FeatureStore(sys.argv[2])
"""


def start_child(code, store, *args):
    package = Path(sklearn_dfd.__file__).parent
    return subprocess.Popen(
        [sys.executable, "-c", CHILD + code, str(package), str(store.path), *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_several_processes_make_and_fill_a_store_at_once(store):
    code = """
me = int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
for step in range(15):
    fill(store, [1000 * (me + 1) + step, *range(4 * step, 4 * step + 4)], 500)
    found = dict(store.fetch([key_of(i) for i in range(60)]))
    for i in range(60):
        if key_of(i) in found:
            assert np.array_equal(found[key_of(i)], rows_of([i], 500)[0]), i
    assert all(key_of(i) in found for i in range(4 * step + 4))
"""
    children = [start_child(code, store, me) for me in range(4)]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    assert not Path(store.path).exists()
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
    own = [1000 * (me + 1) + step for me in range(4) for step in range(15)]
    assert_keeps(store, [*range(60), *own], width=500)
    assert store.info()["n_rows"] == 60 + len(own)  # each once


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_killed_writer_leaves_what_it_had_added(store):
    """Killed at any moment: all that add had returned for is there, and no batch is half there."""
    code = """
import itertools
for batch in itertools.count(int(sys.argv[3])):
    fill(store, range(5 * batch, 5 * batch + 5), 3000)
    print(batch, flush=True)
"""
    first = 0
    for attempt in range(6):
        child = start_child(code, store, first)
        for _ in range(3 + attempt):
            last = int(child.stdout.readline())
        child.kill()
        rest, _ = child.communicate(timeout=60)
        assert child.returncode == -signal.SIGKILL
        added = range(5 * int([last, *rest.split()][-1]) + 5)
        possible = range(len(added) + 5)  # the last one may have been killed before it could say
        found = kept(store, possible)
        assert set(added) <= set(found)
        assert len(found) % 5 == 0
        for i, row in found.items():
            np.testing.assert_array_equal(row, rows_of([i], 3000)[0])
        assert store.info()["n_rows"] == len(found)
        with database_of(store) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        first = len(found) // 5


def test_reader_does_not_wait_for_a_writer(store):
    fill(store, range(3))
    with database_of(store) as database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("DELETE FROM rows")
        assert_keeps(store, range(3))
        database.rollback()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_process_uses_the_store_of_its_parent(any_store):
    fill(any_store, range(3))

    def child():
        assert_keeps(any_store, range(3))
        fill(any_store, [3])
        assert_keeps(any_store, range(4))

    process = multiprocessing.get_context("fork").Process(target=child)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads, from 3.12
        process.start()
    process.join(30)
    assert process.exitcode == 0
    fill(any_store, [4])
    in_directory = isinstance(any_store, FeatureStore)
    assert_keeps(any_store, [0, 1, 2, 3, 4] if in_directory else [0, 1, 2, 4], asked=range(6))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forks_while_threads_use_the_store_do_not_damage_it(store):
    """SQLite's locks are of a process: a child must not take over an open one."""
    fill(store, range(20), 500)
    stop = threading.Event()
    failures = []

    def use(number):
        step = 0
        while not stop.is_set():
            step += 1
            try:
                fill(store, [10_000 * number + step, step % 20], 500)
                assert len(kept(store, range(20))) == 20
            except Exception as error:
                failures.append(error)
                return

    def child(number):
        for _ in range(10):
            fill(store, [100_000 + number, number % 20], 500)
            assert len(kept(store, range(20))) == 20

    threads = [threading.Thread(target=use, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    context = multiprocessing.get_context("fork")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
            for number in range(20):
                process = context.Process(target=child, args=(number,))
                process.start()
                process.join(60)
                assert process.exitcode == 0, number
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    with database_of(store) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
