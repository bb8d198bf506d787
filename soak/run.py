"""Leave it running: mutated images, kills, load, random pipelines; print what was tried.

    python soak/run.py --minutes 60 [--only images kills load pipelines]
                       [--files N] [--kills N] [--predictions N] [--seed N]

Without a number the minutes are shared out evenly. The exit status is the number of failures.
"""

import argparse
import itertools
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import images
import kills
import load
import numpy as np
import pipelines


def run_images(seconds, n_files, seed, directory):
    """Mutated files; a file that ends the process is left in the directory."""
    last = Path(directory, "last")
    start = time.monotonic()
    counts, defects, slowest = Counter(), [], 0.0
    for part in itertools.count():
        # parts, with seeds of their own: each can be run again alone
        left = min(1000, n_files - sum(counts.values()))
        if left <= 0 or time.monotonic() - start > seconds:
            break
        begun = time.process_time()
        some, wrong = images.fuzz(seed * 100_000 + part, left, on_file=last.write_bytes)
        slowest = max(slowest, (time.process_time() - begun) / max(left, 1))
        counts += some
        defects += [f"{name}: {reason} {raw[:400]}" for name, reason, raw in wrong]
    decoded = sum(n for (_, outcome), n in counts.items() if outcome == "decoded")
    total = sum(counts.values()) + len(defects)
    yield "mutated files", total, defects, f"{decoded} decoded, {total - decoded} refused"


def run_kills(seconds, n_kills, seed, directory):
    """Extraction most of the time, since a search is mostly training."""
    for name, share in [("extraction", 0.8), ("search", 0.2)]:
        done, failures, remark = 0, [], ""
        try:
            done, endings, worst = kills.kill_and_resume(
                name, round(n_kills * share), Path(directory, name), seed, seconds * share
            )
            remark = f"{endings} ends, all equal; at most {worst} images computed again a kill"
        except Exception:
            failures.append(traceback.format_exc())
        yield f"kills of {name}", done, failures, remark


def run_load(seconds, n_predictions, seed, directory):
    """Processes that are spawned and forked, and then one alone for its memory."""
    for method in ("spawn", "fork"):
        done, failures = 0, []
        try:
            folder = Path(directory, method)
            done = load.shared(folder, 2, 2, max(10, n_predictions // 40), 60 + seconds, method)
        except Exception:
            failures.append(traceback.format_exc())
        yield f"calls shared ({method})", done, failures, "3 processes of 2 threads, one store"
    done, failures, remark = 0, [], ""
    try:
        done, growth, n_files, n_threads = load.flat(n_predictions, seconds)
        remark = f"memory {growth:+.1%}, files {n_files:+d}, threads {n_threads:+d}"
        if growth > 0.05 or n_files > 0 or n_threads > 0:
            failures.append(remark)
    except Exception:
        failures.append(traceback.format_exc())
    yield "predictions in a row", done, failures, remark


def run_pipelines(seconds, n_pipelines, seed, directory):
    """Valid pipelines on data that may be hostile."""
    rng = np.random.default_rng(seed)
    start, done, failures, refused = time.monotonic(), 0, [], 0
    while done < n_pipelines and (done == 0 or time.monotonic() - start < seconds):
        try:
            refused += pipelines.random_pipeline(rng, directory)
        except Exception:
            failures.append(traceback.format_exc())
        done += 1
    yield "random pipelines", done, failures, f"{refused} of them refused their numbers"


PARTS = {"images": run_images, "kills": run_kills, "load": run_load, "pipelines": run_pipelines}
NUMBERS = {"images": "files", "kills": "kills", "load": "predictions", "pipelines": "pipelines"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--files", type=int, default=10_000_000)
    parser.add_argument("--kills", type=int, default=10_000)
    parser.add_argument("--predictions", type=int, default=10_000)
    parser.add_argument("--pipelines", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    seconds = 60 * options.minutes / len(options.only)
    n_failures = 0
    print("| tried | how often | failed | |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        for part in options.only:
            folder = Path(directory, part)
            folder.mkdir()
            number = getattr(options, NUMBERS[part])
            for what, n, failures, remark in PARTS[part](seconds, number, options.seed, folder):
                print(f"| {what} | {n:,} | {len(failures)} | {remark} |", flush=True)
                n_failures += len(failures)
                for failure in failures[:5]:
                    print(failure, file=sys.stderr)
    return n_failures


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # of the processes that are started
    sys.exit(min(main(), 100))
