import json
import os
import shutil
import signal
import threading
import time
import tracemalloc
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold

from sklearn_dfd import (
    DeepFakeClassifier,
    MobileNetV2Features,
    make_deepfake_pipeline,
)
from sklearn_dfd._core.images.sources import ImageView, with_absolute_path
from sklearn_dfd.augmentation import EqualizedImage, View
from sklearn_dfd.datasets import VideoFrame, make_spliced_photos
from sklearn_dfd.exceptions import ImageError
from sklearn_dfd.export import _feature_matrix as feature_matrix
from sklearn_dfd.export import extract_feature_matrix


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("photos")
    paths = [str(directory / f"{i}.png") for i in range(22)]
    for path, image in zip(paths, make_spliced_photos(22, image_size=32).data, strict=True):
        Image.fromarray(image).save(path)
    return paths


@pytest.fixture
def features(files):
    return MobileNetV2Features(weights=None, image_size=32).fit(files)


@pytest.fixture
def computed(monkeypatch):
    """Starts of the chunks that are computed, in this process."""
    starts = []
    compute = feature_matrix._compute

    def watched(part, images, start, n_images):
        starts.append(start)
        return compute(part, images, start, n_images)

    monkeypatch.setattr(feature_matrix, "_compute", watched)
    return starts


@pytest.mark.parametrize(
    ("chunk_size", "n_jobs"),
    [
        (4, 1),
        (4, 2),
        (1000, 1),
        pytest.param(11, 1, marks=pytest.mark.slow),
        pytest.param(11, 2, marks=pytest.mark.slow),
        pytest.param(1000, 2, marks=pytest.mark.slow),
    ],
)
def test_rows_are_those_of_transform(features, files, tmp_path, n_jobs, chunk_size):
    path = tmp_path / "deep" / "features.npy"
    rows = extract_feature_matrix(features, files, path, chunk_size=chunk_size, n_jobs=n_jobs)
    assert isinstance(rows, np.memmap) and not rows.flags.writeable
    assert [file.name for file in path.parent.iterdir()] == ["features.npy"]
    np.testing.assert_allclose(np.load(path), features.transform(files), rtol=1e-4, atol=1e-5)
    with pytest.raises(FileExistsError, match="delete it"):
        extract_feature_matrix(features, files, path)


@pytest.mark.parametrize("where", ["before", "after"])
def test_an_interrupted_run_goes_on(features, files, tmp_path, computed, monkeypatch, where):
    """The rows of a chunk may have been written, with the note that says so still missing."""
    write = feature_matrix._write

    def interrupted(path, text):
        if path.name == "done-8":
            if where == "after":
                write(path, text)
            raise KeyboardInterrupt
        write(path, text)

    path = tmp_path / "features.npy"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(feature_matrix, "_write", interrupted)
        extract_feature_matrix(features, files, path, chunk_size=4)
    assert not path.exists() and computed == [0, 4, 8]
    rows = extract_feature_matrix(features, files, path, chunk_size=4)
    assert computed[3:] == [8, 12, 16, 20][where == "after" :]
    np.testing.assert_allclose(rows, features.transform(files), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_rows_of_nan_are_counted_over_all_chunks(files, tmp_path, n_jobs, capfd):
    """One warning, which names what an interrupted call found, too; workers say nothing."""
    write = feature_matrix._write

    def interrupted(path, text):
        if path.name == "done-4":
            raise KeyboardInterrupt
        write(path, text)

    images = [*files[:2], "absent.jpg", *files[2:], b"not an image"]
    features = MobileNetV2Features(weights=None, image_size=32, on_error="nan").fit(images)
    path = tmp_path / "features.npy"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(feature_matrix, "_write", interrupted)
            extract_feature_matrix(features, images, path, chunk_size=4)
        assert not caught
        rows = extract_feature_matrix(features, images, path, chunk_size=4, n_jobs=n_jobs)
    message = str(caught.pop().message)
    assert not caught and "Warning" not in capfd.readouterr().err
    assert message.startswith("2 of 24 images cannot be used: row 2 (")
    assert "absent.jpg'): the file does not exist; row 23 (12 bytes): " in message
    assert message.endswith("Their rows are NaN.")
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(rows).any(axis=1)), [2, 23])


