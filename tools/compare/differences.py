"""Two groups of runs on the same queries: which queries changed, and how sure the difference of R@1 is.

The interval is a paired bootstrap over places: a place is drawn with all that its frames were asked, in every database
and by both groups. McNemar's test counts each search as independent evidence, which they are not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distilplace.evaluation.retrieval.intervals import RESAMPLES, Interval
from distilplace.tools.compare.groups import Group


@dataclass(frozen=True)
class Difference:
    """``other`` against ``first``: R@1 in points, its 95 % interval over places, and searches that changed.

    ``better``: searches whose first result is correct in more of the runs (of one run each: in it alone).
    """

    first: str
    other: str
    points: float
    interval: Interval
    better: int
    worse: int
    same: int


def difference(first: Group, other: Group) -> Difference:
    """The difference of two groups that were tested by the same queries."""
    table = first.runs[0].first
    evaluated = table["evaluated"].to_numpy(dtype=bool)
    gain = np.where(evaluated, other.correct() - first.correct(), 0.0)
    weights = first.runs[0].weights()
    places = np.unique(table["place"].to_numpy()[evaluated], return_inverse=True)[1]
    better, worse = int(np.count_nonzero(gain > 0)), int(np.count_nonzero(gain < 0))
    return Difference(
        first.name,
        other.name,
        100.0 * float(weights @ gain),
        paired_interval(gain[evaluated], weights[evaluated], places),
        better,
        worse,
        int(evaluated.sum()) - better - worse,
    )


def paired_interval(
    gain: NDArray[np.float64], weights: NDArray[np.float64], places: NDArray[np.int64], seed: int = 0
) -> Interval:
    """95 % percentile bootstrap over places of the weighted mean of ``gain``, in percent.

    Args:
        gain: float64 ``[n]``, per search what the other group has more (-1 to 1).
        weights: float64 ``[n]``, the share of every search in recall.
        places: int64 ``[n]``, the place of every search, from 0 on.
        seed: of the bootstrap's draws.

    """
    count = int(places.max(initial=-1)) + 1
    if not count:
        return 0.0, 0.0
    totals = np.bincount(places, weights * gain, count)
    shares = np.bincount(places, weights, count)
    random = np.random.default_rng(seed)
    means, step = [], max(1, 2_000_000 // count)
    for start in range(0, RESAMPLES, step):
        drawn = random.integers(0, count, (min(step, RESAMPLES - start), count))
        means.append(totals[drawn].sum(axis=1) / shares[drawn].sum(axis=1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return 100.0 * float(low), 100.0 * float(high)


def changed_searches(groups: Sequence[Group]) -> list[tuple[str, ...]]:
    """Rows of searches in which the groups differ: query run, database run, query, then per group what it found.

    That is ``correct``, ``wrong`` or, of several runs, how many are correct: ``2 of 3``. The searches in which most
    differs come first.
    """
    table = groups[0].runs[0].first
    shares = np.stack([group.correct() for group in groups])
    spread = np.where(table["evaluated"].to_numpy(dtype=bool), np.ptp(shares, axis=0), 0.0)
    order = [int(row) for row in np.argsort(-spread, kind="stable") if spread[row] > 0]
    keys = table[["query_run", "database_run", "query_key"]].to_numpy()
    return [(*keys[row], *map(_found, groups, shares[:, row])) for row in order]


def _found(group: Group, share: float) -> str:
    count = len(group.runs)
    return ("correct" if share else "wrong") if count == 1 else f"{round(share * count)} of {count}"
