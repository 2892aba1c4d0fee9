"""How every command that trains or evaluates ends."""

import logging
import os
from collections.abc import Callable

from distilplace.common import console
from distilplace.common.errors import UserError
from distilplace.common.shares import asked_for

LOG = logging.getLogger("distilplace")
RESUMABLE = "stopped; the same command with --resume auto goes on"


class Interrupted(Exception):
    """Ctrl-C or SIGTERM came; the checkpoint is written."""


class ToldElsewhere(UserError):
    """A mistake that another process of this command has told the user."""


def exit_code(work: Callable[[], object], stopped: str = RESUMABLE, *, divides: bool = False) -> int:
    """As the console's, for what trains; ``stopped``: said after Ctrl-C and SIGTERM.

    ``divides``: several processes may do it together, with one console: what all of them meet is said once. Anything
    else is refused under ``torchrun``, where every process would do it all.
    """

    def alone() -> None:
        if not divides and asked_for() > 1:
            raise UserError(
                f"started as one of {asked_for()} processes (WORLD_SIZE): only train.py and evaluate.py divide their "
                "work; start this with python, without torchrun"
            )
        try:
            work()
        except Interrupted:
            raise KeyboardInterrupt from None

    return console.exit_code(alone if asked_for() == 1 else lambda: _once(alone), stopped)


def _once(work: Callable[[], object]) -> None:
    """Do ``work`` as one of several processes: only the first says how it goes, and one says what went wrong."""
    from torch import distributed

    is_first = os.environ.get("RANK", "0") == "0"
    if not is_first:
        LOG.setLevel(logging.ERROR)
    try:
        work()
        if distributed.is_initialized():
            distributed.destroy_process_group()
    except ToldElsewhere:
        raise SystemExit(2) from None
    except UserError:
        if distributed.is_initialized() or os.environ.get("LOCAL_RANK", "0") == "0":
            raise
        raise SystemExit(2) from None  # before they are connected, all of them meet the same
    except KeyboardInterrupt:
        if is_first:
            raise
        raise SystemExit(130) from None
