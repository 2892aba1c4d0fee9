"""Threads of the compiled kernels and of PyTorch on a machine that others use too.

A parallel loop ends when its last thread does, and OpenMP's idle threads spin meanwhile. Where other processes want the
cores, each of the hundred loops of a forward pass waits for a thread that is not running: with three busy processes on
two cores a cloud took 12 to 30 times as long. numba's own threads made it worse, a second OpenMP pool that spins while
PyTorch's works (and sets its number of threads, whatever OMP_NUM_THREADS says). So here:

* the compiled kernels are shared among sleeping threads; the caller works too, and what a helper has not begun when
  nothing is left is withdrawn. Who does a piece does not change it (:func:`share`);
* in evaluation PyTorch gets one thread for a while when a pass was interrupted often (:func:`threads_for_load`).
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache

import torch

LATE = 0.0005  # seconds that helpers may always be waited for
FEW = 2  # interruptions of a pass, and
RATE = 40  # interruptions per second, that say nothing yet


class Pause:
    """Counts down the calls to be made alone; each time that proves right the next pause is twice as long."""

    def __init__(self, longest: int = 256) -> None:
        self._shortest, self._longest = 8, longest
        self._length, self._left = self._shortest, 0

    def take(self) -> bool:
        """Whether this call is to be made alone."""
        self._left -= self._left > 0
        return self._left > 0

    def judge(self, disturbed: bool) -> None:
        """After a call that was not made alone: pause if it was disturbed."""
        if disturbed:
            self._left, self._length = self._length + 1, min(2 * self._length, self._longest)
        else:
            self._length = self._shortest


class Team:
    """The calling thread and ``helpers`` others."""

    def __init__(self, helpers: int) -> None:
        self._helpers = helpers
        self._pool = ThreadPoolExecutor(helpers, thread_name_prefix="distilplace-sparse")
        self._pause = Pause()

    def share(self, count: int, work: Callable[[int], None]) -> None:
        """``work(i)`` for every i from 0 to ``count`` - 1, once each, in any order; errors are raised."""
        pieces = iter(range(count))

        def take() -> None:
            for piece in pieces:  # a step of a range iterator is atomic: no piece is taken twice
                work(piece)

        if self._pause.take():
            return take()
        helping = [self._pool.submit(take) for _ in range(min(self._helpers, count - 1))]
        start = time.perf_counter()
        take()
        done = time.perf_counter()
        for future in helping:
            if not future.cancel():
                future.result()
        self._pause.judge(time.perf_counter() - done > max(done - start, LATE))


@lru_cache(maxsize=4)
def _team(helpers: int) -> Team:
    return Team(helpers)


def share(count: int, work: Callable[[int], None]) -> None:
    """:meth:`Team.share` with as many threads as PyTorch may use."""
    helpers = torch.get_num_threads() - 1
    if helpers < 1 or count < 2:
        for piece in range(count):
            work(piece)
    else:
        _team(helpers).share(count, work)


_EVALUATION = Pause()


@contextmanager
def threads_for_load() -> Iterator[None]:
    """One thread inside, for some passes, after one that other processes interrupted often; else PyTorch's number.

    A thread is interrupted when its time is up and another process waits. Sums of PyTorch may round otherwise with
    another number of threads: not for training, which must repeat.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    alone = _EVALUATION.take()
    start, before = time.perf_counter(), _interruptions()
    if alone:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if alone:
            torch.set_num_threads(threads)
        else:
            allowed = FEW + RATE * (time.perf_counter() - start)
            _EVALUATION.judge(_interruptions() - before > allowed)


def _interruptions() -> int:
    """How often a thread of this process lost its core to another process; 0 where that cannot be known."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
