"""What the package withstands: short runs of what `make soak` does for an hour."""

import io
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import images as hostile
import kills
import load
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import encode, picture
from PIL import ExifTags, Image, ImageCms
from sklearn.base import clone

import sklearn_dfd
from sklearn_dfd import (
    DeepFakeClassifier,
    MobileNetV2Features,
    decoding,
    extraction,
    feature_store,
    net,
)
from sklearn_dfd.datasets import load_image_folder
from sklearn_dfd.decoding import check_header, load_rgb, to_rgb
from sklearn_dfd.extraction import Extraction
from sklearn_dfd.feature_store import FeatureStore, MemoryStore
from sklearn_dfd.images import ImageError, as_image_list
from sklearn_dfd.tail import Tail

SEEDS = hostile.seeds()
posix = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX system")


def features(**parameters):
    return MobileNetV2Features(0, weights=None, image_size=32, engine="torch", **parameters)


# hostile images ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEEDS)
def test_seeds_are_decoded(name):
    assert hostile.outcome(SEEDS[name]) == "decoded"


def test_mutated_files_are_decoded_or_refused():
    counts, defects = hostile.fuzz(seed=1, n_files=2000)
    assert not defects
    for name in SEEDS:
        assert counts[name, "refused"] > 0, name
    assert sum(n for (_, outcome), n in counts.items() if outcome == "decoded") > 200


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_files_spliced_by_hypothesis(data):
    raw = bytearray(SEEDS[data.draw(st.sampled_from(sorted(SEEDS)))])
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(raw)))
        stop = data.draw(st.integers(start, min(start + 30, len(raw))))
        raw[start:stop] = data.draw(st.binary(max_size=30))
    hostile.outcome(bytes(raw))


def test_rows_beside_mutated_files_are_those_of_their_images():
    rng = random.Random(3)
    good = list(SEEDS.values())
    files = [raw for seed in good for raw in (seed, hostile.mutate(seed, rng))]

    def run(pixels):
        return pixels.reshape(len(pixels), -1).astype(np.float32)

    with ThreadPoolExecutor(2) as pool:
        done = Extraction(as_image_list(files), 16 * 16 * 3, "", MemoryStore(2**20), pool)
        done.survey()
        done.compute(run, 16, 4, go_on=True)
    for row, raw in enumerate(files):
        if row % 2 == 0:
            assert row not in done.failures
        if row not in done.failures:
            np.testing.assert_array_equal(done.features[row], load_rgb(raw, 16).ravel())
    assert done.failures


def test_pixel_limit_is_a_parameter(tmp_path, monkeypatch):
    small, large = tmp_path / "small.png", tmp_path / "large.png"
    Image.fromarray(picture(40, 50)).save(small)
    Image.fromarray(picture(41, 50)).save(large)
    extractor = features(max_pixels=2000).fit([small])
    assert extractor.transform([small]).shape[0] == 1
    with pytest.raises(ImageError, match=r"row 1 .*large\.png.*50x41 pixels; max_pixels is 2000"):
        extractor.transform([small, large])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.raises(ImageError, match="MAX_IMAGE_PIXELS is 2000"):
        features().fit_transform([large])
    assert features(max_pixels=2050).fit_transform([large]).shape[0] == 1
    with pytest.raises(ValueError, match="max_pixels"):
        features(max_pixels=0).fit([small])


@pytest.mark.parametrize("kept", ["process", "directory"])
def test_pixel_limit_holds_for_images_whose_features_are_kept(kept, tmp_path, monkeypatch):
    memory = tmp_path / "store" if kept == "directory" else None
    small, large = (encode(Image.fromarray(picture(h, 50)), "PNG") for h in (40, 41))
    rows = features(memory=memory).fit_transform([small, large])
    limited = features(memory=memory, max_pixels=2000, on_error="nan").fit([small])
    with pytest.warns(UserWarning, match=r"2 of 3 images .* row 0 .*; row 2 .*max_pixels is 2000"):
        found = limited.transform([large, small, large])
    assert np.isnan(found[[0, 2]]).all()
    np.testing.assert_array_equal(found[1], rows[0])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.raises(ImageError, match=r"row 1 .*50x41 pixels; PIL\.Image\.MAX_IMAGE_PIXELS is"):
        features(memory=memory).fit_transform([small, large])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    np.testing.assert_array_equal(features(memory=memory).fit_transform([small, large]), rows)


