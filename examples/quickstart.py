"""
From photographs to a tested, saved detector
============================================

Half of the images below have a piece pasted in. We train a detector of such
edits and measure it in a way that can be trusted: on images of places that it
has never seen.

The images are a toy: tiles of a few sample photographs. With your own
photographs, use :func:`sklearn_dfd.datasets.load_image_folder` in place of
``make_spliced_photos``; everything else stays the same.
"""

import os
from pathlib import Path
from time import perf_counter

import joblib
import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    cross_val_score,
    cross_validate,
)

from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.exceptions import WeightsError
from sklearn_dfd.inspection import TrainingHistoryDisplay
from sklearn_dfd.weights import load_weights

# "imagenet" (downloaded once), "random", or a file with a state dict of
# torchvision's mobilenet_v2
WEIGHTS = os.environ.get("DFD_WEIGHTS", "imagenet")
N_SAMPLES = int(os.environ.get("DFD_N_SAMPLES", 400))
OUTPUT = Path(os.environ.get("DFD_OUTPUT", "output"))
OUTPUT.mkdir(parents=True, exist_ok=True)

# %%
# Weights
# -------
# With ImageNet weights the network has already learned to see. Where they
# cannot be downloaded, this example continues with random weights, to show the
# steps: from so few images they learn next to nothing, even though fewer
# blocks are kept frozen. Smaller images then save time.

try:
    weights = None if WEIGHTS == "random" else WEIGHTS
    load_weights(weights)
except WeightsError as error:
    if WEIGHTS != "imagenet":
        raise
    print(
        f"NO IMAGENET WEIGHTS, continuing with random ones, which learn next "
        f"to nothing from so few images: {error}\n"
    )
    weights = None

if weights is None:
    settings = {"layer": 6, "image_size": 96, "max_epochs": 8}
    learning_rates = [5e-4, 1e-3]
else:
    settings = {"layer": 15, "image_size": 224, "max_epochs": 6}
    learning_rates = [1e-4, 3e-4]
detector = make_deepfake_pipeline(
    weights=weights,
    lr=learning_rates[-1],
    l1_factor=1e-6,
    batch_size=16,
    random_state=0,
    **settings,
)

# %%
# Images, and what belongs together
# ---------------------------------
# All images of one place are in one group, and so is the other place whose
# pieces are pasted into them. The test set consists of the groups of a few
# places that are easy to recognise, so that the picture below can be judged by
# eye. It is not touched until the end.

photos = make_spliced_photos(N_SAMPLES, random_state=0)
FAMILIAR = [
    "astronaut/face",
    "grace_hopper/face",
    "cat/face",
    "coffee/cup",
    "china/storeys",
]
test = np.isin(photos.groups, photos.groups[np.isin(photos.places, FAMILIAR)])
X, y, groups = photos.data[~test], photos.target[~test], photos.groups[~test]
X_test, y_test = photos.data[test], photos.target[test]
print(
    f"{len(X)} images in {len(set(groups))} groups to learn from, "
    f"{len(X_test)} to test on"
)

# %%
# A first answer in seconds
# -------------------------
# The fast preset trains no part of the network, so it soon shows whether there
# is anything to learn. ``GroupKFold`` keeps each group on one side of every
# split.

start = perf_counter()
fast = make_deepfake_pipeline(
    preset="fast", weights=weights, image_size=settings["image_size"]
)
scores = cross_val_score(
    fast, X, y, groups=groups, cv=GroupKFold(3), scoring="roc_auc"
)
print(
    f"fast preset: ROC AUC {scores.mean():.2f} in three folds by group, after "
    f"{perf_counter() - start:.0f} seconds\n"
)

# %%
# Cross-validation by group
# -------------------------
# Now the detector itself, whose last blocks are trained. The features of an
# image are computed in the first fold and found again in all others.

results = cross_validate(
    detector,
    X,
    y,
    groups=groups,
    cv=GroupKFold(3),
    scoring=["accuracy", "roc_auc"],
    return_estimator=True,
    verbose=3,
)
print("\nfold   accuracy   ROC AUC")
for fold in range(3):
    accuracy, auc = (
        results["test_accuracy"][fold],
        results["test_roc_auc"][fold],
    )
    print(f"{fold + 1:4d}   {accuracy:8.2f}   {auc:7.2f}")

