"""Cosines of single pairs of frames: of the same frame, of true matches, of others.

They say what rankings do not: two networks may agree on every cosine of a pair, 0.97 say, and on nothing that tells
places apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distilplace.evaluation.retrieval.ranking import Floats, Indices, rows_per_block, unit_rows

if TYPE_CHECKING:
    from distilplace.datasets.benchmarks import LandmarkSet
    from distilplace.datasets.records import Benchmark, EvaluationSet, PlaceRecord

SAME, TRUE, OTHER = "same frame", "true matches", "other pairs"
PAIRS = 20_000
"""Pairs that are looked at, at most, of each kind: evenly drawn where there are more."""


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of the cosines of ``pairs`` pairs; NaN without any."""

    mean: float
    deviation: float
    pairs: int


def spread(cosines: Floats) -> Spread:
    """Mean and deviation of cosines [n]."""
    if not len(cosines):
        return Spread(float("nan"), float("nan"), 0)
    return Spread(float(cosines.mean()), float(cosines.std()), len(cosines))


def cosines(left: Floats, right: Floats, pairs: Indices) -> NDArray[np.float64]:
    """Cosines [n] of rows ``left[pairs[:, 0]]`` and ``right[pairs[:, 1]]``, in float64; memory stays bounded."""
    found = np.empty(len(pairs))
    step = rows_per_block(left.shape[1])
    for start in range(0, len(pairs), step):
        first, second = pairs[start : start + step].T
        one, other = unit_rows(left[first].astype(np.float64)), unit_rows(right[second].astype(np.float64))
        found[start : start + step] = np.einsum("nd,nd->n", one, other)
    return found


def frame_pairs(benchmark: "Benchmark") -> dict[str, Indices]:
    """Pairs of rows int64 [n, 2] (query, database) of ``benchmark.distinct_records()``, at most ``PAIRS`` of a kind.

    :data:`SAME` of all benchmarks; :data:`TRUE` and :data:`OTHER` of places and landmarks, where single frames match.
    A pair that the benchmark ignores or excludes is of neither.
    """
    from distilplace.datasets.benchmarks import LandmarkSet
    from distilplace.datasets.records import EvaluationSet

    rows = {record.key: row for row, record in enumerate(benchmark.distinct_records())}
    found = {SAME: np.repeat(thinned(len(rows), PAIRS)[:, None], 2, axis=1)}
    if isinstance(benchmark, EvaluationSet):
        blocks = _place_blocks(benchmark)
    elif isinstance(benchmark, LandmarkSet):
        blocks = [_landmark_block(benchmark)]
    else:
        return found
    true = [np.array(block.true(rows), dtype=np.int64).reshape(-1, 2) for block in blocks]
    other = [block.other(rows, max(1, PAIRS // len(blocks))) for block in blocks]
    for kind, parts in ((TRUE, true), (OTHER, other)):
        joined = np.concatenate([np.empty((0, 2), dtype=np.int64), *parts])
        found[kind] = joined[thinned(len(joined), PAIRS)]
    return found


def thinned(count: int, most: int) -> Indices:
    """Rising indices below ``count``: all of them, or ``most`` that are evenly spread, the first and last included."""
    if count <= most:
        return np.arange(count)
    return np.rint(np.linspace(0, count - 1, most)).astype(np.int64)


@dataclass(frozen=True)
class _Block:
    """Queries that search one database; per query the indices of its true items and of those that do not count."""

    queries: "Sequence[PlaceRecord]"
    database: "Sequence[PlaceRecord]"
    positives: Sequence[Sequence[int]]
    ignored: Sequence[Sequence[int]]

    def true(self, rows: Mapping[str, int]) -> list[tuple[int, int]]:
        """Rows of every query and each of its true items."""
        return [
            (rows[query.key], rows[self.database[item].key])
            for query, positives, ignored in zip(self.queries, self.positives, self.ignored, strict=True)
            for item in sorted({*positives} - {*ignored})
        ]

    def other(self, rows: Mapping[str, int], most: int) -> Indices:
        """Rows of queries and items that do not match, about ``most`` at most."""
        side = max(1, int(np.sqrt(most)))
        asked = thinned(len(self.queries), side)
        items = thinned(len(self.database), max(side, most // max(1, len(asked))))
        found = np.array([rows[self.database[item].key] for item in items.tolist()], dtype=np.int64)
        parts = [np.empty((0, 2), dtype=np.int64)]
        for query in asked.tolist():
            kept = found[~np.isin(items, [*self.positives[query], *self.ignored[query]])]
            parts.append(np.column_stack([np.full(len(kept), rows[self.queries[query].key]), kept]))
        return np.concatenate(parts)


def _place_blocks(places: "EvaluationSet") -> list[_Block]:
    blocks = []
    for m, database in enumerate(places.database):
        for n, queries in enumerate(places.queries):
            if m == n or not queries or not database:
                continue
            positives = [list(places.query_sets[n][query].get(m, ())) for query in range(len(queries))]
            excluded = places.rules.excluded.get((m, n)) or [()] * len(queries)
            blocks.append(_Block(queries, database, positives, [list(each) for each in excluded]))
    return blocks


def _landmark_block(landmarks: "LandmarkSet") -> _Block:
    lists = zip(landmarks.easy, landmarks.hard, strict=True)
    positives = [[*easy.tolist(), *hard.tolist()] for easy, hard in lists]
    return _Block(landmarks.queries, landmarks.database, positives, [junk.tolist() for junk in landmarks.junk])
