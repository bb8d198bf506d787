"""Sphinx configuration."""

import sys
from pathlib import Path

import sklearn_dfd

sys.path.insert(0, str(Path(__file__).parent))

import gallery
import inventories
import outputs

project = "sklearn-dfd"
author = copyright = "the sklearn-dfd developers"
release = version = sklearn_dfd.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
autosummary_generate = True
numpydoc_show_class_members = False
# types are in the sections of the docstrings
autodoc_typehints = "none"
numpydoc_xref_param_type = True
# of types that are words, not names
numpydoc_xref_ignore = {
    "of",
    "shape",
    "dtype",
    "default",
    "optional",
    "or",
    "and",
    "path",
    "None",
}
# each project's own list where there is a network, ours where there is none
intersphinx_mapping = inventories.mapping(Path(__file__).parent / "api" / "generated")
intersphinx_timeout = 5
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
    "backreferences_dir": "api/generated/backreferences",
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
    """Say in each example how it ran; show what the blocks of the guide print and draw."""
    app.connect("source-read", gallery.say_how_it_ran)
    app.connect("source-read", outputs.add_outputs)
