"""Tests of _core.runtime.process_state: settings of a whole process, and forks in their midst."""

import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from sklearn_dfd._core.runtime import process_state
from sklearn_dfd._core.runtime.process_state import ThreadLock, WhileAny, fork_gate

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


class Setting:
    """A setting of the process that counts how often it is set and restored."""

    def __init__(self):
        self.calls = []
        self.entering = lambda: None

    @contextmanager
    def set(self):
        self.entering()
        self.calls.append("set")
        yield
        self.calls.append("restored")


@pytest.fixture
def setting():
    return Setting()


def in_child(check):
    """Whether a check holds in a forked process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
    if child == 0:
        os._exit(0 if check() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class Inside:
    """A thread that stays within a context until it is told to leave."""

    def __init__(self, context):
        self.entered, self.may_leave = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, args=(context,))
        self.thread.start()

    def _run(self, context):
        with context:
            self.entered.set()
            self.may_leave.wait(30)

    def leave(self):
        self.may_leave.set()
        self.thread.join(30)
        assert not self.thread.is_alive()


def test_the_first_sets_and_the_last_restores(setting):
    state = WhileAny(setting.set)
    first = Inside(state())
    first.entered.wait(30)
    second = Inside(state())
    second.entered.wait(30)
    with state(), state():
        first.leave()
        second.leave()
        assert setting.calls == ["set"]
    assert setting.calls == ["set", "restored"]
    with state():
        pass
    assert setting.calls == ["set", "restored"] * 2


def test_an_error_inside_restores(setting):
    state = WhileAny(setting.set)
    with pytest.raises(KeyError), state(), state():
        raise KeyError
    assert setting.calls == ["set", "restored"]


def test_a_state_that_cannot_be_set_is_not_entered(setting):
    state = WhileAny(setting.set)

    def fail():
        raise OSError

    setting.entering = fail
    with pytest.raises(OSError), state():
        pass
    setting.entering = lambda: None
    with state():
        assert setting.calls == ["set"]
    assert setting.calls == ["set", "restored"]


def test_many_threads_at_once(setting):
    state = WhileAny(setting.set)

    def enter(_):
        with state():
            return setting.calls[-1]

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(enter, range(400))) == {"set"}
    assert setting.calls == ["set", "restored"] * (len(setting.calls) // 2)


@needs_fork
def test_a_child_restores_what_other_threads_had_set(setting):
    state = WhileAny(setting.set)
    other = Inside(state())
    other.entered.wait(30)

    def check():
        restored = setting.calls == ["set", "restored"]
        with state():
            again = setting.calls == ["set", "restored", "set"]
        return restored and again and setting.calls == ["set", "restored"] * 2

    assert in_child(check)
    assert setting.calls == ["set"]
    other.leave()
    assert setting.calls == ["set", "restored"]


@needs_fork
def test_a_child_of_a_thread_inside_stays_inside(setting):
    state = WhileAny(setting.set)
    other = Inside(state())
    other.entered.wait(30)
    with state():
        context = state()
        context.__enter__()

        def check():
            inside = setting.calls == ["set"]
            context.__exit__(None, None, None)
            return inside and setting.calls == ["set"] and len(state._inside) == 1

        assert in_child(check)
        context.__exit__(None, None, None)
    other.leave()
    assert setting.calls == ["set", "restored"]


@needs_fork
def test_a_fork_waits_until_a_state_is_wholly_set(setting):
    state = WhileAny(setting.set)
    begun = threading.Event()

    def slowly():
        setting.calls.append("begun")
        begun.set()
        threading.Event().wait(0.3)

    setting.entering = slowly
    other = Inside(state())
    begun.wait(30)
    assert in_child(lambda: setting.calls == ["begun", "set", "restored"])
    other.leave()


@needs_fork
def test_a_lock_is_free_in_a_child():
    lock = ThreadLock()
    other = Inside(lock)
    other.entered.wait(30)

    def check():
        with lock:
            return True

    assert in_child(check)
    other.leave()


@needs_fork
def test_a_thread_in_a_section_may_enter_another_while_a_fork_waits(setting):
    state = WhileAny(setting.set)

    @contextmanager
    def both():
        with fork_gate.section():
            threading.Event().wait(0.3)  # until the fork waits
            with state():
                yield

    other = Inside(both())
    threading.Event().wait(0.1)
    forked = threading.Thread(target=lambda: in_child(lambda: True))
    forked.start()
    other.entered.wait(30)
    other.leave()
    forked.join(30)
    assert not forked.is_alive() and setting.calls == ["set", "restored"]


@needs_fork
def test_a_child_knows_that_it_is_one():
    assert process_state.is_forked() is False
    assert in_child(lambda: process_state.is_forked() and in_child(process_state.is_forked))
