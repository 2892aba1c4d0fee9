"""Output streams that nobody takes any more."""

import os
from contextlib import suppress
from typing import Any


def abandon(stream: Any) -> None:
    """Let what still waits in ``stream`` go nowhere: Python would try to write it once more at the end, and fail."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
