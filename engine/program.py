"""How every command ends: 0 on success, 2 with one line on a user's mistake, 130 when stopped."""

import sys
from collections.abc import Callable

from common.errors import UserError
from engine.run_folder import start_console_log


class Interrupted(Exception):
    """Ctrl-C or SIGTERM came; the checkpoint is written."""


RESUMABLE = "stopped; the same command with --resume auto goes on"


def exit_code(work: Callable[[], object], stopped: str = RESUMABLE) -> int:
    """Do ``work`` with messages on the console; what the process should exit with. ``stopped``: said after Ctrl-C."""
    start_console_log()
    try:
        work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (Interrupted, KeyboardInterrupt):
        print(stopped, file=sys.stderr)
        return 130
    return 0
