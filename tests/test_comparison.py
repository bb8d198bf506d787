"""Each cell of the comparison names what shows it: a command, a file, a source."""

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


def test_every_cell_says_what_shows_it():
    page = (ROOT / "docs" / "comparison.md").read_text("utf-8")
    read = re.findall(r"^- \[(\w)\]", page, re.MULTILINE)
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    (ours, *peers), features = rows[0], rows[1:]  # the first cell of the first row is empty
    assert ours == "this package"
    assert len(peers) == len(read) == 7 and len(features) > 10
    for feature, ours, *cells in features:
        assert re.search(r"`[^`]+`|\]\(\w+\.md\)", ours), (feature, ours)
        for peer, letter, cell in zip(peers, read, cells, strict=True):
            shown = cell == "-" or f"[{letter}]" in cell or re.search(r"`[\w/]+\.\w+`", cell)
            assert shown, (feature, peer, cell)


def test_what_this_package_lacks_is_a_row():
    """A comparison that its author wins everywhere is not one."""
    page = (ROOT / "docs" / "comparison.md").read_text("utf-8")
    ours = [line.split(" | ")[1] for line in page.splitlines() if line.startswith("| ")]
    assert sum(cell.startswith(("no,", "no:")) for cell in ours) >= 4
    assert "ImageTransformer" in page
