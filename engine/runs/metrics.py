"""``metrics.jsonl`` and TensorBoard events: every step once, whatever a run was stopped by."""

import hashlib
import json
import logging
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from distilplace.common.errors import UserError
from distilplace.common.files import atomic_path, write_error

LOG = logging.getLogger("distilplace")
NAME = "metrics.jsonl"
VALIDATION = "validation/"


class Metrics:
    """The numbers of one run, by step. A number that is not finite is ``null`` in ``metrics.jsonl``.

    A checkpoint holds how long the file was and its SHA-256 (``state_dict``), so that damage is noticed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / NAME
        self._size, self._digest = 0, hashlib.sha256()
        self._saved: tuple[int, str] | None = None
        self._board: Any = None
        self._purge_step: int | None = None
        self._again: list[dict[str, Any]] = []

    @property
    def board(self) -> Any:
        """The TensorBoard writer, opened on first use."""
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            try:
                self._board = SummaryWriter(str(self._folder), purge_step=self._purge_step)
            except OSError as error:
                raise write_error(self._folder, error) from None
            for line in self._again:
                self._add(line["step"], {name: value for name, value in line.items() if name != "step"})
            self._again = []
        return self._board

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line, and the same numbers in TensorBoard. :class:`UserError` where they cannot be written."""
        line = {name: value if math.isfinite(value) else None for name, value in values.items()}
        text = json.dumps({"step": step, **line}).encode() + b"\n"
        size = self._path.stat().st_size if self._path.is_file() else 0
        try:
            with self._path.open("ab") as stream:
                stream.write(text)
        except OSError as error:
            with suppress(OSError):
                os.truncate(self._path, size)
            raise write_error(self._path, error) from None
        self._count(text)
        self._add(step, values)

    def state_dict(self) -> dict[str, Any]:
        """Length and SHA-256 of ``metrics.jsonl``, which is on the disk by then."""
        try:
            if self._size:
                with self._path.open("rb") as stream:
                    os.fsync(stream.fileno())
        except OSError as error:
            raise write_error(self._path, error) from None
        return {"size": self._size, "sha256": self._digest.hexdigest()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember what :meth:`rewind` will compare with."""
        self._saved = int(state["size"]), str(state["sha256"])

    def rewind(self, step: int, *, inside_epoch: bool) -> None:
        """Forget what a killed run wrote after ``step``, the step that a resumed run starts from.

        ``inside_epoch``: the epoch did not end there, so its validation at this very step is still to come.
        """
        if self._path.exists() and not self._path.is_file():
            raise UserError(f"{self._path} is not a file: remove it")
        content = self._path.read_bytes() if self._path.is_file() else b""
        text = self._as_saved(content) if self._saved is not None else _until(content, step, inside_epoch)
        if text is None:
            text = _until(content, step, inside_epoch)
            state = "is damaged (its SHA-256 does not fit)" if content else "is gone"
            kept = f"the {len(_lines(text))} lines up to step {step} that can be read are kept, and may be wrong"
            LOG.warning("warning: %s %s: %s", self._path, state, kept)
        if self._path.is_file():
            with atomic_path(self._path) as temporary:
                temporary.write_bytes(text)
        self._size, self._digest = 0, hashlib.sha256()
        self._count(text)
        # Readers of the events ignore what came before from the purge step on.
        self._purge_step = step if inside_epoch else step + 1
        self._again = [line for line in _lines(text) if line["step"] == step] if inside_epoch else []

    def close(self) -> None:
        """Flush TensorBoard's file."""
        if self._board is not None:
            board, self._board = self._board, None
            try:
                board.close()
            except OSError as error:
                raise write_error(self._folder, error) from None

    def _count(self, text: bytes) -> None:
        self._size += len(text)
        self._digest.update(text)

    def _as_saved(self, content: bytes) -> bytes | None:
        """What the file held when the checkpoint was written; None where it holds something else."""
        size, digest = self._saved or (0, "")
        found = content[:size]
        return found if len(found) == size and hashlib.sha256(found).hexdigest() == digest else None

    def _add(self, step: int, values: dict[str, Any]) -> None:
        try:
            for name, value in values.items():
                self.board.add_scalar(name, math.nan if value is None else value, step)
        except OSError as error:
            raise write_error(self._folder, error) from None


def _until(content: bytes, step: int, inside_epoch: bool) -> bytes:
    """The readable lines up to ``step``, for a file that no checkpoint knows."""
    kept = [line for line in _lines(content) if line["step"] <= step]
    if inside_epoch:
        kept = [line for line in kept if line["step"] < step or not any(name.startswith(VALIDATION) for name in line)]
    return "".join(json.dumps(line) + "\n" for line in kept).encode()


def _lines(content: bytes) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; what a kill left half-written, or damage made unreadable, is none."""
    found = []
    for line in content.decode(errors="replace").splitlines():
        with suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and isinstance(entry.get("step"), int):
                found.append(entry)
    return found
