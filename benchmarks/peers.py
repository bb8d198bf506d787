"""Other ways to do the same work, written as their users would write them."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from sklearn.base import BaseEstimator, TransformerMixin
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import transforms
from torchvision.models import mobilenet_v2

BILINEAR = Image.Resampling.BILINEAR
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREPARE = transforms.Compose(
    [transforms.Resize((224, 224)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
)


def torchvision_model(state):
    model = mobilenet_v2()
    model.load_state_dict(state)
    return model.eval()


def load(path):
    return PREPARE(decode(path))


def decode(path):
    return Image.open(path).convert("RGB")


# ---- films ----


def opencv_frames(path, n_frames):
    """One pass: all frames are decoded, and those in the middle of equal parts are converted."""
    import cv2

    film = cv2.VideoCapture(path)
    n = int(film.get(cv2.CAP_PROP_FRAME_COUNT))
    wanted = {n * (2 * i + 1) // (2 * n_frames) for i in range(n_frames)}
    found = []
    for i in range(max(wanted) + 1):
        film.grab()
        if i in wanted:
            found.append(cv2.cvtColor(film.retrieve()[1], cv2.COLOR_BGR2RGB))
    return found


def opencv_frames_by_seeking(path, n_frames):
    """One seek for each frame."""
    import cv2

    film = cv2.VideoCapture(path)
    n = int(film.get(cv2.CAP_PROP_FRAME_COUNT))
    found = []
    for i in range(n_frames):
        film.set(cv2.CAP_PROP_POS_FRAMES, n * (2 * i + 1) // (2 * n_frames))
        found.append(cv2.cvtColor(film.read()[1], cv2.COLOR_BGR2RGB))
    return found


# ---- features ----


def notebook_features(trunk, paths):
    """One image at a time, gradients on; the notebook's trunk was never put in evaluation mode."""
    return np.stack([trunk(load(path)[None]).detach().numpy().ravel() for path in paths])


def embetter_features(trunk, paths):
    """All images of a chunk in one tensor, then the model, as embetter's TimmEncoder does."""
    rows = []
    for start in range(0, len(paths), 32):
        batch = torch.cat([load(path).unsqueeze(0) for path in paths[start : start + 32]])
        rows.append(trunk(batch).flatten(1).detach().numpy())
    return np.concatenate(rows)


class _Images(Dataset):
    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        return load(self.paths[i])


def data_loader_features(trunk, paths):
    """A DataLoader with a worker process, and no gradients, as thingsvision and timm do."""
    with torch.no_grad():
        loader = DataLoader(_Images(paths), batch_size=32, num_workers=1)
        return np.concatenate([trunk(batch).flatten(1).numpy() for batch in loader])


class OnnxFeatures:
    """onnxruntime at its best: one session per core, decoding in its thread, batches of 4."""

    def __init__(self, state, n_threads):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        model = onnx_trunk(torchvision_model(state).features[:16])
        self.sessions = [
            onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            for _ in range(n_threads)
        ]
        self.scale = (1 / (255 * np.array(STD, np.float32))).astype(np.float32)
        self.shift = (np.array(MEAN, np.float32) / np.array(STD, np.float32)).astype(np.float32)

    def __call__(self, paths):
        batches = [paths[i : i + 4] for i in range(0, len(paths), 4)]
        n = len(self.sessions)
        with ThreadPoolExecutor(n) as pool:
            parts = list(pool.map(self._run, self.sessions, [batches[i::n] for i in range(n)]))
        rows = [None] * len(batches)
        for i in range(n):
            rows[i::n] = parts[i]
        return np.concatenate(rows)

    def _run(self, session, batches):
        rows = []
        for batch in batches:
            pixels = [
                np.asarray(Image.open(path).convert("RGB").resize((224, 224), BILINEAR))
                for path in batch
            ]
            x = np.stack(pixels).transpose(0, 3, 1, 2) * self.scale[:, None, None]
            x -= self.shift[:, None, None]
            rows.append(
                session.run(None, {"x": np.ascontiguousarray(x)})[0].reshape(len(batch), -1)
            )
        return rows


