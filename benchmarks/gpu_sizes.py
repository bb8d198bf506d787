"""Image sizes, cuts, epochs, pooling and crops for the accurate detector, tried on one GPU.

    python benchmarks/gpu_sizes.py --data DIR --weights FILE [--n-folds K] SETTING ...

A setting is a list of changes such as ``size=320,epochs=3``. ``size`` is the side that photographs
are resized to; ``layer`` the last frozen block; ``pool`` is mean, gem (generalised mean, with the
power 3) or meanmax; ``crop=384`` trains on squares cut out at the photographs' own scale, and
judges whole photographs; ``seed`` is that of the training. Settings joined by ``+`` are trained
apart, and their probabilities averaged.

The package itself trains in float32 with reproducible convolutions. This loop trains the same
layers on the same kinds of views in half precision, with views made on the GPU, so that a fold of
a large size takes seconds. Its figures are therefore comparable with one another, and less so with
those of the package. All files are first encoded alike, and must have the same square size.
"""

import argparse
import copy
from collections import defaultdict
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from torch.nn import functional as F

from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd._core.images.decoding import to_rgb
from sklearn_dfd._core.images.reading import read_all
from sklearn_dfd._core.network.mobilenet import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    architecture,
    load_blocks,
)
from sklearn_dfd._core.network.tail import Tail
from sklearn_dfd.augmentation import equalize_encoding
from sklearn_dfd.datasets import load_real_and_fake_faces
from sklearn_dfd.model_selection import find_source_groups
from sklearn_dfd.weights import load_weights

PRESET = make_deepfake_pipeline(preset="accurate")
N_VIEWS, CLASSIFIER = PRESET.n_views, PRESET.estimator["classifier"]
LR, BATCH, EMA = CLASSIFIER.lr, CLASSIFIER.batch_size, CLASSIFIER.ema_decay
GRADIENT_SCALE = 256  # keeps small gradients from vanishing in half precision
GREY = (0.299, 0.587, 0.114)
POOLS = {
    "mean": lambda x: x.mean((2, 3)),
    "gem": lambda x: (x.clamp(min=1e-4).float() ** 3).mean((2, 3)) ** (1 / 3),
    "meanmax": lambda x: (x.mean((2, 3)) + x.amax((2, 3))) / 2,
}
DEFAULTS = {
    "size": PRESET.estimator["features"].image_size,
    "layer": CLASSIFIER.layer,
    "epochs": CLASSIFIER.max_epochs,
    "pool": "mean",
    "crop": 0,
    "seed": 0,
}


def changes_of(setting):
    """Read a setting into a dict of all its values."""
    changes = dict(change.split("=") for change in filter(None, setting.split(",")))
    if unknown := changes.keys() - DEFAULTS.keys():
        raise SystemExit(f"No such change: {', '.join(sorted(unknown))}. There are: {[*DEFAULTS]}.")
    return {name: type(usual)(changes.get(name, usual)) for name, usual in DEFAULTS.items()}


def resized(x, side):
    if x.shape[1:] == (side, side):
        return x
    return F.interpolate(x[None], (side, side), mode="bilinear", antialias=True)[0]


def view(photo, row, number, size, crop):
    """Mirror, crop and recolour at random, as the preset's recipe does."""
    rng = np.random.default_rng((row, number))
    x, side = photo.float(), photo.shape[1]
    if rng.uniform() < 0.5:
        x = x.flip(2)
    if crop:
        top, left = rng.integers(0, side - crop + 1, 2)
        x = x[:, top : top + crop, left : left + crop]
    else:
        area, stretch = rng.uniform(0.8, 1), np.exp(rng.uniform(-0.1, 0.1))
        shares = np.sqrt([area / stretch, area * stretch])
        height, width = (min(side, round(side * share)) for share in shares)
        top, left = rng.integers(0, side - height + 1), rng.integers(0, side - width + 1)
        x = resized(x[:, top : top + height, left : left + width], size)
    if rng.uniform() < 0.5:
        brightness, contrast, saturation = rng.uniform(0.8, 1.2, 3)
        grey = torch.tensor(GREY, device=x.device).reshape(3, 1, 1)
        x = (x * brightness).clamp(0, 255)
        mean = (x * grey).sum(0).mean()
        x = (mean + (x - mean) * contrast).clamp(0, 255)
        in_grey = (x * grey).sum(0, keepdim=True)
        x = (in_grey + (x - in_grey) * saturation).clamp(0, 255)
    return x.round()


