"""Judging a photograph stays short to follow: figures of docs/architecture.md as upper bounds."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Calls within the package, and changes of file.
BOUNDS = {"None": (158, 78), "'accurate'": (266, 90)}


@pytest.mark.slow
def test_calls_and_changes_of_file_of_one_prediction():
    command = [sys.executable, str(ROOT / "benchmarks" / "calls.py")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"preset=(\S+): (\d+) calls, (\d+) changes of file", output)
    assert len(found) == len(BOUNDS), output
    for preset, n_calls, n_changes in found:
        most_calls, most_changes = BOUNDS[preset]
        assert int(n_calls) <= most_calls and int(n_changes) <= most_changes, output
