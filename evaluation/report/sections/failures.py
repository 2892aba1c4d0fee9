"""The worst failures: wrong first results that the model is most sure of."""

import numpy as np

from distilplace.datasets.records import EvaluationSet, PlaceRecord, distance_text
from distilplace.evaluation.report.parts import ReportEntry, Section, Tile, TileRow, TileRows
from distilplace.evaluation.report.pictures import PictureFolder
from distilplace.evaluation.report.sections.places import Places, metres_between
from distilplace.evaluation.retrieval.predictions import Predictions
from distilplace.evaluation.retrieval.results import RetrievalResult

EACH = 4
WIDTH = 240
"""Pixels: six of them stand side by side."""


def failures(material: Places, each: int = EACH) -> Section | None:
    """``each`` wrong first results of every entry, most similar first; None where there is none with pictures."""
    groups = [made for entry in material.entries if (made := _failures_of(material, entry, each)) is not None]
    if not groups:
        return None
    text = (
        "Wrong first results with the highest similarity, each query once: the query, what was retrieved, and the true "
        "place nearest to the query."
    )
    return Section("Worst failures", [text, *groups])


def _failures_of(material: Places, entry: ReportEntry[RetrievalResult], each: int) -> TileRows | None:
    if entry.predictions is None:
        return None
    rows: list[TileRow] = []
    worst = most_confident_errors(entry.predictions)
    asked, found = worst.query_rows(), worst.retrieved_rows()
    shown: set[frozenset[str]] = set()
    for row in range(len(worst)):
        frames = frozenset((worst.queries.keys[asked[row]], worst.database.keys[found[row]]))
        if len(rows) == each:
            break
        if frames in shown:  # two runs that take a pair of frames for one another fail alike
            continue
        tiles = _tiles(material.images, material.benchmark, worst, row)
        if all(tile.link is not None for tile in tiles):
            shown.add(frames)
            query, runs = int(worst["query"][row]), material.benchmark.runs
            where = f"query {query} of {runs[worst['query_run'][row]]} in {runs[worst['database_run'][row]]}"
            rows.append(TileRow(f"similarity {worst['similarity'][row]:.3f}: {where}{_rank(worst, row)}", tiles))
    return TileRows(entry.name, rows) if rows else None


def most_confident_errors(predictions: Predictions) -> Predictions:
    """Wrong first results of evaluated queries that have a true place, most similar first, each query once."""
    first = predictions.first()
    wrong = first["evaluated"] & ~first["correct"] & (first["positives"] > 0) & (first["retrieved"] >= 0)
    first = first.where(wrong)
    first = first.take(np.argsort(-first["similarity"], kind="stable"))
    _, kept = np.unique(first.query_rows(), return_index=True)
    return first.take(np.sort(kept))


def _rank(predictions: Predictions, row: int) -> str:
    rank = int(predictions["first_correct"][row])
    return f", first correct at rank {rank}" if rank else ""


def _tiles(images: PictureFolder, test: EvaluationSet, errors: Predictions, row: int) -> list[Tile]:
    m, n, query = (int(errors[name][row]) for name in ("database_run", "query_run", "query"))
    asked = test.queries[n][query]
    found = test.database[m][int(errors["retrieved"][row])]
    matches = [test.database[m][index] for index in test.query_sets[n][query][m]]
    true = min(matches, key=lambda record: metres_between(asked, record))

    def away(record: PlaceRecord) -> str:
        return distance_text(metres_between(asked, record), test.unit, 1)

    return [
        Tile(images.add_record(asked, WIDTH), "query"),
        Tile(images.add_record(found, WIDTH), f"retrieved, {away(found)}", "wrong"),
        Tile(images.add_record(true, WIDTH), f"true place, {away(true)}", "correct"),
    ]
