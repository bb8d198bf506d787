"""How the gallery runs the examples: in minutes, without photographs and without a network."""

import os
from pathlib import Path

# Sphinx is started elsewhere than the examples, which run in their own folder.
_FILE = os.environ.get("DFD_WEIGHTS")
_WEIGHTS = str(Path(_FILE).resolve()) if _FILE else "random"

#: Environment of each example besides DFD_WEIGHTS, in the order of the gallery. None: not run.
SETTINGS: dict[str, dict[str, str] | None] = {
    "quickstart.py": {"DFD_N_SAMPLES": "200"},
    "source_groups.py": {"DFD_EDITS": "13"},
    "shortcuts.py": {"DFD_N_SAMPLES": "400"},
    "leakage.py": {"DFD_N_SAMPLES": "60", "DFD_VIEWS": "2", "DFD_EPOCHS": "4"},
    "films.py": {"DFD_FILMS": "60", "DFD_EPOCHS": "4"},
    "augmentation.py": {"DFD_N_SAMPLES": "80", "DFD_VIEWS": "2"},
    "robustness.py": {"DFD_N_SAMPLES": "120", "DFD_RESAMPLES": "100"},
    "gradcam.py": {"DFD_N_SAMPLES": "240"},
    "calibration.py": {"DFD_N_SAMPLES": "450"},
    "held_out_domain.py": {"DFD_N_SAMPLES": "400"},
    "export_onnx.py": {"DFD_N_SAMPLES": "80"},
    "real_and_fake_faces.py": None,
    "accurate_detector.py": None,
}

_WITHOUT_NETWORK = ("source_groups", "shortcuts")
_NOT_RUN = "This page shows no output: the example needs a folder of photographs (``DATA``)."
_RUN = "The output on this page is that of ``{} python examples/{}``."
_RANDOM = (
    "This is a small run from random weights, which needs neither photographs nor a network: its "
    "scores are those of a poor detector."
)


def position(file_name: str) -> int:
    """Sort the examples as they are listed above."""
    return list(SETTINGS).index(file_name)


def set_environment(gallery_conf: dict[str, object], file_name: str) -> None:
    """Give an example its settings, and no other example's."""
    for settings in SETTINGS.values():
        for name in settings or {}:
            os.environ.pop(name, None)
    os.environ["DFD_WEIGHTS"] = _WEIGHTS
    os.environ.update(SETTINGS[Path(file_name).name] or {})


def say_how_it_ran(app: object, docname: str, source: list[str]) -> None:
    """Put a note under the introduction of each example."""
    folder, _, name = docname.rpartition("/")
    if folder != "auto_examples" or (script := f"{name}.py") not in SETTINGS:
        return
    if (settings := SETTINGS[script]) is None:
        said = _NOT_RUN
    else:
        # The path of a file of weights is not published.
        weights = {} if name in _WITHOUT_NETWORK else {"DFD_WEIGHTS": "FILE" if _FILE else "random"}
        variables = " ".join(f"{key}={value}" for key, value in {**weights, **settings}.items())
        said = _RUN.format(variables, script)
        if not _FILE and weights:
            said += " " + _RANDOM
    introduction, marker, code = source[0].partition(".. GENERATED FROM PYTHON SOURCE LINES")
    source[0] = f"{introduction}.. note::\n\n   {said}\n\n{marker}{code}"
