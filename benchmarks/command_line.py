"""How long `sklearn-dfd detect` takes to judge one photograph, by the kind of the detector's file.

    python benchmarks/command_line.py [--repeats 9]

Each measurement is a fresh process; the commands alternate. Processor time is printed next to
wall-clock time, for machines that do other work.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import joblib
import skops.io
from imports import measured
from PIL import Image

from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.export import to_onnx

ENDINGS = ("joblib", "skops", "onnx")
COMMAND = ["-m", "sklearn_dfd"]
COMMANDS = {
    "--help": [*COMMAND, "--help"],
    **{
        f"detect with .{ending}": [*COMMAND, "detect", f"detector.{ending}", "photo.png", "--json"]
        for ending in ENDINGS
    },
}


def prepare(directory):
    """Write a photograph, and one detector in files of each kind."""
    photos = make_spliced_photos(24, random_state=0)
    pipe = make_deepfake_pipeline(weights=None, max_epochs=1, random_state=0)
    pipe.fit(photos.data, photos.target)
    joblib.dump(pipe, directory / "detector.joblib")
    skops.io.dump(pipe, directory / "detector.skops")
    to_onnx(pipe, directory / "detector.onnx")
    Image.fromarray(photos.data[0]).save(directory / "photo.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9, metavar="N")
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as directory:
        prepare(Path(directory))
        for arguments in COMMANDS.values():  # so that its files are in the system's cache
            measured(arguments, directory)
        times = [
            {name: measured(arguments, directory) for name, arguments in COMMANDS.items()}
            for _ in range(repeats)
        ]
    print(f"{'seconds':22s}  wall clock  processor")
    for name in COMMANDS:
        wall, processor = (statistics.median(each[name][kind] for each in times) for kind in (0, 1))
        print(f"{name:22s}  {wall:10.2f}  {processor:9.2f}")


if __name__ == "__main__":
    main()
