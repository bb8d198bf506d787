"""How long `check_shortcuts` takes for very many files.

    python benchmarks/shortcuts.py
    python benchmarks/shortcuts.py --n-files 2000

Each of 500 distinct files is there under many names (hard links), so that the disk holds them all.
A third has EXIF data and another quality; files come in groups of two.
"""

import argparse
import os
import tempfile
import warnings
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
from PIL import Image

from sklearn_dfd.exceptions import ShortcutWarning
from sklearn_dfd.model_selection import check_shortcuts

N_DISTINCT = 500

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--n-files", type=int, default=100_000)
n_files = parser.parse_args().n_files

rng = np.random.RandomState(0)
with tempfile.TemporaryDirectory() as folder:
    for i in range(N_DISTINCT):
        size = (rng.randint(300, 900), rng.randint(300, 900))
        picture = Image.fromarray(rng.randint(0, 256, (16, 16, 3), dtype=np.uint8)).resize(size)
        exif = Image.Exif()
        exif[0x010F], exif[0x0110], exif[0x0131] = "Maker", f"Model {i % 7}", f"Program {i % 5}"
        options = {"exif": exif} if i % 3 == 0 else {}
        picture.save(f"{folder}/{i}.jpg", quality=90 if i % 3 else 80, **options)
    paths = [Path(folder, f"{i}.jpg") for i in range(N_DISTINCT)]
    for i in range(N_DISTINCT, n_files):
        path = Path(folder, f"{i}.jpg")
        os.link(paths[i % N_DISTINCT], path)
        paths.append(path)
    paths = paths[:n_files]
    groups = np.arange(n_files) // 2
    y = rng.randint(0, 2, n_files)
    start, cpu = perf_counter(), process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ShortcutWarning)
        report = check_shortcuts(paths, y, groups=groups)
    print(
        f"{n_files:,} files: {perf_counter() - start:.0f} s ({process_time() - cpu:.0f} s of one "
        f"core)\n\n{report}"
    )
