"""What a fork has to wait for."""

import os
import threading
from contextlib import contextmanager


class ForkGate:
    """Sections that no fork may cut in two, in any thread.

    A thread that forks waits until those of all others have ended, and none begins meanwhile.
    """

    def __init__(self):
        self._changed = threading.Condition()  # the forking thread holds it while it forks
        self._inside = {}  # threads, and how deep they are in
        self._n_forking = 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=self._close,
                after_in_parent=self._open,
                after_in_child=self._open_in_child,
            )

    @contextmanager
    def section(self):
        """Keep forks away until the block ends."""
        me = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: not self._n_forking or me in self._inside)
            self._inside[me] = self._inside.get(me, 0) + 1
        try:
            yield
        finally:
            with self._changed:
                self._inside[me] -= 1
                if not self._inside[me]:
                    del self._inside[me]
                self._changed.notify_all()

    def _close(self):
        self._changed.acquire()
        self._n_forking += 1
        me = threading.get_ident()
        self._changed.wait_for(lambda: not self._inside.keys() - {me})

    def _open(self):
        self._n_forking -= 1
        self._changed.notify_all()
        self._changed.release()

    def _open_in_child(self):
        self._n_forking = 1  # other threads that were about to fork are not here
        self._open()
