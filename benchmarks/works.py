"""The works that are timed. Each prepares itself and returns a function to be timed.

Whatever is built once in a user's day (a trunk, a session, a warm store) is built in the
preparation. All of it runs in a process of its own, see contenders.py.
"""

import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import peers
import torch
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold, HalvingGridSearchCV
from sklearn.pipeline import Pipeline

from sklearn_dfd import (
    DeepFakeClassifier,
    MobileNetV2Features,
    make_deepfake_pipeline,
    metrics,
)
from sklearn_dfd._core.images.decoding import to_rgb
from sklearn_dfd._core.images.film_pool import times_of_frames
from sklearn_dfd._core.images.reading import read_all
from sklearn_dfd.datasets import VideoFrame
from sklearn_dfd.export import make_model_card
from sklearn_dfd.feature_store import IN_PROCESS
from sklearn_dfd.robustness import evaluate_robustness

N_ROWS, N_VALID = 1305, 327
GRID = {"lr": [1e-5, 3e-5, 1e-4, 3e-4], "l1_factor": [0, 1e-5, 1e-4]}


def state_of(weights):
    return torch.load(weights, weights_only=True)


def rows_of(n_rows, seed=0):
    """Rows like those of the trunk at layer 15, half of them of either class."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_rows, 7840)).astype(np.float32), np.arange(n_rows) % 2


# ---- image files -> features ----


def ours(weights, paths, engine="auto", precision="float32", decoding="exact"):
    features = MobileNetV2Features(
        weights=weights, engine=engine, precision=precision, decoding=decoding
    )
    features.fit(paths).transform(paths[:16])

    def run():
        IN_PROCESS.clear()
        features.transform(paths)

    return run


def ours_from_store(weights, paths, directory):
    features = MobileNetV2Features(weights=weights, memory=directory).fit(paths)
    features.transform(paths)
    return lambda: features.transform(paths)


def notebook(weights, paths, put_right=False):
    trunk = peers.torchvision_model(state_of(weights)).features[:16].train(not put_right)
    peers.notebook_features(trunk, paths[:16])
    return lambda: peers.notebook_features(trunk, paths)


def embetter(weights, paths):
    trunk = peers.torchvision_model(state_of(weights)).features[:16]
    peers.embetter_features(trunk, paths[:16])
    return lambda: peers.embetter_features(trunk, paths)


def data_loader(weights, paths):
    trunk = peers.torchvision_model(state_of(weights)).features[:16]
    peers.data_loader_features(trunk, paths[:16])
    return lambda: peers.data_loader_features(trunk, paths)


def onnxruntime(weights, paths):
    features = peers.OnnxFeatures(state_of(weights), joblib.cpu_count())
    features(paths[:16])
    return lambda: features(paths)


# ---- films -> frames ----


def our_frames(films, n_frames, known=False):
    """Frames of films as RGB pixels; with ``known`` they have been chosen before."""

    def choose():
        return [
            VideoFrame(film, seconds)
            for film in films
            for seconds in times_of_frames(film, n_frames, decode=False)
        ]

    chosen = choose()
    pool = ThreadPoolExecutor(joblib.cpu_count())
    return lambda: _n_frames(read_all(chosen if known else choose(), to_rgb, apply=pool.map))


def opencv_frames(films, n_frames, seek=False):
    """The same by OpenCV, which decodes each film in as many threads as there are cores."""
    read = peers.opencv_frames_by_seeking if seek else peers.opencv_frames
    return lambda: _n_frames([frame for film in films for frame in read(film, n_frames)])


def _n_frames(frames):
    return {"frames": len(frames)}


# ---- training ----


def our_epoch(weights):
    """One epoch of training alone, as the notebook's loop is: nothing is measured after it."""
    X, y = rows_of(N_ROWS)
    classifier = DeepFakeClassifier(weights=weights, max_epochs=1, random_state=0)
    classifier.fit(X[:128], y[:128])
    net, rows = classifier.net_, classifier._rows(X, y, np.ones(len(X)))

    def run():
        net.history.new_epoch()
        batches = net.get_iterator(rows, training=True)
        net.run_single_epoch(batches, training=True, prefix="train", step_fn=net.train_step)

    return run


def notebook_loop(weights, n_epochs=1):
    state = state_of(weights)
    X, y = rows_of(N_ROWS)
    peers.notebook_loop(state, X[:128], y[:128])
    return lambda: peers.notebook_loop(state, X, y, n_epochs)


