"""Which places of a map lie within reach of each other: pairs by a grid of cells, without a tree."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

AROUND = [(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]


@dataclass(frozen=True)
class Pairs:
    """Ordered pairs of places at most ``reach`` metres apart, each place with itself included.

    ``source``, ``target``: int32 ``[m]``, sorted by source; ``offset``: float32 ``[m, 2]``, target minus source.
    """

    source: NDArray[np.int32]
    target: NDArray[np.int32]
    offset: NDArray[np.float32]


def pairs_within(positions: NDArray[Any], reach: float) -> Pairs:
    """All pairs of ``positions`` ``[n, 2]`` (metres) within ``reach``."""
    points = np.asarray(positions, dtype=np.float64)
    if not len(points):
        none = np.zeros(0, dtype=np.int32)
        return Pairs(none, none, np.zeros((0, 2), dtype=np.float32))
    cells = np.floor((points - points.min(axis=0)) / max(reach, 1e-9)).astype(np.int64) + 1
    width = cells[:, 1].max() + 2
    codes = cells[:, 0] * width + cells[:, 1]
    order = np.argsort(codes, kind="stable")
    sorted_codes = codes[order]
    found = [_with_cell(points, codes + dx * width + dy, order, sorted_codes, reach) for dx, dy in AROUND]
    source, target = (np.concatenate(part) for part in zip(*found, strict=True))
    by_source = np.lexsort((target, source))
    source, target = source[by_source].astype(np.int32), target[by_source].astype(np.int32)
    return Pairs(source, target, (points[target] - points[source]).astype(np.float32))


def _with_cell(
    points: NDArray[Any], wanted: NDArray[Any], order: NDArray[Any], sorted_codes: NDArray[Any], reach: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Pairs of every place with the places of the cell ``wanted`` of it."""
    first = np.searchsorted(sorted_codes, wanted, side="left")
    counts = np.searchsorted(sorted_codes, wanted, side="right") - first
    source = np.repeat(np.arange(len(points)), counts)
    starts = np.repeat(first - np.concatenate(([0], np.cumsum(counts)[:-1])), counts)
    target = order[starts + np.arange(len(source))]
    near = np.linalg.norm(points[target] - points[source], axis=1) <= reach
    return source[near], target[near]
