"""How the gallery runs the examples: in minutes, without photographs and without a network."""

import os
from pathlib import Path

# where sphinx was started; the examples run in their own folder
_FILE = os.environ.get("DFD_WEIGHTS")
_WEIGHTS = ["--weights", str(Path(_FILE).resolve()) if _FILE else "random"]

#: Arguments of each example, in the order of the gallery. None: shown, and not run.
ARGUMENTS: dict[str, list[str] | None] = {
    "quickstart.py": [*_WEIGHTS, "--n-samples", "160"],
    "source_groups.py": ["--n-edits", "13"],
    "leakage.py": [*_WEIGHTS, "--n-samples", "120"],
    "augmentation.py": [*_WEIGHTS, "--n-samples", "80", "--n-views", "2"],
    "robustness.py": [*_WEIGHTS, "--n-samples", "120", "--n-resamples", "100"],
    "gradcam.py": [*_WEIGHTS, "--n-samples", "240"],
    "calibration.py": [*_WEIGHTS, "--n-samples", "450"],
    "export_onnx.py": [*_WEIGHTS, "--n-samples", "60"],
    "real_and_fake_faces.py": None,
    "accurate_detector.py": None,
}

_NOT_RUN = "This page shows no output: the example needs a folder of photographs (``--data``)."
_RUN = "The output on this page is that of ``python examples/{}``."
_RANDOM = (
    "That is a small run from random weights, which needs neither photographs nor a network: its "
    "scores are those of a poor detector."
)


def position(file_name):
    """Sort the examples as they are listed above."""
    return list(ARGUMENTS).index(file_name)


def arguments(gallery_conf, script_vars):
    """Give an example its command line."""
    return ARGUMENTS[Path(script_vars["src_file"]).name]


def say_how_it_ran(app, docname, source):
    """Put a note under the introduction of each example."""
    folder, _, name = docname.rpartition("/")
    if folder != "auto_examples" or (script := f"{name}.py") not in ARGUMENTS:
        return
    if (given := ARGUMENTS[script]) is None:
        said = _NOT_RUN
    else:
        # of the path of a file of weights nothing is published
        shown = ["FILE" if a == _WEIGHTS[1] and _FILE else a for a in given]
        said = _RUN.format(" ".join([script, *shown]))
        if "random" in given:
            said += " " + _RANDOM
    introduction, marker, code = source[0].partition(".. GENERATED FROM PYTHON SOURCE LINES")
    source[0] = f"{introduction}.. note::\n\n   {said}\n\n{marker}{code}"
