"""Features, trained weights and probabilities are those of the release before, to the bit.

Hashes can only be compared on a machine that rounds as the one where they were recorded; on any
other the numbers are, within what another processor's rounding makes of a short training.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

FROZEN = Path(__file__).parent / "frozen"
RECORDED = json.loads((FROZEN / "results.json").read_text())


@pytest.fixture(scope="module")
def now():
    pytest.importorskip("onnxruntime")
    sys.path.insert(0, str(FROZEN))
    try:
        import results
    finally:
        sys.path.remove(str(FROZEN))
    return {"machine": results.machine(), "results": results.results()}


@pytest.mark.parametrize("name", RECORDED["results"])
def test_results_are_those_that_were_recorded(now, name):
    recorded, computed = RECORDED["results"][name], now["results"][name]
    assert recorded["shape"] == computed["shape"]
    np.testing.assert_allclose(computed["values"], recorded["values"], rtol=1e-3, atol=1e-3)
    if now["machine"] == RECORDED["machine"]:
        assert computed["sha256"] == recorded["sha256"]


def test_nothing_recorded_is_left_out(now):
    assert set(now["results"]) == set(RECORDED["results"])
