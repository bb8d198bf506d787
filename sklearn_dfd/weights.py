"""Where MobileNetV2's weights come from, and whether they are what they claim to be.

Weights travel as a plain dictionary: torchvision's parameter names, from ``features.0.0.weight``
to ``features.18.1.running_var``, to float32 arrays. The ImageNet classifier is left out.
"""

import hashlib
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from sklearn_dfd._core.network.mobilenet import architecture
from sklearn_dfd.exceptions import WeightsError

# torchvision's MobileNet_V2_Weights.IMAGENET1K_V1.url, without importing torchvision
IMAGENET_URL = "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth"
_RANDOM_SEED = 0


def load_weights(weights):
    """Load the weights of MobileNetV2's feature blocks.

    Parameters
    ----------
    weights : "imagenet", path or None
        ``"imagenet"`` is torchvision's ``MobileNet_V2_Weights.IMAGENET1K_V1``, downloaded once
        into torch's own cache (``torch.hub.get_dir()``), its hash verified also when found there.
        A path names a state dict of torchvision's ``mobilenet_v2``, saved by ``torch.save``;
        it is read with ``weights_only=True``. None gives random weights from a fixed seed, the
        same on every machine.

    Returns
    -------
    arrays : dict of str to ndarray of float32
        A dictionary of its own, over arrays that are shared and read-only.

    Raises
    ------
    WeightsError
        An OSError and a ValueError. Names the URL and the file where there is no network, the
        file where it is damaged, and the first tensors that do not fit the architecture.
    """
    if weights is None:
        return dict(_random_weights())
    path = imagenet_path() if _is_imagenet(weights) else Path(os.path.expanduser(weights))
    if _is_imagenet(weights) and not path.exists():
        _download(path)
    try:
        status = path.stat()
        version = status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
        return dict(_read(path, _is_imagenet(weights), version))
    except WeightsError:
        raise
    except FileNotFoundError as error:
        raise WeightsError(f"weights={str(weights)!r}: there is no such file.") from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"weights={str(weights)!r} cannot be read: {error}.") from error


def find_weights(weights, names, expected):
    """Load some of the weights again, by their fingerprint.

    Parameters
    ----------
    weights : "imagenet", path or None
        Where to look, see :func:`load_weights`.
    names : list of str
        Names of the arrays.
    expected : str
        Their fingerprint.

    Returns
    -------
    arrays : dict of str to ndarray of float32

    Raises
    ------
    WeightsError
        If there are none, or others. Names the fingerprint.
    """
    wanted = (
        f"the weights of this transformer were left out when it was saved, and are wanted again "
        f"(fingerprint {expected})"
    )
    todo = "Give them by set_params(weights=<path of the state dict that it was fitted with>)."
    try:
        arrays = load_weights(weights)
    except WeightsError as error:
        raise WeightsError(f"{wanted}: {error}\n{todo}") from error
    arrays = {name: arrays[name] for name in names}
    found = fingerprint(arrays)
    if found != expected:
        raise WeightsError(f"{wanted}: weights={weights!r} gives others ({found}). {todo}")
    return arrays


def imagenet_path():
    """Path of the ImageNet weights in torch's cache, whether they are there or not."""
    return Path(torch.hub.get_dir()) / "checkpoints" / IMAGENET_URL.rsplit("/", 1)[1]


def fingerprint(arrays):
    """Hash of weights: the same for equal names, shapes and values, on every machine.

    Parameters
    ----------
    arrays : dict of str to ndarray of float32

    Returns
    -------
    fingerprint : str
        32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name], dtype="<f4")
        digest.update(f"{name}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _is_imagenet(weights):
    return isinstance(weights, str) and weights == "imagenet"


def _imagenet_hash():
    return IMAGENET_URL.rsplit("-", 1)[1].removesuffix(".pth")


def _download(path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # into a temporary file beside it, hashed, then renamed: never half a file in the cache
        torch.hub.download_url_to_file(IMAGENET_URL, str(path), hash_prefix=_imagenet_hash())
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            "the ImageNet weights are not on this machine and could not be downloaded "
            f"({error}).\n"
            f"  They are at         {IMAGENET_URL}\n"
            f"  Put them by hand at {path}\n"
            "  Or pass weights=<path of a mobilenet_v2 state dict>, or weights=None for random "
            "weights, which detect far less."
        ) from error


@lru_cache(maxsize=4)
def _read(path, verify, _version):
    """Read and check a file; kept until the file changes, since every fit asks again."""
    if verify:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if not digest.startswith(_imagenet_hash()):
            raise WeightsError(
                f"{path} is damaged or not the file that it is named after: its SHA-256 starts "
                f"with {digest[:8]}, not {_imagenet_hash()}. Delete it, and it is downloaded "
                f"again from {IMAGENET_URL}."
            )
    if not path.is_file():
        raise WeightsError(f"weights={str(path)!r} is not a file.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of another kind makes torch.load raise almost anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"weights={str(path)!r} cannot be read as a state dict saved by torch.save "
            f"(weights_only=True): {reason}"
        ) from error
    return _checked(state, path)


def _checked(state, path):
    if not isinstance(state, dict):
        raise WeightsError(
            f"weights={str(path)!r} holds a {type(state).__name__}, not a state dict: save "
            "mobilenet_v2().state_dict()."
        )
    arrays, faults = {}, []
    for name, expected in architecture().state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        tensor = state.get(name)
        if not isinstance(tensor, torch.Tensor) or tensor.is_meta:
            faults.append(f"{name} is missing")
            continue
        if tensor.shape != expected.shape:
            faults.append(f"{name} is {tuple(tensor.shape)}, not {tuple(expected.shape)}")
            continue
        array = tensor.detach().float().numpy()
        if not np.isfinite(array).all():
            faults.append(f"{name} is not finite")
        elif name.endswith("running_var") and (array < 0).any():
            faults.append(f"{name} is negative")
        else:
            arrays[name] = _frozen(array)
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise WeightsError(
            f"weights={str(path)!r} does not fit torchvision's mobilenet_v2: "
            f"{'; '.join(faults[:3])}{more}."
        )
    return arrays


def _frozen(array):
    # copied, so that nobody can write through the tensor it came from
    array = np.array(array, dtype=np.float32)
    array.flags.writeable = False
    return array


@lru_cache(maxsize=1)
def _random_weights():
    """Random weights that keep the scale of what flows through them.

    torchvision's own initialisation shrinks activations to 1e-7 by block 15, which the eps of
    the BatchNorm layers then swallows. Here every convolution has variance gain / fan_in, the
    rule of He et al. (2015), and BatchNorm is the identity. numpy's legacy generator is frozen,
    so that the numbers, and their fingerprint, are the same with every version of torch.
    """
    rng = np.random.RandomState(_RANDOM_SEED)
    arrays = {}
    for name, tensor in architecture().state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if tensor.ndim == 4:
            fan_in = tensor[0].numel()
            array = rng.standard_normal(tuple(tensor.shape)) * np.sqrt(2 / fan_in)
        else:
            array = np.full(tuple(tensor.shape), name.endswith(("weight", "running_var")))
        arrays[name] = _frozen(array)
    return arrays
