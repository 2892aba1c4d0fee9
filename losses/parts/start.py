"""What a distillation term with parameters of its own is built from."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Start:
    """What the term will read for two places, how many places there are, and the seed of its first weights."""

    student: "Tensor"
    teacher: "Tensor"
    places: int
    seed: int
