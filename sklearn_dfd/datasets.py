"""Loaders of labelled photographs, and a toy set of manipulated ones to try the package on."""

import os
import re
import unicodedata
import warnings
from collections.abc import Iterator
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.datasets import load_sample_images
from sklearn.utils import Bunch, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from sklearn_dfd.images import ImageError, check_header, content_digest, read_source

__all__ = ["load_image_folder", "load_real_and_fake_faces", "make_spliced_photos"]

# What desktops and unpackers leave behind, in lower case; nobody means these as photographs.
_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}
_CIPLAB_FOLDERS = ("training_real", "training_fake")
# easy_100_1111.jpg: the difficulty, which can be read alone, the number, and four flags
_FAKE_NAME = re.compile(r"(easy|mid|hard)_(?:\d+_([01]{4})$)?", re.IGNORECASE)
_TILE_HEIGHT, _TILE_WIDTH = 142, 128  # 3 x 5 of them in a photograph of 427 x 640 pixels

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
any). Look for near duplicates before you trust a score from cross-validation.
"""
_SPLICED_DESCR = """\
{n_genuine} genuine and {n_spliced} spliced images in {n_groups} groups, made from the two
photographs that scikit-learn ships, china.jpg and flower.jpg. Each is cut into 15 disjoint tiles,
and an image shows a part of one tile, its group. A genuine image is a crop. A spliced one is such a
crop with a soft-edged ellipse pasted in that comes from elsewhere in the same tile, enlarged,
rotated, recoloured a little and grainier. Both classes thus show the same things, and only the
traces of the edit tell them apart. Half of all images, of either class, are mirrored.

This is a toy task to try the package with, no benchmark: it shows no faces, comes from two
photographs, and its edits are coarse. A score on it says nothing about detecting deepfakes.
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


def _load(root: Path, class_folders: dict[str, Path], on_error: str) -> Bunch:
    """Read every file of the class folders once: is it an image, and whom does it share with."""
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
    classes, links, failures = [], [], []
    first: dict[Any, int] = {}  # row of the first file of this content or sub-folder
    for row, (code, file, parts) in enumerate(files):
        try:
            raw = read_source(str(file))
            check_header(raw)
            keys: list[Any] = [content_digest(raw)]
        except (OSError, ValueError) as error:
            failures.append((row, str(file), str(error)))
            continue
        if len(parts) > 1:  # the first of several levels: the coarser group cannot leak
            keys.append(_fold(parts[0]))
        links += [(len(paths), first.setdefault(key, len(paths))) for key in keys]
        paths.append(str(file))
        classes.append(code)

    lost = len(set(classes)) < len(class_folders)
    if failures and (lost or on_error == "raise"):
        hint = "Repair or remove them, or pass on_error='warn' to go on without them"
        hint += ", which takes one usable image of each class." if lost else "."
        raise ImageError(failures, len(files), hint=hint)
    if failures:
        warnings.warn(
            f"{len(failures)} of {len(files)} files in {str(root)!r} cannot be used as images and "
            "are left out:" + "".join(f"\n  {name}: {reason}" for _, name, reason in failures),
            UserWarning,
            stacklevel=4,  # this, the loader, validate_params, the caller
        )
    # A chain of links (same folder, then same bytes) is one group. Components are numbered in the
    # order of their first file.
    i, j = np.array(links).T
    graph = coo_array((np.ones(len(i)), (i, j)), shape=(len(paths), len(paths)))
    return Bunch(
        # Objects, since assigning a longer path into an array of fixed-width text cuts it off.
        data=np.array(paths, dtype=object),
        target=np.array(classes, dtype=np.int64),
        target_names=np.array(list(class_folders), dtype=object),
        groups=connected_components(graph, directed=False)[1].astype(np.int64),
    )


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
    faces = _load(path, class_folders, on_error)
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
    faces = _load(path, folders, on_error)

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
            UserWarning,
            stacklevel=3,  # this, validate_params, the caller
        )
    n_real, n_fake = np.bincount(faces.target)
    faces.DESCR = _CIPLAB_DESCR.format(n_real=n_real, n_fake=n_fake, root=path)
    return faces


