"""Measure what decoding="fast" changes: pixels, features, and probabilities of a detector.

The photographs are those of a folder with a subfolder per class, enlarged to 12 megapixels, or
scikit-learn's sample photographs. `make bench` times it.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from camera import write_camera_photographs
from PIL import Image

from sklearn_dfd import MobileNetV2Features, make_deepfake_pipeline
from sklearn_dfd._core.images.decoding import load_rgb
from sklearn_dfd.datasets import load_image_folder
from sklearn_dfd.feature_store import MemoryStore

LAYERS = (4, 10, 15, "pool")
N_TRAINED = 300


def error(fast, exact):
    """Error of each row relative to its length."""
    return np.linalg.norm(fast - exact, axis=1) / np.linalg.norm(exact, axis=1)


def differences(paths, weights, image_size):
    """Print how pixels and features differ."""
    pixels = []
    for path in paths:
        raw = Path(path).read_bytes()
        fast, exact = load_rgb(raw, image_size, fast=True), load_rgb(raw, image_size)
        pixels.append(np.abs(fast.astype(int) - exact))
    pixels = np.array(pixels)
    n_bytes = np.mean([Path(path).stat().st_size for path in paths])
    print(
        f"{len(paths)} files of {n_bytes / 1e6:.1f} MB, image_size={image_size}: levels of 255 "
        f"differ by {pixels.mean():.2f} on average, {pixels.max()} at most"
    )
    for layer in LAYERS:
        rows = [
            MobileNetV2Features(
                layer,
                weights=weights,
                image_size=image_size,
                decoding=decoding,
                memory=MemoryStore(2**30),
            ).fit_transform(paths)
            for decoding in ("exact", "fast")
        ]
        errors = error(np.asarray(rows[1]), np.asarray(rows[0]))
        print(
            f"  layer {layer}: relative error of the features {np.median(errors):.2%} in the "
            f"median, {errors.max():.2%} at most"
        )


def probabilities(faces, paths, weights, trained):
    """Print how the probabilities of a detector differ."""
    detector = make_deepfake_pipeline(weights=weights, max_epochs=5, random_state=0)
    detector.fit(faces.data[trained], faces.target[trained])
    exact = detector.predict_proba(paths)[:, 1]
    fast = detector.set_params(features__decoding="fast").predict_proba(paths)[:, 1]
    difference = np.abs(fast - exact)
    print(
        f"probabilities of a detector fitted on {len(trained)} photographs differ by "
        f"{difference.mean():.4f} on average, {difference.max():.4f} at most (they range from "
        f"{exact.min():.2f} to {exact.max():.2f}); {((fast > 0.5) != (exact > 0.5)).sum()} of "
        f"{len(paths)} labels differ"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with a subfolder of photographs per class")
    parser.add_argument("--weights", help="state dict of mobilenet_v2; random otherwise")
    parser.add_argument("--n-images", type=int, default=24)
    parser.add_argument("--image-size", type=int, nargs="+", default=[224])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        faces = sources = None
        if args.data:
            faces = load_image_folder(args.data)
            order = np.random.default_rng(0).permutation(len(faces.data))
            trained, others = np.split(order[: N_TRAINED + args.n_images], [N_TRAINED])
            sources = [Image.open(faces.data[row]) for row in others]
        paths = write_camera_photographs(Path(directory), args.n_images, sources)
        for image_size in args.image_size:
            differences(paths, args.weights, image_size)
        if faces is not None:
            probabilities(faces, paths, args.weights, trained)


if __name__ == "__main__":
    main()
