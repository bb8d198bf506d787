"""From images to rows of features: read, look up, decode, run, keep.

Images stream: a few batches are decoded ahead of the network, and none is held longer. This
module knows images and stores; the network is a function from pixels to rows.
"""

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import nullcontext, suppress
from itertools import chain, islice
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from sklearn_dfd._core.images.decoding import (
    USUAL_MAX_PIXELS,
    Decoding,
    DerivedImage,
    RawFrame,
    RawImage,
    check_header,
    feature_digest,
    innermost,
    load_rgb,
    pixel_limit,
)
from sklearn_dfd._core.images.film_pool import films_stay_open
from sklearn_dfd._core.images.reading import Reader
from sklearn_dfd._core.images.sources import ImageView, innermost_that_may_fail, is_rendered
from sklearn_dfd._core.messages import warn_user
from sklearn_dfd.feature_store import IN_PROCESS, FeatureStore, MemoryStore, new_owner, row_key

_CHUNK = 64  # images surveyed and claimed together
_SLICE = 8  # of these, examined by a thread in one go: a task costs as much as a look
_KEPT_TOGETHER = 16  # images per transaction: what a kill may cost, plus the batches ahead
_BATCHES_AHEAD = 16
_HELD_BYTES = 2**27  # of files that were surveyed: beyond it they are read again to be decoded
_POLL_SECONDS = 0.05
_IMAGE_PROBLEMS = (OSError, ValueError, TypeError)

_Store: TypeAlias = MemoryStore | FeatureStore
_Pixels: TypeAlias = npt.NDArray[np.uint8]
_Rows: TypeAlias = npt.NDArray[np.float32]
_In = TypeVar("_In")
_Out = TypeVar("_Out")


