"""Recall of sequences: each query answered with the L images of its run that end at it.

Runs are lists in order of time. The filter is :class:`distilplace.runtime.localise.sequence.PlaceFilter` without
odometry, started anew for every query, so that length 1 is the ranking of single images; the reference sums distances
along diagonals (SeqSLAM). A jump of more than ``break_at`` metres between two queries, where a protocol cuts test
regions out of a run, starts a new sequence. Recall is the mean over pairs of runs, as elsewhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilplace.common.errors import UserError
from distilplace.datasets.records import EvaluationSet, PlaceRecord, positions
from distilplace.evaluation.retrieval.results import RetrievalResult, SequenceRecall
from distilplace.runtime.localise.diagonals import diagonal_scores
from distilplace.runtime.localise.motion import MotionModel, step_of
from distilplace.runtime.localise.sequence import PlaceFilter, chords

BREAK_AT = 100.0


@dataclass(frozen=True)
class RunEmbeddings:
    """One run in order of time: ``embeddings`` ``[n, D]``, ``positions`` ``[n, 2]`` in metres."""

    embeddings: NDArray[Any]
    positions: NDArray[np.float64]


def with_sequences(result: RetrievalResult, test: EvaluationSet, lengths: Sequence[int]) -> RetrievalResult:
    """The result with the recalls of sequences of these ``lengths`` beside it.

    Raises:
        UserError: the protocol takes items out of rankings, which sequences do not know, or its places have no
            positions to move between.

    """
    if test.rules.excluded or test.rules.groups:
        raise UserError(f"--sequence: {test.name} takes items out of its rankings; sequences are not measured there")
    sides = (test.database, result.space.database), (test.queries, result.space.queries)
    database, queries = ([_run(run, rows) for run, rows in zip(*side, strict=True)] for side in sides)
    if not any(len(np.unique(run.positions, axis=0)) > 1 for run in database):
        raise UserError(f"--sequence: places of {test.name} have no positions to move between")
    found = sequence_recall(database, queries, test.query_sets, lengths)
    return replace(result, sequences=tuple(found))


def _run(records: Sequence[PlaceRecord], rows: Any) -> RunEmbeddings:
    return RunEmbeddings(np.asarray(rows), positions(records)[:, ::-1])


def sequence_text(result: RetrievalResult) -> str:
    """The recalls of sequences in a line for the log."""
    cells = [f"{each.length}: {each.filtered:.2f} ({each.diagonals:.2f})" for each in result.sequences]
    pairs = result.sequences[0]
    return (
        f"R@1 by number of images, filter (diagonal sums), {pairs.queries} queries over {pairs.pairs} pairs of runs: "
        + ", ".join(cells)
    )


def sequence_recall(
    database: Sequence[RunEmbeddings],
    queries: Sequence[RunEmbeddings],
    query_sets: Sequence[Mapping[int, Mapping[Any, Any]]],
    lengths: Sequence[int],
    *,
    break_at: float = BREAK_AT,
) -> list[SequenceRecall]:
    """R@1 for every one of ``lengths``; ``query_sets`` as in :func:`~distilplace.evaluation.retrieval.evaluate_runs`.

    Raises:
        UserError: no query has a true neighbour in another run.

    """
    found: dict[int, list[tuple[float, float, int]]] = {length: [] for length in lengths}
    for m, places in enumerate(database):
        if not len(places.positions):
            continue
        lengths_of = [len(places.positions)]
        motion = MotionModel(step_of(places.positions, lengths_of))
        tracker = PlaceFilter(places.positions, motion, lengths_of)
        for n, run in enumerate(queries):
            positives = {i: set(query_sets[n][i].get(m, ())) for i in range(len(run.positions))} if n != m else {}
            evaluated = [i for i, right in positives.items() if right]
            if not evaluated:
                continue
            distances = _distances(run.embeddings, places.embeddings)
            starts = _starts(run.positions, break_at)
            for length in lengths:
                hits = np.array([_hits(tracker, distances, i, starts[i], length, positives[i]) for i in evaluated])
                found[length].append((*(100.0 * hits.mean(axis=0)).tolist(), len(evaluated)))
    if not any(found.values()):
        raise UserError("no query has a true neighbour in another run: recall of sequences is undefined")
    return [_mean(length, rows) for length, rows in found.items()]


def _mean(length: int, rows: list[tuple[float, float, int]]) -> SequenceRecall:
    filtered, diagonals, counts = zip(*rows, strict=True)
    return SequenceRecall(length, float(np.mean(filtered)), float(np.mean(diagonals)), sum(counts), len(rows))


def _hits(
    tracker: PlaceFilter, distances: NDArray[Any], query: int, start: int, length: int, positives: set[int]
) -> tuple[bool, bool]:
    """Are filter and diagonals right about this query?"""
    rows = distances[max(start, query - length + 1) : query + 1]
    tracker.restart()
    for row in rows:
        belief = tracker.update(row)
    lines = diagonal_scores(rows, [rows.shape[1]])
    return int(belief.places.argmax()) in positives, int(lines.argmin()) in positives


def _starts(positions: NDArray[np.float64], break_at: float) -> NDArray[np.int64]:
    """Per query, the first one of its unbroken sequence."""
    broken = np.linalg.norm(np.diff(positions, axis=0), axis=1) > break_at
    first = np.concatenate([[0], np.where(broken, np.arange(1, len(positions)), 0)])
    return np.maximum.accumulate(first).astype(np.int64)


def _distances(queries: NDArray[Any], places: NDArray[Any]) -> NDArray[np.float64]:
    """Euclidean distances of the unit embeddings: ``[Q, N]``."""
    one, other = (_unit(np.asarray(rows, dtype=np.float64)) for rows in (queries, places))
    return chords(one @ other.T)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
