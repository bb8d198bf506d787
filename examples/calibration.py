"""
Is a detector right as often as it says?
========================================

A network that has seen its training images often enough is sure of everything:
it may rank images well, but its probabilities are too close to 0 and 1.
scikit-learn corrects them with a few images that are used neither for training
nor for the test. Here these images show other places, and three methods of
calibration are compared on toy data.
"""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.calibration import CalibratedClassifierCV, CalibrationDisplay
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.model_selection import train_test_group_split

# "imagenet" (downloaded once), "random", or a file with a state dict of
# torchvision's mobilenet_v2
WEIGHTS = os.environ.get("DFD_WEIGHTS", "imagenet")
N_SAMPLES = int(os.environ.get("DFD_N_SAMPLES", 600))
N_EPOCHS = int(os.environ.get("DFD_EPOCHS", 10))
OUTPUT = Path(os.environ.get("DFD_OUTPUT", "output"))
OUTPUT.mkdir(parents=True, exist_ok=True)

if WEIGHTS == "random":  # random weights learn more if more blocks are trained
    settings = {"weights": None, "layer": 6, "lr": 1e-3}
else:
    settings = {"weights": WEIGHTS, "layer": 15, "lr": 3e-4}

# %%
# A third of the groups to train on, a third to calibrate on, a third to test
# on. Reduced to 64 pixels, many edits are hard to see: a detector should be
# sure of little.

photos = make_spliced_photos(N_SAMPLES, random_state=0)
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
    image_size=64,
    l1_factor=1e-6,
    batch_size=16,
    max_epochs=N_EPOCHS,
    random_state=0,
    **settings,
).fit(X_train, y_train)
print(
    f"trained on {len(y_train)} images; {len(y_calib)} to calibrate on, "
    f"{len(y_test)} to test on"
)

# %%
# ``FrozenEstimator`` keeps the detector as it is. If you have too few images
# to leave some out of the training, ``CalibratedClassifierCV(pipe,
# cv=splits)`` trains one detector per fold instead.

detectors = {"as trained": detector}
for method in ("sigmoid", "isotonic", "temperature"):
    calibrated = CalibratedClassifierCV(
        FrozenEstimator(detector), method=method
    )
    detectors[method] = calibrated.fit(X_calib, y_calib)
probability = {
    name: one.predict_proba(X_test)[:, 1] for name, one in detectors.items()
}

confidence = {
    name: np.maximum(p, 1 - p).mean() for name, p in probability.items()
}
accuracy = {
    name: np.mean((p > 0.5) == y_test) for name, p in probability.items()
}
print(
    "\n              log loss   Brier score   ROC AUC   mean confidence   "
    "accuracy"
)
for name, p in probability.items():
    print(
        f"{name:12s}  {log_loss(y_test, p):8.3f}   "
        f"{brier_score_loss(y_test, p):11.3f}   "
        f"{roc_auc_score(y_test, p):7.3f}   {confidence[name]:15.3f}   "
        f"{accuracy[name]:8.3f}"
    )

# %%
# The reliability diagram: of all images that were given about the same
# probability, how many are spliced? Below it stands how many images each bin
# holds; a point from a handful of images says little.

figure, axes = plt.subplots(
    2,
    4,
    figsize=(11, 4.6),
    height_ratios=(3, 1),
    sharex=True,
    sharey="row",
    layout="constrained",
)
for (name, p), ax, counts in zip(probability.items(), *axes, strict=True):
    CalibrationDisplay.from_predictions(
        y_test, p, n_bins=5, ax=ax, name=name, marker="o"
    )
    ax.legend().remove()
    ax.set(title=name, xlabel=None, ylabel=None, aspect="auto")
    n_in_bin, edges, bars = counts.hist(
        p, bins=5, range=(0, 1), color="0.7", edgecolor="white"
    )
    counts.bar_label(bars, fontsize="small")
    counts.set(ylim=(0, 1.25 * len(p)), xlim=(-0.03, 1.03))
figure.supxlabel("Mean predicted probability")
axes[0, 0].set_ylabel("Fraction of positives")
axes[1, 0].set_ylabel("Images per bin")
figure.suptitle(
    f"Reliability on {len(y_test)} toy images (the dotted line is perfect "
    f"calibration)"
)
figure.savefig(OUTPUT / "reliability.png", dpi=120)

# %%

best = min(detectors, key=lambda name: log_loss(y_test, probability[name]))
print(
    f"\nAs trained, the detector's mean confidence is "
    f"{confidence['as trained']:.0%} and its accuracy "
    f"{accuracy['as trained']:.0%}. Of the four, {best} has the lowest log "
    f"loss on these {len(y_test)} toy images: mean confidence "
    f"{confidence[best]:.0%}, accuracy {accuracy[best]:.0%}."
)
