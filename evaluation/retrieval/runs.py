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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distilplace.common.errors import UserError
from distilplace.evaluation.retrieval.chance import expected_hit_of_groups, expected_hits
from distilplace.evaluation.retrieval.ranking import (
    NEVER,
    EmbeddingSpace,
    Floats,
    Indices,
    Metric,
    as_matrix,
    first_hits,
)
from distilplace.evaluation.retrieval.results import PairResult, RetrievalResult, SkippedPair
from distilplace.evaluation.retrieval.rules import Candidates, candidates_of

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

QuerySets = Sequence[Mapping[int, Mapping[Any, Any]]]


def one_percent_threshold(size: int) -> int:
    """One percent of a database, in neighbours: ``max(round(N / 100), 1)``, halves to even (250 -> 2, 350 -> 4)."""
    return max(round(size / 100), 1)


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
    everybody = space.prepared_queries(list(range(len(names))))
    pairs, skipped, odds = [], [], []
    for m in range(len(names)):
        candidates = _candidates(rules, m, len(space.database[m]), query_sets)
        truth, counts = _truth_in(query_sets, m, len(space.database[m]), names, candidates)
        asked = np.flatnonzero(counts)
        ranks, items = np.zeros((2, len(counts)), dtype=np.int64)
        if len(asked):
            prepared = space.prepared_database(m)
            ranks[asked], items[asked] = first_hits(everybody, asked, prepared, truth, counts[asked], candidates)
        if rules is not None and rules.unmatched == "miss":
            ranks[counts == 0] = NEVER
        pair_results, pair_skips, pair_odds = _pairs_of(space, m, k, (truth, counts, ranks, items), candidates)
        pairs += pair_results
        skipped += pair_skips
        odds += pair_odds
    if not pairs:
        raise UserError(_why_nothing(space, names))
    small = sorted({pair.database_size for pair in pairs if pair.database_size < k})
    if small:
        text = f"a database of {small[0]} items is smaller than k = {k}: recall beyond its size is carried forward"
        warnings.warn(text, stacklevel=2)
    return _summary(space, pairs, skipped, odds, names, k, rules)


def _candidates(rules: "RankingRules | None", m: int, size: int, query_sets: QuerySets) -> Candidates | None:
    return candidates_of(rules, m, size, [(n, len(entries)) for n, entries in enumerate(query_sets)])


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


def _truth_in(
    query_sets: QuerySets, m: int, size: int, names: list[str], candidates: Candidates | None
) -> tuple[Indices, Indices]:
    """True neighbours in run ``m`` of the other runs' queries: flat indices (rising, unique), counts per query."""
    lists: list[Collection[int]] = []
    for n, entries in enumerate(query_sets):
        lists += [() if n == m else entries[index].get(m, ()) for index in range(len(entries))]
    if candidates is not None:
        lists = [candidates.allowed(row, items) for row, items in enumerate(lists)]
    counts = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
    flat = np.fromiter(chain.from_iterable(lists), dtype=np.int64, count=int(counts.sum()))
    if len(flat) and (flat.min() < 0 or flat.max() >= size):
        worst = flat.max() if flat.max() >= size else flat.min()
        raise UserError(
            f"the query sets name item {worst} of {names[m]}, whose database has {size} items: "
            "the evaluation's database and query lists do not belong together"
        )
    owner, item = np.divmod(np.unique(np.repeat(np.arange(len(lists)), counts) * max(size, 1) + flat), max(size, 1))
    return item, np.bincount(owner, minlength=len(lists))


def _pairs_of(
    space: EmbeddingSpace,
    m: int,
    k: int,
    answers: tuple[Indices, Indices, Indices, Indices],
    candidates: Candidates | None,
) -> tuple[list[PairResult], list[SkippedPair], list[NDArray[np.float64]]]:
    """All pairs of database run ``m``: results, skips and chance per pair (``[k + 1]``: ranks 1..k, then one percent).

    ``answers`` for the queries of all runs one after the other: the true neighbours (flat), how many there are, the
    rank of the first and which item that is.
    """
    truth, counts, ranks, items = answers
    size = len(space.database[m])
    starts = np.concatenate([[0], np.cumsum([len(rows) for rows in space.queries])])
    pairs, skipped, odds = [], [], []
    for n in range(len(space.queries)):
        if n == m:
            continue
        part = slice(starts[n], starts[n + 1])
        if not counts[part].any():
            skipped.append(SkippedPair(m, n, _skip_reason(size, len(space.queries[n]))))
            continue
        first = np.flatnonzero(ranks[part] == 1)
        pair = _pair(m, n, ranks[part], size, k, space.dot(m, n, first, items[part][first]))
        pairs.append(replace(pair, unmatched=int(np.count_nonzero(counts[part] == 0))))
        matched = starts[n] + np.flatnonzero(counts[part])
        hits = _chance_hits(truth, counts, matched, size, max(k, one_percent_threshold(size)), candidates)
        odds.append(100.0 * np.append(hits[:k], hits[one_percent_threshold(size) - 1]) / pair.evaluated)
    return pairs, skipped, odds


def _skip_reason(database_size: int, query_count: int) -> str:
    if database_size == 0:
        return "the database run is empty"
    return "the query run is empty" if query_count == 0 else "no query has a true neighbour in this database"


def _pair(m: int, n: int, ranks: Indices, size: int, k: int, top1_similarities: Floats) -> PairResult:
    hits = ranks[ranks > 0]
    percent = 100.0 / len(hits)
    reached = np.cumsum(np.bincount(np.minimum(hits, k + 1), minlength=k + 2))[1 : k + 1] * percent
    within = float(np.count_nonzero(hits <= one_percent_threshold(size))) * percent
    recall = dict(zip(range(1, k + 1), reached.tolist(), strict=True))
    return PairResult(m, n, recall, within, len(hits), size, top1_similarities, ranks)


def _chance_hits(
    truth: Indices, counts: Indices, rows: Indices, size: int, last: int, candidates: Candidates | None
) -> NDArray[np.float64]:
    """How many of the queries ``rows`` a random ranking answers within ranks 1..last."""
    if candidates is None:
        return expected_hits(counts[rows], np.full(len(rows), size), last)
    if not candidates.grouped:
        return expected_hits(counts[rows], np.array([candidates.pool(row) for row in rows.tolist()]), last)
    ends = np.cumsum(counts)
    each = (candidates.shares(row, truth[ends[row] - counts[row] : ends[row]]) for row in rows.tolist())
    return np.sum([expected_hit_of_groups(shares, groups, last) for shares, groups in each], axis=0)


def chance_recall(
    query_sets: QuerySets, database_sizes: Sequence[int], rank: int = 1, rules: "RankingRules | None" = None
) -> float:
    """Recall@rank (percent) expected of a random ranking, averaged over the same pairs as the real one."""
    names = [f"run {index}" for index in range(len(query_sets))]
    starts = np.concatenate([[0], np.cumsum([len(entries) for entries in query_sets])])
    odds = []
    for m, size in enumerate(database_sizes):
        candidates = _candidates(rules, m, size, query_sets)
        truth, counts = _truth_in(query_sets, m, size, names, candidates)
        for start, stop in pairwise(starts.tolist()):
            matched = start + np.flatnonzero(counts[start:stop])
            if len(matched):
                asked = stop - start if rules is not None and rules.unmatched == "miss" else len(matched)
                hits = _chance_hits(truth, counts, matched, size, rank, candidates)
                odds.append(100.0 * hits[rank - 1] / asked)
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