def test_another_run_is_not_continued(features, files, tmp_path):
    path = tmp_path / "features.npy"
    with pytest.raises(ImageError, match=r"1 of 23 images.*row 22 \(.*missing.jpg"):
        extract_feature_matrix(features, [*files, "missing.jpg"], path, chunk_size=4)
    other = MobileNetV2Features("pool", weights=None, image_size=32).fit(files)
    with pytest.raises(ValueError, match=r"with other values of images, weights, layer_: delete"):
        extract_feature_matrix(other, files, path, chunk_size=4)
    smaller = clone(features).set_params(max_pixels=10**4).fit(files)
    with pytest.raises(ValueError, match=r"begun with other values of images, max_pixels: delete"):
        extract_feature_matrix(smaller, files, path, chunk_size=4)
    with pytest.raises(ValueError, match="begun with other values of chunk_size"):
        extract_feature_matrix(features, [*files, "missing.jpg"], path)


def test_a_run_with_another_summary_is_not_continued(features, files, tmp_path):
    path = tmp_path / "features.npy"
    grid = MobileNetV2Features(7, pooling="grid", weights=None, image_size=64).fit(files)
    with pytest.raises(ImageError, match=r"1 of 23 images"):
        extract_feature_matrix(grid, [*files, "missing.jpg"], path, chunk_size=4)
    mean = clone(grid).set_params(pooling="mean").fit(files)
    with pytest.raises(ValueError, match=r"begun with other values of images, pooling: delete"):
        extract_feature_matrix(mean, files, path, chunk_size=4)
    # of a release without summaries all work is of maps
    recipe = tmp_path / "features.npy.part" / "recipe.json"
    begun = json.loads(recipe.read_text())
    del begun["pooling"]
    recipe.write_text(json.dumps(begun))
    maps = clone(grid).set_params(pooling=None).fit(files)
    with pytest.raises(ValueError, match=r"begun with other values of images: delete"):
        extract_feature_matrix(maps, files, path, chunk_size=4)


