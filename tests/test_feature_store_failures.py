"""Tests of sklearn_dfd.feature_store: places that cannot be used, or not now."""

import contextlib
import errno
import os
import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from stored_rows import assert_keeps, database_of, fill, kept, key_of

from sklearn_dfd import feature_store
from sklearn_dfd.feature_store import SCHEMA_VERSION, FeatureStore

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


def test_a_place_where_nothing_can_be_written_is_named(tmp_path, monkeypatch):
    def refuse(self, *args, **options):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OSError, match=r"store cannot be created \(No such .* may write"):
        FeatureStore(tmp_path / "store").info()
