"""From images to rows of features: read, look up, decode, run, keep.

Images stream: a few batches are decoded ahead of the network, and none is held longer. This
module knows images and stores; the network is a function from pixels to rows.
"""

import time
import warnings
from collections import deque
from contextlib import suppress
from functools import partial
from itertools import chain, islice

import numpy as np

from sklearn_dfd._core.images.decoding import (
    USUAL_MAX_PIXELS,
    RawImage,
    check_header,
    content_digest,
    load_rgb,
    pixel_limit,
    size_in_memory,
)
from sklearn_dfd._core.images.sources import read_source
from sklearn_dfd.feature_store import IN_PROCESS, new_owner, row_key

_CHUNK = 64  # images surveyed and claimed together
_SLICE = 8  # of these, looked at by a thread in one go: a task costs as much as a look
_KEPT_TOGETHER = 16  # images a transaction: what a kill may cost, beside the batches ahead
_BATCHES_AHEAD = 16
_HELD_BYTES = 2**27  # of files that were surveyed: beyond it they are read again to be decoded
_POLL_SECONDS = 0.05
_IMAGE_PROBLEMS = (OSError, ValueError, TypeError)


class Extraction:
    """The features of one collection of images.

    Parameters
    ----------
    images : sequence
        What ``read_source`` takes.
    width : int
        Features an image.
    recipe : str
        All that determines the features of an image, besides the image.
    store : MemoryStore or FeatureStore
    pool : concurrent.futures.Executor
        Of threads.
    max_pixels : int or None
        See ``check_header``.

    Attributes
    ----------
    features : ndarray of float32, shape (n_images, width)
        Rows that are not computed yet, or cannot be, are undefined.
    missing : dict of bytes to list of int
        After ``survey``: the rows of each distinct image that is not in the store, by its key.
    failures : dict of int to str
        What is wrong with the images that cannot be used, by row.
    """

    def __init__(self, images, width, recipe, store, pool, max_pixels=None):
        self.images = images
        self.max_pixels = max_pixels
        self.recipe = recipe
        self.owner = new_owner()
        self.store = store
        self._release()  # writes nothing, but would have to be able to
        self.pool = pool
        self.features = np.empty((len(images), width), dtype=np.float32)
        self.missing: dict[bytes, list[int]] = {}
        self.failures: dict[int, str] = {}
        self._held: dict[bytes, RawImage] = {}
        self._n_held_bytes = 0

    def survey(self):
        """Look at every image: fill in the rows that are kept, and check the other headers.

        Under a limit of pixels of one's own all headers are checked: a row may have been kept
        under another. That takes about as long as finding the row.
        """
        all_headers = pixel_limit(self.max_pixels) not in (USUAL_MAX_PIXELS, None)
        for start in range(0, len(self.images), _CHUNK):
            rows = range(start, min(start + _CHUNK, len(self.images)))
            found = self._map(_read, [self.images[row] for row in rows])
            rows_of: dict[bytes, list[int]] = {}
            raws: dict[bytes, RawImage] = {}
            for row, (raw, digest) in zip(rows, found, strict=True):
                if digest is None:
                    self.failures[row] = str(raw)
                    continue
                key = row_key(digest, self.recipe)
                rows_of.setdefault(key, []).append(row)
                raws[key] = raw
            if all_headers:
                self._leave_out_faulty(rows_of, raws)
            self._fill(rows_of)
            if not all_headers:
                self._leave_out_faulty(rows_of, raws)
            for key, same in rows_of.items():
                self.missing.setdefault(key, []).extend(same)
                self._hold(key, raws[key])

    def _leave_out_faulty(self, rows_of, raws):
        """Note what is wrong with headers, and strike those images off ``rows_of``."""
        look = partial(_header_fault, max_pixels=self.max_pixels)
        faults = self._map(look, [raws[key] for key in rows_of])
        for key, fault in zip(list(rows_of), faults, strict=True):
            if fault:
                self.failures.update(dict.fromkeys(rows_of.pop(key), fault))

    def _hold(self, key, raw):
        """Keep what was read until it is decoded, while there is room."""
        n_bytes = size_in_memory(raw)
        if self._n_held_bytes + n_bytes <= _HELD_BYTES:
            self._held[key] = raw
            self._n_held_bytes += n_bytes

    def _map(self, look, items):
        """Give what ``look`` returns for each of ``items``, in order, by several threads."""
        slices = [items[i : i + _SLICE] for i in range(0, len(items), _SLICE)]
        return chain.from_iterable(self.pool.map(lambda part: [look(x) for x in part], slices))

    def compute(self, run, image_size, batch_size, *, go_on, progress=lambda n_images: None):
        """Compute the missing rows, or take them from others that compute the same images.

        Parameters
        ----------
        run : callable
            From pixels, uint8 of shape (n, image_size, image_size, 3), to rows.
        image_size, batch_size : int
        go_on : bool
            Whether to go on after an image that cannot be used.
        progress : callable
            Told the number of images, each time that some are done.
        """
        batches = self._claimed_batches(batch_size, progress)
        running: deque = deque()
        done: list[tuple[bytes, np.ndarray]] = []
        claimed: list[bytes] = []
        try:
            while True:
                waiting = False
                room = 0 if self.failures and not go_on else _BATCHES_AHEAD - len(running)
                for batch in islice(batches, room):
                    waiting = not batch
                    if waiting:
                        break
                    sources = [
                        (self.images[self.missing[key][0]], self._held.pop(key, None))
                        for key in batch
                    ]
                    future = self.pool.submit(_run, run, sources, image_size, self.max_pixels)
                    running.append((batch, future))
                if running:
                    batch, future = running.popleft()
                    done += self._place(batch, *future.result())
                    claimed += batch
                    progress(len(batch))
                elif waiting:
                    time.sleep(_POLL_SECONDS)
                else:
                    break
                if len(claimed) >= _KEPT_TOGETHER or not running:
                    # also before waiting: others may wait for these
                    self._keep(done)
                    self._release(claimed)
                    done, claimed = [], []
        finally:
            self._release()

    def _fill(self, rows_of):
        """Fill in those rows that are kept, and strike them off ``rows_of``."""

        def fill(store):
            for key, row in store.fetch(list(rows_of)):
                self.features[rows_of.pop(key)] = row

        self._ask(fill)

    def _release(self, keys=None):
        """Give up ``keys`` that were taken on, or all."""
        self._ask(lambda store: store.release(self.owner, keys))

    def _claimed_batches(self, batch_size, progress):
        """Yield batches of keys that are ours to compute; an empty one where all are others'."""
        todo = deque(self.missing)
        fruitless = 0  # keys in a row that others hold, and have not computed yet
        while todo:
            chunk = [todo.popleft() for _ in range(min(_CHUNK, len(todo)))]
            ours = self._ask(partial(_claim, keys=chunk, owner=self.owner))
            mine = [key for key in chunk if key in ours]
            for start in range(0, len(mine), batch_size):
                yield mine[start : start + batch_size]
            others = {key: self.missing[key] for key in chunk if key not in ours}
            n_others = len(others)
            self._fill(others)
            progress(n_others - len(others))
            todo.extend(others)
            fruitless = fruitless + len(others) if len(others) == len(chunk) else 0
            if todo and fruitless >= len(todo):
                fruitless = 0
                yield []

    def _place(self, batch, outcome, rows):
        """Put computed rows where they belong; return them with the keys to keep them by."""
        done = []
        computed = iter(rows)
        for key, result in zip(batch, outcome, strict=True):
            if isinstance(result, Exception):
                self.failures.update(dict.fromkeys(self.missing[key], str(result)))
                continue
            row = next(computed)
            self.features[self.missing[key]] = row
            # by what was decoded: a file that was read again may have changed since
            done.append((key if result is None else row_key(result, self.recipe), row))
        return done

    def _keep(self, done):
        """Add rows to the store; where it cannot be written, keep them in this process."""
        if done:
            keys, rows = zip(*done, strict=True)
            self._ask(lambda store: store.add(keys, rows))

    def _ask(self, question):
        """Ask the store; where it fails, now or from now on, one in this process stands in."""
        try:
            return question(self.store)
        except NotADirectoryError:
            raise  # no store can be meant
        except OSError as error:
            with suppress(OSError):  # nobody should wait for what will not come
                self.store.release(self.owner)
            self.store = _stand_in(error)
            return question(self.store)


