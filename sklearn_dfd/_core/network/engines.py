"""What runs the trunk: torch, or onnxruntime if it is installed.

An engine is a function from pixels to rows of features. Several threads may call it at the same
time, and each of them keeps one core busy.
"""

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from sklearn_dfd._core.messages import warn_user
from sklearn_dfd._core.network.mobilenet import Trunk
from sklearn_dfd._core.network.onnx_graph import OnnxGraph
from sklearn_dfd._core.runtime.devices import own_torch_state

#: From pixels, of shape (n_images, side, side, 3), to rows of features.
Engine: TypeAlias = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]

_ONNX_PACKAGES = ("onnx", "onnxruntime")


def resolve_engine(
    engine: str, device: torch.device, precision: str, *, fitted: bool = False
) -> str:
    """Turn the ``engine`` parameter of an estimator into an engine that can be used here.

    Parameters
    ----------
    engine : {"auto", "torch", "onnxruntime"}
        ``"auto"`` takes onnxruntime if it is installed and faster, that is, in float32 on the CPU.
    device : torch.device
        The device that the trunk will run on.
    precision : {"float32", "bfloat16"}
        The precision that the trunk will run in.
    fitted : bool, default=False
        Whether the estimator is fitted. It may then come from another machine: if onnxruntime is
        missing here, torch is taken instead, with a warning.

    Returns
    -------
    engine : {"torch", "onnxruntime"}
        The engine to use.

    Raises
    ------
    ImportError
        If ``engine`` is "onnxruntime", which is not installed, and the estimator is not fitted.
    ValueError
        If ``engine`` is "onnxruntime" and the device is not the CPU or the precision not float32.
    """
    missing = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    fits = device.type == "cpu" and precision == "float32"
    if engine == "auto":
        return "onnxruntime" if fits and not missing else "torch"
    if engine == "torch":
        return engine
    if not fits:
        raise ValueError(
            f'engine="onnxruntime" works on the CPU in float32, not on device={str(device)!r} '
            f'with precision={precision!r}: use engine="auto" or "torch".'
        )
    if not missing:
        return engine
    reason = f'engine="onnxruntime" needs {" and ".join(missing)}, not installed here'
    if fitted:
        warn_user(f"{reason}; computing with torch.")
        return "torch"
    raise ImportError(f'{reason}: pip install "sklearn-dfd[onnx]", or use engine="torch".')


def torch_engine(trunk: Trunk, device: torch.device) -> Engine:
    """Make a function that runs a trunk with torch.

    Parameters
    ----------
    trunk : Trunk
    device : torch.device

    Returns
    -------
    run : callable
        Takes an array of uint8, of shape (n_images, side, side, 3), and returns one of float32, of
        shape (n_images, n_features).
    """
    with own_torch_state(device):
        if device.type == "cpu" and trunk.precision == torch.float32:
            network = optimize_for_cpu(trunk)
        else:
            network = trunk.to(device)

    def run(pixels):
        with own_torch_state(device), torch.inference_mode():
            images = torch.from_numpy(pixels)
            if device.type == "cuda":  # so that the copy overlaps with the kernels
                images = images.pin_memory()
            return network(images.to(device, non_blocking=True)).cpu().numpy()

    return run


def optimize_for_cpu(trunk: Trunk) -> Any:
    """Let torch fuse and lay out a trunk for inference on the CPU.

    Residual sums are fused into the convolutions, and weights and maps get the blocked layout of
    oneDNN. The features differ by a few units in the last place. TorchScript, which does this, is
    deprecated: without it the trunk is returned as it is.
    """
    if not hasattr(torch.jit, "optimize_for_inference"):
        return trunk
    example = torch.zeros(4, 64, 64, 3, dtype=torch.uint8)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.trace(trunk.eval(), example, check_trace=False)
        return torch.jit.optimize_for_inference(torch.jit.freeze(script))


def onnx_engine(trunk: Trunk) -> Engine:
    """Make a function that runs a trunk with onnxruntime, in the calling thread.

    See :func:`torch_engine`.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        trunk_as_onnx(trunk), options, providers=["CPUExecutionProvider"]
    )

    def run(pixels):
        return session.run(None, {"images": pixels})[0]

    return run


def trunk_as_onnx(trunk: Trunk) -> bytes:
    """Write a trunk as an ONNX model, from uint8 images to rows of float32.

    Parameters
    ----------
    trunk : Trunk
        A trunk in float32.

    Returns
    -------
    model : bytes
        A serialized ModelProto.
    """
    from onnx import TensorProto

    graph = OnnxGraph()
    x = graph.add("Cast", "images", to=TensorProto.FLOAT)
    x = graph.add("Transpose", x, perm=[0, 3, 1, 2])
    x = graph.add("Flatten", graph.add_trunk(trunk, x))
    return graph.model(["n", "side", "side", 3], x, ["n", "width"]).SerializeToString()
