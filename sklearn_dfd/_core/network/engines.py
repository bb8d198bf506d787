"""What runs the trunk: torch, or onnxruntime where it is installed.

An engine is a function from pixels to rows. It may be called from several threads at once, each of
which keeps one core busy.
"""

import importlib.util
import warnings

import torch

from sklearn_dfd._core.messages import warn_user
from sklearn_dfd._core.network.onnx_graph import OnnxGraph
from sklearn_dfd._core.runtime.devices import own_torch_state

_ONNX_PACKAGES = ("onnx", "onnxruntime")


def resolve_engine(engine, device, precision, *, fitted=False):
    """Turn the ``engine`` parameter of an estimator into an engine that is installed.

    Parameters
    ----------
    engine : {"auto", "torch", "onnxruntime"}
        ``"auto"`` takes onnxruntime where it is installed and can do it: in float32 on the CPU,
        where it is the faster one.
    device : torch.device
    precision : {"float32", "bfloat16"}
    fitted : bool, default=False
        Whether a fitted estimator asks. It may have come from another machine: it then works
        with torch where onnxruntime is missing, and says so in a warning.

    Returns
    -------
    engine : {"torch", "onnxruntime"}

    Raises
    ------
    ImportError
        If onnxruntime is asked for and not installed, unless ``fitted``.
    ValueError
        If onnxruntime is asked for on another device or in another precision.
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


def torch_engine(trunk, device):
    """Run a trunk by torch.

    Parameters
    ----------
    trunk : Trunk
    device : torch.device

    Returns
    -------
    run : callable
        From an array of uint8, shape (n_images, side, side, 3), to one of float32, shape
        (n_images, n_features).
    """
    with own_torch_state(device):
        if device.type == "cpu" and trunk.precision == torch.float32:
            network = optimize_for_cpu(trunk)
        else:
            network = trunk.to(device)

    def run(pixels):
        with own_torch_state(device), torch.inference_mode():
            images = torch.from_numpy(pixels)
            if device.type == "cuda":  # the copy then goes on beside the kernels
                images = images.pin_memory()
            return network(images.to(device, non_blocking=True)).cpu().numpy()

    return run


def optimize_for_cpu(trunk):
    """Let torch fuse and lay out a trunk for inference on the CPU.

    Sums join the convolutions, and weights and maps take the blocked layout of oneDNN. The
    features are equal to a few units in the last place. TorchScript, which does this, is
    deprecated; where it is gone, the trunk stays as it is.
    """
    if not hasattr(torch.jit, "optimize_for_inference"):
        return trunk
    example = torch.zeros(4, 64, 64, 3, dtype=torch.uint8)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.trace(trunk.eval(), example, check_trace=False)
        return torch.jit.optimize_for_inference(torch.jit.freeze(script))


def onnx_engine(trunk):
    """Run a trunk by onnxruntime, each call in the calling thread; see :func:`torch_engine`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        trunk_as_onnx(trunk), options, providers=["CPUExecutionProvider"]
    )

    def run(pixels):
        return session.run(None, {"images": pixels})[0]

    return run


def trunk_as_onnx(trunk):
    """Write a trunk as an ONNX model, from uint8 images to rows of float32.

    Parameters
    ----------
    trunk : Trunk
        In float32.

    Returns
    -------
    model : bytes
    """
    from onnx import TensorProto

    graph = OnnxGraph()
    x = graph.add("Cast", "images", to=TensorProto.FLOAT)
    x = graph.add("Transpose", x, perm=[0, 3, 1, 2])
    x = graph.add("Flatten", graph.add_trunk(trunk, x))
    return graph.model(["n", "side", "side", 3], x, ["n", "width"]).SerializeToString()
