"""The integer loops of map building on the CPU, compiled by numba when first used (and cached on disk).

The same results come from tensor operations in ``neighbours.py`` and ``kernel_map.py``, which other devices use; a
loop that touches each pair once is several times faster than a dozen passes over arrays. Arrays are contiguous numpy
views of the tensors; nothing here runs in threads of its own, so data-loader workers may call it.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])
Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]  # rows, cols, codes, all int32


def compiled(function: Function) -> Function:
    """``numba.njit`` with its disk cache, or without where no folder can be written."""
    compiler: Any = numba.njit
    try:
        return cast(Function, compiler(function, nogil=True, cache=True))
    except RuntimeError:
        return cast(Function, compiler(function, nogil=True))


@compiled
def _spread(value: int) -> int:
    """Bit i of a number below 2^21 -> bit 3i."""
    value = (value | (value << 32)) & 0x1F00000000FFFF
    value = (value | (value << 16)) & 0x1F0000FF0000FF
    value = (value | (value << 8)) & 0x100F00F00F00F00F
    value = (value | (value << 4)) & 0x10C30C30C30C30C3
    return (value | (value << 2)) & 0x1249249249249249


@compiled
def morton(batch: np.ndarray, grid: np.ndarray, axis_bits: int) -> np.ndarray:
    """Keys int64 ``[N]`` of batch numbers ``[N]`` and coordinates ``[N, 3]`` in 0 .. 2^axis_bits - 1."""
    keys = np.empty(len(batch), np.int64)
    for i in range(len(batch)):
        key = _spread(grid[i, 0]) | (_spread(grid[i, 1]) << 1) | (_spread(grid[i, 2]) << 2)
        keys[i] = key | (batch[i] << (3 * axis_bits))
    return keys


@compiled
def parents(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of ascending keys: the row of each one's parent (key >> 3), and the first child of each parent (int32)."""
    parent, starts = np.empty(len(keys), np.int32), np.empty(len(keys), np.int32)
    found = -1
    for i in range(len(keys)):
        if i == 0 or (keys[i] >> 3) != (keys[i - 1] >> 3):
            found += 1
            starts[found] = i
        parent[i] = found
    return parent, starts[: found + 1].copy()


@compiled
def search(keys: np.ndarray, batch: np.ndarray, grid: np.ndarray, axis_bits: int, reach: int) -> Pairs:
    """Pairs (a, b), a < b, of voxels at most ``reach`` steps apart: rows, cols, codes; a binary search per offset."""
    width = 2 * reach + 1
    rows, cols, codes = [np.empty(0, np.int32) for _ in range(3)]
    used = 0
    for a in range(len(keys)):
        if used + width**3 > len(rows):
            grown = 2 * len(rows) + width**3
            rows, cols, codes = _resized(rows, grown), _resized(cols, grown), _resized(codes, grown)
        for code in range(width**3):
            x = grid[a, 0] + code % width - reach
            y = grid[a, 1] + code // width % width - reach
            z = grid[a, 2] + code // (width * width) - reach
            if min(x, y, z) >= 0 and max(x, y, z) < (1 << axis_bits):
                key = _spread(x) | (_spread(y) << 1) | (_spread(z) << 2) | (batch[a] << (3 * axis_bits))
                if key > keys[a]:
                    b = a + 1 + np.searchsorted(keys[a + 1 :], key)
                    if b < len(keys) and keys[b] == key:
                        rows[used], cols[used], codes[used] = a, b, code
                        used += 1
    return rows[:used].copy(), cols[:used].copy(), codes[:used].copy()


@compiled
def _resized(values: np.ndarray, size: int) -> np.ndarray:
    grown = np.empty(size, np.int32)
    grown[: len(values)] = values
    return grown


@compiled
def refine(keys: np.ndarray, children: tuple[np.ndarray, np.ndarray], coarse: Pairs, nearness: np.ndarray) -> Pairs:
    """Pairs of a level (as :func:`search` gives them) from those of the next coarser one.

    ``children``: first child and number of children of the coarse voxels; ``nearness`` is the table of
    :func:`distilplace.models.sparse.neighbours.nearness`.
    """
    first, many = children
    above, beside, offsets = coarse
    capacity = 0
    for parent in range(len(first)):
        capacity += many[parent] * (many[parent] - 1) // 2
    for p in range(len(above)):
        capacity += many[above[p]] * many[beside[p]]
    rows, cols, codes = np.empty(capacity, np.int32), np.empty(capacity, np.int32), np.empty(capacity, np.int32)
    used = 0
    centre = (len(nearness) // 64) // 2
    for parent in range(len(first)):
        for a in range(first[parent], first[parent] + many[parent]):
            table = (centre * 8 + (keys[a] & 7)) * 8
            for b in range(a + 1, first[parent] + many[parent]):
                code = nearness[table + (keys[b] & 7)]
                if code >= 0:
                    rows[used], cols[used], codes[used] = a, b, code
                    used += 1
    for p in range(len(above)):
        there = first[beside[p]]
        for a in range(first[above[p]], first[above[p]] + many[above[p]]):
            table = (offsets[p] * 8 + (keys[a] & 7)) * 8
            for b in range(there, there + many[beside[p]]):
                code = nearness[table + (keys[b] & 7)]
                if code >= 0:
                    rows[used], cols[used], codes[used] = a, b, code
                    used += 1
    return rows[:used].copy(), cols[:used].copy(), codes[:used].copy()


@compiled
def by_offset(
    rows: np.ndarray, cols: np.ndarray, codes: np.ndarray, index: np.ndarray, volume: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs grouped by kernel offset ``index[codes]``, negative ones left out: pairs per offset, rows, cols (int32)."""
    sizes, places = np.zeros(volume, np.int64), np.empty(volume, np.int64)
    for p in range(len(codes)):
        k = index[codes[p]]
        if k >= 0:
            sizes[k] += 1
    total = 0
    for k in range(volume):
        places[k] = total
        total += sizes[k]
    new_rows, new_cols = np.empty(total, np.int32), np.empty(total, np.int32)
    for p in range(len(codes)):
        k = index[codes[p]]
        if k >= 0:
            new_rows[places[k]], new_cols[places[k]] = rows[p], cols[p]
            places[k] += 1
    return sizes, new_rows, new_cols


@compiled
def bags(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each of 0 .. count - 1 stands in ``rows``: positions ``[P]`` by value, and the first of each (int32)."""
    starts = np.zeros(count + 1, np.int32)
    for p in range(len(rows)):
        starts[rows[p] + 1] += 1
    for row in range(count):
        starts[row + 1] += starts[row]
    places, index = starts.copy(), np.empty(len(rows), np.int32)
    for p in range(len(rows)):
        index[places[rows[p]]] = p
        places[rows[p]] += 1
    return index, starts[:count].copy()
