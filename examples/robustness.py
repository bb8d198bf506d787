"""
How far can a detector be trusted?
==================================

A score is a number with an interval around it, it is an average over edits that are easy and hard
to see, and it is that of images as they are in the folder. Here a detector is examined as somebody
would who has to rely on it: what is its score worth, which edits does it miss, and what is left of
it when images are saved again, scaled down or blurred on their way?

No data set is needed. With ``--data`` the same is done with the Real and Fake Face Detection set.
"""

import argparse
from pathlib import Path
from time import perf_counter

import numpy as np
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from sklearn_dfd import detect, make_deepfake_pipeline
from sklearn_dfd.datasets import load_real_and_fake_faces, make_spliced_photos
from sklearn_dfd.exceptions import WeightsError
from sklearn_dfd.metrics import bootstrap_interval, equal_error_rate, tpr_at_fpr
from sklearn_dfd.model_selection import find_source_groups
from sklearn_dfd.robustness import RobustnessDisplay, evaluate_robustness
from sklearn_dfd.weights import load_weights

parser = argparse.ArgumentParser(description="Examine a detector of edited photos.")
parser.add_argument(
    "--weights",
    default="imagenet",
    metavar="imagenet|random|FILE",
    help="what the network starts from: ImageNet weights (downloaded once; the default), random "
    "ones, or a file with a state dict of torchvision's mobilenet_v2",
)
parser.add_argument("--data", type=Path, help="folder with training_real and training_fake")
parser.add_argument("--output", type=Path, default=Path("output"), help="folder to write to")
parser.add_argument("--n-samples", type=int, default=240, help="photographs made, without --data")
parser.add_argument("--epochs", type=int, default=5, help="epochs of each fit (default: 5)")
parser.add_argument("--n-resamples", type=int, default=500, help="for each interval (default: 500)")
args = parser.parse_args()
args.output.mkdir(parents=True, exist_ok=True)
start = perf_counter()


def say(text):
    """Print a line of progress, with the seconds since the start."""
    print(f"\n[{perf_counter() - start:3.0f} s] {text}", flush=True)


weights = None if args.weights == "random" else args.weights
try:
    load_weights(weights)
except WeightsError as error:
    parser.error(f"{error} (--weights random does without)")

# %%
# Photographs, and kinds of edits
# -------------------------------
# ``kinds`` says of each edited photograph in which ways it is edited. The photographs made here
# differ by the size of the piece pasted in. The names of the real set tell how well people
# recognise the fake, and which parts of the face were replaced.

if args.data is None:
    photos = make_spliced_photos(args.n_samples, random_state=0)
    area = photos.masks.mean(axis=(1, 2))
    large = area > np.median(area[photos.target == 1])
    kinds = {"small piece": ~large, "large piece": large}
else:
    photos = load_real_and_fake_faces(args.data)
    photos.groups = find_source_groups(photos.data, n_jobs=2)  # a fake with its photograph
    kinds = {level: photos.difficulty == level for level in ("easy", "mid", "hard")}
    for name, replaced in zip(photos.part_names, photos.replaced_parts.T, strict=True):
        kinds[name] = replaced
X, y, groups = photos.data, photos.target, photos.groups
detector = make_deepfake_pipeline(
    weights=weights,
    layer=6 if weights is None else 15,
    image_size=96 if weights is None else 224,
    lr=1e-3 if weights is None else 3e-4,
    l1_factor=1e-6,
    batch_size=16,
    max_epochs=args.epochs,
    random_state=0,
)

# %%
# Scores with intervals
# ---------------------
# Each photograph is judged by a detector that has not seen its group. The intervals resample whole
# groups: photographs of one group are right or wrong together.

folds = StratifiedGroupKFold(3, shuffle=True, random_state=0)
probability = cross_val_predict(detector, X, y, groups=groups, cv=folds, method="predict_proba")
probability = probability[:, 1]
resampling = {"n_resamples": args.n_resamples, "random_state": 0}


def interval(metric, score, rows=slice(None)):
    """Give a score and its interval, as text."""
    low, high = bootstrap_interval(metric, y[rows], score[rows], groups=groups[rows], **resampling)
    return f"{metric(y[rows], score[rows]):.3f}   {low:.3f} to {high:.3f}"


say(f"{len(y)} photographs in {len(set(groups))} groups, judged in 3 folds\n")
print("                          score   95 % interval")
print(f"accuracy                  {interval(accuracy_score, probability > 0.5)}")
print(f"ROC AUC                   {interval(roc_auc_score, probability)}")
print(f"equal error rate          {interval(equal_error_rate, probability)}")
print(f"found at 1 % false alarms {interval(tpr_at_fpr, probability)}")

# %%
# Which edits are missed?
# -----------------------
# Edits of one kind against all photographs that are not edited. That takes a mask and no helper:
# other breakdowns, such as by camera or by source, go in the same way.

say("by kind of edit:\n")
print("             photographs   found   ROC AUC   95 % interval")
for name, edited_so in kinds.items():
    edited_so = edited_so & (y == 1)
    found = np.mean(probability[edited_so] > 0.5)
    auc = interval(roc_auc_score, probability, edited_so | (y == 0))
    print(f"{name:12s} {np.sum(edited_so):11d}   {found:5.2f}     {auc}")

# %%
# What is left after a journey?
# -----------------------------
# Trained on two thirds of the groups, tested on the last one as it is and distorted. A fall of the
# accuracy alone, where the ROC AUC stays, is a threshold that no longer fits; a fall of both is
# lost evidence.

train, test = next(folds.split(X, y, groups))
labels = photos.target_names[y]
detector.fit(X[train], labels[train])
results = evaluate_robustness(detector, X[test], labels[test], groups=groups[test], **resampling)
say(f"{len(test)} photographs as they are, and distorted:\n")
print(results.to_string(index=False, float_format="{:.3g}".format, na_rep=""))
display = RobustnessDisplay(results).plot()
display.figure_.savefig(args.output / "robustness.png", dpi=120)

# %%
# A table for whoever asked
# -------------------------
# An image that cannot be used has a row like all others, which says what is wrong with it.

images = [*X[test[:4]], args.output / "not-there.jpg"]
table = detect(detector, images, pos_label=photos.target_names[1])
say("judged one by one:\n")
print(table[["path", "probability", "verdict"]].to_string(index=False))
print(f"\nThe curves are in {args.output / 'robustness.png'}.")
