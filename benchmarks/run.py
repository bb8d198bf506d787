"""Time the package against other ways to do the same work; print tables, and write a page.

Contenders take turns, each in a process of its own, and only ratios are reported: machines differ,
and are shared.
"""

import argparse
import json
import platform
import re
import sys
import tempfile
import textwrap
from datetime import date
from importlib.metadata import version
from pathlib import Path

import joblib
import numpy as np
import torch
from camera import write_camera_films, write_camera_photographs
from contenders import alternate, ratio
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from works import N_ROWS, N_VALID

from sklearn_dfd._core.network.mobilenet import architecture
from sklearn_dfd._core.network.tail import Tail
from sklearn_dfd.datasets import make_spliced_photos

N_IMAGES = 200  # of each size
N_LARGE = 16
N_FILMS, N_FRAMES = 6, 16
N_EPOCHS = 2  # of the whole training
SEARCH = {"n_images": 40, "max_epochs": 3}
N_MEMORY = 20_000
GROWTH = (1000, 4000, 16000)
N_FIT = 3  # epochs
N_HALVING = 9

FIT = f"fit of {N_FIT} epochs, {N_ROWS} rows, from set-up to the last measure"
BARE_LOOP = "the notebook's loop, measuring nothing"
BOOTSTRAP = "bootstrap_interval of the ROC AUC, 1,600 rows"
EACH_RESAMPLE = "roc_auc_score for each resample"

LINES = (
    *("features", "large", "films", "epoch", "fit", "training", "search"),
    *("halving", "parallel_search"),
    *("statistics", "start", "memory", "growth"),
)
CHOICES = (*LINES, "bfloat16")  # takes a processor without instructions for it thirty times as long

PAGE = """\
# Performance

{results}
`make bench` prints the tables of this page. A ratio above 1 means that this package is faster than
what it is compared with, in the same run.

## Ratios

{ratios}

## What limits the speed

The table shows which share of the machine's rate of float32 matrix products was reached, and the
ratio that would be reached at the full rate, if nothing else had to be done:

{limits}

- **Features.** The trunk consists of matrix products, which onnxruntime (or torch) computes at the
  rate of its library. What remains is decoding and resizing, which Pillow does for all contenders
  alike, and which takes a larger share of the time the larger the file is. Resizing with another
  library would be faster, and change pixels.
- **Files of 12 megapixels** spend nearly all of their time in the decoder.
  `MobileNetV2Features(decoding="fast")` makes it compute a sixteenth of the pixels, or fewer; what
  remains is mostly reading the entropy-coded data, which cannot be left out.
- **Films** of 1280 x 720 pixels, in H.264, spend nearly all of their time in FFmpeg's decoder,
  which OpenCV uses as well. The package skips frames on which no other depends, and starts at the
  last keyframe before a frame, in one pass; its conversion to RGB is exact, and slower.
- **onnxruntime alone** is the same network in the same library. The package does more around it:
  before the first image is computed, each file is read and hashed and its header checked, so a bad
  file is reported at once and a known one is not computed again.
- **Training** runs the same convolutions in the same library as the notebook's loop. What the
  package adds is the memory order of the maps, BatchNorm and its activation as one function, and
  batches that are slices. Where the ratio at the full product rate is below a target, no program
  reaches that target on this machine. Most of the rest of a step is spent on passes of BatchNorm
  and its activation over memory, forwards and backwards. At most 256 training rows are measured
  after an epoch, in a pass of their own: the price of figures that do not change while they are
  taken. An earlier `make bench`, on two cores with AVX512 instructions, printed 1.8x (1.3 to 1.9)
  for an epoch.
- **The accurate detector** takes 19 to 32 minutes of one core for 1,306 photographs of 600 x 600
  pixels, most of them spent on training steps. Half of that was the target, and was not reached:
  half as many steps, or steps over fewer blocks, [cost 0.03 to 0.04 in
  ROC AUC](what_did_not_help.md#sizes-epochs-and-crops-at-full-size).
- **A grid search** repeats neither the trunk nor the reading between candidates. Each candidate
  still takes its own training steps in each fold, and what limits training limits these as well.
- **`evaluate_robustness`** also has to distort, decode and judge the photographs, which takes the
  same time whichever way intervals are computed.
- **The first photograph of a process** waits for imports. A saved detector is a scikit-learn
  `Pipeline` in a file of joblib, and importing these two beside torch is the difference between the
  two lines. The command `sklearn-dfd detect` with a detector in `.onnx` imports neither
  scikit-learn nor torch.

## On a GPU

On one NVIDIA H200 with torch 2.11, `python benchmarks/gpu.py --weights FILE --only equality`
printed a largest difference from the CPU of 1.4e-6 of the largest feature, and 1.2e-7 in
probabilities. No rate of the package has been measured on a GPU yet. The same script measures them:
extraction compared with decoding alone and the trunk alone, training steps compared with compiled
ones, two fits that share the card, the accurate detector in five folds, and peak memory.

## How it was measured

The contenders take turns, each in a warm process of its own, in {n_rounds} rounds; work that is
marked "fresh process" starts one each time. A ratio is the median of the ratios of the rounds, with
the lowest and the highest in parentheses. Ratios are those of one machine and one day, {date}:

{machine}

The machine's rates are {flops:.0f} GFLOP/s for float32 matrix products, {bytes:.0f} GB/s for
copies, and {decoding:.0f} JPEG images of 600 x 600 pixels decoded per second, each on all cores.
"""

