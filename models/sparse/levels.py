"""The voxels at one stride: their keys along the Morton curve, and the step from one stride to the next.

Of the sparse engine's files this is the lowest: neighbours and kernel maps are made of levels.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

AXIS_BITS = 17  # a batch may span 2^17 voxels per axis
BATCH_BITS = 12  # and hold 4096 clouds: 3 * 17 + 12 = 63 bits, the positive int64
MAX_LEVEL = AXIS_BITS - 1
_SPREAD = (
    (32, 0x1F00000000FFFF),
    (16, 0x1F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)


def morton_keys(batch: Tensor, grid: Tensor, axis_bits: int) -> Tensor:
    """Keys int64 ``[...]`` of batch numbers ``[...]`` and non-negative coordinates ``[..., 3]`` below 2^axis_bits.

    Bit 3i of a key is bit i of x, then y, then z: x is fastest, as in the kernel index.
    """
    spread = grid.to(torch.int64)
    for shift, mask in _SPREAD:
        spread = ((spread << shift) | spread) & mask
    key = spread[..., 0] | (spread[..., 1] << 1) | (spread[..., 2] << 2)
    return key | (batch.to(torch.int64) << (3 * axis_bits))


def voxel_keys(batch: Tensor, grid: Tensor) -> Tensor:
    """The keys of the finest level, by a compiled loop on the CPU."""
    if batch.device.type != "cpu":
        return morton_keys(batch, grid, AXIS_BITS)
    from distilplace.models.sparse import compiled

    return torch.from_numpy(compiled.morton(batch.contiguous().numpy(), grid.contiguous().numpy(), AXIS_BITS))


@dataclass
class Level:
    """The voxels at one stride. ``keys`` int64 [N] ascending; ``batch`` int64 [N]; ``grid`` int64 [N, 3] >= 0."""

    keys: Tensor
    batch: Tensor
    grid: Tensor
    axis_bits: int
    child_starts: Tensor  # int32 [N]: first child of each voxel in the next finer level (empty at the finest)
    child_counts: Tensor  # int32 [N]

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def slot(self) -> Tensor:
        """Place of each voxel among the eight of its parent: x + 2y + 4z, ``[N]``."""
        return self.keys & 7

    @cached_property
    def _parents(self) -> tuple[Tensor, Tensor]:
        """Row of each voxel's parent ``[N]``, and the first child of each parent (int32)."""
        if self.keys.device.type == "cpu":
            from distilplace.models.sparse import compiled

            parent, starts = compiled.parents(self.keys.numpy())
            return torch.from_numpy(parent), torch.from_numpy(starts)
        coarse = self.keys >> 3
        fresh = torch.ones_like(coarse, dtype=torch.bool)
        torch.ne(coarse[1:], coarse[:-1], out=fresh[1:])
        return fresh.cumsum(0, dtype=torch.int32) - 1, fresh.nonzero().squeeze(1).to(torch.int32)

    @property
    def parent(self) -> Tensor:
        """Row of each voxel's parent in the next coarser level, int32 ``[N]``."""
        return self._parents[0]

    def coarser(self) -> "Level":
        """The level of twice the stride: the distinct parents."""
        starts = self._parents[1]
        ends = torch.cat([starts[1:], starts.new_full((1 if len(starts) else 0,), len(self))])
        return Level(
            self.keys.index_select(0, starts) >> 3,
            self.batch.index_select(0, starts),
            self.grid.index_select(0, starts) >> 1,
            self.axis_bits - 1,
            starts,
            ends - starts,
        )