def _stand_in(error):
    warnings.warn(f"{error}; features are kept in this process only.", stacklevel=2)
    return IN_PROCESS


def _claim(store, keys, owner):
    return store.claim(keys, owner)


def _read(source):
    """Content and digest of an image; or what is wrong with it, and None."""
    try:
        raw = read_source(source)
        return raw, content_digest(raw)
    except _IMAGE_PROBLEMS as error:
        return error, None


def _header_fault(raw, max_pixels):
    """Say what is wrong with an image's header; None where it is sound."""
    try:
        return check_header(raw, max_pixels)
    except _IMAGE_PROBLEMS as error:
        return str(error)


def _run(run, sources, image_size, max_pixels):
    """Decode images and run the network on those that can be.

    ``sources`` are pairs of an image and what was read of it before, or None.

    Returns
    -------
    outcome : list of bytes, None or Exception
        For each source the digest of its content if it was read here, or what is wrong with it.
    rows : sequence of ndarray
        Of those that could be decoded.
    """
    outcome: list[bytes | Exception | None] = []
    pixels = []
    for source, held in sources:
        try:
            raw = read_source(source) if held is None else held
            pixels.append(load_rgb(raw, image_size, max_pixels))
            outcome.append(content_digest(raw) if held is None else None)
        except _IMAGE_PROBLEMS as error:
            outcome.append(error)
    return outcome, run(np.stack(pixels)) if pixels else []
