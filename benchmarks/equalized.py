"""What remains of a shortcut in the files once all images are encoded alike.

    python benchmarks/equalized.py --data DIR --weights FILE

DIR is the Real and Fake Face Detection set at full size. For the original files, and for several
ways to encode them alike, it prints the ROC AUC of

- the header rule of `check_shortcuts`, on the new files;
- a detector: logistic regression on frozen features of MobileNetV2;
- the same detector, tested without the fakes whose original file has another table than most files;
- the same features, trained to tell *which table the original file of a fake had*: what is left of
  the trace itself.

Five folds by the groups that `find_source_groups` finds, on one core; intervals resample groups.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_dfd import MobileNetV2Features
from sklearn_dfd._core.shortcuts.headers import read_header
from sklearn_dfd.augmentation import equalize_encoding
from sklearn_dfd.datasets import load_real_and_fake_faces
from sklearn_dfd.exceptions import ShortcutWarning
from sklearn_dfd.metrics import bootstrap_interval
from sklearn_dfd.model_selection import check_shortcuts, find_source_groups

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", type=Path, required=True)
parser.add_argument("--weights", required=True)
parser.add_argument("--layer", default="pool", help="where the network is cut")
args = parser.parse_args()

faces = load_real_and_fake_faces(args.data)
y, groups = faces.target, find_source_groups(faces.data)
tables = np.array([read_header(path)["tables"] for path in faces.data])
names, counts = np.unique(tables, return_counts=True)
usual = tables == names[counts.argmax()]
print(f"{len(y)} photographs, {len(np.unique(groups))} groups; {np.sum(~usual)} have other tables")
WAYS = {
    "original files": faces.data,
    "quality 90": equalize_encoding(faces.data, quality=90),
    "quality 75": equalize_encoding(faces.data),
    "quality 50": equalize_encoding(faces.data, quality=50),
    "224 pixels, quality 90": equalize_encoding(faces.data, quality=90, image_size=224),
    "224 pixels, quality 75": equalize_encoding(faces.data, image_size=224),
}


def scored(features, labels, groups, tested=None):
    """Return ROC AUC and interval of cross-validation by group as text."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=2000))
    cv = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    p = cross_val_predict(model, features, labels, groups=groups, cv=cv, method="predict_proba")
    tested = np.ones(len(labels), bool) if tested is None else tested
    labels, p, groups = labels[tested], p[tested, 1], groups[tested]
    low, high = bootstrap_interval(
        roc_auc_score, labels, p, groups=groups, n_resamples=300, random_state=0
    )
    return f"{roc_auc_score(labels, p):.3f} ({low:.3f} to {high:.3f})"


transformer = MobileNetV2Features(args.layer, weights=args.weights, image_size=224)
print("| files | header rule | detector | without other tables | which table, among fakes |")
print("|---|---|---|---|---|")
for name, images in WAYS.items():
    files = images if images is faces.data else [image.to_bytes() for image in images]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ShortcutWarning)
        report = check_shortcuts(files, y, groups=groups)
    header = "{:.3f} ({:.3f} to {:.3f})".format(report.roc_auc, *report.interval)
    X, fake = transformer.fit_transform(images), y == 1
    print(
        f"| {name} | {header} | {scored(X, y, groups)} | {scored(X, y, groups, ~fake | usual)} | "
        f"{scored(X[fake], ~usual[fake], groups[fake])} |",
        flush=True,
    )
