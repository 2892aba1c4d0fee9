"""Recall over pairs of runs: the protocol of PointNetVLAD, MinkLoc++ and DistilVPR, without its faults.

For every ordered pair (database run m, query run n), m != n, each query of n that has a true neighbour in m asks the
database of m for its nearest items. ``recall@r`` is the share of these queries (percent) with a true neighbour among
the first r; ``one_percent_recall`` the same for r = :func:`one_percent_threshold`. Results are the plain mean over
pairs (not over queries), as published.

Deliberate deviations, each of which upstream answers with an exception or a wrong number: a pair without an evaluated
query is skipped and counted; a database smaller than k works (recall beyond its size is carried forward); one percent
is taken over the whole ranking, right above 2550 items too; the metric is declared and stored. Ties go to the lower
database index (:mod:`distilplace.evaluation.retrieval.ranking`).

Image sets bring rules of their own (``distilplace.datasets.records.RankingRules``): queries without a true neighbour
as misses, of every panorama only the best-ranked image (:mod:`distilplace.evaluation.retrieval.rules`), items that a
query may not be answered with.
"""

import warnings
from collections.abc import Collection, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distilplace.common.errors import UserError
from distilplace.evaluation.retrieval.pairs import (
    Queries,
    QuerySets,
    chance_of,
    hits_of,
    one_percent_threshold,
    pairs_of,
)
from distilplace.evaluation.retrieval.ranking import EmbeddingSpace, Metric, as_matrix
from distilplace.evaluation.retrieval.results import PairResult, RetrievalResult, SkippedPair

if TYPE_CHECKING:
    from distilplace.datasets.records import RankingRules

__all__ = [
    "PairResult",
    "RetrievalResult",
    "SkippedPair",
    "chance_recall",
    "evaluate_runs",
    "one_percent_recall",
    "one_percent_threshold",
    "recall_at",
]


def recall_at(neighbours: Any, truth: Sequence[Collection[int]], k: int) -> float:
    """Percent of queries with a true neighbour among their first ``k``.

    Args:
        neighbours: ``[Q, K]`` database indices, nearest first.
        truth: for each query its true database indices; queries without any are left out. Neighbours below 0 fill up
            a row and match nothing.
        k: how many neighbours count; above K all K do (a small database).

    """
    ranked = np.asarray(neighbours.detach().cpu() if hasattr(neighbours, "detach") else neighbours, dtype=np.int64)
    if ranked.ndim != 2 or len(ranked) != len(truth):
        raise ValueError(f"neighbours {ranked.shape} do not fit {len(truth)} queries, expected [Q, K]")
    counts = np.fromiter(map(len, truth), dtype=np.int64, count=len(truth))
    if not counts.any():
        raise UserError("no query has a true neighbour: recall is undefined")
    flat = np.fromiter(chain.from_iterable(truth), dtype=np.int64, count=int(counts.sum()))
    width = int(max(ranked.max(initial=0), flat.max(initial=0))) + 1
    rows = np.arange(len(truth))
    found = np.isin(ranked[:, :k] + rows[:, None] * width, flat + np.repeat(rows, counts) * width)
    found &= ranked[:, :k] >= 0
    return 100.0 * float(np.mean(np.count_nonzero(found, axis=1)[counts > 0] > 0))


def one_percent_recall(neighbours: Any, truth: Sequence[Collection[int]], database_size: int) -> float:
    """:func:`recall_at` the one-percent threshold; ``neighbours`` must reach that far."""
    threshold = one_percent_threshold(database_size)
    if np.shape(neighbours)[1] < threshold:
        raise ValueError(f"{np.shape(neighbours)[1]} neighbours a query are too few for one percent of {database_size}")
    return recall_at(neighbours, truth, threshold)


