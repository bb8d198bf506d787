"""Films opened and decoded for another process, which asks for frames through a pipe."""

import gc
import json
import os
import queue
import signal
import struct
import threading
import traceback
from typing import IO, Any

from sklearn_dfd._core.images.film import OpenFilm
from sklearn_dfd._core.images.film_file import FilmFile

#: Seconds after which a process ends that has no film to decode.
IDLE_SECONDS = 300
_LENGTH = struct.Struct("<Q")  # of what follows it in a pipe
#: What may be wrong with a film, and is raised here as it was raised there.
ERRORS = (
    *(FileNotFoundError, IsADirectoryError, PermissionError, OSError),
    *(ValueError, ImportError, MemoryError),
)


def serve() -> None:
    """Open films and decode them for another process, until that ends or has nothing to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked, answers = _taken(0, "rb"), _taken(1, "wb")
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(asked, requests), daemon=True).start()
    film: OpenFilm | None = None
    gc.freeze()  # what is imported stays
    while True:
        try:
            what, *arguments = requests.get(timeout=None if film else IDLE_SECONDS)
        except queue.Empty:
            os._exit(0)
        answer: dict[str, Any] = {"result": None}
        pixels: bytes | memoryview = b""
        try:
            if what == "open":
                path, stamp, max_pixels = arguments
                film = OpenFilm(FilmFile(path, tuple(stamp)), max_pixels)
                answer["result"] = film.size
            elif what == "pixels_at" and film:
                frame = film.pixels_at(*arguments)
                answer["result"], pixels = frame.shape[1::-1], frame.data.cast("B")
            elif what == "times" and film:
                n_frames, decode = arguments
                answer["result"] = film.times(n_frames, decode=decode)
            elif what == "close" and film:
                film.close()
                film = None
            position = film.position if film else None
            answer["position"] = None if position is None else position.as_integer_ratio()
        except Exception as error:
            kind = next((kind for kind in ERRORS if isinstance(error, kind)), None)
            text = str(error) if kind else traceback.format_exc()
            answer = {"error": (kind.__name__ if kind else "", text)}
        try:
            send(answers, json.dumps(answer).encode())
            send(answers, pixels)
        except OSError:  # nobody waits for it any more
            os._exit(0)
        if what == "close":
            gc.collect()  # a container and its streams refer to each other, and hold a decoder


def _listen(asked: IO[bytes], requests: "queue.SimpleQueue[Any]") -> None:
    """Take requests, even while a frame is decoded: when no more can come, it is in vain."""
    try:
        while True:
            requests.put(json.loads(receive(asked)))
    except (OSError, EOFError):
        os._exit(0)


def _taken(descriptor: int, mode: str) -> IO[bytes]:
    """Take a pipe from where libraries read and write, who find nothing there."""
    file: IO[bytes] = os.fdopen(os.dup(descriptor), mode, buffering=0)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, descriptor)
    os.close(nothing)
    return file


def send(pipe: Any, content: bytes | memoryview) -> None:
    """Write bytes into a pipe, and before them how many they are."""
    for part in (_LENGTH.pack(len(content)), content):
        left = memoryview(part)
        while left:
            left = left[pipe.write(left) :]


def receive(pipe: Any) -> bytearray:
    """Read from a pipe what `send` wrote; EOFError if there is an end before."""
    (length,) = _LENGTH.unpack(_received(pipe, _LENGTH.size))
    return _received(pipe, length)


def _received(pipe: Any, length: int) -> bytearray:
    content = bytearray(length)
    left = memoryview(content)
    while left:
        n_read = pipe.readinto(left)
        if not n_read:
            raise EOFError
        left = left[n_read:]
    return content