class Loop:
    """Photographs and weights, and the maps of the trunk that were needed last."""

    def __init__(self, photos, y, weights, device, n_steps=None):
        self.device, self.n_steps = torch.device(device), n_steps
        self.photos = torch.from_numpy(photos).permute(0, 3, 1, 2).contiguous().to(device)
        self.y, self.arrays = torch.tensor(y, device=device), load_weights(weights)
        self._of, self._maps = None, None

    def half(self):
        return (
            torch.autocast("cuda", torch.float16) if self.device.type == "cuda" else nullcontext()
        )

    def maps(self, size, layer, crop):
        """Return maps of N_VIEWS views, of the photographs and of their mirror images."""
        if self._of == (size, layer, crop):
            return self._maps
        self._maps = None
        trunk = copy.deepcopy(architecture().features[: layer + 1]).eval()
        load_blocks(trunk, self.arrays)
        trunk = trunk.to(self.device, memory_format=torch.channels_last)
        shift, scale = (
            255 * torch.tensor(values, device=self.device).reshape(3, 1, 1)
            for values in (IMAGENET_MEAN, IMAGENET_STD)
        )

        def image(row, number):
            if number < N_VIEWS:
                return view(self.photos[row], row, number, size, crop)
            x = self.photos[row].float()
            x = x if crop else resized(x, size).round()
            return x.flip(2) if number > N_VIEWS else x

        maps, n = [], len(self.photos)
        with torch.inference_mode(), self.half():
            for number in range(N_VIEWS + 2):
                parts = []
                for start in range(0, n, 32):
                    rows = range(start, min(n, start + 32))
                    x = torch.stack([image(row, number) for row in rows])
                    x = ((x - shift) / scale).contiguous(memory_format=torch.channels_last)
                    parts.append(trunk(x).half())
                maps.append(torch.cat(parts).permute(0, 2, 3, 1).contiguous())
        self._of, self._maps = (size, layer, crop), maps
        return maps

    def batch(self, maps, rows):
        x = maps[torch.from_numpy(rows).to(self.device)].permute(0, 3, 1, 2)
        return x if self.device.type == "cuda" else x.float()

    def fit_predict(self, train, test, *, size, layer, epochs, pool, crop, seed):
        """Train on some photographs, and return the probability of the second class of others."""
        maps = self.maps(size, layer, crop)
        views, n = torch.cat(maps[: N_VIEWS + (not crop)]), len(self.photos)
        torch.manual_seed(seed)  # of dropout
        width, height = maps[0].shape[3], maps[0].shape[1]
        widths, dropout = CLASSIFIER.hidden_layer_sizes, CLASSIFIER.dropout
        tail = Tail(layer, (width, height, height), widths, 2, dropout)
        tail.initialize(self.arrays, torch.Generator().manual_seed(seed))
        tail = tail.to(self.device, memory_format=torch.channels_last).train()

        def logits(x):
            with self.half():
                return tail.head(POOLS[pool](tail.features(x))).float()

        parameters = list(tail.parameters())
        fused = self.device.type == "cuda"
        optimizer = torch.optim.Adam(parameters, lr=LR, fused=fused)
        rows = np.concatenate([train + n * number for number in range(len(views) // n)])
        n_steps = epochs * -(-len(rows) // BATCH)
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, LR, total_steps=n_steps + 1, cycle_momentum=False
        )
        moving = [t for t in tail.state_dict().values() if t.is_floating_point()]
        averages = [t.detach().clone() for t in moving]
        rng, step = np.random.default_rng(seed), 0
        for _ in range(epochs):
            order = rng.permutation(rows)
            for start in range(0, len(order), BATCH)[: self.n_steps]:
                some = order[start : start + BATCH]
                labels = self.y[torch.from_numpy(some % n).to(self.device)]
                loss = F.cross_entropy(
                    logits(self.batch(views, some)),
                    labels,
                    label_smoothing=CLASSIFIER.label_smoothing,
                )
                (loss * GRADIENT_SCALE).backward()
                gradients = [p.grad for p in parameters]
                torch._foreach_mul_(gradients, 1 / GRADIENT_SCALE)
                signs = torch._foreach_sign([p.detach() for p in parameters])
                torch._foreach_add_(gradients, signs, alpha=CLASSIFIER.l1_factor)
                optimizer.step()
                optimizer.zero_grad()
                cycle.step()
                step += 1
                decay = min(EMA, (1 + step) / (10 + step))
                torch._foreach_lerp_(averages, [t.detach() for t in moving], 1 - decay)
        with torch.no_grad():
            torch._foreach_copy_(moving, averages)
        tail.eval()
        with torch.inference_mode():
            both = [
                torch.cat(
                    [
                        logits(self.batch(maps[number], some)).softmax(1)[:, 1].cpu()
                        for some in np.array_split(test, -(-len(test) // BATCH))
                    ]
                )
                for number in (N_VIEWS, N_VIEWS + 1)
            ]
        return (sum(both) / 2).numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the photographs")
    parser.add_argument("--weights", required=True, help="state dict of mobilenet_v2")
    parser.add_argument("--n-folds", type=int, default=2, help="of five, to train and judge on")
    parser.add_argument("--quality", type=int, default=75, help="of JPEG; 0: files as they are")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--n-steps", type=int, help="of each epoch, to see that it runs")
    parser.add_argument("settings", nargs="*", default=[""])
    args = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    faces = load_real_and_fake_faces(args.data)
    X, y = faces.data, faces.target
    groups = find_source_groups(X, n_jobs=-1)
    images = equalize_encoding(X, quality=args.quality) if args.quality else X
    photos = np.stack(read_all(list(images), lambda raw: np.asarray(to_rgb(raw))))
    loop = Loop(photos, y, args.weights, args.device, args.n_steps)
    split = StratifiedGroupKFold(5, shuffle=True, random_state=0).split(X, y, groups)
    folds = list(split)[: args.n_folds]
    name = torch.cuda.get_device_name() if args.device.startswith("cuda") else "the CPU"
    print(f"{name}, torch {torch.__version__}, {len(folds)} folds\n")
    print("| setting | ROC AUC | accuracy | seconds per fold |\n|---|---|---|---|", flush=True)
    known, seconds = {}, defaultdict(list)
    for setting in args.settings:
        members = setting.split("+")
        for member, fold in product(members, range(len(folds))):
            if (member, fold) not in known:
                start = perf_counter()
                known[member, fold] = loop.fit_predict(*folds[fold], **changes_of(member))
                seconds[member].append(perf_counter() - start)
        scores = []
        for fold, (_, test) in enumerate(folds):
            p = np.mean([known[member, fold] for member in members], axis=0)
            scores.append([roc_auc_score(y[test], p), accuracy_score(y[test], p > 0.5)])
        auc, accuracy = np.mean(scores, axis=0)
        took = " + ".join(f"{np.mean(seconds[member]):.0f}" for member in members)
        print(f"| `{setting}` | {auc:.3f} | {accuracy:.3f} | {took} |", flush=True)


if __name__ == "__main__":
    main()
