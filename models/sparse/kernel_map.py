"""Kernel maps: which input voxel meets which output voxel under which kernel offset."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from common.errors import UserError
from models.sparse.neighbours import MAX_REACH, expand

if TYPE_CHECKING:
    from models.sparse.coordinates import CoordinateManager


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


@dataclass(frozen=True)
class KernelMap:
    """All pairs of one convolution, grouped by kernel offset; memory is linear in the pairs.

    ``sizes[k]`` pairs belong to offset k; ``in_rows``, ``out_rows`` int32 [P] follow in that order. ``by_out`` and
    ``by_in`` say which pairs end in (start from) each row. With ``centre`` set, that offset maps every voxel to
    itself and is left out of the pairs. ``mirrored``: the pairs read backwards are those with the offsets reversed.
    """

    sizes: tuple[int, ...]
    in_rows: torch.Tensor
    out_rows: torch.Tensor
    n_in: int
    n_out: int
    by_out: Gathering
    by_in: Gathering | None
    centre: int | None = None
    mirrored: bool = False

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
        by_in = self.by_in or _gathering(self.in_rows, self.n_in)
        return replace(
            self,
            in_rows=self.out_rows,
            out_rows=self.in_rows,
            n_in=self.n_out,
            n_out=self.n_in,
            by_out=by_in,
            by_in=self.by_out,
        )


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
    if stride == 1:
        pairs = manager.neighbours(number, reach)
        out_rows, in_rows, codes = pairs.rows, pairs.cols, pairs.codes
        n_out = len(manager.level(number))
    else:
        out_rows, in_rows, codes = _strided_pairs(manager, number, reach)
        n_out = len(manager.level(number + 1))
    offsets = _kernel_index(kernel_size, dilation).to(codes.device).index_select(0, codes)
    volume = kernel_size**3
    centre = volume // 2 if stride == 1 else None
    wanted = (offsets >= 0) if centre is None else (offsets >= 0) & (offsets != centre)
    kept = wanted.nonzero().squeeze(1)
    out_rows, in_rows, offsets = (each.index_select(0, kept) for each in (out_rows, in_rows, offsets))
    return _grouped_map(
        out_rows, in_rows, offsets, volume, len(manager.level(number)), n_out, centre=centre, mirrored=stride == 1
    )


def _pooling_map(manager: "CoordinateManager", number: int) -> KernelMap:
    """Kernel 2, stride 2: every voxel goes to its parent, under the offset of its place among the eight."""
    fine, coarse = manager.level(number), manager.level(number + 1)
    rows = torch.arange(len(fine), device=fine.keys.device)
    return _grouped_map(fine.parent, rows, fine.slot, 8, len(fine), len(coarse), in_order=True)


def _strided_pairs(
    manager: "CoordinateManager", number: int, reach: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pairs (coarse voxel, fine voxel, code) of an odd kernel with stride 2, centred on the coarse voxel's corner."""
    fine, coarse = manager.level(number), manager.level(number + 1)
    pairs = manager.neighbours(number + 1, (reach + 1) // 2)
    pair, child = expand(
        coarse.child_counts.index_select(0, pairs.cols), coarse.child_starts.index_select(0, pairs.cols)
    )
    out_rows = pairs.rows.index_select(0, pair)
    step = fine.grid.index_select(0, child) - 2 * coarse.grid.index_select(0, out_rows) + reach
    width = 2 * reach + 1
    kept = ((step >= 0) & (step < width)).all(1).nonzero().squeeze(1)
    step = step.index_select(0, kept)
    codes = step[:, 0] + width * (step[:, 1] + width * step[:, 2])
    return out_rows.index_select(0, kept), child.index_select(0, kept), codes


def _kernel_index(kernel_size: int, dilation: int) -> torch.Tensor:
    """Kernel index of each code of the window that a dilated kernel spans, -1 between its taps."""
    reach = kernel_size // 2 * dilation
    index = torch.full((2 * reach + 1,) * 3, -1)
    index[::dilation, ::dilation, ::dilation] = torch.arange(kernel_size**3).reshape((kernel_size,) * 3)
    return index.reshape(-1)


def _grouped_map(
    out_rows: torch.Tensor,
    in_rows: torch.Tensor,
    offsets: torch.Tensor,
    volume: int,
    n_in: int,
    n_out: int,
    *,
    centre: int | None = None,
    mirrored: bool = False,
    in_order: bool = False,
) -> KernelMap:
    """Group pairs, given ascending by output row, by kernel offset (a sort of small integers, hence int16)."""
    _, order = offsets.to(torch.int16).sort(stable=True)
    place = torch.empty(len(order), dtype=torch.int32, device=order.device)
    place[order] = torch.arange(len(order), dtype=torch.int32, device=order.device)
    by_out = Gathering(place, _starts(out_rows, n_out))
    # With every input row in exactly one pair, in order, a bag per input row is that one pair.
    by_in = Gathering(place, torch.arange(n_in, dtype=torch.int32, device=order.device)) if in_order else None
    return KernelMap(
        tuple(torch.bincount(offsets, minlength=volume).tolist()),
        in_rows.index_select(0, order).to(torch.int32),
        out_rows.index_select(0, order).to(torch.int32),
        n_in,
        n_out,
        by_out,
        by_in,
        centre,
        mirrored,
    )


def _starts(rows: torch.Tensor, count: int) -> torch.Tensor:
    counts = torch.bincount(rows, minlength=count)
    return (counts.cumsum(0) - counts).to(torch.int32)


def _gathering(rows: torch.Tensor, count: int) -> Gathering:
    order = rows.sort(stable=True).indices
    return Gathering(order.to(torch.int32), _starts(rows, count))
