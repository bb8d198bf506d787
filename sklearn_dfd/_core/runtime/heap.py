"""The heap of the C library while a network is trained."""

import ctypes
import platform
import threading
from contextlib import contextmanager
from functools import lru_cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt
_KEPT_BYTES = 2**30
_USUAL_BYTES = 2**25, 2**26  # how far glibc itself raises its thresholds with use

_lock = threading.Lock()
_n_training = 0


@lru_cache(maxsize=1)
def _glibc():
    """Return the C library where it is glibc, otherwise None."""
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


@contextmanager
def kept_heap():
    """Keep the memory that one training step frees for the next one.

    glibc gives it back to the system, which then hands it out again page by page, some ten
    thousand of them a step: a twentieth of the time. Where nothing is trained any more it is given
    back. With other C libraries this does nothing.
    """
    global _n_training
    libc = _glibc()
    if libc is None:
        yield
        return
    with _lock:
        _n_training += 1
        libc.mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    try:
        yield
    finally:
        with _lock:
            _n_training -= 1
            if _n_training == 0:
                libc.mallopt(_MMAP_THRESHOLD, _USUAL_BYTES[0])
                libc.mallopt(_TRIM_THRESHOLD, _USUAL_BYTES[1])
                libc.malloc_trim(0)
