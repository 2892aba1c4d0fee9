"""Ctrl-C, SIGTERM and SIGHUP: end the step, save, stop. What is being saved is always saved to its end."""

import errno
import os
import signal
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

FIRST = "\nstopping after this step; Ctrl-C once more stops at once, without saving\n"
SAVING = "\nsaving; this run stops when that is done\n"


class Stopping:
    """Whether the run was asked to stop.

    The first signal only sets ``requested``. A second Ctrl-C raises KeyboardInterrupt, unless something is being saved:
    then it waits, and so does every further one (``kill -9`` remains). SIGTERM and SIGHUP never do more than
    ask: a closing session sends both.
    """

    def __init__(self) -> None:
        self.requested = False
        self._saving = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block signals are handled so."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it for good reason
            numbers.append(signal.SIGHUP)
        previous = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Within the block no signal interrupts; one that came is obeyed by whoever asks ``requested`` next."""
        self._saving += 1
        try:
            yield
        finally:
            self._saving -= 1

    def _handle(self, number: int, _: FrameType | None) -> None:
        again, self.requested = self.requested, True
        if number == signal.SIGHUP:
            _leave_terminal()
        if number != signal.SIGINT:
            return
        if self._saving:
            _say(SAVING)
        elif again:
            raise KeyboardInterrupt
        else:
            _say(FIRST)


def _say(text: str) -> None:
    """Print from inside a signal handler, where Python's own streams may be in use."""
    with suppress(OSError):
        os.write(2, text.encode())


def _leave_terminal() -> None:
    """Where the terminal is gone, a progress bar's next write would end the run before it has saved."""
    for stream in (sys.__stdout__, sys.__stderr__):
        try:
            descriptor = stream.fileno() if stream is not None else -1
            if _is_dead_terminal(descriptor):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        except (OSError, ValueError):
            continue


def _is_dead_terminal(descriptor: int) -> bool:
    """A terminal that was hung up answers no more; files and pipes are no terminals at all."""
    try:
        termios.tcgetattr(descriptor)
    except termios.error as error:
        return bool(error.args) and error.args[0] == errno.EIO
    return False
