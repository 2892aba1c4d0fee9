"""What a model retrieved, query by query, as one flat table: a row per query, database run and rank.

Every query is put to the database of every other run, whether it has a true neighbour there or not. The columns are
NumPy arrays of one length; strings stand once, in :class:`Names`. ``predictions.parquet`` is this table
(:mod:`distilplace.evaluation.retrieval.predictions_file`).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilplace.datasets.benchmarks import LandmarkSet
from distilplace.datasets.records import Benchmark, EvaluationSet, PlaceRecord, positions
from distilplace.evaluation.retrieval.hits import first_hits
from distilplace.evaluation.retrieval.places import places_of
from distilplace.evaluation.retrieval.ranking import NEVER, EmbeddingSpace, Indices
from distilplace.evaluation.retrieval.results import RetrievalResult
from distilplace.evaluation.retrieval.rules import Candidates

DEPTH = 25
"""Ranks that are listed: recall is reported up to there; deeper ones follow from ``first_correct``."""


@dataclass(frozen=True)
class Names:
    """Keys and files of the records of all runs, one run after the other; ``starts[run]`` is where a run begins."""

    keys: Sequence[str]
    files: Sequence[str]
    starts: Sequence[int]

    @classmethod
    def of(cls, runs: Sequence[Sequence[PlaceRecord]]) -> "Names":
        """The first image of each record, or its cloud where it has no image."""
        records = [record for run in runs for record in run]
        files = [str(record.images[0] if record.images else record.cloud or "") for record in records]
        return cls([record.key for record in records], files, [0, *np.cumsum([len(run) for run in runs]).tolist()])


COLUMNS: dict[str, type[np.generic]] = {
    "database_run": np.int16,
    "query_run": np.int16,
    "query": np.int32,
    "place": np.int32,
    "rank": np.int16,
    "retrieved": np.int32,
    "similarity": np.float32,
    "distance": np.float32,
    "correct": np.bool_,
    "evaluated": np.bool_,
    "positives": np.int32,
    "first_correct": np.int32,
    "database_size": np.int32,
}


@dataclass(frozen=True, eq=False)
class Predictions:
    """One model's retrieved items, ``[n]`` rows in the order of database run, query run, query, rank.

    ``columns`` are those of ``COLUMNS``; ``table["rank"]`` is short for ``table.columns["rank"]``:

    * ``database_run``, ``query_run``: numbers of runs; ``query``, ``retrieved``: indices of samples in them;
    * ``place``: number of the place that the query frame shows (:func:`places_of`; of landmarks: the query);
    * ``rank``: 1-based; ``similarity``: cosine, or minus the Euclidean distance; ``distance``: between the recorded
      positions in ``unit``, NaN where there are none; ``correct``: is what was retrieved a true neighbour?
    * ``evaluated``: does the query count in recall (in this database)? ``positives``: how many true neighbours it has
      there; ``first_correct``: the rank of the first one in the whole ranking, however deep, 0 = none is ranked;
    * ``database_size``: items of the database run.

    A query with nothing to retrieve (all items excluded) has one row: rank 1, ``retrieved`` -1, NaN behind it.
    """

    columns: Mapping[str, NDArray[Any]] = field(repr=False)
    runs: Sequence[str]
    queries: Names = field(repr=False)
    database: Names = field(repr=False)
    unit: str = "m"

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self["rank"])

    def where(self, chosen: NDArray[np.bool_]) -> "Predictions":
        """The rows of a mask ``[n]``."""
        return replace(self, columns={name: values[chosen] for name, values in self.columns.items()})

    def take(self, rows: Indices) -> "Predictions":
        """These rows, in this order."""
        return replace(self, columns={name: values[rows] for name, values in self.columns.items()})

    def first(self) -> "Predictions":
        """The rows of rank 1: one per query and database run."""
        return self.where(self["rank"] == 1)

    def query_rows(self) -> Indices:
        """Per row, where its query stands in ``queries``: int64 ``[n]``."""
        return np.asarray(self.queries.starts, dtype=np.int64)[self["query_run"]] + self["query"]

    def retrieved_rows(self) -> Indices:
        """Per row, where what was retrieved stands in ``database``: int64 ``[n]``; -1 where nothing was."""
        rows = np.asarray(self.database.starts, dtype=np.int64)[self["database_run"]] + self["retrieved"]
        return np.where(self["retrieved"] < 0, -1, rows)


def predictions_of(result: Any, benchmark: Benchmark, depth: int = DEPTH) -> Predictions | None:
    """The table of a result on its benchmark, ``depth`` ranks deep; None where nothing is ranked (poses, videos).

    Landmarks: true neighbours are those of the medium protocol (easy and hard), junk is taken out of the ranking.
    """
    if isinstance(benchmark, EvaluationSet):
        return _joined(
            _place_pairs(result, benchmark, depth),
            benchmark.runs,
            Names.of(benchmark.queries),
            Names.of(benchmark.database),
            benchmark.unit,
        )
    if isinstance(benchmark, LandmarkSet):
        names = Names.of([benchmark.queries]), Names.of([benchmark.database])
        return _joined(_landmark_pair(result.space, benchmark, depth), [benchmark.name], *names, "m")
    return None


Columns = dict[str, NDArray[Any]]


def _place_pairs(result: RetrievalResult, test: EvaluationSet, depth: int) -> Iterator[Columns]:
    ranks = {(pair.database_run, pair.query_run): pair.ranks for pair in result.pairs}
    where = [[positions(run) for run in side] for side in (test.database, test.queries)]
    starts = np.cumsum([0, *map(len, test.queries)])
    labels = places_of(test)
    for m, items in enumerate(where[0]):
        for n, entries in enumerate(test.query_sets):
            if m == n or not len(items) or not len(entries):
                continue
            truth: list[Collection[int]] = [entries[row].get(m, ()) for row in range(len(entries))]
            candidates = result.candidates(m, n)
            if candidates is not None:
                truth = [candidates.allowed(row, true) for row, true in enumerate(truth)]
            columns = _pair(result.space, (m, n), depth, truth, candidates)
            first = ranks.get((m, n), np.zeros(len(entries), dtype=np.int64))[columns["query"]]
            columns["first_correct"] = np.where(first == NEVER, 0, first)
            columns["evaluated"] = first != 0
            columns["place"] = labels[starts[n] + columns["query"]]
            found = columns["retrieved"]
            offsets = where[1][n][columns["query"]] - items[np.maximum(found, 0)]
            columns["distance"] = np.where(found < 0, np.nan, np.hypot(*offsets.T))
            yield columns


def _landmark_pair(space: EmbeddingSpace, test: LandmarkSet, depth: int) -> Iterator[Columns]:
    truth = [np.union1d(easy, hard).astype(np.int64) for easy, hard in zip(test.easy, test.hard, strict=True)]
    candidates = Candidates(len(test.database), None, test.junk)
    asked = np.flatnonzero([len(row) for row in truth])
    first = np.zeros(len(truth), dtype=np.int64)
    flat, counts = np.concatenate([truth[row] for row in asked]), np.array([len(truth[row]) for row in asked])
    database, queries = space.prepared_database(0), space.prepared_queries([0])
    first[asked] = first_hits(queries, asked, database, flat, counts, candidates).ranks
    columns = _pair(space, (0, 0), depth, truth, candidates)
    columns["first_correct"] = first[columns["query"]]
    columns["evaluated"] = columns["first_correct"] > 0
    columns["distance"] = np.full(len(columns["query"]), np.nan)
    columns["place"] = columns["query"]
    yield columns


def _pair(
    space: EmbeddingSpace,
    pair: tuple[int, int],
    depth: int,
    truth: Sequence[Collection[int]],
    candidates: Candidates | None,
) -> Columns:
    """What one pair (database run, query run) of runs gives, but for ranks of first hits and distances."""
    size = len(space.database[pair[0]])
    top, similarity = space.ranked(*pair, depth, np.arange(len(truth)), candidates)
    listed = top >= 0
    listed[:, 0] = True
    query, place = np.nonzero(listed)
    found = top[query, place]
    counts = np.fromiter(map(len, truth), dtype=np.int64, count=len(truth))
    flat = np.fromiter((item for row in truth for item in row), dtype=np.int64, count=int(counts.sum()))
    true = np.repeat(np.arange(len(truth)), counts) * size + flat
    return {
        "database_run": np.full(len(query), pair[0]),
        "query_run": np.full(len(query), pair[1]),
        "query": query,
        "rank": place + 1,
        "retrieved": found,
        "similarity": np.where(found < 0, np.nan, similarity[query, place]),
        "correct": (found >= 0) & np.isin(query * size + found, true),
        "positives": counts[query],
        "database_size": np.full(len(query), size),
    }


def _joined(pairs: Iterator[Columns], runs: Sequence[str], queries: Names, database: Names, unit: str) -> Predictions:
    parts = [{name: columns[name].astype(kind) for name, kind in COLUMNS.items()} for columns in pairs]
    empty = {name: np.zeros(0, kind) for name, kind in COLUMNS.items()}
    columns = {name: np.concatenate([empty[name], *(part[name] for part in parts)]) for name in COLUMNS}
    return Predictions(columns, runs, queries, database, unit)
