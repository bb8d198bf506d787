"""
From photographs to a tested, saved detector
============================================

Half of the photographs below have a piece of themselves pasted in somewhere else. We train a
detector of such edits, in the way that its score can be trusted: no photograph that it is tested
on shows a place that it was trained on. In two minutes, on a laptop, without a data set of your
own: replace the first block by ``sklearn_dfd.datasets.load_image_folder("faces")`` to use one.
"""

import argparse
import sys
import textwrap
from pathlib import Path
from time import perf_counter

import joblib
import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold, GroupShuffleSplit, cross_validate

from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.inspection import TrainingHistoryDisplay
from sklearn_dfd.weights import WeightsError, load_weights

parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
parser.add_argument(
    "--weights",
    default="imagenet",
    help='what the network starts from: "imagenet" (downloaded once), "random", or a file with a '
    "state dict of mobilenet_v2 (default: imagenet)",
)
parser.add_argument("--output", type=Path, default=Path("output"), help="folder (default: output)")
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
# The network knows natural photographs from ImageNet. Without a network connection, and without
# a copy of these weights, it can start from random ones and learn from scratch, which it does
# less well.

weights = None if args.weights == "random" else args.weights
try:
    load_weights(weights)
except WeightsError as error:
    if weights != "imagenet":
        parser.error(str(error))
    lines = ["GOING ON WITH RANDOM WEIGHTS, since", *str(error).splitlines()]
    print("#" * 100, *textwrap.wrap("x"), sep="\n", file=sys.stderr)
    weights = None

# %%
# Photographs, and what belongs together
# --------------------------------------
# Photographs of one place are a group. A quarter of the places is put aside until the very end.

photos = make_spliced_photos(args.n_samples, random_state=0)
train, test = next(
    GroupShuffleSplit(1, test_size=0.25, random_state=0).split(photos.data, groups=photos.groups)
)
X, y, groups = photos.data[train], photos.target[train], photos.groups[train]
say(f"{len(train)} photographs of {len(set(groups))} places to learn from, {len(test)} to test on")
