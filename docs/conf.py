"""Sphinx configuration."""

import sklearn_dfd

project = "sklearn-dfd"
author = copyright = "the sklearn-dfd developers"
release = version = sklearn_dfd.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
]
autosummary_generate = True
numpydoc_show_class_members = False
myst_heading_anchors = 3
# docstrings inherited from scikit-learn refer to sections of its own guide
suppress_warnings = ["ref.ref"]
exclude_patterns = ["_build"]
html_title = project
html_theme = "pydata_sphinx_theme"
html_theme_options = {"show_toc_level": 2}