def test_headers_of_images_whose_features_are_kept_are_not_read(monkeypatch):
    images = [encode(Image.fromarray(picture(40, 50)), "PNG")]
    rows = features().fit_transform(images)
    monkeypatch.setattr(extraction, "check_header", None)
    np.testing.assert_array_equal(features().fit_transform(images), rows)


def jpeg_of_many_scans(n_scans, side=1500):
    raw = encode(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    return raw[:-2] + raw[raw.rfind(b"\xff\xda") : -2] * n_scans + raw[-2:]


def test_time_limit_stops_a_jpeg_of_many_scans(monkeypatch):
    raw = jpeg_of_many_scans(3000)  # which takes about half a minute
    monkeypatch.setattr(decoding, "DECODING_SECONDS", 0.3)
    check_header(raw)
    start = time.thread_time()
    with pytest.raises(ValueError, match=r"takes more than 0\.3 seconds"):
        to_rgb(raw)
    assert time.thread_time() - start < 5


def test_time_limit_stops_decoders_in_python(monkeypatch):
    raw = encode(Image.fromarray(picture(600, 600)), "DDS")
    monkeypatch.setattr(decoding, "DECODING_SECONDS", 0.05)
    with pytest.raises(ValueError, match=r"takes more than 0\.05 seconds"):
        load_rgb(raw, 16)


@pytest.mark.parametrize("magic", [b"BLP2", b"SIMPLE  =                    T"])
def test_envelopes_are_not_opened(magic):
    with pytest.raises(ValueError, match="no image format"):
        check_header(magic + bytes(4000))


KINDS = ["GIF animated", "WebP animated", "APNG", "JPEG CMYK", "PNG 16 bits", "JPEG", "TIFF pages"]
NAMES = ["with space", "new\nline", "-rf *", "$(touch x)", "café", "\udcff\udcfe", "%s{0}"]


@pytest.fixture
def folder(tmp_path):
    """Two classes of all kinds of files, under all kinds of names."""
    for target in ("real", "fake"):
        (tmp_path / target).mkdir()
        for kind, name in zip(KINDS, NAMES, strict=True):
            try:
                (tmp_path / target / name).write_bytes(SEEDS[kind])
            except (OSError, UnicodeError):
                pytest.skip("the file system does not take such names")
    return tmp_path


@posix
def test_all_kinds_of_files_and_names(folder):
    faces = load_image_folder(folder)
    assert len(faces.data) == 2 * len(KINDS)
    rows = features().fit_transform(faces.data)
    for path, row in zip(faces.data, rows, strict=True):
        kind = KINDS[NAMES.index(Path(path).name)]
        np.testing.assert_allclose(row, features().fit_transform([SEEDS[kind]])[0])


def _loop(path):
    path.symlink_to(path.name)


BAD = {
    "a loop": _loop,
    "a pipe": lambda path: os.mkfifo(path),
    "nothing": lambda path: path.symlink_to("nowhere"),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(SEEDS["JPEG"][:40]),
    "text": lambda path: path.write_bytes(b"<html>"),
}


@posix
@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_named_by_both(folder, kind):
    BAD[kind](folder / "real" / "bad\none.jpg")
    path = str(folder / "real" / "bad\none.jpg")
    with pytest.raises(ImageError, match=r"bad\\none\.jpg"):
        load_image_folder(folder)
    good = str(folder / "real" / NAMES[0])
    with pytest.raises(ImageError, match=r"row 1 .*bad\\none\.jpg"):
        features().fit_transform([good, path])
    with pytest.warns(UserWarning, match=r"bad\\none\.jpg"):
        rows = features(on_error="nan").fit_transform([good, path])
    assert np.isfinite(rows[0]).all() and np.isnan(rows[1]).all()


@contextmanager
def somebody_else():
    """Work as a user whom permissions bind; the root of a container is not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)  # nobody
    try:
        yield
    finally:
        os.seteuid(0)


@posix
def test_files_without_permission():
    with tempfile.TemporaryDirectory() as directory:  # since those of pytest are its user's alone
        folder = Path(directory)
        folder.chmod(0o755)
        for target in ("fake", "real"):
            (folder / target).mkdir()
            (folder / target / "good.png").write_bytes(SEEDS["PNG"])
        closed = folder / "real" / "closed.png"
        closed.write_bytes(SEEDS["PNG"])
        closed.chmod(0)
        files = [folder / "real" / "good.png", closed]
        expected = features().fit_transform(files[:1])
        with somebody_else():
            with pytest.raises(ImageError, match=r"closed\.png.*no permission"):
                load_image_folder(folder)
            with pytest.raises(ImageError, match=r"row 1 .*closed\.png.*no permission"):
                features().fit_transform(files)
            with pytest.warns(UserWarning, match=r"row 1 .*closed\.png.*no permission"):
                rows = features(on_error="nan").fit_transform(files)
        np.testing.assert_array_equal(rows[:1], expected)
        assert np.isnan(rows[1]).all()
        (folder / "real").chmod(0)
        with somebody_else():
            with pytest.raises(ImageError, match=r"row 0 .*good\.png.*no permission"):
                features().fit_transform(files[:1])
            with pytest.raises(PermissionError):  # not a class of no images
                load_image_folder(folder)
        (folder / "real").chmod(0o755)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_turned_photograph_with_a_profile_gives_the_features_of_the_upright_one(file_format):
    """By EXIF, as cameras turn them, and with a profile, which is ignored."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB", 5000)).tobytes()
    photo = Image.fromarray(picture(40, 56)).resize((112, 80), Image.Resampling.BICUBIC)
    bare = encode(photo, file_format)
    dressed = encode(photo, file_format, exif=exif, icc_profile=profile)
    with Image.open(io.BytesIO(dressed)) as image:
        assert image.info["icc_profile"] == profile
    stored = np.asarray(to_rgb(bare))
    upright, lying = features().fit_transform([np.rot90(stored, -1), stored])
    np.testing.assert_array_equal(features().fit_transform([dressed])[0], upright)
    assert np.abs(upright - lying).max() > 0.1


