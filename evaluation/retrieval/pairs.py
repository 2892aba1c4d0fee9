"""What one database run gives the queries of every other run: recalls, pairs left out, chance."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distilplace.common.errors import UserError
from distilplace.evaluation.retrieval.chance import expected_hit_of_groups, expected_hits_of_runs
from distilplace.evaluation.retrieval.hits import Hits, first_hits
from distilplace.evaluation.retrieval.ranking import NEVER, EmbeddingSpace, Indices, PreparedRows
from distilplace.evaluation.retrieval.results import PairResult, SkippedPair
from distilplace.evaluation.retrieval.rules import Candidates, candidates_of

if TYPE_CHECKING:
    from distilplace.datasets.records import RankingRules

Entry = Mapping[Any, Any]
QuerySets = Sequence[Mapping[int, Entry]]
Table = NDArray[np.float64]


def one_percent_threshold(size: int) -> int:
    """One percent of a database, in neighbours: ``max(round(N / 100), 1)``, halves to even (250 -> 2, 350 -> 4)."""
    return max(round(size / 100), 1)


@dataclass(frozen=True)
class Truth:
    """What is right in database run ``m`` of ``size`` items.

    ``items``: true neighbours, those of one query after the other, rising; ``counts`` int64 [Q]: how many each has.
    ``candidates``: which items may answer; None: all may.
    """

    m: int
    size: int
    items: Indices
    counts: Indices
    candidates: Candidates | None


class Queries:
    """The queries of all runs, one run after the other, with their ground truth.

    ``lengths`` int64 [R]: queries of each run; ``owners`` int64 [Q]: the run of each; ``starts`` int64 [R + 1].
    """

    def __init__(self, query_sets: QuerySets, names: Sequence[str]) -> None:
        self.names = names
        self.lengths = np.array([len(entries) for entries in query_sets], dtype=np.int64)
        self.owners = np.repeat(np.arange(len(self.lengths)), self.lengths)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self._entries: list[Entry] = [entries[row] for entries in query_sets for row in range(len(entries))]

    def truth(self, m: int, size: int, rules: "RankingRules | None") -> Truth:
        """What is right in run ``m``, whose own queries have nothing there; excluded items count as wrong.

        Raises:
            UserError: a true neighbour beyond the database's ``size``.

        """
        candidates = candidates_of(rules, m, size, enumerate(self.lengths.tolist()))
        lists: list[Collection[int]] = [entry.get(m, ()) for entry in self._entries]
        lists[self.starts[m] : self.starts[m + 1]] = [()] * self.lengths[m]
        if candidates is not None:
            lists = [candidates.allowed(row, items) for row, items in enumerate(lists)]
        counts = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
        flat = np.fromiter(chain.from_iterable(lists), dtype=np.int64, count=int(counts.sum()))
        if len(flat) and (flat.min() < 0 or flat.max() >= size):
            worst = flat.max() if flat.max() >= size else flat.min()
            raise UserError(
                f"the query sets name item {worst} of {self.names[m]}, whose database has {size} items: "
                "the evaluation's database and query lists do not belong together"
            )
        pairs = np.repeat(np.arange(len(lists)), counts) * max(size, 1) + flat
        if not (np.diff(pairs) > 0).all():
            owner, flat = np.divmod(np.unique(pairs), max(size, 1))
            counts = np.bincount(owner, minlength=len(lists))
        return Truth(m, size, flat, counts, candidates)


def hits_of(space: EmbeddingSpace, truth: Truth, prepared: PreparedRows, *, unmatched_miss: bool) -> Hits:
    """The first hits of all queries (``prepared``) in one database run; rank 0 where a query has no true neighbour.

    With ``unmatched_miss`` that is a miss at every rank.
    """
    count, asked = len(truth.counts), np.flatnonzero(truth.counts)
    hits = Hits.none(count)
    if len(asked):
        database = space.prepared_database(truth.m)
        found = first_hits(prepared, asked, database, truth.items, truth.counts[asked], truth.candidates)
        for values, of_asked in zip(hits, found, strict=True):
            values[asked] = of_asked
    if unmatched_miss:
        hits.ranks[truth.counts == 0] = NEVER
    return hits


def pairs_of(
    space: EmbeddingSpace, queries: Queries, truth: Truth, hits: Hits, k: int
) -> tuple[list[PairResult], list[SkippedPair]]:
    """The pairs of one database run with every query run, and those in which no query has a true neighbour."""
    m, size, ranks = truth.m, truth.size, hits.ranks
    runs, one_percent = len(queries.lengths), one_percent_threshold(size)
    binned = np.bincount(queries.owners * (k + 2) + np.minimum(ranks, k + 1), minlength=runs * (k + 2))
    reached = np.cumsum(binned.reshape(runs, k + 2)[:, 1:], axis=1)
    within = np.bincount(queries.owners[(ranks > 0) & (ranks <= one_percent)], minlength=runs)
    unmatched = np.bincount(queries.owners[truth.counts == 0], minlength=runs)
    pairs, skipped, steps = [], [], range(1, k + 1)
    for n in range(runs):
        if n == m:
            continue
        if unmatched[n] == queries.lengths[n]:
            skipped.append(SkippedPair(m, n, _skip_reason(size, int(queries.lengths[n]))))
            continue
        part, evaluated = slice(queries.starts[n], queries.starts[n + 1]), int(reached[n, -1])
        recall = dict(zip(steps, (reached[n, :k] * (100.0 / evaluated)).tolist(), strict=True))
        first = np.flatnonzero(ranks[part] == 1)
        top1 = hits.similarities[part][first]
        if space.metric == "euclidean":
            top1 = space.dot(m, n, first, hits.items[part][first])
        share = float(within[n]) * (100.0 / evaluated)
        pairs.append(PairResult(m, n, recall, share, evaluated, size, top1, ranks[part], int(unmatched[n])))
    return pairs, skipped


def _skip_reason(database_size: int, query_count: int) -> str:
    if database_size == 0:
        return "the database run is empty"
    return "the query run is empty" if query_count == 0 else "no query has a true neighbour in this database"


def chance_of(queries: Queries, truth: Truth, last: int) -> Table:
    """How many queries of each run a random ranking of one database run answers within ranks 1..last: ``[R, last]``."""
    counts, candidates, runs = truth.counts, truth.candidates, len(queries.lengths)
    rows = np.flatnonzero(counts)
    owners = queries.owners[rows]
    if candidates is None or not candidates.grouped:
        pools = np.full(len(rows), truth.size)
        if candidates is not None:
            pools = np.array([candidates.pool(row) for row in rows.tolist()], dtype=np.int64)
        return expected_hits_of_runs(owners, counts[rows], pools, runs, last)
    ends, hits = np.cumsum(counts), np.zeros((runs, last))
    for owner, row in zip(owners.tolist(), rows.tolist(), strict=True):
        shares, groups = candidates.shares(row, truth.items[ends[row] - counts[row] : ends[row]])
        hits[owner] += expected_hit_of_groups(shares, groups, last)
    return hits
