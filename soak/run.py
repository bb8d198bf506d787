"""Leave it running: mutated images and films, load, kills, random pipelines; print what was tried.

    python soak/run.py --minutes 60 [--only images films load kills pipelines]
                       [--files N] [--films N] [--predictions N] [--kills N] [--pipelines N]
                       [--seed N]

The minutes are shared out; a part that reaches its number leaves the rest of its time to those
after it. What failed comes below the table. The exit status is the number of failures.
"""

import argparse
import itertools
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import films
import images
import kills
import load
import numpy as np
import pipelines

FILES = 1000  # mutated in one process


def _fuzz(connection, kind, seed, n_files, last):
    connection.send(kind.fuzz(seed, n_files, on_file=Path(last).write_bytes))


def _fuzz_images(connection, *arguments):
    _fuzz(connection, images, *arguments)


def _fuzz_films(connection, *arguments):
    _fuzz(connection, films, *arguments)


def fuzz_apart(seed, n_files, last, fuzz=_fuzz_images):
    """Mutate files in a separate process, which a file may crash or keep busy forever."""
    context = multiprocessing.get_context("forkserver")
    connection, theirs = context.Pipe(duplex=False)
    process = context.Process(target=fuzz, args=(theirs, seed, n_files, str(last)))
    process.start()
    theirs.close()
    patience = 60 + 10 * images.SECONDS * n_files
    try:
        if connection.poll(patience):
            return connection.recv()
        what = f"no end after {patience:.0f} s"
    except EOFError:
        process.join()
        what = f"the process ended with exit status {process.exitcode}"
    finally:
        process.kill()
        process.join()
    raw = last.read_bytes() if last.exists() else b""
    return Counter(), [(f"seed {seed}", what, raw.hex())]


def run_images(seconds, n_files, seed, directory):
    """Mutated images."""
    yield from run_mutated("mutated files", _fuzz_images, seconds, n_files, seed, directory)


def run_films(seconds, n_films, seed, directory):
    """Mutated films."""
    yield from run_mutated("mutated films", _fuzz_films, seconds, n_films, seed, directory)


def run_mutated(what, fuzz, seconds, n_files, seed, directory):
    """Mutate files in parts with seeds of their own: each can be run again alone."""
    start = time.monotonic()
    counts, defects = Counter(), []
    for part in itertools.count():
        left = min(FILES, n_files - part * FILES)
        if left <= 0 or time.monotonic() - start > seconds:
            break
        some, wrong = fuzz_apart(seed * 100_000 + part, left, directory / "last", fuzz)
        counts += some
        defects += [f"{name}: {reason} {raw}" for name, reason, raw in wrong]
    decoded, refused = (
        sum(n for (_, outcome), n in counts.items() if outcome == kind)
        for kind in ("decoded", "refused")
    )
    total = decoded + refused + len(defects)
    yield what, total, defects, f"{decoded:,} decoded, {refused:,} refused"


def run_kills(seconds, n_kills, seed, directory):
    """Extraction most of the time, since a search is mostly training."""
    for name, share in [("extraction", 0.8), ("search", 0.2)]:
        deadline = time.monotonic() + seconds * share
        counts, failures = Counter(), []
        for attempt in itertools.count():
            left = round(n_kills * share) - counts["kills"]
            if attempt and (left <= 0 or time.monotonic() > deadline or len(failures) > 20):
                break
            try:
                kills.kill_and_resume(
                    name,
                    left,
                    directory / f"{name} {attempt}",
                    seed + attempt,
                    deadline - time.monotonic(),
                    counts,
                )
            except Exception:
                failures.append(traceback.format_exc())
        remark = f"{counts['endings']} ends, all equal" if not failures else ""
        remark += f"; at most {counts['worst']} images computed in vain by a kill"
        yield f"kills of {name}", counts["kills"], failures, remark


def run_load(seconds, n_predictions, seed, directory):
    """Processes that are spawned and forked, and then one alone for its memory."""
    start = time.monotonic()
    for method in ("spawn", "fork"):
        done, failures = 0, []
        try:
            done = load.shared(directory / method, 2, 2, n_predictions, 0.15 * seconds, method)
        except Exception:
            failures.append(traceback.format_exc())
        yield f"calls shared ({method})", done, failures, "3 processes of 2 threads, one store"
    done, failures, remark = 0, [], ""
    try:
        left = max(0, seconds - (time.monotonic() - start))
        done, growth, n_files, n_threads = load.flat(n_predictions, left)
        remark = f"memory {growth:+.1%}, files {n_files:+d}, threads {n_threads:+d}"
        if growth > 0.05 or n_files > 0 or n_threads > 0:
            failures.append(remark)
    except Exception:
        failures.append(traceback.format_exc())
    yield "predictions in a row", done, failures, remark


def run_pipelines(seconds, n_pipelines, seed, directory):
    """Valid pipelines on data that may be hostile."""
    start, done, failures, counts = time.monotonic(), 0, [], Counter()
    while done < n_pipelines and (done == 0 or time.monotonic() - start < seconds):
        rng = np.random.default_rng([seed, done])  # each can be run again alone
        try:
            counts[pipelines.random_pipeline(rng, directory)] += 1
        except Exception:
            failures.append(f"pipeline {done} of seed {seed}: {traceback.format_exc()}")
        done += 1
    remark = (
        f"{counts['refused']} refused their numbers, {counts['rounding']} are decided by rounding"
    )
    yield "random pipelines", done, failures, remark


#: What is run, the option that bounds it, and its share of the time.
PARTS = {
    "images": (run_images, "files", 1),
    "films": (run_films, "films", 1),
    "load": (run_load, "predictions", 2),
    "kills": (run_kills, "kills", 2),
    "pipelines": (run_pipelines, "pipelines", 1),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--files", type=int, default=10_000_000)
    parser.add_argument("--films", type=int, default=10_000_000)
    parser.add_argument("--predictions", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=10_000)
    parser.add_argument("--pipelines", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    shares = {part: PARTS[part][2] for part in options.only}
    multiprocessing.set_forkserver_preload(["sklearn_dfd"])  # which takes seconds, once
    all_failures = []
    print("| tried | how often | failed | |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        for part in options.only:
            run, option, share = PARTS[part]
            folder = Path(directory, part)
            folder.mkdir()
            seconds = (deadline - time.monotonic()) * share / sum(shares.values())
            del shares[part]
            number = getattr(options, option)
            for what, n, failures, remark in run(seconds, number, options.seed, folder):
                print(f"| {what} | {n:,} | {len(failures)} | {remark} |", flush=True)
                all_failures += [f"{what}: {failure}" for failure in failures]
    for failure in all_failures[:50]:
        print(failure)
    return len(all_failures)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # of the processes that are started
    sys.exit(min(main(), 100))
