"""
How far can a detector be trusted?
==================================

A score has an interval around it, is an average over edits that are easy and
hard to see, and holds for images as they are in the folder. This example asks
what anyone who relies on a detector should ask: how certain is its score,
which edits does it miss, and what is left of the score when images are saved
again, scaled down or blurred on their way?

No data set is needed: the images are a toy. If the environment variable
``DFD_DATA`` names the folder of the Real and Fake Face Detection set, that set
is used instead.
"""

import os
from pathlib import Path

import numpy as np
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from sklearn_dfd import detect, make_deepfake_pipeline
from sklearn_dfd.datasets import load_real_and_fake_faces, make_spliced_photos
from sklearn_dfd.metrics import (
    bootstrap_interval,
    equal_error_rate,
    tpr_at_fpr,
)
from sklearn_dfd.model_selection import find_source_groups
from sklearn_dfd.robustness import RobustnessDisplay, evaluate_robustness

# "imagenet" (downloaded once), "random", or a file with a state dict of
# torchvision's mobilenet_v2
WEIGHTS = os.environ.get("DFD_WEIGHTS", "imagenet")
DATA = os.environ.get(
    "DFD_DATA"
)  # folder with training_real and training_fake
N_SAMPLES = int(os.environ.get("DFD_N_SAMPLES", 240))
N_EPOCHS = int(os.environ.get("DFD_EPOCHS", 5))
N_RESAMPLES = int(os.environ.get("DFD_RESAMPLES", 500))  # of the bootstrap
OUTPUT = Path(os.environ.get("DFD_OUTPUT", "output"))
OUTPUT.mkdir(parents=True, exist_ok=True)

if WEIGHTS == "random":  # random weights learn more if more blocks are trained
    settings = {"weights": None, "layer": 6, "image_size": 96, "lr": 1e-3}
else:
    settings = {"weights": WEIGHTS, "layer": 15, "image_size": 224, "lr": 3e-4}

# %%
# Images, and kinds of edits
# --------------------------
# ``kinds`` says which images are edited in which way. The toy images say how
# well a piece is fitted in and where it was taken. The names of the real set
# say how hard a fake is for people to recognise, and which parts of the face
# were replaced.

levels = ("easy", "mid", "hard")
if DATA:
    photos = load_real_and_fake_faces(DATA)
    photos.groups = find_source_groups(
        photos.data, n_jobs=2, verbose=1
    )  # a fake with its source
    kinds = dict(zip(photos.part_names, photos.replaced_parts.T, strict=True))
else:
    photos = make_spliced_photos(N_SAMPLES, random_state=0)
    kinds = {kind: photos.kinds == kind for kind in ("copy-move", "splice")}
kinds = {**{level: photos.difficulty == level for level in levels}, **kinds}
X, y, groups = photos.data, photos.target, photos.groups
detector = make_deepfake_pipeline(
    l1_factor=1e-6,
    batch_size=16,
    max_epochs=N_EPOCHS,
    random_state=0,
    **settings,
)

# %%
# Scores with intervals
# ---------------------
# Each image is judged by a detector that has not seen its group. The bootstrap
# draws whole groups, since images of one group tend to be right or wrong
# together.

folds = StratifiedGroupKFold(3, shuffle=True, random_state=0)
probability = cross_val_predict(
    detector, X, y, groups=groups, cv=folds, method="predict_proba", verbose=1
)[:, 1]
resampling = {"n_resamples": N_RESAMPLES, "random_state": 0}


def interval(metric, score, rows=slice(None)):
    """Return a score and its interval, as text."""
    low, high = bootstrap_interval(
        metric, y[rows], score[rows], groups=groups[rows], **resampling
    )
    return f"{metric(y[rows], score[rows]):.3f}   {low:.3f} to {high:.3f}"


print(f"\n{len(y)} images in {len(set(groups))} groups, judged in 3 folds")
print("                            score   95 % interval")
print(
    f"accuracy                    "
    f"{interval(accuracy_score, probability > 0.5)}"
)
print(f"ROC AUC                     {interval(roc_auc_score, probability)}")
print(f"equal error rate            {interval(equal_error_rate, probability)}")
print(f"found at 1 % false alarms   {interval(tpr_at_fpr, probability)}")

# %%
# Which edits are missed?
# -----------------------
# Edits of one kind are compared with all images that are not edited. All it
# takes is a mask, so that you can break a score down by camera or by source in
# the same way.

print("kind of edit   images   found   ROC AUC   95 % interval")
for name, edited_so in kinds.items():
    edited_so = edited_so & (y == 1)
    found = np.mean(probability[edited_so] > 0.5)
    auc = interval(roc_auc_score, probability, edited_so | (y == 0))
    print(f"{name:12s} {np.sum(edited_so):8d}   {found:5.2f}     {auc}")

# %%
# What is left after images have travelled?
# -----------------------------------------
# The detector is trained on two thirds of the groups and tested on the others,
# as they are and distorted. Where the accuracy falls and the ROC AUC does not,
# the threshold no longer fits; where both fall, evidence is lost.

train, test = next(folds.split(X, y, groups))
detector.fit(X[train], y[train])
results = evaluate_robustness(
    detector, X[test], y[test], groups=groups[test], verbose=1, **resampling
)
print(f"{len(test)} images as they are, and distorted:\n")
print(results.to_string(index=False, float_format="{:.3g}".format, na_rep=""))
display = RobustnessDisplay(results).plot()
display.figure_.savefig(OUTPUT / "robustness.png", dpi=120)

# %%
# A results table
# ---------------
# One row per image. One that cannot be used has a row too, which says what is
# wrong with it.

images = [*X[test[:4]], "not-there.jpg"]
table = detect(detector, images)
print(table.drop(columns="error").to_string(index=False))
print(table.attrs["note"])

# %%

worst = results.loc[results["roc_auc"].idxmin()]
print(
    f"\nOn {len(test)} {'photographs' if DATA else 'toy images'} of groups "
    f"that were not trained on, the ROC AUC is "
    f"{results['roc_auc'].iloc[0]:.2f} as they are, and "
    f"{worst['roc_auc']:.2f} after the distortion that costs most "
    f"({worst['distortion']})."
)
