"""
The fast and the accurate detector
==================================

``make_deepfake_pipeline(preset="accurate")`` cuts MobileNetV2 earlier, trains
on views of each photograph (mirrored, cropped and recoloured), and averages
the probabilities of a photograph and its mirror image. ``preset="fast"``
trains no part of the network: a logistic regression on summaries of its maps.
Here both are compared with the method's own settings on the Real and Fake Face
Detection set of CIPLab [1]_: a cross-validation on the same folds, by groups
of photographs that were made from one another. The fast detector takes about a
minute, the accurate one hours.

.. [1] https://www.kaggle.com/datasets/ciplab/real-and-fake-face-detection
"""

import os
from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.metrics import RocCurveDisplay, accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd.augmentation import equalize_encoding
from sklearn_dfd.datasets import load_real_and_fake_faces
from sklearn_dfd.feature_store import FeatureStore
from sklearn_dfd.metrics import bootstrap_interval
from sklearn_dfd.model_selection import find_source_groups

# The folder that holds training_real and training_fake. Download the set from
# the address above.
DATA = os.environ.get("DFD_DATA", "real_and_fake_face")
# "imagenet" (downloaded once), or a file with a state dict of torchvision's
# mobilenet_v2
WEIGHTS = os.environ.get("DFD_WEIGHTS", "imagenet")
N_FOLDS = int(os.environ.get("DFD_FOLDS", 5))
N_JOBS = int(
    os.environ.get("DFD_JOBS", -1)
)  # folds at a time; -1 uses all cores
SEEDS = [
    int(seed) for seed in os.environ.get("DFD_SEEDS", "0").split()
]  # folds and training
DETECTORS = os.environ.get("DFD_DETECTORS", "method fast accurate").split()
ACCURATE = {
    "layer": 4,
    "image_size": int(os.environ.get("DFD_IMAGE_SIZE", 224)),
    "max_epochs": 2,
    "n_tails": int(os.environ.get("DFD_TAILS", 1)),
}
N_VIEWS = 8
# JPEG quality that all files are encoded with first; 0 leaves them as they are
QUALITY = int(os.environ.get("DFD_QUALITY", 0))
OUTPUT = Path(os.environ.get("DFD_OUTPUT", "output"))
OUTPUT.mkdir(parents=True, exist_ok=True)

# %%
# The groups, which file names do not show, are found first: a fake is often an
# edit of a photograph that is in the set too.

faces = load_real_and_fake_faces(DATA)
X, y = faces.data, faces.target
groups = find_source_groups(X, n_jobs=-1, verbose=1)
print(f"{len(X)} photographs in {len(set(groups))} groups")
if QUALITY:  # so that no difference in compression can reveal the labels
    X = equalize_encoding(X, quality=QUALITY)

# %%
# Three detectors. Features are kept in half precision in a folder: nine rows
# per photograph for the accurate one.

store = FeatureStore(OUTPUT / "feature-cache", dtype="float16")


def make(name, seed):
    """Make one of the detectors, not fitted yet."""
    options = {"weights": WEIGHTS, "memory": store, "random_state": seed}
    if name != "accurate":
        preset = None if name == "method" else name
        return make_deepfake_pipeline(preset=preset, **options)
    detector = make_deepfake_pipeline(preset="accurate", **ACCURATE, **options)
    return detector.set_params(n_views=N_VIEWS)


# %%
# Each photograph is judged by a detector that has seen neither it nor anything
# made from it.

folds = {}
for seed in SEEDS:
    splitter = StratifiedGroupKFold(N_FOLDS, shuffle=True, random_state=seed)
    folds[seed] = list(splitter.split(X, y, groups))

probability, minutes = {}, {}
for name in DETECTORS:
    start = perf_counter()
    probability[name] = [
        cross_val_predict(
            make(name, seed),
            X,
            y,
            cv=folds[seed],
            n_jobs=N_JOBS,
            method="predict_proba",
            verbose=10,
        )[:, 1]
        for seed in SEEDS
    ]
    minutes[name] = (perf_counter() - start) / 60

# %%
# Scores, with intervals that draw whole groups. With several seeds, scores are
# means over the seeds and intervals are those of the first; the detectors of
# all seeds are then judged together too. How much the folds differ is printed
# below the table.

if len(SEEDS) > 1 and "accurate" in DETECTORS:
    together = f"accurate, {len(SEEDS)} seeds together"
    probability[together] = [np.mean(probability["accurate"], axis=0)]

figure, ax = plt.subplots(figsize=(5, 4.6), layout="constrained")
print(
    "| Detector | Accuracy | 95 % interval | ROC AUC | 95 % interval | "
    "Minutes |"
)
print("|---|---|---|---|---|---|")
for name, runs in probability.items():
    cells = []
    for metric, scores in (
        (accuracy_score, [run > 0.5 for run in runs]),
        (roc_auc_score, runs),
    ):
        value = np.mean([metric(y, score) for score in scores])
        low, high = bootstrap_interval(
            metric, y, scores[0], groups=groups, random_state=0
        )
        cells.append(f"{value:.3f} | {low:.3f} to {high:.3f}")
    print(
        f"| {name} | {' | '.join(cells)} | {minutes.get(name, np.nan):.0f} |"
    )
    RocCurveDisplay.from_predictions(y, runs[0], name=name, ax=ax)
for name in DETECTORS:
    for seed, run in zip(SEEDS, probability[name], strict=True):
        aucs = [roc_auc_score(y[test], run[test]) for _, test in folds[seed]]
        print(
            f"ROC AUC of the {name} detector in each fold, seed {seed}: "
            + ", ".join(f"{auc:.3f}" for auc in aucs)
        )
ax.plot([0, 1], [0, 1], ":", color="0.6", label="chance")
ax.set(
    xlabel="False positive rate (real called fake)",
    ylabel="True positive rate (fakes found)",
)
ax.legend(loc="lower right")
figure.savefig(OUTPUT / "accurate_detector.png", dpi=120)

# %%
# The set says of nearly every fake how hard it is to recognise, in the opinion
# of its makers. Apart from that, some fakes were compressed in another way
# than the real photographs, and in some only one part was replaced.

judged_last = DETECTORS[-1]
runs = probability[judged_last]
tables = np.array([str(Image.open(path).quantization) for path in faces.data])
alike = np.isin(tables, tables[y == 0])
one_part = faces.replaced_parts.sum(axis=1) == 1
kinds = {"all": True, "compressed as real": alike, "and one part": one_part}
print(
    f"\nROC AUC of the {judged_last} detector against all real photographs "
    "(number of fakes)\n"
)
print("fakes " + "".join(f"{kind:>20}" for kind in kinds))
for difficulty in ("easy", "mid", "hard"):
    fakes, cells = faces.difficulty == difficulty, []
    for kind in kinds.values():
        fakes = fakes & kind
        some = fakes | (y == 0)
        scores = [np.nan]
        if fakes.any():
            scores = [roc_auc_score(y[some], run[some]) for run in runs]
        cells.append(f"{np.mean(scores):.3f} ({fakes.sum()})")
    print(f"{difficulty:6s}" + "".join(f"{cell:>20}" for cell in cells))

# %%

calls = [
    f"the {name} detector {np.mean((np.array(runs) > 0.5) == y):.0%}"
    for name, runs in probability.items()
    if name in DETECTORS
]
print(
    f"\nOf {len(y)} faces, each judged by a detector that has seen no other "
    f"version of it, these are called correctly: by {', by '.join(calls)}."
)
