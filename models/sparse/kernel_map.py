"""Kernel maps: which input voxel meets which output voxel under which kernel offset."""

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import torch

from distilplace.common.errors import UserError
from distilplace.models.sparse.neighbours import MAX_REACH, expand

if TYPE_CHECKING:
    from distilplace.models.sparse.coordinates import CoordinateManager


def kernel_offsets(kernel_size: int) -> torch.Tensor:
    """Offsets int64 ``[K, 3]`` in kernel order, x fastest, z slowest: -r..r for odd sizes, 0..1 for size 2."""
    first = -(kernel_size // 2) if kernel_size % 2 else 0
    steps = torch.arange(first, first + kernel_size)
    return torch.cartesian_prod(steps, steps, steps).flip(1)


@dataclass(frozen=True)
class Gathering:
    """For each row of a result, which rows of a table are summed: a bag of ``index`` from ``starts`` on (int32)."""

    index: torch.Tensor
    starts: torch.Tensor


class Workspace:
    """Memory for the products of one layer at a time, shared by the maps of a batch.

    Fresh memory of that size is handed back to the system by every layer, and page by page asked for again.
    """

    def __init__(self) -> None:
        self._memory: torch.Tensor | None = None

    def take(self, rows: int, columns: int, like: torch.Tensor) -> torch.Tensor:
        """``[rows, columns]`` in the type and on the device of ``like``; holds until the next call."""
        memory, wanted = self._memory, rows * columns
        if memory is None or len(memory) < wanted or memory.dtype != like.dtype or memory.device != like.device:
            memory = self._memory = like.new_empty(wanted)
        return memory[:wanted].view(rows, columns)


@dataclass(frozen=True)
class KernelMap:
    """All pairs of one convolution, grouped by kernel offset; memory is linear in the pairs.

    ``sizes[k]`` pairs belong to offset k; ``in_rows``, ``out_rows`` int32 [P] follow in that order; within an
    offset no row occurs twice in either. With ``centre`` set, that offset maps every voxel to
    itself and is left out of the pairs.
    """

    sizes: tuple[int, ...]
    in_rows: torch.Tensor
    out_rows: torch.Tensor
    n_in: int
    n_out: int
    centre: int | None = None
    workspace: Workspace = field(default_factory=Workspace)

    @cached_property
    def by_offset(self) -> tuple[tuple[int, torch.Tensor, torch.Tensor], ...]:
        """(offset, in_rows of its pairs, out_rows of its pairs) of the offsets that have any."""
        parts = zip(self.in_rows.split(self.sizes), self.out_rows.split(self.sizes), strict=True)
        return tuple((k, *rows) for k, rows in enumerate(parts) if self.sizes[k])

    @cached_property
    def by_out(self) -> Gathering:
        """Which pairs end in each output row."""
        return _gathering(self.out_rows, self.n_out)

    @cached_property
    def offset_of_pair(self) -> torch.Tensor:
        """Kernel offset of every pair, int32 ``[P]``."""
        sizes = torch.tensor(self.sizes, device=self.in_rows.device)
        return torch.repeat_interleave(sizes, output_size=len(self.in_rows)).to(torch.int32)

    @cached_property
    def offsets_by_out(self) -> torch.Tensor:
        """``offset_of_pair`` in the order of ``by_out.index``."""
        return self.offset_of_pair.index_select(0, self.by_out.index)

    @cached_property
    def in_rows_by_out(self) -> torch.Tensor:
        """``in_rows`` in the order of ``by_out.index``."""
        return self.in_rows.index_select(0, self.by_out.index)

    @cached_property
    def reverse(self) -> "KernelMap":
        """The same pairs read from output to input: the map of the transposed convolution and of the gradient."""
        swapped = {"in_rows": self.out_rows, "out_rows": self.in_rows, "n_in": self.n_out, "n_out": self.n_in}
        return replace(self, **swapped)  # type: ignore[arg-type]


def build_map(manager: "CoordinateManager", number: int, kernel_size: int, stride: int, dilation: int) -> KernelMap:
    """The map of a convolution that reads level ``number`` and writes it (stride 1) or the next (stride 2).

    out[u] = sum_k in[u + offset_k * dilation * s_in] W_k with s_in the input's stride.
    """
    if kernel_size == 2 and stride == 2 and dilation == 1:
        return _pooling_map(manager, number)
    if kernel_size % 2 == 0 or kernel_size < 1 or stride not in (1, 2) or dilation < 1:
        raise UserError(
            f"sparse convolution: kernel {kernel_size}, stride {stride}, dilation {dilation} is not supported; "
            "kernels are odd with stride 1 or 2, or 2 with stride 2"
        )
    reach = kernel_size // 2 * dilation
    if reach > MAX_REACH:
        raise UserError(
            f"sparse convolution: kernel {kernel_size} with dilation {dilation} reaches beyond {MAX_REACH} voxels"
        )
    volume = kernel_size**3
    index = _kernel_index(kernel_size, dilation)
    n_in = len(manager.level(number))
    if stride == 1:
        pairs = manager.neighbours(number, reach).both_ways(reach)
        return group(*pairs, index, (volume, n_in, n_in), centre=volume // 2)
    return group(*_strided_pairs(manager, number, reach), index, (volume, n_in, len(manager.level(number + 1))))


def _pooling_map(manager: "CoordinateManager", number: int) -> KernelMap:
    """Kernel 2, stride 2: every voxel goes to its parent, under the offset of its place among the eight."""
    fine, coarse = manager.level(number), manager.level(number + 1)
    rows = torch.arange(len(fine), dtype=torch.int32, device=fine.keys.device)
    return group(fine.parent, rows, fine.slot, torch.arange(8), (8, len(fine), len(coarse)))


def _strided_pairs(
    manager: "CoordinateManager", number: int, reach: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pairs (coarse voxel, fine voxel, code) of an odd kernel with stride 2, centred on the coarse voxel's corner."""
    fine, coarse = manager.level(number), manager.level(number + 1)
    itself = torch.arange(len(coarse), dtype=torch.int32, device=coarse.keys.device)
    rows, cols, _ = manager.neighbours(number + 1, (reach + 1) // 2).both_ways((reach + 1) // 2)
    rows, cols = torch.cat([itself, rows]), torch.cat([itself, cols])
    pair, child = expand(coarse.child_counts.index_select(0, cols), coarse.child_starts.index_select(0, cols))
    out_rows = rows.index_select(0, pair)
    step = fine.grid.index_select(0, child) - 2 * coarse.grid.index_select(0, out_rows) + reach
    width = 2 * reach + 1
    kept = ((step >= 0) & (step < width)).all(1).nonzero().squeeze(1)
    step = step.index_select(0, kept)
    codes = step[:, 0] + width * (step[:, 1] + width * step[:, 2])
    return out_rows.index_select(0, kept), child.index_select(0, kept), codes


@lru_cache(maxsize=64)
def _kernel_index(kernel_size: int, dilation: int) -> torch.Tensor:
    """Kernel index of each code of the window that a dilated kernel spans, -1 between its taps."""
    reach = kernel_size // 2 * dilation
    index = torch.full((2 * reach + 1,) * 3, -1)
    index[::dilation, ::dilation, ::dilation] = torch.arange(kernel_size**3).reshape((kernel_size,) * 3)
    return index.reshape(-1)


def group(
    out_rows: torch.Tensor,
    in_rows: torch.Tensor,
    codes: torch.Tensor,
    index: torch.Tensor,
    shape: tuple[int, int, int],
    *,
    centre: int | None = None,
) -> KernelMap:
    """A map of pairs whose kernel offsets are ``index[codes]``; those with negative ones are left out.

    ``shape``: kernel volume, number of input rows, of output rows.
    """
    volume, n_in, n_out = shape
    by_offset = by_offset_compiled if codes.device.type == "cpu" else by_offset_vectorised
    sizes, rows, cols = by_offset(out_rows, in_rows, codes, index, volume)
    return KernelMap(sizes, cols, rows, n_in, n_out, centre)


def by_offset_compiled(
    rows: torch.Tensor, cols: torch.Tensor, codes: torch.Tensor, index: torch.Tensor, volume: int
) -> tuple[tuple[int, ...], torch.Tensor, torch.Tensor]:
    """:func:`by_offset_vectorised` as a counting sort, on the CPU."""
    from distilplace.models.sparse import compiled

    arrays = (rows.numpy(), cols.numpy(), codes.numpy(), index.numpy())
    sizes, out_rows, in_rows = compiled.by_offset(*arrays, volume)
    return tuple(sizes.tolist()), torch.from_numpy(out_rows), torch.from_numpy(in_rows)


def by_offset_vectorised(
    rows: torch.Tensor, cols: torch.Tensor, codes: torch.Tensor, index: torch.Tensor, volume: int
) -> tuple[tuple[int, ...], torch.Tensor, torch.Tensor]:
    """Pairs per offset, and both rows of the pairs grouped by offset (a sort of small integers, hence int16)."""
    offsets = index.to(codes.device).index_select(0, codes)
    kept = (offsets >= 0).nonzero().squeeze(1)
    offsets, order = offsets.index_select(0, kept).to(torch.int16).sort(stable=True)
    kept = kept.index_select(0, order)
    sizes = tuple(torch.bincount(offsets, minlength=volume).tolist())
    return sizes, rows.index_select(0, kept).to(torch.int32), cols.index_select(0, kept).to(torch.int32)


def _gathering(rows: torch.Tensor, count: int) -> Gathering:
    """For each of ``count`` rows the positions at which it stands in ``rows``."""
    if rows.device.type == "cpu":
        from distilplace.models.sparse import compiled

        return Gathering(*map(torch.from_numpy, compiled.bags(rows.numpy(), count)))
    order = rows.sort(stable=True).indices
    counts = torch.bincount(rows, minlength=count)
    return Gathering(order.to(torch.int32), (counts.cumsum(0) - counts).to(torch.int32))
