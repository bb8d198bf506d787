"""What one change to the accurate detector does, on folds of the real photographs.

    python benchmarks/settings.py --data DIR --weights FILE [--n-folds K] [--epochs N]
                                  [--image-size S] [--quality Q] [SETTING ...]

A setting is a list of changes such as ``layer=13,lr=1e-4``, of the parameters of
DeepFakeClassifier, MobileNetV2Features and AugmentedClassifier; an empty one is the preset at
``--image-size``. With ``--quality`` all files are encoded alike first. ``blends=1`` adds a fake to
each real photograph that is trained on, with parts of another; ``own_blends=1`` one with parts of
its own, changed. ``averaged_views=8`` also averages the probabilities of that many views of each
photograph to judge. ``faces=1`` cuts out the faces first, by OpenCV's frontal face detector
(``pip install "opencv-python-headless<5"``). ``share=0.5`` trains on half of the groups. Settings
joined by ``+``, such as ``image_size=224+image_size=320,max_epochs=3``, are trained apart, and
their probabilities averaged.

Each is trained on the first folds, of five by groups of photographs made from one another, always
the same, and judged on what they leave out; settings that differ only in how they judge are trained
once. The CPU time of each training is printed in core minutes; features in the store cost next to
nothing. The effect of chance on one fold is large: a difference of 0.03 in ROC AUC means nothing.
"""

import argparse
from ast import literal_eval
from copy import copy
from functools import cache
from pathlib import Path
from time import process_time

import numpy as np
from blends import with_blends
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd._core.images.decoding import to_rgb
from sklearn_dfd._core.images.reading import read_all
from sklearn_dfd.augmentation import View, equalize_encoding
from sklearn_dfd.datasets import load_real_and_fake_faces
from sklearn_dfd.feature_store import FeatureStore
from sklearn_dfd.model_selection import find_source_groups

_JUDGING = ("average_mirrored", "averaged_views")
_MAKING = ("blends", "own_blends", "faces", "share")
_MARGIN = 1.25  # side of a crop, in sides of the detector's box


def changes_of(setting):
    """Read the changes of a setting: those of training, and those of judging."""
    changes = {}
    for change in filter(None, setting.split(",")):
        name, value = change.split("=")
        try:
            changes[name] = literal_eval(value)
        except ValueError:
            changes[name] = value
    # these change how a fitted detector judges, and nothing before
    judging = {name: changes.pop(name) for name in _JUDGING if name in changes}
    return changes, judging


def judged(detector, X, averaged_views=0, **params):
    """Return the probability of the second class, the mean of views of each photograph, too."""
    judge = copy(detector).set_params(**params)
    # seeds from 1000 on: none of these views was trained on, even if the photograph were
    views = [[View(x, 1000 + seed, "gentle") for x in X] for seed in range(averaged_views)]
    each = [judge.predict_proba(X), *(judge.estimator_.predict_proba(some) for some in views)]
    return np.mean(each, axis=0)[:, 1]


def detector_with(changes, **common):
    """Build the accurate detector with changes of its training."""
    changes = dict(changes)
    views = {name: changes.pop(name) for name in ("n_views", "recipe") if name in changes}
    layer = changes.pop("layer", None)
    for name in _MAKING:
        changes.pop(name, None)
    return make_deepfake_pipeline(
        layer, preset="accurate", **{"random_state": 0, **common, **changes}
    ).set_params(**views)


def some_of(rows, groups, share):
    """Draw so many of the groups of some rows, a smaller share from among those of a larger."""
    drawn = np.random.default_rng(0).permutation(np.unique(groups[rows]))
    return rows[np.isin(groups[rows], drawn[: round(share * len(drawn))])]


def face_crops(X):
    """Cut out the largest face of each photograph, as uint8 arrays; say how many have one."""
    import cv2

    find = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    crops, n_found = [], 0
    for image in map(np.asarray, read_all(list(X), to_rgb)):
        height, width = image.shape[:2]
        boxes = find.detectMultiScale(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), 1.05, 4)
        if len(boxes):
            left, top, side, _ = max(boxes, key=lambda box: box[2])
            n_found += 1
        else:
            side = min(height, width) / _MARGIN
            left, top = (width - side) / 2, (height - side) / 2
        around = (_MARGIN - 1) / 2 * side
        box = np.array([left - around, top - around, left + side + around, top + side + around])
        x, y, right, bottom = box.clip(0).astype(int)
        crops.append(image[y:bottom, x:right])
    print(f"{n_found:,} of {len(X):,} photographs have a face", flush=True)
    return crops


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--n-folds", type=int, default=1, help="of five, to train and judge on")
    parser.add_argument("--epochs", type=int, default=2, help="unless a setting says otherwise")
    parser.add_argument("--image-size", type=int, default=160, help="that of the small copies")
    parser.add_argument("--quality", type=int, help="of JPEG, for encoding all files alike")
    parser.add_argument("--store", type=Path, default=Path("output/feature-cache"))
    parser.add_argument("settings", nargs="*", default=[""])
    args = parser.parse_args()
    faces = load_real_and_fake_faces(args.data)
    X, y = faces.data, faces.target
    groups = find_source_groups(X, n_jobs=-1)
    if args.quality:
        X = equalize_encoding(X, quality=args.quality)
    folds = list(StratifiedGroupKFold(5, shuffle=True, random_state=0).split(X, y, groups))
    common = {
        "weights": args.weights,
        "memory": FeatureStore(args.store, dtype="float16"),
        "n_jobs": -1,
        "max_epochs": args.epochs,
        "image_size": args.image_size,
    }

    @cache
    def detectors(changes):
        """Train a detector on each fold; keep what it is to judge, and how long it took."""
        changes = dict(changes)
        trained = []
        for train, test in folds[: args.n_folds]:
            train = some_of(train, groups, changes.get("share", 1))
            data, target = X[train], y[train]
            for name in ("blends", "own_blends"):
                if name in changes:
                    data, target = with_blends(data, target, changes[name], name == "own_blends")
            judged_on = X[test]
            if "faces" in changes:
                data, judged_on = face_crops(data), face_crops(judged_on)
            start = process_time()
            detector = detector_with(changes, **common).fit(data, target)
            trained.append((detector, judged_on, (process_time() - start) / 60))
        return trained

    @cache
    def probabilities(setting):
        """Return the probabilities and the minutes of training in each fold."""
        changes, judging = changes_of(setting)
        trained = detectors(tuple(changes.items()))
        return [(judged(one, some, **judging), minutes) for one, some, minutes in trained]

    print("| setting | ROC AUC | accuracy | ROC AUC in each fold | core minutes |")
    print("|---|---|---|---|---|")
    for setting in args.settings:
        scores, times = [], []
        for (_, test), *each in zip(folds, *map(probabilities, setting.split("+")), strict=False):
            p, minutes = map(np.array, zip(*each, strict=True))
            p = p.mean(axis=0)
            scores.append((roc_auc_score(y[test], p), accuracy_score(y[test], p > 0.5)))
            times.append(f"{minutes.sum():.0f}")
        auc, accuracy = np.mean(scores, axis=0)
        in_folds = ", ".join(f"{of_fold:.3f}" for of_fold, _ in scores)
        name = setting or "the preset with one tail"
        row = [name, f"{auc:.3f}", f"{accuracy:.3f}", in_folds, ", ".join(times)]
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
