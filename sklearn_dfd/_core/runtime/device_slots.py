"""Several devices, shared among the fits that run at the same time on this machine.

A fit that uses a device holds a lock on a file named after it. The operating system releases the
lock when the process ends for whatever reason, so a killed worker does not keep a device. Locks
work between threads, processes of joblib, Dask workers and other programs of the same user.
"""

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

_POLL_SECONDS = 0.05
_this_thread = threading.local()  # the device it had last, and whether it still holds it


@contextmanager
def device_slot(devices: list[torch.device]) -> Iterator[torch.device]:
    """Hold a device that is not held yet; wait while all of them are held.

    A thread that holds a device and asks again, such as from a callback in ``fit``, is given the
    same one, and does not wait for itself.

    Parameters
    ----------
    devices : list of torch.device
        In order of preference. The device that this thread had last comes first, because the
        models that it has fitted are there.

    Yields
    ------
    device : torch.device
        The device that is held until the block ends.
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


def last_device(devices: list[torch.device]) -> torch.device:
    """Return the device of a list that this thread had last, or else the first one."""
    last = getattr(_this_thread, "device", None)
    return last if last in devices else devices[0]


def _acquire(devices: list[torch.device]) -> tuple[FileLock, torch.device]:
    # each call makes its own lock objects, so that threads of one process exclude each other too
    locks = [(FileLock(_directory() / f"{_name(device)}.lock"), device) for device in devices]
    while True:
        for lock, device in locks:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return lock, device
        time.sleep(_POLL_SECONDS)


def _directory() -> Path:
    """Return the directory of the locks; on POSIX it is one per user."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    directory = Path(tempfile.gettempdir()) / f"sklearn-dfd-{user}"
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory


def _name(device: torch.device) -> str:
    """Name the hardware: ``cuda:0`` may be another GPU under another CUDA_VISIBLE_DEVICES."""
    if device.type == "cuda":
        return f"cuda-{torch.cuda.get_device_properties(device).uuid}"
    return str(device).replace(":", "-")
