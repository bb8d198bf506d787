"""Tests of sklearn_dfd.feature_store: kept exactly, by many at once, whatever the disk does."""

import contextlib
import copy
import errno
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone

import sklearn_dfd
from sklearn_dfd import feature_store
from sklearn_dfd.feature_store import (
    IN_PROCESS,
    SCHEMA_VERSION,
    FeatureStore,
    MemoryStore,
    open_store,
    row_key,
)


def key_of(i):
    return row_key(f"image {i}".encode(), "recipe")


def rows_of(indices, width=50):
    """A row of its own for each index."""
    return np.array([np.arange(width) + 1000 * i + 0.1 for i in indices], dtype=np.float32)


def fill(store, indices, width=50):
    store.add([key_of(i) for i in indices], rows_of(indices, width))


def kept(store, indices):
    """What a store has of some indices, as a dict."""
    of_key = {key_of(i): i for i in indices}
    found = [(of_key[key], row) for key, row in store.fetch(list(of_key))]
    assert len(dict(found)) == len(found)
    return dict(found)


def assert_keeps(store, indices, asked=None, width=50):
    """The store has exactly these of the indices asked for, with their own rows."""
    found = kept(store, indices if asked is None else asked)
    assert sorted(found) == sorted(indices)
    for i, row in found.items():
        np.testing.assert_array_equal(row, rows_of([i], width)[0])


@pytest.fixture(params=["memory", "directory"])
def any_store(request, tmp_path):
    return MemoryStore(10**9) if request.param == "memory" else FeatureStore(tmp_path / "store")


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path / "store")


@contextlib.contextmanager
def database_of(store):
    """The database itself, as an outsider sees it."""
    with contextlib.closing(sqlite3.connect(Path(store.path) / "features.sqlite")) as database:
        with database:
            yield database


# keys


def test_key_is_16_bytes_and_depends_on_content_and_recipe():
    keys = {row_key(b"a", "r"), row_key(b"b", "r"), row_key(b"a", "s")}
    assert len(keys) == 3
    assert {len(key) for key in keys} == {16}
    assert row_key(b"a", "r") in keys


# what both kinds of store do


def test_rows_come_back_under_their_keys(any_store):
    fill(any_store, range(10))
    assert_keeps(any_store, [2, 7], asked=[2, 7])
    assert_keeps(any_store, range(10), asked=range(-5, 15))


def test_store_without_rows(any_store):
    assert list(any_store.fetch([])) == []
    assert list(any_store.fetch([key_of(0)])) == []
    any_store.add([], np.empty((0, 5), np.float32))
    assert any_store.info()["n_rows"] == 0
    assert any_store.info()["n_bytes"] == 0


def test_many_keys_at_once(any_store, monkeypatch):
    connect = sqlite3.connect

    def connect_to_an_old_sqlite(*args, **kwargs):
        database = connect(*args, **kwargs)
        database.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)
        return database

    monkeypatch.setattr(feature_store.sqlite3, "connect", connect_to_an_old_sqlite)
    fill(any_store, range(2300), width=2)
    assert_keeps(any_store, range(2300), width=2)


def test_row_added_again_is_replaced(any_store):
    fill(any_store, [1, 2])
    any_store.add([key_of(1)], rows_of([9]))
    found = kept(any_store, [1, 2])
    np.testing.assert_array_equal(found[1], rows_of([9])[0])
    np.testing.assert_array_equal(found[2], rows_of([2])[0])
    assert any_store.info()["n_rows"] == 2
    assert any_store.info()["n_bytes"] == 2 * 50 * 4


def test_rows_of_different_widths(any_store):
    fill(any_store, [1], width=3)
    fill(any_store, [2], width=25_088)
    assert_keeps(any_store, [1], width=3)
    assert_keeps(any_store, [2], width=25_088)


def test_keys_and_rows_of_different_numbers(any_store):
    with pytest.raises(ValueError, match="argument"):
        any_store.add([key_of(0)], rows_of([0, 1]))


def test_clear(any_store):
    fill(any_store, range(5))
    any_store.clear()
    assert_keeps(any_store, [], asked=range(5))
    assert any_store.info()["n_rows"] == 0
    fill(any_store, [3])
    assert_keeps(any_store, [3], asked=range(5))