#: What the page says first, of lines that were timed: work, against, sentence.
RESULTS = (
    (
        "image files of 600 px -> features",
        "embetter's way",
        "Features of photographs of 600 x 600 pixels are computed {:.1f} times as fast as in "
        "embetter's way",
    ),
    (
        "image files of 600 px -> features",
        "the notebook's way",
        "{:.1f} times as fast as in the notebook's",
    ),
    (
        "image files of 600 px -> features, from a warm store",
        "computing them",
        "and from a warm store another {:.0f} times as fast",
    ),
    (
        f"one epoch of the tail, {N_ROWS} rows",
        "the notebook's loop",
        "An epoch of training is {:.1f} times as fast as in the notebook's loop",
    ),
    (
        FIT,
        BARE_LOOP,
        "a whole fit of three epochs {:.1f} times",
    ),
    (
        "grid search, 61 fits of {max_epochs} epochs, from {n_images} image files".format(**SEARCH),
        "a straightforward pipeline",
        "a grid search {:.1f} times as fast as with a straightforward pipeline",
    ),
    (
        BOOTSTRAP,
        EACH_RESAMPLE,
        "A bootstrap interval of the ROC AUC is computed {:.0f} times as fast as by calling "
        "scikit-learn's metric for each resample",
    ),
)


