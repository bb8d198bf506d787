"""A type checker refuses wrong calls, accepts right ones, and knows what comes back."""

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

pytest.importorskip("mypy")
pytestmark = pytest.mark.slow  # mypy reads torch for up to a minute, where it has no cache

ROOT = Path(__file__).parents[1]
CONSUMER = ROOT / "tests" / "typed" / "consumer.py"
LINES = dict(enumerate(CONSUMER.read_text("utf-8").splitlines(), start=1))


def lines(kept):
    """Numbers of the lines that ``kept`` says."""
    return [pytest.param(n, id=line) for n, line in LINES.items() if kept(line)]


def is_refused(line):
    return line.endswith("# refused")


def is_accepted(line):
    return re.match(r"\w.*\(.*\)", line) and not is_refused(line)


def is_revealed(line):
    return line.startswith("reveal_type(")


@pytest.fixture(scope="module")
def said():
    """Kinds and texts of what mypy says, by line."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", str(CONSUMER)),
            *("--config-file", str(CONSUMER.with_name("mypy.ini"))),
            *("--cache-dir", str(ROOT / ".mypy_cache" / "consumer")),
            *("--no-pretty", "--no-color-output", "--no-error-summary", "--hide-error-context"),
        ],
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    said = defaultdict(list)
    for path, line, kind, text in re.findall(
        r"^(.+?):(\d+): (error|note): (.*)$", done.stdout, flags=re.MULTILINE
    ):
        assert Path(path).name == CONSUMER.name, done.stdout
        said[int(line)].append((kind, text))
    return said


def errors(said, line):
    return [text for kind, text in said[line] if kind == "error"]


@pytest.mark.parametrize("line", lines(is_refused))
def test_wrong_calls_are_refused(said, line):
    # an error that a function is not annotated is not a check of its arguments
    assert any("[no-untyped-call]" not in text for text in errors(said, line))


@pytest.mark.parametrize("line", lines(is_accepted))
def test_right_calls_are_accepted(said, line):
    assert errors(said, line) == []


@pytest.mark.parametrize("line", lines(is_revealed))
def test_what_comes_back_has_a_type(said, line):
    (revealed,) = (re.findall('"(.*)"', text)[0] for kind, text in said[line] if kind == "note")
    assert not re.match(r"Any\b", revealed) and "-> Any" not in revealed
    _, _, expected = LINES[line].partition("  # ")
    assert expected in revealed
