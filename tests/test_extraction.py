"""Tests of _core.extraction: each image once, however many ask, whatever ends halfway."""

import os
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from counted_extraction import (
    DECODING,
    PATIENCE,
    RECIPE,
    WIDTH,
    Network,
    extract,
    make_pixels,
    rows_of,
)
from PIL import Image

from sklearn_dfd import feature_store
from sklearn_dfd._core import extraction
from sklearn_dfd._core.extraction import Extraction
from sklearn_dfd._core.images import reading
from sklearn_dfd.augmentation import View
from sklearn_dfd.feature_store import IN_PROCESS, FeatureStore, MemoryStore, new_owner

pytestmark = pytest.mark.usefixtures("no_endless_waiting")


@pytest.fixture
def store(any_store):
    return any_store


def at_once(*jobs):
    """Results of functions run by threads of their own, within reason."""
    with ThreadPoolExecutor(len(jobs)) as threads:
        futures = [threads.submit(job) for job in jobs]
        return [future.result(timeout=2 * PATIENCE) for future in futures]


# what is filled in


def test_survey_then_compute(files, pixels, store, pool):
    network = Network()
    job = Extraction(files, WIDTH, RECIPE, store, pool, DECODING)
    job.survey()
    assert network.seen == []
    assert sorted(job.missing.values()) == [[row] for row in range(150)]
    assert {len(key) for key in job.missing} == {16}
    assert job.failures == {}
    job.compute(network, 4, go_on=False)
    network.assert_saw_once(pixels)
    assert job.features.dtype == np.float32
    np.testing.assert_array_equal(job.features, rows_of(pixels))
    assert store.info()["n_rows"] == 150


def test_what_is_kept_is_found_by_the_survey(files, pixels, store, pool):
    extract(files[:100], Network(), store)
    job = Extraction(files[::-1], WIDTH, RECIPE, store, pool, DECODING)
    job.survey()
    np.testing.assert_array_equal(job.features[50:], rows_of(pixels[:100])[::-1])
    assert sorted(job.missing.values()) == [[row] for row in range(50)]
    network = Network()
    job.compute(network, 4, go_on=False)
    network.assert_saw_once(pixels[100:])
    np.testing.assert_array_equal(job.features, rows_of(pixels)[::-1])


def test_another_recipe_is_other_features(files, pixels, store, pool):
    extract(files[:10], Network(), store)
    job = Extraction(files[:10], WIDTH, "another", store, pool, DECODING)
    job.survey()
    assert len(job.missing) == 10


def test_copies_are_computed_once(files, pixels, store, tmp_path):
    copy = tmp_path / "copy.png"
    copy.write_bytes(files[0].read_bytes())
    # far apart, so that they are not surveyed together
    images = [*files, copy, *files[:5], files[0].read_bytes()]
    network = Network()
    job = extract(images, network, store)
    network.assert_saw_once(pixels)
    expected = rows_of(pixels[[*range(150), 0, *range(5), 0]])
    np.testing.assert_array_equal(job.features, expected)
    assert sorted(job.missing.values())[:2] == [[0, 150, 151, 156], [1, 152]]


@pytest.mark.parametrize("batch_size", [1, 7, 64, 500])
def test_size_of_the_batches(files, pixels, batch_size):
    sizes = []

    def run(pixels):
        sizes.append(len(pixels))
        return rows_of(pixels)

    job = extract(files, run, MemoryStore(10**9), batch_size=batch_size)
    np.testing.assert_array_equal(job.features, rows_of(pixels))
    assert sum(sizes) == 150
    assert max(sizes) == min(batch_size, 64)


def test_nothing_to_compute(files, store):
    extract(files, Network(), store)
    network = Network()
    job = extract(files, network, store)
    assert job.missing == {} and network.seen == []


# images that cannot be used


