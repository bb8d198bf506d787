"""
From photographs to a tested, saved detector
============================================

Half of the photographs below have a piece of themselves pasted in somewhere else. We train a
detector of such edits, and in a way that its score can be trusted: it is tested on photographs of
places that it has never seen. No data set is needed; for one of your own, replace
``make_spliced_photos`` by :func:`sklearn_dfd.datasets.load_image_folder`.
"""

import argparse
import sys
from pathlib import Path
from time import perf_counter

import joblib
import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold, GroupShuffleSplit, cross_validate

from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.exceptions import WeightsError
from sklearn_dfd.inspection import TrainingHistoryDisplay
from sklearn_dfd.weights import load_weights

parser = argparse.ArgumentParser(description="Train, test and save a detector of edited photos.")
parser.add_argument(
    "--weights",
    default="imagenet",
    metavar="imagenet|random|FILE",
    help="what the network starts from: ImageNet weights (downloaded once; the default), random "
    "ones, or a file with a state dict of torchvision's mobilenet_v2",
)
parser.add_argument("--output", type=Path, default=Path("output"), help="folder to write to")
parser.add_argument("--n-samples", type=int, default=400, help="photographs (default: 400)")
args = parser.parse_args()
args.output.mkdir(parents=True, exist_ok=True)
start = perf_counter()


def say(text):
    """Print a line of progress, with the seconds since the start."""
    print(f"[{perf_counter() - start:3.0f} s] {text}", flush=True)


# %%
# Weights
# -------
# With ImageNet weights the network knows photographs already. They are downloaded once. Where
# that fails, random ones do, for a detector that is right less often: little of the network then
# stays frozen, and it learns from twice as many photographs, in a smaller size to save time.

weights = None if args.weights == "random" else args.weights
try:
    load_weights(weights)
except WeightsError as error:
    if weights != "imagenet":
        parser.error(str(error))
    frame = "!" * 80
    heading = "NO IMAGENET WEIGHTS: going on with random ones, which detect far less.\n"
    print(frame, heading, error, frame, sep="\n", file=sys.stderr, flush=True)
    weights = None

# %%
# Photographs, and what belongs together
# --------------------------------------
# All photographs of one place are a group. A quarter of the places is put aside until the end.

photos = make_spliced_photos(args.n_samples, random_state=0)
splitter = GroupShuffleSplit(n_splits=1, test_size=0.25, random_state=0)
train, test = next(splitter.split(photos.data, groups=photos.groups))
X, y, groups = photos.data[train], photos.target[train], photos.groups[train]
say(f"{len(train)} photographs of {len(set(groups))} places to learn from, {len(test)} to test on")

# %%
# Cross-validation by group
# -------------------------
# The groups are passed twice: to ``GroupKFold``, which cuts the folds, and to the classifier,
# which sets a fifth of its training rows aside to see when to stop. The first fold computes the
# features of the photographs; all else finds them again. From random weights the loss on so few
# photographs says little in the first epochs: all are trained.

if weights is None:
    settings = {"layer": 6, "image_size": 96, "max_epochs": 8}
    rates = [1e-3]
else:
    settings = {"layer": 15, "image_size": 224, "max_epochs": 5, "early_stopping": True}
    rates = [3e-5, 1e-4]
detector = make_deepfake_pipeline(
    weights=weights,
    l1_factor=1e-6,
    batch_size=16,
    lr=rates[-1],
    validation_fraction=0.2,
    n_iter_no_change=3,
    random_state=0,
    **settings,
)
options = {"cv": GroupKFold(3), "scoring": ["accuracy", "roc_auc"], "return_estimator": True}
params = {"classifier__groups": groups}
results = cross_validate(detector, X, y, groups=groups, params=params, **options)
for i in range(3):
    accuracy, auc = results["test_accuracy"][i], results["test_roc_auc"][i]
    say(f"fold {i + 1}:  accuracy {accuracy:.2f}   ROC AUC {auc:.2f}")

display = TrainingHistoryDisplay.from_cv_results(results)
display.figure_.savefig(args.output / "learning_curves.png", dpi=120)

# %%
# The best settings
# -----------------
# Any parameter can be searched. The best candidate is trained once more, on all but the test.

grid = {"classifier__lr": rates, "classifier__l1_factor": [0, 1e-5]}
search = GridSearchCV(detector, grid, scoring="roc_auc", cv=GroupKFold(2))
search.fit(X, y, groups=groups, classifier__groups=groups)
say("grid search, by ROC AUC:\n")
print("        lr   l1_factor   ROC AUC")
for candidate, auc in zip(
    search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
):
    best = "  <- best" if candidate == search.best_params_ else ""
    print("    {classifier__lr:.0e}   {classifier__l1_factor:9g}".format(**candidate), end="   ")
    print(f"{auc:7.3f}{best}")
print()

# %%
# One test, on places never seen
# ------------------------------
# The test has been used for nothing so far. That is why its figure counts.

probability = search.predict_proba(photos.data[test])[:, 1]
truth = photos.target[test]
accuracy = accuracy_score(truth, probability > 0.5)
say(f"test:    accuracy {accuracy:.2f}   ROC AUC {roc_auc_score(truth, probability):.2f}")

# %%
# What is the detector sure of, and what does it hesitate about? A yellow line surrounds what was
# really pasted in.

order = np.argsort(np.abs(probability - 0.5))
figure, axes = plt.subplots(2, 5, figsize=(10, 5), layout="constrained")
for ax, i in zip(axes.flat, [*order[::-1][:5], *order[:5]], strict=True):
    ax.imshow(photos.data[test[i]])
    if truth[i]:
        ax.contour(photos.masks[test[i]], levels=[0.5], colors="yellow", linewidths=1.5)
    ax.set(xticks=[], yticks=[])
    called, sure = probability[i] > 0.5, max(probability[i], 1 - probability[i])
    color = "green" if called == truth[i] else "red"
    ax.set_title(f"{photos.target_names[int(called)]}, {sure:.0%} sure", color=color)
    ax.set_xlabel(f"really {photos.target_names[truth[i]]}")
axes[0, 0].set_ylabel("most certain", fontsize="large")
axes[1, 0].set_ylabel("least certain", fontsize="large")
figure.savefig(args.output / "most_and_least_certain.png", dpi=120)

# %%
# Save, load, predict
# -------------------
# The file holds all the weights, so it works on a machine without any of the above.

path = args.output / "detector.joblib"
joblib.dump(search.best_estimator_, path)
reloaded = joblib.load(path)
if not np.array_equal(reloaded.predict_proba(photos.data[test])[:, 1], probability):
    raise SystemExit(f"{path} does not predict what was saved.")
say("saved, loaded again: the same probabilities")

guessing = max(np.mean(truth == 0), np.mean(truth == 1))
print(
    f"\nOn {len(test)} photographs from places it has never seen, the detector is right "
    f"{100 * accuracy:.0f} times of 100 (guessing would be {100 * guessing:.0f}). Saved as {path}."
)
