"""Loaders of labelled photographs: paths, labels, and groups that must stay together."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from sklearn_dfd._core.images.decoding import content_digest, to_rgb
from sklearn_dfd._core.images.reading import read_source
from sklearn_dfd._core.sklearn_private import validate_params
from sklearn_dfd.datasets._files import (
    FOLDER_CONSTRAINTS,
    LOADER_CONSTRAINTS,
    STACKLEVEL,
    Looked,
    OnError,
    counted,
    load_files,
    rule_of_groups,
)
from sklearn_dfd.datasets._folders import GroupPattern, Root, check_root, class_folders_of

_CIPLAB_FOLDERS = ("training_real", "training_fake")
# easy_100_1111.jpg: the difficulty, which can be read alone, the number, and four flags
_FAKE_NAME = re.compile(r"(easy|mid|hard)_(?:\d+_([01]{4})$)?", re.IGNORECASE)

_FOLDER_DESCR = """\
{n} images from {root}, in {n_groups} groups. Classes: {classes}.

Files share a group if {rule}, or if their bytes are identical. Different files of one photograph
(resized, saved again, edited) are not recognised. To merge the groups that share a photograph, call
sklearn_dfd.model_selection.find_source_groups(faces.data, groups=faces.groups).
"""
_CIPLAB_DESCR = """\
Real and Fake Face Detection, CIPLab, Yonsei University: {n_real} real and {n_fake} fake photographs
of faces from {root}; the published set has 1081 and 960. Experts made the fakes in an image editor
by replacing one or several of left eye, right eye, nose and mouth.
https://www.kaggle.com/datasets/ciplab/real-and-fake-face-detection