class Bench:
    """The lines of the table, as they come."""

    def __init__(self, args, photos, output):
        self.args, self.photos, self.output = args, photos, output
        self.rows = {}  # by line
        self.machine = None

    @property
    def lines(self):
        return [tuple(row) for line in CHOICES for row in self.rows.get(line, [])]

    def run(self, line):
        self.rows.pop(line, None)
        self.rows[line] = []  # the last, which `add` adds to
        getattr(self, line)()

    def add(self, work, against, result, target, limit=None):
        row = (work, against, result, target, limit)
        self.rows[[*self.rows][-1]].append(row)
        print("  ".join(str(cell) for cell in row), flush=True)

    def restore(self, file):
        """Take the lines of an earlier run on this machine, in place of timing them again."""
        kept = json.loads(file.read_text())
        self.machine = kept["machine"]
        # JSON has lists only
        self.rows = {
            line: [[tuple(x) if isinstance(x, list) else x for x in row] for row in rows]
            for line, rows in kept["rows"].items()
        }

    def keep(self, file):
        file.write_text(json.dumps({"machine": self.machine, "rows": self.rows}, default=float))

    def alternate(self, works, n_rounds=None):
        for _, options in works.values():
            options.setdefault("weights", str(self.args.weights))
        return alternate(works, n_rounds or self.args.rounds)

    # ---- the lines ----

    def rates(self):
        work = {"machine": ("machine", {"paths": self.photos[600][:32]})}
        _, reports = alternate(work, 3)
        self.machine = reports["machine"]

    def features(self):
        for side in (160, 600):
            paths = {"paths": self.photos[side]}
            seconds, _ = self.alternate(
                {
                    "ours": ("ours", dict(paths)),
                    "ours by torch": ("ours", {**paths, "engine": "torch"}),
                    "the notebook's way": ("notebook", dict(paths)),
                    "the notebook's way, in evaluation mode": (
                        "notebook",
                        {**paths, "put_right": True},
                    ),
                    "onnxruntime": ("onnxruntime", dict(paths)),
                    "embetter's way": ("embetter", dict(paths)),
                    "a DataLoader": ("data_loader", dict(paths)),
                    "from a warm store": (
                        "ours_from_store",
                        {**paths, "directory": str(self.output / f"store{side}")},
                    ),
                }
            )
            rate = N_IMAGES / np.median(seconds["ours"])
            share = rate * trunk_flops() / self.machine["flops"]
            work = f"image files of {side} px -> features"
            for peer, target in (
                ("the notebook's way", 5),
                ("the notebook's way, in evaluation mode", None),
                ("onnxruntime", 1),
                ("embetter's way", 3),
                ("a DataLoader", 3),
            ):
                self.add(work, peer, ratio(seconds, peer, "ours"), target, share)
            self.add(work, "the same by torch alone", ratio(seconds, "ours by torch", "ours"), None)
            warm = ratio(seconds, "ours", "from a warm store")
            self.add(f"{work}, from a warm store", "computing them", warm, 20)

    def bfloat16(self):
        paths = {"paths": self.photos[160]}
        works = {"ours": ("ours", paths), "bfloat16": ("ours", {**paths, "precision": "bfloat16"})}
        seconds, _ = self.alternate(works)
        work = "image files of 160 px -> features, bfloat16"
        self.add(work, "float32", ratio(seconds, "ours", "bfloat16"), None)

    def large(self):
        paths = {"paths": write_camera_photographs(self.output, N_LARGE)}
        seconds, _ = self.alternate(
            {
                "exact": ("ours", dict(paths)),
                "fast": ("ours", {**paths, "decoding": "fast"}),
                "onnxruntime": ("onnxruntime", dict(paths)),
            }
        )
        work = "image files of 12 megapixels -> features"
        peer = "onnxruntime, all pixels decoded by Pillow"
        self.add(work, peer, ratio(seconds, "onnxruntime", "exact"), 1)
        work += ', decoding="fast"'
        self.add(work, peer, ratio(seconds, "onnxruntime", "fast"), 3.5)
        self.add(work, 'decoding="exact"', ratio(seconds, "exact", "fast"), None)

    def films(self):
        options = {"films": write_camera_films(self.output, N_FILMS), "n_frames": N_FRAMES}
        one_pass, seeks = "OpenCV's VideoCapture, one pass", "OpenCV's VideoCapture, a seek a frame"
        seconds, reports = alternate(
            {
                "ours": ("our_frames", options),
                "known": ("our_frames", {**options, "known": True}),
                one_pass: ("opencv_frames", options),
                seeks: ("opencv_frames", {**options, "seek": True}),
            },
            self.args.rounds,
        )
        assert {report["frames"] for report in reports.values()} == {N_FILMS * N_FRAMES}
        work = f"{N_FRAMES} frames of each of {N_FILMS} films"
        for peer in (one_pass, seeks):
            self.add(work, peer, ratio(seconds, peer, "ours"), 1)
        work += ", once their times are known"
        self.add(work, one_pass, ratio(seconds, one_pass, "known"), 1)

    def epoch(self):
        seconds, _ = self.alternate(
            {"ours": ("our_epoch", {}), "the notebook's loop": ("notebook_loop", {})}
        )
        flops = N_ROWS * tail_flops(training=True) / np.median(seconds["ours"])
        self.add(
            f"one epoch of the tail, {N_ROWS} rows",
            "the notebook's loop",
            ratio(seconds, "the notebook's loop", "ours"),
            1.6,
            flops / self.machine["flops"],
        )

    def fit(self):
        seconds, _ = self.alternate(
            {
                "ours": ("our_fit", {"n_epochs": N_FIT}),
                BARE_LOOP: ("notebook_loop", {"n_epochs": N_FIT}),
            }
        )
        flops = N_FIT * N_ROWS * tail_flops(training=True) / np.median(seconds["ours"])
        share = flops / self.machine["flops"]
        self.add(FIT, BARE_LOOP, ratio(seconds, BARE_LOOP, "ours"), 1.6, share)

    def training(self):
        options = {"n_epochs": N_EPOCHS}
        peer = "the notebook's train_model, which measures every ten batches"
        peers = {
            peer: (3, {}),
            f"{peer}, put in evaluation mode to measure": (None, {"put_right": True}),
        }
        seconds, _ = self.alternate(
            {
                "ours": ("our_training", options),
                **{
                    name: ("notebook_training", {**options, **mode})
                    for name, (_, mode) in peers.items()
                },
            }
        )
        trained = N_ROWS * tail_flops(training=True)
        measured = (N_ROWS + N_VALID) * tail_flops(training=False)
        flops = N_EPOCHS * (trained + measured) / np.median(seconds["ours"])
        for name, (target, _) in peers.items():
            self.add(
                "epochs with accuracy in training and validation",
                name,
                ratio(seconds, name, "ours"),
                target,
                flops / self.machine["flops"],
            )

    def search(self):
        peer = "a straightforward pipeline"
        n_images, n_epochs = SEARCH["n_images"], SEARCH["max_epochs"]
        options = {
            "paths": self.photos[160][:n_images],
            "y": [i % 2 for i in range(n_images)],
            "max_epochs": n_epochs,
        }
        seconds, reports = self.alternate(
            {"ours": ("our_search", dict(options)), peer: ("straightforward_search", dict(options))}
        )
        rows = 60 * n_epochs * n_images * 4 // 5
        flops = rows * (tail_flops(training=True) + tail_flops(training=False))
        share = flops / np.median(seconds["ours"]) / self.machine["flops"]
        self.add(
            f"grid search, 61 fits of {n_epochs} epochs, from {n_images} image files",
            peer,
            ratio(seconds, peer, "ours"),
            5,
            share,
        )
        cached = {**options, "memory": str(self.output / "joblib"), "max_epochs": 1}
        _, cached = self.alternate({"cached": ("straightforward_search", cached)}, 1)
        runs = [r["trunk runs"] for r in (*reports.values(), *cached.values())]
        self.add(
            "the same, trunk runs per image",
            f"{peer} / with Pipeline(memory=...)",
            f"{runs[0]:.1f} against {runs[1]:.1f} / {runs[2]:.1f}",
            (1, runs[0] <= 1),
        )

    def halving(self):
        options = {"n_epochs": N_HALVING}
        peer = f"GridSearchCV of {N_HALVING} epochs each"
        seconds, _ = self.alternate(
            {
                "ours": ("our_search_of_epochs", {**options, "halving": True}),
                peer: ("our_search_of_epochs", {**options, "halving": False}),
            }
        )
        work = f"HalvingGridSearchCV over max_epochs, 12 candidates, up to {N_HALVING} epochs"
        self.add(work, peer, ratio(seconds, peer, "ours"), None)

    def parallel_search(self):
        n = joblib.cpu_count()
        seconds, _ = self.alternate(
            {
                "ours": ("our_parallel_search", {"n_jobs": n, "n_threads": n}),
                "core": ("our_parallel_search", {"n_jobs": 1, "n_threads": 1}),
                "all": ("our_parallel_search", {"n_jobs": 1, "n_threads": n}),
            }
        )
        work = f"grid search over the tail, {n} workers"
        self.add(work, "one worker on one core", ratio(seconds, "core", "ours"), 1.5)
        self.add(work, "one worker on all cores", ratio(seconds, "all", "ours"), None)

    def statistics(self):
        options = {"n_rows": 1600}
        seconds, _ = alternate(
            {
                "ours": ("interval", options),
                EACH_RESAMPLE: ("interval", {**options, "at_once": False}),
            },
            self.args.rounds,
        )
        self.add(BOOTSTRAP, EACH_RESAMPLE, ratio(seconds, EACH_RESAMPLE, "ours"), 30)
        photos = {"paths": self.photos[600][:30]}
        for work, function in (
            ("evaluate_robustness, 30 photographs", "robustness"),
            ("make_model_card, 30 photographs", "model_card"),
        ):
            seconds, _ = self.alternate(
                {
                    "ours": (function, dict(photos)),
                    "each": (function, {**photos, "at_once": False}),
                }
            )
            peer = "the same, with scikit-learn's metrics for each resample"
            self.add(work, peer, ratio(seconds, "each", "ours"), 10)

    def start(self):
        peer = "import torch and a bare forward"
        floor = "import torch, scikit-learn and joblib, and a bare forward"
        seconds, _ = self.alternate(
            {
                "ours": ("first_photograph", {"paths": self.photos[600]}),
                peer: ("bare_forward", {}),
                floor: ("bare_forward", {"others": ["sklearn.pipeline", "joblib"]}),
            }
        )
        work = "a saved detector judges one photograph in a fresh process"
        for name, target in ((peer, 1 / 1.3), (floor, None)):
            self.add(work, name, ratio(seconds, name, "ours"), target)

    def memory(self):
        options = {
            "paths": self.photos[160],
            "n_images": N_MEMORY,
            "directory": str(self.output),
        }
        _, reports = self.alternate({"ours": ("our_memory", options)}, 1)
        report = {name: n_bytes / 1e9 for name, n_bytes in reports["ours"].items()}
        self.add(
            f"peak memory of extracting {N_MEMORY:,} images",
            "the array of their features",
            f"+{report['growth'] - report['output']:.2f} GB beside {report['output']:.2f} GB "
            f"({report['peak']:.2f} GB for the whole process)",
            ("+1 GB", report["growth"] - report["output"] <= 1),
        )

    def growth(self):
        options = {"paths": self.photos[160], "directory": str(self.output)}
        # one round: each of these runs is long by itself
        works = {n: ("our_growth", {**options, "n_images": n}) for n in GROWTH}
        seconds, _ = self.alternate(works, 1)
        rates = {n: n / np.median(seconds[n]) for n in GROWTH}
        relative = ", ".join(f"{rates[n] / rates[GROWTH[0]]:.2f}" for n in GROWTH)
        sizes = ", ".join(f"{n:,}" for n in GROWTH)
        flat = all(0.85 <= rate / rates[GROWTH[0]] <= 1.15 for rate in rates.values())
        target = ("0.85 to 1.15", flat)
        self.add(f"images/s for {sizes} images", f"{GROWTH[0]:,}", relative, target)

    # ---- the page ----

    def ratios(self):
        rows = ["| work | against | ratio | target | reached |", "|---|---|---|---|---|"]
        for work, against, result, target, _ in self.lines:
            reached = ""
            if isinstance(target, tuple):
                target, reached = target
            elif target is not None:
                reached = result[0] >= target
                target = times(target)
            if isinstance(result, tuple):
                result = f"{times(result[0])} ({digits(result[1])} to {digits(result[2])})"
            target = "" if target is None else target
            reached = {True: "yes", False: "no"}.get(reached, "")
            rows.append(f"| {work} | {against} | {result} | {target} | {reached} |")
        return "\n".join(rows)

    def limits(self):
        rows = ["| work | against | share of the rate | ratio at all of it |", "|---|---|---|---|"]
        rows += [
            f"| {work} | {against} | {limit:.0%} | {times(result[0] / limit)} |"
            for work, against, result, _, limit in self.lines
            if limit is not None
        ]
        return "\n".join(rows)

    def results(self):
        """Say the results that matter most, in a sentence or two."""
        ratios = {(line[0], line[1]): line[2] for line in self.lines}
        said = [
            sentence.format(ratios[work, against][0])
            for work, against, sentence in RESULTS
            if (work, against) in ratios
        ]
        text = re.sub(", (?=[A-Z])", ". ", ", ".join(said)) + "." if said else ""
        return textwrap.fill(text, 100) + "\n" if said else ""

    def page(self):
        return PAGE.format(
            results=self.results(),
            machine=machine_text(),
            n_rounds=self.args.rounds,
            flops=self.machine["flops"] / 1e9,
            bytes=self.machine["bytes"] / 1e9,
            decoding=self.machine["decoding"],
            ratios=self.ratios(),
            limits=self.limits(),
            date=date.today().strftime("%d %B %Y").lstrip("0"),
        )