@pytest.fixture
def bad_files(tmp_path):
    """By name: faults that only decoding shows, and faults that the file itself shows."""
    truncated, text = tmp_path / "truncated.png", tmp_path / "text.png"
    noise = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(truncated)
    truncated.write_bytes(truncated.read_bytes()[:2000])
    text.write_text("dear diary")
    return {"truncated": truncated, "text": text, "missing": tmp_path / "not there.png"}


def test_failures_of_the_survey(files, bad_files, store, pool):
    images = [files[0], bad_files["text"], bad_files["missing"], files[1], bad_files["text"]]
    images += [files[0]] * 60  # headers are checked where not all is decoded at once
    job = Extraction(images, WIDTH, RECIPE, store, pool, DECODING)
    job.survey()
    assert sorted(job.failures) == [1, 2, 4]
    assert "format" in job.failures[1] and job.failures[1] == job.failures[4]
    assert "not exist" in job.failures[2]
    assert sorted(job.missing.values()) == [[0, *range(5, 65)], [3]]


def test_going_on_after_failures(files, bad_files, pixels, store):
    bad = bad_files["truncated"]
    images = [bad, *files[:75], bad_files["text"], *files[75:], bad]
    network = Network()
    job = extract(images, network, store, go_on=True)
    assert sorted(job.failures) == [0, 76, 152]
    assert "truncated" in job.failures[0] and job.failures[0] == job.failures[152]
    network.assert_saw_once(pixels)
    good = np.delete(np.arange(153), [0, 76, 152])
    np.testing.assert_array_equal(job.features[good], rows_of(pixels))
    assert store.info()["n_rows"] == 150


def test_batch_without_a_good_image(bad_files, store):
    def run(pixels):
        raise AssertionError("there is nothing to run")

    job = extract([bad_files["truncated"]] * 3, run, store, go_on=True)
    assert sorted(job.failures) == [0, 1, 2]


def test_stopping_at_a_failure_keeps_what_was_computed(files, bad_files, pixels, store):
    network = Network(0.001)
    job = extract([bad_files["truncated"], *files], network, store, batch_size=2)
    assert sorted(job.failures) == [0]
    assert 0 < len(network.seen) < 100  # those that were under way
    assert store.info()["n_rows"] == len(network.seen)
    # and all claims are given up
    extract(files, network, store)
    network.assert_saw_once(pixels)


def test_all_that_is_damaged_is_named_at_once(files, bad_files, pixels, store):
    """Whether the header shows it or the data alone, wherever it stands."""
    bad = bad_files["truncated"]
    other = bad.with_name("other.png")
    other.write_bytes(bad.read_bytes()[:-100])
    network = Network(0.001)
    images = [bad, *files, other, bad]
    job = extract(images, network, store, batch_size=2)
    assert sorted(job.failures) == [0, 151, 152]
    assert 0 < len(network.seen) < 100
    assert store.info()["n_rows"] == len(network.seen)


def test_of_a_photograph_and_its_views_the_photograph_is_decoded(bad_files, files, store, pool):
    bad = str(bad_files["truncated"])
    images = [
        x for path in (bad, str(files[0])) for x in (path, *(View(path, i) for i in range(8)))
    ]
    job = Extraction(images, WIDTH, RECIPE, store, pool, DECODING)
    job.survey()
    assert len(job.missing) == 18 and not job.failures
    decoded = []

    def watched(raw, *args, original=extraction.load_rgb):
        decoded.append(raw)
        return original(raw, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "load_rgb", watched)
        job.find_faults()
    assert sorted(job.failures) == list(range(9))
    assert len(decoded) == 2


