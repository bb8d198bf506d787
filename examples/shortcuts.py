"""
Do the files give the labels away?
==================================

Real photographs often come from one program and fakes from another. Then
format, compression or metadata reveal which is which, and a detector may learn
that instead of the traces of an edit. It will look good in every
cross-validation, and fail on photographs from elsewhere.
:func:`sklearn_dfd.model_selection.check_shortcuts` measures how well the
classes can be told apart *without looking at a single pixel*, and
:func:`sklearn_dfd.augmentation.equalize_encoding` encodes all images alike.

Toy photographs are saved here as such a set would be. If the environment
variable ``DFD_DATA`` names a folder with one subfolder per class, its files
are examined instead.
"""

import os
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from sklearn_dfd.augmentation import equalize_encoding
from sklearn_dfd.datasets import load_image_folder, make_spliced_photos
from sklearn_dfd.exceptions import ShortcutWarning
from sklearn_dfd.model_selection import check_shortcuts, find_source_groups

DATA = os.environ.get("DFD_DATA")  # folder with one subfolder per class
N_SAMPLES = int(os.environ.get("DFD_N_SAMPLES", 400))  # toy photographs
OUTPUT = Path(os.environ.get("DFD_OUTPUT", "output"))
OUTPUT.mkdir(parents=True, exist_ok=True)
rng = np.random.RandomState(0)

# %%
# The files
# ---------
# Without a folder: toy photographs, half of them with a piece pasted in. All
# are saved by the same camera, but a third of the fakes went through an
# editor, which saves with another quality and leaves its name.

if DATA:
    faces = load_image_folder(DATA)
    files, y = faces.data, faces.target_names[faces.target]
    groups = find_source_groups(files)
else:
    photos = make_spliced_photos(N_SAMPLES, random_state=0)
    y = np.where(photos.target == 1, "fake", "real")
    groups = photos.groups
    folder = OUTPUT / "photographs"
    folder.mkdir(exist_ok=True)
    files = []
    for i, pixels in enumerate(photos.data):
        image, exif = Image.fromarray(pixels), Image.Exif()
        edited = y[i] == "fake" and rng.uniform() < 1 / 3
        exif[0x0131] = "Editor 9.1" if edited else "Camera 1.0"
        files.append(folder / f"{i}.jpg")
        image.save(files[-1], quality=87 if edited else 94, exif=exif)

# %%
# What do they reveal?
# --------------------
# The rule is scored on groups that it has not seen. ``roc_auc`` is the chance
# that it ranks a fake above a real photograph: 0.5 is guessing.
# ``check_shortcuts`` warns if the interval excludes that; the warning is
# silenced here, since the report says more.

warnings.simplefilter("ignore", ShortcutWarning)
before = check_shortcuts(files, y, groups=groups)
print(before)

# %%
# The cure
# --------
# Each image is decoded, turned upright and saved again, all with the same
# tables and subsampling and without metadata. This happens when the image is
# needed: ``equalized`` takes the place of ``files`` everywhere, in ``fit``, in
# ``cross_val_score`` and in ``detect``.

equalized = equalize_encoding(files)
print(equalized[0])

# %%
# Images that are made when they are needed are not files, so they are saved to
# be examined in the same way. How well a file can be compressed depends on
# what it shows, so its length may still differ.

after = check_shortcuts(
    [image.to_bytes() for image in equalized], y, groups=groups
)
print(after)

# %%
# A picture of both. Where a bar lies on the dashed line, the attribute says
# nothing about the labels.

rows = [row for row in before.attributes if row.varies]
rows.sort(key=lambda row: row.roc_auc)
figure, ax = plt.subplots(
    figsize=(8, 1.6 + 0.45 * len(rows)), layout="constrained"
)
for report, color, label, shift in (
    (before, "tab:red", "files as they are", 0.12),
    (after, "tab:blue", "all encoded alike", -0.12),
):
    found = {row.attribute: row for row in report.attributes}
    shown = [found[row.attribute] for row in rows]
    points = [(r.roc_auc, r.low, r.high) for r in shown]
    points.append((report.roc_auc, *report.interval))
    auc, low, high = np.transpose(points)
    ax.errorbar(
        auc,
        np.arange(len(auc)) + shift,
        xerr=np.maximum([auc - low, high - auc], 0),
        fmt="o",
        color=color,
        capsize=3,
        label=label,
    )
ax.axvline(0.5, color="0.4", linestyle="--")
ax.set_yticks(range(len(rows) + 1))
ax.set_yticklabels([*(row.attribute for row in rows), "all together"])
ax.set_xlim(min(0.4, ax.get_xlim()[0]), max(0.75, ax.get_xlim()[1]))
ax.set_xlabel("ROC AUC without looking at a pixel (dashed line: guessing)")
ax.legend(loc="lower right")
ax.set_title(f"What the files alone say about {len(y):,} photographs")
figure.savefig(OUTPUT / "shortcuts.png", dpi=120)

# %%


def score(report):
    """Return ROC AUC and interval as text."""
    low, high = report.interval
    return f"{report.roc_auc:.3f} ({low:.3f} to {high:.3f})"


what = "files" if DATA else "toy files"
print(
    f"\nOf these {len(y):,} {what}, headers and metadata alone tell the "
    f"classes apart with a ROC AUC of {score(before)}, and with "
    f"{score(after)} once all are encoded alike. This says nothing about "
    "traces of the old compression in the pixels."
)