def digits(value):
    """Write a ratio with two significant digits, three above 100."""
    return f"{value:.{2 if value < 1 else 1 if value < 10 else 0}f}"


def times(value):
    return f"{digits(value)}x"


def trunk_flops():
    """Operations of the trunk up to block 15 for one image of 224 pixels."""
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        architecture().features[:16](torch.empty(1, 3, 224, 224))
    return counter.get_total_flops()


def tail_flops(*, training):
    """Operations of the tail after block 15 for one row, backwards too in training."""
    tail = Tail(15, (160, 7, 7), (512, 256), 2, 0.0)
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        tail.head(tail.features(torch.empty(1, 160, 7, 7)).mean((2, 3)))
    forward = counter.get_total_flops()
    if not training:
        return forward
    # gradients of the maps and of the weights, but for the maps that the trunk gave
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        tail.features[0].conv[0](torch.empty(1, 160, 7, 7))
    return 3 * forward - counter.get_total_flops()


def photographs(data, directory):
    """Paths of photographs of both sizes."""
    if data is None:
        images = [Image.fromarray(a) for a in make_spliced_photos(N_IMAGES, random_state=0).data]
    else:
        found = sorted(Path(data).rglob("*.jpg"))
        if len(found) < N_IMAGES:
            raise SystemExit(f"--data {data}: {len(found)} JPEG files, {N_IMAGES} are needed")
        every = np.linspace(0, len(found) - 1, N_IMAGES).astype(int)
        images = [Image.open(found[i]).convert("RGB") for i in every]
    paths = {}
    for side in (160, 600):
        paths[side] = [str(directory / f"{side}_{i}.jpg") for i in range(N_IMAGES)]
        for path, image in zip(paths[side], images, strict=True):
            image.resize((side, side)).save(path, quality=90)
    return paths


