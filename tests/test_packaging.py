"""The wheel and the source distribution hold what they should, and the installed wheel works."""

import ast
import email
import json
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from PIL import Image

import sklearn_dfd

ROOT = Path(__file__).parents[1]
QUICKSTART = """
import joblib, sklearn_dfd
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn_dfd import make_deepfake_pipeline
from sklearn_dfd.datasets import make_spliced_photos
photos = make_spliced_photos(24, random_state=0)
pipe = make_deepfake_pipeline(weights=None, image_size=64, max_epochs=1, random_state=0)
print(cross_val_score(pipe, photos.data, photos.target, groups=photos.groups, cv=GroupKFold(2)))
joblib.dump(pipe.fit(photos.data, photos.target), "detector.joblib")
print(joblib.load("detector.joblib").predict_proba(photos.data[:2]).shape)
print(sklearn_dfd.__file__)
"""
#: What the console script does.
COMMAND = """
from importlib.metadata import entry_points
(script,) = entry_points(group="console_scripts", name="sklearn-dfd")
script.load()(["detect", "detector.joblib", "photo of mine.png", "--json"])
"""


def run(*command, **options):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=600, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """Directory with the wheel and the source distribution."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    directory = tmp_path_factory.mktemp("dist")
    # without isolation: what builds is installed here, and nothing is downloaded
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", directory, ROOT)
    return directory


@pytest.fixture(scope="module")
def wheel(dist):
    return dist / f"sklearn_dfd-{sklearn_dfd.__version__}-py3-none-any.whl"


def imported_at_once(source):
    """Yield the first part of each imported name, except in functions and for type checkers."""
    nodes = [ast.parse(source)]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue  # for type checkers alone
        elif not isinstance(node, ast.FunctionDef):
            nodes.extend(ast.iter_child_nodes(node))


@pytest.mark.slow
def test_the_wheel_requires_what_the_package_imports(wheel):
    """The wheel is installed next to all that is here, which would hide a missing dependency."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = f"sklearn_dfd-{sklearn_dfd.__version__}.dist-info/METADATA"
        requirements = email.message_from_bytes(archive.read(metadata)).get_all("Requires-Dist")
        sources = [archive.read(name) for name in archive.namelist() if name.endswith(".py")]
    required = {
        re.match(r"[\w.-]+", requirement)[0]
        for requirement in requirements
        if "extra ==" not in requirement
    }
    names = {name for source in sources for name in imported_at_once(source)}
    distributions = packages_distributions()
    imported = {
        re.sub(r"[-_.]+", "-", distributions[name][0]).lower()
        for name in names - sys.stdlib_module_names - {"sklearn_dfd"}
    }
    assert required == imported


@pytest.mark.slow
def test_quickstart_from_the_built_wheel(dist, wheel, tmp_path):
    version = sklearn_dfd.__version__
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "sklearn_dfd").rglob("*.py")}
    assert modules | {"sklearn_dfd/py.typed"} <= set(names)
    assert {name.split("/")[0] for name in names} == {
        "sklearn_dfd",
        f"sklearn_dfd-{version}.dist-info",
    }
    with tarfile.open(dist / f"sklearn_dfd-{version}.tar.gz") as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    kept = {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "tests/frozen/0.1.0.xz"}
    assert kept | modules <= names

    # an environment of its own for the wheel, which borrows torch and the rest from this one
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", site, wheel)
    # after its own packages on the path, so that an editable install here is not what runs
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    lines = run(python, "-I", "-c", QUICKSTART, cwd=elsewhere).splitlines()
    assert lines[-2] == "(2, 2)"
    assert Path(lines[-1]) == site / "sklearn_dfd" / "__init__.py"

    Image.new("RGB", (64, 64), "teal").save(elsewhere / "photo of mine.png")
    row = run(python, "-I", "-c", COMMAND, cwd=elsewhere)
    assert json.loads(row)["path"] == "photo of mine.png" and json.loads(row)["error"] == ""


def test_pre_commit_runs_the_linters_that_are_pinned():
    """So that a commit that its hooks let through does not fail in CI."""
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    revisions = dict(
        re.findall(r"repo: .*/(?:mirrors-)?(\w+?)(?:-pre-commit)?\n +rev: v(.*)", hooks)
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    pinned = [entry.split("==") for entry in project["optional-dependencies"]["lint"]]
    pinned = dict(entry for entry in pinned if len(entry) == 2)
    assert set(pinned) == {"codespell", "mypy", "numpydoc", "ruff"}
    assert {name: revisions[name] for name in pinned} == pinned
