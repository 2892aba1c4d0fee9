"""Sequence matching by sums along diagonals, the reference that the filter is measured against.

Source: Milford and Wyeth, SeqSLAM, ICRA 2012: for every place, the distances of the last L images to the places
before it are summed along straight lines of several speeds; the line with the smallest sum counts. Each image's
distances can be normalised within a window of the map first (contrast enhancement).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPEEDS = (0.5, 0.75, 1.0, 1.5, 2.0)


def diagonal_scores(
    distances: NDArray[Any], run_lengths: Sequence[int], speeds: Sequence[float] = SPEEDS, window: int | None = None
) -> NDArray[np.float64]:
    """For each place, the smallest mean distance along a line that ends there: float64 ``[n]``.

    ``distances`` ``[L, n]``: of the last L images, oldest first, to the places, which lie run after run in order of
    time (``run_lengths`` sum to n). A line that would leave its run stays at the run's first place. ``window``:
    places on both sides over which contrast is enhanced; None: distances as they are (better for short sequences).
    """
    table = np.asarray(distances, dtype=np.float64)
    length, count = table.shape
    if sum(run_lengths) != count:
        raise ValueError(f"runs of {sum(run_lengths)} places for {count} columns")
    if window is not None:
        table = enhanced(table, run_lengths, window)
    ends = np.arange(count)
    starts = np.repeat(np.cumsum([0, *run_lengths[:-1]]), run_lengths)
    ago = np.arange(length - 1, -1, -1)
    best = np.full(count, np.inf)
    for speed in speeds:
        columns = np.maximum(ends[None, :] - np.rint(speed * ago).astype(np.int64)[:, None], starts[None, :])
        best = np.minimum(best, np.take_along_axis(table, columns, axis=1).mean(axis=0))
    return best


def enhanced(table: NDArray[np.float64], run_lengths: Sequence[int], window: int) -> NDArray[np.float64]:
    """Every distance less the mean, over the deviation, of ``window`` places on both sides in the same run."""
    found = np.empty_like(table)
    start = 0
    for length in run_lengths:
        part = table[:, start : start + length]
        low = np.maximum(np.arange(length) - window, 0)
        high = np.minimum(np.arange(length) + window + 1, length)
        sums = np.concatenate([np.zeros((len(part), 1)), np.cumsum(part, axis=1)], axis=1)
        squares = np.concatenate([np.zeros((len(part), 1)), np.cumsum(np.square(part), axis=1)], axis=1)
        mean = (sums[:, high] - sums[:, low]) / (high - low)
        variance = (squares[:, high] - squares[:, low]) / (high - low) - np.square(mean)
        found[:, start : start + length] = (part - mean) / np.sqrt(np.maximum(variance, 1e-12))
        start += length
    return found
