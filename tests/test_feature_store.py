"""Tests of sklearn_dfd.feature_store: kept exactly, by many at once, and pruned."""

import copy
import pickle
import random
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from stored_rows import assert_keeps, fill, kept, key_of, rows_of

from sklearn_dfd import MobileNetV2Features, feature_store
from sklearn_dfd.feature_store import IN_PROCESS, FeatureStore, MemoryStore, open_store, row_key

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


def test_rows_are_used_as_they_are_kept_from_the_first_time_on(tmp_path):
    """Otherwise a result would depend on what was computed before."""
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    features = MobileNetV2Features(weights=None, image_size=32)
    exact = features.fit_transform(images)
    features.set_params(memory=FeatureStore(tmp_path, "float16"))
    first, second = features.transform(images), features.transform(images)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, exact.astype(np.float16).astype(np.float32))


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
