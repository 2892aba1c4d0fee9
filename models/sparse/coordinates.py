"""The coordinates of a sparse tensor at every stride, and the kernel maps between them, each built once.

Rows are kept in **canonical order**: by batch element, then along the Morton (Z-order) curve. Along that curve the
eight children of a coarse voxel are neighbours, so that a coarser level is a shift by three bits and a comparison of
neighbours, the kernel index of a 2^3 stride-2 convolution is the last three bits of the key, and gathers stay in cache.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.models.sparse.functional import sparse_convolution
from distilplace.models.sparse.kernel_map import KernelMap, Workspace, pooling_map, reach_of, same_map, strided_map
from distilplace.models.sparse.levels import AXIS_BITS, BATCH_BITS, MAX_LEVEL, Level, voxel_keys
from distilplace.models.sparse.manager import Manager, check_coordinates, check_stride, checked_batch_size
from distilplace.models.sparse.neighbours import Neighbours, is_searched, refine, search
from distilplace.models.sparse.transport import flatten, unflatten


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

    def __init__(self, coordinates: Tensor, *, base_stride: int = 1, batch_size: int | None = None) -> None:
        check_coordinates(coordinates)
        self.base_stride = base_stride
        batch, grid = self._checked(coordinates.to(torch.int64), batch_size)
        keys, rows = voxel_keys(batch, grid).sort(stable=True)
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
        self._segments: dict[int, tuple[Tensor, Tensor]] = {}

    def _checked(self, coordinates: Tensor, batch_size: int | None) -> tuple[Tensor, Tensor]:
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
        """Levels, segments and kernel maps built so far; neighbours, which only serve to build maps, stay behind."""
        tensors = [self.rows, self.origin]
        for number, level in enumerate(self._levels):
            tensors += [level.keys, level.batch, level.grid, level.child_starts, level.child_counts]
            tensors += self.segments(number)
        for each in self._maps.values():
            tensors += [each.in_rows, each.out_rows]
        buffer, layout = flatten([each.cpu() for each in tensors])
        return {
            "scalars": (self.base_stride, self.batch_size, [level.axis_bits for level in self._levels]),
            "maps": {key: (each.sizes, each.n_in, each.n_out, each.centre) for key, each in self._maps.items()},
            "buffer": buffer,
            "layout": layout,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Fill an empty manager, on the device of the state's buffer."""
        tensors = iter(unflatten(state["buffer"], state["layout"]))
        self.base_stride, self.batch_size, axis_bits = state["scalars"]
        self.rows, self.origin = next(tensors), next(tensors)
        self._levels, self._segments, self._neighbours, self._maps = [], {}, {}, {}
        self._workspace = Workspace()
        for number, bits in enumerate(axis_bits):
            keys, batch, grid, starts, counts = (next(tensors) for _ in range(5))
            self._levels.append(Level(keys, batch, grid, bits, starts, counts))
            self._segments[number] = (next(tensors), next(tensors))
        for key, (sizes, n_in, n_out, centre) in state["maps"].items():
            rows = (next(tensors), next(tensors))
            self._maps[key] = KernelMap(sizes, *rows, n_in, n_out, centre, self._workspace)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "CoordinateManager":
        """The levels and kernel maps built so far, on another device (one copy)."""
        state = self.__getstate__()
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

    def coordinates(self, number: int) -> Tensor:
        """int32 ``[N, 4]`` (batch, x, y, z) of a level in canonical order, in units of the finest voxel."""
        level = self.level(number)
        position = ((level.grid << number) + self.origin) * self.base_stride
        return torch.cat([level.batch[:, None], position], 1).to(torch.int32)

    def segments(self, number: int) -> tuple[Tensor, Tensor]:
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
            level = self.level(number)
            if is_searched(level, reach):
                self._neighbours[key] = search(level, reach)
            else:
                coarse = self.neighbours(number + 1, (reach + 1) // 2)
                self._neighbours[key] = refine(level, self.level(number + 1), coarse, reach)
        return self._neighbours[key]

    def kernel_map(self, number: int, kernel_size: int, stride: int = 1, dilation: int = 1) -> KernelMap:
        """The pairs of a convolution that reads level ``number`` (built once, then shared)."""
        key = (number, kernel_size, stride, dilation)
        if key not in self._maps:
            self._maps[key] = replace(self._built_map(*key), workspace=self._workspace)
        return self._maps[key]

    def _built_map(self, number: int, kernel_size: int, stride: int, dilation: int) -> KernelMap:
        reach, level = reach_of(kernel_size, stride, dilation), self.level(number)
        if stride == 1:
            return same_map(level, self.neighbours(number, reach), kernel_size, dilation)
        coarse = self.level(number + 1)
        if kernel_size == 2:
            return pooling_map(level, coarse)
        near = self.neighbours(number + 1, (reach + 1) // 2)
        return strided_map(level, coarse, near, kernel_size, dilation)

    def count(self, number: int) -> int:
        """How many voxels a level has."""
        return len(self.level(number))

    def batch_index(self, number: int) -> Tensor:
        """Batch element of every row of a level, ascending, int64 ``[N]``."""
        return self.level(number).batch

    def counts(self, number: int) -> Tensor:
        """Number of voxels of every batch element at a level, int64 ``[B]``."""
        return self.segments(number)[1]

    def convolution(
        self, features: Tensor, kernel: Tensor, number: int, kernel_size: int, stride: int, dilation: int
    ) -> Tensor:
        """See :class:`Manager`."""
        return sparse_convolution(features, kernel, self.kernel_map(number, kernel_size, stride, dilation))

    def transposed_convolution(self, features: Tensor, kernel: Tensor, number: int, kernel_size: int) -> Tensor:
        """See :class:`Manager`."""
        return sparse_convolution(features, kernel, self.kernel_map(number - 1, kernel_size, 2).reverse)

    def sum_rows(self, features: Tensor, number: int) -> Tensor:
        """Sums over consecutive rows; on the CPU pairwise within an element, as precise as a plain ``sum(0)``."""
        if features.device.type != "cpu":
            return super().sum_rows(features, number)
        counts = self.counts(number)
        out = features.new_zeros(len(counts), features.shape[1])
        for element, rows in enumerate(features.split(counts.tolist())):
            torch.sum(rows, 0, out=out[element])
        return out

    def scale_rows(self, features: Tensor, factors: Tensor, number: int) -> Tensor:
        """See :class:`Manager`; on the CPU without copying the factors to every voxel."""
        if features.device.type != "cpu":
            return super().scale_rows(features, factors, number)
        out = torch.empty_like(features)
        counts = self.counts(number).tolist()
        for row, here, there in zip(factors, features.split(counts), out.split(counts), strict=True):
            torch.mul(here, row, out=there)
        return out

    def scratch(self, like: Tensor) -> Tensor:
        """See :class:`Manager`: the workspace of the convolutions."""
        return self._workspace.take(like.shape[0], like.shape[1], like)
