"""Several devices, shared out between the fits that go on at once on this machine.

Who works on a device holds a lock on a file of its name. The operating system gives a lock back
when its process ends, however it ends, so no device is lost with a worker that was killed; and
locks hold between threads, processes of joblib, Dask workers and other programs of a user alike.
"""

import os
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

_POLL_SECONDS = 0.05
_this_thread = threading.local()  # the device that it had last, and whether it still holds it


@contextmanager
def device_slot(devices):
    """Hold a device that nobody else holds; wait while all are held.

    Where a thread that holds one of them asks again, as from a callback in ``fit``, it is given
    the same one, and need not wait for itself.

    Parameters
    ----------
    devices : list of torch.device
        In order of preference, but for the device that this thread had last, which comes first:
        models that it has fitted are there.

    Yields
    ------
    device : torch.device
    """
    device = last_device(devices)
    if getattr(_this_thread, "holds", False) and device == _this_thread.device:
        yield device
        return
    lock, device = _acquire([device, *(other for other in devices if other != device)])
    _this_thread.device, _this_thread.holds = device, True
    try:
        yield device
    finally:
        _this_thread.holds = False
        lock.release()


def last_device(devices):
    """Return the one of several devices that this thread had last, or else the first."""
    last = getattr(_this_thread, "device", None)
    return last if last in devices else devices[0]


def _acquire(devices):
    # a lock object for each call: those of one process then exclude one another too
    locks = [(FileLock(_directory() / f"{_name(device)}.lock"), device) for device in devices]
    while True:
        for lock, device in locks:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return lock, device
        time.sleep(_POLL_SECONDS)


def _directory():
    """Where the locks of this user's programs are; elsewhere than POSIX users have their own."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    directory = Path(tempfile.gettempdir()) / f"sklearn-dfd-{user}"
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory


def _name(device):
    """Name of the hardware: ``cuda:0`` is another one where CUDA_VISIBLE_DEVICES differs."""
    if device.type == "cuda":
        return f"cuda-{torch.cuda.get_device_properties(device).uuid}"
    return str(device).replace(":", "-")
