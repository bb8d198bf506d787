import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="what is kept is the heap of glibc"
)

# in a process of its own, whose heap nobody has used before
SCRIPT = """
import resource
import torch
from sklearn_dfd._core.runtime.heap import kept_heap

torch.set_num_threads(1)

def n_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        maps = [torch.ones(2**22) for _ in range(8)]  # 128 MiB, in pieces of 16 MiB
        del maps
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20

torch.ones(1)
# all that is touched for the first time faults; after that glibc may keep some by itself, by chance
memory_before, first = resident(), n_faults()
with kept_heap():
    n_faults()
    with kept_heap():
        kept = n_faults()
    still_kept, kept_memory = n_faults(), resident()
print(first, kept, still_kept, memory_before, kept_memory, resident())
"""


def test_memory_is_kept_and_given_back():
    output = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=300
    ).stdout
    first, kept, still_kept, memory_before, kept_memory, memory = map(float, output.split())
    assert kept < first / 10 and still_kept < first / 10
    assert kept_memory > memory_before + 100
    assert memory < memory_before + 50
