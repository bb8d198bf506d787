"""Loaders of labelled photographs: paths, labels, and groups that must stay together."""

import os
import re
import unicodedata
import warnings
from collections.abc import Hashable, Iterator
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from sklearn_dfd._core.images.decoding import check_header, content_digest
from sklearn_dfd._core.images.sources import describe, read_source
from sklearn_dfd._core.sklearn_private import StrOptions, validate_params
from sklearn_dfd.exceptions import ImageError

# What desktops and unpackers leave behind, in lower case; nobody means these as photographs.
_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}
_CIPLAB_FOLDERS = ("training_real", "training_fake")
# easy_100_1111.jpg: the difficulty, which can be read alone, the number, and four flags
_FAKE_NAME = re.compile(r"(easy|mid|hard)_(?:\d+_([01]{4})$)?", re.IGNORECASE)
_STACKLEVEL = 3  # of warnings: the loader, validate_params, the caller

_FOLDER_DESCR = """\
{n} images from {root}, in {n_groups} groups. Classes: {classes}.

Files share a group if they lie in sub-folders of one name, in whichever class, or if their bytes
are identical. Different files of one photograph (resized, saved again, edited) are not recognised:
where you know of such, put them into sub-folders of one name.
"""
_CIPLAB_DESCR = """\
Real and Fake Face Detection, CIPLab, Yonsei University: {n_real} real and {n_fake} fake photographs
of faces from {root}; as published the set has 1081 and 960. Experts made the fakes
in an image editor, replacing one or several of left eye, right eye, nose and mouth.
https://www.kaggle.com/datasets/ciplab/real-and-fake-face-detection

About 145 of the fakes are edits of photographs which are in the real class too. The names do not
tell which, so `groups` holds only what is certain: identical files (and sub-folders, if you made
any). sklearn_dfd.model_selection.find_source_groups(faces.data) looks at the photographs and finds
such pairs: use its groups before you trust a score from cross-validation.
"""


def _fold(name: str) -> str:
    """Make names equal that some file systems do not tell apart."""
    return unicodedata.normalize("NFC", name).casefold()


def _list(folder: Path) -> list[Path]:
    """List the entries of a folder that count, in the same order on every machine."""
    names = sorted(os.listdir(folder), key=lambda name: (_fold(name), name))
    return [folder / n for n in names if not n.startswith(".") and n.lower() not in _LITTER]


def _walk(folder: Path, seen: set[str]) -> Iterator[Path]:
    """Yield the files below a folder in order, entering each real folder once: links may loop."""
    if (real := os.path.realpath(folder)) not in seen:
        seen.add(real)
        for entry in _list(folder):
            if entry.is_dir():
                yield from _walk(entry, seen)
            else:
                yield entry


def _check_root(root: str | os.PathLike[str]) -> Path:
    path = Path(root)
    if path.is_dir():
        return path
    what_to_do = "Pass the folder that holds one sub-folder per class."
    if path.exists():
        raise NotADirectoryError(f"{str(path)!r} is a file. {what_to_do}")
    raise FileNotFoundError(f"There is no {str(path)!r}, seen from {os.getcwd()!r}. {what_to_do}")


def _holds_ciplab(path: Path) -> bool:
    return all((path / name).is_dir() for name in _CIPLAB_FOLDERS)


