"""Tests of sklearn_dfd.feature_store: the bound of what is kept in memory."""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from stored_rows import assert_keeps, fill, kept, key_of, rows_of

from sklearn_dfd.feature_store import MemoryStore


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