def our_fit(weights, n_epochs):
    X, y = rows_of(N_ROWS)
    classifier = DeepFakeClassifier(weights=weights, max_epochs=n_epochs, random_state=0)
    classifier.fit(X[:128], y[:128])
    return lambda: classifier.fit(X, y)


def our_training(weights, n_epochs):
    X, y = rows_of(N_ROWS)
    X_val, y_val = rows_of(N_VALID, seed=1)
    classifier = DeepFakeClassifier(weights=weights, max_epochs=n_epochs, random_state=0)
    classifier.fit(X[:128], y[:128])
    return lambda: classifier.fit(X, y, X_val=X_val, y_val=y_val)


def notebook_training(weights, n_epochs, put_right=False):
    state = state_of(weights)
    X, y = rows_of(N_ROWS)
    X_val, y_val = rows_of(N_VALID, seed=1)
    peers.notebook_loop(state, X[:128], y[:128])
    return lambda: peers.notebook_train_model(state, X, y, X_val, y_val, n_epochs, put_right)


# ---- grid search ----


def search_over(pipeline):
    """Four learning rates, three penalties, five folds: 61 fits."""
    grid = {f"classifier__{name}": values for name, values in GRID.items()}
    return GridSearchCV(pipeline, grid, cv=GroupKFold(5), error_score="raise")


def our_search(weights, paths, y, max_epochs):
    n_run = count_trunk_runs()

    def run():
        n_run.clear()
        IN_PROCESS.clear()
        pipeline = make_deepfake_pipeline(weights=weights, max_epochs=max_epochs, random_state=0)
        search_over(pipeline).fit(paths, y, groups=np.arange(len(y)))
        return {"trunk runs": sum(n_run) / len(paths)}

    return run


