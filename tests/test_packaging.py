"""The wheel and the source distribution hold what they should, and the installed wheel works."""

import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

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


def run(*command, **options):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=600, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_quickstart_from_the_built_wheel(tmp_path):
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    # without isolation: what builds is installed here, and nothing is downloaded
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", ROOT)
    version = sklearn_dfd.__version__
    wheel = tmp_path / "dist" / f"sklearn_dfd-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "sklearn_dfd").rglob("*.py")}
    assert modules | {"sklearn_dfd/py.typed"} <= set(names)
    assert {name.split("/")[0] for name in names} == {
        "sklearn_dfd",
        f"sklearn_dfd-{version}.dist-info",
    }
    with tarfile.open(tmp_path / "dist" / f"sklearn_dfd-{version}.tar.gz") as archive:
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
