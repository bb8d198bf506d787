"""How long imports and the first prediction of a process take, and what they depend on takes.

    python benchmarks/imports.py [--repeats 9]

Each measurement is a fresh process; the two sides of a ratio alternate, and the ratio is that of
their medians. Processor time is printed next to wall-clock time, for machines that do other work.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import joblib
from PIL import Image

from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd.datasets import make_spliced_photos

LIGHT = ["", ".datasets", ".metrics", ".model_selection", ".augmentation", ".exceptions"]
SCIENTIFIC = "import sklearn.model_selection, PIL.Image, scipy.sparse"
JUDGE = "import joblib; joblib.load('detector.joblib').predict_proba(['photo.png'])"
#: What is measured, what it is compared with, and the ratio that it should not exceed.
WORKS = [
    *((f"import sklearn_dfd{name}", SCIENTIFIC, 1.2) for name in LIGHT),
    (
        "from sklearn_dfd import DeepFakeClassifier",
        "import torch, torchvision, skorch, sklearn.pipeline",
        1.1,
    ),
    (JUDGE, "import torch", None),
]


def measured(arguments, directory):
    """Seconds of wall clock and of processor time that a fresh Python process takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    command = [sys.executable, *arguments]
    subprocess.run(command, check=True, cwd=directory, env=environment, capture_output=True)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def prepare(directory):
    """Write a photograph and a saved detector."""
    photos = make_spliced_photos(24, random_state=0)
    pipe = make_deepfake_pipeline(weights=None, max_epochs=1, random_state=0)
    joblib.dump(pipe.fit(photos.data, photos.target), directory / "detector.joblib")
    Image.fromarray(photos.data[0]).save(directory / "photo.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9, metavar="N")
    repeats = parser.parse_args().repeats
    print(f"{'wall':>17s} {'processor':>17s}   ratios: wall, processor (at most)")
    with tempfile.TemporaryDirectory() as directory:
        prepare(Path(directory))
        for code, base, most in WORKS:
            for one in (code, base):  # so that its files are in the system's cache
                measured(["-c", one], directory)
            times = [
                [measured(["-c", one], directory) for one in (code, base)] for _ in range(repeats)
            ]
            medians = [
                [statistics.median(row[side][kind] for row in times) for side in (0, 1)]
                for kind in (0, 1)
            ]
            columns = [f"{ours:6.2f} s / {theirs:4.2f} s" for ours, theirs in medians]
            ratios = ", ".join(f"{ours / theirs:.2f}" for ours, theirs in medians)
            limit = f" ({most})" if most else ""
            print(*columns, f"  {ratios}{limit}   {code}  /  {base}", flush=True)


if __name__ == "__main__":
    main()
