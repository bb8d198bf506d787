"""Imports go one way, downwards, and the table in docs/architecture.md shows them all.

    python tests/test_architecture.py

writes that table anew.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sklearn_dfd"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms -->\n", "<!-- end of rooms -->"

# each file or folder is a room; it imports from those below it alone
ROOMS = (
    "__main__",
    "_core/command_line",
    "export",
    "inspection",
    "pipeline",
    "augmented_classifier",
    "classifier",
    "features",
    "robustness",
    "model_selection",
    "augmentation",
    "datasets",
    "metrics",
    "weights",
    "_core/extraction",
    "feature_store",
    "_core/copies",
    "_core/shortcuts",
    "_core/network",
    "_core/group_answers",
    "_core/answers",
    "_core/groups",
    "_core/bootstrap",
    "_core/unsure_band",
    "_core/images",
    "_core/runtime",
    "_core/feature_rows",
    "_core/callbacks",
    "_core/persistence",
    "_core/axes",
    "_core/validation",
    "exceptions",
    "_core/messages",
    "_core/sklearn_private",
    "_core/moved",
    "_core/version",
)


def room_of(module):
    """Return the room of a module such as ``sklearn_dfd._core.images.decoding``."""
    parts = module.split(".")[1:]
    depth = 2 if parts[0] == "_core" else 1
    return "/".join(parts[:depth])


def modules():
    """Yield the files of the package with their module names, but for the entrance."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name not in ("sklearn_dfd", "sklearn_dfd._core"):
            yield name, path


def imported(path):
    """Return the modules of the package that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sklearn_dfd."):
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = {name for name, _ in modules()}
            found |= {each if each in names else node.module for each in inside}
    return found


def rooms():
    """Map each room to the first sentence of each of its files and the rooms it imports from."""
    table = {room: ([], set()) for room in ROOMS}
    for name, path in modules():
        files, below = table[room_of(name)]
        sentence = ast.get_docstring(ast.parse(path.read_text())).split("\n\n")[0]
        files.append((path.relative_to(PACKAGE).as_posix(), " ".join(sentence.split())))
        below |= {room_of(module) for module in imported(path)} - {room_of(name)}
    return table


def table():
    """Write the rooms as a table of Markdown."""
    lines = ["| file in `sklearn_dfd/` | what is in it | imports from |", "|---|---|---|"]
    for files, below in rooms().values():
        for i, (file, sentence) in enumerate(files):
            where = ", ".join(f"`{room}`" for room in ROOMS if room in below) or "nothing"
            lines.append(f"| `{file}` | {sentence} | {'' if i else where} |")
    return "\n".join(lines) + "\n"


def test_each_room_imports_from_rooms_below_it():
    upwards = [
        f"{room} imports {other}"
        for i, (room, (_, below)) in enumerate(rooms().items())
        for other in below
        if ROOMS.index(other) <= i
    ]
    assert not upwards


def test_private_names_stay_in_their_file():
    strangers = []
    for name, path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sklearn_dfd"):
                strangers += [
                    f"{name}: {alias.name}" for alias in node.names if alias.name.startswith("_")
                ]
    assert [s for s in strangers if not s.endswith((": _core", ": __version__"))] == []


def test_private_modules_of_scikit_learn_are_imported_in_one_file():
    users = set()
    for name, path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sklearn":
                private = any(part.startswith("_") for part in node.module.split("."))
                if private or any(alias.name.startswith("_") for alias in node.names):
                    users.add(name)
    assert users == {"sklearn_dfd._core.sklearn_private"}


def test_the_ground_floor_is_small():
    # files such as __init__.py and __main__.py are entrances, with names that Python gives them
    entries = {path.name for path in PACKAGE.iterdir() if not path.name.startswith("__")}
    entries -= {"py.typed"}
    assert len(entries) <= 16, sorted(entries)


def test_the_table_of_rooms_is_up_to_date():
    text = PAGE.read_text()
    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)] == table()


def fresh(code, *options):
    """Run code in a process of its own, and return what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment
    ).stdout.strip()


LIGHT = ("", ".augmentation", ".datasets", ".exceptions", ".metrics", ".model_selection")


@pytest.mark.parametrize("module", LIGHT)
def test_importing_what_needs_no_network_imports_no_torch(module):
    heavy = "{'torch', 'torchvision', 'skorch', 'onnxruntime', 'matplotlib'}"
    assert fresh(f"import sys, sklearn_dfd{module}; print({heavy} & set(sys.modules))") == "set()"


def test_public_names_and_modules_are_all_that_dir_shows():
    import sklearn_dfd

    names = set(sklearn_dfd.__all__) - {"__version__"}
    assert names == {
        "AugmentedClassifier",
        "DeepFakeClassifier",
        "MobileNetV2Features",
        "detect",
        "make_deepfake_pipeline",
    }
    public = {p.stem for p in PACKAGE.iterdir() if not p.name.startswith(("_", "py."))}
    assert set(dir(sklearn_dfd)) == names | public | {"__version__"}
    shown = fresh("import sklearn_dfd; sklearn_dfd.detect; print(*dir(sklearn_dfd))").split()
    assert shown == dir(sklearn_dfd)


def test_submodules_work_without_being_imported_first():
    assert (
        fresh("import sklearn_dfd; print(sklearn_dfd.metrics.tpr_at_fpr.__name__)") == "tpr_at_fpr"
    )
    with pytest.raises(AttributeError, match="has no attribute 'network'"):
        import sklearn_dfd

        _ = sklearn_dfd.network


OLD = {
    "distortions.distort": "robustness",
    "feature_matrix.extract_feature_matrix": "export",
    "images.ImageError": "exceptions",
    "model_card.make_model_card": "export",
    "net.LossError": "exceptions",
    "source_groups.find_copies": "model_selection",
}


@pytest.mark.parametrize("old", OLD)
def test_addresses_of_release_0_1_0_still_import(old):
    module, name = old.split(".")
    with pytest.warns(FutureWarning, match=f"is at sklearn_dfd.{OLD[old]}.{name} now"):
        exec(f"from sklearn_dfd.{module} import {name} as found", namespace := {})
    exec(f"from sklearn_dfd.{OLD[old]} import {name} as wanted", namespace)
    assert namespace["found"] is namespace["wanted"]


def test_decorators_can_be_read_by_the_documentation():
    """Sphinx links a page to its source only if it can write each decorator back."""
    for name, path in modules():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            for decorator in getattr(node, "decorator_list", []):
                dicts = [n for n in ast.walk(decorator) if isinstance(n, ast.Dict)]
                assert all(None not in each.keys for each in dicts), f"{name}: use | for **"


def test_errors_can_be_imported_where_they_were():
    from sklearn_dfd import exceptions
    from sklearn_dfd.model_selection import LeakageError
    from sklearn_dfd.weights import WeightsError

    assert (LeakageError, WeightsError) == (exceptions.LeakageError, exceptions.WeightsError)


if __name__ == "__main__":
    page = PAGE.read_text()
    head, tail = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(head + BEGIN + table() + END + tail)
