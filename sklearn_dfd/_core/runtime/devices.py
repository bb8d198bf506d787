"""Which device the work is done on, and how many cores it takes."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import joblib
import torch

from sklearn_dfd._core.messages import warn_user
from sklearn_dfd._core.runtime.device_slots import device_slot, last_device
from sklearn_dfd._core.runtime.process_state import WhileAny, is_forked


def resolve_device(device, *, fitted=False):
    """Turn the ``device`` parameter of an estimator into a device that exists.

    Parameters
    ----------
    device : str, torch.device or list of such
        ``"auto"`` takes CUDA where there is one, then Apple's MPS, then the CPU. Anything else
        is a torch device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``. Of several devices,
        all of which are checked, the one that this thread works or worked on, or the first.

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
    if isinstance(device, list | tuple) and len(device):
        return last_device(_resolve_all(device, fitted))
    if device == "auto":
        return torch.device(_available_types()[0])
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError):
        resolved = None
    if resolved is None or resolved.type not in {"cpu", "cuda", "mps"}:
        raise ValueError(
            f"device={device!r} is not a device this package knows; "
            'use "auto", "cpu", "cuda", "cuda:1" (its number), "mps", or a list of such.'
        )
    reason = _missing(resolved)
    if reason is None:
        return resolved
    if fitted:
        warn_user(f"device={str(device)!r}: {reason}; predicting on the CPU.")
        return torch.device("cpu")
    raise ValueError(
        f"device={str(device)!r}: {reason}. On this machine: {', '.join(_available_types())}."
    )


@contextmanager
def working_device(device, *, fitted=False):
    """Resolve a device for a piece of work; of several hold one that nobody else works on.

    Parameters
    ----------
    device, fitted
        As :func:`resolve_device` takes them.

    Yields
    ------
    device : torch.device
    """
    if isinstance(device, list | tuple) and len(device):
        with device_slot(_resolve_all(device, fitted)) as held:
            yield held
    else:
        yield resolve_device(device, fitted=fitted)


def in_halves(run, rows, join):
    """Run on rows; where the device's memory is too small for them all, on half of them at a time.

    Only for what gives the same for each row whatever is beside it.

    Parameters
    ----------
    run : callable
        From rows to a result for each.
    rows : ndarray or tensor
    join : callable
        Makes one result of a list of them, such as ``numpy.concatenate``.

    Returns
    -------
    result
        As of ``run(rows)``.

    Warns
    -----
    UserWarning
        Naming the number of rows that were too many.
    """
    try:
        return run(rows)
    except Exception as error:  # onnxruntime's derive from no other class
        if len(rows) < 2 or not _is_out_of_memory(error):
            raise
    # not within the except clause: the traceback would hold what was allocated
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = (len(rows) + 1) // 2
    warn_user(
        f"The device's memory is too small for {len(rows)} rows at once: going on with {half}."
    )
    return join([in_halves(run, part, join) for part in (rows[:half], rows[half:])])


# CUDA's libraries, MPS, the CPU and onnxruntime have no class of their own for it
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",  # the same on Windows
    "failed to allocate memory",  # onnxruntime
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "std::bad_alloc",
)


def _is_out_of_memory(error):
    text = str(error).lower()
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or any(
        words in text for words in _OUT_OF_MEMORY
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
    with _threads_restored():
        pool = ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,))
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def own_torch_state(device):
    """Set aside what the caller may have switched on in torch: ours computes the same anyway.

    Default device, inference mode, autocast and disabled gradients hold for a thread. Products and
    convolutions round to 24 bits, not to the 11 of TF32 or the 8 of bfloat16, or features would
    differ by percents from those of the CPU; on CUDA they repeat themselves to the last bit.
    Torch's threads are no more than the cores that this process may use: in a container with a
    quota torch starts as many as the host has.
    A forked process gets one: OpenMP would wait for threads that only its parent has.
    """
    with ExitStack() as stack:
        most = 1 if is_forked() else joblib.cpu_count()
        if torch.get_num_threads() > most:
            stack.enter_context(_threads_restored())
            torch.set_num_threads(most)
        stack.enter_context(torch.device("cpu"))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(_own_precision())
        yield


@contextmanager
def _threads_as_before():
    # torch.set_num_threads notes the number for threads to come, beside that of its own thread
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _full_precision():
    """Let nothing round further than float32 does, and let cuDNN repeat itself."""
    backends: Any = torch.backends
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    of_each = []
    if hasattr(cudnn, "conv"):  # torch 2.9 or later, beside the settings of before
        of_each = [cudnn.conv, cudnn.rnn, backends.cuda.matmul, mkldnn.conv, mkldnn.matmul]
    precisions = [each.fp32_precision for each in of_each]
    matmul = _setting(torch.get_float32_matmul_precision, "highest")
    flags = {name: getattr(cudnn, name) for name in ("enabled", "deterministic", "benchmark")}
    flags["allow_tf32"] = _setting(lambda: cudnn.allow_tf32, False)
    try:
        torch.set_float32_matmul_precision("highest")
        cudnn.enabled, cudnn.deterministic = True, True
        cudnn.benchmark, cudnn.allow_tf32 = False, False
        for each in of_each:
            each.fp32_precision = "ieee"
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        for name, value in flags.items():
            setattr(cudnn, name, value)
        for each, value in zip(of_each, precisions, strict=True):
            each.fp32_precision = value


def _setting(read, otherwise):
    """Read an older setting, which torch refuses where the newer ones contradict it."""
    try:
        return read()
    except RuntimeError:
        return otherwise


_threads_restored = WhileAny(_threads_as_before)
_own_precision = WhileAny(_full_precision)


def _resolve_all(devices, fitted):
    """Resolve several devices; of those of a fitted estimator the ones that are there."""
    if not all(isinstance(d, str | torch.device) and d != "auto" for d in devices):
        raise ValueError(f'device={devices!r}: name each, as in ["cuda:0", "cuda:1"].')
    if fitted:
        there = [d for d in map(torch.device, devices) if _missing(d) is None]
        resolved = there or [resolve_device(devices[0], fitted=True)]
    else:
        resolved = [resolve_device(device) for device in devices]
    # "cuda" is the current one, by which name it is locked too
    resolved = [
        torch.device("cuda", torch.cuda.current_device()) if d == torch.device("cuda") else d
        for d in resolved
    ]
    if len(set(resolved)) < len(resolved):
        raise ValueError(f"device={devices!r} names a device twice.")
    return resolved


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