def onnx_trunk(blocks):
    """ONNX bytes of MobileNetV2 blocks in evaluation mode, BatchNorm folded."""
    from onnx import TensorProto, helper, numpy_helper
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    nodes, constants = [], []

    def constant(name, array):
        constants.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    low, high = constant("low", 0.0), constant("high", 6.0)
    x = "x"
    for b, block in enumerate(blocks):
        start = x
        layers = [
            m for m in block.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.ReLU6)
        ]
        for i, layer in enumerate(layers):
            name = f"{b}_{i}"
            if isinstance(layer, nn.Conv2d):
                conv = fuse_conv_bn_eval(layer, layers[i + 1])
                inputs = [
                    x,
                    constant(f"w{name}", conv.weight.detach()),
                    constant(f"b{name}", conv.bias.detach()),
                ]
                nodes.append(
                    helper.make_node(
                        "Conv",
                        inputs,
                        [name],
                        kernel_shape=list(conv.kernel_size),
                        strides=list(conv.stride),
                        pads=list(conv.padding) * 2,
                        group=conv.groups,
                    )
                )
                x = name
            elif isinstance(layer, nn.ReLU6):
                nodes.append(helper.make_node("Clip", [x, low, high], [name]))
                x = name
        if getattr(block, "use_res_connect", False):
            nodes.append(helper.make_node("Add", [start, x], [f"{b}_sum"]))
            x = f"{b}_sum"
    graph = helper.make_graph(
        nodes,
        "trunk",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 224, 224])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


# ---- training ----


def notebook_tail(state):
    """The tail and head of the notebook, on rows of features."""
    model = torchvision_model(state)
    return nn.Sequential(
        nn.Unflatten(1, (160, 7, 7)),
        *model.features[16:],
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(1280, 512),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(512, 256),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(256, 2),
    )


def notebook_step(model, optimizer, x, y, l1_factor):
    model.train()
    loss = nn.functional.cross_entropy(model(x), y)
    loss = loss + l1_factor * sum(p.abs().sum() for p in model.parameters())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def notebook_accuracy(model, loader, put_right):
    """Accuracy; the notebook's dropout and batch statistics were on while it scored."""
    model.train(not put_right)
    with torch.no_grad():
        correct = sum(int((model(x).argmax(1) == y).sum()) for x, y in loader)
    return correct / len(loader.dataset)


def notebook_loop(state, X, y, n_epochs=1, l1_factor=1e-4):
    """The training loop alone, which measures nothing."""
    model = notebook_tail(state)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    rows = TensorDataset(torch.from_numpy(X), torch.from_numpy(y))
    for _ in range(n_epochs):
        for batch in DataLoader(rows, batch_size=64, shuffle=True):
            notebook_step(model, optimizer, *batch, l1_factor)
    return model


def notebook_train_model(state, X, y, X_val, y_val, n_epochs, put_right, l1_factor=1e-4):
    """The whole of it: both accuracies every ten batches."""
    model = notebook_tail(state)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    rows = TensorDataset(torch.from_numpy(X), torch.from_numpy(y))
    valid = TensorDataset(torch.from_numpy(X_val), torch.from_numpy(y_val))
    loader = DataLoader(rows, batch_size=64, shuffle=True)
    valid_loader = DataLoader(valid, batch_size=64)
    history = []
    for _ in range(n_epochs):
        for i, batch in enumerate(loader):
            notebook_step(model, optimizer, *batch, l1_factor)
            if i % 10 == 0:
                history.append(
                    [notebook_accuracy(model, rows, put_right) for rows in (loader, valid_loader)]
                )
    return model


# ---- a straightforward pipeline ----


class EmbetterStyle(TransformerMixin, BaseEstimator):
    """Transformer in embetter's style over the same trunk; counts the images it runs."""

    n_run = 0

    def __init__(self, weights):
        self.weights = weights

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        EmbetterStyle.n_run += len(X)
        trunk = torchvision_model(torch.load(self.weights, weights_only=True)).features[:16]
        return embetter_features(trunk, list(X))


def skorch_classifier(state, max_epochs):
    """Plain skorch with the L1 recipe of its documentation."""
    from skorch import NeuralNetClassifier

    class Regularized(NeuralNetClassifier):
        def __init__(self, *args, l1_factor=1e-4, **kwargs):
            super().__init__(*args, **kwargs)
            self.l1_factor = l1_factor

        def get_loss(self, y_pred, y_true, X=None, training=False):
            loss = super().get_loss(y_pred, y_true, X=X, training=training)
            if training:
                loss = loss + self.l1_factor * sum(p.abs().sum() for p in self.module_.parameters())
            return loss

    template = notebook_tail(state)

    class FreshTail(nn.Module):
        def __init__(self):
            super().__init__()
            self.tail = copy.deepcopy(template)

        def forward(self, X):
            return self.tail(X)

    return Regularized(
        FreshTail,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-4,
        batch_size=64,
        max_epochs=max_epochs,
        train_split=None,
        verbose=0,
    )