def evaluate_runs(
    database: Sequence[Any],
    queries: Sequence[Any],
    query_sets: QuerySets,
    metric: Metric = "cosine",
    k: int = 25,
    *,
    runs: Sequence[str] | None = None,
    rules: "RankingRules | None" = None,
) -> RetrievalResult:
    """Recall@1..k and one-percent recall over all ordered pairs of runs (module docstring).

    One percent is that of the run's items, whatever the rules leave of them.

    Args:
        database: per run ``[N, D]`` embeddings, NumPy or torch; a run may be empty.
        queries: per run ``[Q, D]`` embeddings; row i belongs to ``query_sets[run][i]``.
        query_sets: per run ``{i: {..., m: [true database indices in run m]}}``, upstream's structure.
        metric: ``cosine`` (upstream's evaluation) or ``euclidean`` (on raw vectors, its triplet loss). Stored.
        k: the highest rank reported.
        runs: names for messages and reports.
        rules: how the protocol reads rankings. A true neighbour that is excluded counts as none. A pair in which no
            query has a true neighbour is skipped even where unmatched queries are misses: it asks nothing.

    """
    names = list(runs) if runs is not None else [f"run {index}" for index in range(len(query_sets))]
    _check_shapes(database, queries, query_sets, names, k)
    space = EmbeddingSpace(
        [as_matrix(item, f"{name} (database)") for item, name in zip(database, names, strict=True)],
        [as_matrix(item, f"{name} (queries)") for item, name in zip(queries, names, strict=True)],
        metric,
    )
    _check_counts(space, query_sets, names)
    asking = Queries(query_sets, names)
    prepared = space.prepared_queries(list(range(len(names))))
    pairs, skipped, odds = [], [], []
    for m, items in enumerate(space.database):
        truth, last = asking.truth(m, len(items), rules), one_percent_threshold(len(items))
        hits = hits_of(space, truth, prepared, unmatched_miss=rules is not None and rules.unmatched == "miss")
        found, left_out = pairs_of(space, asking, truth, hits, k)
        pairs += found
        skipped += left_out
        random = chance_of(asking, truth, max(k, last))[:, [*range(k), last - 1]]
        odds += [100.0 * random[pair.query_run] / pair.evaluated for pair in found]
    if not pairs:
        raise UserError(_why_nothing(space, names))
    small = sorted({pair.database_size for pair in pairs if pair.database_size < k})
    if small:
        text = f"a database of {small[0]} items is smaller than k = {k}: recall beyond its size is carried forward"
        warnings.warn(text, stacklevel=2)
    return _summary(space, pairs, skipped, odds, names, k, rules)


def _check_shapes(
    database: Sequence[Any], queries: Sequence[Any], query_sets: QuerySets, names: list[str], k: int
) -> None:
    sizes = {len(database), len(queries), len(query_sets), len(names)}
    if len(sizes) != 1:
        counts = f"{len(database)} database and {len(queries)} query runs, {len(query_sets)} sets, {len(names)} names"
        raise ValueError(f"lists of different lengths: {counts}")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if len(names) < 2:
        raise UserError(f"evaluation compares runs with each other: at least two are needed, got {len(names)}")


def _check_counts(space: EmbeddingSpace, query_sets: QuerySets, names: list[str]) -> None:
    for rows, entries, name in zip(space.queries, query_sets, names, strict=True):
        if len(rows) != len(entries) or any(index not in entries for index in range(len(rows))):
            raise ValueError(f"{name}: {len(rows)} query embeddings, but the query set has {len(entries)} entries")


def _why_nothing(space: EmbeddingSpace, names: list[str]) -> str:
    if not any(len(rows) for rows in space.database):
        return f"no run with any database item (of {len(names)}): check the evaluation lists or the data set's folder"
    if not any(len(rows) for rows in space.queries):
        return f"no run with any query (of {len(names)}): check the evaluation lists or the data set's folder"
    return f"no query has a true neighbour in another run ({len(names)} runs): is the evaluation radius too small?"


def chance_recall(
    query_sets: QuerySets, database_sizes: Sequence[int], rank: int = 1, rules: "RankingRules | None" = None
) -> float:
    """Recall@rank (percent) expected of a random ranking, averaged over the same pairs as the real one."""
    asking = Queries(query_sets, [f"run {index}" for index in range(len(query_sets))])
    odds: list[float] = []
    for m, size in enumerate(database_sizes):
        truth = asking.truth(m, size, rules)
        hits = chance_of(asking, truth, rank)[:, rank - 1]
        matched = np.bincount(asking.owners[truth.counts > 0], minlength=len(hits))
        asked = asking.lengths if rules is not None and rules.unmatched == "miss" else matched
        odds += (100.0 * hits[matched > 0] / asked[matched > 0]).tolist()
    if not odds:
        raise UserError("no query has a true neighbour in another run: chance recall is undefined")
    return float(np.mean(odds))


def _summary(
    space: EmbeddingSpace,
    pairs: list[PairResult],
    skipped: list[SkippedPair],
    odds: list[NDArray[np.float64]],
    names: list[str],
    k: int,
    rules: "RankingRules | None",
) -> RetrievalResult:
    """Plain means over pairs: all of them, and those of each database run."""
    ranks = range(1, k + 1)
    owners = np.array([pair.database_run for pair in pairs])
    table = np.array([[*pair.recall.values(), pair.one_percent_recall] for pair in pairs])
    mean = table.mean(axis=0).tolist()
    per_run = {int(m): table[owners == m].mean(axis=0).tolist() for m in np.unique(owners)}
    chance = np.mean(odds, axis=0).tolist()
    similarities = np.concatenate([pair.top1_similarities for pair in pairs])
    return RetrievalResult(
        metric=space.metric,
        recall=dict(zip(ranks, mean[:k], strict=True)),
        one_percent_recall=mean[k],
        pairs=pairs,
        per_run={m: dict(zip(ranks, values[:k], strict=True)) for m, values in per_run.items()},
        per_run_one_percent={m: values[k] for m, values in per_run.items()},
        skipped_pairs=skipped,
        top1_similarity=float(similarities.mean()) if len(similarities) else None,
        chance=dict(zip(ranks, chance[:k], strict=True)),
        one_percent_chance=chance[k],
        runs=names,
        space=space,
        rules=rules,
    )
