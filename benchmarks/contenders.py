"""Works side by side: each in a process of its own that stays, timed in turns."""

import multiprocessing
import statistics
import time
import traceback


class Contender:
    """One work in a process of its own, prepared once and run many times.

    Parameters
    ----------
    work : str
        Name of a function in works.py.
    **options
        Its arguments.
    """

    def __init__(self, work, **options):
        self.work = work
        context = multiprocessing.get_context("spawn")
        self._mine, theirs = context.Pipe()
        # not a daemon: a search has workers of its own
        self._process = context.Process(target=_serve, args=(theirs, work, options))
        self._process.start()
        theirs.close()

    def run(self):
        """Run the work once; return its seconds and what it reports."""
        self._mine.send("run")
        return self._answer()

    def wait(self):
        """Wait until it is prepared."""
        self._answer()

    def stop(self):
        self._mine.close()
        self._process.join()

    def _answer(self):
        try:
            answer = self._mine.recv()
        except EOFError:
            raise RuntimeError(f"{self.work} ended before it was done") from None
        if isinstance(answer, str):
            raise RuntimeError(f"{self.work} failed:\n{answer}")
        return answer


def _serve(connection, work, options):
    try:
        import works

        run = getattr(works, work)(**options)
        connection.send(None)
        while True:
            connection.recv()
            start = time.perf_counter()
            report = run()
            seconds = time.perf_counter() - start
            connection.send((seconds, report if isinstance(report, dict) else {}))
    except EOFError:
        pass
    except Exception:
        connection.send(traceback.format_exc())


def alternate(works, n_rounds):
    """Run works in turns.

    Parameters
    ----------
    works : dict of str to (str, dict)
        Name of a work, and its arguments, by the name of the contender.
    n_rounds : int

    Returns
    -------
    seconds : dict of str to list of float
    reports : dict of str to dict
        What each reported last.
    """
    contenders = {}
    try:
        for name, (work, options) in works.items():
            contenders[name] = Contender(work, **options)
            contenders[name].wait()  # one after the other: they must not disturb each other
        seconds = {name: [] for name in works}
        reports = {}
        for _ in range(n_rounds):
            for name, contender in contenders.items():
                elapsed, reports[name] = contender.run()
                seconds[name].append(elapsed)
    finally:
        for contender in contenders.values():
            contender.stop()
    return seconds, reports


def ratio(seconds, peer, ours):
    """Median of the rounds' ratios, and the lowest and highest of them."""
    ratios = [a / b for a, b in zip(seconds[peer], seconds[ours], strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)