About one fake in eight is an edit of a photograph that is in the real class too. The names do not
tell which, so `groups` holds only what is certain: identical files (and subfolders, if you made
any). sklearn_dfd.model_selection.find_source_groups(faces.data, groups=faces.groups) looks at the
photographs and finds such pairs: use its groups before you trust a score from cross-validation.
"""


def _holds_ciplab(path: Path) -> bool:
    return all((path / name).is_dir() for name in _CIPLAB_FOLDERS)


def _look(file: Path) -> Looked:
    """Read and decode one photograph."""
    try:
        raw = read_source(str(file))
        to_rgb(raw)
    except (OSError, ValueError) as error:
        return Looked(fault=str(error))
    return Looked(content_digest(raw), [str(file)])


@validate_params(FOLDER_CONSTRAINTS, prefer_skip_nested_validation=True)
def load_image_folder(
    root: Root,
    *,
    class_names: Sequence[str] | None = None,
    group_pattern: GroupPattern | None = None,
    on_error: OnError = "raise",
) -> Bunch:
    r"""Load the paths and labels of photographs that are kept in one folder per class.

    Every file is read and decoded once, to find damaged and identical files; the pixels are not
    kept. Hidden files, ``Thumbs.db`` and ``desktop.ini`` are skipped.

    Parameters
    ----------
    root : str or path-like
        Folder whose subfolders are the classes: ``root/real/1.jpg``, ``root/fake/2.jpg``. A leading
        ``~`` is the home directory. Files may lie deeper: those in ``root/real/alice`` and
        ``root/fake/alice`` form one group, as photographs of one person should. If there are
        several levels, the first names the group. Files that lie directly in `root` are ignored.
    class_names : list of str, default=None
        Names of the subfolders to load, in the order in which the classes are numbered, as in
        Keras: ``["real", "fake"]`` makes "real" 0 and "fake" 1, as in
        :func:`load_real_and_fake_faces`. Other subfolders are left out. None loads all of them and
        numbers them alphabetically, which makes "fake" 0 and "real" 1.
    group_pattern : str, compiled regular expression or callable, default=None
        Pattern that reads groups from the paths of the files, instead of from subfolders. A regular
        expression is searched for in the path of each file within its class folder, written with
        forward slashes; each of its parenthesised parts that matches is a key, or the whole match
        if it has no such parts. A callable is given the same path and returns one key or a list of
        keys. Files that share a key, directly or through others, form one group.
    on_error : {"raise", "warn"}, default="raise"
        What to do about files that are damaged or are not images: raise one error that names all of
        them, or leave them out with one warning that names all of them.

    Returns
    -------
    faces : :class:`~sklearn.utils.Bunch`
        data : ndarray of shape (n_samples,), dtype object
            Paths as `str`, beginning with `root`; by class, then by name regardless of case.
        target : ndarray of shape (n_samples,), dtype int64
            Class of each file, an index into `target_names`.
        target_names : ndarray of shape (n_classes,), dtype object
            `class_names`, or the names of the class folders, sorted regardless of case.
        groups : ndarray of shape (n_samples,), dtype int64
            Group of each file, for :class:`~sklearn.model_selection.GroupKFold`. Files with the
            same bytes share a group, in two classes too; a file that shares nothing is a group of
            its own.
        DESCR : str
            Description of what was loaded.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If `root` does not exist, or is a file.
    ValueError
        If `root` has fewer than two subfolders, its subfolders are the parts of a split ("train",
        "test") rather than classes, one of them holds no file, `class_names` has a name that no
        subfolder has, or `group_pattern` is not a regular expression or finds no key in the path of
        a file.
    ImageError
        If files cannot be used as images, and `on_error` is "raise" or they are a whole class.
        All are in its attribute ``failures``.

    Notes
    -----
    Two recipes for `group_pattern`:

    - Single frames named after their video, ``real/vid0_frame1.jpg``: ``r"(vid\d+)_frame"``.
    - FaceForensics++, where ``manipulated/000_003`` is made from the videos ``original/000`` and
      ``original/003``: ``r"(\d{3})(?:_(\d{3}))?"`` finds one or two numbers in each path, and
      keeps the manipulated video together with both.

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
    ...     faces = load_image_folder(root, class_names=["real", "fake"])
    >>> [Path(path).name for path in faces.data], faces.groups.tolist()
    (['2.png', '1.png', '1.png'], [0, 1, 1])
    >>> faces.target_names[faces.target].tolist()
    ['real', 'real', 'fake']
    """
    path = check_root(root)
    class_folders = class_folders_of(path, class_names)
    faces, left_out = load_files(path, class_folders, on_error, group_pattern, _look)
    del faces["files"]
    if left_out:
        warnings.warn(left_out, stacklevel=STACKLEVEL)
    faces.DESCR = _FOLDER_DESCR.format(
        n=len(faces.data),
        root=path,
        n_groups=faces.groups.max() + 1,
        classes=counted(faces),
        rule=rule_of_groups(group_pattern),
    )
    return faces


@validate_params(LOADER_CONSTRAINTS, prefer_skip_nested_validation=True)
def load_real_and_fake_faces(root: Root, *, on_error: OnError = "raise") -> Bunch:
    """Load CIPLab's Real and Fake Face Detection set: paths, labels, and what was edited.

    The set [1]_ has photographs of faces, and others in which experts replaced parts of a face.

    Parameters
    ----------
    root : str or path-like
        Folder with the subfolders ``training_real`` and ``training_fake``, as published. A leading
        ``~`` is the home directory.
    on_error : {"raise", "warn"}, default="raise"
        What to do about files that are damaged or are not images: raise one error that names all of
        them, or leave them out with one warning that names all of them.

    Returns
    -------
    faces : :class:`~sklearn.utils.Bunch`
        What :func:`load_image_folder` returns with ``class_names=["real", "fake"]``: the targets
        are 0 for "real" and 1 for "fake". `groups` does *not* link a fake to the real photograph
        that it was made from: about one in eight has its own in the set, and the file names do not
        show which. Three attributes are added:

        difficulty : ndarray of shape (n_samples,), dtype object
            "easy", "mid" or "hard": how hard the fake is for people to recognise; "" for real
            photographs.
        replaced_parts : ndarray of shape (n_samples, 4), dtype bool
            Which of `part_names` were replaced.
        part_names : ndarray of shape (4,), dtype object
            "left_eye", "right_eye", "nose" and "mouth"; the left eye is at the left of the
            photograph.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If `root` does not exist, or is a file.
    ValueError
        If `root` does not hold the two subfolders, or one of them holds no file.
    ImageError
        If files cannot be used as images, and `on_error` is "raise" or they are a whole class.
        All are in its attribute ``failures``.

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
    path = check_root(root)
    if not _holds_ciplab(path):
        # The published archive holds the two folders one or two levels down.
        places = [path.resolve().parent, *sorted(path.glob("*")), *sorted(path.glob("*/*"))]
        place = next((f"{str(p)!r} has: pass that" for p in places if _holds_ciplab(p)), None)
        raise ValueError(
            f"{str(path)!r} does not hold the folders {' and '.join(_CIPLAB_FOLDERS)}"
            + (f", which {place}." if place else ": pass the folder that does.")
        )
    folders = dict(zip(["real", "fake"], map(path.joinpath, _CIPLAB_FOLDERS), strict=True))
    faces, left_out = load_files(path, folders, on_error, None, _look)
    del faces["files"]
    if left_out:
        warnings.warn(left_out, stacklevel=STACKLEVEL)

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
            stacklevel=STACKLEVEL,
        )
    n_real, n_fake = np.bincount(faces.target)
    faces.DESCR = _CIPLAB_DESCR.format(n_real=n_real, n_fake=n_fake, root=path)
    return faces
