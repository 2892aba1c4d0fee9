"""``metrics.jsonl`` and TensorBoard events: every step once, whatever a run was stopped by."""

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from distilplace.common.errors import UserError
from distilplace.common.files import atomic_path, write_error

NAME = "metrics.jsonl"
VALIDATION = "validation/"


class Metrics:
    """The numbers of one run, by step. A number that is not finite is ``null`` in ``metrics.jsonl``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
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
        path = self._folder / NAME
        size = path.stat().st_size if path.is_file() else 0
        try:
            with path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"step": step, **line}) + "\n")
        except OSError as error:
            with suppress(OSError):
                os.truncate(path, size)
            raise write_error(path, error) from None
        self._add(step, values)

    def rewind(self, step: int, *, inside_epoch: bool) -> None:
        """Forget what a killed run wrote after ``step``, the step that a resumed run starts from.

        ``inside_epoch``: the epoch did not end there, so its validation at this very step is still to come.
        """
        path = self._folder / NAME
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not a file: remove it")
        kept = [line for line in _lines(path) if line["step"] <= step]
        last = [line for line in kept if line["step"] == step]
        if inside_epoch:
            dropped = [line for line in last if any(name.startswith(VALIDATION) for name in line)]
            kept = [line for line in kept if line not in dropped]
            last = [line for line in last if line not in dropped]
        if path.is_file():
            with atomic_path(path) as temporary:
                text = "".join(json.dumps(line) + "\n" for line in kept)
                temporary.write_text(text, encoding="utf-8")
        # Readers of the events ignore what came before from the purge step on.
        self._purge_step = step if inside_epoch else step + 1
        self._again = last if inside_epoch else []

    def close(self) -> None:
        """Flush TensorBoard's file."""
        if self._board is not None:
            board, self._board = self._board, None
            try:
                board.close()
            except OSError as error:
                raise write_error(self._folder, error) from None

    def _add(self, step: int, values: dict[str, Any]) -> None:
        try:
            for name, value in values.items():
                self.board.add_scalar(name, math.nan if value is None else value, step)
        except OSError as error:
            raise write_error(self._folder, error) from None


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``; what a killed process left half-written is no line."""
    found = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.splitlines():
        with suppress(ValueError):
            content = json.loads(line)
            if isinstance(content, dict) and isinstance(content.get("step"), int):
                found.append(content)
    return found
