"""Saved detectors, of any of the three kinds of files, as makers of rows."""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import click
import numpy as np

from sklearn_dfd._core.command_line.classes import class_to_detect
from sklearn_dfd._core.command_line.rows import Row
from sklearn_dfd._core.images.decoding import load_rgb
from sklearn_dfd._core.images.reading import read_source
from sklearn_dfd._core.messages import brief
from sklearn_dfd._core.validation import Label, import_extra

#: All that a skops file may hold beside the types that skops trusts: docs/saving.md names them.
TRUSTED = (
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn_dfd.augmented_classifier.AugmentedClassifier",
    "sklearn_dfd.classifier.DeepFakeClassifier",
    "sklearn_dfd.feature_store.FeatureStore",
    "sklearn_dfd.features.MobileNetV2Features",
)
_ONNX_BATCH = 16


class Detector(Protocol):
    """A detector, its classes, and what its probabilities mean."""

    classes: list[Label]
    columns: list[str]
    note: str

    def rows(self, paths: Sequence[str]) -> list[Row]:
        """Judge photographs, and return a row for each, as `sklearn_dfd.detect` does."""
        ...


def load_detector(path: str, pos_label: str | None, threshold: float | None) -> Detector:
    """Load a detector by how the name of its file ends.

    Parameters
    ----------
    path : str
        The file.
    pos_label : str or None
        The class to detect, as on the command line.
    threshold : float or None
        The probability from which on a photograph is called so.

    Returns
    -------
    detector : Detector

    Raises
    ------
    ValueError
        If the file is not that of a detector, or a skops file holds types that are not trusted.
    """
    ending = Path(path).suffix.lower()
    if ending not in _LOADERS:
        raise click.UsageError(
            f"{click.format_filename(path)}: a detector is a file whose name ends in "
            f"{', '.join(_LOADERS)}."
        )
    return _LOADERS[ending](path, pos_label, threshold)


class _PythonDetector:
    """A detector of scikit-learn."""

    def __init__(self, estimator: Any, pos_label: str | None, threshold: float | None) -> None:
        # here, since they import torch
        from sklearn_dfd import detect
        from sklearn_dfd.feature_store import IN_PROCESS

        self.classes = np.asarray(estimator.classes_).tolist()
        label = class_to_detect(pos_label, self.classes) if len(self.classes) == 2 else pos_label
        self._forget = IN_PROCESS.clear
        self._detect = lambda paths: detect(estimator, paths, pos_label=label, threshold=threshold)
        nothing = self._detect([])
        self.columns = nothing.columns.tolist()
        self.note = nothing.attrs["note"]

    def rows(self, paths: Sequence[str]) -> list[Row]:
        table = self._detect(list(paths))
        columns = [table[name].tolist() for name in self.columns]
        self._forget()
        # NaN is the only value that differs from itself
        return [
            {name: None if v != v else v for name, v in zip(self.columns, row, strict=True)}
            for row in zip(*columns, strict=True)
        ]


def _from_joblib(path: str, pos_label: str | None, threshold: float | None) -> Detector:
    import joblib

    return _checked(path, joblib.load, pos_label, threshold)


def _from_skops(path: str, pos_label: str | None, threshold: float | None) -> Detector:
    skops_io = import_extra("skops.io", "detect with a skops file")

    def load(path: str) -> Any:
        strangers = sorted(set(skops_io.get_untrusted_types(file=path)) - set(TRUSTED))
        if strangers:
            raise ValueError(
                f"it holds types that this command does not trust, {', '.join(strangers)}: if you "
                "do, load it in Python with skops.io.load(path, trusted=[...])"
            )
        return skops_io.load(path, trusted=list(TRUSTED))

    return _checked(path, load, pos_label, threshold)


