"""Films as data: evenly spaced frames of one film, or of all films in class folders."""

import os
import warnings
from collections.abc import Sequence
from functools import partial
from numbers import Integral
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.utils import Bunch

from sklearn_dfd._core.images.film_pool import digest_of_film, times_of_frames
from sklearn_dfd._core.images.films import VideoFrame
from sklearn_dfd._core.images.sources import describe
from sklearn_dfd._core.sklearn_private import Interval, validate_params
from sklearn_dfd._core.validation import import_extra
from sklearn_dfd.datasets._files import (
    FOLDER_CONSTRAINTS,
    STACKLEVEL,
    Looked,
    OnError,
    counted,
    load_files,
    rule_of_groups,
)
from sklearn_dfd.datasets._folders import GroupPattern, Root, check_root, class_folders_of
from sklearn_dfd.exceptions import ImageError

_DESCR = """\
{n} frames of {n_films} films from {root}, in {n_groups} groups. Frames of each class: {classes}.

Frames share a group if they are of one film. Films share a group if {rule}, or if their bytes are
identical. Different films of one recording (cut, saved again, edited) are not recognised: pass
group_pattern where their names tell, or look at the frames with
sklearn_dfd.model_selection.find_source_groups(films.data, groups=films.groups).
"""
_COUNT = [Interval(Integral, 1, None, closed="left")]


@validate_params(
    {"path": [str, os.PathLike], "n_frames": _COUNT}, prefer_skip_nested_validation=True
)
def frames(path: str | os.PathLike[str], n_frames: int = 16) -> npt.NDArray[np.object_]:
    """Choose frames of one film, at even intervals of time.

    The film is opened, its end is looked for in its last part, whatever its header says, and the
    frames are decoded once, so films that cannot be used are found here. The pixels are not kept.

    Parameters
    ----------
    path : str or path-like
        The film: MP4, MOV, Matroska, WebM, AVI, MPEG, FLV, ASF, Ogg or IVF. A leading ``~`` is the
        home directory.
    n_frames : int, default=16
        Number of frames. The film is divided into that many equal parts, and the frame that is
        shown in the middle of each part is taken.

    Returns
    -------
    frames : ndarray of object, shape (n_frames,)
        A :class:`VideoFrame` for each, in the order of time. If the film has fewer frames, there
        are fewer.

    Raises
    ------
    ImageError
        If the film cannot be read, has no video stream or no frames, or is damaged.
    ImportError
        If PyAV is not installed.

    See Also
    --------
    load_video_folder : Loads a folder of films with their labels and groups.

    Notes
    -----
    If there are several video streams, the one with the most pixels is read, and the first of
    equally large ones. A cover picture is not a film. A film is decoded up to the first damaged
    frame: a film that was cut off is as long as what is left of it.

    Examples
    --------
    >>> from sklearn_dfd.datasets import frames
    >>> frames("fake/000_003.mp4", 4)  # doctest: +SKIP
    array([<VideoFrame 1.240 s of 'fake/000_003.mp4'>,
           <VideoFrame 3.760 s of 'fake/000_003.mp4'>,
           <VideoFrame 6.240 s of 'fake/000_003.mp4'>,
           <VideoFrame 8.760 s of 'fake/000_003.mp4'>], dtype=object)
    """
    import_extra("av", "frames")
    try:
        return _array(_frames(os.fsdecode(path), int(n_frames)))
    except (OSError, ValueError) as error:
        raise ImageError([(0, describe(path), str(error))], 1, hint="") from None


