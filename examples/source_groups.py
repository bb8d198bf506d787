"""
Which photographs belong together, if no file name shows it
===========================================================

A fake is often made from a photograph that is in the set too. If one of the
two is trained on and the other tested on, the score says less than it seems
to. This example measures how well
:func:`sklearn_dfd.model_selection.find_copies` finds such pairs, on edits that
it makes itself. Then it looks for pairs among the photographs, and draws them
for you to judge.

The photographs are tiles of the sample photographs that come with
scikit-learn. If the environment variable ``DFD_DATA`` names a folder with one
subfolder per class, those photographs are used.
"""

import io
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from sklearn.datasets import load_sample_images
from sklearn.model_selection import GroupShuffleSplit, train_test_split

from sklearn_dfd.datasets import load_image_folder
from sklearn_dfd.exceptions import LeakageError
from sklearn_dfd.model_selection import (
    check_leakage,
    find_copies,
    find_source_groups,
)

DATA = os.environ.get("DFD_DATA")  # folder with one subfolder per class
N_EDITS = int(
    os.environ.get("DFD_EDITS", 200)
)  # photographs to edit in each way
N_JOBS = int(os.environ.get("DFD_JOBS", 1))  # threads
OUTPUT = Path(os.environ.get("DFD_OUTPUT", "output"))
OUTPUT.mkdir(parents=True, exist_ok=True)
rng = np.random.default_rng(0)

# %%
# The edits
# ---------
# Each edit takes a photograph, and another one to copy from. The parts of a
# face are ellipses where eyes, nose and mouth are in a portrait.


def opened(photo):
    """Open a path, or take an array, as an RGB image."""
    image = (
        Image.fromarray(photo)
        if isinstance(photo, np.ndarray)
        else Image.open(photo)
    )
    return image.convert("RGB")


def compress(image, other):
    """Save as a JPEG of low quality."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(rng.integers(25, 60)))
    return Image.open(file).convert("RGB")


def scale(image, other):
    """Scale to between half and twice the size."""
    factor = 2 ** rng.uniform(-1, 1)
    return image.resize(
        (int(image.width * factor), int(image.height * factor))
    )


def crop(image, other):
    """Cut 2 to 5 % off each side."""
    left, top, right, bottom = rng.uniform(0.02, 0.05, 4)
    width, height = image.size
    return image.crop(
        (
            int(left * width),
            int(top * height),
            int((1 - right) * width),
            int((1 - bottom) * height),
        )
    )


def recolour(image, other):
    """Change brightness, contrast and saturation."""
    for enhancer, most in (
        (ImageEnhance.Brightness, 0.3),
        (ImageEnhance.Contrast, 0.3),
        (ImageEnhance.Color, 1),
    ):
        image = enhancer(image).enhance(rng.uniform(1 - most, 1 + most))
    return image


# Centre and half axes, row before column, as shares of the sides.
PARTS = [
    (0.42, 0.35, 0.09, 0.13),
    (0.42, 0.65, 0.09, 0.13),
    (0.57, 0.50, 0.12, 0.10),
    (0.74, 0.50, 0.09, 0.16),
]


def paste(image, other, n_parts=1):
    """Replace parts of the face by those of another."""
    pixels, source = (
        np.asarray(image, float),
        np.asarray(other.resize(image.size), float),
    )
    y, x = np.mgrid[: image.height, : image.width]
    for part in rng.choice(PARTS, n_parts, replace=False):
        radius = np.hypot(
            (y / image.height - part[0]) / part[2],
            (x / image.width - part[1]) / part[3],
        )
        alpha = np.clip((1.1 - radius) / 0.2, 0, 1)[..., np.newaxis]
        # The piece takes the mean colour of the place that it covers.
        shift = ((pixels - source) * alpha).sum(axis=(0, 1)) / alpha.sum()
        pixels = pixels * (1 - alpha) + (source + shift) * alpha
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def paste_four(image, other):
    """Replace both eyes, the nose and the mouth."""
    return paste(image, other, n_parts=4)


def paste_box(image, other):
    """Replace eyes, nose and mouth by one blurred rectangle."""
    width, height = image.size
    mask = Image.new("L", image.size, 0)
    mask.paste(
        255,
        (
            int(0.22 * width),
            int(0.33 * height),
            int(0.78 * width),
            int(0.82 * height),
        ),
    )
    mask = mask.filter(ImageFilter.GaussianBlur(width / 50))
    return Image.composite(other.resize(image.size), image, mask)


def paste_and_crop(image, other):
    """Replace eyes, nose and mouth, then cut 5 % off each side."""
    width, height = image.size
    x, y = int(0.05 * width), int(0.05 * height)
    return paste_four(image, other).crop((x, y, width - x, height - y))


def frame(image, other):
    """Add a white frame, a tenth of the width."""
    return ImageOps.expand(image, image.width // 10, "white")


def mirror(image, other):
    """Swap left and right."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def all_at_once(image, other):
    """Replace two parts, then crop, recolour and compress."""
    image = paste(image, other, n_parts=2)
    for edit in (crop, recolour, compress):
        image = edit(image, other)
    return image


# %%
# The photographs
# ---------------
# Without a folder: disjoint tiles of two photographs, the 26 with the most
# detail, and edits of every second one.

if DATA:
    photos = load_image_folder(DATA).data
