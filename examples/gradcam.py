"""
Where does the evidence come from?
==================================

A detector can be right for the wrong reason: the light of one camera, the
border that one tool leaves. :class:`~sklearn_dfd.inspection.GradCAMDisplay`
shows where in an image its evidence lies. For the toy images below it is known
where the edit is, so the maps can be compared with the truth.
"""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import wilcoxon
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupShuffleSplit

from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.inspection import GradCAMDisplay

# "imagenet" (downloaded once), "random", or a file with a state dict of
# torchvision's mobilenet_v2
WEIGHTS = os.environ.get("DFD_WEIGHTS", "imagenet")
N_SAMPLES = int(os.environ.get("DFD_N_SAMPLES", 240))
N_EPOCHS = int(os.environ.get("DFD_EPOCHS", 6))
OUTPUT = Path(os.environ.get("DFD_OUTPUT", "output"))
OUTPUT.mkdir(parents=True, exist_ok=True)

if WEIGHTS == "random":  # random weights learn more if more blocks are trained
    settings = {"weights": None, "layer": 6, "image_size": 96, "lr": 1e-3}
else:
    settings = {"weights": WEIGHTS, "layer": 15, "image_size": 224, "lr": 3e-4}

# %%
# A detector, and images of places that it has never seen.

photos = make_spliced_photos(N_SAMPLES, random_state=0)
X, y = photos.data, photos.target
split = GroupShuffleSplit(1, test_size=0.3, random_state=0)
train, test = next(split.split(X, y, photos.groups))
detector = make_deepfake_pipeline(
    l1_factor=1e-6,
    batch_size=16,
    max_epochs=N_EPOCHS,
    random_state=0,
    **settings,
).fit(X[train], y[train])
auc = roc_auc_score(y[test], detector.predict_proba(X[test])[:, 1])
print(
    f"trained on {len(train)} images; ROC AUC {auc:.3f} on {len(test)} others"
)

# %%
# Eight of the spliced test images. A white line surrounds what was pasted in.

spliced = test[y[test] == 1]
some = spliced[:8]
display = GradCAMDisplay.from_estimator(detector, X[some], y[some])
for ax, mask in zip(display.axes_, photos.masks[spliced], strict=False):
    ax.contour(mask, levels=[0.5], colors="white", linewidths=1)
display.figure_.savefig(OUTPUT / "gradcam.png", dpi=120)

# %%
# All spliced test images: how much evidence there is per pixel of what was
# pasted in, and per pixel of the rest.

every = GradCAMDisplay.from_estimator(detector, X[spliced])
plt.close(every.figure_)
inside, outside = every.evidence_in(photos.masks[spliced])
p_value = wilcoxon(inside, outside, alternative="greater").pvalue
share = np.mean(inside > outside)
print(
    f"\n{'':20s} mean evidence\n{'what was pasted in':20s} "
    f"{inside.mean():13.4f}"
)
print(f"{'the rest':20s} {outside.mean():13.4f}")

# %%
# Wilcoxon's signed-rank test shows whether that could be chance.

print(
    f"\nIn {share:.0%} of {len(spliced)} spliced toy images of places it has "
    f"never seen, this detector finds more evidence per pixel in what was "
    f"pasted in than in the rest; that is "
    f"{'unlikely to be' if p_value < 0.01 else 'compatible with'} chance (p = "
    f"{p_value:.1g})."
)
