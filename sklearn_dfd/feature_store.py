"""Features of images, computed once and kept under a hash of the content.

A store maps keys (16 bytes, a hash of an image's content and of all that determines its features)
to rows of features. It knows neither images nor networks.
"""

import errno
import hashlib
import os
import platform
import sqlite3
import threading
import time
import uuid
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal, Self, TypedDict

import numpy as np
import numpy.typing as npt

from sklearn_dfd._core.runtime.process_state import fork_gate

__all__ = ["IN_PROCESS", "FeatureStore", "MemoryStore"]

SCHEMA_VERSION = 1
_CLAIM_SECONDS = 120
_LOCK_SECONDS = 60


_Row = npt.NDArray[np.float32]


class _MemoryInfo(TypedDict):
    n_rows: int
    n_bytes: int


class _StoreInfo(_MemoryInfo):
    path: str


def row_key(content_digest: bytes, recipe: str) -> bytes:
    """Return the key of an image's features.

    Parameters
    ----------
    content_digest : bytes
        Hash of the image's content.
    recipe : str
        All else that determines the features: weights, layer, size, preprocessing.

    Returns
    -------
    key : bytes of length 16
        BLAKE2b hash of both.
    """
    return hashlib.blake2b(content_digest + recipe.encode(), digest_size=16).digest()


def new_owner() -> str:
    """Return a unique name for the owner of claims, which shows if its process still runs."""
    return f"{platform.node()} {os.getpid()} {uuid.uuid4().hex}"


def _has_ended(owner: str) -> bool:
    """Return whether the process of ``owner`` has ended; only for this machine, and on POSIX."""
    node, pid, _ = owner.rsplit(" ", 2)
    if node != platform.node() or os.name != "posix":
        return False
    try:
        os.kill(int(pid), 0)  # sends nothing
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


class MemoryStore:
    """Store that keeps features in this process, up to a number of bytes.

    The least recently used rows give way to new ones.

    Parameters
    ----------
    max_bytes : int
        Number of bytes that the kept features may take. It may be changed at any time.
    """

    # one lock for all stores, held for microseconds: a fork can then wait until it is free
    _lock = threading.Lock()

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._rows: OrderedDict[bytes, _Row] = OrderedDict()
        self._n_bytes = 0
        self._claims: dict[bytes, str] = {}
        self._pid = os.getpid()

    def __deepcopy__(self, memo: Any) -> Self:
        return self  # clones of an estimator share the store

    def __getstate__(self) -> dict[str, int]:
        return {"max_bytes": self.max_bytes}  # another process starts with an empty one

    def __setstate__(self, state: dict[str, int]) -> None:
        MemoryStore.__init__(self, **state)

    def fetch(self, keys: Iterable[bytes]) -> Iterator[tuple[bytes, _Row]]:
        """Yield the key and the row of those keys that are kept.

        Parameters
        ----------
        keys : iterable of bytes
            The keys to look up.

        Yields
        ------
        key : bytes
            One of the keys.
        row : ndarray of float32, shape (n_features,)
            Its features; read-only.
        """
        for key in keys:
            with self._lock:
                row = self._rows.get(key)
                if row is not None:
                    self._rows.move_to_end(key)
            if row is not None:
                yield key, row

    def add(self, keys: Sequence[bytes], rows: Iterable[npt.ArrayLike]) -> None:
        """Keep rows; the least recently used ones give way.

        Parameters
        ----------
        keys : list of bytes
            The key of each row.
        rows : array of float32, shape (n_keys, n_features)
            The features, which are copied.
        """
        with self._lock:
            for key, row in zip(keys, rows, strict=True):
                row = np.array(row)
                row.flags.writeable = False
                self._n_bytes += row.nbytes - getattr(self._rows.pop(key, None), "nbytes", 0)
                self._rows[key] = row
            while self._n_bytes > self.max_bytes and self._rows:
                self._n_bytes -= self._rows.popitem(last=False)[1].nbytes

    def claim(self, keys: Iterable[bytes], owner: str) -> set[bytes]:
        """Claim those keys that are neither kept nor claimed by another owner.

        Parameters
        ----------
        keys : iterable of bytes
            The keys to claim.
        owner : str
            The name of the claiming owner.

        Returns
        -------
        ours : set of bytes
            The keys that ``owner`` should compute, add and release.
        """
        with self._lock:
            if self._pid != os.getpid():  # forked: the threads that claimed keys are not here
                self._claims, self._pid = {}, os.getpid()
            free = {key for key in keys if key not in self._rows and key not in self._claims}
            self._claims.update(dict.fromkeys(free, owner))
            return free

    def release(self, owner: str, keys: Iterable[bytes] | None = None) -> None:
        """Give up claims.

        Parameters
        ----------
        owner : str
            The name of the owner that claimed the keys.
        keys : iterable of bytes, default=None
            The keys to give up; None for all that ``owner`` claimed.
        """
        with self._lock:
            for key in list(self._claims) if keys is None else keys:
                if self._claims.get(key) == owner:
                    del self._claims[key]

    def clear(self) -> None:
        """Remove all rows."""
        with self._lock:
            self._rows.clear()
            self._n_bytes = 0

    def info(self) -> _MemoryInfo:
        """Count what is kept.

        Returns
        -------
        info : dict
            ``n_rows``, the number of rows, and ``n_bytes``, the number of bytes that they take.
        """
        with self._lock:
            return {"n_rows": len(self._rows), "n_bytes": self._n_bytes}


