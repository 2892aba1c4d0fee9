"""A command on the console: its messages, and how it ends: 0, 2 with one line on a user's mistake, 130 when stopped."""

import logging
import sys
import warnings
from collections.abc import Callable
from typing import Any

from distilplace.common.errors import UserError
from distilplace.common.files import is_write_failure, write_error
from distilplace.common.streams import abandon

LOG = logging.getLogger("distilplace")


def exit_code(work: Callable[[], object], stopped: str = "stopped") -> int:
    """Do ``work`` with messages on the console; what the process should exit with. ``stopped``: said after Ctrl-C."""
    start_console_log()
    try:
        work()
        flush_console()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if not is_write_failure(error):
            raise
        print(f"error: {write_error(error.filename or 'a file', error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130
    return 0


def start_console_log() -> None:
    """Messages go to standard output, bare; a second call follows a changed ``sys.stdout``."""
    for handler in [handler for handler in LOG.handlers if handler.name == "console"]:
        LOG.removeHandler(handler)
    console = _ConsoleLog(sys.stdout)
    console.name = "console"
    console.setFormatter(logging.Formatter("%(message)s"))
    LOG.addHandler(console)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    warnings.showwarning = _log_warning


def flush_console() -> None:
    """Write what waits; :class:`UserError` where standard output takes nothing. A reader that left is no mistake."""
    try:
        sys.stdout.flush()
    except OSError as error:
        abandon(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            raise write_error("standard output", error) from None
    except ValueError:  # closed
        pass


class _ConsoleLog(logging.StreamHandler[Any]):
    """Ends the command where the console cannot be written, as for every other file of it; ``| head`` does not."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the library's name)
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        abandon(self.stream)
        if not isinstance(error, BrokenPipeError):
            raise write_error("standard output", error) from None


def _log_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as one line; where in the code it arose says nothing to a user."""
    LOG.warning("warning: %s", " ".join(str(message).split()))
