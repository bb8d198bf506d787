"""Tests of sklearn_dfd.rows: that the feature matrix is read where it lies."""

import numpy as np
import pytest
from joblib import Parallel, delayed

from sklearn_dfd import DeepFakeClassifier
from sklearn_dfd.net import TailNet
from sklearn_dfd.rows import distinct_rows


def features():
    rng = np.random.default_rng(0)
    return rng.normal(size=(400, 1280)).astype(np.float32), np.arange(400) % 2


def trained_on(X, y, **fit_params):
    """The matrices that the net trains on and measures."""
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
    """Name of the file that an array is mapped from; None for one in memory."""
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
    """Joblib maps arrays of more than a megabyte into its workers, and there it stays mapped."""
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
