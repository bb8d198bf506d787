"""The comparison says which command shows a feature: each must still find a test."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_commands_of_the_comparison_find_tests():
    table = (ROOT / "docs" / "comparison.md").read_text("utf-8")
    commands = re.findall(r"`pytest (tests/\w+\.py)(?: -k (\w+))?`", table)
    assert len(commands) >= 10
    for file, keyword in commands:
        code = (ROOT / file).read_text("utf-8")
        assert re.search(rf"^def test_\w*{keyword}", code, re.MULTILINE), (file, keyword)
    for file in re.findall(r"`(sklearn_dfd/\w+\.py)`", table):
        assert (ROOT / file).exists(), file