@pytest.mark.parametrize("how", ["fetch", "info", "clear", "prune", "add"])
def test_store_may_be_used_while_it_is_read(any_store, how):
    fill(any_store, range(4))
    reading = any_store.fetch([key_of(i) for i in range(4)])
    key, row = next(reading)
    if how == "fetch":
        assert len(kept(any_store, range(4))) == 4
    elif how == "add":
        fill(any_store, [9])
    elif how == "prune" and isinstance(any_store, FeatureStore):
        any_store.prune(50)
    else:
        getattr(any_store, "clear" if how == "prune" else how)()
    rest = dict([(key, row), *reading])
    for i in range(4):
        if key_of(i) in rest:
            np.testing.assert_array_equal(rest[key_of(i)], rows_of([i])[0])


def test_many_threads(any_store):
    """Threads that add, read and replace the same rows never see another's row."""
    wrong = []

    def work(seed):
        rng = random.Random(seed)
        for _ in range(12):
            some = rng.sample(range(30), 6)
            fill(any_store, some)
            for i, row in kept(any_store, range(30)).items():
                if not np.array_equal(row, rows_of([i])[0]):
                    wrong.append(i)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert wrong == []
    found = kept(any_store, range(30))
    assert any_store.info()["n_rows"] == len(found)
    assert any_store.info()["n_bytes"] == len(found) * 50 * 4


class Estimator:
    """The least that scikit-learn clones."""

    def __init__(self, memory=None):
        self.memory = memory

    def get_params(self, deep=False):
        return {"memory": self.memory}


def test_store_may_be_the_parameter_of_an_estimator(any_store):
    """GridSearchCV clones estimators, and with them their parameters."""
    fill(any_store, [1])
    cloned = clone(Estimator(any_store)).memory
    assert type(cloned) is type(any_store)
    assert_keeps(cloned, [1])
    fill(cloned, [2])
    assert_keeps(any_store, [1, 2])  # and all clones share what is kept


def test_store_travels_to_another_process(any_store):
    fill(any_store, [1])
    other = pickle.loads(pickle.dumps(any_store))
    assert type(other) is type(any_store)
    assert vars(any_store).keys() == vars(other).keys()
    if isinstance(any_store, FeatureStore):
        assert_keeps(other, [1])
        assert (str(other.path), other.dtype) == (str(any_store.path), any_store.dtype)
    else:
        assert other.max_bytes == any_store.max_bytes
    fill(other, [2])
    assert_keeps(other, [2])


# MemoryStore


def test_memory_is_bound():
    memory = MemoryStore(max_bytes=5 * 200)  # rows of 50 float32
    for i in range(20):
        fill(memory, [i])
        assert memory.info()["n_bytes"] <= 1000
    assert_keeps(memory, range(15, 20), asked=range(20))
    assert memory.info() == {"n_rows": 5, "n_bytes": 1000}


def test_bound_holds_for_rows_added_at_once():
    memory = MemoryStore(max_bytes=5 * 200 + 199)
    fill(memory, range(20))
    assert_keeps(memory, range(15, 20), asked=range(20))


def test_what_was_fetched_last_stays_longest():
    memory = MemoryStore(max_bytes=3 * 200)
    fill(memory, [0, 1, 2])
    assert_keeps(memory, [0])  # used: now 1 is the oldest
    fill(memory, [3])
    assert_keeps(memory, [0, 2, 3], asked=range(4))


def test_what_was_added_again_stays_longer():
    memory = MemoryStore(max_bytes=3 * 200)
    fill(memory, [0, 1, 2])
    fill(memory, [0])
    fill(memory, [3])
    assert_keeps(memory, [0, 2, 3], asked=range(4))


def test_bound_may_change():
    memory = MemoryStore(max_bytes=10 * 200)
    fill(memory, range(10))
    memory.max_bytes = 2 * 200
    fill(memory, [10])
    assert_keeps(memory, [9, 10], asked=range(11))
    memory.max_bytes = 4 * 200
    fill(memory, [11, 12, 13])
    assert_keeps(memory, [10, 11, 12, 13], asked=range(14))


@pytest.mark.parametrize("max_bytes", [0, 199])
def test_row_that_does_not_fit_is_not_kept(max_bytes):
    memory = MemoryStore(max_bytes)
    fill(memory, [1])
    assert memory.info() == {"n_rows": 0, "n_bytes": 0}


def test_replaced_row_counts_once():
    memory = MemoryStore(10_000)
    fill(memory, [1], width=50)
    fill(memory, [1], width=7)
    assert memory.info() == {"n_rows": 1, "n_bytes": 28}
    fill(memory, [1, 1], width=9)
    assert memory.info() == {"n_rows": 1, "n_bytes": 36}


