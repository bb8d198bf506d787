"""Time two choices of docs/architecture.md beside what they replaced, in alternating processes.

    python benchmarks/choices.py

A training step with BatchNorm and ReLU6 as one function, and as two modules of torch; and a grid
search with glibc's allocator as it is, and told to keep the memory of a step for the next one.
"""

import os
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
from works import rows_of

N_ROUNDS = 5
N_STEPS = 20
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**34)}


def step(fused: bool) -> None:
    """Print the median CPU time of a training step of 64 rows at layer 15."""
    from sklearn_dfd import DeepFakeClassifier
    from sklearn_dfd._core.network.tail import _NormClamp

    if not fused:

        def two_modules(x, weight, bias, mean, var, momentum, eps):
            x = torch.nn.functional.batch_norm(x, mean, var, weight, bias, True, momentum, eps)
            return torch.nn.functional.relu6(x)

        _NormClamp.apply = two_modules
    X, y = rows_of(64)
    seconds = []
    classifier = DeepFakeClassifier(weights=None, max_epochs=1, batch_size=64, random_state=0)
    classifier.fit(X, y)
    net, rows = classifier.net_, classifier._rows(X, y, np.ones(64))
    for _ in range(N_STEPS):
        net.history.new_epoch()
        batches = net.get_iterator(rows, training=True)
        start = time.process_time()
        net.run_single_epoch(batches, training=True, prefix="train", step_fn=net.train_step)
        seconds.append(time.process_time() - start)
    print(statistics.median(seconds[2:]))


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
    print(time.process_time() - start)


def compare(label: str, ways: dict[str, tuple[str, dict[str, str]]]) -> None:
    """Run each way in turn, in a fresh process, and print the medians."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(N_ROUNDS):
        for name, (work, settings) in ways.items():
            command = [sys.executable, __file__, work]
            environment = os.environ | settings
            done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
            seconds[name].append(float(done.stdout))
    for name, all_of_one in seconds.items():
        print(f"{label}, {name}: {statistics.median(all_of_one):.3g} s of CPU time", flush=True)


def main() -> None:
    """Compare, or run one work."""
    works = {"fused": lambda: step(True), "modules": lambda: step(False), "search": search}
    if len(sys.argv) > 1:
        works[sys.argv[1]]()
        return
    compare("training step", {"one function": ("fused", {}), "two modules": ("modules", {})})
    ways = {"glibc as it is": ("search", {}), "memory kept": ("search", KEEP_MEMORY)}
    compare("grid search", ways)


if __name__ == "__main__":
    main()