def _splice(
    crop: np.ndarray, tile: np.ndarray, corner: tuple[int, int], rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Paste a piece of the tile into a crop of it, which has its upper left corner at `corner`."""
    size = len(crop)
    half_y, half_x = rng.uniform(0.25, 0.35, size=2) * size
    y, x = rng.uniform(0.37, 0.63, size=2) * size
    rows, columns = np.mgrid[:size, :size] + 0.5
    radius = np.hypot((rows - y) / half_y, (columns - x) / half_x)
    alpha = np.clip((1 - radius) / 0.2, 0, 1)[..., np.newaxis]

    # Of several places to copy from, the one farthest from where the piece goes.
    places = rng.uniform(0.25, 0.75, size=(8, 2)) * tile.shape[:2]
    from_y, from_x = places[np.argmax(np.hypot(*(places - corner - (y, x)).T))]
    # A piece may reach over the tile's edge: it is mirrored there, never the neighbour shown.
    margin = size // 2
    padded = np.pad(tile, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    angle, scale = rng.uniform(-0.4, 0.4), rng.uniform(1.2, 1.6)
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    from_y, from_x = margin + from_y - sin * x - cos * y, margin + from_x - cos * x + sin * y
    piece = Image.fromarray(padded).transform(
        (size, size),
        Image.Transform.AFFINE,
        (cos, -sin, from_x, sin, cos, from_y),
        Image.Resampling.BICUBIC,
    )
    pasted = np.asarray(piece) * rng.uniform(0.95, 1.05, size=3) + rng.uniform(-5, 5, size=3)
    pasted = np.clip(pasted + rng.normal(0, 17, size=crop.shape), 0, 255)
    return np.rint(crop * (1 - alpha) + pasted * alpha).astype(np.uint8), alpha[..., 0] > 0


@validate_params(
    {
        "n_samples": [Interval(Integral, 2, None, closed="left")],
        "image_size": [Interval(Integral, 32, _TILE_WIDTH, closed="both")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_spliced_photos(
    n_samples: int = 400, *, image_size: int = 96, random_state: Any = None
) -> Bunch:
    """Make photographs, half of them with a piece of the same photograph pasted in.

    A toy task to try the package with, no benchmark: the two photographs that scikit-learn ships
    are cut into 30 tiles, and every image, genuine or spliced, shows pixels of one tile only.

    Parameters
    ----------
    n_samples : int, default=400
        Number of images, at least 2. From 60 on every group holds both classes.
    image_size : int, default=96
        Height and width of the images in pixels, from 32 to 128.
    random_state : int, RandomState instance or None, default=None
        Pass an int for the same images in every call.

    Returns
    -------
    photos : :class:`~sklearn.utils.Bunch`
        data : ndarray of shape (n_samples, image_size, image_size, 3), dtype uint8
            The images, RGB.
        target : ndarray of shape (n_samples,), dtype int64
            0 for genuine, 1 for spliced; of an odd number one more is genuine.
        target_names : ndarray of shape (2,), dtype object
            "genuine" and "spliced".
        groups : ndarray of shape (n_samples,), dtype int64
            Number of the tile, 0 to 29.
        masks : ndarray of shape (n_samples, image_size, image_size), dtype bool
            Where the pasted piece is, its soft edge included. All False for genuine images.
        DESCR : str
            Description of how the images are made.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Examples
    --------
    >>> from sklearn_dfd.datasets import make_spliced_photos
    >>> photos = make_spliced_photos(60, random_state=0)
    >>> photos.data.shape, photos.target.sum(), len(set(photos.groups))
    ((60, 96, 96, 3), np.int64(30), 30)
    """
    rng = check_random_state(random_state)
    photos = np.stack(load_sample_images().images)[:, : 3 * _TILE_HEIGHT]
    tiles = photos.reshape(2, 3, _TILE_HEIGHT, 5, _TILE_WIDTH, 3).swapaxes(2, 3)
    tiles = tiles.reshape(-1, _TILE_HEIGHT, _TILE_WIDTH, 3)
    # Genuine and spliced in turn, two of a tile together, each tile once before any comes again.
    groups = np.resize(rng.permutation(len(tiles)), (n_samples + 1) // 2).repeat(2)[:n_samples]
    order = rng.permutation(n_samples)
    target, groups = order % 2, groups[order]

    data = np.empty((n_samples, image_size, image_size, 3), dtype=np.uint8)
    masks = np.zeros((n_samples, image_size, image_size), dtype=bool)
    for row, tile in enumerate(tiles[groups]):
        top = rng.randint(_TILE_HEIGHT - image_size + 1)
        left = rng.randint(_TILE_WIDTH - image_size + 1)
        image, mask = tile[top : top + image_size, left : left + image_size], masks[row]
        if target[row]:
            image, mask = _splice(image, tile, (top, left), rng)
        mirror = slice(None, None, rng.choice([-1, 1]))
        data[row], masks[row] = image[:, mirror], mask[:, mirror]
    n_spliced = target.sum()
    return Bunch(
        data=data,
        target=target.astype(np.int64),
        target_names=np.array(["genuine", "spliced"], dtype=object),
        groups=groups.astype(np.int64),
        masks=masks,
        DESCR=_SPLICED_DESCR.format(
            n_genuine=n_samples - n_spliced, n_spliced=n_spliced, n_groups=len(np.unique(groups))
        ),
    )