def machine_text():
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        processor = names[0].split(":")[1].strip() if names else processor
    packages = (
        *("torch", "torchvision", "onnxruntime", "scikit-learn", "skorch", "numpy", "pillow"),
        *("av", "opencv-python-headless"),
    )
    return (
        f"{joblib.cpu_count()} cores of {processor} ({torch.backends.cpu.get_cpu_capability()}), "
        f"{platform.system()}, Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in packages)
        + "."
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of JPEG photographs; otherwise made on the spot")
    parser.add_argument("--weights", type=Path, help="state dict of mobilenet_v2; random otherwise")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=CHOICES, default=LINES, metavar="LINE")
    parser.add_argument("--lines", type=Path, help="file of lines, which a run with --only adds to")
    parser.add_argument("--page", type=Path, help="file to write the page to")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory)
        if args.weights is None:
            from torchvision.models import mobilenet_v2

            args.weights = output / "random.pth"
            torch.save(mobilenet_v2().state_dict(), args.weights)
        bench = Bench(args, photographs(args.data, output), output)
        if args.lines and args.lines.exists():
            bench.restore(args.lines)
        else:
            bench.rates()
        for line in args.only:
            bench.run(line)
            if args.lines:
                bench.keep(args.lines)
            if args.page:  # after each line: what was timed is not lost
                args.page.write_text(bench.page())
    print(bench.ratios(), bench.limits(), sep="\n\n")


if __name__ == "__main__":
    sys.exit(main())
