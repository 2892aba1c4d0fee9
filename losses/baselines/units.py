"""What baselines share: what a term with parameters is built from, and common shapes and sizes."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from distilplace.common.errors import UserError


@dataclass(frozen=True)
class Start:
    """What a term will read for two items, how many training places there are, and the seed of its first weights.

    ``bank``: for terms that ask for it the teacher's embeddings [n, d] of all training places, in their order.
    """

    student: Tensor
    teacher: Tensor
    places: int
    seed: int
    bank: Tensor | None = None


def flat(features: Tensor) -> Tensor:
    """[B, ...] as rows [B, D]."""
    return features.flatten(start_dim=1)


def same_batch(student: Tensor, teacher: Tensor) -> None:
    """Refuse tensors [B, ...] of different batches."""
    if len(student) != len(teacher):
        raise UserError(
            f"student and teacher outputs are of batches of different size ({len(student)} and {len(teacher)})"
        )


def to_size(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [B, C, h, w] in another size: averaged over cells where it shrinks, bilinear where it grows."""
    shrunk = min(maps.shape[-2], size[0]), min(maps.shape[-1], size[1])
    if shrunk != tuple(maps.shape[-2:]):
        maps = F.adaptive_avg_pool2d(maps, shrunk)
    return maps if shrunk == size else F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def to_smaller(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps [B, C, h, w] in the smaller height and the smaller width of the two."""
    height, width = (min(a, b) for a, b in zip(student.shape[-2:], teacher.shape[-2:], strict=True))
    return to_size(student, (height, width)), to_size(teacher, (height, width))
