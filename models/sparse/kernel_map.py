"""Kernel maps: which input voxel meets which output voxel under which kernel offset."""

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.models.sparse.levels import Level
from distilplace.models.sparse.neighbours import MAX_REACH, Neighbours, expand


def kernel_offsets(kernel_size: int) -> Tensor:
    """Offsets int64 ``[K, 3]`` in kernel order, x fastest, z slowest: -r..r for odd sizes, 0..1 for size 2."""
    first = -(kernel_size // 2) if kernel_size % 2 else 0
    steps = torch.arange(first, first + kernel_size)
    return torch.cartesian_prod(steps, steps, steps).flip(1)


@dataclass(frozen=True)
class Gathering:
    """For each row of a result, which rows of a table are summed: a bag of ``index`` from ``starts`` on (int32)."""

    index: Tensor
    starts: Tensor


class Workspace:
    """Memory for the products of one layer at a time, shared by the maps of a batch.

    Fresh memory of that size is handed back to the system by every layer, and page by page asked for again.
    """

    def __init__(self) -> None:
        self._memory: Tensor | None = None

    def take(self, rows: int, columns: int, like: Tensor) -> Tensor:
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
    in_rows: Tensor
    out_rows: Tensor
    n_in: int
    n_out: int
    centre: int | None = None
    workspace: Workspace = field(default_factory=Workspace)

    @cached_property
    def by_offset(self) -> tuple[tuple[int, Tensor, Tensor], ...]:
        """(offset, in_rows of its pairs, out_rows of its pairs) of the offsets that have any."""
        parts = zip(self.in_rows.split(self.sizes), self.out_rows.split(self.sizes), strict=True)
        return tuple((k, *rows) for k, rows in enumerate(parts) if self.sizes[k])

    @cached_property
    def by_out(self) -> Gathering:
        """Which pairs end in each output row."""
        return _gathering(self.out_rows, self.n_out)

    @cached_property
    def offset_of_pair(self) -> Tensor:
        """Kernel offset of every pair, int32 ``[P]``."""
        sizes = torch.tensor(self.sizes, device=self.in_rows.device)
        return torch.repeat_interleave(sizes, output_size=len(self.in_rows)).to(torch.int32)

    @cached_property
    def offsets_by_out(self) -> Tensor:
        """``offset_of_pair`` in the order of ``by_out.index``."""
        return self.offset_of_pair.index_select(0, self.by_out.index)

    @cached_property
    def in_rows_by_out(self) -> Tensor:
        """``in_rows`` in the order of ``by_out.index``."""
        return self.in_rows.index_select(0, self.by_out.index)

    @cached_property
    def reverse(self) -> "KernelMap":
        """The same pairs read from output to input: the map of the transposed convolution and of the gradient."""
        swapped = {"in_rows": self.out_rows, "out_rows": self.in_rows, "n_in": self.n_out, "n_out": self.n_in}
        return replace(self, **swapped)  # type: ignore[arg-type]


def reach_of(kernel_size: int, stride: int, dilation: int) -> int:
    """How many voxels a kernel reaches to either side, 0 for size 2.

    Raises:
        UserError: a kernel for which no map can be built.

    """
    if kernel_size == 2 and stride == 2 and dilation == 1:
        return 0
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
    return reach


def same_map(level: Level, near: Neighbours, kernel_size: int, dilation: int) -> KernelMap:
    """Odd kernel, stride 1: from a level onto itself. ``near``: the pairs of its voxels within the kernel's reach.

    out[u] = sum_k in[u + offset_k * dilation * s] W_k with s the level's stride.
    """
    volume, count = kernel_size**3, len(level)
    pairs = near.both_ways(reach_of(kernel_size, 1, dilation))
    return group(*pairs, _kernel_index(kernel_size, dilation), (volume, count, count), centre=volume // 2)


def pooling_map(fine: Level, coarse: Level) -> KernelMap:
    """Kernel 2, stride 2: every voxel goes to its parent, under the offset of its place among the eight."""
    rows = torch.arange(len(fine), dtype=torch.int32, device=fine.keys.device)
    return group(fine.parent, rows, fine.slot, torch.arange(8), (8, len(fine), len(coarse)))


def strided_map(fine: Level, coarse: Level, near: Neighbours, kernel_size: int, dilation: int) -> KernelMap:
    """Odd kernel, stride 2, centred on the coarse voxel's corner: the sum of :func:`same_map` at the coarse voxels.

    ``near``: the pairs of coarse voxels at most (reach + 1) // 2 steps apart.
    """
    reach = reach_of(kernel_size, 2, dilation)
    shape = (kernel_size**3, len(fine), len(coarse))
    return group(*_strided_pairs(fine, coarse, near, reach), _kernel_index(kernel_size, dilation), shape)


def _strided_pairs(fine: Level, coarse: Level, near: Neighbours, reach: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs (coarse voxel, fine voxel, code)."""
    itself = torch.arange(len(coarse), dtype=torch.int32, device=coarse.keys.device)
    rows, cols, _ = near.both_ways((reach + 1) // 2)
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
def _kernel_index(kernel_size: int, dilation: int) -> Tensor:
    """Kernel index of each code of the window that a dilated kernel spans, -1 between its taps."""
    reach = kernel_size // 2 * dilation
    index = torch.full((2 * reach + 1,) * 3, -1)
    index[::dilation, ::dilation, ::dilation] = torch.arange(kernel_size**3).reshape((kernel_size,) * 3)
    return index.reshape(-1)


def group(
    out_rows: Tensor,
    in_rows: Tensor,
    codes: Tensor,
    index: Tensor,
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
    rows: Tensor, cols: Tensor, codes: Tensor, index: Tensor, volume: int
) -> tuple[tuple[int, ...], Tensor, Tensor]:
    """:func:`by_offset_vectorised` as a counting sort, on the CPU."""
    from distilplace.models.sparse import compiled

    arrays = (rows.numpy(), cols.numpy(), codes.numpy(), index.numpy())
    sizes, out_rows, in_rows = compiled.by_offset(*arrays, volume)
    return tuple(sizes.tolist()), torch.from_numpy(out_rows), torch.from_numpy(in_rows)


def by_offset_vectorised(
    rows: Tensor, cols: Tensor, codes: Tensor, index: Tensor, volume: int
) -> tuple[tuple[int, ...], Tensor, Tensor]:
    """Pairs per offset, and both rows of the pairs grouped by offset (a sort of small integers, hence int16)."""
    offsets = index.to(codes.device).index_select(0, codes)
    kept = (offsets >= 0).nonzero().squeeze(1)
    offsets, order = offsets.index_select(0, kept).to(torch.int16).sort(stable=True)
    kept = kept.index_select(0, order)
    sizes = tuple(torch.bincount(offsets, minlength=volume).tolist())
    return sizes, rows.index_select(0, kept).to(torch.int32), cols.index_select(0, kept).to(torch.int32)


def _gathering(rows: Tensor, count: int) -> Gathering:
    """For each of ``count`` rows the positions at which it stands in ``rows``."""
    if rows.device.type == "cpu":
        from distilplace.models.sparse import compiled

        return Gathering(*map(torch.from_numpy, compiled.bags(rows.numpy(), count)))
    order = rows.sort(stable=True).indices
    counts = torch.bincount(rows, minlength=count)
    return Gathering(order.to(torch.int32), (counts.cumsum(0) - counts).to(torch.int32))
