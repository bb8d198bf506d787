"""How often face detectors find a face, and what a crop around it is worth: `--data DIR`.

Recall is measured on portraits of the Real and Fake Face Detection set (DIR has `training_real`
and `training_fake`), and on scenes of 1280 x 854 pixels, photographs without faces into which a
portrait was pasted, at four sizes of the portrait. A face counts as found if the largest box that
a detector returns is centred in the middle of the portrait and a quarter to all of its width.
`--weights FILE` measures what the fast preset detects in such scenes, with and without a crop.

Detectors: CenterFace, which the package uses; and where OpenCV below 5 is installed, two cascades
in its wheel. The wheels of mediapipe 1.2 and uniface 4.2 contain no model, and facenet-pytorch,
whose wheel does, cannot be installed together with torch 2.3 or later.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data as samples
from sklearn.datasets import load_sample_images

from sklearn_dfd._core.images.face_detector import find_faces

try:
    import cv2
except ImportError:
    cv2 = None

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", type=Path, required=True)
parser.add_argument("--weights", help="a file, to measure the worth of a crop")
parser.add_argument("--portraits", type=int, default=200, help="at most; 0 for none")
parser.add_argument("--scenes", type=int, default=None, help="number of scenes; default: all")
args = parser.parse_args()

SIZE = (1280, 854)
BACKGROUNDS = [
    Image.fromarray(pixels).resize(SIZE, Image.Resampling.BICUBIC)
    for pixels in [*load_sample_images().images, samples.coffee(), samples.rocket()]
]


def scene(path, side, seed):
    """Paste a portrait into a photograph without faces; return the scene and where it is."""
    random = np.random.default_rng(seed)
    with Image.open(path) as portrait:
        portrait = portrait.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    picture = BACKGROUNDS[random.integers(len(BACKGROUNDS))].copy()
    left, top = (int(random.integers(whole - side + 1)) for whole in SIZE)
    picture.paste(portrait, (left, top))
    return picture, (left, top, side, side)


def cascade(path):
    """Make a detector of a cascade, at 640 pixels and, where no face is found there, at 1280."""
    detector = cv2.CascadeClassifier(str(path))

    def boxes(image):
        for length in (640, 1280):
            scale = min(1, length / max(image.size))
            sides = [round(side * scale) for side in image.size]
            pixels = np.asarray(image.convert("L").resize(sides, Image.Resampling.BOX))
            found = detector.detectMultiScale(pixels, 1.1, 3, minSize=(24, 24))
            if len(found):
                return [tuple(box / scale) for box in found]
        return []

    return boxes


def found(boxes, place):
    """Tell whether the largest box is that of the face of a portrait."""
    if not boxes:
        return False
    left, top, width, height = max(boxes, key=lambda box: box[2] * box[3])
    x = (left + width / 2 - place[0]) / place[2]
    y = (top + height / 2 - place[1]) / place[3]
    return 0.3 < x < 0.7 and 0.3 < y < 0.75 and 0.25 < width / place[2] <= 1


def recall(portraits):
    """Print the table of detectors."""
    detectors = {"CenterFace": find_faces}
    if hasattr(cv2, "CascadeClassifier"):
        cv2.setNumThreads(1)
        folder = Path(cv2.__file__).parent / "data"
        for name in ("default", "alt2"):
            file = folder / f"haarcascade_frontalface_{name}.xml"
            detectors[f"OpenCV, {name}"] = cascade(file)
    sides = (400, 200, 100, 60)
    sets = {"portraits": []}
    for path in portraits:
        with Image.open(path) as portrait:
            sets["portraits"].append((portrait.convert("RGB"), (0, 0, *portrait.size)))
    for side in sides:
        sets[f"{side} px"] = [scene(path, side, i) for i, path in enumerate(portraits)]
    nothing = [
        picture.crop((x, y, x + 640, y + 427))
        for picture in BACKGROUNDS
        for x in (0, 320, 640)
        for y in (0, 213, 427)
    ]
    print(f"{'':<24}" + "".join(f"{name:>12}" for name in sets) + "   no face  ms a scene")
    for name, detector in detectors.items():
        shares = [np.mean([found(detector(i), at) for i, at in pairs]) for pairs in sets.values()]
        wrong = np.mean([len(detector(picture)) > 0 for picture in nothing])
        start = time.process_time()
        for picture, _ in sets["200 px"][:40]:
            detector(picture)
        spent = (time.process_time() - start) / len(sets["200 px"][:40]) * 1000
        print(
            f"{name:<24}" + "".join(f"{x:12.3f}" for x in shares) + f"{wrong:10.3f}{spent:12.0f}",
            flush=True,
        )


def worth(weights):
    """Print what the fast preset detects in scenes, and in crops of them."""
    import tempfile

    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    from sklearn_dfd import make_deepfake_pipeline
    from sklearn_dfd.augmentation import FaceCrops
    from sklearn_dfd.datasets import load_real_and_fake_faces
    from sklearn_dfd.metrics import bootstrap_interval
    from sklearn_dfd.model_selection import find_source_groups

    faces = load_real_and_fake_faces(args.data)
    if args.scenes:
        chosen = np.random.default_rng(0).permutation(len(faces.data))[: args.scenes]
        faces.data, faces.target = np.asarray(faces.data)[chosen], faces.target[chosen]
    y, groups = faces.target, find_source_groups(faces.data)
    side = 400
    with tempfile.TemporaryDirectory() as directory:
        scenes = []
        for row, path in enumerate(faces.data):
            scenes.append(str(Path(directory, f"{row}.jpg")))
            scene(path, side, row)[0].save(scenes[-1], quality=95)
        cropped = FaceCrops().fit(scenes).transform(scenes)
        print(f"\n{len(y)} scenes with a portrait of {side} pixels: ROC AUC of the fast preset")
        for name, images in (("scenes", scenes), ("crops", cropped), ("portraits", faces.data)):
            pipe = make_deepfake_pipeline(preset="fast", weights=weights)
            p = cross_val_predict(
                pipe,
                np.array(images, dtype=object),
                y,
                groups=groups,
                cv=StratifiedGroupKFold(5, shuffle=True, random_state=0),
                method="predict_proba",
            )[:, 1]
            low, high = bootstrap_interval(roc_auc_score, y, p, groups=groups, random_state=0)
            print(f"{name:<12}{roc_auc_score(y, p):.3f} ({low:.3f} to {high:.3f})", flush=True)


paths = sorted(args.data.glob("training_*/*"))
if args.portraits:
    recall(paths[:: -(-len(paths) // args.portraits)])
if args.weights:
    worth(args.weights)
