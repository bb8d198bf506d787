"""How well headers and metadata alone tell the classes apart, and by which attributes."""

from numbers import Integral, Real
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import column_or_1d

from sklearn_dfd._core.groups import check_groups, too_few_groups
from sklearn_dfd._core.images.sources import as_image_list, describe, number_by_origin
from sklearn_dfd._core.messages import on_one_line, warn_user
from sklearn_dfd._core.shortcuts.headers import (
    ATTRIBUTES,
    FILE_TIME,
    Header,
    NoHeaderError,
    read_header,
)
from sklearn_dfd._core.shortcuts.rule import auc_intervals, coded, folds_by_group, forward_scores
from sklearn_dfd._core.shortcuts.values import name_of, only_value, telling_value
from sklearn_dfd._core.sklearn_private import Interval, num_samples, validate_params
from sklearn_dfd.exceptions import ImageError, ShortcutWarning

__all__ = ["ShortcutReport", "ShortcutRow", "check_shortcuts"]

_Unreadable: TypeAlias = list[tuple[int, str, str]]


class ShortcutRow(NamedTuple):
    """What one attribute of the files says about the labels.

    Parameters
    ----------
    attribute : str
        Name of the attribute, such as "quantisation tables".
    roc_auc : float
        ROC AUC of a rule that sees this attribute alone, on files that it was not trained on.
    low, high : float
        The ends of its confidence interval.
    example : str
        The value that separates the classes best, with its share of each class.
    varies : bool
        Whether the files differ in the attribute.
    """

    attribute: str
    roc_auc: float
    low: float
    high: float
    example: str
    varies: bool


class ShortcutReport(NamedTuple):
    """What :func:`check_shortcuts` finds; ``print(report)`` shows it as a table.

    Parameters
    ----------
    roc_auc : float
        ROC AUC of a rule that sees all attributes and no pixels, on files that it was not trained
        on. 0.5 is chance.
    interval : tuple of two float
        Its confidence interval.
    attributes : list of ShortcutRow
        One row per attribute. ``pandas.DataFrame(report.attributes)`` makes a table of them.
    unreadable : list of (int, str, str)
        Row, name and reason of each image whose header cannot be read. They are left out.
    classes : list of two str
        Names of the two classes.
    n_images : int
        Number of images whose headers were read.
    n_groups : int
        Number of groups that they form.
    confidence : float
        Confidence level of all intervals.
    """

    roc_auc: float
    interval: tuple[float, float]
    attributes: list[ShortcutRow]
    unreadable: _Unreadable
    classes: list[str]
    n_images: int
    n_groups: int
    confidence: float

    @property
    def excludes_chance(self) -> bool:
        """Whether 0.5 lies outside of the interval."""
        return not self.interval[0] <= 0.5 <= self.interval[1]

    def __str__(self) -> str:
        level = f"{100 * self.confidence:g} % interval"
        low, high = self.interval
        lines = [
            f"Headers and metadata of {self.n_images:,} files in {self.n_groups:,} groups, no "
            "pixels:",
            f"ROC AUC {self.roc_auc:.3f}, {level} {low:.3f} to {high:.3f}; 0.5 is chance.",
            "",
        ]
        rows = sorted((row for row in self.attributes if row.varies), key=lambda r: -r.roc_auc)
        if rows:
            lines.append(f"{'attribute':20s}  ROC AUC  {level:14s}  value that separates best")
            lines += [
                f"{row.attribute:20s}  {row.roc_auc:7.3f}  {row.low:.3f} to {row.high:.3f}  "
                f"{row.example}"
                for row in rows
            ]
        alike = [f"{r.attribute} ({r.example})" for r in self.attributes if not r.varies]
        if alike:
            lines += ["", f"The same in all files: {', '.join(alike)}."]
        if self.unreadable:
            lines += [
                "",
                str(ImageError(self.unreadable, self.n_images + len(self.unreadable), "")),
            ]
        return "\n".join(lines)


