"""A film that is open in another process, which a crash of FFmpeg ends in place of this one.

The process is a Python of its own, started without what `multiprocessing` does: it neither imports
the script of the user nor inherits the state of a fork. It gets requests and answers them through
pipes, as JSON and pixels, so that nothing that it sends can be run here.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from sklearn_dfd._core.images.film import OpenFilm
from sklearn_dfd._core.images.film_file import FilmFile
from sklearn_dfd._core.images.film_server import ERRORS, receive, send
from sklearn_dfd._core.runtime.process_state import ThreadLock

_WIDTH = 2**20  # bytes that are in a pipe at a time, where that can be chosen
_PATIENCE = 10  # seconds from closing its pipes to its end, within which it may write a core dump

# what the process runs; it finds modules where this one does
_START = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from sklearn_dfd._core.images.film_server import serve
serve()
"""
_FOLDER = str(Path(__file__).parents[3])  # of the package


class FilmInProcess:
    """A film that is open in a process of its own, for one thread at a time.

    Parameters, attributes, methods and errors are those of `OpenFilm`, and ValueError is also
    raised if the process ends.
    """

    def __init__(self, film: FilmFile, max_pixels: int | None) -> None:
        # the process keeps the working directory, and the standard input, that it started with
        path = os.path.realpath(os.path.expanduser(film.path))
        self._process = _processes.take()
        self.position: Fraction | None = None
        try:
            width, height = self._ask("open", path, film.stamp, max_pixels)["result"]
        except BaseException:
            self.close()
            raise
        self.size: tuple[int, int] = (width, height)

    def image_at(self, seconds: float) -> Image.Image:
        """Decode what the film shows at a time."""
        answer = self._ask("pixels_at", seconds)
        return Image.frombytes("RGB", tuple(answer["result"]), answer["pixels"])

    def times(self, n_frames: int, *, decode: bool = True) -> list[float]:
        """Find frames at even intervals of time, and decode them."""
        times: list[float] = self._ask("times", n_frames, decode)["result"]
        return times

    def close(self) -> None:
        """Close the film, and leave the process to the next one."""
        try:
            if not self._process.is_busy:  # otherwise it ended, or somebody gave up waiting for it
                with suppress(_EndedError):
                    self._process.ask("close")
        finally:
            _processes.put_back(self._process)

    def _ask(self, *request: Any) -> Any:
        try:
            answer = self._process.ask(*request)
        except _EndedError as ended:
            raise ValueError(
                f"the process that decodes it ended ({ended}): FFmpeg crashed, or memory ran out"
            ) from None
        if "error" in answer:
            kinds = {kind.__name__: kind for kind in ERRORS}
            kind, text = answer["error"]
            raise kinds.get(kind, RuntimeError)(text)
        self.position = None if answer["position"] is None else Fraction(*answer["position"])
        return answer


AnyOpenFilm: TypeAlias = OpenFilm | FilmInProcess


def open_film(film: FilmFile, max_pixels: int | None) -> AnyOpenFilm:
    """Open a film in another process, or in this one if no other can be started.

    That is so in programs that were frozen or have Python built in: what they call their executable
    is not Python.

    Parameters
    ----------
    film : FilmFile
        The film.
    max_pixels : int or None
        Number of pixels that a frame may have; None for any number.

    Returns
    -------
    opened : OpenFilm or FilmInProcess
        The film. Errors are those of `OpenFilm`.
    """
    program = os.path.basename(sys.executable or "")
    if "python" not in program.lower() or getattr(sys, "frozen", False):
        return OpenFilm(film, max_pixels)
    return FilmInProcess(film, max_pixels)


class _EndedError(Exception):
    """Raised where a process has ended; says how."""


class _Process:
    """A process that holds one film open at a time."""

    #: Whether it has been asked something that it has not answered.
    is_busy = False

    def __init__(self) -> None:
        path = [*(entry for entry in sys.path if isinstance(entry, str)), _FOLDER]
        alone = "-I" if sys.flags.isolated else "-P"
        self._popen = subprocess.Popen(  # noqa: S603 (it is this Python)
            [sys.executable, alone, "-c", _START, json.dumps(path)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            process_group=0,  # which Ctrl-C in a terminal does not reach
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        with suppress(ImportError, AttributeError, OSError):  # Linux alone has wider pipes
            import fcntl

            answers: Any = self._popen.stdout
            fcntl.fcntl(answers, fcntl.F_SETPIPE_SZ, _WIDTH)

    @property
    def has_ended(self) -> bool:
        """Whether it has ended."""
        return self._popen.poll() is not None

    def ask(self, *request: Any) -> Any:
        """Wait for an answer."""
        self.is_busy = True
        try:
            send(self._popen.stdin, json.dumps(request).encode())
            answer = json.loads(receive(self._popen.stdout))
            answer["pixels"] = receive(self._popen.stdout)
        except (OSError, EOFError):
            raise _EndedError(self._how_it_ended()) from None
        self.is_busy = False
        return answer

    def _how_it_ended(self) -> str:
        try:
            code = self._popen.wait(_PATIENCE)
        except subprocess.TimeoutExpired:  # it has closed its pipes and goes on
            self._popen.kill()
            code = self._popen.wait()
        with suppress(ValueError):
            return signal.Signals(-code).name
        return f"exit status {code}"

    def end(self) -> None:
        """End it, whatever it does."""
        with suppress(OSError):  # Windows: it is ending by itself
            self._popen.kill()
        self._popen.wait()
        self.leave()

    def leave(self) -> None:
        """Close the pipes to it, after which it can be asked nothing."""
        self.is_busy = True
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                pipe.close()


class _Processes:
    """The processes that were started here, to be used again by the next film."""

    def __init__(self) -> None:
        self._lock = ThreadLock()
        self._all: set[_Process] = set()
        self._idle: list[_Process] = []  # the last used one comes last

    def take(self) -> _Process:
        """Return a process that waits, a new one if there is none."""
        while (process := self._pop()) is not None:
            with suppress(_EndedError):
                process.ask("wait")
                return process
            self._end(process)
        try:
            process = _Process()
            self._all.add(process)
            try:
                process.ask("wait")
            except BaseException:
                self._end(process)
                raise
        except (OSError, _EndedError) as error:
            raise OSError(f"no process to decode it can be started ({error})") from None
        return process

    def put_back(self, process: _Process) -> None:
        """Keep a process for the next film, unless it may be still at work."""
        if process.is_busy:
            self._end(process)
        else:
            with self._lock:
                self._idle.append(process)

    def end(self) -> None:
        """End all processes."""
        self._idle = []
        for process in list(self._all):
            self._end(process)

    def begin_in_child(self) -> None:
        """Leave all of them to the process that was forked."""
        for process in self._all:
            process.leave()
            _ = process.has_ended  # as far as this process can know
        self._all, self._idle = set(), []

    def _pop(self) -> _Process | None:
        with self._lock:
            ended = [process for process in self._idle if process.has_ended]
            self._idle = [process for process in self._idle if process not in ended]
            process = self._idle.pop() if self._idle else None
        for each in ended:
            self._end(each)
        return process

    def _end(self, process: _Process) -> None:
        process.end()
        self._all.discard(process)


_processes = _Processes()
atexit.register(_processes.end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_processes.begin_in_child)