display = TrainingHistoryDisplay.from_cv_results(results)
display.figure_.savefig(OUTPUT / "learning_curves.png", dpi=120)

# %%
# The best settings
# -----------------
# Any parameter of either step can be searched. The best candidate is trained
# once more, on all images but those of the test.

grid = {"classifier__lr": learning_rates, "classifier__l1_factor": [0, 1e-5]}
search = GridSearchCV(
    detector, grid, scoring="roc_auc", cv=GroupKFold(2), verbose=3
)
search.fit(X, y, groups=groups)
print("\n    lr   l1_factor   ROC AUC")
for candidate, auc in zip(
    search.cv_results_["params"],
    search.cv_results_["mean_test_score"],
    strict=True,
):
    best = "  <- best" if candidate == search.best_params_ else ""
    print(
        "{classifier__lr:.0e}   {classifier__l1_factor:9g}".format(
            **candidate
        ),
        end="   ",
    )
    print(f"{auc:7.3f}{best}")

# %%
# One test, on places never seen
# ------------------------------
# The test images have been used for nothing so far. That is why this figure
# counts.

probability = search.predict_proba(X_test)[:, 1]
called = (probability > 0.5).astype(int)
accuracy, auc = (
    accuracy_score(y_test, called),
    roc_auc_score(y_test, probability),
)
print(f"\ntest: accuracy {accuracy:.2f}, ROC AUC {auc:.2f}")

# %%
# Correct and wrong calls
# -----------------------
# One image of each familiar place that was called correctly, and one that was
# called wrongly, as they come in the test set. A dashed line surrounds what
# was pasted in.

places = photos.places[test]
calls = {"correct": called == y_test, "wrong": called != y_test}
figure, axes = plt.subplots(2, 5, figsize=(11, 5.6), layout="constrained")
for row, (name, chosen) in zip(axes, calls.items(), strict=True):
    row[0].set_ylabel(f"{name} calls", fontsize="x-large")
    rows = [
        np.flatnonzero(chosen & (places == place))[:1] for place in FAMILIAR
    ]
    others = np.setdiff1d(np.flatnonzero(chosen), np.concatenate(rows))
    rows = np.concatenate([*rows, others])[:5]
    for ax in row:
        ax.set(xticks=[], yticks=[])
    for ax in row[len(rows) :]:
        ax.spines[:].set_visible(False)
    for ax, i in zip(row, rows, strict=False):
        ax.imshow(X_test[i])
        mask = photos.masks[test][i]
        if mask.any():
            ax.contour(mask, levels=[0.5], colors="white", linewidths=2.5)
            ax.contour(
                mask,
                levels=[0.5],
                colors="black",
                linewidths=1.5,
                linestyles="--",
            )
        ax.set_title(
            f"{'✓' if name == 'correct' else '✗'} called "
            f"{photos.target_names[called[i]]}"
        )
        ax.set_xlabel(
            f"is {photos.target_names[y_test[i]]};  P(spliced) = "
            f"{probability[i]:.2f}"
        )
        ax.spines[:].set(
            color="tab:blue" if name == "correct" else "tab:orange",
            linewidth=3,
        )
figure.suptitle(
    f"Toy data: tiles of sample photographs. {np.sum(calls['correct'])} of "
    f"{len(y_test)} test images are called correctly."
)
figure.savefig(OUTPUT / "verdicts.png", dpi=120)

# %%
# Save, load, predict
# -------------------
# The file holds all the weights, so it works on a machine without any of the
# above.

path = OUTPUT / "detector.joblib"
joblib.dump(search.best_estimator_, path)
reloaded = joblib.load(path)
print(
    "same predictions:",
    np.array_equal(reloaded.predict_proba(X_test)[:, 1], probability),
)

# %%

guessing = max(np.mean(y_test == 0), np.mean(y_test == 1))
print(
    f"\nOf {len(y_test)} toy images of places it has never seen, the detector "
    f"calls {accuracy:.0%} correctly; giving all of them the more frequent "
    f"label would be right for {guessing:.0%}. This says nothing about "
    f"deepfakes. Saved as {path}."
)
