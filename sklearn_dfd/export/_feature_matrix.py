"""Features of more images than fit in memory: one ``.npy`` file, written by many workers.

joblib provides the workers: processes of this machine, or with
``joblib.parallel_config("dask")`` those of a cluster that shares the storage.
"""

import json
import os
import shutil
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from joblib import Parallel, delayed
from sklearn.utils import gen_batches
from sklearn.utils.validation import check_is_fitted

from sklearn_dfd._core.images.sources import as_image_list, rows_of_nan, with_absolute_path
from sklearn_dfd.exceptions import ImageError
from sklearn_dfd.features import MobileNetV2Features, features_and_failures

__all__ = ["extract_feature_matrix"]


def extract_feature_matrix(
    features: MobileNetV2Features,
    images: Any,
    path: str | os.PathLike[str],
    *,
    chunk_size: int = 1024,
    n_jobs: int | None = None,
) -> np.memmap:
    """Write the features of images to a file, which may be larger than memory.

    Chunks of images are distributed among the workers of joblib. Each worker writes its rows to
    their place in the file, and notes that they are done. A worker that dies loses no more than its
    chunk, which Dask gives to another one. If the function is called again after an interruption,
    with the same images and features, it continues with what is left.

    Parameters
    ----------
    features : MobileNetV2Features
        The fitted transformer. Set its ``memory`` to None unless the images are used elsewhere
        too: the rows would be stored twice.

    images : sequence of n_images images
        The images; see :meth:`~sklearn_dfd.MobileNetV2Features.transform`. Paths must be on a
        storage that all workers share. Between an interruption and the next call the content of
        the images must not change.

    path : str or path
        The file to write, on such a storage, with a name that ends in ``.npy``. It appears when
        all rows are done; until then the work is in the directory ``<path>.part``.

    chunk_size : int, default=1024
        Number of images per chunk.

    n_jobs : int, default=None
        Number of workers, with the meaning that it has in joblib.

    Returns
    -------
    rows : memmap of float32, shape (n_images, n_features)
        The rows, in the order of ``images``, read-only. :class:`~sklearn_dfd.DeepFakeClassifier`
        reads them batch by batch.

    Raises
    ------
    FileExistsError
        If ``path`` exists.
    ValueError
        If the unfinished work in ``<path>.part`` was begun with other images or features.
    ImageError
        If a chunk holds images that cannot be used. The error is that of the first such chunk,
        and names their positions in ``images``.

    Warns
    -----
    UserWarning
        If ``features`` has ``on_error="nan"`` and images cannot be used. A single warning, when all
        rows are done, names the rows of NaN in their place.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn_dfd import MobileNetV2Features
    >>> from sklearn_dfd.datasets import make_spliced_photos
    >>> from sklearn_dfd.export import extract_feature_matrix
    >>> photos = make_spliced_photos(8, random_state=0).data
    >>> features = MobileNetV2Features(weights=None).fit(photos)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     extract_feature_matrix(features, photos, Path(directory) / "features.npy").shape
    (8, 7840)
    """
    check_is_fitted(features)
    # since workers may have been started in another directory
    images, path = as_image_list(images), Path(path).expanduser().absolute()
    if not isinstance(images, np.ndarray):
        images = [with_absolute_path(image) for image in images]
    if path.exists():
        raise FileExistsError(
            f"{path} exists: delete it, or read it with np.load(path, mmap_mode='r')."
        )
    part = path.with_name(f"{path.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    _begin(part, features, images, chunk_size)
    all_chunks = list(gen_batches(len(images), chunk_size))
    chunks = [c for c in all_chunks if not _note(part, c.start).exists()]
    # as lists: joblib keeps an array on one worker of a Dask cluster, and loses it with that worker
    Parallel(n_jobs=n_jobs)(
        delayed(_compute)(str(part), list(images[c]), c.start, len(images)) for c in chunks
    )
    failures = []
    if features.on_error == "nan":
        # from the notes, which also hold the failures of earlier calls
        for chunk in all_chunks:
            failures += json.loads(_note(part, chunk.start).read_text())
    os.replace(part / "rows.npy", path)
    shutil.rmtree(part)
    if failures:
        warnings.warn(rows_of_nan(failures, len(images)), stacklevel=2)
    return np.load(path, mmap_mode="r")


# attributes of the transformer that determine a row, or whether there is one
_DECIDING = ("layer_", "pooling", "image_size", "precision", "max_pixels", "decoding", "on_error")


def _begin(part: Path, features: MobileNetV2Features, images: Any, chunk_size: int) -> None:
    """Write what workers need, the transformer and a file for the rows, unless it is there."""
    recipe = {
        "images": joblib.hash(images),
        "chunk_size": chunk_size,
        "weights": features.fingerprint_,
        **{name: str(getattr(features, name)) for name in _DECIDING},
    }
    if (part / "recipe.json").exists():
        # of releases without these parameters
        before = {"decoding": "exact", "pooling": "None"}
        begun = {**before, **json.loads((part / "recipe.json").read_text())}
        others = [name for name in recipe if recipe[name] != begun.get(name)]
        if others:
            raise ValueError(
                f"{part} was begun with other values of {', '.join(others)}: delete it, or use "
                "another path."
            )
        return
    joblib.dump(features, part / "features.joblib")
    shape = (len(images), features._n_features_out)
    # sparse at first: the storage holds only what is written
    np.lib.format.open_memmap(part / "rows.npy", "w+", np.dtype("<f4"), shape)
    _write(part / "recipe.json", json.dumps(recipe))


def _compute(directory: str, images: list[Any], start: int, n_images: int) -> None:
    """Write the rows of one chunk, and note that it is done, with the images that failed."""
    part = Path(directory)
    if _note(part, start).exists():  # a scheduler may ask again if it has lost the answer
        return
    try:
        rows, failures = _load(
            part / "features.joblib", (part / "features.joblib").stat().st_mtime_ns
        )(images)
    except ImageError as error:
        raise ImageError(_in_all(error.failures, start), n_images) from None
    # not through a memory map, whose pages would overwrite neighbouring rows on network storage
    with open(part / "rows.npy", "r+b") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        file.seek(start * rows[0].nbytes, os.SEEK_CUR)
        file.write(rows.data)
        file.flush()
        os.fsync(file.fileno())
    _write(_note(part, start), json.dumps(_in_all(failures, start)))


def _in_all(failures: list[tuple[int, str, str]], start: int) -> list[tuple[int, str, str]]:
    """Give the failures of a chunk their positions among all images."""
    return [(start + row, name, fault) for row, name, fault in failures]


@lru_cache(maxsize=1)
def _load(path: Path, _version: int) -> Callable[[list[Any]], tuple[Any, Any]]:
    features = joblib.load(path)

    def extract(images: list[Any]) -> tuple[Any, Any]:
        # not by transform, which would warn once per chunk
        rows, failures = features_and_failures(features, images)
        return np.ascontiguousarray(rows, dtype="<f4"), failures

    return extract


def _note(part: Path, start: int) -> Path:
    return part / f"done-{start}"


def _write(path: Path, text: str) -> None:
    """Write a small file, so that all of it is there or nothing."""
    unfinished = path.with_name(f"{path.name}-{os.getpid()}")
    unfinished.write_text(text)
    os.replace(unfinished, path)
