"""
Is a detector right as often as it says?
========================================

A network that has seen its training photographs often enough is sure of everything. Its order of
photographs may be good, and its probabilities are not. scikit-learn repairs them with a few
photographs that were neither trained on nor are tested on: here those of other places, by each of
its methods. No data set is needed.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.calibration import CalibratedClassifierCV, CalibrationDisplay
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.exceptions import WeightsError
from sklearn_dfd.model_selection import train_test_group_split
from sklearn_dfd.weights import load_weights

parser = argparse.ArgumentParser(description="Calibrate the probabilities of a detector.")
parser.add_argument(
    "--weights",
    default="imagenet",
    metavar="imagenet|random|FILE",
    help="what the network starts from: ImageNet weights (downloaded once; the default), random "
    "ones, or a file with a state dict of torchvision's mobilenet_v2",
)
parser.add_argument("--output", type=Path, default=Path("output"), help="folder to write to")
parser.add_argument("--n-samples", type=int, default=600, help="photographs (default: 600)")
parser.add_argument("--epochs", type=int, default=10, help="epochs (default: 10)")
args = parser.parse_args()
args.output.mkdir(parents=True, exist_ok=True)

weights = None if args.weights == "random" else args.weights
try:
    load_weights(weights)
except WeightsError as error:
    parser.error(f"{error} (--weights random does without)")

# %%
# A third of the places to train on, a third to calibrate on, a third to test on. In a size of 64
# pixels edits are hard to see: a detector should be sure of little.

photos = make_spliced_photos(args.n_samples, random_state=0)
X_train, X_calib, X_test, y_train, y_calib, y_test = train_test_group_split(
    photos.data,
    photos.target,
    groups=photos.groups,
    stratify=photos.target,
    validation_size=1 / 3,
    test_size=1 / 3,
    random_state=0,
)
detector = make_deepfake_pipeline(
    layer=6 if weights is None else 15,
    weights=weights,
    image_size=64,
    lr=1e-3 if weights is None else 3e-4,
    l1_factor=1e-6,
    batch_size=16,
    max_epochs=args.epochs,
    random_state=0,
).fit(X_train, y_train)

# %%
# ``FrozenEstimator`` keeps the detector as it is. Where there are too few photographs to leave some
# out of the training, ``CalibratedClassifierCV(pipe, cv=splits)`` trains one for each fold.

detectors = {"as trained": detector}
for method in ("sigmoid", "isotonic", "temperature"):
    calibrated = CalibratedClassifierCV(FrozenEstimator(detector), method=method)
    detectors[method] = calibrated.fit(X_calib, y_calib)

print(f"{len(y_test)} photographs of places that were neither trained nor calibrated on\n")
print("              log loss   Brier score   ROC AUC   said of its calls   were right")
figure, ax = plt.subplots(figsize=(5, 5), layout="constrained")
said, right = {}, {}
for name, one in detectors.items():
    p = one.predict_proba(X_test)[:, 1]
    said[name] = np.maximum(p, 1 - p).mean()
    right[name] = np.mean((p > 0.5) == y_test)
    print(
        f"{name:12s}  {log_loss(y_test, p):8.3f}   {brier_score_loss(y_test, p):11.3f}   "
        f"{roc_auc_score(y_test, p):7.3f}   {said[name]:17.3f}   {right[name]:10.3f}"
    )
    CalibrationDisplay.from_predictions(
        y_test, p, n_bins=5, strategy="quantile", name=name, ax=ax, marker="."
    )
ax.set(xlabel="Said: probability of an edit", ylabel="True: share of edited photographs")
figure.savefig(args.output / "reliability.png", dpi=120)

best = "temperature"  # of few photographs it makes the most
print(
    f"\nAs trained, the detector is {100 * said['as trained']:.0f} % sure on average and right "
    f"{100 * right['as trained']:.0f} times of 100; after calibration ({best}) it is "
    f"{100 * said[best]:.0f} % sure and right {100 * right[best]:.0f} times. The curves are in "
    f"{args.output / 'reliability.png'}."
)
