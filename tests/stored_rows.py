"""Rows that tell their own index, in feature stores: added, fetched and compared."""

import contextlib
import sqlite3
from pathlib import Path

import numpy as np

from sklearn_dfd.feature_store import row_key


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


@contextlib.contextmanager
def database_of(store):
    """The database itself, as an outsider sees it."""
    with contextlib.closing(sqlite3.connect(Path(store.path) / "features.sqlite")) as database:
        with database:
            yield database