def _number_groups(keys: list[list[Hashable]]) -> np.ndarray:
    """Give rows with a key in common, through chains too, one number, in order of appearance."""
    parent = list(range(len(keys)))  # up to the first row of the group, which is its own

    def first_row(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    row_with: dict[Hashable, int] = {}
    for row, shared in enumerate(keys):
        for key in shared:
            one, other = first_row(row_with.setdefault(key, row)), first_row(row)
            parent[max(one, other)] = min(one, other)
    first_rows = [first_row(row) for row in range(len(keys))]
    return np.unique(first_rows, return_inverse=True)[1].astype(np.int64)


def _load(root: Path, class_folders: dict[str, Path], on_error: str) -> tuple[Bunch, str]:
    """Read every file of the class folders once: is it an image, and whom does it share with.

    The second item is what to warn of, if anything.
    """
    files = []
    for code, (name, folder) in enumerate(class_folders.items()):
        found = [(code, file, file.relative_to(folder).parts) for file in _walk(folder, set())]
        if not found:
            raise ValueError(
                f"The folder {str(folder)!r} of class {name!r} is empty. "
                "Put images of that class into it, or remove it."
            )
        files += found

    paths: list[str] = []
    classes: list[int] = []
    keys: list[list[Hashable]] = []  # of each file, what others of its group have too
    failures = []
    for row, (code, file, parts) in enumerate(files):
        try:
            raw = read_source(str(file))
            check_header(raw)
            keys.append([content_digest(raw)])
        except (OSError, ValueError) as error:
            failures.append((row, str(file), str(error)))
            continue
        if len(parts) > 1:  # the first of several levels: the coarser group cannot leak
            keys[-1].append(_fold(parts[0]))
        paths.append(str(file))
        classes.append(code)

    lost = len(set(classes)) < len(class_folders)
    if failures and (lost or on_error == "raise"):
        hint = "Repair or remove them, or pass on_error='warn' to go on without them"
        hint += ", which takes one usable image of each class." if lost else "."
        raise ImageError(failures, len(files), hint=hint, n_shown=None)
    left_out = "".join(f"\n  {describe(name)}: {reason}" for _, name, reason in failures)
    if left_out:
        left_out = (
            f"{len(failures)} of {len(files)} files in {str(root)!r} cannot be used as images and "
            f"are left out:{left_out}"
        )
    faces = Bunch(
        # Objects, since assigning a longer path into an array of fixed-width text cuts it off.
        data=np.array(paths, dtype=object),
        target=np.array(classes, dtype=np.int64),
        target_names=np.array(list(class_folders), dtype=object),
        groups=_number_groups(keys),
    )
    return faces, left_out


_LOADER_CONSTRAINTS = {"root": [str, os.PathLike], "on_error": [StrOptions({"raise", "warn"})]}


@validate_params(_LOADER_CONSTRAINTS, prefer_skip_nested_validation=True)
def load_image_folder(root: str | os.PathLike[str], *, on_error: str = "raise") -> Bunch:
    """Load the paths and labels of photographs kept in one folder per class.

    Every file is read once, to know that it is an image and which files are identical; no pixels
    are kept. Hidden files, ``Thumbs.db`` and ``desktop.ini`` are passed over.

    Parameters
    ----------
    root : str or path-like
        Folder whose sub-folders are the classes: ``root/fake/1.jpg``, ``root/real/2.jpg``. Files
        may lie deeper: those in ``root/real/alice`` and ``root/fake/alice`` form one group, as
        photographs of one person should. Of several levels the first names the group. Files that
        lie directly in `root` are ignored.
    on_error : {"raise", "warn"}, default="raise"
        What to do about files that are not images: raise one error for all of them, or leave them
        out with one warning that lists them.

    Returns
    -------
    faces : :class:`~sklearn.utils.Bunch`
        data : ndarray of shape (n_samples,), dtype object
            Paths as `str`, beginning with `root`; by class, then by name regardless of case.
        target : ndarray of shape (n_samples,), dtype int64
            Class of each file, an index into `target_names`.
        target_names : ndarray of shape (n_classes,), dtype object
            Names of the class folders, sorted regardless of case.
        groups : ndarray of shape (n_samples,), dtype int64
            For :class:`~sklearn.model_selection.GroupKFold`. Files with the same bytes share a
            group, in two classes too; a file that shares nothing is a group of its own.
        DESCR : str
            Description of what was loaded.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If `root` does not exist, or is a file.
    ValueError
        If `root` has fewer than two sub-folders, or one of them holds no file.
    ImageError
        If files cannot be used as images, and `on_error` is "raise" or they are a whole class.
        All are in its attribute ``failures``.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from sklearn_dfd.datasets import load_image_folder
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for i, name in enumerate(["fake/alice/1.png", "real/alice/1.png", "real/2.png"]):
    ...         (Path(root) / name).parent.mkdir(parents=True, exist_ok=True)
    ...         Image.new("RGB", (8, 8), (i, 0, 0)).save(Path(root) / name)
    ...     faces = load_image_folder(root)
    >>> [Path(path).name for path in faces.data], faces.groups.tolist()
    (['1.png', '2.png', '1.png'], [0, 1, 0])
    >>> faces.target_names[faces.target].tolist()
    ['fake', 'real', 'real']
    """
    path = _check_root(root)
    class_folders = {entry.name: entry for entry in _list(path) if entry.is_dir()}
    if len(class_folders) < 2:
        raise ValueError(
            f"{str(path)!r} has {'only the' if class_folders else 'no'} sub-folder"
            f"{''.join(f' {name!r}' for name in class_folders)}, and one per class is needed. Sort "
            "the images into folders such as 'real' and 'fake' in it, or pass the folder above it."
        )
    faces, left_out = _load(path, class_folders, on_error)
    if left_out:
        warnings.warn(left_out, stacklevel=_STACKLEVEL)
    counts = zip(class_folders, np.bincount(faces.target), strict=True)
    faces.DESCR = _FOLDER_DESCR.format(
        n=len(faces.data),
        root=path,
        n_groups=faces.groups.max() + 1,
        classes=", ".join(f"{name} ({count})" for name, count in counts),
    )
    return faces


@validate_params(_LOADER_CONSTRAINTS, prefer_skip_nested_validation=True)
def load_real_and_fake_faces(root: str | os.PathLike[str], *, on_error: str = "raise") -> Bunch:
    """Load the paths, labels and edits of CIPLab's Real and Fake Face Detection set [1]_.

    Parameters
    ----------
    root : str or path-like
        Folder with the sub-folders ``training_real`` and ``training_fake``, as published.
    on_error : {"raise", "warn"}, default="raise"
        As in :func:`load_image_folder`, and so are the errors raised.

    Returns
    -------
    faces : :class:`~sklearn.utils.Bunch`
        What :func:`load_image_folder` returns, with the targets 0 for "real" and 1 for "fake".
        `groups` does *not* link a fake to the real photograph that it was made from: about 145
        fakes have theirs in the set, and no name tells which. Further:

        difficulty : ndarray of shape (n_samples,), dtype object
            "easy", "mid" or "hard", how well people recognise the fake; "" for real photographs.
        replaced_parts : ndarray of shape (n_samples, 4), dtype bool
            Which of `part_names` were replaced.
        part_names : ndarray of shape (4,), dtype object
            "left_eye", "right_eye", "nose" and "mouth".

    Warns
    -----
    UserWarning
        If the names of fakes do not tell which parts were replaced (the published
        ``easy_116_111.jpg`` does not); these have all flags False, and a `difficulty` if the name
        tells it.

    References
    ----------
    .. [1] https://www.kaggle.com/datasets/ciplab/real-and-fake-face-detection

    Examples
    --------
    >>> from sklearn_dfd.datasets import load_real_and_fake_faces
    >>> faces = load_real_and_fake_faces("real_and_fake_face")  # doctest: +SKIP
    >>> hard_ones = faces.data[faces.difficulty == "hard"]  # doctest: +SKIP
    """
    path = _check_root(root)
    if not _holds_ciplab(path):
        # The published archive holds the two folders one or two levels down.
        places = [path.resolve().parent, *sorted(path.glob("*")), *sorted(path.glob("*/*"))]
        place = next((f"{str(p)!r} has: pass that" for p in places if _holds_ciplab(p)), None)
        raise ValueError(
            f"{str(path)!r} does not hold the folders {' and '.join(_CIPLAB_FOLDERS)}"
            + (f", which {place}." if place else ": pass the folder that does.")
        )
    folders = dict(zip(["real", "fake"], map(path.joinpath, _CIPLAB_FOLDERS), strict=True))
    faces, left_out = _load(path, folders, on_error)
    if left_out:
        warnings.warn(left_out, stacklevel=_STACKLEVEL)

    n = len(faces.data)
    faces.difficulty = np.full(n, "", dtype=object)
    faces.replaced_parts = np.zeros((n, 4), dtype=bool)
    faces.part_names = np.array(["left_eye", "right_eye", "nose", "mouth"], dtype=object)
    malformed = []
    for row in np.flatnonzero(faces.target):
        name = Path(faces.data[row])
        if match := _FAKE_NAME.match(name.stem):
            faces.difficulty[row] = match[1].lower()
        if match and match[2]:
            faces.replaced_parts[row] = [flag == "1" for flag in match[2]]
        else:
            malformed.append(name.name)
    if malformed:
        warnings.warn(
            "The names of these fakes do not tell which parts of the face were replaced, so "
            f"their replaced_parts are all False: {', '.join(malformed)}",
            stacklevel=_STACKLEVEL,
        )
    n_real, n_fake = np.bincount(faces.target)
    faces.DESCR = _CIPLAB_DESCR.format(n_real=n_real, n_fake=n_fake, root=path)
    return faces
