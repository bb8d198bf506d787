"""
Where does the evidence come from?
==================================

A detector can be right for the wrong reason: the light of one camera, the border of one tool.
:class:`~sklearn_dfd.inspection.GradCAMDisplay` shows where in a photograph its evidence lies. In
photographs that are edited on the spot it is known where that should be: here the maps are held
against what was pasted in.
"""

import argparse
from pathlib import Path
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import wilcoxon
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupShuffleSplit

from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.exceptions import WeightsError
from sklearn_dfd.inspection import GradCAMDisplay
from sklearn_dfd.weights import load_weights

parser = argparse.ArgumentParser(description="See where a detector's evidence lies.")
parser.add_argument(
    "--weights",
    default="imagenet",
    metavar="imagenet|random|FILE",
    help="what the network starts from: ImageNet weights (downloaded once; the default), random "
    "ones, or a file with a state dict of torchvision's mobilenet_v2",
)
parser.add_argument("--output", type=Path, default=Path("output"), help="folder to write to")
parser.add_argument("--n-samples", type=int, default=240, help="photographs made (default: 240)")
parser.add_argument("--epochs", type=int, default=6, help="epochs of the fit (default: 6)")
args = parser.parse_args()
args.output.mkdir(parents=True, exist_ok=True)
start = perf_counter()


def say(text):
    """Print a line of progress, with the seconds since the start."""
    print(f"[{perf_counter() - start:3.0f} s] {text}", flush=True)


weights = None if args.weights == "random" else args.weights
try:
    load_weights(weights)
except WeightsError as error:
    parser.error(f"{error} (--weights random does without)")

# %%
# A detector, and photographs of places that it has never seen. Random weights see more when they
# are trained from an early block.

photos = make_spliced_photos(args.n_samples, random_state=0)
X, y = photos.data, photos.target
split = GroupShuffleSplit(1, test_size=0.3, random_state=0)
train, test = next(split.split(X, y, photos.groups))
detector = make_deepfake_pipeline(
    weights=weights,
    layer=6 if weights is None else 15,
    image_size=96 if weights is None else 224,
    lr=1e-3 if weights is None else 3e-4,
    l1_factor=1e-6,
    batch_size=16,
    max_epochs=args.epochs,
    random_state=0,
).fit(X[train], y[train])
auc = roc_auc_score(y[test], detector.predict_proba(X[test])[:, 1])
say(f"trained on {len(train)} photographs; ROC AUC {auc:.3f} on {len(test)} others")

# %%
# The maps of those of the others that are spliced, and how much evidence lies on a pixel of what
# was pasted in, and on one of the rest.

spliced = test[y[test] == 1]
display = GradCAMDisplay.from_estimator(detector, X[spliced])
plt.close(display.figure_)  # of all of them; eight are enough to look at
few = GradCAMDisplay(
    display.photos[:8],
    display.maps[:8],
    probability=display.probability[:8],
    class_of_interest=display.class_of_interest,
).plot()
for ax, mask in zip(few.axes_, photos.masks[spliced], strict=False):
    ax.contour(mask, levels=[0.5], colors="white", linewidths=1)
few.figure_.savefig(args.output / "gradcam.png", dpi=120)

inside, outside = display.evidence_in(photos.masks[spliced])
p = wilcoxon(inside, outside, alternative="greater").pvalue
more = np.mean(inside > outside)
print(f"\n{'':28s} mean evidence\n{'what was pasted in':28s} {inside.mean():13.4f}")
print(f"{'the rest':28s} {outside.mean():13.4f}\n{'more in what was pasted in':28s} {more:13.0%}")

# %%
# The rank test of Wilcoxon asks whether that could be chance.

found = "looks at the edit" if p < 0.01 else "cannot be said to look at the edit"
print(
    f"\nIn {more:.0%} of {len(spliced)} spliced photographs from places it has never seen, the "
    f"evidence is denser in what was pasted in than around it: this detector {found} "
    f"(p = {p:.1g}). The maps are in {args.output / 'gradcam.png'}, with the edit in white."
)