def _checked(
    path: str, load: Callable[[str], Any], pos_label: str | None, threshold: float | None
) -> Detector:
    try:
        estimator = load(path)
    except ImportError:
        raise
    except Exception as error:  # of any kind: the bytes may be anything
        reason = str(error) if type(error) is ValueError else brief(error)
        raise ValueError(f"{path!r} cannot be loaded as a detector: {reason}.") from error
    if not (hasattr(estimator, "predict_proba") and hasattr(estimator, "classes_")):
        raise ValueError(
            f"{path!r} holds no fitted detector: it is of type {type(estimator).__name__}."
        )
    return _PythonDetector(estimator, pos_label, threshold)


class _OnnxDetector:
    """A detector that `sklearn_dfd.export.to_onnx` wrote: onnxruntime is all that it needs."""

    note = (
        "The probabilities are not calibrated, so that one near 0 or 1 does not mean that the "
        "detector is likely to be right: an ONNX file holds no calibration."
    )

    def __init__(self, path: str, pos_label: str | None, threshold: float | None) -> None:
        onnxruntime = import_extra("onnxruntime", "detect with an ONNX file")
        try:  # the bytes, since not every name of a file is one for onnxruntime
            self._session = onnxruntime.InferenceSession(
                Path(path).read_bytes(), providers=["CPUExecutionProvider"]
            )
            properties = self._session.get_modelmeta().custom_metadata_map
            self.classes = json.loads(properties["classes"])
            self._side = int(properties["image_size"])
            self._max_pixels = json.loads(properties.get("max_pixels", "null"))
        except Exception as error:
            raise ValueError(
                f"{path!r} is not a file that sklearn_dfd.export.to_onnx wrote ({brief(error)})."
            ) from error
        self._threshold = threshold
        shown = self.classes
        if len(self.classes) == 2:
            shown = [class_to_detect(pos_label, self.classes)]
        elif pos_label is not None or threshold is not None:
            raise click.UsageError(
                f"--pos-label and --threshold are for two classes, and there are {self.classes}."
            )
        self._shown = [self.classes.index(label) for label in shown]
        self._probabilities = [f"probability_{label}" for label in shown]
        self.columns = ["path", "label", *self._probabilities, "reading", "error"]
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))

    def rows(self, paths: Sequence[str]) -> list[Row]:
        rows = []
        for start in range(0, len(paths), _ONNX_BATCH):
            part = paths[start : start + _ONNX_BATCH]
            decoded = list(self._pool.map(self._decoded, part))
            squares = [pixels for pixels, _ in decoded if pixels is not None]
            # squares of the model's own size stay as they are in it
            judged = iter(
                self._session.run(None, {"images": np.stack(squares)})[0] if squares else []
            )
            for path, (_, fault) in zip(part, decoded, strict=True):
                rows.append(self._row(path, fault, None if fault else next(judged)))
        return rows

    def _decoded(self, path: str) -> tuple[Any, str]:
        try:
            return load_rgb(read_source(path), self._side, self._max_pixels), ""
        except (OSError, ValueError, TypeError) as error:
            return None, str(error)

    def _row(self, path: str, fault: str, judged: Any) -> Row:
        if fault:
            numbers = dict.fromkeys(self._probabilities)
            reading = f"not judged: {fault}"
            return {"path": path, "label": None, **numbers, "reading": reading, "error": fault}
        called = int(judged.argmax())
        if self._threshold is not None:
            positive = self._shown[0]
            called = positive if judged[positive] >= self._threshold else 1 - positive
        label = self.classes[called]
        values = (float(judged[i]) for i in self._shown)
        return {
            "path": path,
            "label": label,
            **dict(zip(self._probabilities, values, strict=True)),
            "reading": f"called {label if isinstance(label, str) else f'class {label}'}",
            "error": "",
        }


_LOADERS: dict[str, Callable[[str, str | None, float | None], Detector]] = {
    ".joblib": _from_joblib,
    ".skops": _from_skops,
    ".onnx": _OnnxDetector,
}
