"""State of the whole process that threads share, and what becomes of it in a forked process."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any
from weakref import WeakSet


class ForkGate:
    """Sections of code that no fork may interrupt, whichever thread runs them.

    A thread that forks waits until all other threads have left their sections, and no thread
    enters one in the meantime.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # held by the forking thread while it forks
        self._inside: Counter[int] = Counter()  # how many sections each thread is in
        self._n_forking = 0

    @contextmanager
    def section(self) -> Iterator[None]:
        """Block forks until the block ends."""
        me = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: not self._n_forking or me in self._inside)
            self._inside[me] += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside[me] -= 1
                if not self._inside[me]:
                    del self._inside[me]
                self._changed.notify_all()

    def close(self) -> None:
        """Wait until no other thread is in a section, and let no thread enter one."""
        self._changed.acquire()
        self._n_forking += 1
        me = threading.get_ident()
        self._changed.wait_for(lambda: not self._inside.keys() - {me})

    def open(self) -> None:
        """Let threads enter again, in the process that forked."""
        self._n_forking -= 1
        self._changed.notify_all()
        self._changed.release()

    def open_in_child(self) -> None:
        """Let threads enter again, in the forked process."""
        self._n_forking = 1  # other threads that were about to fork do not exist here
        self.open()


#: The gate of this process. There is one for all purposes: with two of them, a thread inside one
#: could wait for the other, closed by a thread that is waiting for the first.
fork_gate = ForkGate()


# held while a state is entered or left, and while a process forks: none is forked half-entered
_entering = threading.RLock()


class WhileAny:
    """A setting of the whole process: set by the first thread that needs it, undone by the last.

    If each thread set and restored it on its own, a thread would undo what another one still
    needs, or restore what another one had set.

    Parameters
    ----------
    make_context : callable
        Returns a new context manager, which sets the state and restores what was there before.
    """

    def __init__(self, make_context: Callable[[], AbstractContextManager[Any]]) -> None:
        self._make_context = make_context
        self._inside: Counter[int] = Counter()  # how many times each thread is inside
        self._context: AbstractContextManager[Any] | None = None
        _of_this_process.add(self)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold the state until the block ends."""
        me = threading.get_ident()
        with _entering:
            if self._context is None:
                context = self._make_context()
                context.__enter__()
                self._context = context
            self._inside[me] += 1
        try:
            yield
        finally:
            with _entering:
                if me in self._inside:  # unlike in a process that another thread has forked
                    self._inside[me] -= 1
                    if not self._inside[me]:
                        del self._inside[me]
                    if not self._inside and self._context is not None:
                        context, self._context = self._context, None
                        context.__exit__(None, None, None)

    def begin_in_child(self) -> None:
        """Forget the threads that a forked process does not have."""
        me = threading.get_ident()
        if self._inside and me not in self._inside and self._context is not None:
            self._context.__exit__(None, None, None)
            self._context = None
        self._inside = Counter({me: self._inside[me]} if me in self._inside else {})


class ThreadLock:
    """A lock between threads that is free in a forked process, even if its parent held it."""

    def __init__(self) -> None:
        self.begin_in_child()
        _of_this_process.add(self)

    def begin_in_child(self) -> None:
        """Forget who held it."""
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()


_of_this_process: "WeakSet[WhileAny | ThreadLock]" = WeakSet()
_forked = False


def is_forked() -> bool:
    """Say whether this process is a fork of one that had imported this module."""
    return _forked


def _before_fork() -> None:
    fork_gate.close()
    _entering.acquire()


def _after_fork_in_parent() -> None:
    _entering.release()
    fork_gate.open()


def _begin_in_child() -> None:
    global _forked
    _forked = True
    _entering.release()
    fork_gate.open_in_child()
    for state in _of_this_process:
        state.begin_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_begin_in_child,
    )
