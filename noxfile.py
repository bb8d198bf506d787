"""The commands of `make`, of CI and of GitHub Actions, for every operating system.

`tests`, `coverage`, `slow`, `lint` and `docs` run in the environment that nox itself runs in.
`oldest` and `nightly` make one of their own on top of it: what it lacks, torch (gigabytes) and the
test tools among it, it takes from the outer one.
"""

import os
import re
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["lint", "tests"]
nox.options.error_on_external_run = True

PYTEST = ("-m", "pytest", "-n", "auto", "--dist", "loadgroup", "--max-worker-restart", "0")
#: Files whose outcome no version of another package decides.
VERSIONLESS = (
    "comparison",
    "docs",
    "examples",
    "mobilenet",
    "packaging",
    "reliability",
    "reliability_images",
    "reliability_numbers",
    "site",
    "tail",
    "typing",
)
#: Optional dependencies that are tested in all their versions, as extras of the package.
EXTRAS = "copies,demo,distributed,explain,onnx,skops,table,video"
#: Index of last night's wheels, which SPEC 4 of the scientific Python ecosystem names. Without it
#: the newest pre-releases are tested.
NIGHTLY_INDEX = os.environ.get("DFD_NIGHTLY_INDEX")


def python(session, *arguments, **environment):
    """Run this environment's Python."""
    session.run(sys.executable, *arguments, env=environment, external=True)


def lower_bounds():
    """Give each dependency of the package that has one at its lower bound, but torch."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    found = (re.match(r"([a-z][\w-]*)>=([\d.]+)$", entry) for entries in lists for entry in entries)
    return [f"{m[1]}=={m[2]}" for m in found if m and not m[1].startswith("torch")]


def borrow(session):
    """Let the session's environment see the packages of the outer one, behind its own."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = session.run("python", "-c", code, silent=True).strip()
    outer = [path for path in sys.path if path.endswith("site-packages")]
    Path(own, "borrowed.pth").write_text("\n".join(outer) + "\n")


def tests_of_versions(session, *options):
    """Run the tests that other packages' versions can make fail."""
    left_out = [f"--ignore=tests/test_{name}.py" for name in VERSIONLESS]
    marks = "not slow and not browser"
    tests = session.posargs or [*left_out, "tests"]
    session.run("python", *PYTEST, "-q", "-m", marks, *options, *tests)


@nox.session(venv_backend="none")
def tests(session):
    """Run the tests but for the slow ones."""
    python(session, *PYTEST, "-m", "not slow", *session.posargs)


@nox.session(venv_backend="none")
def coverage(session):
    """Run the same tests with line coverage, which takes half as long again."""
    python(session, *PYTEST, "-m", "not slow", "--cov", "--cov-report=term", *session.posargs)


@nox.session(venv_backend="none")
def slow(session):
    """Run the slow tests: examples from end to end, killed Dask workers, the built wheel."""
    python(session, *PYTEST, "-m", "slow", *session.posargs)


@nox.session(venv_backend="none")
def lint(session):
    """Run ruff, mypy, codespell and numpydoc's validation."""
    python(session, "-m", "ruff", "check", ".")
    python(session, "-m", "ruff", "format", "--check", ".")
    python(session, "-m", "mypy")
    python(session, "-m", "codespell_lib", ".")
    files = sorted(map(str, Path("sklearn_dfd").rglob("*.py")))
    python(session, "-m", "numpydoc", "lint", *files)


@nox.session(venv_backend="none")
def docs(session):
    """Build the documentation with the output of the examples, in docs/_build."""
    python(session, *"-m sphinx -q -W -b html docs docs/_build".split(), MPLBACKEND="Agg")


@nox.session(reuse_venv=True)
def oldest(session):
    """Run the tests with the oldest packages that pyproject.toml allows, over the outer torch."""
    borrow(session)
    constraints = Path(session.create_tmp(), "oldest.txt")
    constraints.write_text("\n".join(lower_bounds()) + "\n")
    session.install("-q", "-c", constraints, "-e", f".[{EXTRAS}]", "polars")
    # old packages warn about newer ones, which is not this package's concern
    tests_of_versions(session, "-W", "default::DeprecationWarning")


@nox.session(reuse_venv=True)
def nightly(session):
    """Run the tests with last night's builds of other projects, over the outer torch."""
    borrow(session)
    packages = ["matplotlib", "numpy", "pandas", "pillow", "scikit-learn", "scipy"]
    index = ["--extra-index-url", NIGHTLY_INDEX] if NIGHTLY_INDEX else []
    session.install("-q", "--pre", "-U", *index, *packages)
    session.install("-q", "--no-deps", "-e", ".")
    tests_of_versions(session)
