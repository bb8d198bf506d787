"""Features of more images than fit in memory: one ``.npy`` file, written by many workers.

Who the workers are is joblib's affair: processes of this machine, or with
``joblib.parallel_config("dask")`` those of a cluster that shares the storage.
"""

import json
import os
import shutil
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from joblib import Parallel, delayed
from sklearn.utils import gen_batches
from sklearn.utils.validation import check_is_fitted

from sklearn_dfd._core.images.sources import as_image_list, rows_of_nan
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
    """Compute the features of images into a file, which can be larger than memory.

    Chunks of images are shared out between the workers of joblib, each of which writes its rows
    where they belong, and notes that they are done. A worker that dies takes with it no more than
    its chunk: Dask gives that to another. Called again after any interruption, with the same
    images and features, the function goes on with what is not done.

    Parameters
    ----------
    features : MobileNetV2Features
        Fitted. Its ``memory`` had better be None, unless the images are used elsewhere too:
        the rows would be kept twice.

    images : sequence of n_images images
        See :meth:`MobileNetV2Features.transform`. Paths must be those of a storage that all
        workers share. Between an interruption and the next call their content must not change.

    path : str or path
        Of the file, on such a storage, with ``.npy`` at its end. It appears when all is done;
        until then the work is in ``<path>.part``, a directory.

    chunk_size : int, default=1024
        Images a chunk.

    n_jobs : int, default=None
        Workers at once, as everywhere in joblib.

    Returns
    -------
    rows : memmap of float32, shape (n_images, n_features)
        Read-only; :class:`DeepFakeClassifier` reads it batch by batch.

    Raises
    ------
    FileExistsError
        If ``path`` exists.
    ValueError
        If what is unfinished there was begun with other images or features.
    ImageError
        For the first chunk with images that cannot be used, naming their rows in ``images``.

    Warns
    -----
    UserWarning
        Once, when all is done, naming the rows of NaN in place of such images, where ``features``
        has ``on_error="nan"``.

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
    # workers may have been started in another directory
    images, path = as_image_list(images), Path(path).absolute()
    if not isinstance(images, np.ndarray):
        images = [
            os.path.abspath(image) if isinstance(image, str | os.PathLike) else image
            for image in images
        ]
    if path.exists():
        raise FileExistsError(
            f"{path} exists: delete it, or read it by np.load(..., mmap_mode='r')"
        )
    part = path.with_name(f"{path.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    _begin(part, features, images, chunk_size)
    all_chunks = list(gen_batches(len(images), chunk_size))
    chunks = [c for c in all_chunks if not _note(part, c.start).exists()]
    # as lists: joblib puts an array on one worker of a Dask cluster, with which it would be lost
    Parallel(n_jobs=n_jobs)(
        delayed(_compute)(str(part), list(images[c]), c.start, len(images)) for c in chunks
    )
    failures = []
    if features.on_error == "nan":
        # from the notes, where those of earlier calls are too
        for chunk in all_chunks:
            failures += json.loads(_note(part, chunk.start).read_text())
    os.replace(part / "rows.npy", path)
    shutil.rmtree(part)
    if failures:
        warnings.warn(rows_of_nan(failures, len(images)), stacklevel=2)
    return np.load(path, mmap_mode="r")


# attributes of the transformer that decide what a row is, or whether there is one
_DECIDING = ("layer_", "image_size", "precision", "max_pixels", "on_error")


def _begin(part, features, images, chunk_size):
    """Lay out what workers need: the transformer, and a file for the rows; or find it there."""
    recipe = {
        "images": joblib.hash(images),
        "chunk_size": chunk_size,
        "weights": features.fingerprint_,
        **{name: str(getattr(features, name)) for name in _DECIDING},
    }
    if (part / "recipe.json").exists():
        begun = json.loads((part / "recipe.json").read_text())
        others = [name for name in recipe if recipe[name] != begun.get(name)]
        if others:
            raise ValueError(
                f"{part} was begun with other {', '.join(others)}: delete it, or use another path."
            )
        return
    joblib.dump(features, part / "features.joblib")
    shape = (len(images), features._n_features_out)
    # a hole as yet, of which the storage keeps what is written
    np.lib.format.open_memmap(part / "rows.npy", "w+", np.dtype("<f4"), shape)
    _write(part / "recipe.json", json.dumps(recipe))


def _compute(part, images, start, n_images):
    """Write the rows of one chunk, and note that it is done, with the images that failed."""
    part = Path(part)
    if _note(part, start).exists():  # a scheduler may ask again when it has lost the answer
        return
    try:
        rows, failures = _load(
            part / "features.joblib", (part / "features.joblib").stat().st_mtime_ns
        )(images)
    except ImageError as error:
        raise ImageError(_in_all(error.failures, start), n_images) from None
    # not by a memory map: on a network file system its whole pages would overwrite neighbours'
    with open(part / "rows.npy", "r+b") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        file.seek(start * rows[0].nbytes, os.SEEK_CUR)
        file.write(rows.data)
        file.flush()
        os.fsync(file.fileno())
    _write(_note(part, start), json.dumps(_in_all(failures, start)))


def _in_all(failures, start):
    """Count the rows of a chunk's failures from the first image of all."""
    return [(start + row, name, fault) for row, name, fault in failures]


@lru_cache(maxsize=1)
def _load(path, _version):
    features = joblib.load(path)

    def extract(images):
        # not transform, which would warn once per chunk
        rows, failures = features_and_failures(features, images)
        return np.ascontiguousarray(rows, dtype="<f4"), failures

    return extract


def _note(part, start):
    return part / f"done-{start}"


def _write(path, text):
    """Write a small file: all of it is there, or nothing."""
    unfinished = path.with_name(f"{path.name}-{os.getpid()}")
    unfinished.write_text(text)
    os.replace(unfinished, path)
