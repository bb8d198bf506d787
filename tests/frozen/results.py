"""Features, weights and probabilities of small detectors, to compare between releases.

    python tests/frozen/results.py tests/frozen/results.json

writes what this release gives. Run it only where a change of results is meant, and say in
CHANGELOG.md how large the change is.
"""

import hashlib
import json
import platform
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from sklearn.pipeline import make_pipeline

from sklearn_dfd import DeepFakeClassifier, MobileNetV2Features
from sklearn_dfd.augmented_classifier import AugmentedClassifier


def machine():
    """Name all that decides how a sum is rounded: the processor and the numerical libraries."""
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": models[0].split(":")[1].strip() if models else platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }


def arrays():
    """Yield names and arrays, computed by one thread."""
    rng = np.random.RandomState(0)
    images = list(rng.randint(0, 256, (6, 70, 64, 3)).astype(np.uint8))
    images[1] = images[1][:40]
    for layer in (4, 15, "pool"):
        for engine in ("torch", "onnxruntime"):
            features = MobileNetV2Features(
                layer, weights=None, image_size=64, engine=engine, device="cpu", n_jobs=1
            )
            yield f"features of {layer} by {engine}", features.fit_transform(images)
    X = rng.standard_normal((48, 160, 2, 2)).astype(np.float32).reshape(48, -1)
    y = np.array(["real", "fake"] * 24)
    common = {"weights": None, "device": "cpu", "random_state": 0, "batch_size": 16}
    for name, settings in {
        "plain": {"max_epochs": 2},
        "averaged": {
            "max_epochs": 2,
            "n_tails": 2,
            "ema_decay": 0.9,
            "lr_schedule": "one_cycle",
            "label_smoothing": 0.1,
        },
        "stopped": {"max_epochs": 3, "early_stopping": True, "class_weight": "balanced"},
    }.items():
        classifier = DeepFakeClassifier(**common, hidden_layer_sizes=(16,), **settings).fit(X, y)
        yield f"probabilities, {name}", classifier.predict_proba(X)
        for key, tensor in classifier.net_.module_.state_dict().items():
            if key.endswith(("head.0.weight", "18.0.weight")):
                if classifier.n_tails == 1:  # as the names were when these were recorded
                    key = key.removeprefix("tails.0.")
                yield f"weights, {name}, {key}", tensor.numpy()
    pipe = make_pipeline(
        MobileNetV2Features(15, weights=None, image_size=64, device="cpu", n_jobs=1),
        DeepFakeClassifier(max_epochs=1, **common),
    )
    detector = AugmentedClassifier(pipe, n_views=2).fit(images, y[:6])
    yield "probabilities, augmented", detector.predict_proba(images)


def results():
    """Return for each array its hash and some of its numbers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {
            name: {
                "shape": list(array.shape),
                "sha256": hashlib.sha256(np.ascontiguousarray(array, "<f4").tobytes()).hexdigest(),
                "values": array.ravel()[:: max(1, array.size // 16)].astype(float).tolist(),
            }
            for name, array in arrays()
        }
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    recorded = {"machine": machine(), "results": results()}
    Path(sys.argv[1]).write_text(json.dumps(recorded, indent=1) + "\n")
