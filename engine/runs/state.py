"""How far a run is: what a checkpoint holds beside the states of its parts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distilplace.common.errors import UserError


@dataclass
class Progress:
    """``batch`` counts the batches done in ``epoch``, ``sums`` adds up what was logged for each of them."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float = -math.inf
    best_epoch: int = -1
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, values: Mapping[str, float]) -> None:
        """Count one step with its numbers."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.batch += 1
        self.step += 1

    def end_epoch(self) -> dict[str, float]:
        """Count the epoch; the means of its numbers over its batches."""
        means = {name: value / max(self.batch, 1) for name, value in self.sums.items()}
        self.epoch, self.batch, self.sums = self.epoch + 1, 0, {}
        return means

    def judge(self, value: float) -> int | None:
        """Take the last epoch for the best where its value is the highest so far; the epoch it ties with, if any."""
        tied = self.best_epoch if value == self.best and self.best_epoch not in (-1, self.epoch) else None
        if value >= self.best:
            self.best, self.best_epoch = value, self.epoch
        return tied

    def state(self) -> dict[str, Any]:
        """Plain numbers, for a checkpoint."""
        return {**vars(self), "sums": dict(self.sums)}

    @classmethod
    def restored(cls, state: Mapping[str, Any], where: object) -> "Progress":
        """What :meth:`state` gave; :class:`UserError` for anything else found in the file ``where``."""
        kinds = {"epoch": int, "batch": int, "step": int, "best": float, "best_epoch": int, "sums": dict}
        if set(state) != set(kinds) or any(type(state[name]) is not kind for name, kind in kinds.items()):
            raise UserError(f"{where} does not say how far its run was; remove it to start this run over")
        return cls(**state)