@validate_params(
    {
        "X": "no_validation",
        "y": ["array-like"],
        "groups": ["array-like", None],
        "cv": [Interval(Integral, 2, None, closed="left")],
        "confidence": [Interval(Real, 0, 1, closed="neither")],
        "file_time": ["boolean"],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def check_shortcuts(
    X: Any,
    y: npt.ArrayLike,
    *,
    groups: npt.ArrayLike | None = None,
    cv: int = 5,
    confidence: float = 0.95,
    file_time: bool = False,
    random_state: int | np.random.RandomState | None = 0,
) -> ShortcutReport:
    """Measure how well the classes can be told apart without looking at a single pixel.

    Where the real photographs of a set come from one program and the fakes from another, their
    files differ in format, size, compression or metadata. A detector may learn that difference
    instead of the traces of an edit, and fail on other photographs [1]_. This function reads the
    headers of the files, trains a simple rule on them, and scores it on photographs of other
    groups.

    Parameters
    ----------
    X : sequence of n_images images
        Image files: paths, including paths within an archive (`zipfile.Path`), encoded bytes,
        binary file objects, or PIL images that were opened from a path. Only the header is read
        from a path. Arrays and other images in memory have no header.

    y : array-like of shape (n_images,)
        Labels of two classes, of any type.

    groups : array-like of shape (n_images,), default=None
        Labels of the photographs that must stay together, such as those that
        :func:`find_source_groups` finds. None makes each file a group of its own.

    cv : int, default=5
        Number of folds of whole groups; see Notes.

    confidence : float, default=0.95
        Confidence level of the intervals.

    file_time : bool, default=False
        Whether the time at which each file was last modified counts as an attribute. Copying or
        unpacking files may change it.

    random_state : int, RandomState instance or None, default=0
        Seed of the folds and of the resampling.

    Returns
    -------
    report : ShortcutReport
        ROC AUC and interval of the rule, a row per attribute, and the files that cannot be read.

    Raises
    ------
    ImageError
        If images have no header because they are in memory, or if no file can be read.
    TypeError, ValueError
        If ``X`` is not a collection of images or is empty, ``y`` has another length or does not
        hold two classes, a group label is missing, a class has fewer groups than there are folds,
        or a parameter is out of its range.

    Warns
    -----
    ShortcutWarning
        If the interval of the ROC AUC of all attributes together excludes 0.5.

    See Also
    --------
    sklearn_dfd.augmentation.equalize_encoding : Gives all images the same header.
    find_source_groups : Finds groups if they are not recorded.

    Notes
    -----
    The attributes are format, colour mode, size, aspect ratio, bytes per pixel, quantisation
    tables, chroma subsampling, coding (such as baseline or progressive), Huffman tables, the
    presence of EXIF and XMP data, the ICC profile, software and camera tags, and the kinds and the
    number of segments before the image data. The rule is a logistic regression; numbers are put
    into at most ten bins, and values that few files have are put together.

    The folds are tested in turn, each with a rule that was trained on the folds *before* it. The
    first fold is not tested. In ordinary cross-validation the folds judge each other, which makes
    their scores depend on each other: where labels have nothing to do with the files, an interval
    that ignores this excludes 0.5 far more often than it should. Pairs of photographs are compared
    within a fold only, and the interval resamples whole groups.

    A file with a damaged header, of more than 2,000 segments, or one that keeps its reader busy
    for more than five seconds is listed as unreadable. So are files other than JPEG that have more
    than twice as many pixels as ``PIL.Image.MAX_IMAGE_PIXELS``, and icons (ICO), which cannot be
    opened without decoding them.

    The interval is that of all attributes together. At a confidence of 0.95, one in twenty
    attributes that say nothing about the labels is expected to have an interval that excludes 0.5.

    References
    ----------
    .. [1] P. Grommelt, L. Weiss, F.-J. Pfreundt, J. Keuper (2024). Fake or JPEG? Revealing common
       biases in generated image detection datasets. ECCV Workshops.

    Examples
    --------
    >>> import io
    >>> from PIL import Image
    >>> from sklearn_dfd.datasets import make_spliced_photos
    >>> from sklearn_dfd.model_selection import check_shortcuts
    >>> photos = make_spliced_photos(120, random_state=0)
    >>> files = []
    >>> for pixels, label in zip(photos.data, photos.target):
    ...     file = io.BytesIO()
    ...     Image.fromarray(pixels).save(file, "JPEG", quality=95 if label else 90)
    ...     files.append(file.getvalue())
    >>> import warnings
    >>> with warnings.catch_warnings(action="ignore"):
    ...     report = check_shortcuts(files, photos.target)
    >>> report.roc_auc
    1.0
    """
    images = as_image_list(X)
    labels = _two_classes(y, len(images))
    named = groups is not None
    if groups is None:
        groups = number_by_origin(images)
    groups = check_groups(groups, len(images), "images")
    headers, kept, unreadable = _read(images)
    classes, target = np.unique(labels, return_inverse=True)
    target, names = target[kept], groups[kept]
    groups = np.unique(names, return_inverse=True)[1]
    for number, label in enumerate(classes):
        if not (target == number).any():
            raise ImageError(
                unreadable, len(images), f"No file of class {label!s} is left to be compared."
            )
    few = too_few_groups(
        labels[kept], names if len(groups) > groups.max() + 1 else None, cv, named=named
    )
    if few:
        raise ValueError(f"{few} Use fewer folds (cv={cv}), or more groups of this class.")
    return _report(
        headers, target, groups, unreadable, classes, cv, confidence, file_time, random_state
    )


def _two_classes(y: npt.ArrayLike, n_images: int) -> npt.NDArray[Any]:
    """Return the labels of two classes."""
    if num_samples(y) != n_images:
        raise ValueError(
            f"y has {num_samples(y)} values for {n_images} images: pass one per image."
        )
    labels: npt.NDArray[Any] = column_or_1d(y)
    kind = type_of_target(labels, input_name="y")
    names = np.unique(labels).tolist() if kind in {"binary", "multiclass"} else []
    if len(names) != 2:
        found = f"the labels {names[:10]}" if names else f"{kind} values"
        raise ValueError(
            f"y holds {found}, and the files of two classes are compared. With more classes, "
            "compare one with all others, check_shortcuts(X, y == label), or leave some out."
        )
    return labels


def _read(images: Any) -> tuple[list[Header], npt.NDArray[np.int64], _Unreadable]:
    """Read all headers; an image in memory is an error, a file that cannot be read is not."""
    headers, kept, unreadable, in_memory = [], [], [], []
    for row, image in enumerate(images):
        try:
            headers.append(read_header(image))
            kept.append(row)
        except NoHeaderError as error:
            in_memory.append((row, describe(image), str(error)))
        except (OSError, ValueError, TypeError) as error:
            unreadable.append((row, describe(image), str(error)))
    if in_memory:
        raise ImageError(
            in_memory,
            len(images),
            "Pass the paths of their files, or the bytes of these: nothing else tells how an image "
            "was saved.",
        )
    return headers, np.array(kept, dtype=np.int64), unreadable


def _report(
    headers: list[Header],
    target: npt.NDArray[np.int64],
    groups: npt.NDArray[np.int64],
    unreadable: _Unreadable,
    classes: npt.NDArray[Any],
    cv: int,
    confidence: float,
    file_time: bool,
    random_state: int | np.random.RandomState | None,
) -> ShortcutReport:
    attributes = (*ATTRIBUTES, FILE_TIME) if file_time else ATTRIBUTES
    random_state = (
        np.random.RandomState(random_state) if isinstance(random_state, int) else random_state
    )
    names = [name_of(label) for label in classes.tolist()]
    fold = folds_by_group(target, groups, cv, random_state)
    columns = {
        name: [header[name] for header in headers]
        for attribute in attributes
        for name in (*attribute.kinds, *attribute.numbers)
    }
    codes = {name: coded(values) for name, values in columns.items()}
    parts = [[codes[name] for name in (*a.kinds, *a.numbers)] for a in attributes]
    parts.append([code for part in parts for code in part])
    scores = [forward_scores(part, target, fold) for part in parts]
    aucs, intervals = auc_intervals(scores, target, groups, fold, confidence, random_state)
    rows = []
    for attribute, part, auc, (low, high) in zip(attributes, parts, aucs, intervals, strict=False):
        varies = any(code.max() > 0 for code in part)
        example = (
            telling_value(attribute, columns, target, names)
            if varies
            else only_value(attribute, columns)
        )
        rows.append(ShortcutRow(attribute.name, auc, low, high, example, varies))
    report = ShortcutReport(
        aucs[-1],
        intervals[-1],
        rows,
        unreadable,
        names,
        len(target),
        int(groups.max()) + 1,
        confidence,
    )
    if report.excludes_chance:
        warn_user(_warning(report), ShortcutWarning)
    return report


def _warning(report: ShortcutReport) -> str:
    low, high = report.interval
    best = max(report.attributes, key=lambda row: row.roc_auc)
    return on_one_line(
        f"The files reveal the labels: a rule that sees their headers and no pixels has a ROC AUC "
        f"of {report.roc_auc:.3f} ({100 * report.confidence:g} % interval {low:.3f} to "
        f"{high:.3f}; 0.5 is chance). Most of it lies in: {best.attribute} ({best.example}). A "
        "detector may learn this instead of what the photographs show. Compare with its score on "
        "sklearn_dfd.augmentation.equalize_encoding(X), which gives all images the same header."
    )