def test_a_photograph_beside_its_mirror_image_is_read_and_decoded_once(files, store, monkeypatch):
    counts = {"read": 0, "decoded": 0}

    def read(source, original=reading.read_source):
        counts["read"] += 1
        return original(source)

    def decode(*args, original=extraction.load_rgb):
        counts["decoded"] += 1
        return original(*args)

    monkeypatch.setattr(reading, "read_source", read)
    monkeypatch.setattr(extraction, "load_rgb", decode)
    paths = [str(path) for path in files]
    both = [x for path in paths for x in (path, View(path, 0, "mirrored"))]
    done = extract(both, rows_of, store)
    assert counts == {"read": 150, "decoded": 150}
    alone = extract([View(path, 0, "mirrored") for path in paths], rows_of, MemoryStore(10**9))
    np.testing.assert_array_equal(done.features[1::2], alone.features)
    # and each row is kept under the key that it has by itself
    kept = extract([View(path, 0, "mirrored") for path in paths], rows_of, store)
    assert not kept.missing


def test_network_that_fails_gives_its_claims_up(files, pixels, store):
    def run(pixels):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        extract(files, run, store)
    start = time.monotonic()
    network = Network()
    extract(files, network, store)
    network.assert_saw_once(pixels)
    assert time.monotonic() - start < PATIENCE


# several at once


@pytest.mark.parametrize("batch_size", [4, 64])
def test_two_threads_share_the_work(files, pixels, store, batch_size):
    network = Network(0.002)
    together = threading.Barrier(2)

    def job():
        together.wait(PATIENCE)
        return extract(files, network, store, batch_size=batch_size)

    for done in at_once(job, job):
        np.testing.assert_array_equal(done.features, rows_of(pixels))
        assert done.failures == {}
    network.assert_saw_once(pixels)


@pytest.mark.parametrize("n_threads", [2, 4])
def test_threads_that_hold_many_images_do_not_wait_for_each_other(store, n_threads):
    """Each is asked for more than it has claimed, while the others hold the rest."""
    pixels = make_pixels(900)
    network = Network(0.002)
    together = threading.Barrier(n_threads)

    def job():
        together.wait(PATIENCE)
        return extract(pixels, network, store, batch_size=32)

    start = time.monotonic()
    for done in at_once(*[job] * n_threads):
        np.testing.assert_array_equal(done.features, rows_of(pixels))
    network.assert_saw_once(pixels)
    assert time.monotonic() - start < PATIENCE


def test_threads_that_come_from_both_ends(files, pixels, store):
    network = Network(0.002)
    forwards, backwards = at_once(
        lambda: extract(files, network, store),
        lambda: extract(files[::-1], network, store),
    )
    np.testing.assert_array_equal(forwards.features, rows_of(pixels))
    np.testing.assert_array_equal(backwards.features, rows_of(pixels)[::-1])
    network.assert_saw_once(pixels)


def test_store_too_small_to_share_by(files, pixels):
    store = MemoryStore(10 * WIDTH * 4)
    network = Network(0.001)
    job = lambda: extract(files, network, store)  # noqa: E731
    for done in at_once(job, job):
        np.testing.assert_array_equal(done.features, rows_of(pixels))
    assert set(network.seen) == {image.tobytes() for image in pixels}
    assert store.info()["n_rows"] == 10


@pytest.mark.parametrize("go_on", [False, True])
def test_failure_in_one_thread_does_not_hold_up_another(files, bad_files, pixels, store, go_on):
    """The first takes the bad image on, fails, and must leave the rest to the second."""
    started, network = threading.Event(), Network(0.002)

    def run(pixels):
        started.set()
        return network(pixels)

    def first():
        return extract([*files[:6], bad_files["truncated"], *files], run, store, go_on=go_on)

    def second():
        assert started.wait(PATIENCE)
        return extract([*files, bad_files["truncated"]], run, store, go_on=True)

    begin = time.monotonic()
    failed, complete = at_once(first, second)
    assert time.monotonic() - begin < PATIENCE
    assert sorted(failed.failures) == [6]
    assert sorted(complete.failures) == [150]
    np.testing.assert_array_equal(complete.features[:150], rows_of(pixels))
    network.assert_saw_once(pixels)


