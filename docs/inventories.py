"""Where other projects document their names, so that the pages can link to them.

With a network, Sphinx reads each project's own list (`objects.inv`). Without
one, the lists that are written here stand in: the public names of the installed
package, each on the page where the project's documentation has it.
"""

import importlib
import inspect
import zlib
from pathlib import Path

#: Site, page of a name, and the modules whose names are listed.
PROJECTS = {
    "joblib": (
        "https://joblib.readthedocs.io/en/stable/",
        "generated/$.html",
        ["joblib"],
    ),
    "numpy": (
        "https://numpy.org/doc/stable/",
        "reference/generated/$.html",
        ["numpy"],
    ),
    "pandas": (
        "https://pandas.pydata.org/docs/",
        "reference/api/$.html",
        ["pandas"],
    ),
    "python": (
        "https://docs.python.org/3/",
        "library/functions.html",
        ["builtins"],
    ),
    "sklearn": (
        "https://scikit-learn.org/stable/",
        "modules/generated/$.html",
        [
            "sklearn.base",
            "sklearn.calibration",
            "sklearn.ensemble",
            "sklearn.metrics",
            "sklearn.model_selection",
            "sklearn.pipeline",
        ],
    ),
}


def mapping(folder):
    """Write the lists that stand in, and return the value of `intersphinx_mapping`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    mapped = {}
    for project, (site, page, modules) in PROJECTS.items():
        path = folder / f"{project}.inv"
        path.write_bytes(inventory(project, page, modules))
        mapped[project] = (site, (None, str(path)))
    return mapped


def inventory(project, page, modules):
    """Return a list in the format of Sphinx's inventories: `$` stands for the name."""
    header = (
        "# Sphinx inventory version 2\n"
        f"# Project: {project}\n"
        "# Version: installed\n"
        "# The remainder of this file is compressed using zlib.\n"
    )
    lines = [f"{name} py:{kind} 1 {page.replace('$', name)}#$ -\n" for name, kind in names(modules)]
    if project == "python":
        lines.append("None py:data 1 library/constants.html#$ -\n")
    return header.encode() + zlib.compress("".join(lines).encode())


def names(modules):
    """Yield the public classes and functions of some modules, each with its kind."""
    for module in modules:
        found = importlib.import_module(module)
        for name in sorted(getattr(found, "__all__", dir(found))):
            try:
                value = getattr(found, name)
            except (AttributeError, ImportError):  # experimental
                continue
            if name[0] != "_" and (inspect.isclass(value) or inspect.isroutine(value)):
                full = name if module == "builtins" else f"{module}.{name}"
                yield full, "class" if inspect.isclass(value) else "function"
