"""One process per run folder: a lock that the operating system lifts when its holder ends, however it ends."""

import fcntl
import logging
import os
import socket
from contextlib import suppress
from pathlib import Path

from distilplace.common.errors import UserError
from distilplace.common.files import write_error

LOG = logging.getLogger("distilplace")
NAME = ".lock"


class RunLock:
    """An exclusive ``flock`` on ``<folder>/.lock``, which names its holder; gone from the folder once released."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._descriptor: int | None = None

    @property
    def is_held(self) -> bool:
        """Does this process hold it?"""
        return self._descriptor is not None

    def acquire(self) -> None:
        """Take the lock. :class:`UserError` naming the process that holds it, or when the folder is not writable."""
        try:
            while (descriptor := self._attempt()) is None:
                pass  # its last holder removed the file that was locked
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except OSError as error:
            raise write_error(self.path, error) from None
        self._descriptor = descriptor
        os.register_at_fork(after_in_child=self._forget)

    def release(self) -> None:
        """Lift the lock; nothing happens where it is not held."""
        if self._descriptor is not None:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
            self._forget()

    def _attempt(self) -> int | None:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise UserError(
                f"{self.path.parent} is in use by {holder}: wait until that run ends, or choose another --exp_name"
            ) from None
        except OSError as error:
            LOG.warning("warning: %s cannot be locked (%s): start no second run with this name", self.path, error)
            return descriptor
        if self.path.exists() and os.path.samestat(os.fstat(descriptor), self.path.stat()):
            return descriptor
        os.close(descriptor)
        return None

    def _forget(self) -> None:
        """Close this process's own handle; in a forked child that leaves the parent's lock as it is."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
