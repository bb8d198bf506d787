"""
What is left of the score with photographs of another kind?
===========================================================

Groups keep copies of a photograph on one side of a split. They do not keep
apart what was taken by one camera, edited by one program or made by one
generator: cross-validation by group shows how a detector does on more of the
same. What breaks in use is everything else. So leave out one *domain* at a
time, a camera, a generator or a data set, and report its score separately.

Here, on toy data, there are two data sets of different places: in one of them
pieces were copied within an image, in the other they come from another one.
With photographs of your own, the domain is an array like ``groups``, one name
per image.
"""

import os

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import (
    LeaveOneGroupOut,
    StratifiedGroupKFold,
    cross_val_predict,
)

from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.metrics import bootstrap_interval

# "imagenet" (downloaded once), "random", or a file with a state dict of
# torchvision's mobilenet_v2
WEIGHTS = os.environ.get("DFD_WEIGHTS", "imagenet")
N_SAMPLES = int(os.environ.get("DFD_N_SAMPLES", 1600))

photos = make_spliced_photos(N_SAMPLES, random_state=0)
domain = np.where(photos.groups % 2, "splice", "copy-move")
used = (photos.kinds == "") | (photos.kinds == domain)
X, y = photos.data[used], photos.target[used]
groups, domain = photos.groups[used], domain[used]
detector = make_deepfake_pipeline(
    preset="fast",
    image_size=96,
    weights=None if WEIGHTS == "random" else WEIGHTS,
)

# %%
# More of the same: two folds by group, with both domains on both sides.

p_seen = cross_val_predict(
    detector,
    X,
    y,
    groups=groups,
    cv=StratifiedGroupKFold(2),
    method="predict_proba",
)[:, 1]

# %%
# Something else: each domain is left out once, so the split is by ``domain``.
# With two domains this trains on half of the images, as above. Groups must not
# reach into two domains; if yours do, take their rows out of the training
# side: ``train[~np.isin(groups[train], groups[test])]``.

for train, test in LeaveOneGroupOut().split(X, y, domain):
    assert not np.isin(groups[train], groups[test]).any()
p_left_out = cross_val_predict(
    detector,
    X,
    y,
    groups=domain,
    cv=LeaveOneGroupOut(),
    method="predict_proba",
)[:, 1]

# %%
# Both detectors judge the same images, domain by domain. One domain may be
# harder than another, so it is the difference that counts; with few groups it
# is uncertain.

print(f"{'domain':<12}images  groups  ROC AUC by group       ROC AUC left out")
lost = {}
for name in np.unique(domain):
    rows = domain == name
    shown = []
    for p in (p_seen, p_left_out):
        low, high = bootstrap_interval(
            roc_auc_score,
            y[rows],
            p[rows],
            groups=groups[rows],
            random_state=0,
        )
        shown.append((roc_auc_score(y[rows], p[rows]), low, high))
    lost[str(name)] = shown[0][0] - shown[1][0]
    print(
        f"{name:<12}{rows.sum():6d}{len(np.unique(groups[rows])):8d}"
        + "".join("  {:.3f} ({:.3f} to {:.3f})".format(*one) for one in shown)
    )

# %%

print(
    "\nFrom split by group to left out, the ROC AUC changes by "
    + " and by ".join(
        f"{-change:+.3f} for {name!r}" for name, change in lost.items()
    )
    + "."
)
