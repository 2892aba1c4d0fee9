"""Precision and recall of first answers that may be refused: KITTI, as LoGG3D-Net (Vidanapathirana et al. 2022) has it.

A query is answered when the cosine distance of its first answer is below a threshold. An answered query is a true
positive when the answer lies within the first radius, a false positive beyond the second, and counts as neither in
between; a query that is not answered though it revisits a place (it has a true neighbour) is a false negative.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distilplace.evaluation.retrieval.results import PairResult, RetrievalResult

if TYPE_CHECKING:
    from distilplace.datasets.records import EvaluationSet

THRESHOLDS = np.arange(1, 1001) / 1000  # cosine distances, (0, 1]


def largest_f1(
    similarity: NDArray[Any], metres: NDArray[Any], is_revisit: NDArray[np.bool_], radii: tuple[float, float]
) -> tuple[float, float]:
    """The largest F1 (0 to 1) over 1000 thresholds, and the smallest threshold (a cosine distance) that reaches it.

    Args:
        similarity: ``[Q]`` cosine of each query's embedding with its first answer's.
        metres: ``[Q]`` how far apart their places are.
        is_revisit: ``[Q]`` has the query a true neighbour?
        radii: metres up to which an answer is right, and beyond which it is wrong.

    """
    answered = 1.0 - np.asarray(similarity, dtype=np.float64)[:, None] < THRESHOLDS
    right, wrong = np.asarray(metres) <= radii[0], np.asarray(metres) > radii[1]
    true_positives = np.count_nonzero(answered[right], axis=0)
    false_positives = np.count_nonzero(answered[wrong], axis=0)
    false_negatives = np.count_nonzero(~answered[np.asarray(is_revisit)], axis=0)
    f1 = 2 * true_positives / np.maximum(2 * true_positives + false_positives + false_negatives, 1)
    best = int(f1.argmax())
    return float(f1[best]), float(THRESHOLDS[best])


def with_f1(result: RetrievalResult, evaluation_set: "EvaluationSet") -> RetrievalResult:
    """The result with ``extra["F1max"]``, the largest F1 averaged over pairs, where the set's rules ask for it.

    Queries that nothing may answer (a sequence's first 30 s) are left out. ValueError for Euclidean results: the
    thresholds are cosine distances.
    """
    radii = evaluation_set.rules.f1_radii
    if radii is None:
        return result
    if result.metric != "cosine":
        raise ValueError(f"the largest F1 is defined on cosine distances, not on {result.metric} ones")
    values = [_pair_f1(result, evaluation_set, pair, radii) for pair in result.pairs]
    return replace(result, extra={**result.extra, "F1max": float(np.mean(values))})


def _pair_f1(
    result: RetrievalResult, evaluation_set: "EvaluationSet", pair: PairResult, radii: tuple[float, float]
) -> float:
    m, n = pair.database_run, pair.query_run
    first = result.top(m, n, 1)[:, 0]
    rows = np.flatnonzero(first >= 0)
    answers = first[rows]
    asked, found = evaluation_set.queries[n], evaluation_set.database[m]
    metres = [
        np.hypot(asked[row].northing - found[item].northing, asked[row].easting - found[item].easting)
        for row, item in zip(rows.tolist(), answers.tolist(), strict=True)
    ]
    revisits = _revisits(result, evaluation_set.query_sets[n], pair)[rows]
    return largest_f1(result.space.dot(m, n, rows, answers), np.array(metres), revisits, radii)[0]


def _revisits(result: RetrievalResult, entries: Mapping[int, Mapping[Any, Any]], pair: PairResult) -> NDArray[np.bool_]:
    """Bool ``[Q]``: has each query a true neighbour that may answer it?"""
    candidates = result.candidates(pair.database_run, pair.query_run)
    true_items = [entries[row].get(pair.database_run, ()) for row in range(len(entries))]
    if candidates is not None:
        true_items = [candidates.allowed(row, items) for row, items in enumerate(true_items)]
    return np.array([len(items) > 0 for items in true_items], dtype=bool)
