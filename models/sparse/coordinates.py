"""The coordinates of a sparse tensor at every stride, and the kernel maps between them, each built once.

Rows are kept in **canonical order**: by batch element, then along the Morton (Z-order) curve. Along that curve the
eight children of a coarse voxel are neighbours, so that a coarser level is a shift by three bits and a comparison of
neighbours, the kernel index of a 2^3 stride-2 convolution is the last three bits of the key, and gathers stay in cache.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from distilplace.common.errors import UserError
from distilplace.models.sparse.backends.base import Manager, check_coordinates, check_stride, checked_batch_size
from distilplace.models.sparse.functional import sparse_convolution
from distilplace.models.sparse.kernel_map import KernelMap, Workspace, build_map
from distilplace.models.sparse.neighbours import Neighbours, find_neighbours
from distilplace.models.sparse.transport import restore, state_of

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


def morton_keys(batch: torch.Tensor, grid: torch.Tensor, axis_bits: int) -> torch.Tensor:
    """Keys int64 ``[...]`` of batch numbers ``[...]`` and non-negative coordinates ``[..., 3]`` below 2^axis_bits.

    Bit 3i of a key is bit i of x, then y, then z: x is fastest, as in the kernel index.
    """
    spread = grid.to(torch.int64)
    for shift, mask in _SPREAD:
        spread = ((spread << shift) | spread) & mask
    key = spread[..., 0] | (spread[..., 1] << 1) | (spread[..., 2] << 2)
    return key | (batch.to(torch.int64) << (3 * axis_bits))


def _keys(batch: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    if batch.device.type != "cpu":
        return morton_keys(batch, grid, AXIS_BITS)
    from distilplace.models.sparse import compiled

    return torch.from_numpy(compiled.morton(batch.contiguous().numpy(), grid.contiguous().numpy(), AXIS_BITS))


@dataclass
class Level:
    """The voxels at one stride. ``keys`` int64 [N] ascending; ``batch`` int64 [N]; ``grid`` int64 [N, 3] >= 0."""

    keys: torch.Tensor
    batch: torch.Tensor
    grid: torch.Tensor
    axis_bits: int
    child_starts: torch.Tensor  # int32 [N]: first child of each voxel in the next finer level (empty at the finest)
    child_counts: torch.Tensor  # int32 [N]

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def slot(self) -> torch.Tensor:
        """Place of each voxel among the eight of its parent: x + 2y + 4z, ``[N]``."""
        return self.keys & 7

    @cached_property
    def _parents(self) -> tuple[torch.Tensor, torch.Tensor]:
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
    def parent(self) -> torch.Tensor:
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


class CoordinateManager(Manager):
    """The PyTorch engine: coordinates per stride and kernel maps per (stride, kernel), on any device.

    Any int32 coordinates are accepted whose batch fits in a
    window of 2^17 voxels per axis (aligned to 2^16); anything beyond raises. Of duplicate rows the first is kept
    (MinkowskiEngine keeps a random one); ``rows`` tells which input rows stayed, in canonical order.
    """

    name = "torch"
    portable = True

    @classmethod
    def unavailable(cls, device: torch.device) -> str | None:
        """Never: it is PyTorch."""
        return None

    def __init__(self, coordinates: torch.Tensor, *, base_stride: int = 1, batch_size: int | None = None) -> None:
        check_coordinates(coordinates)
        self.base_stride = base_stride
        batch, grid = self._checked(coordinates.to(torch.int64), batch_size)
        keys, rows = _keys(batch, grid).sort(stable=True)
        fresh = torch.ones_like(keys, dtype=torch.bool)
        torch.ne(keys[1:], keys[:-1], out=fresh[1:])
        if not bool(fresh.all()):
            keys, rows = keys[fresh], rows[fresh]
        self.rows = rows
        none = keys.new_empty(0, dtype=torch.int32)
        self._levels = [Level(keys, batch.index_select(0, rows), grid.index_select(0, rows), AXIS_BITS, none, none)]
        self._workspace = Workspace()
        self._maps: dict[tuple[int, ...], KernelMap] = {}
        self._neighbours: dict[tuple[int, int], Neighbours] = {}
        self._segments: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def _checked(self, coordinates: torch.Tensor, batch_size: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Batch numbers ``[N]`` and coordinates ``[N, 3]`` shifted into [0, 2^17); sets batch_size and origin."""
        if not len(coordinates):
            self.batch_size = batch_size or 0
            self.origin = coordinates.new_zeros(3)
            return coordinates[:, 0], coordinates[:, 1:]
        check_stride(coordinates, self.base_stride)
        if self.base_stride != 1:
            coordinates = torch.cat([coordinates[:, :1], coordinates[:, 1:] // self.base_stride], 1)
        low, high = (torch.stack([coordinates.amin(0), coordinates.amax(0)])).tolist()
        self.batch_size = checked_batch_size(low[0], high[0], batch_size)
        if self.batch_size > 2**BATCH_BITS:
            raise UserError(f"a sparse batch holds at most {2**BATCH_BITS} clouds, not {self.batch_size}")
        origin = [value >> MAX_LEVEL << MAX_LEVEL for value in low[1:]]
        if any(top - base >= 2**AXIS_BITS for top, base in zip(high[1:], origin, strict=True)):
            raise UserError(
                f"voxel indices {low[1:]}..{high[1:]} leave the window of {2**AXIS_BITS} voxels per axis; "
                "use a larger quantisation size or shift the clouds towards the origin"
            )
        self.origin = torch.tensor(origin, device=coordinates.device)
        return coordinates[:, 0], coordinates[:, 1:] - self.origin

    def __getstate__(self) -> dict[str, Any]:
        return state_of(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore(self, state)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "CoordinateManager":
        """The levels and kernel maps built so far, on another device (one copy)."""
        state = state_of(self)
        if non_blocking and torch.device(device).type == "cuda":
            state["buffer"] = state["buffer"].pin_memory()
        moved = type(self).__new__(type(self))
        moved.__setstate__({**state, "buffer": state["buffer"].to(device, non_blocking=non_blocking)})
        return moved

    def level(self, number: int) -> Level:
        """The voxels at stride ``base_stride * 2**number``."""
        if number > MAX_LEVEL:
            raise UserError(
                f"stride {self.base_stride * 2**number} exceeds the largest, {self.base_stride * 2**MAX_LEVEL}"
            )
        while len(self._levels) <= number:
            self._levels.append(self._levels[-1].coarser())
        return self._levels[number]

    def coordinates(self, number: int) -> torch.Tensor:
        """int32 ``[N, 4]`` (batch, x, y, z) of a level in canonical order, in units of the finest voxel."""
        level = self.level(number)
        position = ((level.grid << number) + self.origin) * self.base_stride
        return torch.cat([level.batch[:, None], position], 1).to(torch.int32)

    def segments(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """First row ``[B]`` and number of rows ``[B]`` of every batch element at a level; empty ones have 0 rows."""
        if number not in self._segments:
            level = self.level(number)
            edges = torch.searchsorted(level.batch, torch.arange(self.batch_size + 1, device=level.batch.device))
            self._segments[number] = (edges[:-1], edges[1:] - edges[:-1])
        return self._segments[number]

    def neighbours(self, number: int, reach: int) -> Neighbours:
        """All pairs of voxels of a level that differ by at most ``reach`` grid steps per axis."""
        key = (number, reach)
        if key not in self._neighbours:
            self._neighbours[key] = find_neighbours(self, number, reach)
        return self._neighbours[key]

    def kernel_map(self, number: int, kernel_size: int, stride: int = 1, dilation: int = 1) -> KernelMap:
        """The pairs of a convolution that reads level ``number`` (built once, then shared)."""
        key = (number, kernel_size, stride, dilation)
        if key not in self._maps:
            kernel_map = build_map(self, number, kernel_size, stride, dilation)
            self._maps[key] = replace(kernel_map, workspace=self._workspace)
        return self._maps[key]

    def count(self, number: int) -> int:
        """How many voxels a level has."""
        return len(self.level(number))

    def batch_index(self, number: int) -> torch.Tensor:
        """Batch element of every row of a level, ascending, int64 ``[N]``."""
        return self.level(number).batch

    def counts(self, number: int) -> torch.Tensor:
        """Number of voxels of every batch element at a level, int64 ``[B]``."""
        return self.segments(number)[1]

    def convolution(
        self, features: torch.Tensor, kernel: torch.Tensor, number: int, kernel_size: int, stride: int, dilation: int
    ) -> torch.Tensor:
        """See :class:`Manager`."""
        return sparse_convolution(features, kernel, self.kernel_map(number, kernel_size, stride, dilation))

    def transposed_convolution(
        self, features: torch.Tensor, kernel: torch.Tensor, number: int, kernel_size: int
    ) -> torch.Tensor:
        """See :class:`Manager`."""
        return sparse_convolution(features, kernel, self.kernel_map(number - 1, kernel_size, 2).reverse)

    def sum_rows(self, features: torch.Tensor, number: int) -> torch.Tensor:
        """Sums over consecutive rows; on the CPU pairwise within an element, as precise as a plain ``sum(0)``."""
        if features.device.type != "cpu":
            return super().sum_rows(features, number)
        counts = self.counts(number)
        out = features.new_zeros(len(counts), features.shape[1])
        for element, rows in enumerate(features.split(counts.tolist())):
            torch.sum(rows, 0, out=out[element])
        return out

    def scale_rows(self, features: torch.Tensor, factors: torch.Tensor, number: int) -> torch.Tensor:
        """See :class:`Manager`; on the CPU without copying the factors to every voxel."""
        if features.device.type != "cpu":
            return super().scale_rows(features, factors, number)
        out = torch.empty_like(features)
        counts = self.counts(number).tolist()
        for row, here, there in zip(factors, features.split(counts), out.split(counts), strict=True):
            torch.mul(here, row, out=there)
        return out

    def scratch(self, like: torch.Tensor) -> torch.Tensor:
        """See :class:`Manager`: the workspace of the convolutions."""
        return self._workspace.take(like.shape[0], like.shape[1], like)
