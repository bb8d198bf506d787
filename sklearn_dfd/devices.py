"""Which device the work is done on, and how many cores it takes."""

import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import joblib
import torch


def resolve_device(device, *, fitted=False):
    """Turn the ``device`` parameter of an estimator into a device that exists.

    Parameters
    ----------
    device : str or torch.device
        ``"auto"`` takes CUDA where there is one, then Apple's MPS, then the CPU. Anything else
        is a torch device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.

    fitted : bool, default=False
        Whether a fitted estimator asks, in order to predict. It may have come from another
        machine: it then works on the CPU where its own device is missing, and says so in a
        warning, since the predictions are the same.

    Returns
    -------
    device : torch.device

    Raises
    ------
    ValueError
        If the device is unknown or, unless ``fitted``, not on this machine.
    """
    if device == "auto":
        return torch.device(_available_types()[0])
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError):
        resolved = None
    if resolved is None or resolved.type not in {"cpu", "cuda", "mps"}:
        raise ValueError(
            f"device={device!r} is not a device this package knows; "
            'use "auto", "cpu", "cuda", "cuda:1" (its number) or "mps".'
        )
    reason = _missing(resolved)
    if reason is None:
        return resolved
    if fitted:
        warnings.warn(f"device={str(device)!r}: {reason}; predicting on the CPU.", stacklevel=3)
        return torch.device("cpu")
    raise ValueError(
        f"device={str(device)!r}: {reason}. On this machine: {', '.join(_available_types())}."
    )


@contextmanager
def one_core_threads(n_jobs=None):
    """Pool of threads in which torch uses one core each.

    Many small passes side by side are faster than one pass on all cores, and threads times
    cores never exceeds what this process may use: OpenMP threads that outnumber the cores
    slow everything down ten times and more.

    Parameters
    ----------
    n_jobs : int or None, default=None
        Number of threads. None for as many as torch would use here, which in joblib's workers
        is their share of the cores; negative as in joblib.

    Yields
    ------
    pool : concurrent.futures.ThreadPoolExecutor
    """
    n_threads = torch.get_num_threads() if n_jobs is None else joblib.effective_n_jobs(n_jobs)
    n_threads = min(n_threads, joblib.cpu_count())
    _torch_threads.remember()
    pool = ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        _torch_threads.restore()


@contextmanager
def own_torch_state(device):
    """Set aside what the caller may have switched on in torch: ours computes the same anyway.

    Default device, inference mode, autocast and disabled gradients hold for a thread; on CUDA
    convolutions repeat themselves to the last bit. Torch's threads are no more than the cores
    that this process may use: in a container with a quota torch starts as many as the host has.
    A forked process gets one: OpenMP would wait for threads that only its parent has.
    """
    with ExitStack() as stack:
        most = 1 if _forked else joblib.cpu_count()
        if torch.get_num_threads() > most:
            _torch_threads.remember()
            stack.callback(_torch_threads.restore)
            torch.set_num_threads(most)
        stack.enter_context(torch.device("cpu"))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda":
            flags = torch.backends.cudnn.flags(deterministic=True, benchmark=False)
            stack.enter_context(flags)
        yield


class _TorchThreads:
    """Torch's number of threads, as it was before the first of several pools at once.

    torch.set_num_threads notes the number for threads to come, beside that of its own thread.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._n_pools = 0
        self._before = 1

    def remember(self):
        with self._lock:
            if self._n_pools == 0:
                self._before = torch.get_num_threads()
            self._n_pools += 1

    def restore(self):
        with self._lock:
            self._n_pools -= 1
            if self._n_pools == 0:
                torch.set_num_threads(self._before)


_torch_threads = _TorchThreads()
_forked = False  # from a process that may have started OpenMP's threads


def _after_fork():
    global _forked, _torch_threads
    _forked = True
    _torch_threads = _TorchThreads()  # the pools of the parent, and who held the lock, are not here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _available_types():
    types = []
    if torch.cuda.is_available():
        types.append("cuda")
    if torch.backends.mps.is_available():
        types.append("mps")
    return [*types, "cpu"]


def _missing(device):
    """Say why ``device`` can't be used on this machine; None where it can."""
    if device.type not in _available_types():
        return f"there is no {device.type} device on this machine"
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if device.index is not None and device.index >= count:
        return f"this machine has {count} {device.type} device(s), numbered from 0"
    return None
