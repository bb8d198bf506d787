"""
A detector as one ONNX file, and what eight bits cost
=====================================================

The file takes images as they are and returns probabilities, in any program
that has onnxruntime. With ``calibration_images`` it computes with eight-bit
integers. What that costs is measured on toy images of places that the detector
has never seen, saved as JPEGs of low quality to make them harder.
"""

import os
from pathlib import Path

import numpy as np

from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.export import measure_onnx_loss, to_onnx
from sklearn_dfd.robustness import distort

# "imagenet" (downloaded once), "random", or a file with a state dict of
# torchvision's mobilenet_v2
WEIGHTS = os.environ.get("DFD_WEIGHTS", "imagenet")
N_SAMPLES = int(os.environ.get("DFD_N_SAMPLES", 400))
OUTPUT = Path(os.environ.get("DFD_OUTPUT", "output"))
OUTPUT.mkdir(parents=True, exist_ok=True)

# %%
# A detector, trained on three quarters of the groups
# ---------------------------------------------------

photos = make_spliced_photos(N_SAMPLES, random_state=0)
test = photos.groups % 4 == 0
X, y = photos.data[~test], photos.target[~test]
detector = make_deepfake_pipeline(
    weights=None if WEIGHTS == "random" else WEIGHTS,
    l1_factor=1e-6,
    batch_size=16,
    max_epochs=2,
    random_state=0,
).fit(X, y)
y_test, groups = photos.target[test], photos.groups[test]
X_test = np.stack([distort(image, "jpeg", 30) for image in photos.data[test]])

# %%
# Two files, compared with the detector
# -------------------------------------

files = {
    "float32": OUTPUT / "detector.onnx",
    "int8": OUTPUT / "detector-int8.onnx",
}
to_onnx(detector, files["float32"])
to_onnx(detector, files["int8"], calibration_images=X[:100])

losses = {
    name: measure_onnx_loss(
        detector, path, X_test, y_test, groups=groups, random_state=0
    )
    for name, path in files.items()
}
print(
    "file       size   ROC AUC lost   95 % interval      largest and mean "
    "difference of P"
)
for name, loss in losses.items():
    print(
        f"{name:8s} {files[name].stat().st_size / 1e6:4.1f} MB   "
        f"{loss.lost:12.4f}   {loss.low:.4f} to {loss.high:.4f}   "
        f"{loss.max_difference:.1e}, {loss.mean_difference:.1e}"
    )

# %%

print(
    f"\nOn {len(y_test)} toy images the detector's ROC AUC is "
    f"{losses['int8'].roc_auc:.4f}; the file of eight-bit integers loses "
    f"{losses['int8'].lost:.4f} of it, and is "
    f"{files['int8'].stat().st_size / files['float32'].stat().st_size:.0%} of "
    f"the size."
)