else:
    side = 106
    tiles = np.stack(load_sample_images().images)[:, : 4 * side, : 6 * side]
    tiles = (
        tiles.reshape(2, 4, side, 6, side, 3)
        .swapaxes(2, 3)
        .reshape(-1, side, side, 3)
    )
    edges = np.abs(np.diff(tiles.mean(axis=-1), axis=2)).mean(axis=(1, 2))
    tiles = tiles[np.argsort(-edges)[:26]]
    fakes = [
        compress(paste(opened(t), opened(tiles[-1])), None) for t in tiles[::2]
    ]
    photos = np.concatenate([tiles, np.stack(fakes)])

# %%
# The groups
# ----------

groups = find_source_groups(photos, n_jobs=N_JOBS, verbose=1)
sizes = np.bincount(groups)
n_shared = int(sizes[sizes > 1].sum())
print(
    f"{len(photos)} photographs in {len(sizes)} groups: {n_shared} of them "
    f"share a group with others, {sizes.max()} at most"
)

# %%
# How well are edits found?
# -------------------------
# Recall is the share of edits that are linked to the photograph that they were
# made from. Precision is the share of correct links among all links between
# edits and photographs: nearly all of these many pairs must not be linked.

chosen = rng.choice(len(photos), min(N_EDITS, len(photos)), replace=False)
print(
    f"{len(chosen)} edits of each kind, compared in "
    f"{len(chosen) * len(photos):,} pairs\n"
)
print("edit            recall   precision")
for edit in (
    compress,
    scale,
    crop,
    recolour,
    mirror,
    frame,
    paste,
    paste_four,
    paste_box,
    paste_and_crop,
    all_at_once,
):
    others = rng.choice(len(photos), len(chosen))
    edits = [
        edit(opened(photos[i]), opened(photos[j]))
        for i, j in zip(chosen, others, strict=True)
    ]
    pairs, _ = find_copies(
        photos, edits, mirrored=edit is mirror, n_jobs=N_JOBS
    )
    sources = chosen[pairs[:, 1]]
    recall = len(np.unique(pairs[pairs[:, 0] == sources, 1])) / len(chosen)
    # A link to another image of the same photograph is correct too.
    correct = groups[pairs[:, 0]] == groups[sources]
    precision = f"{correct.mean():9.3f}" if len(pairs) else " no links"
    print(f"{edit.__name__:14s}  {recall:6.3f}   {precision}", flush=True)

# %%
# Look at the pairs
# -----------------
# The most similar pairs, the least similar that are still linked, and the most
# similar that are not. If the second row holds photographs that have nothing
# to do with each other, raise ``threshold``; if the third holds copies, lower
# it.

threshold = 0.89  # the default
pairs, similarity = find_copies(
    photos, threshold=0.5, n_jobs=N_JOBS, verbose=1
)
n_linked = int(np.sum(similarity >= threshold))
half = min(6, (n_linked + 1) // 2)
rows = {
    "most similar": range(half),
    "just linked": range(max(half, n_linked - 6), n_linked),
    "just not linked": range(n_linked, min(n_linked + 6, len(pairs))),
}
rows = {name: which for name, which in rows.items() if len(which)}
figure, axes = plt.subplots(
    len(rows),
    6,
    figsize=(13, 1.6 * len(rows)),
    layout="constrained",
    squeeze=False,
)
for row, (name, which) in zip(axes, rows.items(), strict=True):
    row[0].set_ylabel(name)
    for ax in row:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for ax, k in zip(row, which, strict=False):
        two = [opened(photos[i]).resize((160, 160)) for i in pairs[k]]
        ax.imshow(np.hstack(two))
        ax.set_title(f"similarity {similarity[k]:.3f}", fontsize="small")
figure.suptitle(f"Pairs of a similarity of {threshold} or more are linked")
figure.savefig(OUTPUT / "source_groups.png", dpi=120)
np.savetxt(OUTPUT / "source_groups.txt", groups, fmt="%d")

if DATA:
    with open(OUTPUT / "source_pairs.csv", "w", encoding="utf-8") as file:
        file.write("similarity,first,second\n")
        for (i, j), value in zip(pairs[:n_linked], similarity, strict=False):
            file.write(f'{value:.3f},"{photos[i]}","{photos[j]}"\n')
    folders = [Path(photo).parent for photo in photos]
    across = sum(folders[i] != folders[j] for i, j in pairs[:n_linked])
    print(f"{across} of {n_linked} linked pairs are of two folders")

# %%
# What a plain split does, and what a split by group does
# -------------------------------------------------------

rows = np.arange(len(photos))
train, test = train_test_split(rows, test_size=0.25, random_state=0)
splitter = GroupShuffleSplit(n_splits=1, test_size=0.25, random_state=0)
by_group = next(splitter.split(photos, groups=groups))


def n_leaked(train, test):
    """Count the test photographs that are linked to the training set."""
    try:
        check_leakage(photos[train], photos[test], n_jobs=N_JOBS)
    except LeakageError as error:
        return len(set(error.pairs[:, 1]))
    return 0


print(
    f"\nOf {len(test)} photographs that a plain split puts aside for the "
    f"test, {n_leaked(train, test)} are linked to photographs in its training "
    f"set; of the {len(by_group[1])} that a split by the groups found puts "
    f"aside, {n_leaked(*by_group)}."
)
