"""Correct, wrong and refused first results along the route, seen from above."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilplace.datasets.records import EvaluationSet, positions
from distilplace.evaluation.report import figures
from distilplace.evaluation.report.figures import CORRECT, FAINT, WRONG
from distilplace.evaluation.report.parts import Bold, Material, Pictures, ReportEntry, Section, Text, Tile
from distilplace.evaluation.report.sections.refusal import SURE
from distilplace.evaluation.retrieval.results import PairResult, RetrievalResult


def routes(material: Material[RetrievalResult, EvaluationSet]) -> Section | None:
    """The typical pair of runs, a map per entry; none where positions are frame numbers, which make no map."""
    benchmark = material.benchmark
    if benchmark.unit != "m":
        return None
    pair = typical_pair([entry.result for entry in material.entries])
    m, n = pair.database_run, pair.query_run
    database, queries = positions(benchmark.database[m]), positions(benchmark.queries[n])
    tiles, refuses = [], False
    for entry in material.entries:
        own = entry.result.pair(m, n)
        refused = _refused(entry, m, n)
        refuses |= refused is not None
        link = material.images.add(draw_route(database, queries, own.ranks, refused), "png")
        tiles.append(Tile(link, f"{entry.name}, R@1 {own.recall[1]:.1f}"))
    words: list[str | Bold] = ["Queries of ", Bold(benchmark.runs[n]), " in the database of ", Bold(benchmark.runs[m])]
    end = ": is the first result correct? Of all pairs this one is nearest to the average."
    if refuses:
        end += " Hollow: refused by the threshold that gives 95 % precision over all pairs (all, where none gives it)."
    return Section("Along the route", [Text([*words, end]), Pictures(tiles, "columns")])


def _refused(entry: ReportEntry[RetrievalResult], database_run: int, query_run: int) -> NDArray[np.bool_] | None:
    """Bool ``[Q]``: which queries of the pair the threshold refuses; None where none was measured."""
    curve, predictions = entry.result.precision_recall, entry.predictions
    if curve is None or predictions is None:
        return None
    first = predictions.first()
    first = first.where((first["database_run"] == database_run) & (first["query_run"] == query_run))
    threshold = curve.recall_at(SURE)[1]
    # thresholds are similarities of the table, so that equal ones are answered
    return ~(first["similarity"] >= (np.inf if threshold is None else np.float32(threshold)))


def typical_pair(results: Sequence[RetrievalResult]) -> PairResult:
    """The pair whose R@1, averaged over the entries, lies nearest to their mean; then the one with more queries."""
    matrix = np.mean([result.matrix(1) for result in results], axis=0)
    mean = np.mean([result.recall[1] for result in results])

    def distance(pair: PairResult) -> tuple[float, int]:
        return abs(float(matrix[pair.database_run, pair.query_run] - mean)), -pair.evaluated

    return min(results[0].pairs, key=distance)


def draw_route(
    database: NDArray[np.float64],
    queries: NDArray[np.float64],
    ranks: NDArray[np.int64],
    refused: NDArray[np.bool_] | None = None,
) -> bytes:
    """The route in metres from its south-west corner: correct and wrong first results, queries without evaluation.

    Args:
        database: ``[N, 2]`` (northing, easting) of the database run.
        queries: ``[Q, 2]`` likewise.
        ranks: ``[Q]`` rank of the first hit, 0 = no true neighbour (not evaluated).
        refused: bool ``[Q]``, first results whose similarity is too small to be given as an answer; drawn hollow.

    """
    origin = np.vstack([database, queries]).min(axis=0)
    extent = np.maximum(np.vstack([database, queries]).max(axis=0) - origin, 1.0)
    ratio = float(np.clip(extent[0] / extent[1], 0.3, 1.2))
    figure, (axes,) = figures.panels(1, figures.COLUMN, 3.0 * ratio + 0.9)
    north, east = (database - origin).T
    axes.scatter(east, north, s=7, color="#d1d5db", label=f"database ({len(database)})", zorder=1)
    hit, skipped = ranks == 1, ranks == 0
    withheld = np.zeros(len(ranks), dtype=bool) if refused is None else refused
    miss, given = ~hit & ~skipped, ~withheld
    hollow: dict[str, Any] = {"s": 16, "facecolors": "white", "linewidths": 1.2}
    looks: list[tuple[NDArray[np.bool_], str, dict[str, Any]]] = [
        (skipped, "not evaluated", {"s": 14, "facecolors": "none", "edgecolors": FAINT, "zorder": 2}),
        (hit & withheld, "correct, refused", {**hollow, "edgecolors": CORRECT, "zorder": 3}),
        (miss & withheld, "wrong, refused", {**hollow, "edgecolors": WRONG, "marker": "s", "zorder": 3}),
        (hit & given, "correct", {"s": 20, "color": CORRECT, "linewidths": 0, "zorder": 4}),
        (miss & given, "wrong", {"s": 28, "color": WRONG, "marker": "x", "linewidths": 1.6, "zorder": 5}),
    ]
    for mask, label, look in looks:
        if mask.any():
            north, east = (queries[mask] - origin).T
            axes.scatter(east, north, label=f"{label} ({np.count_nonzero(mask)})", **look)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xlabel="easting, metres", ylabel="northing, metres")
    figures.legend_above(figure)
    return figures.png(figure)
