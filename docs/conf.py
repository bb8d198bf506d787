"""Sphinx configuration."""

import sys
from pathlib import Path

import sklearn_dfd

sys.path.insert(0, str(Path(__file__).parent))

import gallery

project = "sklearn-dfd"
author = copyright = "the sklearn-dfd developers"
release = version = sklearn_dfd.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_gallery.gen_gallery",
]
autosummary_generate = True
numpydoc_show_class_members = False
myst_heading_anchors = 3
# docstrings inherited from scikit-learn refer to sections and terms of its own guide
suppress_warnings = ["ref.ref", "ref.term"]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
_run = [Path(name).stem for name, given in gallery.SETTINGS.items() if given is not None]
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": rf"[/\\]({'|'.join(_run)})\.py$",
    "within_subsection_order": "gallery.position",
    "reset_modules": ("matplotlib", "gallery.set_environment"),
    # the links from code to the API pages are local: other projects' would be fetched
    "doc_module": "sklearn_dfd",
    "reference_url": {"sklearn_dfd": None},
    "capture_repr": (),
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
}
html_title = project
html_theme = "pydata_sphinx_theme"
html_show_sourcelink = False
html_theme_options = {"show_toc_level": 2}


def setup(app):
    """Say in each example how it ran."""
    app.connect("source-read", gallery.say_how_it_ran)
