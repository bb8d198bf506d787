"""Write a frozen file: fitted estimators of the release that runs this, and what they answer.

    PYTHONPATH=<checkout of the release> python tests/frozen/write.py tests/frozen/<release>.xz

Done once for each release, and never again: the file stands for those that people have.
"""

import lzma
import pickle
import sys

import numpy as np
from sklearn.pipeline import make_pipeline

import sklearn_dfd
from sklearn_dfd import DeepFakeClassifier, MobileNetV2Features
from sklearn_dfd.augmented_classifier import AugmentedClassifier


def patterned(name, array):
    """Values that compress well, different in each tensor."""
    if array.ndim == 0:
        return array
    values = (np.arange(array.size) * (1 + len(name) % 5) % 13 - 6) / 100
    return (np.abs(values) + 0.5 if name.endswith("var") else values).reshape(array.shape)


def patterned_tail(classifier):
    for name, tensor in classifier.net_.module_.state_dict().items():
        tensor.copy_(type(tensor)(np.asarray(patterned(name, tensor.numpy()), np.float32)))


def write(path):
    """Fit, and save with the answers."""
    rng = np.random.RandomState(0)
    images = rng.randint(0, 256, (3, 40, 48, 3)).astype(np.uint8)
    X, y = rng.standard_normal((20, 8)).astype(np.float32), np.array(["fake", "real"] * 10)
    maps = rng.standard_normal((6, 320)).astype(np.float32)

    transformer = MobileNetV2Features(0, weights=None, image_size=32, device="cpu").fit(images)
    head = DeepFakeClassifier(
        layer="pool", hidden_layer_sizes=(4,), lr=1e-2, device="cpu", random_state=0
    ).fit(X, y)
    # the blocks of this one are 1.6 MB: few in the file, since their values repeat
    blocks = DeepFakeClassifier(
        layer=17, weights=None, hidden_layer_sizes=(4,), max_epochs=1, device="cpu", random_state=0
    ).fit(maps, y[:6])
    patterned_tail(blocks)

    small = DeepFakeClassifier("pool", hidden_layer_sizes=(), device="cpu", random_state=0)
    detector = AugmentedClassifier(make_pipeline(transformer, small), n_views=1).fit(images, y[:3])
    patterned_tail(detector.estimator_[-1])

    content = {
        "release": sklearn_dfd.__version__,
        "images": images,
        "X": X,
        "maps": maps,
        "transformer": transformer,
        "features": transformer.transform(images)[:, ::50],
        "head": head,
        "probabilities_of_head": head.predict_proba(X),
        "blocks": blocks,
        "probabilities_of_blocks": blocks.predict_proba(maps),
        "detector": detector,
        "probabilities_of_detector": detector.predict_proba(images),
    }
    with lzma.open(path, "wb") as file:
        pickle.dump(content, file, protocol=4)  # 5 names a part of numpy that numpy 1 lacks


if __name__ == "__main__":
    write(sys.argv[1])
