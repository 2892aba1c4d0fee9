"""Kernel maps cut into tiles: runs of pairs of one kernel offset, one for each program of a Triton kernel."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from distilplace.models.sparse.kernel_map import KernelMap


@dataclass(frozen=True)
class TiledMap:
    """A kernel map and its tile tables, each made once.

    A table is int32 ``[T, 3]``: kernel offset, first pair, last pair + 1. Read backwards, the map has the same tiles.
    """

    pairs: KernelMap
    _tables: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    @property
    def single(self) -> bool:
        """Whether every input row is in exactly one pair: the 2^3 stride-2 map, which alone has eight offsets."""
        return len(self.pairs.sizes) == 8

    def tiles(self, block: int) -> Tensor:
        """The table of all pairs, at most ``block`` to a tile."""
        return self._table("pairs", self.pairs.sizes, block)

    def centre_tiles(self, block: int) -> Tensor:
        """The same of the centre, whose pairs (row, row) are not listed: "pair" here means row."""
        return self._table("centre", self._centre_sizes(), block)

    def gradient_tiles(self, block: int) -> Tensor:
        """Pairs and centre in one table."""
        if self.pairs.centre is None:
            return self.tiles(block)
        key = ("both", block)
        if key not in self._tables:
            self._tables[key] = torch.cat([self.centre_tiles(block), self.tiles(block)])
        return self._tables[key]

    def _centre_sizes(self) -> tuple[int, ...]:
        return tuple(self.pairs.n_in if k == self.pairs.centre else 0 for k in range(len(self.pairs.sizes)))

    def _table(self, kind: str, sizes: tuple[int, ...], block: int) -> Tensor:
        if (kind, block) not in self._tables:
            self._tables[kind, block] = tile_table(sizes, block, self.pairs.in_rows.device)
        return self._tables[kind, block]


def tile_table(sizes: tuple[int, ...], block: int, device: torch.device) -> Tensor:
    """Tiles int32 ``[T, 3]`` (offset, first, last + 1) of ``sizes[k]`` consecutive pairs per offset k."""
    pairs = torch.tensor(sizes, dtype=torch.int64)
    ends = pairs.cumsum(0)
    tiles = (pairs + block - 1) // block
    offset = torch.repeat_interleave(tiles)
    place = torch.arange(len(offset)) - (tiles.cumsum(0) - tiles)[offset]
    first = (ends - pairs)[offset] + place * block
    table = torch.stack([offset, first, torch.minimum(first + block, ends[offset])], 1).to(torch.int32)
    if device.type == "cuda":  # from pinned memory the copy does not wait for the GPU
        return table.pin_memory().to(device, non_blocking=True)
    return table.to(device)