@posix
def test_files_that_vanish(folder, monkeypatch):
    faces = load_image_folder(folder)
    os.remove(faces.data[3])  # between listing and survey
    with pytest.raises(ImageError, match=r"row 3 .*does not exist"):
        features().fit_transform(faces.data)

    def run(pixels):
        return pixels.reshape(len(pixels), -1).astype(np.float32)

    monkeypatch.setattr(extraction, "_HELD_BYTES", 0)  # so that files are read again
    with ThreadPoolExecutor(1) as pool:  # and between survey and decoding
        done = Extraction(list(faces.data[:3]), 8 * 8 * 3, "", MemoryStore(2**20), pool)
        done.survey()
        assert not done.failures
        os.remove(faces.data[1])
        done.compute(run, 8, 4, go_on=True)
    assert list(done.failures) == [1] and "does not exist" in done.failures[1]


@posix
def test_files_beyond_the_limit_of_bytes_are_not_read(tmp_path, monkeypatch):
    with open(tmp_path / "sparse.jpg", "wb") as file:
        file.write(SEEDS["JPEG"])
        file.truncate(2**40)  # takes no space
    with pytest.raises(ImageError, match=r"sparse\.jpg.*larger than 1,073,741,824 bytes"):
        features().fit_transform([tmp_path / "sparse.jpg"])


