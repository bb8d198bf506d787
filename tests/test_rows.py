"""Tests of _core.network.rows: batches contain all rows, and the matrix is not copied."""

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed

from sklearn_dfd import DeepFakeClassifier
from sklearn_dfd._core.network.rows import Rows, distinct_rows
from sklearn_dfd._core.network.training import TailNet


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# batches


def numbered_rows(n_rows, **kwargs):
    """Make rows whose values are their own numbers."""
    numbers = np.arange(n_rows)
    return Rows(
        np.repeat(numbers[:, None], 3, axis=1).astype(np.float32),
        10 * numbers,
        (numbers / 4).astype(np.float32),
        **kwargs,
    )


def numbers_in(batches):
    """Return the numbers of the rows of each batch, and check their labels and weights."""
    found = []
    for X, (y, weight) in batches:
        assert X.shape == (len(y), 3) and X.dtype == torch.float32
        numbers = X[:, 0].long()
        torch.testing.assert_close(y, 10 * numbers)
        torch.testing.assert_close(weight, numbers / 4)
        found.append(numbers.tolist())
    return found


def flat(batches):
    return [number for batch in batches for number in batch]


@pytest.mark.parametrize("n_rows", [1, 4, 10, 12])
def test_all_rows_once_in_their_order(n_rows):
    batches = numbers_in(numbered_rows(n_rows).batches(4))
    assert flat(batches) == list(range(n_rows))
    assert all(len(batch) == 4 for batch in batches[:-1])
    assert 1 <= len(batches[-1]) <= 4


def test_all_rows_once_shuffled():
    rows = numbered_rows(100)
    first = flat(numbers_in(rows.batches(8, generator=seeded())))
    assert sorted(first) == list(range(100))
    assert first != sorted(first)
    assert first == flat(numbers_in(rows.batches(8, generator=seeded())))
    assert first != flat(numbers_in(rows.batches(8, generator=seeded(1))))


def test_order_differs_from_epoch_to_epoch():
    rows, generator = numbered_rows(100), seeded()
    first, second = (numbers_in(rows.batches(8, generator=generator)) for _ in range(2))
    assert first != second


def test_several_orders_in_one():
    rows, generator = numbered_rows(10), seeded()
    batches = numbers_in(rows.batches(4, generator=generator, n_orders=3))
    assert [len(batch) for batch in batches] == [12, 12, 6]
    thirds = [flat(np.split(np.array(batch), 3)[k] for batch in batches) for k in range(3)]
    assert len({tuple(third) for third in thirds}) == 3
    generator.manual_seed(0)
    for third in thirds:
        assert third == flat(numbers_in(rows.batches(4, generator=generator)))


def test_rows_that_count():
    rows = numbered_rows(10, order=np.array([7, 2, 9, 4, 3]))
    assert len(rows) == 5
    assert numbers_in(rows.batches(2)) == [[7, 2], [9, 4], [3]]
    shuffled = flat(numbers_in(rows.batches(2, generator=seeded())))
    assert sorted(shuffled) == [2, 3, 4, 7, 9]


@pytest.mark.parametrize(
    ("n_rows", "sizes", "joined"),
    [
        (9, [4, 4, 1], [4, 5]),
        (5, [4, 1], [5]),
        (10, [4, 4, 2], [4, 4, 2]),
        (8, [4, 4], [4, 4]),
        (4, [4], [4]),
        (1, [1], [1]),
    ],
)
def test_last_single_row_joins_only_where_asked(n_rows, sizes, joined):
    rows = numbered_rows(n_rows)
    for options in ({}, {"generator": seeded()}):
        alone = numbers_in(rows.batches(4, **options))
        assert [len(batch) for batch in alone] == sizes
        together = numbers_in(rows.batches(4, join_single=True, **options))
        assert [len(batch) for batch in together] == joined
        assert sorted(flat(together)) == list(range(n_rows))


def test_single_rows_join_one_another_in_pairs():
    rows = numbered_rows(3)
    assert numbers_in(rows.batches(1, join_single=True)) == [[0], [1, 2]]


def test_memory_maps_are_read_only_and_stay_so(tmp_path):
    expected = numbered_rows(30)
    np.save(tmp_path / "X.npy", expected.X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    rows = Rows(mapped, expected.y, expected.weight)
    assert rows.X is mapped
    for X, _ in rows.batches(8):
        X.zero_()  # a copy: torch warns, once a process, where it may not be written to
    assert flat(numbers_in(rows.batches(8))) == list(range(30))


def test_batches_are_copies():
    rows = numbered_rows(10)
    for X, (y, weight) in rows.batches(4):
        X.zero_(), y.zero_(), weight.zero_()
    assert flat(numbers_in(rows.batches(4))) == list(range(10))


def test_rows_without_labels():
    rows = Rows(np.ones((3, 2), np.float32))
    ((_, (y, weight)),) = rows.batches(4)
    assert y.tolist() == [0, 0, 0] and weight.tolist() == [1, 1, 1]
    assert y.dtype == torch.int64 and weight.dtype == torch.float32


# the feature matrix


def features():
    rng = np.random.default_rng(0)
    return rng.normal(size=(400, 1280)).astype(np.float32), np.arange(400) % 2


def trained_on(X, y, **fit_params):
    """Return the matrices that the net trains on and measures."""
    matrices = []
    fit_loop = TailNet.fit_loop

    def watched(self, rows, *args, **kwargs):
        matrices.append(rows.X)
        if self.valid_rows is not None:
            matrices.append(self.valid_rows.X)
        return fit_loop(self, rows, *args, **kwargs)

    TailNet.fit_loop = watched
    try:
        DeepFakeClassifier(layer="pool", max_epochs=1, random_state=0).fit(X, y, **fit_params)
    finally:
        TailNet.fit_loop = fit_loop
    return matrices


def file_of(array):
    """Return the file that an array is mapped from; None for an array in memory."""
    while array is not None and not isinstance(array, np.memmap):
        array = array.base
    return None if array is None else array.filename


def mapped_files(X, y):
    return [file_of(matrix) for matrix in trained_on(X, y)]


@pytest.mark.parametrize("mapped", [False, True])
def test_fit_does_not_copy_the_feature_matrix(tmp_path, mapped):
    X, y = features()
    if mapped:
        np.save(tmp_path / "X.npy", X)
        X = np.load(tmp_path / "X.npy", mmap_mode="r")
    (matrix,) = trained_on(X, y)
    assert np.shares_memory(matrix, X)
    matrices = trained_on(X, y, X_val=X[:50], y_val=y[:50])
    assert len(matrices) == 2 and all(np.shares_memory(matrix, X) for matrix in matrices)


def test_workers_share_the_feature_matrix():
    """Joblib memory-maps arrays of over a megabyte in its workers, and fit does not copy them."""
    X, y = features()
    assert X.nbytes > 1e6
    files = Parallel(n_jobs=2)(delayed(mapped_files)(X, y) for _ in range(4))
    assert len({name for names in files for name in names}) == 1
    assert None not in files[0]


def test_identical_rows_are_one_without_a_copy():
    X, _ = features()
    X[200:] = X[:200]
    rows = distinct_rows(X, np.zeros(400, dtype=np.int64), np.ones(400))
    assert rows.X is X and len(rows) == 200
    np.testing.assert_array_equal(rows.weight[rows.order], 1)
