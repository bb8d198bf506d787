"""How long `check_shortcuts` takes for very many files, and how often it is wrong.

    python benchmarks/shortcuts.py
    python benchmarks/shortcuts.py --n-files 2000
    python benchmarks/shortcuts.py --shuffles 200

Each of 500 distinct files is there under many names (hard links), so that the disk holds them all.
A third has EXIF data and another quality; files come in groups of two.

With `--shuffles` no files are made: attributes and labels are drawn independently of each other,
and it prints how often a 95 % interval excludes 0.5: for folds that are tested with a rule from the
folds before them, as `check_shortcuts` does, and for ordinary cross-validation with that rule.
"""

import argparse
import os
import tempfile
import warnings
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
from PIL import Image

from sklearn_dfd._core.shortcuts.rule import (
    auc_intervals,
    coded,
    folds_by_group,
    forward_scores,
)
from sklearn_dfd.exceptions import ShortcutWarning
from sklearn_dfd.model_selection import check_shortcuts

N_DISTINCT = 500

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--n-files", type=int, default=100_000)
parser.add_argument("--shuffles", type=int, help="how many labellings to draw")
args = parser.parse_args()
n_files, rng = args.n_files, np.random.RandomState(0)


def drawn(seed, n_groups, largest):
    """Draw attributes of groups, and a label for each group."""
    rng = np.random.RandomState(seed)
    groups = np.repeat(np.arange(n_groups), rng.randint(1, largest + 1, n_groups))
    kinds = [rng.choice(k, n_groups, p=rng.dirichlet(np.ones(k))).astype(str) for k in (2, 3, 5)]
    numbers = [rng.normal(size=n_groups).round(1) for _ in range(3)]
    y = rng.permutation(np.arange(n_groups) % 2)[groups]
    return [coded(column[groups].tolist()) for column in kinds + numbers], y, groups


def cross_validated(codes, y, fold):
    """Score each fold by the rule of all others."""
    scores = np.zeros(len(y))
    for k in range(fold.max() + 1):
        scores[fold == k] = forward_scores(codes, y, (fold == k).astype(int))[fold == k]
    return scores


if args.shuffles:
    print("groups  files per group  folds before   ordinary cross-validation")
    for n_groups, largest in ((60, 1), (200, 1), (200, 4), (1000, 1)):
        excluded = np.zeros((args.shuffles, 2))
        for seed in range(args.shuffles):
            codes, y, groups = drawn(seed, n_groups, largest)
            fold = folds_by_group(y, groups, 5, seed)
            for i, (scores, numbers) in enumerate(
                [
                    (forward_scores(codes, y, fold), fold),
                    (cross_validated(codes, y, fold), fold + 1),
                ]
            ):
                _, ((low, high),) = auc_intervals([scores], y, groups, numbers, 0.95, seed)
                excluded[seed, i] = not low <= 0.5 <= high
        forward, ordinary = excluded.mean(axis=0)
        print(
            f"{n_groups:6d}  {f'1 to {largest}':15s}  {forward:12.3f}   {ordinary:.3f}", flush=True
        )
    raise SystemExit

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