def our_search_of_epochs(weights, n_epochs, halving):
    """Twelve candidates on features that are there, each for all epochs or as long as it leads."""
    X, y = rows_of(N_ROWS // 4)
    classifier = DeepFakeClassifier(weights=weights, max_epochs=n_epochs, random_state=0)
    options = {"cv": 2, "scoring": "roc_auc", "refit": False}
    if halving:
        search = HalvingGridSearchCV(
            classifier,
            GRID,
            resource="max_epochs",
            min_resources=1,
            max_resources=n_epochs,
            random_state=0,
            **options,
        )
    else:
        search = GridSearchCV(classifier, GRID, **options)
    return lambda: search.fit(X, y)


def count_trunk_runs():
    """Note from now on how many images each pass through the trunk has, in the list returned."""
    n_run = []
    network = MobileNetV2Features._network

    def counted(self, device):
        run, *rest = network(self, device)
        return (lambda pixels: n_run.append(len(pixels)) or run(pixels)), *rest

    MobileNetV2Features._network = counted
    return n_run


def straightforward_search(weights, paths, y, max_epochs, memory=None):
    """A transformer in embetter's style and a plain skorch classifier with the L1 recipe."""
    state = state_of(weights)

    def run():
        peers.EmbetterStyle.n_run = 0
        features = peers.EmbetterStyle(weights)
        classifier = peers.skorch_classifier(state, max_epochs)
        steps = [("features", features), ("classifier", classifier)]
        search_over(Pipeline(steps, memory=memory)).fit(
            np.array(paths), np.asarray(y, dtype=np.int64), groups=np.arange(len(y))
        )
        return {"trunk runs": peers.EmbetterStyle.n_run / len(paths)}

    return run


def our_parallel_search(weights, n_jobs, n_threads):
    """A search over the tail alone, on features that are there."""
    torch.set_num_threads(n_threads)
    X, y = rows_of(400)
    classifier = DeepFakeClassifier(weights=weights, max_epochs=2, random_state=0)
    search = GridSearchCV(classifier, {"lr": GRID["lr"]}, cv=2, n_jobs=n_jobs, refit=False)
    search.fit(X[:64], y[:64])  # the workers are there, and have imported torch
    return lambda: search.fit(X, y)


# ---- statistics ----


def metrics_of_each_resample():
    """Have the metric called for each resample, as any metric without a formula of weights is."""
    metrics._by_weights = lambda *_: None


def interval(n_rows, at_once=True):
    if not at_once:
        metrics_of_each_resample()
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, n_rows)
    scores, groups = y + rng.normal(size=n_rows), rng.integers(0, n_rows // 2, n_rows)

    def run():
        metrics.bootstrap_interval(roc_auc_score, y, scores, groups=groups, random_state=0)

    run()
    return run


def labelled_detector(weights, paths):
    y = np.arange(len(paths)) % 2
    return make_deepfake_pipeline(preset="fast", weights=weights).fit(paths, y), y


def robustness(weights, paths, at_once=True):
    if not at_once:
        metrics_of_each_resample()
    detector, y = labelled_detector(weights, paths)
    evaluate_robustness(detector, paths, y, distortions={"jpeg": [50]}, random_state=0)
    return lambda: evaluate_robustness(detector, paths, y, random_state=0)


def model_card(weights, paths, at_once=True):
    if not at_once:
        metrics_of_each_resample()
    detector, y = labelled_detector(weights, paths)
    p = detector.predict_proba(paths)

    def run():
        make_model_card(detector, y, p, data="photographs", random_state=0)

    run()
    return run


# ---- the first photograph of a process ----


def fresh_process(code, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", code, *arguments]
    return lambda: subprocess.run(command, check=True, env=environment)


def first_photograph(weights, paths):
    y = np.arange(16) % 2
    pipeline = make_deepfake_pipeline(weights=weights, max_epochs=1).fit(paths[:16], y)
    file = Path(paths[0]).with_name("detector.joblib")
    joblib.dump(pipeline, file)
    code = "import joblib, sys; joblib.load(sys.argv[1]).predict_proba([sys.argv[2]])"
    return fresh_process(code, str(file), paths[0])


def bare_forward(weights, others=()):
    code = (
        f"import {', '.join(['torch', *others])}\n"
        "from sklearn_dfd._core.network.mobilenet import architecture\n"
        "blocks = torch.nn.Sequential(*architecture().features).to_empty(device='cpu').eval()\n"
        "with torch.inference_mode(): blocks(torch.rand(1, 3, 224, 224))"
    )
    return fresh_process(code)


# ---- memory and growth ----


def copies_of(paths, n_images, directory):
    """Write ``n_images`` different files, none of which costs an encoder's time."""
    contents = [Path(path).read_bytes() for path in paths]
    copies = [Path(directory) / f"{i}.jpg" for i in range(n_images)]
    for i, path in enumerate(copies):
        if not path.exists():
            # what comes after the end of a JPEG image is not decoded, but it is hashed
            path.write_bytes(contents[i % len(contents)] + i.to_bytes(8, "big"))
    return [str(path) for path in copies]


def our_memory(weights, paths, n_images, directory):
    copies = copies_of(paths, n_images, directory)
    features = MobileNetV2Features(weights=weights).fit(copies)
    features.transform(copies[:64])

    def run():
        before = _peak()
        X = features.transform(copies)
        return {"output": X.nbytes, "growth": _peak() - before, "peak": _peak()}

    return run


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def our_growth(weights, paths, n_images, directory):
    return ours(weights, copies_of(paths, n_images, directory))


# ---- the machine ----


def machine(paths):
    """Rates that nothing on this machine exceeds: products in float32, copies, JPEG decoding."""
    x = torch.rand(64, 320, 7, 7).to(memory_format=torch.channels_last)
    weight = torch.rand(1280, 320, 1, 1)
    a, b, c = (torch.rand(1024, 1024) for _ in range(3))
    source, target = torch.rand(2**26), torch.empty(2**26)

    def run():
        with torch.inference_mode():
            convolution = _rate(lambda: torch.conv2d(x, weight), 2 * 64 * 49 * 320 * 1280)
            product = max(
                _rate(lambda: torch.mm(a, b, out=c), 2 * 1024**3),
                _rate(lambda: np.matmul(a.numpy(), b.numpy(), out=c.numpy()), 2 * 1024**3),
            )
            copy = _rate(lambda: target.copy_(source), 2 * source.nbytes)
        decoding = _rate(lambda: [peers.decode(path) for path in paths], len(paths))
        return {
            "flops": max(convolution, product),
            "bytes": copy,
            "decoding": decoding * joblib.cpu_count(),
        }

    return run


def _rate(function, amount, seconds=1.0):
    function()
    n, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        function()
        n += 1
    return amount * n / (time.perf_counter() - start)