if hasattr(os, "register_at_fork"):
    _lock = MemoryStore._lock
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )

#: The store of ``MobileNetV2Features(memory=None)``, shared by all instances in a process.
IN_PROCESS = MemoryStore(max_bytes=512 * 2**20)


class FeatureStore:
    """Store that keeps features in a directory, in one SQLite database.

    Several processes may read and write at once, and any of them may be killed at any moment: what
    was added before is kept complete. Nothing in the database is ever unpickled.

    Parameters
    ----------
    path : str or path
        Directory of the database; it is created when it is needed, and ``~`` is expanded.

    dtype : {"float32", "float16"}, default="float32"
        Type in which rows are kept from now on: ``"float32"`` keeps them exactly, ``"float16"`` in
        half the space with about three digits, to which they are rounded before their first use.
        Rows that are there already stay as they are.

    Raises
    ------
    NotADirectoryError
        When the store is used, if ``path`` is a file.
    OSError
        When the store is used, if the directory cannot be created or written.
    ValueError
        When the store is used, if it was written by a newer version of this package, or is not a
        feature store.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sklearn_dfd.feature_store import FeatureStore, row_key
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     store = FeatureStore(directory)
    ...     store.add([row_key(b"image", "recipe")], np.ones((1, 3), np.float32))
    ...     store.info()["n_rows"]
    1
    """

    def __init__(
        self, path: str | os.PathLike[str], dtype: Literal["float32", "float16"] = "float32"
    ) -> None:
        self.path = path
        self.dtype = dtype

    def __repr__(self) -> str:
        return f"FeatureStore({str(self.path)!r}, dtype={self.dtype!r})"

    def __getstate__(self) -> dict[str, str]:
        # path objects are of another class on another system
        return {"path": os.fsdecode(self.path), "dtype": self.dtype}

    def fetch(self, keys: Iterable[bytes]) -> Iterator[tuple[bytes, _Row]]:
        """Yield the key and the row of those keys that are kept, in any order.

        A damaged row is removed with a warning and left out, so it is computed again.

        Parameters
        ----------
        keys : iterable of bytes
            The keys to look up.

        Yields
        ------
        key : bytes
            One of the keys.
        row : ndarray of float32, shape (n_features,)
            Its features.

        Warns
        -----
        UserWarning
            If rows are damaged.
        """
        damaged = []
        with self._open() as database:
            for asked in keys:
                query = "SELECT rowid, key, dtype, checksum, value FROM rows WHERE key = ?"
                for rowid, key, dtype, checksum, value in database.execute(query, (asked,)):
                    # where the index is damaged, the row may be that of another key
                    if key != asked or checksum != _checksum(key, dtype, value):
                        damaged.append((rowid,))
                    else:
                        row = np.frombuffer(value, _STORED[dtype.decode()])
                        yield key, row.astype(np.float32, copy=False)
            if damaged:
                with database:
                    database.executemany("DELETE FROM rows WHERE rowid = ?", damaged)
        if damaged:
            warnings.warn(
                f"{len(damaged)} damaged row(s) in the feature store {self.path}: computed again.",
                stacklevel=2,
            )

    def add(self, keys: Sequence[bytes], rows: Iterable[npt.ArrayLike]) -> None:
        """Keep rows, all or none of them; a row that is there already is replaced.

        Parameters
        ----------
        keys : list of bytes
            The key of each row.
        rows : array of float32, shape (n_keys, n_features)
            The features.

        Raises
        ------
        ValueError
            If the store has an unknown ``dtype``.
        """
        if self.dtype not in _STORED:
            raise ValueError(
                f"dtype={self.dtype!r} is not a dtype of a store: use 'float32' or 'float16'."
            )
        values = [np.asarray(row, dtype=_STORED[self.dtype]).tobytes() for row in rows]
        entries = [
            (key, self.dtype, _checksum(key, self.dtype.encode(), value), value)
            for key, value in zip(keys, values, strict=True)
        ]
        with self._open() as database, database:
            database.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?)", entries)

    def claim(self, keys: Iterable[bytes], owner: str) -> set[bytes]:
        """Claim those keys that are neither kept nor claimed by another owner.

        Processes that compute features of the same images at once share the work in this way. A
        claim ends with its process, where that can be seen from here, or after two minutes.

        Parameters
        ----------
        keys : iterable of bytes
            The keys to claim.
        owner : str
            The name of the claiming owner, as returned by ``new_owner``.

        Returns
        -------
        ours : set of bytes
            The keys that ``owner`` should compute, add and release.
        """
        now, keys = time.time(), list(keys)
        with self._open() as database, database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("DELETE FROM claims WHERE until < ?", (now,))
            for (name,) in database.execute("SELECT DISTINCT owner FROM claims").fetchall():
                other = name.decode()  # to be compared as a text again
                if _has_ended(other):
                    database.execute("DELETE FROM claims WHERE owner = ?", (other,))
            database.executemany(
                "INSERT OR IGNORE INTO claims SELECT ?1, ?2, ?3 "
                "WHERE NOT EXISTS (SELECT 1 FROM rows WHERE key = ?1)",
                [(key, owner, now + _CLAIM_SECONDS) for key in keys],
            )
            ours = database.execute("SELECT key FROM claims WHERE owner = ?", (owner,))
            return {key for (key,) in ours} & set(keys)

    def release(self, owner: str, keys: Iterable[bytes] | None = None) -> None:
        """Give up claims.

        Parameters
        ----------
        owner : str
            The name of the owner that claimed the keys.
        keys : iterable of bytes, default=None
            The keys to give up; None for all that ``owner`` claimed.
        """
        with self._open() as database, database:
            if keys is None:
                database.execute("DELETE FROM claims WHERE owner = ?", (owner,))
            else:
                values = [(owner, key) for key in keys]
                database.executemany("DELETE FROM claims WHERE owner = ? AND key = ?", values)

    def info(self) -> _StoreInfo:
        """Count what is kept.

        Returns
        -------
        info : dict
            ``path``, the directory, ``n_rows``, the number of rows, and ``n_bytes``, the number of
            bytes that the features take.
        """
        with self._open() as database:
            query = "SELECT COUNT(*), COALESCE(SUM(LENGTH(value)), 0) FROM rows"
            n_rows, n_bytes = database.execute(query).fetchone()
        return {"path": str(self.path), "n_rows": n_rows, "n_bytes": n_bytes}

    def prune(self, max_bytes: int) -> None:
        """Remove the rows that were added longest ago.

        Parameters
        ----------
        max_bytes : int
            Number of bytes that the features left may take.
        """
        with self._open() as database:
            with database:
                database.execute(
                    "DELETE FROM rows WHERE rowid IN (SELECT rowid FROM (SELECT rowid, "
                    "SUM(LENGTH(value)) OVER (ORDER BY rowid DESC) AS total FROM rows) "
                    "WHERE total > ?)",
                    (max_bytes,),
                )
            database.execute("VACUUM")

    def clear(self) -> None:
        """Remove all rows."""
        self.prune(0)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Connect for one call alone: a store may be pickled, forked and shared."""
        path = Path(os.fspath(self.path)).expanduser()
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(
                errno.ENOTDIR, "a feature store needs a directory, and this is a file", str(path)
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise type(error)(
                error.errno,
                f"the feature store {path} cannot be created ({error.strerror}): name a directory "
                "in a place where this process may write",
            ) from error
        file = path / "features.sqlite"
        try:
            with (
                # a process forked while another thread uses SQLite would believe that it holds
                # the locks of that thread, and damage the file
                fork_gate.section(),
                closing(sqlite3.connect(file, timeout=_LOCK_SECONDS)) as database,
            ):
                database.text_factory = bytes  # a damaged text must not fail to be read
                self._prepare(database, file)
                yield database
        except sqlite3.OperationalError as error:
            raise OSError(f"the feature store {file} cannot be used ({error})") from error
        except sqlite3.ProgrammingError:
            raise
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{file} is damaged or not a feature store ({error}): delete it, and the "
                "features are computed again."
            ) from error

    def _prepare(self, database: sqlite3.Connection, file: Path) -> None:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise ValueError(
                f"{file} was written by a newer version of sklearn-dfd (format {version}; this "
                f"version knows {SCHEMA_VERSION}): use another directory, or a newer version."
            )
        if version == 0:
            # pages large enough for a row, and a log that readers need not wait for
            database.execute("PRAGMA page_size = 32768")
            _enter_write_ahead_log(database)
            with database:
                database.execute("BEGIN IMMEDIATE")
                database.execute(
                    "CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, dtype TEXT NOT NULL, "
                    "checksum INTEGER NOT NULL, value BLOB NOT NULL)"
                )
                database.execute(
                    "CREATE TABLE IF NOT EXISTS claims "
                    "(key BLOB PRIMARY KEY, owner TEXT NOT NULL, until REAL NOT NULL)"
                )
                database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        # a killed process loses nothing; a power cut may lose the last rows, never tear one
        database.execute("PRAGMA synchronous = NORMAL")


def _enter_write_ahead_log(database: sqlite3.Connection) -> None:
    """Switch to the log; SQLite does not wait by itself while others create the same store."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


_STORED: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}


def _checksum(key: Any, dtype: Any, value: Any) -> int | None:
    """Return the checksum of a row and its key; None where they are not even bytes."""
    if not all(isinstance(part, bytes) for part in (key, dtype, value)):
        return None
    return zlib.crc32(value, zlib.crc32(key + dtype))


def open_store(
    memory: str | os.PathLike[str] | FeatureStore | MemoryStore | None,
) -> FeatureStore | MemoryStore:
    """Return the store for the ``memory`` parameter: None, a directory, or a store."""
    if memory is None:
        return IN_PROCESS
    if isinstance(memory, MemoryStore | FeatureStore):
        return memory
    return FeatureStore(memory)
