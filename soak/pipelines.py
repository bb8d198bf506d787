"""Random valid pipelines on random data: finite probabilities, or an error that says why not."""

import copy
import pickle
import random
from pathlib import Path

import numpy as np
import torch
from images import mutate, seeds
from PIL import Image
from sklearn.base import clone

from sklearn_dfd import make_deepfake_pipeline


def _in_double_precision(pipe, images):
    """Probabilities from a tail in double precision."""
    tail = copy.deepcopy(pipe[-1].net_.module_).double()
    with torch.no_grad():
        return tail(torch.from_numpy(pipe[0].transform(images)).double()).softmax(1).numpy()


def random_pipeline(rng, directory):
    """Fit, predict, save and load one; return what came of it.

    It is "refused" where it refused what it was given, "rounding" where a learning rate of 1 or
    more left weights with which rounding decides the probabilities, and "trained" otherwise.
    """
    n_images = int(rng.integers(8, 40))
    images = list(rng.integers(0, 256, (n_images, 36, 36, 3), dtype=np.uint8))
    files = list(seeds().values())
    for i in rng.permutation(n_images)[: n_images // 4]:  # some in other clothes
        images[i] = files[rng.integers(len(files))]
    for i in rng.permutation(n_images)[: n_images // 8]:
        images[i] = Image.fromarray(rng.integers(0, 256, (33, 40, 3), dtype=np.uint8))
    y = rng.integers(0, rng.integers(1, 4), n_images)
    layer = [0, 3, 10, 15, 17, 18, "pool"][rng.integers(7)]
    parameters = {
        "weights": None,
        "image_size": int(rng.integers(32, 65)),
        "memory": str(Path(directory, "store")) if rng.integers(2) else None,
        "n_jobs": [None, 1, 2][rng.integers(3)],
        "lr": float([0, 1e-4, 1e-2, 1, 1e3][rng.integers(5)]),
        "l1_factor": float([0, 1e-4, 1, 1e3][rng.integers(4)]),
        "dropout": float(rng.choice([0, 0.2, 0.9])),
        "max_epochs": int(rng.integers(1, 3)),
        "batch_size": int(rng.integers(2, 70)),
        "hidden_layer_sizes": [(), (4,), (8, 3)][rng.integers(3)],
        "n_tails": int(rng.integers(1, 3)),
        "lr_schedule": ["constant", "one_cycle"][rng.integers(2)],
        "label_smoothing": float(rng.choice([0, 0.1])),
        "ema_decay": [None, 0.9][rng.integers(2)],
        "early_stopping": bool(rng.integers(2)),
        "class_weight": [None, "balanced"][rng.integers(2)],
        "random_state": int(rng.integers(1000)),
        "device": "cpu",
    }
    pipe = make_deepfake_pipeline(layer, **parameters)
    pipe.set_params(features__on_error="nan" if rng.integers(2) else "raise")
    refused = False
    try:
        pipe.fit(images, y)
    except ValueError as error:
        told = ("became", "one class", "set aside", "distinct row")
        assert any(words in str(error) for words in told), (layer, parameters, error)
        refused = True
        if not hasattr(pipe[-1], "net_"):
            return "refused"
    p = pipe.predict_proba(images)
    assert np.isfinite(p).all(), (layer, parameters)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    if not refused:
        again = clone(pipe).fit(images, y)
        np.testing.assert_array_equal(again.predict_proba(images), p, err_msg=str(parameters))
    some = rng.permutation(n_images)[: rng.integers(1, n_images)]
    fewer = [images[i] for i in some]
    moved = np.abs(pipe.predict_proba(fewer) - p[some]).max()
    if rounding := moved > 1e-5:
        assert parameters["lr"] >= 1, (layer, parameters, moved)
        exact = _in_double_precision(pipe, images)
        assert np.abs(exact - p).max() > moved / 2, (layer, parameters, moved)
        np.testing.assert_allclose(_in_double_precision(pipe, fewer), exact[some], atol=1e-5)
    loaded = pickle.loads(pickle.dumps(pipe))
    np.testing.assert_allclose(loaded.predict_proba(images), p, atol=1e-5)
    source = random.Random(int(rng.integers(2**31)))
    hostile = [mutate(file, source) for file in files[:4]]
    pipe[0].set_params(on_error="nan")
    rows = pipe[0].transform([*hostile, images[0]])
    np.testing.assert_allclose(rows[-1], pipe[0].transform(images[:1])[0], rtol=1e-4, atol=1e-4)
    return "refused" if refused else "rounding" if rounding else "trained"
