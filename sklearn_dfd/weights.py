"""Where MobileNetV2's weights come from, and whether they are what they should be.

Weights are passed on as a plain dictionary from torchvision's parameter names, such as
``features.0.0.weight`` and ``features.18.1.running_var``, to float32 arrays. The ImageNet
classifier is left out.
"""

import difflib
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sklearn_dfd._core.network.mobilenet import architecture
from sklearn_dfd.exceptions import WeightsError

# torchvision's MobileNet_V2_Weights.IMAGENET1K_V1.url, without importing torchvision
IMAGENET_URL = "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth"
_RANDOM_SEED = 0
_STEM = "features.0.0.weight"  # the first parameter of mobilenet_v2
_SAVE = "torch.save(model.state_dict(), 'mobilenet_v2.pth')"
_MAGIC = {
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"\x89HDF": "an HDF5 file, as Keras writes it",
}


def load_weights(weights: str | os.PathLike[str] | None) -> dict[str, npt.NDArray[np.float32]]:
    """Load the weights of MobileNetV2's feature blocks.

    Parameters
    ----------
    weights : "imagenet", path or None
        ``"imagenet"`` stands for torchvision's ``MobileNet_V2_Weights.IMAGENET1K_V1``. They are
        downloaded once into torch's own cache (``torch.hub.get_dir()``), and their hash is verified
        each time they are read. A path is that of a state dict of torchvision's ``mobilenet_v2``,
        saved by ``torch.save``; it is read with ``weights_only=True``. None gives random weights
        from a fixed seed, which are the same on every machine.

    Returns
    -------
    arrays : dict of str to ndarray of float32
        A new dictionary of arrays that are shared and read-only.

    Raises
    ------
    WeightsError
        If the weights cannot be downloaded (the message names the URL and the file to put them
        in), or the file is missing, damaged or not a state dict of ``mobilenet_v2`` (the message
        names the first tensors that do not fit). A WeightsError is an OSError and a ValueError.
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
        raise WeightsError(_no_such_file(os.fspath(weights), path)) from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"weights={str(weights)!r} cannot be read: {error}.") from error


def find_weights(
    weights: str | os.PathLike[str] | None, names: Iterable[str], expected: str
) -> dict[str, npt.NDArray[np.float32]]:
    """Load some of the weights again, those with a known fingerprint.

    Parameters
    ----------
    weights : "imagenet", path or None
        Where to look; see :func:`load_weights`.
    names : list of str
        Names of the arrays.
    expected : str
        Their fingerprint.

    Returns
    -------
    arrays : dict of str to ndarray of float32
        The arrays with these names.

    Raises
    ------
    WeightsError
        If the weights cannot be loaded or have another fingerprint; the message names the expected
        one.
    """
    wanted = (
        "this transformer was saved without its weights and needs them now (fingerprint "
        f"{expected})"
    )
    todo = "Name them with set_params(weights=<path of the state dict that it was fitted with>)."
    try:
        arrays = load_weights(weights)
    except WeightsError as error:
        raise WeightsError(f"{wanted}: {error}\n{todo}") from error
    arrays = {name: arrays[name] for name in names}
    found = fingerprint(arrays)
    if found != expected:
        raise WeightsError(f"{wanted}: weights={weights!r} are different ones ({found}). {todo}")
    return arrays


def imagenet_path() -> Path:
    """Return the path of the ImageNet weights in torch's cache, whether they are there or not."""
    return Path(torch.hub.get_dir()) / "checkpoints" / IMAGENET_URL.rsplit("/", 1)[1]


def fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
    """Compute a hash of weights: the same for equal names, shapes and values on every machine.

    Parameters
    ----------
    arrays : dict of str to ndarray of float32
        Weights by name, in any order.

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


def _is_imagenet(weights: object) -> bool:
    return isinstance(weights, str) and weights == "imagenet"


def _imagenet_hash() -> str:
    return IMAGENET_URL.rsplit("-", 1)[1].removesuffix(".pth")


def _no_such_file(weights: str, path: Path) -> str:
    where = "" if str(path) == weights else f" ({path})"
    hint = ""
    if difflib.get_close_matches(path.name.lower(), ["imagenet", "imagenet1k_v1", "default"]):
        hint = ' Use weights="imagenet" for the ImageNet weights of torchvision.'
    return f"weights={weights!r}: there is no such file{where}.{hint}"


def _download(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # into a temporary file next to it, hashed, then renamed: never half a file in the cache
        torch.hub.download_url_to_file(IMAGENET_URL, str(path), hash_prefix=_imagenet_hash())
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            "the ImageNet weights are not on this machine and could not be downloaded "
            f"({error}).\n"
            f"  They are at         {IMAGENET_URL}\n"
            f"  Put them by hand at {path}\n"
            "  Or pass weights=<path of a mobilenet_v2 state dict>, or weights=None for random "
            "weights, with which a detector is far worse."
        ) from error


@lru_cache(maxsize=4)
def _read(path: Path, verify: bool, _version: object) -> dict[str, npt.NDArray[np.float32]]:
    """Read and check a file; the result is kept until the file changes, as every fit asks again."""
    if verify:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if not digest.startswith(_imagenet_hash()):
            raise WeightsError(
                f"{path} is damaged or not the file that it is named after: its SHA-256 starts "
                f"with {digest[:8]}, not {_imagenet_hash()}. Delete it to have it downloaded "
                f"again from {IMAGENET_URL}."
            )
    if not path.is_file():
        raise WeightsError(f"weights={str(path)!r} is not a file.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of another kind makes torch.load raise almost anything
        reason = _why_not_loaded(path, str(error))
        raise WeightsError(
            f"weights={str(path)!r} cannot be read as a state dict: {reason}"
        ) from error
    return _checked(state, path)


def _why_not_loaded(path: Path, message: str) -> str:
    """Say what a file that torch.load refuses is; its own message advises running code in it."""
    found = re.search(r"(?:GLOBAL|global:?|class) ([\w.]+\.[\w.]+)", message)
    if found is not None:
        return (
            f"it holds an object of {found[1]}, which could run code when it is loaded. Save the "
            f"weights alone, where you trust the file: {_SAVE}."
        )
    with path.open("rb") as file:
        start = file.read(8)
    if not start:
        return "it is empty."
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return f"it is {kind}."
    if path.suffix == ".safetensors":
        load = f"safetensors.torch.load_file({str(path)!r})"
        return f"it is in another format: torch.save({load}, 'mobilenet_v2.pth')."
    return f"it is damaged, or not a file that {_SAVE} wrote."


def _checked(state: Any, path: Path) -> dict[str, npt.NDArray[np.float32]]:
    if not isinstance(state, dict):
        raise WeightsError(
            f"weights={str(path)!r} holds a {type(state).__name__}, not a state dict: save one by "
            f"{_SAVE}."
        )
    if _STEM not in state:
        _refuse_wrapped(state, path)
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


def _refuse_wrapped(state: dict[Any, Any], path: Path) -> None:
    """Say how to unwrap a state dict that lies in a checkpoint, or whose names have a prefix."""
    for key, inner in [(None, state), *state.items()]:
        if not isinstance(inner, dict):
            continue
        for name in inner:
            if not ((isinstance(name, str) and name.endswith(f".{_STEM}")) or name == _STEM):
                continue
            prefix = name.removesuffix(_STEM)
            what = "" if key is None else f" under the key {key!r}"
            what += f" with {prefix!r} before each name" if prefix else ""
            lines = ["import torch", f"state = torch.load({str(path)!r}, weights_only=True)"]
            if key is not None:
                lines.append(f"state = state[{key!r}]")
            if prefix:
                lines.append(f"state = {{k.removeprefix({prefix!r}): state[k] for k in state}}")
            lines.append("torch.save(state, 'mobilenet_v2.pth')")
            raise WeightsError(
                f"weights={str(path)!r} holds a state dict{what}. Save it alone, and pass "
                "weights='mobilenet_v2.pth':\n" + "\n".join(f"  {line}" for line in lines)
            )


def _frozen(array: np.ndarray) -> npt.NDArray[np.float32]:
    # copied, so that it cannot be changed through the tensor it came from
    array = np.array(array, dtype=np.float32)
    array.flags.writeable = False
    return array


@lru_cache(maxsize=1)
def _random_weights() -> dict[str, npt.NDArray[np.float32]]:
    """Draw random weights that keep the scale of the activations.

    torchvision's own initialisation shrinks the activations to 1e-7 by block 15, where the eps of
    the BatchNorm layers dominates. Here every convolution has variance gain / fan_in, the rule of
    He et al. (2015), and BatchNorm is the identity. numpy's legacy generator never changes, so the
    numbers and their fingerprint are the same with every version of torch.
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
