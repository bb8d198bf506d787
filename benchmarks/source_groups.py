"""Time and memory of the search for copies among very many images.

    python benchmarks/source_groups.py --data DIR
    python benchmarks/source_groups.py --data DIR --parts --weights FILE
    python benchmarks/source_groups.py --n-images 100000

The first times `find_source_groups` on photographs. The second compares it with `parts=True`: links
and groups, and the score of the fast preset in five folds by the groups of each. The third makes up
thumbnails, so that 100,000 files are not needed: it measures what `find_source_groups` does after
reading the images. `--n-compared 512` compares the first 512 images with all.
"""

import argparse
import resource
from pathlib import Path
from time import process_time

import numpy as np
from joblib import Parallel
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score

from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd._core.copies.windows import matches
from sklearn_dfd.model_selection import find_copies, find_source_groups

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", type=Path, help="folder with photographs in subfolders")
parser.add_argument("--parts", action="store_true", help="compare with parts=True")
parser.add_argument("--weights", help="file of MobileNetV2's weights, to score the fast preset")
parser.add_argument("--n-images", type=int, default=100_000)
parser.add_argument("--n-compared", type=int, help="how many of them to compare with all")
parser.add_argument("--n-jobs", type=int, default=1)
args = parser.parse_args()
n, n_compared = args.n_images, args.n_compared or args.n_images

if args.data:
    paths = sorted(path for path in args.data.glob("*/*") if path.is_file())
    folders = np.array([path.parent.name for path in paths])
if args.data and args.parts:
    if args.weights:
        fast = make_deepfake_pipeline(preset="fast", weights=args.weights)
        features = fast[:-1].fit_transform(paths)
    for parts in (False, True):
        start = process_time()
        pairs, _ = find_copies(paths, parts=parts, n_jobs=args.n_jobs)
        seconds = process_time() - start
        # the groups that find_source_groups returns, without another search
        graph = coo_array((np.ones(len(pairs)), tuple(pairs.T)), shape=(len(paths),) * 2)
        groups = connected_components(graph, directed=False)[1]
        across = (folders[pairs[:, 0]] != folders[pairs[:, 1]]).sum()
        within = [(folders[pairs] == name).all(axis=1).sum() for name in np.unique(folders)]
        print(
            f"parts={parts}: {len(pairs)} pairs, {across} of them of two folders and "
            f"{' and '.join(map(str, within))} within one; "
            f"{len(set(groups)):,} groups, {np.bincount(groups).max()} in the largest; "
            f"{seconds:.0f} s of CPU time"
        )
        if args.weights:
            scores = [
                cross_val_score(
                    fast[-1],
                    features,
                    folders,
                    groups=groups,
                    cv=StratifiedGroupKFold(5, shuffle=True, random_state=seed),
                    scoring="roc_auc",
                ).mean()
                for seed in range(5)
            ]
            print(
                f"  ROC AUC of five folds by these groups, five times: {np.mean(scores):.4f} "
                f"({min(scores):.4f} to {max(scores):.4f})",
                flush=True,
            )
    raise SystemExit
if args.data:
    start = process_time()
    groups = find_source_groups(paths, n_jobs=args.n_jobs)
    seconds = process_time() - start
    print(f"{len(paths):,} photographs, {len(set(groups)):,} groups: {seconds:.0f} s of CPU time")
    raise SystemExit


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB


# Blobs of 6 pixels; the later half are edits of the earlier one, a quarter of each replaced.
rng = np.random.default_rng(0)
half = n // 2
thumbs = rng.integers(20, 236, (2 * half, 8, 8), dtype=np.uint8)
thumbs[half:] = thumbs[:half]
thumbs[half:, 4:, :4] = rng.integers(20, 236, (half, 4, 4), dtype=np.uint8)
thumbs = thumbs.repeat(6, axis=1).repeat(6, axis=2)
before, start = peak(), process_time()
one_set = n_compared == len(thumbs)
i, j, similarity = matches(
    thumbs[:n_compared], None if one_set else thumbs, False, Parallel(args.n_jobs, "threading")
)
near = similarity >= 0.89
found = set(zip(i[near].tolist(), j[near].tolist(), strict=True))
if one_set:
    found |= {(second, first) for first, second in found}
seconds = process_time() - start
edited = [(row, row + half) for row in range(min(n_compared, half))]
others = sum(i != j and abs(i - j) != half for i, j in found)
print(
    f"{n_compared:,} of {2 * half:,} thumbnails compared with all in {len(i):,} pairs: "
    f"{seconds:.0f} s of CPU time\n"
    f"peak memory {peak():.2f} GiB ({before:.2f} before the search); a matrix of all pairs would "
    f"take {4 * (2 * half) ** 2 / 2**30:.2f} GiB\n"
    f"edits found: {np.mean([pair in found for pair in edited]):.3f}; false links: {others}"
)