@validate_params(
    FOLDER_CONSTRAINTS | {"frames_per_video": _COUNT}, prefer_skip_nested_validation=True
)
def load_video_folder(
    root: Root,
    *,
    frames_per_video: int = 16,
    class_names: Sequence[str] | None = None,
    group_pattern: GroupPattern | None = None,
    on_error: OnError = "raise",
) -> Bunch:
    r"""Load frames and labels of films that are kept in one folder per class.

    Every film is opened and the chosen frames are decoded once, to find damaged files; the pixels
    are not kept. Hidden files, ``Thumbs.db`` and ``desktop.ini`` are skipped.

    Parameters
    ----------
    root : str or path-like
        Folder whose subfolders are the classes: ``root/real/000.mp4``, ``root/fake/000_003.mp4``.
        Files may lie deeper, and are grouped by the first folder within the class folder, as
        :func:`load_image_folder` does.
    frames_per_video : int, default=16
        Number of frames of each film, at even intervals of time; see :func:`frames`.
    class_names : list of str, default=None
        Names of the subfolders to load, in the order in which the classes are numbered:
        ``["real", "fake"]`` makes "real" 0 and "fake" 1. None loads all of them and numbers them
        alphabetically.
    group_pattern : str, compiled regular expression or callable, default=None
        Pattern that reads groups from the path of each film within its class folder, instead of
        from subfolders, as in :func:`load_image_folder`. Films that share a key, directly or
        through others, form one group.
    on_error : {"raise", "warn"}, default="raise"
        What to do about files that are damaged or are not films: raise one error that names all of
        them, or leave them out with one warning that names all of them.

    Returns
    -------
    films : :class:`~sklearn.utils.Bunch`
        data : ndarray of shape (n_samples,), dtype object
            A :class:`VideoFrame` for each frame; by class, then by name regardless of case, then by
            time.
        target : ndarray of shape (n_samples,), dtype int64
            Class of each frame, an index into `target_names`.
        target_names : ndarray of shape (n_classes,), dtype object
            `class_names`, or the names of the class folders, sorted regardless of case.
        groups : ndarray of shape (n_samples,), dtype int64
            Group of each frame, for :class:`~sklearn.model_selection.GroupKFold`: the film, or the
            films that belong together. Films with the same bytes share a group, in two classes too.
        films : ndarray of shape (n_samples,), dtype object
            Path of the film that each frame is from, as `str`, beginning with `root`.
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
        a film.
    ImageError
        If files cannot be used as films, and `on_error` is "raise" or they are a whole class. All
        are in its attribute ``failures``.
    ImportError
        If PyAV is not installed.

    See Also
    --------
    frames : Chooses frames of one film.

    Notes
    -----
    For FaceForensics++, where ``manipulated/000_003.mp4`` is made from ``original/000.mp4`` and
    ``original/003.mp4``, ``group_pattern=r"(\d{3})(?:_(\d{3}))?"`` keeps all three together.

    Examples
    --------
    >>> from sklearn_dfd.datasets import load_video_folder
    >>> films = load_video_folder(
    ...     "films", class_names=["real", "fake"], frames_per_video=8
    ... )  # doctest: +SKIP
    >>> films.data[0]  # doctest: +SKIP
    <VideoFrame 0.320 s of 'films/real/000.mp4'>
    """
    import_extra("av", "load_video_folder")
    path = check_root(root)
    class_folders = class_folders_of(path, class_names)
    look = partial(_look, n_frames=int(frames_per_video))
    loaded, left_out = load_files(path, class_folders, on_error, group_pattern, look, "films")
    if left_out:
        warnings.warn(left_out, stacklevel=STACKLEVEL)
    loaded.films = loaded.pop("files")
    loaded.DESCR = _DESCR.format(
        n=len(loaded.data),
        n_films=len(set(loaded.films)),
        root=path,
        n_groups=loaded.groups.max() + 1,
        classes=counted(loaded),
        rule=rule_of_groups(group_pattern),
    )
    return loaded


def _frames(path: str, n_frames: int) -> list[VideoFrame]:
    return [VideoFrame(path, seconds) for seconds in times_of_frames(path, n_frames)]


def _look(file: Path, n_frames: int) -> Looked:
    """Hash one film, and choose its frames."""
    try:
        return Looked(digest_of_film(str(file)), _frames(str(file), n_frames))
    except (OSError, ValueError) as error:
        return Looked(fault=str(error))


def _array(found: list[VideoFrame]) -> npt.NDArray[np.object_]:
    array = np.empty(len(found), dtype=object)
    array[:] = found
    return array
