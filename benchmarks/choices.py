"""Compare two choices of docs/architecture.md with what they replaced, in alternating processes.

    python benchmarks/choices.py

A training step with BatchNorm and ReLU6 as one function, and as two functions of torch; and a grid
search with glibc's allocator as it is, and set to keep the memory of a step for the next one.
"""

import os
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import torch

N_ROUNDS = 3
N_STEPS = 8
LAYER_4 = (32, 20, 20)  # maps of an image of 160 pixels
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**34)}


def step(fused: bool) -> None:
    """Print the median CPU time of a step of 64 rows at layer 4 and 160 pixels, and peak memory."""
    from sklearn_dfd import DeepFakeClassifier
    from sklearn_dfd._core.network.tail import _NormClamp

    if not fused:

        def two_functions(x, weight, bias, mean, var, momentum, eps):
            x = torch.nn.functional.batch_norm(x, mean, var, weight, bias, True, momentum, eps)
            return torch.nn.functional.relu6(x)

        _NormClamp.apply = two_functions
    X = np.random.default_rng(0).normal(size=(64, *LAYER_4)).astype(np.float32).reshape(64, -1)
    y = np.arange(64) % 2
    seconds = []
    classifier = DeepFakeClassifier(4, weights=None, max_epochs=1, batch_size=64, random_state=0)
    classifier.fit(X, y)
    net, rows = classifier.net_, classifier._rows(X, y, np.ones(64))
    for _ in range(N_STEPS):
        net.history.new_epoch()
        batches = net.get_iterator(rows, training=True)
        start = time.process_time()
        net.run_single_epoch(batches, training=True, prefix="train", step_fn=net.train_step)
        seconds.append(time.process_time() - start)
    print(statistics.median(seconds[2:]), peak_megabytes())


def search() -> None:
    """Print the CPU time of a grid search: two candidates, three folds, refit."""
    from sklearn.model_selection import GridSearchCV, GroupKFold

    from sklearn_dfd import make_deepfake_pipeline
    from sklearn_dfd.datasets import make_spliced_photos

    photos = make_spliced_photos(120, random_state=0)
    pipeline = make_deepfake_pipeline(weights=None, max_epochs=3, random_state=0)
    grid = {"classifier__lr": [1e-4, 3e-4]}
    start = time.process_time()
    folds = GroupKFold(3)
    GridSearchCV(pipeline, grid, cv=folds).fit(photos.data, photos.target, groups=photos.groups)
    print(time.process_time() - start, peak_megabytes())


def peak_megabytes() -> float:
    """Return the most memory that this process has taken."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare(label: str, ways: dict[str, tuple[str, dict[str, str]]]) -> None:
    """Run each way in turn, in a fresh process, and print the medians."""
    found: dict[str, list[list[float]]] = {name: [] for name in ways}
    for _ in range(N_ROUNDS):
        for name, (work, settings) in ways.items():
            command = [sys.executable, __file__, work]
            environment = os.environ | settings
            done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
            found[name].append([float(figure) for figure in done.stdout.split()])
    for name, rounds in found.items():
        seconds, megabytes = np.median(rounds, axis=0)
        print(f"{label}, {name}: {seconds:.3g} s of CPU time, {megabytes:,.0f} MB", flush=True)


def main() -> None:
    """Compare, or run one work."""
    works = {"fused": lambda: step(True), "functions": lambda: step(False), "search": search}
    if len(sys.argv) > 1:
        works[sys.argv[1]]()
        return
    compare("training step", {"one function": ("fused", {}), "two functions": ("functions", {})})
    ways = {"glibc as it is": ("search", {}), "memory kept": ("search", KEEP_MEMORY)}
    compare("grid search", ways)


if __name__ == "__main__":
    main()
