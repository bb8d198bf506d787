"""How the workers of pytest-xdist share the cores; imported before anything that starts threads."""

import os

N_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))


def n_cores():
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if N_WORKERS > 1:
    # what a test starts inherits it
    share = str(max(1, n_cores() // N_WORKERS))
    os.environ.update(OMP_NUM_THREADS=share, LOKY_MAX_CPU_COUNT=share)
