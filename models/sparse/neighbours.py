"""Which voxels lie near which: found coarse to fine, so that the cost is that of the pairs which exist.

Two voxels at most r steps apart have parents at most (r + 1) // 2 steps apart. So the pairs of a level are among the
children of the pairs of the next coarser level; only a small top level (a thousand voxels) is searched by key.
For 30 000 voxels this replaces 3.75 million key searches of a 5^3 kernel by about 200 000 table look-ups.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from models.sparse.coordinates import CoordinateManager, Level

SEARCH_BELOW = 1024  # levels of at most so many voxels are searched directly
MAX_REACH = 15  # (2 * 15 + 1)^3 codes fit in int16


@dataclass(frozen=True)
class Neighbours:
    """Pairs (a, b) of voxels of one level, ordered by a. Every voxel is its own neighbour.

    ``rows`` int64 [P]: a; ``cols`` int64 [P]: b; ``codes`` int64 [P]: (dx + r) + w (dy + r) + w^2 (dz + r) of
    b - a with w = 2r + 1 (x fastest); ``starts``, ``counts`` int64 [N]: the pairs of each a.
    """

    rows: torch.Tensor
    cols: torch.Tensor
    codes: torch.Tensor
    starts: torch.Tensor
    counts: torch.Tensor


def expand(counts: torch.Tensor, starts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Concatenated ranges ``starts[i] .. starts[i] + counts[i]``: (i of each entry ``[T]``, entry ``[T]``)."""
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    owner = torch.repeat_interleave(counts, output_size=total)
    return owner, torch.arange(total, device=counts.device) + (starts - ends + counts).index_select(0, owner)


def find_neighbours(manager: "CoordinateManager", number: int, reach: int) -> Neighbours:
    """All pairs of level ``number`` at most ``reach`` grid steps apart per axis."""
    from models.sparse.coordinates import MAX_LEVEL

    level = manager.level(number)
    if reach == 0:
        rows = torch.arange(len(level), device=level.keys.device)
        return Neighbours(rows, rows, torch.zeros_like(rows), rows, torch.ones_like(rows))
    if len(level) <= SEARCH_BELOW or number == MAX_LEVEL:
        return search_neighbours(level, reach)
    coarse = manager.neighbours(number + 1, (reach + 1) // 2)
    return _refine(level, manager.level(number + 1), coarse, reach)


def search_neighbours(level: "Level", reach: int) -> Neighbours:
    """The plain way: look every neighbour's key up among the sorted keys, (2r + 1)^3 searches per voxel."""
    from models.sparse.coordinates import morton_keys

    device, count = level.keys.device, len(level)
    steps = torch.arange(-reach, reach + 1, device=device)
    offsets = torch.cartesian_prod(steps, steps, steps).flip(1)  # x fastest
    places = level.grid[:, None] + offsets  # [N, W, 3]
    inside = ((places >= 0) & (places < 2**level.axis_bits)).all(2)
    wanted = morton_keys(level.batch[:, None], places.clamp(0, 2**level.axis_bits - 1), level.axis_bits)
    found = torch.searchsorted(level.keys, wanted).clamp_(max=max(count - 1, 0))
    hits = (inside & (level.keys[found] == wanted)) if count else inside
    rows, codes = hits.nonzero(as_tuple=True)
    return _grouped(rows, found[rows, codes], codes, count)


def _refine(level: "Level", above: "Level", coarse: Neighbours, reach: int) -> Neighbours:
    """Pairs of a level from those of the next coarser one: children x children, kept where near enough."""
    device = level.keys.device
    nearness, reachable = (table.to(device) for table in _tables(reach))
    # one entry per (voxel a, pair of its parent)
    a, pair = expand(coarse.counts.index_select(0, level.parent), coarse.starts.index_select(0, level.parent))
    place = coarse.codes.index_select(0, pair) * 8 + level.slot.index_select(0, a)
    if not bool(reachable.all()):
        kept = reachable.index_select(0, place).nonzero().squeeze(1)
        a, pair, place = (each.index_select(0, kept) for each in (a, pair, place))
    # one entry per (that, child b of the paired parent)
    parent = coarse.cols.index_select(0, pair)
    entry, b = expand(above.child_counts.index_select(0, parent), above.child_starts.index_select(0, parent))
    code = nearness.index_select(0, place.index_select(0, entry) * 8 + level.slot.index_select(0, b))
    kept = (code >= 0).nonzero().squeeze(1)
    rows = a.index_select(0, entry.index_select(0, kept))
    return _grouped(rows, b.index_select(0, kept), code.index_select(0, kept), len(level))


def _grouped(rows: torch.Tensor, cols: torch.Tensor, codes: torch.Tensor, count: int) -> Neighbours:
    counts = torch.bincount(rows, minlength=count)
    return Neighbours(rows, cols, codes, counts.cumsum(0) - counts, counts)


@lru_cache(maxsize=32)
def _tables(reach: int) -> tuple[torch.Tensor, torch.Tensor]:
    """For (coarse offset D, slot of a, slot of b): the code of 2D + b - a, or -1 beyond reach; and whether any b fits.

    int64 ``[W * 64]`` and bool ``[W * 8]`` with W the number of coarse offsets.
    """
    coarse_reach, width = (reach + 1) // 2, 2 * reach + 1
    steps = torch.arange(-coarse_reach, coarse_reach + 1)
    offsets = torch.cartesian_prod(steps, steps, steps).flip(1)
    bits = torch.arange(2)
    slots = torch.cartesian_prod(bits, bits, bits).flip(1)
    difference = 2 * offsets[:, None, None] + slots[None, None, :] - slots[None, :, None]  # [W, a, b, 3]
    near = (difference.abs() <= reach).all(3)
    shifted = difference + reach
    code = shifted[..., 0] + width * (shifted[..., 1] + width * shifted[..., 2])
    return torch.where(near, code, -1).reshape(-1), near.any(2).reshape(-1)