def test_rows_in_memory_are_read_only_and_of_their_own():
    memory = MemoryStore(10_000)
    rows = rows_of([1, 2])
    memory.add([key_of(1), key_of(2)], rows)
    rows[:] = -1
    assert_keeps(memory, [1, 2])
    row = kept(memory, [1])[1]
    with pytest.raises(ValueError, match="read-only"):
        row[0] = 5
    assert row.base is None  # a view would keep the whole batch alive, beyond the bound


def test_memory_under_many_threads_stays_within_its_bound():
    memory = MemoryStore(max_bytes=40 * 200)
    wrong = []

    def work(seed):
        rng = random.Random(seed)
        for step in range(150):
            fill(memory, rng.sample(range(100), 5), width=50)
            if memory.info()["n_bytes"] > 40 * 200:
                wrong.append("bound")
            for i, row in kept(memory, rng.sample(range(100), 20)).items():
                if not np.array_equal(row, rows_of([i])[0]):
                    wrong.append(i)
            if seed == 0 and step % 50 == 49:
                memory.clear()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert wrong == []
    found = kept(memory, range(100))
    assert memory.info() == {"n_rows": len(found), "n_bytes": len(found) * 200}


# open_store


def test_open_store(tmp_path):
    assert open_store(None) is IN_PROCESS
    memory, directory = MemoryStore(1), FeatureStore(tmp_path, "float16")
    assert open_store(memory) is memory
    assert open_store(directory) is directory
    for path in (tmp_path, str(tmp_path)):
        opened = open_store(path)
        assert isinstance(opened, FeatureStore)
        assert Path(opened.path) == tmp_path
        assert opened.dtype == "float32"


def test_the_store_of_the_process_is_bound():
    assert IN_PROCESS.max_bytes == 512 * 2**20
    assert IN_PROCESS.info()["n_rows"] == 0  # the tests begin without


# FeatureStore: what is kept


def test_float32_is_kept_exactly(store):
    info = np.finfo(np.float32)
    row = np.array([0.1, -0.0, info.max, info.min, info.tiny, info.smallest_subnormal, np.pi])
    row = np.append(row, [np.nan, np.inf, -np.inf]).astype(np.float32)
    store.add([key_of(1)], row[None])
    ((key, found),) = store.fetch([key_of(1)])
    assert key == key_of(1)
    assert found.dtype == np.float32
    assert found.tobytes() == row.tobytes()


def test_float16_is_kept_in_half_the_bytes(tmp_path):
    rows = np.random.default_rng(0).normal(0, 3, (4, 1000)).astype(np.float32)
    keys = [key_of(i) for i in range(4)]
    n_bytes = {}
    for dtype in ("float32", "float16"):
        store = FeatureStore(tmp_path / dtype, dtype=dtype)
        store.add(keys, rows)
        n_bytes[dtype] = store.info()["n_bytes"]
    assert n_bytes == {"float32": 16_000, "float16": 8_000}
    found = dict(store.fetch(keys))
    for key, row in zip(keys, rows, strict=True):
        assert found[key].dtype == np.float32
        np.testing.assert_allclose(found[key], row, rtol=5e-4, atol=1e-7)
        assert not np.array_equal(found[key], row)


def test_both_precisions_may_be_in_one_store(tmp_path):
    fill(FeatureStore(tmp_path, "float16"), [1, 2], width=3)
    fill(FeatureStore(tmp_path, "float32"), [2, 3], width=3)
    for dtype in ("float16", "float32"):
        found = kept(FeatureStore(tmp_path, dtype), [1, 2, 3])
        np.testing.assert_allclose(found[1], rows_of([1], 3)[0], rtol=5e-4)
        np.testing.assert_array_equal(found[2], rows_of([2], 3)[0])
        np.testing.assert_array_equal(found[3], rows_of([3], 3)[0])


def test_rows_in_any_layout(store):
    rows = rows_of(range(4), width=6).astype(np.float64)
    store.add([key_of(i) for i in range(4)], np.asfortranarray(rows))
    assert_keeps(store, range(4), width=6)


def test_precision_that_nobody_knows(tmp_path):
    with pytest.raises(ValueError, match=r"float32.*float16"):
        fill(FeatureStore(tmp_path, dtype="float64"), [1])