class Extraction:
    """The features of one collection of images.

    Parameters
    ----------
    images : sequence
        The images, each one what `read_source` takes.
    width : int
        Number of features per image.
    recipe : str
        All that determines the features of an image, apart from the image.
    store : MemoryStore or FeatureStore
        Where features are kept.
    pool : concurrent.futures.Executor
        Threads that read, decode and run the network.
    decoding : Decoding
        How images are decoded.

    Attributes
    ----------
    features : ndarray of float32, shape (n_images, width)
        The features. Rows that are not computed yet, or cannot be, are undefined.
    missing : dict of bytes to list of int
        After `survey`, the rows of each distinct image that is not in the store, by its key.
    failures : dict of int to str
        What is wrong with the images that cannot be used, by row.
    must_stop : bool
        Whether an image that contains no view that may fail cannot be used. Images that contain
        such a view do not stop anything: the others are still worth computing.
    """

    def __init__(
        self,
        images: Sequence[Any] | _Pixels,
        width: int,
        recipe: str,
        store: _Store,
        pool: Executor,
        decoding: Decoding,
    ) -> None:
        self.images = images
        self.decoding = decoding
        self.recipe = recipe
        self.owner = new_owner()
        self.store: _Store = store
        self._release()  # writes nothing, but fails where the store cannot be written
        self.pool = pool
        self.features: _Rows = np.empty((len(images), width), dtype=np.float32)
        self.missing: dict[bytes, list[int]] = {}
        self.failures: dict[int, str] = {}
        self.must_stop = False
        self._held: dict[bytes, RawImage] = {}
        self._places: dict[bytes, tuple[Hashable, float]] = {}  # of frames: film and time
        self._n_held_bytes = 0
        self._settled: set[bytes] = set()  # keys whose rows are computed, or cannot be

    def survey(self) -> None:
        """Read every image, fill in the rows that are kept, and check the headers of the others.

        The headers of a small collection are not checked, since all of it is decoded at once. With
        a limit on pixels other than the usual one all headers are checked, since a row may have
        been kept under another limit. That takes about as long as finding the row.
        """
        all_headers = pixel_limit(self.decoding.max_pixels) not in (USUAL_MAX_PIXELS, None)
        other_headers = not all_headers and len(self.images) > _CHUNK
        for start in range(0, len(self.images), _CHUNK):
            rows = range(start, min(start + _CHUNK, len(self.images)))
            found = self._map(self._read, [self.images[row] for row in rows])
            rows_of: dict[bytes, list[int]] = {}
            raws: dict[bytes, RawImage] = {}
            for row, (raw, digest) in zip(rows, found, strict=True):
                if isinstance(raw, Exception):
                    self._note_failure([row], str(raw))
                    continue
                key = row_key(digest, self.recipe)
                rows_of.setdefault(key, []).append(row)
                raws[key] = raw
            if all_headers:
                self._leave_out_faulty(rows_of, raws)
            self._fill(rows_of)
            if other_headers:
                self._leave_out_faulty(rows_of, raws)
            for key, same in rows_of.items():
                self.missing.setdefault(key, []).extend(same)
                self._hold(key, raws[key])
        if self._places:
            self._bring_films_together()

    def compute(
        self,
        run: Callable[[_Pixels], Sequence[npt.NDArray[np.float32]] | _Rows],
        batch_size: int,
        *,
        go_on: bool,
        progress: Callable[[int], object] = lambda n_images: None,
    ) -> None:
        """Compute the missing rows, or take them from others that compute the same images.

        Parameters
        ----------
        run : callable
            Function from pixels, uint8 of shape (n, image_size, image_size, 3), to rows.
        batch_size : int
            Number of images per call of `run`.
        go_on : bool
            Whether to continue even if `must_stop`. Otherwise the remaining images are then only
            decoded, to find all that cannot be used.
        progress : callable
            Called with the number of images each time some are done.
        """
        batches = self._claimed_batches(batch_size, progress)
        running: deque[tuple[list[bytes], Future[_Ran]]] = deque()
        done: list[tuple[bytes, npt.NDArray[np.float32]]] = []
        claimed: list[bytes] = []
        with films_stay_open() if self._places else nullcontext():
            try:
                while True:
                    waiting = False
                    room = 0 if self.must_stop and not go_on else _BATCHES_AHEAD - len(running)
                    for batch in islice(batches, room):
                        waiting = not batch
                        if waiting:
                            break
                        sources = self._sources(batch)
                        future = self.pool.submit(_run, run, sources, self.decoding, batch_size)
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
            if self.must_stop and not go_on:
                self.find_faults()

    def find_faults(self) -> None:
        """Decode the missing images that were not computed, to find all that cannot be used.

        Views are not decoded in addition to their image, unless a view may fail where the image
        does not. An image that is needed at two scales is decoded twice.
        """
        found: dict[tuple[int, bool], tuple[_Source, list[bytes]]] = {}
        for key in [key for key in self.missing if key not in self._settled]:
            image, held = self.images[self.missing[key][0]], self._held.pop(key, None)
            fast = self._is_fast(image)
            image = innermost_that_may_fail(image)
            if held is not None:
                held = None if isinstance(image, ImageView) else innermost(held)
            source = (image, held)
            found.setdefault((id(image), fast), (source, []))[1].append(key)
        for decoding in {self.decoding, self.decoding._replace(fast=False)}:
            entries = [entry for (_, fast), entry in found.items() if fast == decoding.fast]
            for start in range(0, len(entries), _CHUNK):
                parts = _slices(entries[start : start + _CHUNK])
                futures = [
                    self.pool.submit(_decoded, [source for source, _ in part], decoding)
                    for part in parts
                ]
                for part, future in zip(parts, futures, strict=True):
                    for (_, keys), result in zip(part, future.result()[0], strict=True):
                        if isinstance(result, Exception):
                            self._note_failures(keys, result)

    def _is_fast(self, image: Any) -> bool:
        """Return whether an image may be decoded at a reduced scale."""
        return self.decoding.fast and not is_rendered(image)

    def _sources(self, keys: list[bytes]) -> "list[_Source]":
        """Take the images of some keys, with what was read of them before."""
        return [(self.images[self.missing[key][0]], self._held.pop(key, None)) for key in keys]

    def _read(self, images: Sequence[Any]) -> "list[tuple[RawImage | Exception, bytes]]":
        """Read some images; return the content and the digest of each, or what is wrong with it."""
        read = Reader()
        found: list[tuple[RawImage | Exception, bytes]] = []
        for image in images:
            try:
                raw = read(image)
                found.append((raw, feature_digest(raw, self.decoding.max_pixels)))
            except _IMAGE_PROBLEMS as error:
                found.append((error, b""))
        return found

    def _leave_out_faulty(
        self, rows_of: dict[bytes, list[int]], raws: dict[bytes, RawImage]
    ) -> None:
        """Note what is wrong with headers, and strike those images off ``rows_of``."""
        headers: dict[bytes, _Header] = {
            key: (innermost(raws[key]), self._is_fast(self.images[rows[0]]))
            for key, rows in rows_of.items()
        }
        distinct = {(id(raw), fast): (raw, fast) for raw, fast in headers.values()}
        faults = dict(
            zip(distinct, self._map(self._header_faults, list(distinct.values())), strict=True)
        )
        for key, (raw, fast) in headers.items():
            fault = faults[id(raw), fast]
            if fault is not None:
                self._note_failure(rows_of.pop(key), fault)

    def _header_faults(self, headers: "Sequence[_Header]") -> list[str | None]:
        """Say what is wrong with the headers of images; None for each sound one."""
        image_size, max_pixels, _ = self.decoding
        faults: list[str | None] = []
        for raw, fast in headers:
            try:
                check_header(raw, max_pixels, image_size if fast else None)
                faults.append(None)
            except _IMAGE_PROBLEMS as error:
                faults.append(str(error))
        return faults

    def _hold(self, key: bytes, raw: RawImage) -> None:
        """Keep what was read until it is decoded, while there is room."""
        file = innermost(raw)
        n_bytes = len(file) if isinstance(file, bytes) else 0
        if self._n_held_bytes + n_bytes <= _HELD_BYTES:
            self._held[key] = raw
            self._n_held_bytes += n_bytes
        if isinstance(file, RawFrame):
            self._places[key] = file.place

    def _map(
        self, look: Callable[[Sequence[_In]], Iterable[_Out]], items: Sequence[_In]
    ) -> Iterator[_Out]:
        """Apply ``look`` to slices of ``items`` in several threads; chain the results in order."""
        return chain.from_iterable(self.pool.map(look, _slices(items)))

    def _fill(self, rows_of: dict[bytes, list[int]]) -> None:
        """Fill in those rows that are kept, and strike them off ``rows_of``."""
        for key, row in self._ask("fetch", list(rows_of)):
            self.features[rows_of.pop(key)] = row

    def _release(self, keys: list[bytes] | None = None) -> None:
        """Give up the claims on ``keys``, or all claims."""
        self._ask("release", self.owner, keys)

    def _claimed_batches(
        self, batch_size: int, progress: Callable[[int], object]
    ) -> Iterator[list[bytes]]:
        """Yield batches of keys that are ours to compute; an empty one if others hold them all."""
        todo = deque(self.missing)
        fruitless = 0  # keys in a row that others hold, and have not computed yet
        while todo:
            chunk = [todo.popleft() for _ in range(min(_CHUNK, len(todo)))]
            while todo and len(chunk) < 2 * _CHUNK and self._are_of_one_film(chunk[-1], todo[0]):
                chunk.append(todo.popleft())
            ours = self._ask("claim", chunk, self.owner)
            mine = [key for key in chunk if key in ours]
            start = 0
            while start < len(mine):
                stop = start + batch_size
                # one thread goes through a film
                while stop < len(mine) and self._are_of_one_film(*mine[stop - 1 : stop + 1]):
                    stop += 1
                yield mine[start:stop]
                start = stop
            others = {key: self.missing[key] for key in chunk if key not in ours}
            n_others = len(others)
            if others:
                self._fill(others)
            self._settled.update(set(chunk) - ours - others.keys())
            progress(n_others - len(others))
            todo.extend(others)
            fruitless = fruitless + len(others) if len(others) == len(chunk) else 0
            if todo and fruitless >= len(todo):
                fruitless = 0
                yield []

    def _are_of_one_film(self, one: bytes, other: bytes) -> bool:
        place, next_place = self._places.get(one), self._places.get(other)
        return place is not None and next_place is not None and place[0] == next_place[0]

    def _bring_films_together(self) -> None:
        """Put the missing frames of each film in the order of time; others keep their order."""
        first: dict[Hashable, int] = {}
        order: dict[bytes, tuple[int, float]] = {}
        for i, key in enumerate(self.missing):
            place = self._places.get(key)
            order[key] = (i, 0.0) if place is None else (first.setdefault(place[0], i), place[1])
        self.missing = {key: self.missing[key] for key in sorted(order, key=order.__getitem__)}

    def _place(
        self, batch: list[bytes], outcome: "_Outcome", rows: Iterable[npt.NDArray[np.float32]]
    ) -> list[tuple[bytes, npt.NDArray[np.float32]]]:
        """Put computed rows where they belong; return them with the keys to keep them under."""
        done = []
        computed = iter(rows)
        for key, result in zip(batch, outcome, strict=True):
            if isinstance(result, Exception):
                self._note_failures([key], result)
                continue
            row = next(computed)
            if getattr(self.store, "dtype", None) == "float16":  # as it is read from now on
                row = row.astype(np.float16).astype(np.float32)
            self.features[self.missing[key]] = row
            # by what was decoded: a file that was read again may have changed since
            done.append((key if result is None else row_key(result, self.recipe), row))
        self._settled.update(batch)
        return done

    def _note_failures(self, keys: list[bytes], error: Exception) -> None:
        for key in keys:
            self._note_failure(self.missing[key], str(error))

    def _note_failure(self, rows: list[int], fault: str) -> None:
        for row in rows:
            self.failures[row] = fault
            if not isinstance(innermost_that_may_fail(self.images[row]), ImageView):
                self.must_stop = True

    def _keep(self, done: list[tuple[bytes, npt.NDArray[np.float32]]]) -> None:
        """Add rows to the store; where it cannot be written, keep them in this process."""
        if done:
            keys, rows = zip(*done, strict=True)
            self._ask("add", list(keys), rows)

    def _ask(self, method: str, *args: Any) -> Any:
        """Call a method of the store; where it fails, now or later, use that of this process."""
        try:
            answer = getattr(self.store, method)(*args)
            return list(answer) if method == "fetch" else answer
        except NotADirectoryError:
            raise  # it cannot be meant as a store
        except OSError as error:
            with suppress(OSError):  # others should not wait for rows that will not come
                self.store.release(self.owner)
            warn_user(f"{error.strerror or error}; features are kept in this process only.")
            self.store = IN_PROCESS
            return self._ask(method, *args)


