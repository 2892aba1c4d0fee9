"""Which voxels lie near which: found coarse to fine, so that the cost is that of the pairs which exist.

Two voxels at most r steps apart have parents at most (r + 1) // 2 steps apart. So the pairs of a level are among the
children of the pairs of the next coarser level; only a small top level is searched by key. For 30 000 voxels this
replaces 3.75 million key searches of a 5^3 kernel by about 200 000 table look-ups. On the CPU the loops are compiled
(:mod:`distilplace.models.sparse.compiled`); on other devices they are tensor operations.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from distilplace.models.sparse.levels import Level, morton_keys

SEARCH_BELOW = 256  # levels of at most so many voxels are searched directly
MAX_REACH = 15  # (2 * 15 + 1)^3 codes fit in int16


@dataclass(frozen=True)
class Neighbours:
    """Pairs (a, b), a < b, of voxels of one level; the pairs (b, a) and (a, a) are implied.

    ``rows``, ``cols`` int32 [P]: a and b; ``codes`` int32 [P]: (dx + r) + w (dy + r) + w^2 (dz + r) of b - a with
    w = 2r + 1 (x fastest).
    """

    rows: Tensor
    cols: Tensor
    codes: Tensor

    def both_ways(self, reach: int) -> tuple[Tensor, Tensor, Tensor]:
        """(a, b, code) of all pairs of different voxels."""
        last = (2 * reach + 1) ** 3 - 1
        rows, cols = torch.cat([self.rows, self.cols]), torch.cat([self.cols, self.rows])
        return rows, cols, torch.cat([self.codes, last - self.codes])


def expand(counts: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Concatenated ranges ``starts[i] .. starts[i] + counts[i]``: (i of each entry ``[T]``, entry ``[T]``)."""
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    owner = torch.repeat_interleave(counts, output_size=total)
    return owner, torch.arange(total, device=counts.device) + (starts - ends + counts).index_select(0, owner)


def is_searched(level: Level, reach: int) -> bool:
    """Whether a level's pairs are looked up directly, by :func:`search`, and not made from the coarser level's."""
    return reach == 0 or len(level) <= SEARCH_BELOW or level.axis_bits == 1


def search(level: Level, reach: int) -> Neighbours:
    """All pairs of a level at most ``reach`` grid steps apart per axis, each neighbour looked up by its key."""
    if reach == 0:
        none = torch.empty(0, dtype=torch.int32, device=level.keys.device)
        return Neighbours(none, none, none)
    return search_compiled(level, reach) if level.keys.device.type == "cpu" else search_vectorised(level, reach)


def refine(level: Level, above: Level, coarse: Neighbours, reach: int) -> Neighbours:
    """The same, from the pairs ``coarse`` of the next coarser level ``above`` at most (reach + 1) // 2 steps apart."""
    chosen = refine_compiled if level.keys.device.type == "cpu" else refine_vectorised
    return chosen(level, above, coarse, reach)


def search_compiled(level: Level, reach: int) -> Neighbours:
    """:func:`search_vectorised` as one compiled loop, on the CPU."""
    from distilplace.models.sparse import compiled

    keys, batch, grid = (each.numpy() for each in (level.keys, level.batch, level.grid))
    return Neighbours(*map(torch.from_numpy, compiled.search(keys, batch, grid, level.axis_bits, reach)))


def search_vectorised(level: Level, reach: int) -> Neighbours:
    """The plain way: look every neighbour's key up among the sorted keys, (2r + 1)^3 searches per voxel."""
    device, count = level.keys.device, len(level)
    steps = torch.arange(-reach, reach + 1, device=device)
    offsets = torch.cartesian_prod(steps, steps, steps).flip(1)  # x fastest
    places = level.grid[:, None] + offsets  # [N, W, 3]
    inside = ((places >= 0) & (places < 2**level.axis_bits)).all(2)
    wanted = morton_keys(level.batch[:, None], places.clamp(0, 2**level.axis_bits - 1), level.axis_bits)
    found = torch.searchsorted(level.keys, wanted).clamp_(max=max(count - 1, 0))
    hits = inside & (level.keys[found] == wanted) & (wanted > level.keys[:, None]) if count else inside
    rows, codes = hits.nonzero(as_tuple=True)
    return Neighbours(*(each.to(torch.int32) for each in (rows, found[rows, codes], codes)))


def refine_compiled(level: Level, above: Level, coarse: Neighbours, reach: int) -> Neighbours:
    """:func:`refine_vectorised` as one compiled loop, on the CPU."""
    from distilplace.models.sparse import compiled

    children = (above.child_starts.numpy(), above.child_counts.numpy())
    pairs = (coarse.rows.numpy(), coarse.cols.numpy(), coarse.codes.numpy())
    found = compiled.refine(level.keys.numpy(), children, pairs, nearness(reach).numpy())
    return Neighbours(*map(torch.from_numpy, found))


def refine_vectorised(level: Level, above: Level, coarse: Neighbours, reach: int) -> Neighbours:
    """Pairs of a level from those of the next coarser one: children x children, kept where near enough."""
    everyone = torch.arange(len(above), dtype=torch.int32, device=level.keys.device)
    parents, beside = torch.cat([everyone, coarse.rows]), torch.cat([everyone, coarse.cols])
    centre = (2 * ((reach + 1) // 2) + 1) ** 3 // 2
    codes = torch.cat([torch.full_like(everyone, centre), coarse.codes])
    # one entry per (child a of a pair's first voxel), then per (that, child b of its second)
    pair, a = expand(above.child_counts.index_select(0, parents), above.child_starts.index_select(0, parents))
    parent = beside.index_select(0, pair)
    entry, b = expand(above.child_counts.index_select(0, parent), above.child_starts.index_select(0, parent))
    place = codes.index_select(0, pair) * 8 + level.slot.index_select(0, a)
    a = a.index_select(0, entry)
    code = place.index_select(0, entry) * 8 + level.slot.index_select(0, b)
    code = nearness(reach).to(code.device).index_select(0, code)
    kept = ((code >= 0) & (a < b)).nonzero().squeeze(1)
    return Neighbours(*(each.index_select(0, kept).to(torch.int32) for each in (a, b, code)))


@lru_cache(maxsize=32)
def nearness(reach: int) -> Tensor:
    """For (coarse offset D, slot of a, slot of b): the code of 2D + b - a, or -1 beyond reach.

    int32 ``[W * 64]`` with W the number of coarse offsets.
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
    return torch.where(near, code, -1).reshape(-1).to(torch.int32)