# crashes -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
@pytest.mark.parametrize(("name", "n_kills"), [("extraction", 8), ("search", 2)])
def test_killed_at_random_and_resumed(name, n_kills, tmp_path):
    counts = kills.kill_and_resume(name, n_kills, tmp_path, seed=0)
    assert counts["kills"] >= n_kills and counts["endings"] >= 1


@pytest.mark.parametrize("method", ["fetch", "claim", "add", "release"])
def test_store_that_fails_at_any_call_costs_a_warning(method, tmp_path, monkeypatch):
    images = [encode(Image.fromarray(picture(8, 8, seed=i)), "PNG") for i in range(70)]
    expected = features().fit_transform(images)
    feature_store.IN_PROCESS.clear()
    original = getattr(FeatureStore, method)
    calls = []

    def fail(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > (method == "release"):  # the first of which is a look whether it works
            raise OSError("the feature store is on a disk that is full")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(FeatureStore, method, fail)
    with pytest.warns(UserWarning, match=r"full; features are kept in this process only") as caught:
        rows = features(memory=tmp_path / "store").fit_transform(images)
    assert len(caught) == 1
    np.testing.assert_array_equal(rows, expected)


@contextmanager
def files_of_at_most(n_bytes):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@posix
def test_disk_that_fills_up(tmp_path):
    images = [encode(Image.fromarray(picture(8, 8, seed=i)), "PNG") for i in range(200)]
    expected = features().fit_transform(images)
    feature_store.IN_PROCESS.clear()
    extractor = features(memory=tmp_path / "store")
    with files_of_at_most(3 * 2**20), pytest.warns(UserWarning, match="this process only"):
        rows = extractor.fit_transform(images)
    np.testing.assert_array_equal(rows, expected)
    feature_store.IN_PROCESS.clear()
    np.testing.assert_array_equal(extractor.transform(images), expected)  # space again
    assert extractor.memory.exists() and FeatureStore(extractor.memory).info()["n_rows"] == 200


# concurrency -------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_process_predicts_and_fits(tmp_path):
    assert load.shared(tmp_path, 1, 2, 3, seconds=60, method="fork") == 12


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_while_threads_hold_what_the_child_needs():
    """What other threads of the parent hold at that moment must not be held for ever."""
    image = Image.fromarray(picture())
    store = feature_store.IN_PROCESS
    store.claim([b"taken on by a thread of the parent"], "somebody")

    def child():
        assert to_rgb(image).size == image.size
        assert store.claim([b"taken on by a thread of the parent"], "me")

    process = multiprocessing.get_context("fork").Process(target=child)
    with decoding._loading, decoding._silence_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    process.join(30)
    alive = process.is_alive()
    process.kill()
    process.join()
    store.release("somebody")
    assert not alive and process.exitcode == 0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_files_and_threads_stay_flat():
    done, growth, n_files, n_threads = load.flat(150)
    assert done == 150
    assert growth < 0.05 and n_files <= 0 and n_threads <= 0


# numbers -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return rng.standard_normal((130, 320 * 4)).astype(np.float32), np.arange(130) % 2


@pytest.fixture(scope="module")
def tail(rows):
    parameters = {"weights": None, "hidden_layer_sizes": (8,), "max_epochs": 1, "random_state": 0}
    return DeepFakeClassifier(17, **parameters).fit(*rows)


def test_predictions_do_not_depend_on_their_neighbours(tail, rows):
    X, _ = rows
    p = tail.predict_proba(X)
    for some in (np.arange(1), np.arange(130)[::-1], np.r_[5, 5, 5], np.arange(60, 129)):
        np.testing.assert_allclose(tail.predict_proba(X[some]), p[some], rtol=0, atol=1e-5)
    beside = np.r_[X[:1], np.full((3, X.shape[1]), 1e4, np.float32)]
    np.testing.assert_allclose(tail.predict_proba(beside)[0], p[0], rtol=0, atol=1e-5)


def test_huge_features_are_named_instead_of_a_probability_of_nan(rows):
    X, y = rows
    head = DeepFakeClassifier("pool", hidden_layer_sizes=(8,), max_epochs=1, random_state=0)
    X = X.copy()
    head.fit(X, y)
    X[7] = 3e38 * np.where(np.arange(X.shape[1]) % 3, 1, -1)
    with pytest.raises(ValueError, match=r"1 of 130 rows of X, the first of them row 7\b.*scale"):
        head.predict_proba(X)
    X[7] = 1e30
    assert np.isfinite(head.predict_proba(X)).all()


def test_huge_features_in_fit():
    X = np.random.default_rng(0).choice([-3e38, 3e38], (40, 20)).astype(np.float32)
    head = DeepFakeClassifier("pool", hidden_layer_sizes=(8,), random_state=0)
    with pytest.raises(ValueError, match=r"became (nan|inf) in epoch 1, batch 1\b.*not fitted"):
        head.fit(X, np.arange(40) % 2)
    assert not hasattr(head, "net_")


@pytest.mark.parametrize(
    "extreme",
    [{"lr": 0}, {"lr": 1e3}, {"l1_factor": 0}, {"l1_factor": 1e3}, {"lr": 1, "dropout": 0.99}],
    ids=str,
)
@pytest.mark.parametrize("X", ["constant", "random"])
def test_extreme_parameters(extreme, X, rows):
    values = np.ones((40, 1280), np.float32) if X == "constant" else rows[0][:40]
    parameters = {"weights": None, "hidden_layer_sizes": (8,), "max_epochs": 2, "random_state": 0}
    tail = DeepFakeClassifier(17, **parameters).set_params(**extreme)
    try:
        tail.fit(values, np.arange(40) % 2)
    except ValueError as error:
        assert "became" in str(error)
    if hasattr(tail, "net_"):
        assert np.isfinite(tail.predict_proba(values)).all()


def spoil(monkeypatch, step):
    """Let the loss be NaN at a step of the training."""
    from sklearn_dfd.net import TailNet

    get_loss, calls = TailNet.get_loss, []

    def spoiled(self, *args, **kwargs):
        calls.append(1)
        return get_loss(self, *args, **kwargs) * (np.nan if len(calls) == step else 1)

    monkeypatch.setattr(TailNet, "get_loss", spoiled)


def test_loss_that_is_lost_leaves_the_last_good_epoch(monkeypatch, rows):
    X, y = rows
    head = DeepFakeClassifier("pool", hidden_layer_sizes=(8,), batch_size=65, random_state=0)
    expected = clone(head).set_params(max_epochs=2).fit(X, y)
    spoil(monkeypatch, 6)  # of two steps an epoch
    with pytest.raises(ValueError, match=r"nan in epoch 3, batch 2: .*weights of epoch 2, fit to"):
        head.fit(X, y)
    np.testing.assert_array_equal(head.predict_proba(X), expected.predict_proba(X))
    assert (head.n_iter_, head.best_epoch_, len(head.history_)) == (2, 2, 2)
    head.partial_fit(X, y)  # goes on from there
    assert head.n_iter_ == 3 and np.isfinite(head.predict_proba(X)).all()


def test_loss_that_is_lost_leaves_the_best_epoch(monkeypatch, rows):
    X, y = rows
    head = DeepFakeClassifier(
        "pool", hidden_layer_sizes=(8,), batch_size=65, random_state=0, lr=0.05, early_stopping=True
    )
    # labels that contradict those of training: the validation loss rises from the start
    best = clone(head).set_params(max_epochs=4).fit(X, y, X_val=X[::-1], y_val=y)
    spoil(monkeypatch, 10)
    with pytest.raises(ValueError, match=rf"in epoch 5, .*weights of epoch {best.best_epoch_}\b"):
        head.fit(X, y, X_val=X[::-1], y_val=y)
    assert head.best_epoch_ == best.best_epoch_ < 4
    np.testing.assert_array_equal(head.predict_proba(X), best.predict_proba(X))


def test_step_that_spoils_the_weights_is_found_at_the_end_of_the_epoch(rows):
    X, y = rows
    head = DeepFakeClassifier("pool", hidden_layer_sizes=(8,), batch_size=500, lr=1e30)
    with pytest.raises(ValueError, match=r"became .* in epoch 1, batch 1: lower lr.*not fitted"):
        head.fit(X, y)
    assert not hasattr(head, "net_")


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_predictions_do_not_depend_on_the_size_of_batches(batch_size, tail, rows, monkeypatch):
    p, sizes = tail.predict_proba(rows[0]), []
    forward = Tail.forward

    def counted(self, X, *args, **kwargs):
        sizes.append(len(X))
        return forward(self, X, *args, **kwargs)

    monkeypatch.setattr(Tail, "forward", counted)
    monkeypatch.setattr(net, "EVALUATION_BATCH_SIZE", batch_size)
    np.testing.assert_allclose(tail.predict_proba(rows[0]), p, rtol=0, atol=1e-5)
    assert max(sizes) == min(batch_size, 130)


def test_predictions_do_not_depend_on_the_number_of_threads(tail, rows):
    p = tail.predict_proba(rows[0])
    for n_threads in (1, 3):
        torch.set_num_threads(n_threads)
        np.testing.assert_allclose(tail.predict_proba(rows[0]), p, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["lr", "l1_factor"])
def test_parameters_that_float32_does_not_hold(name, rows):
    head = DeepFakeClassifier("pool", hidden_layer_sizes=(8,)).set_params(**{name: 1e38})
    with pytest.raises(ValueError, match=rf"{name}.* in the range \[0\.0?, 1e\+30\]"):
        head.fit(*rows)


# determinism -------------------------------------------------------------------------------------

FIT = """
import hashlib, sys, warnings
import numpy as np
from sklearn.model_selection import GridSearchCV
from sklearn_dfd import make_deepfake_pipeline
warnings.simplefilter("error")
images = np.random.default_rng(0).integers(0, 256, (16, 40, 40, 3), dtype=np.uint8)
y = np.array(["real", "fake"])[np.arange(16) % 2]
memory, n_jobs, n_jobs_of_search = sys.argv[1] or None, int(sys.argv[2]), int(sys.argv[3])
pipe = make_deepfake_pipeline(17, weights=None, image_size=32, memory=memory, n_jobs=n_jobs,
                              hidden_layer_sizes=(4,), max_epochs=1, random_state=0, device="cpu")
grid = {"classifier__lr": [1e-4, 1e-3]}
search = GridSearchCV(pipe, grid, cv=2, error_score="raise", n_jobs=n_jobs_of_search)
search.fit(images, y)
p = search.predict_proba(images)
print(hashlib.sha256(p.tobytes() + search.cv_results_["mean_test_score"].tobytes()).hexdigest())
"""


def test_same_result_whatever_the_hash_seed_the_store_and_n_jobs(tmp_path):
    root = str(Path(sklearn_dfd.__file__).parents[1])
    digests = set()
    for hash_seed, memory, n_jobs, n_jobs_of_search in [
        ("0", "", 1, 1),
        ("1", str(tmp_path), 2, 1),
        ("7", str(tmp_path), 1, 1),  # all found
        ("2", str(tmp_path / "another"), 1, 2),
    ]:
        done = subprocess.run(
            [sys.executable, "-c", FIT, memory, str(n_jobs), str(n_jobs_of_search)],
            # the workers of a search have their share of the cores, and others round differently
            env={
                **os.environ,
                "PYTHONPATH": root,
                "PYTHONHASHSEED": hash_seed,
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout.strip())
    assert len(digests) == 1