def test_home_is_found_and_paths_hold_in_other_directories(features, files, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    shutil.copy(files[0], tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    images = ["~/photo.png", View("~/photo.png", 0), View(EqualizedImage("photo.png"), 1)]
    rows = extract_feature_matrix(features, images, "~/rows.npy")
    assert (tmp_path / "rows.npy").exists() and len(rows) == 3
    np.testing.assert_allclose(rows, features.transform(images), rtol=1e-4, atol=1e-5)
    paths = [with_absolute_path(image) for image in [*images, VideoFrame("film.mp4", 1.0)]]
    assert paths == [
        str(tmp_path / "photo.png"),
        View(str(tmp_path / "photo.png"), 0),
        View(EqualizedImage(str(tmp_path / "photo.png")), 1),
        VideoFrame(str(tmp_path / "film.mp4"), 1.0),
    ]
    pixels = np.zeros((8, 8, 3), np.uint8)
    assert with_absolute_path(pixels) is pixels


def test_begun_anew_with_other_features_in_the_same_place(features, files, tmp_path):
    path = tmp_path / "features.npy"
    extract_feature_matrix(features, files, path)
    path.unlink()
    other = MobileNetV2Features("pool", weights=None, image_size=32).fit(files)
    rows = extract_feature_matrix(other, files, path)
    np.testing.assert_allclose(rows, other.transform(files), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_training_reads_a_memory_map_batch_by_batch(tmp_path):
    """Neither the checks, nor the hashes of rows, nor the training hold a copy of the matrix."""
    rng = np.random.default_rng(0)
    X = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.float32, (4000, 5000))
    for start in range(0, 4000, 500):
        X[start : start + 500] = rng.normal(size=(500, 5000))
    y = np.arange(4000) % 2
    n_bytes = X.nbytes
    del X
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    clf = DeepFakeClassifier("pool", hidden_layer_sizes=(2,), max_epochs=1, early_stopping=True)
    tracemalloc.start()
    clf.fit(mapped, y, groups=np.arange(4000) // 4)
    clf.predict_proba(mapped)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.15 * n_bytes


# ---- on a cluster ----


class Slow(ImageView):
    """Writes down who renders it, and takes long enough for the worker to be killed meanwhile."""

    signature = "slow"

    def __init__(self, source):
        self.source = source

    def render(self, image, random_state):
        with open(os.environ["COMPUTED"], "a") as log:
            log.write(f"{os.getpid()} {Path(self.source).stem}\n")
        time.sleep(0.5)
        return image


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("COMPUTED", str(tmp_path / "computed"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.getcwd()]))
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            local_directory=str(tmp_path / "dask"),
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.wait_for_workers(2, timeout=120)
        yield client


def kill_one(client, when):
    """Kill a worker, as a machine that fails would, once ``when()``."""

    def wait_and_kill():
        deadline = time.monotonic() + 120
        while not when():
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)
        killed.append(next(iter(pids.values())))
        os.kill(killed[0], signal.SIGKILL)

    pids, killed = client.run(os.getpid), []
    thread = threading.Thread(target=wait_and_kill)
    thread.start()
    return killed, thread


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # distributed's, of sockets of the worker that was killed
def test_extraction_on_dask_with_a_worker_killed(cluster, files, tmp_path):
    plain = MobileNetV2Features(weights=None, image_size=32).fit(files)
    slow = [file if i % 2 else Slow(file) for i, file in enumerate(files)]
    log = tmp_path / "computed"
    killed, thread = kill_one(
        cluster, lambda: log.exists() and len(log.read_text().split("\n")) > 4
    )
    with joblib.parallel_config("dask"):
        rows = extract_feature_matrix(plain, slow, tmp_path / "features.npy", chunk_size=2)
    thread.join()
    np.testing.assert_allclose(rows, plain.transform(files), rtol=1e-4, atol=1e-5)
    lines = [line.split() for line in log.read_text().splitlines()]
    starts = [start for _, start in lines]
    assert set(starts) == {str(start) for start in range(0, 22, 2)}
    # only what the killed worker was at may have been begun twice
    twice = [start for start in set(starts) if starts.count(start) > 1]
    assert len(killed) == 1 and len(twice) <= 1 and len(starts) <= 12
    for start in twice:
        assert str(killed[0]) in [pid for pid, other in lines if other == start]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_search_on_dask_with_a_worker_killed(cluster, tmp_path):
    """What joblib would put on one worker, arrays of 1 kB or more, is given as lists."""
    photos = make_spliced_photos(150, image_size=32, random_state=0)
    X, y = list(photos.data), photos.target.tolist()
    cv = [
        (train.tolist(), test.tolist()) for train, test in GroupKFold(2).split(X, y, photos.groups)
    ]
    pipe = make_deepfake_pipeline(
        weights=None, image_size=32, max_epochs=2, hidden_layer_sizes=(8,), random_state=0
    ).set_params(features__memory=str(tmp_path / "store"))
    grid = {"classifier__lr": [1e-4, 1e-3, 1e-2], "classifier__l1_factor": [0, 1e-4]}
    search = GridSearchCV(pipe, grid, cv=cv, scoring="roc_auc")
    torch.set_num_threads(1)  # as many as the workers have: others round differently
    alone = search.fit(X, y).cv_results_
    killed, thread = kill_one(cluster, lambda: all(cluster.processing().values()))
    with joblib.parallel_config("dask"):
        search.fit(X, y)
    thread.join()
    assert len(killed) == 1
    for name in ("split0_test_score", "split1_test_score"):
        np.testing.assert_allclose(search.cv_results_[name], alone[name])
