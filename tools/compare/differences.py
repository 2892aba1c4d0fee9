"""Two groups of runs on the same queries: which queries changed, and how sure the difference of R@1 is.

The interval is a paired bootstrap over places (:mod:`evaluation.retrieval.bootstrap`): a place is drawn with all that
its frames were asked, in every database and by both groups. McNemar's test counts each search as independent evidence,
which they are not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distilplace.evaluation.retrieval.bootstrap import paired_interval
from distilplace.evaluation.retrieval.intervals import Interval
from distilplace.tools.compare.groups import Group
from distilplace.tools.compare.reading import QUESTION


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
    gain = (other.correct() - first.correct())[evaluated]
    pairs = table[evaluated].groupby(QUESTION[:2], sort=False, observed=True).ngroup().to_numpy(dtype=np.int64)
    places = table["place"].to_numpy(dtype=np.int64)
    points, (low, high) = paired_interval(gain, places[evaluated], pairs, int(places.max()) + 1)
    better, worse = int(np.count_nonzero(gain > 0)), int(np.count_nonzero(gain < 0))
    same = len(gain) - better - worse
    return Difference(first.name, other.name, 100 * points, (100 * low, 100 * high), better, worse, same)


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
