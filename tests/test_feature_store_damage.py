"""Tests of sklearn_dfd.feature_store: rows and files that are damaged."""

import random
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from stored_rows import assert_keeps, database_of, fill, kept, key_of, rows_of

from sklearn_dfd.feature_store import FeatureStore


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
    """The features of one image must never be mistaken for those of another."""
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