#: An image, and what was read of it before or None.
_Source: TypeAlias = tuple[Any, RawImage | None]
#: An image that is not derived, and whether it may be decoded at a reduced scale.
_Header: TypeAlias = tuple[RawImage, bool]
#: For each source the digest of its content if it was read again, or what is wrong with it.
_Outcome: TypeAlias = list[bytes | Exception | None]
_Ran: TypeAlias = tuple[_Outcome, Any]


def _slices(items: Sequence[_In]) -> list[Sequence[_In]]:
    return [items[i : i + _SLICE] for i in range(0, len(items), _SLICE)]


class _Squares:
    """Decodes and resizes images, and only once if one comes twice in a row."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self._raw: RawImage | None = None
        self._pixels: _Pixels = np.empty(0, np.uint8)

    def __call__(self, raw: RawImage) -> _Pixels:
        """Return the pixels of an image; those of a mirror image are made from its square."""
        if isinstance(raw, DerivedImage) and raw.on_square is not None:
            return raw.on_square(self(raw.raw))
        if raw is not self._raw:
            self._pixels = load_rgb(raw, *self._decoding)
            self._raw = raw
        return self._pixels


def _decoded(sources: Sequence[_Source], decoding: Decoding) -> tuple[_Outcome, list[_Pixels]]:
    """Read and decode images; return the outcome of each, and the pixels of those decoded."""
    read: Reader | None = None  # most images were read before
    square = _Squares(decoding)
    outcome: _Outcome = []
    pixels = []
    for source, held in sources:
        try:
            raw = held
            if raw is None:
                read = read or Reader()
                raw = read(source)
            pixels.append(square(raw))
            outcome.append(None if held is not None else feature_digest(raw, decoding.max_pixels))
        except _IMAGE_PROBLEMS as error:
            outcome.append(error)
    return outcome, pixels


def _run(
    run: Callable[[_Pixels], Any],
    sources: Sequence[_Source],
    decoding: Decoding,
    batch_size: int,
) -> _Ran:
    """Decode images, and run the network on those that can be used."""
    outcome, pixels = _decoded(sources, decoding)
    starts = range(0, len(pixels), batch_size)
    rows = (run(np.stack(pixels[start : start + batch_size])) for start in starts)
    return outcome, list(chain.from_iterable(rows))
