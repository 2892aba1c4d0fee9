"""Which database items may answer which query: exclusion and spatial suppression, as a protocol's rules say.

Exclusion takes items out of a query's ranking before anything is counted (KITTI: itself and the frames of the last
30 s). Suppression leaves of every panorama only its best-ranked item (Tokyo 24/7, Arandjelovic et al. 2016): an item
whose better-ranked sibling is no true neighbour is no hit. The ranking is collapsed once; its first N entries are what
collapsing for each N would give.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from distilplace.datasets.records import RankingRules

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]
_NOBODY = np.empty(0, dtype=np.int64)


class Candidates:
    """The items of one database run that may answer each of some queries.

    Args:
        size: items of the database run.
        groups: int64 ``[size]``, the panorama of each item, or None.
        excluded: per query the indices that may not answer it (a range or ints); empty when none are.

    """

    def __init__(
        self, size: int, groups: Indices | None, excluded: Sequence[Sequence[int] | NDArray[Any] | None]
    ) -> None:
        self.size = size
        self.grouped = groups is not None
        self._excluded = excluded
        if groups is None:
            return
        if np.shape(groups) != (size,):
            raise ValueError(f"groups of shape {np.shape(groups)} do not fit a database of {size} items")
        _, self._group = np.unique(groups, return_inverse=True)
        self._order = np.argsort(self._group, kind="stable")  # by panorama, then by index
        self._sizes = np.bincount(self._group)
        self._starts = np.cumsum(self._sizes) - self._sizes

    def excluded(self, row: int) -> Indices:
        """Indices that may not answer query ``row``, rising."""
        entry = self._excluded[row] if self._excluded else None
        if entry is None or len(entry) == 0:
            return _NOBODY
        if isinstance(entry, range):
            indices = np.sort(np.arange(entry.start, entry.stop, entry.step, dtype=np.int64))
        else:
            indices = np.unique(np.asarray(entry, dtype=np.int64))
        if indices[0] < 0 or indices[-1] >= self.size:
            worst = indices[-1] if indices[-1] >= self.size else indices[0]
            raise ValueError(f"query {row} excludes item {worst} of a database of {self.size} items")
        return indices

    def allowed(self, row: int, items: Collection[int]) -> Collection[int]:
        """Those of ``items`` that may answer query ``row``."""
        if len(items) == 0 or not self._excluded:
            return items
        found = np.fromiter(items, dtype=np.int64, count=len(items))
        kept: list[int] = found[~np.isin(found, self.excluded(row))].tolist()
        return kept

    def suppress(self, similarity: Floats, rows: Indices) -> None:
        """Set to minus infinity, in place, what may not answer: ``similarity`` is ``[len(rows), size]``."""
        if self._excluded:
            for line, row in enumerate(rows.tolist()):
                similarity[line, self.excluded(row)] = -np.inf
        if not self.grouped:
            return
        ordered = similarity[:, self._order]
        best = np.maximum.reduceat(ordered, self._starts, axis=1)
        leads = ordered == np.repeat(best, self._sizes, axis=1)
        first = np.minimum.reduceat(np.where(leads, np.arange(self.size), self.size), self._starts, axis=1)
        similarity.fill(-np.inf)
        np.put_along_axis(similarity, self._order[first], best, axis=1)

    def pool(self, row: int) -> int:
        """How many items may answer query ``row`` (suppression aside)."""
        return self.size - len(self.excluded(row))

    def shares(self, row: int, true_items: Indices) -> tuple[NDArray[np.float64], int]:
        """Of every panorama with a true item its share of true ones, and the number of panoramas with any candidate."""
        sizes = self._sizes - np.bincount(self._group[self.excluded(row)], minlength=len(self._sizes))
        true = np.bincount(self._group[true_items], minlength=len(sizes))
        held = np.flatnonzero(true)
        return true[held] / sizes[held], int(np.count_nonzero(sizes))


def candidates_of(
    rules: "RankingRules | None", database_run: int, size: int, query_runs: Iterable[tuple[int, int]]
) -> Candidates | None:
    """What ``rules`` allow in one database run; None where they allow everything.

    ``query_runs``: (run, number of queries) of the runs whose queries are counted through, one after the other.
    """
    if rules is None:
        return None
    groups = rules.groups.get(database_run)
    excluded: list[Sequence[int] | NDArray[Any] | None] = []
    for run, count in query_runs:
        entries = rules.excluded.get((database_run, run))
        if entries is not None and len(entries) != count:
            raise ValueError(f"exclusions of {len(entries)} queries given for the {count} queries of run {run}")
        excluded += [None] * count if entries is None else list(entries)
    if all(entry is None or len(entry) == 0 for entry in excluded):
        excluded = []
    if groups is None and not excluded:
        return None
    return Candidates(size, groups, excluded)