def test_rows_are_added_all_or_none(store):
    fill(store, [1])
    with pytest.raises((ValueError, TypeError)):
        store.add([key_of(2), key_of(3)], [rows_of([2])[0], "not a row"])
    assert_keeps(store, [1], asked=[1, 2, 3])


def test_features_are_there_in_another_instance(store, tmp_path):
    fill(store, [1, 2])
    assert_keeps(FeatureStore(str(tmp_path / "store")), [1, 2])


def test_directory_is_made_with_its_parents(tmp_path):
    store = FeatureStore(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()  # nothing is touched before use
    fill(store, [1])
    assert_keeps(store, [1])


def test_directory_may_be_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(FeatureStore("~/store"), [1])
    assert_keeps(FeatureStore(tmp_path / "store"), [1])


def test_info(store):
    assert store.info() == {"path": str(store.path), "n_rows": 0, "n_bytes": 0}
    fill(store, range(3), width=10)
    assert store.info() == {"path": str(store.path), "n_rows": 3, "n_bytes": 120}


def test_repr(store):
    assert eval(repr(store), {"FeatureStore": FeatureStore}).__dict__ == {
        "path": str(store.path),
        "dtype": "float32",
    }


# FeatureStore: prune


@pytest.mark.parametrize(
    ("max_bytes", "left"),
    [(10**9, 6), (1200, 6), (1199, 5), (800, 4), (799, 3), (200, 1), (199, 0), (0, 0)],
)
def test_prune_removes_what_was_added_longest_ago(store, max_bytes, left):
    for i in (3, 1, 5, 0, 4, 2):  # rows of 200 bytes
        fill(store, [i])
    store.prune(max_bytes)
    assert_keeps(store, [3, 1, 5, 0, 4, 2][6 - left :], asked=range(6))
    assert store.info()["n_bytes"] == 200 * left


def test_prune_counts_a_replaced_row_as_new(store):
    for i in (0, 1, 2, 0):
        fill(store, [i])
    store.prune(400)
    assert_keeps(store, [0, 2], asked=range(3))


def test_prune_after_prune_still_knows_the_order(store):
    fill(store, range(6))
    store.prune(800)
    fill(store, [6, 7])
    store.prune(800)
    assert_keeps(store, [4, 5, 6, 7], asked=range(8))
    store.clear()
    fill(store, [9, 8])
    store.prune(200)
    assert_keeps(store, [8], asked=range(10))


def test_prune_gives_the_space_back(store):
    fill(store, range(20), width=20_000)
    full = disk_usage(store)
    assert full > 20 * 80_000
    store.prune(2 * 80_000)
    assert disk_usage(store) < full / 4
    assert_keeps(store, [18, 19], asked=range(20), width=20_000)


def disk_usage(store):
    return sum(path.stat().st_size for path in Path(store.path).iterdir())


# FeatureStore: several processes

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


# FeatureStore: damage


def damage(store, i, expression):
    """Change the value of a row, behind the store's back."""
    with database_of(store) as database:
        (value,) = database.execute("SELECT value FROM rows WHERE key = ?", (key_of(i),)).fetchone()
        changed = database.execute(
            "UPDATE rows SET value = ? WHERE key = ?", (expression(value), key_of(i))
        )
        assert changed.rowcount == 1


DAMAGE = {
    "flipped bit": lambda value: value[:77] + bytes([value[77] ^ 4]) + value[78:],
    "first byte": lambda value: bytes([value[0] ^ 1]) + value[1:],
    "last byte": lambda value: value[:-1] + bytes([value[-1] ^ 128]),
    "cut": lambda value: value[:-4],
    "cut within a number": lambda value: value[:-3],
    "longer": lambda value: value + bytes(4),
    "empty": lambda value: b"",
    "a text": lambda value: "text",
    "a number": lambda value: 3,
}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_row_is_left_out_with_a_warning(tmp_path, dtype, kind):
    store = FeatureStore(tmp_path, dtype=dtype)
    fill(store, [1])
    exact = kept(store, [1])[1]
    fill(store, range(5))
    damage(store, 2, DAMAGE[kind])
    with pytest.warns(UserWarning, match=r"^1 damaged row.*computed again") as caught:
        found = kept(store, range(5))
    assert str(tmp_path) in str(caught[0].message)
    assert sorted(found) == [0, 1, 3, 4]
    np.testing.assert_array_equal(found[1], exact)
    fill(store, [2])  # computed again
    assert sorted(kept(store, range(5))) == [0, 1, 2, 3, 4]


def test_damaged_rows_are_counted_in_one_warning(store):
    fill(store, range(1200), width=5)
    for i in (3, 700, 1100):
        damage(store, i, DAMAGE["first byte"])
    with pytest.warns(UserWarning, match=r"^3 damaged row") as caught:
        found = kept(store, range(1200))
    assert len(caught) == 1
    assert len(found) == 1197


def test_precision_of_a_row_that_is_damaged(store):
    fill(store, range(3))
    with database_of(store) as database:
        database.execute("UPDATE rows SET dtype = 'float31' WHERE key = ?", (key_of(1),))
    with pytest.warns(UserWarning, match=r"^1 damaged row"):
        assert sorted(kept(store, range(3))) == [0, 2]


def test_row_under_the_key_of_another_is_damage(store):
    """The features of one image must never be taken for another's."""
    fill(store, range(4))
    with database_of(store) as database:
        query = "SELECT dtype, checksum, value FROM rows WHERE key = ?"
        other = database.execute(query, (key_of(1),)).fetchone()
        database.execute(
            "UPDATE rows SET dtype = ?, checksum = ?, value = ? WHERE key = ?", (*other, key_of(2))
        )
    with pytest.warns(UserWarning, match=r"^1 damaged row"):
        assert_keeps(store, [0, 1, 3], asked=range(4))


def test_no_flipped_bit_gives_a_wrong_row(store):
    """Wherever a disk fails: the right row, or none, or an error that names the file."""
    fill(store, range(40), width=20)
    file = Path(store.path) / "features.sqlite"
    whole = file.read_bytes()
    used = [position for position, byte in enumerate(whole) if byte]
    rng = random.Random(0)
    schema = [position for position in used if 100 < position < whole.find(key_of(0)[:4])]
    outcomes = set()
    for position in [*rng.sample(used, 220), *rng.sample(schema, 40)]:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.randrange(8)
        shutil.rmtree(store.path)
        file.parent.mkdir()
        file.write_bytes(damaged)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found = list(store.fetch([key_of(i) for i in range(40)]))
        except (ValueError, OSError) as error:
            assert str(file) in str(error), position
            outcomes.add("error")
            continue
        of_key = {key_of(i): i for i in range(40)}
        for key, row in found:
            assert key in of_key, position
            assert np.array_equal(row, rows_of([of_key[key]], 20)[0]), position
        outcomes.add("warned" if caught else "all" if len(found) == 40 else "left out")
    assert {"error", "warned", "all"} <= outcomes


def test_schema_that_is_no_text_any_more(store):
    fill(store, [1])
    file = Path(store.path) / "features.sqlite"
    content = file.read_bytes()
    assert b"CREATE TABLE rows" in content
    file.write_bytes(content.replace(b"CREATE TABLE rows", b"CREATE TABL\xc5 rows"))
    with pytest.raises(ValueError, match="damaged or not a feature store") as caught:
        kept(store, [1])
    assert str(file) in str(caught.value)


# FeatureStore: places that cannot be used

USES = {
    "fetch": lambda store: list(store.fetch([key_of(0)])),
    "add": lambda store: fill(store, [1]),
    "info": lambda store: store.info(),
    "prune": lambda store: store.prune(100),
    "clear": lambda store: store.clear(),
}
every_use = pytest.mark.parametrize("use", USES.values(), ids=USES)


@every_use
def test_path_is_a_file(tmp_path, use):
    path = tmp_path / "file"
    path.write_text("content")
    with pytest.raises(NotADirectoryError, match=r"directory.*this is a file.*file"):
        use(FeatureStore(path))
    assert path.read_text() == "content"


def test_parent_of_the_path_is_a_file(tmp_path):
    (tmp_path / "file").write_text("content")
    with pytest.raises(OSError, match="file") as caught:
        fill(FeatureStore(tmp_path / "file" / "store"), [1])
    assert caught.value.errno in {errno.ENOTDIR, errno.EEXIST}


@every_use
def test_newer_version(store, use):
    fill(store, [0])
    with database_of(store) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(ValueError, match=rf"newer version.*format {SCHEMA_VERSION + 1}") as caught:
        use(store)
    assert str(store.path) in str(caught.value)
    with database_of(store) as database:  # and is left as it was
        assert database.execute("SELECT COUNT(*) FROM rows").fetchone() == (1,)
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    assert_keeps(store, [0])


@pytest.mark.parametrize("content", [b"not a database" * 100, b"short", bytes(range(256)) * 16])
@every_use
def test_not_a_database(store, use, content):
    file = Path(store.path) / "features.sqlite"
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged or not a feature store.*delete it") as caught:
        use(store)
    assert str(file) in str(caught.value)
    assert file.read_bytes() == content
    file.unlink()
    use(store)


def test_empty_file_is_an_empty_store(store):
    file = Path(store.path) / "features.sqlite"
    file.parent.mkdir()
    file.touch()
    fill(store, [1])
    assert_keeps(store, [1])


def test_truncated_database(store):
    fill(store, range(100), width=1000)
    file = Path(store.path) / "features.sqlite"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged or not a feature store"):
        kept(store, range(100))


@every_use
def test_directory_in_the_place_of_the_database(store, use):
    file = Path(store.path) / "features.sqlite"
    file.mkdir(parents=True)
    with pytest.raises(OSError, match=r"feature store.*cannot be used") as caught:
        use(store)
    assert str(file) in str(caught.value)


@contextlib.contextmanager
def unprivileged():
    """Without the rights of root, who may write anywhere."""
    if not hasattr(os, "geteuid"):
        pytest.skip("needs the permissions of a POSIX system")
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(65534)
    except OSError:
        pytest.skip("root here may write anywhere, and cannot become somebody else")
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_directory():
    """A directory that others may enter, as those of tmp_path are not."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)
        os.chmod(directory, 0o755)


@pytest.mark.parametrize("filled", [False, True], ids=["empty", "filled"])
@pytest.mark.parametrize("use", ["fetch", "add"])
def test_directory_that_may_not_be_written_to(open_directory, filled, use):
    store = FeatureStore(open_directory)
    if filled:
        fill(store, [0])
    for path in open_directory.iterdir():
        path.chmod(0o444)
    open_directory.chmod(0o555)
    with unprivileged(), pytest.raises(OSError, match=r"feature store.*cannot be used") as caught:
        USES[use](store)
    assert str(open_directory) in str(caught.value)
    if filled:
        open_directory.chmod(0o755)
        assert_keeps(store, [0])


@pytest.fixture
def small_disk(monkeypatch):
    """Let databases grow by a few pages only."""
    connect = sqlite3.connect

    def connect_small(*args, **kwargs):
        database = connect(*args, **kwargs)
        (n_pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {n_pages + 4}")
        return database

    def begin():
        monkeypatch.setattr(feature_store.sqlite3, "connect", connect_small)

    return begin


def test_full_disk(store, small_disk):
    fill(store, range(5), width=1000)
    small_disk()
    with pytest.raises(OSError, match=r"feature store.*cannot be used.*full") as caught:
        fill(store, range(5, 200), width=1000)
    assert str(store.path) in str(caught.value)
    assert_keeps(store, range(5), asked=range(200), width=1000)  # all or none
    store.clear()  # what helps
    assert store.info()["n_rows"] == 0


def test_writer_that_never_ends(store, monkeypatch):
    fill(store, [0])
    connect = sqlite3.connect

    def impatient(*args, **kwargs):
        return connect(*args, **{**kwargs, "timeout": 0.1})

    monkeypatch.setattr(feature_store.sqlite3, "connect", impatient)
    with database_of(store) as database:
        database.execute("BEGIN IMMEDIATE")
        with pytest.raises(OSError, match=r"feature store.*cannot be used.*locked"):
            fill(store, [1])
    fill(store, [1])
    assert_keeps(store, [0, 1])


def test_writer_waits_for_another(store):
    fill(store, [0])
    with database_of(store) as database:
        database.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(1) as pool:
            added = pool.submit(fill, store, [1])
            with pytest.raises(TimeoutError):
                added.result(timeout=0.3)
            database.rollback()
            added.result(timeout=30)
    assert_keeps(store, [0, 1])


def test_copy_of_a_store_is_the_same_store(store):
    fill(store, [1])
    assert_keeps(copy.deepcopy(store), [1])
    assert_keeps(copy.copy(store), [1])


def test_no_connection_is_left_open(store):
    fill(store, range(3))
    reading = store.fetch([key_of(i) for i in range(3)])
    next(reading)
    reading.close()  # a reader that stops early
    assert [path.name for path in Path(store.path).iterdir()] == ["features.sqlite"]
