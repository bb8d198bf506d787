"""The device that work is done on, and the number of cores that it takes."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import joblib
import torch

from sklearn_dfd._core.messages import warn_user
from sklearn_dfd._core.runtime.device_slots import device_slot, last_device
from sklearn_dfd._core.runtime.process_state import WhileAny, is_forked


def resolve_device(device: Any, *, fitted: bool = False) -> torch.device:
    """Turn the ``device`` parameter of an estimator into a device of this machine.

    Parameters
    ----------
    device : str, torch.device or list of such
        ``"auto"`` takes CUDA if there is a device, else Apple's MPS, else the CPU. Anything else is
        a torch device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``. All devices of a list are
        checked; the one that this thread used last is taken, or else the first.

    fitted : bool, default=False
        Whether the estimator is fitted and about to predict. It may then come from another
        machine: if its device is missing here, the CPU is taken, with a warning at the user's
        line, since the predictions are the same.

    Returns
    -------
    device : torch.device
        A device that exists.

    Raises
    ------
    ValueError
        If the device is unknown, or is not on this machine and the estimator is not fitted.
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
def working_device(device: Any, *, fitted: bool = False) -> Iterator[torch.device]:
    """Resolve the device for a piece of work; from several, hold one that is not in use.

    Parameters
    ----------
    device, fitted
        The same as in :func:`resolve_device`.

    Yields
    ------
    device : torch.device
        The device to work on until the block ends.
    """
    if isinstance(device, list | tuple) and len(device):
        with device_slot(_resolve_all(device, fitted)) as held:
            yield held
    else:
        yield resolve_device(device, fitted=fitted)


def in_halves(run: Callable[[Any], Any], rows: Any, join: Callable[[list[Any]], Any]) -> Any:
    """Run a function on rows; if the device's memory is too small, on half of them at a time.

    The result for a row must not depend on other rows.

    Parameters
    ----------
    run : callable
        Takes rows and returns one result per row.
    rows : ndarray or tensor
        The rows.
    join : callable
        Concatenates a list of results, such as ``numpy.concatenate``.

    Returns
    -------
    result : ndarray or tensor
        The same as ``run(rows)``.

    Warns
    -----
    UserWarning
        If the memory is too small; the message names the number of rows.
    """
    try:
        return run(rows)
    except Exception as error:  # those of onnxruntime have no base class of their own
        if len(rows) < 2 or not _is_out_of_memory(error):
            raise
    # outside of the except clause, where the traceback would keep what was allocated
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = (len(rows) + 1) // 2
    warn_user(
        f"The device's memory is too small for {len(rows)} rows at once: continuing with {half}."
    )
    return join([in_halves(run, part, join) for part in (rows[:half], rows[half:])])


# messages of CUDA's libraries, MPS, the CPU and onnxruntime, which have no class for this error
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",  # on Windows
    "failed to allocate memory",  # onnxruntime
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "std::bad_alloc",
)


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or any(
        words in text for words in _OUT_OF_MEMORY
    )


@contextmanager
def one_core_threads(n_jobs: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Provide a pool of threads in each of which torch uses one core.

    Many small passes in parallel are faster than one pass on all cores, and no more cores are used
    than this process may use: more OpenMP threads than cores slow everything down tenfold or more.

    Parameters
    ----------
    n_jobs : int or None, default=None
        The number of threads. None takes as many as torch would use here, which in a worker of
        joblib is its share of the cores. Negative numbers are interpreted as in joblib.

    Yields
    ------
    pool : concurrent.futures.ThreadPoolExecutor
        The pool, which is shut down when the block ends.
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
def own_torch_state(device: torch.device) -> Iterator[None]:
    """Suspend the caller's settings of torch, so that they do not change our results.

    The default device, inference mode, autocast and disabled gradients are those of the thread.
    Products and convolutions keep 24 bits, rather than the 11 of TF32 or the 8 of bfloat16, with
    which features would differ from those of the CPU by a few per cent; on CUDA they are
    reproducible bit for bit. Torch uses no more threads than this process may use cores: in a
    container with a quota, it would otherwise start as many as the host has cores. A forked process
    uses one thread, because OpenMP would wait for threads that exist in its parent only.
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
def _threads_as_before() -> Iterator[None]:
    # torch.set_num_threads also sets the number for threads that are started later
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Round no further than float32 does, and make cuDNN reproducible."""
    backends: Any = torch.backends
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    of_each = []
    if hasattr(cudnn, "conv"):  # torch 2.9 or later, in addition to the older settings
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


def _setting(read: Callable[[], Any], otherwise: Any) -> Any:
    """Read an older setting; torch raises an error if newer settings contradict it."""
    try:
        return read()
    except RuntimeError:
        return otherwise


_threads_restored = WhileAny(_threads_as_before)
_own_precision = WhileAny(_full_precision)


def _resolve_all(devices: Sequence[Any], fitted: bool) -> list[torch.device]:
    """Resolve several devices; for a fitted estimator, only those that are on this machine."""
    if not all(isinstance(d, str | torch.device) and d != "auto" for d in devices):
        raise ValueError(f'device={devices!r}: name each, as in ["cuda:0", "cuda:1"].')
    if fitted:
        there = [d for d in map(torch.device, devices) if _missing(d) is None]
        resolved = there or [resolve_device(devices[0], fitted=True)]
    else:
        resolved = [resolve_device(device) for device in devices]
    # "cuda" is the current device, and is locked under its number too
    resolved = [
        torch.device("cuda", torch.cuda.current_device()) if d == torch.device("cuda") else d
        for d in resolved
    ]
    if len(set(resolved)) < len(resolved):
        raise ValueError(f"device={devices!r} names a device twice.")
    return resolved


def _available_types() -> list[str]:
    types = []
    if torch.cuda.is_available():
        types.append("cuda")
    if torch.backends.mps.is_available():
        types.append("mps")
    return [*types, "cpu"]


def _missing(device: torch.device) -> str | None:
    """Say why ``device`` cannot be used on this machine; None if it can."""
    if device.type not in _available_types():
        return f"there is no {device.type} device on this machine"
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if device.index is not None and device.index >= count:
        return f"this machine has {count} {device.type} device(s), numbered from 0"
    return None
