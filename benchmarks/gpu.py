"""What the package does with one GPU, in rates, in memory and in differences from the CPU.

    python benchmarks/gpu.py --weights FILE [--data DIR] [--device cuda] [--small] [--only LINE ...]

The accurate detector's five folds need the photographs of the Real and Fake Face Detection set,
``--data DIR``; without them they are left out.
``--device cpu --small`` runs every line in a minute or two, to see that it runs.
"""

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from torch import nn

from sklearn_dfd import DeepFakeClassifier, MobileNetV2Features, make_deepfake_pipeline
from sklearn_dfd._core.network.mobilenet import tail_input_shape
from sklearn_dfd._core.runtime.devices import own_torch_state
from sklearn_dfd.augmentation import equalize_encoding
from sklearn_dfd.datasets import load_real_and_fake_faces, make_spliced_photos
from sklearn_dfd.feature_store import IN_PROCESS
from sklearn_dfd.metrics import bootstrap_interval
from sklearn_dfd.model_selection import find_source_groups

WIDTH = int(np.prod(tail_input_shape(15, 7840)))


class Lines:
    """What is measured, each a method; it prints rows of a table as they come."""

    def __init__(self, args, directory):
        self.args, self.device = args, torch.device(args.device)
        n_images = 32 if args.small else 2000
        photos = make_spliced_photos(16, random_state=0).data
        self.paths = [str(directory / f"{i}.jpg") for i in range(n_images)]
        for i, path in enumerate(self.paths):
            image = Image.fromarray(np.roll(photos[i % 16], i, axis=1))
            image.resize((600, 600)).save(path, quality=90)
        rng = np.random.default_rng(0)
        self.X = rng.normal(size=(256 if args.small else 4096, WIDTH)).astype(np.float32)
        self.y = np.arange(len(self.X)) % 2

    def say(self, work, value):
        print(f"| {work} | {value} |", flush=True)

    def seconds(self, function, rounds=3):
        """Return the median time of a function, after one call to warm up."""
        function()
        times = []
        for _ in range(1 if self.args.small else rounds):
            self.wait()
            start = time.perf_counter()
            function()
            self.wait()
            times.append(time.perf_counter() - start)
        return float(np.median(times))

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def start_counting_memory(self):
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self):
        if self.device.type != "cuda":
            return "not counted"
        return f"{torch.cuda.max_memory_reserved() / 2**30:.2f} GiB"

    # ---- the lines ----

    def extraction(self):
        """Images per second: as a whole, the decoding alone, and the trunk alone."""
        options = {"weights": self.args.weights, "device": self.args.device}
        features = MobileNetV2Features(**options).fit(self.paths)
        network = MobileNetV2Features._network

        def transform():
            IN_PROCESS.clear()
            features.transform(self.paths)

        self.start_counting_memory()
        whole = len(self.paths) / self.seconds(transform)
        run, batch_size = network(features, self.device)
        pixels = np.random.default_rng(0).integers(0, 256, (batch_size, 224, 224, 3), np.uint8)
        n_batches = max(2, len(self.paths) // batch_size)
        seconds = self.seconds(lambda: [run(pixels) for _ in range(n_batches)])
        trunk = n_batches * batch_size / seconds
        nothing = np.zeros((batch_size, WIDTH), np.float32)
        MobileNetV2Features._network = lambda *_: (lambda x: nothing[: len(x)], batch_size)
        try:
            decoding = len(self.paths) / self.seconds(transform)
        finally:
            MobileNetV2Features._network = network
        self.say("features of files of 600 px, images/s", f"{whole:.0f}")
        self.say("decoding, resizing and hashing alone, images/s", f"{decoding:.0f}")
        self.say("trunk alone, images/s", f"{trunk:.0f}")
        self.say("share of the slower (target 0.9)", f"{whole / min(decoding, trunk):.2f}")
        self.say("peak memory of the extraction", self.peak())

    def training(self):
        """Rows per second of training steps, by batch size; and a compiled step."""
        for batch_size in (64, 512):
            options = {"batch_size": batch_size, "weights": self.args.weights, "max_epochs": 1}
            classifier = DeepFakeClassifier(device=self.args.device, random_state=0, **options)
            classifier.fit(self.X[:128], self.y[:128])
            net = classifier.net_
            rows = classifier._rows(self.X, self.y, np.ones(len(self.X)))

            def epoch(net=net, rows=rows):
                net.history.new_epoch()
                batches = net.get_iterator(rows, training=True)
                with own_torch_state(self.device):
                    net.run_single_epoch(
                        batches, training=True, prefix="train", step_fn=net.train_step
                    )

            self.start_counting_memory()
            rate = len(self.X) / self.seconds(epoch)
            self.say(f"training, batches of {batch_size}, rows/s", f"{rate:.0f}")
            self.say(f"peak memory, batches of {batch_size}", self.peak())
            if batch_size == 64:
                compiled = self.compiled_rate(classifier, batch_size)
                self.say(f"plain steps by torch.compile, batches of {batch_size}, rows/s", compiled)

    def compiled_rate(self, classifier, batch_size):
        """Return the rate of a plain loop over the same layers, compiled, in CUDA graphs."""
        tail = classifier.net_.module_.tails[0]
        shape = tail_input_shape(15, WIDTH)
        blocks = nn.Sequential(
            nn.Unflatten(1, shape),
            tail.features,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            tail.head,
        ).train()
        x = torch.from_numpy(self.X[:batch_size]).to(self.device)
        y = torch.from_numpy(self.y[:batch_size]).to(self.device)
        optimizer = torch.optim.Adam(blocks.parameters(), lr=1e-4)
        loss_of = nn.CrossEntropyLoss()
        mode = "default" if self.device.type == "cpu" else "reduce-overhead"
        try:
            run = torch.compile(blocks, mode=mode)

            def steps():
                for _ in range(max(1, len(self.X) // batch_size)):
                    optimizer.zero_grad()
                    loss_of(run(x), y).backward()
                    optimizer.step()

            return f"{len(self.X) / self.seconds(steps):.0f}"
        except Exception as error:  # no compiler on this machine
            return f"not measured: {str(error).splitlines()[0][:80]}"

    def sharing(self):
        """Two fits on one card at the same time against one after the other."""

        def fit(seed):
            DeepFakeClassifier(
                weights=self.args.weights,
                device=self.args.device,
                max_epochs=2,
                random_state=seed,
            ).fit(self.X, self.y)

        one_by_one = self.seconds(lambda: [fit(seed) for seed in (0, 1)], 1)
        with ThreadPoolExecutor(2) as threads:
            together = self.seconds(lambda: list(threads.map(fit, (0, 1))), 1)
        self.say("two fits at once, against one after the other", f"{one_by_one / together:.2f}x")

    def equality(self):
        """How far features and probabilities are from those of the CPU."""
        paths, y = self.paths[:24], np.arange(24) % 2
        features, probabilities = [], []
        pipe = make_deepfake_pipeline(
            weights=self.args.weights, device=self.args.device, max_epochs=2, random_state=0
        ).fit(paths, y)
        for device in (self.args.device, "cpu"):
            IN_PROCESS.clear()
            pipe.set_params(features__device=device)
            features.append(pipe[0].transform(paths))
            probabilities.append(pipe[1].predict_proba(features[-1]))
        difference = np.abs(features[0] - features[1]).max() / np.abs(features[1]).max()
        self.say("features, largest difference from the CPU's, relative", f"{difference:.1e}")
        difference = np.abs(probabilities[0] - probabilities[1]).max()
        self.say("probabilities of these, largest difference", f"{difference:.1e}")

    def folds(self):
        """Minutes and scores of the accurate detector in five folds by group."""
        if self.args.data is None:
            return self.say("accurate detector, five folds", "not measured: needs --data")
        faces = load_real_and_fake_faces(self.args.data)
        X, y = faces.data, faces.target
        if self.args.small:
            some = np.r_[: len(X) : 40]
            X, y = X[some], y[some]
        groups = find_source_groups(X, n_jobs=-1)
        if self.args.quality:
            X = equalize_encoding(X, quality=self.args.quality)
        start, scores, probability = time.perf_counter(), [], np.zeros(len(y))
        self.start_counting_memory()
        for train, test in StratifiedGroupKFold(5, shuffle=True, random_state=0).split(
            X, y, groups
        ):
            detector = make_deepfake_pipeline(
                preset="accurate",
                weights=self.args.weights,
                device=self.args.device,
                image_size=self.args.image_size,
                random_state=0,
            )
            if self.args.small:
                detector.set_params(n_views=1)
            begun = time.perf_counter()
            p = detector.fit(X[train], y[train]).predict_proba(X[test])[:, 1]
            seconds = time.perf_counter() - begun
            probability[test] = p
            scores.append(roc_auc_score(y[test], p))
            self.say(f"fold {len(scores)}, ROC AUC", f"{scores[-1]:.3f} ({seconds:.0f} s)")
        minutes = (time.perf_counter() - start) / 60
        self.say("accurate detector, five folds, minutes", f"{minutes:.1f}")
        self.say("accurate detector, mean ROC AUC of the folds", f"{np.mean(scores):.3f}")
        for name, metric, value in (
            ("ROC AUC", roc_auc_score, probability),
            ("accuracy", accuracy_score, probability > 0.5),
        ):
            low, high = bootstrap_interval(metric, y, value, groups=groups, random_state=0)
            self.say(f"{name} of all", f"{metric(y, value):.3f} ({low:.3f} to {high:.3f})")
        self.say("peak memory of the folds", self.peak())


def main():
    lines = ("extraction", "training", "sharing", "equality", "folds")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True, help="state dict of mobilenet_v2")
    parser.add_argument("--data", type=Path, help="folder of the photographs")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--image-size", type=int, default=224, help="of the accurate detector")
    parser.add_argument(
        "--quality",
        type=int,
        default=75,
        help="of JPEG, for encoding all photographs alike; 0: not",
    )
    parser.add_argument("--small", action="store_true", help="little of everything")
    parser.add_argument("--only", nargs="+", choices=lines, default=lines, metavar="LINE")
    args = parser.parse_args()
    name = torch.cuda.get_device_name() if args.device.startswith("cuda") else "the CPU"
    print(f"{name}, torch {torch.__version__}\n\n| work | figure |\n|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        measured = Lines(args, Path(directory))
        for line in args.only:
            getattr(measured, line)()


if __name__ == "__main__":
    sys.exit(main())
