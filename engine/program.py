"""How every command that trains or evaluates ends."""

import os
from collections.abc import Callable, Mapping

from distilplace.common import console
from distilplace.common.errors import UserError


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
    """As the console's, for what trains; ``stopped``: said after Ctrl-C and SIGTERM."""

    def alone() -> None:
        refuse_several_processes(os.environ)
        try:
            work()
        except Interrupted:
            raise KeyboardInterrupt from None

    return console.exit_code(alone, stopped)
