"""Saved detectors, of any of the three kinds of files, as makers of rows."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import click
import numpy as np

from sklearn_dfd._core.answers import (
    UNSURE,
    by_rule,
    combine,
    none_usable,
    note_on,
    note_on_band,
    reading_of,
)
from sklearn_dfd._core.command_line.classes import class_to_detect
from sklearn_dfd._core.command_line.rows import Row
from sklearn_dfd._core.images.decoding import load_rgb
from sklearn_dfd._core.images.films import VideoFrame
from sklearn_dfd._core.images.reading import read_each
from sklearn_dfd._core.images.sources import describe
from sklearn_dfd._core.messages import brief
from sklearn_dfd._core.validation import Label, import_extra

#: All that a skops file may hold in addition to the types that skops trusts; see docs/saving.md.
TRUSTED = (
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn_dfd.augmentation.FaceCrops",
    "sklearn_dfd.augmented_classifier.AugmentedClassifier",
    "sklearn_dfd.classifier.DeepFakeClassifier",
    "sklearn_dfd.feature_store.FeatureStore",
    "sklearn_dfd.features.MobileNetV2Features",
)
_ONNX_BATCH = 16
_DECODED = 128  # images that are decoded ahead
_FRAMES = "A film is a group of frames. "

_Judged = tuple[Any, str]  # the probabilities of an image, and what is wrong with it


class Detector(Protocol):
    """A detector, its classes, and what its probabilities mean.

    Its rows have the columns of `sklearn_dfd.detect`, and the numbers of images that were judged
    and not judged: one for a photograph, the frames of a film.
    """

    classes: list[Label]
    columns: list[str]
    note: str
    note_on_films: str

    def of_photographs(self, paths: list[str]) -> list[Row]:
        """Judge photographs, and return a row for each."""
        ...

    def of_films(self, films: list[list[VideoFrame]]) -> list[Row]:
        """Judge films by some of their frames, and return a row for each film."""
        ...


def load_detector(
    path: str,
    pos_label: str | None,
    threshold: float | None,
    unsure: tuple[float, float] | None,
) -> Detector:
    """Load a detector; the ending of the file's name says how.

    Parameters
    ----------
    path : str
        The file.
    pos_label : str or None
        The class to detect, as on the command line.
    threshold : float or None
        The lowest probability at which it is called.
    unsure : tuple of two floats, or None
        The probabilities between which the answer is "not sure".

    Returns
    -------
    detector : Detector

    Raises
    ------
    ValueError
        If the file does not hold a detector, or a skops file holds types that are not trusted.
    """
    ending = Path(path).suffix.lower()
    if ending == ".onnx":
        return _OnnxDetector(path, pos_label, threshold, unsure)
    if ending not in _LOADERS:
        raise click.UsageError(
            f"{click.format_filename(path)}: a detector is a file whose name ends in "
            f"{', '.join(_LOADERS)}, .onnx."
        )
    try:
        estimator = _LOADERS[ending](path)
    except ImportError:
        raise
    except Exception as error:  # of any kind: the bytes may be anything
        reason = str(error) if type(error) is ValueError else brief(error)
        raise ValueError(f"{path!r} cannot be loaded as a detector: {reason}.") from error
    if not (hasattr(estimator, "predict_proba") and hasattr(estimator, "classes_")):
        raise ValueError(
            f"{path!r} holds no fitted detector: it is of type {type(estimator).__name__}."
        )
    return _PythonDetector(estimator, pos_label, threshold, unsure)


def _from_joblib(path: str) -> Any:
    import joblib

    return joblib.load(path)


def _from_skops(path: str) -> Any:
    skops_io = import_extra("skops.io", "detect with a skops file")
    strangers = sorted(set(skops_io.get_untrusted_types(file=path)) - set(TRUSTED))
    if strangers:
        raise ValueError(
            f"it holds types that this command does not trust, {', '.join(strangers)}: if you do, "
            "load it in Python with skops.io.load(path, trusted=[...])"
        )
    return skops_io.load(path, trusted=list(TRUSTED))


_LOADERS: dict[str, Callable[[str], Any]] = {".joblib": _from_joblib, ".skops": _from_skops}


def _columns(probabilities: list[str]) -> list[str]:
    return ["path", "label", *probabilities, "n_judged", "n_not_judged", "reading", "error"]


class _PythonDetector:
    """A detector of scikit-learn."""

    def __init__(
        self,
        estimator: Any,
        pos_label: str | None,
        threshold: float | None,
        unsure: tuple[float, float] | None,
    ) -> None:
        # here, since they import torch
        from sklearn_dfd import detect
        from sklearn_dfd.feature_store import IN_PROCESS

        self.classes = np.asarray(estimator.classes_).tolist()
        label = class_to_detect(pos_label, self.classes) if len(self.classes) == 2 else pos_label
        self._forget = IN_PROCESS.clear
        self._detect = partial(
            detect, estimator, pos_label=label, threshold=threshold, unsure=unsure
        )
        nothing = self._detect([])
        self.columns = _columns([name for name in nothing if name.startswith("probability_")])
        self.note = nothing.attrs["note"]
        self.note_on_films = _FRAMES + self._detect([], groups=[]).attrs["note"]

    def of_photographs(self, paths: list[str]) -> list[Row]:
        table = self._detect(paths)
        table["n_not_judged"] = (table["error"] != "").astype(int)
        table["n_judged"] = 1 - table["n_not_judged"]
        return self._rows(table)

    def of_films(self, films: list[list[VideoFrame]]) -> list[Row]:
        film_of_frame = np.repeat(np.arange(len(films)), list(map(len, films)))
        table = self._detect(list(chain.from_iterable(films)), groups=film_of_frame)
        table["path"] = [frames[0].path for frames in films]
        return self._rows(table)

    def _rows(self, table: Any) -> list[Row]:
        columns = [table[name].tolist() for name in self.columns]
        self._forget()
        # NaN is the only value that differs from itself
        return [
            {name: None if v != v else v for name, v in zip(self.columns, row, strict=True)}
            for row in zip(*columns, strict=True)
        ]


class _OnnxDetector:
    """A detector that `sklearn_dfd.export.to_onnx` wrote: onnxruntime is all that it needs."""

    note = (
        "The probabilities are not calibrated, so one near 0 or 1 does not mean that the detector "
        "is likely to be right: an ONNX file holds no calibration."
    )

    def __init__(
        self,
        path: str,
        pos_label: str | None,
        threshold: float | None,
        unsure: tuple[float, float] | None,
    ) -> None:
        onnxruntime = import_extra("onnxruntime", "detect with an ONNX file")
        try:  # the bytes, since not every name of a file is one for onnxruntime
            self._session = onnxruntime.InferenceSession(
                Path(path).read_bytes(), providers=["CPUExecutionProvider"]
            )
            properties = self._session.get_modelmeta().custom_metadata_map
            self.classes = json.loads(properties["classes"])
            side = int(properties["image_size"])
            max_pixels = json.loads(properties.get("max_pixels", "null"))
        except Exception as error:
            raise ValueError(
                f"{path!r} is not a file that sklearn_dfd.export.to_onnx wrote ({brief(error)})."
            ) from error
        # squares of the model's own size stay as they are in it
        self._decode = partial(load_rgb, image_size=side, max_pixels=max_pixels)
        shown = self.classes
        if len(self.classes) == 2:
            shown = [class_to_detect(pos_label, self.classes)]
        elif (pos_label, threshold, unsure) != (None, None, None):
            raise click.UsageError(
                "--pos-label, --threshold and --unsure are for two classes, and there are "
                f"{self.classes}."
            )
        self._shown = [self.classes.index(label) for label in shown]
        ends = unsure if threshold is None else (threshold, threshold)
        self._rule = None if ends is None else (self._shown[0], *ends)
        self._probabilities = [f"probability_{label}" for label in shown]
        self.columns = _columns(self._probabilities)
        self.note_on_films = _FRAMES + note_on(False, True, unsure)
        if unsure is not None:
            self.note += " " + note_on_band(unsure, False)
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))

    def of_photographs(self, paths: list[str]) -> list[Row]:
        return self._rows(paths, [[path] for path in paths])

    def of_films(self, films: list[list[VideoFrame]]) -> list[Row]:
        return self._rows([frames[0].path for frames in films], films)

    def _rows(self, paths: list[str], groups: Sequence[Sequence[Any]]) -> list[Row]:
        """Judge each group of images as one, and return a row for each."""
        judged = iter(list(self._judged(list(chain.from_iterable(groups)))))
        return [
            self._row(path, images, list(islice(judged, len(images))))
            for path, images in zip(paths, groups, strict=True)
        ]

    def _judged(self, images: list[Any]) -> Iterator[_Judged]:
        """Yield the probabilities of each image, or what is wrong with it."""
        for start in range(0, len(images), _DECODED):
            part = images[start : start + _DECODED]
            decoded = read_each(part, self._decode, range(len(part)), self._pool.map)
            while batch := list(islice(decoded, _ONNX_BATCH)):
                squares = [pixels for pixels, _ in batch if pixels is not None]
                rows = iter(
                    self._session.run(None, {"images": np.stack(squares)})[0] if squares else []
                )
                for _, fault in batch:
                    yield (None, fault) if fault is not None else (next(rows), "")

    def _row(self, path: str, images: Sequence[Any], judged: list[_Judged]) -> Row:
        usable = np.array([row for row, _ in judged if row is not None], dtype=np.float64)
        numbers = dict.fromkeys(self._probabilities)
        label, error = None, ""
        if len(usable):
            p = combine(usable, np.zeros(len(usable), dtype=int), "mean_log_odds")
            called = int(p.argmax() if self._rule is None else by_rule(p, self._rule)[0])
            label = None if called == UNSURE else self.classes[called]
            numbers = dict(zip(self._probabilities, p[0, self._shown].tolist(), strict=True))
        elif len(images) == 1 and not isinstance(images[0], VideoFrame):
            error = judged[0][1]
        else:
            error = none_usable(len(images), describe(images[0]), judged[0][1])
        return {
            "path": path,
            "label": label,
            **numbers,
            "n_judged": len(usable),
            "n_not_judged": len(images) - len(usable),
            "reading": reading_of(label, np.nan, error, False, len(self.classes)),
            "error": error,
        }
