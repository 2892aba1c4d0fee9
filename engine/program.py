"""How every command ends: 0 on success, 2 with one line on a user's mistake, 130 when stopped."""

import os
import sys
from collections.abc import Callable, Mapping

from distilplace.common.errors import UserError
from distilplace.common.files import is_write_failure, write_error
from distilplace.engine.runs.console import flush_console, start_console_log


class Interrupted(Exception):
    """Ctrl-C or SIGTERM came; the checkpoint is written."""


def refuse_several_processes(environment: Mapping[str, str]) -> None:
    """:class:`UserError` under ``torchrun`` and the like with more than one process: each would train alone."""
    count = environment.get("WORLD_SIZE", "1")
    if count.isdecimal() and int(count) > 1:
        raise UserError(
            f"started as one of {count} processes (WORLD_SIZE): training on several devices is not supported yet; "
            "start it with python, without torchrun"
        )


RESUMABLE = "stopped; the same command with --resume auto goes on"


def exit_code(work: Callable[[], object], stopped: str = RESUMABLE) -> int:
    """Do ``work`` with messages on the console; what the process should exit with. ``stopped``: said after Ctrl-C."""
    start_console_log()
    try:
        refuse_several_processes(os.environ)
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
    except (Interrupted, KeyboardInterrupt):
        print(stopped, file=sys.stderr)
        return 130
    return 0
