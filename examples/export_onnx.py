"""
A detector as one ONNX file, and what eight bits cost
=====================================================

The file takes images as they are and gives probabilities, in any program that has onnxruntime.
With ``calibration_images`` it computes with integers of eight bits. What that costs is measured on
photographs of places that the detector has never seen, saved as poor JPEGs: on easier ones nobody
would see a difference.
"""

import argparse
from pathlib import Path

import numpy as np

from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.export import measure_onnx_loss, to_onnx
from sklearn_dfd.robustness import distort

parser = argparse.ArgumentParser(description="Compare a detector with its ONNX files.")
parser.add_argument(
    "--weights",
    default="imagenet",
    metavar="imagenet|random|FILE",
    help="what the network starts from (default: ImageNet weights, downloaded once)",
)
parser.add_argument("--output", type=Path, default=Path("output"), help="folder to write to")
parser.add_argument("--n-samples", type=int, default=400, help="photographs (default: 400)")
args = parser.parse_args()
args.output.mkdir(parents=True, exist_ok=True)

# %%
# A detector, trained on three quarters of the places
# ---------------------------------------------------

photos = make_spliced_photos(args.n_samples, random_state=0)
test = photos.groups % 4 == 0
X, y = photos.data[~test], photos.target[~test]
detector = make_deepfake_pipeline(
    weights=None if args.weights == "random" else args.weights,
    l1_factor=1e-6,
    batch_size=16,
    max_epochs=2,
    random_state=0,
).fit(X, y)
truth, groups = photos.target[test], photos.groups[test]
images = np.stack([distort(image, "jpeg", 30) for image in photos.data[test]])

# %%
# Two files
# ---------

files = {"float32": args.output / "detector.onnx", "int8": args.output / "detector-int8.onnx"}
to_onnx(detector, files["float32"])
to_onnx(detector, files["int8"], calibration_images=X[:100])

losses = {
    name: measure_onnx_loss(detector, path, images, truth, groups=groups, random_state=0)
    for name, path in files.items()
}
print(f"predict_proba: ROC AUC {losses['int8'].roc_auc:.4f} on {len(truth)} photographs")
for name, loss in losses.items():
    print(
        f"{name:13}: {files[name].stat().st_size / 1e6:4.1f} MB, ROC AUC lost {loss.lost:.4f} "
        f"(95 % interval {loss.low:.4f} to {loss.high:.4f}); probabilities differ by "
        f"{loss.max_difference:.1e} at most, {loss.mean_difference:.1e} on average"
    )
