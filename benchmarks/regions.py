"""What is seen in eyes, nose and mouth at twice the scale, and whether it says what was replaced.

    pip install ".[faces,explain]"
    python benchmarks/regions.py --data DIR --weights FILE [--folds K ...]

DIR is the Real and Fake Face Detection set, whose file names tell which of the two eyes, the nose
and the mouth of a fake were replaced. One detector sees whole photographs: the accurate preset. A
second one, trained in the same way, sees squares around these four parts at about twice the scale,
and is told of each whether that part was replaced, so no square carries the label of an edit
elsewhere. All files are encoded alike first; the folds are the first of five by source group.

The second table is about fakes alone: how well the parts that were replaced are told from those
that were not, by the part's own square, and by how much of the evidence that Grad-CAM finds for the
first detector lies in it.
"""

import argparse
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd._core.images.decoding import to_rgb
from sklearn_dfd._core.images.face_detector import _session
from sklearn_dfd._core.images.reading import read_all
from sklearn_dfd.augmentation import equalize_encoding
from sklearn_dfd.datasets import load_real_and_fake_faces
from sklearn_dfd.feature_store import FeatureStore
from sklearn_dfd.inspection import GradCAMDisplay
from sklearn_dfd.model_selection import find_source_groups

matplotlib.use("agg")
PARTS = ("left eye", "right eye", "nose", "mouth")  # as in the names of the files: as pictured
SCALE = (0.8, 0.8, 0.85, 0.95)  # sides of the squares, in distances between the eyes


def points(pixels):
    """Find the centres of the eyes, the nose and the mouth of the surest face, with CenterFace."""
    image = Image.fromarray(pixels)
    sides = [max(32, round(side / 32) * 32) for side in image.size]
    resized = np.asarray(image.resize(sides, Image.Resampling.BILINEAR), dtype=np.float32)
    maps = _session().run(None, {"input.1": resized.transpose(2, 0, 1)[np.newaxis]})
    score, size, offset, marks = (one[0] for one in maps)
    row, column = np.unravel_index(score[0].argmax(), score[0].shape)
    height, width = 4 * np.exp(size[:, row, column])
    down, right = offset[:, row, column]
    corner = [4 * (column + right + 0.5) - width / 2, 4 * (row + down + 0.5) - height / 2]
    y, x = marks[:, row, column].reshape(5, 2).T
    found = (corner + np.stack([x * width, y * height], 1)) * np.divide(image.size, sides)
    return np.array([*found[:3], found[3:].mean(axis=0)])


def boxes(pixels):
    """Return left, top, right and bottom of the square around each part, within the photograph."""
    places = points(pixels)
    unit = np.linalg.norm(places[1] - places[0])
    half = np.array(SCALE)[:, np.newaxis] * unit / 2
    limit = np.array(pixels.shape[1::-1])
    first = np.clip(places - half, 0, limit - 16)
    last = np.clip(places + half, first + 16, limit)
    return np.round(np.hstack([first, last])).astype(int)


def evidence(detector, X, places):
    """Return how dense Grad-CAM's evidence for a fake is in each square, beside the whole map."""
    rows = []
    for start in range(0, len(X), 16):
        some = slice(start, start + 16)
        display = GradCAMDisplay.from_estimator(detector, X[some], class_of_interest=1)
        plt.close(display.figure_)
        for map_, squares in zip(display.maps, places[some], strict=True):
            inside = [map_[top:bottom, left:right].mean() for left, top, right, bottom in squares]
            rows.append(np.array(inside) / max(map_.mean(), 1e-12))
    return np.array(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1], choices=range(5))
    parser.add_argument("--whole", type=int, default=224, help="image_size of photographs")
    parser.add_argument("--part", type=int, default=112, help="image_size of squares")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the training, not of the folds")
    parser.add_argument("--store", type=Path, default=Path("output/feature-cache"))
    args = parser.parse_args()
    faces = load_real_and_fake_faces(args.data)
    y, replaced = faces.target, faces.replaced_parts.astype(int)
    groups = find_source_groups(faces.data, n_jobs=1)
    X = equalize_encoding(faces.data, quality=75)
    pixels = [np.asarray(image) for image in read_all(list(X), to_rgb)]
    places = np.array([boxes(image) for image in pixels])
    squares = np.empty((len(X), len(PARTS)), dtype=object)
    for row, part in np.ndindex(squares.shape):
        left, top, right, bottom = places[row, part]
        squares[row, part] = pixels[row][top:bottom, left:right].copy()
    del pixels
    # the name of one fake does not tell its parts
    known = (y == 0) | replaced.any(axis=1)
    common = {
        "preset": "accurate",
        "weights": args.weights,
        "max_epochs": args.epochs,
        "memory": FeatureStore(args.store, dtype="float16"),
        "random_state": args.seed,
    }
    splits = list(StratifiedGroupKFold(5, shuffle=True, random_state=0).split(X, y, groups))
    scores, parts_of_fakes = [], []
    for fold in args.folds:
        train, test = splits[fold]
        whole = make_deepfake_pipeline(image_size=args.whole, **common).fit(X[train], y[train])
        use = train[known[train]]
        parts = make_deepfake_pipeline(image_size=args.part, **common)
        parts.fit(list(squares[use].ravel()), replaced[use].ravel())
        p_whole = whole.predict_proba(X[test])[:, 1]
        p_parts = parts.predict_proba(list(squares[test].ravel()))[:, 1].reshape(-1, len(PARTS))
        mean = p_parts.mean(axis=1)
        p = {
            "whole photographs (the preset)": p_whole,
            "parts, the mean of the four": mean,
            "parts, the highest of the four": p_parts.max(axis=1),
            "the average of whole photographs and the mean of the four": (p_whole + mean) / 2,
        }
        scores.append([roc_auc_score(y[test], each) for each in p.values()])
        print(f"fold {fold}: {np.round(scores[-1], 4).tolist()}", flush=True)
        fakes = (y[test] == 1) & known[test]
        density = evidence(whole, X[test][fakes], places[test][fakes])
        parts_of_fakes.append((replaced[test][fakes], p_parts[fakes], density))
    print("\n| detector | ROC AUC |\n|---|---|")
    for name, score in zip(p, np.mean(scores, axis=0), strict=True):
        print(f"| {name} | {score:.3f} |")
    is_replaced, own, density = map(np.concatenate, zip(*parts_of_fakes, strict=True))
    print(f"\n{len(is_replaced)} fakes\n")
    print("| part | replaced | by its own square | by Grad-CAM |\n|---|---|---|---|")
    for part, name in enumerate(PARTS):
        yes = is_replaced[:, part]
        own_auc, map_auc = (roc_auc_score(yes, of[:, part]) for of in (own, density))
        print(f"| {name} | {yes.sum()} | {own_auc:.3f} | {map_auc:.3f} |")


if __name__ == "__main__":
    main()