def test_claim_of_one_that_lives_is_waited_for(files, pixels, store):
    with ThreadPoolExecutor(1) as pool:
        survey = Extraction(files[:20], WIDTH, RECIPE, store, pool, DECODING)
        survey.survey()
    keys, owner = list(survey.missing), new_owner()
    assert store.claim(keys[:8], owner) == set(keys[:8])
    network = Network()

    def other():
        deadline = time.monotonic() + PATIENCE
        while len(network.seen) < 12 or store.info()["n_rows"] < 12:
            assert time.monotonic() < deadline  # it keeps its own rows before it waits
            time.sleep(0.01)
        time.sleep(0.2)
        seen = len(network.seen)
        store.add(keys[:5], rows_of(pixels[:5]) + 1)
        store.release(owner)
        return seen

    done, seen = at_once(lambda: extract(files[:20], network, store), other)
    assert seen == 12
    # five rows are the other's; three it gave up
    network.assert_saw_once(pixels[5:20])
    np.testing.assert_array_equal(done.features[:5], rows_of(pixels[:5]) + 1)
    np.testing.assert_array_equal(done.features[5:], rows_of(pixels[5:20]))


def claim_all(files, directory, owner):
    store = FeatureStore(directory)
    with ThreadPoolExecutor(1) as pool:
        survey = Extraction(files, WIDTH, RECIPE, store, pool, DECODING)
        survey.survey()
    assert len(store.claim(list(survey.missing), owner)) == len(files)
    return store


@pytest.mark.skipif(os.name != "posix", reason="needs process ids that can be asked for")
def test_claim_of_a_process_that_ended_lapses(files, pixels, tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait(PATIENCE)
    node, _, name = new_owner().rsplit(" ", 2)
    store = claim_all(files[:10], tmp_path / "store", f"{node} {child.pid} {name}")
    network = Network()
    start = time.monotonic()
    extract(files[:10], network, store)
    assert time.monotonic() - start < 5
    network.assert_saw_once(pixels[:10])


def test_claim_of_another_machine_lapses_by_the_clock(files, pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_store, "_CLAIM_SECONDS", 1)
    store = claim_all(files[:10], tmp_path / "store", f"another machine {os.getpid()} name")
    network = Network()
    start = time.monotonic()
    extract(files[:10], network, store)
    assert 0.5 < time.monotonic() - start < 5
    network.assert_saw_once(pixels[:10])


# stores that fail


def full(self, keys, rows):
    raise OSError("database or disk is full")


def test_store_that_cannot_be_added_to(files, pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(FeatureStore, "add", full)
    network = Network()
    with pytest.warns(UserWarning, match=r"disk is full.*this process only") as caught:
        done = extract(files, network, FeatureStore(tmp_path))
    assert len(caught) == 1
    np.testing.assert_array_equal(done.features, rows_of(pixels))
    network.assert_saw_once(pixels)


def test_what_a_full_store_could_not_keep_is_kept_in_this_process(files, tmp_path, monkeypatch):
    monkeypatch.setattr(FeatureStore, "add", full)
    with pytest.warns(UserWarning, match="disk is full"):
        extract(files, Network(), FeatureStore(tmp_path))
    assert IN_PROCESS.info()["n_rows"] == 150


def test_full_store_does_not_hold_up_others(files, pixels, tmp_path, monkeypatch):
    """The claims on it are given up, though nothing can be kept in it."""
    store, network = FeatureStore(tmp_path), Network()
    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "add", full)
        with pytest.warns(UserWarning, match="disk is full"):
            extract(files[:10], Network(), store)
    done = extract(files[:10], network, store)
    np.testing.assert_array_equal(done.features, rows_of(pixels[:10]))
    network.assert_saw_once(pixels[:10])
    assert store.info()["n_rows"] == 10


def test_mistakes_in_adding_are_not_taken_for_a_full_disk(files, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="float8"):
            extract(files[:5], Network(), FeatureStore(tmp_path, dtype="float8"))
