"""
Films: many frames, one answer
==============================

The frames of a film are many images and one question: is it genuine?
:func:`sklearn_dfd.datasets.load_video_folder` chooses frames of the films
(video files) in a folder, which are decoded when they are needed;
:func:`sklearn_dfd.detect` combines the detector's answers for them; and
:func:`sklearn_dfd.metrics.make_group_scorer` scores the combined answers, so
cross-validation shows how good the detector is per film as well as per frame.

Toy films are made here: a camera pans over a photograph, and in half of them
a piece is pasted into the photograph. If the environment variable ``DFD_DATA``
names a folder with the subfolders "real" and "fake", its films are judged
instead. PyAV must be installed: ``pip install "sklearn-dfd[video]"``.
"""

import os
from pathlib import Path

import av
import matplotlib.pyplot as plt
import numpy as np
import sklearn
from sklearn.model_selection import StratifiedGroupKFold, cross_validate

from sklearn_dfd import detect, make_deepfake_pipeline
from sklearn_dfd.datasets import load_video_folder, make_spliced_photos
from sklearn_dfd.metrics import make_group_scorer

# "imagenet" (downloaded once), "random", or a file with a state dict of
# torchvision's mobilenet_v2
WEIGHTS = os.environ.get("DFD_WEIGHTS", "imagenet")
DATA = os.environ.get("DFD_DATA")  # folder with "real" and "fake" in it
# what the names of films that belong together have in common
PATTERN = os.environ.get("DFD_PATTERN", r"(\d{3})(?:_(\d{3}))?")
N_FILMS = int(os.environ.get("DFD_FILMS", 60))  # toy films
N_FRAMES = int(os.environ.get("DFD_FRAMES", 6))  # of each film
N_EPOCHS = int(os.environ.get("DFD_EPOCHS", 6))
OUTPUT = Path(os.environ.get("DFD_OUTPUT", "output"))
OUTPUT.mkdir(parents=True, exist_ok=True)

if WEIGHTS == "random":  # random weights learn more if more blocks are trained
    settings = {"weights": None, "layer": 6, "image_size": 96, "lr": 1e-3}
else:
    settings = {"weights": WEIGHTS, "layer": 15, "image_size": 224, "lr": 3e-4}

# %%
# The films
# ---------
# Toy films last two seconds. Their names begin with the number of the place
# that they show: genuine and spliced films of one place belong together.


def make_film(path, photo):
    """Save what a camera sees that pans over a photograph."""
    margin = photo.shape[0] - 96
    with av.open(str(path), "w") as film:
        stream = film.add_stream("mpeg4", rate=12)
        stream.width = stream.height = 96
        stream.pix_fmt, stream.bit_rate = "yuv420p", 1_000_000
        for step in np.linspace(0, 1, 24):
            x, y = round(margin * step), round(margin * (1 - step) ** 2)
            seen = np.ascontiguousarray(photo[y : y + 96, x : x + 96])
            frame = av.VideoFrame.from_ndarray(seen, format="rgb24")
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))


if not DATA:
    DATA = OUTPUT / "films"
    photos = make_spliced_photos(N_FILMS, image_size=128, random_state=0)
    for i, photo in enumerate(photos.data):
        folder = DATA / ("fake" if photos.target[i] else "real")
        folder.mkdir(parents=True, exist_ok=True)
        make_film(folder / f"{photos.groups[i]:03d} film {i}.mp4", photo)

films = load_video_folder(
    DATA,
    class_names=["real", "fake"],
    frames_per_video=N_FRAMES,
    group_pattern=PATTERN,
)
y = films.target_names[films.target]
n_films = len(set(films.films))
print(f"{len(films.data)} frames of {n_films} films, {len(set(films.groups))}")
print(f"groups; the first frame is {films.data[0]}")

# %%
# Per frame and per film
# ----------------------
# The splits use ``groups``, so films of one place are never on both sides; the
# scores are per film. scikit-learn's metadata routing takes both to where they
# are needed.

pipe = make_deepfake_pipeline(
    l1_factor=1e-6,
    batch_size=16,
    max_epochs=N_EPOCHS,
    random_state=0,
    **settings,
)
folds = StratifiedGroupKFold(3, shuffle=True, random_state=0)
by_film = make_group_scorer("roc_auc", pos_label="fake")
with sklearn.config_context(enable_metadata_routing=True):
    pipe["classifier"].set_fit_request(groups=True)
    scores = cross_validate(
        pipe,
        films.data,
        y,
        cv=folds,
        params={"groups": films.groups, "film": films.films},
        scoring={
            # classes are sorted by name, so "real" would be the positive one
            # for scikit-learn's own "roc_auc"; its ROC AUC is the same
            "frame": "roc_auc",
            "film": by_film.set_score_request(groups="film"),
        },
        return_estimator=True,
        return_indices=True,
    )
print("ROC AUC    mean   lowest to highest of 3 folds")
for name in ("frame", "film"):
    found = scores[f"test_{name}"]
    print(
        f"per {name:5s} {found.mean():6.3f}   "
        f"{found.min():.3f} to {found.max():.3f}"
    )

# %%
# One answer per film
# -------------------
# The detector of the first fold judges the films that it has not seen: one row
# per film. ``share_fake`` is the share of frames that are called fake on their
# own.

detector, test = scores["estimator"][0], scores["indices"]["test"][0]
per_film = detect(
    detector, films.data[test], groups=films.films[test], pos_label="fake"
)
per_film.index = [Path(path).name for path in per_film.index]
columns = ["label", "probability_fake", "share_fake", "n_judged"]
print(per_film[columns].round(2).head(8).to_string())

# %%
# A picture of some of them: each row is a film, each picture one of its
# frames.

per_frame = detect(detector, films.data[test], pos_label="fake")
probability = per_frame.probability_fake.to_numpy()
paths = films.films[test]
shown = []
for label in ("real", "fake"):
    shown += list(dict.fromkeys(paths[y[test] == label]))[:3]
figure, axes = plt.subplots(
    len(shown),
    N_FRAMES,
    figsize=(1.5 * N_FRAMES, 1.85 * len(shown)),
    layout="constrained",
    squeeze=False,
)
for row, path in zip(axes, shown, strict=True):
    rows = np.flatnonzero(paths == path)
    truth = y[test][rows[0]]
    together = per_film.probability_fake[Path(path).name]
    for ax in row:
        ax.set(xticks=[], yticks=[])
    for ax, i in zip(row, rows, strict=False):
        ax.imshow(films.data[test][i].to_image())
        ax.set_title(f"{probability[i]:.0%}", fontsize="small")
    row[0].set_ylabel(f"{truth}\n{together:.0%} fake", fontsize="large")
figure.suptitle(
    "Films that the detector has not seen: left, what each is and how\n"
    "probable the detector finds that it is fake; above each frame, what it "
    "says of that frame alone"
)
figure.savefig(OUTPUT / "films.png", dpi=120)

# %%

what = "toy films" if DATA == OUTPUT / "films" else "films"
frame, film = scores["test_frame"].mean(), scores["test_film"].mean()
print(
    f"\nOn these {n_films} {what}, judged by detectors that have seen none of "
    f"the same group, the mean ROC AUC of 3 folds is {frame:.3f} per frame "
    f"and {film:.3f} per film."
)
