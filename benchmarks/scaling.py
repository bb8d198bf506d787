"""What many images cost in machines, hours and storage, worked out from rates measured here.

    python benchmarks/scaling.py [--data FOLDER] [--weights FILE] [--cores 64]

Rates are of one core, in its own time (``time.process_time``): a busy machine makes them little
worse. Network and disk are not in them.
"""

import argparse
import io
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sklearn_dfd import DeepFakeClassifier, MobileNetV2Features
from sklearn_dfd._core.network.mobilenet import feature_shape
from sklearn_dfd.datasets import make_spliced_photos
from sklearn_dfd.export import extract_feature_matrix


def jpegs(n, side=600):
    """Typical photographs, each of them a different file."""
    photos = make_spliced_photos(16, random_state=0).data
    for i in range(n):
        image = Image.fromarray(photos[i % 16]).resize((side, side))
        image.putpixel((0, 0), (i % 256, i // 256, 0))
        content = io.BytesIO()
        image.save(content, "JPEG", quality=90)
        yield content.getvalue()


def measure(paths, weights, directory):
    """Images and rows that one core processes per second."""
    features = MobileNetV2Features(weights=weights, n_jobs=1).fit(paths)
    features.transform(paths[:4])
    start = time.process_time()
    rows = extract_feature_matrix(features, paths[4:], Path(directory) / "features.npy")
    images_a_second = len(rows) / (time.process_time() - start)
    y = np.arange(len(rows)) % 2
    classifier = DeepFakeClassifier(weights=weights, max_epochs=1, warm_start=True).fit(rows, y)
    start = time.process_time()
    classifier.fit(rows, y)
    rows_a_second = len(rows) / (time.process_time() - start)
    return images_a_second, rows_a_second


def duration(seconds):
    units = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}
    unit = next(unit for unit, length in units.items() if seconds >= 2 * length or length == 1)
    return f"{seconds / units[unit]:,.1f} {unit}"


def size(n_bytes):
    return f"{n_bytes / 1e9:,.0f} GB" if n_bytes < 1e12 else f"{n_bytes / 1e12:,.1f} TB"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of images; made up where there is none")
    parser.add_argument("--weights", default=None)
    parser.add_argument("--n-images", type=int, default=132)
    parser.add_argument("--cores", type=int, default=64, help="of a machine")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        if args.data:
            paths = sorted(map(str, args.data.rglob("*.jpg")))[: args.n_images]
        else:
            paths = [str(Path(directory) / f"{i}.jpg") for i in range(args.n_images)]
            for path, content in zip(paths, jpegs(args.n_images), strict=True):
                Path(path).write_bytes(content)
        n_bytes = np.mean([Path(path).stat().st_size for path in paths])
        images_a_second, rows_a_second = measure(paths, args.weights, directory)
    print(
        f"A core computes the features of {images_a_second:.0f} images per second (files of "
        f"{n_bytes / 1e3:.0f} kB, layer 15), and trains on {rows_a_second:.0f} rows per second.\n"
    )
    print(
        "| images | files | features, layer 15 | layer 4 | pool | extraction, one machine of "
        f"{args.cores} cores | 100 such machines | an epoch of the tail, one core |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for n_images in (10**6, 10**9):
        row = [f"{n_images:,}", size(n_images * n_bytes)]
        for layer in (15, 4, "pool"):
            row.append(size(n_images * 4 * int(np.prod(feature_shape(layer, 224)))))
        seconds = n_images / images_a_second
        row += [duration(seconds / args.cores), duration(seconds / args.cores / 100)]
        row.append(duration(n_images / rows_a_second))
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
