"""The report: one folder with ``index.html`` and its pictures, readable without a network.

Pictures are named by their content and written before the page, the page replaces its predecessor in one step, and only
then are pictures of an earlier report removed: at no moment does the page show something that is not there.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distilplace.common.files import atomic_path
from distilplace.datasets.records import distance_text, positions
from distilplace.evaluation.report import plots
from distilplace.evaluation.report.entries import ReportEntry, long_facts, short_facts
from distilplace.evaluation.report.picture_folder import PictureFolder, render
from distilplace.evaluation.report.pictures import Example, choose_examples, choose_frames, retrieved
from distilplace.evaluation.retrieval.intervals import interval_text
from distilplace.evaluation.retrieval.ranking import NEVER
from distilplace.evaluation.retrieval.runs import PairResult, RetrievalResult

if TYPE_CHECKING:
    from distilplace.datasets.records import EvaluationSet

TEMPLATE = "report.html.j2"
_OUTCOMES = {"right": "all correct", "differ": "results differ", "wrong": "all wrong"}
_OUTCOMES_OF_ONE = {"right": "right", "wrong": "wrong"}


def write_report(
    folder: Path | str,
    entries: Sequence[ReportEntry],
    evaluation_set: "EvaluationSet",
    *,
    title: str = "Place recognition report",
    notes: Sequence[str] = (),
    settings: Mapping[str, object] | None = None,
    seed: int = 0,
    examples: int = 9,
    frames: int = 12,
) -> Path:
    """Write ``folder/index.html`` and ``folder/images/`` and return the page's path.

    Args:
        folder: where; made if absent.
        entries: the models compared, all evaluated on ``evaluation_set`` (teacher first reads best).
        evaluation_set: the runs, places and true neighbours the results belong to.
        title: the page's heading.
        notes: lines shown as they are (what was chosen, what to keep in mind).
        settings: names and values, shown folded at the end.
        seed: chooses examples and frames.
        examples: how many queries to show with pictures.
        frames: how many random frames of the data set to show.

    """
    folder = Path(folder)
    _check_entries(entries, evaluation_set)
    images = PictureFolder(folder / "images")
    results = [entry.result for entry in entries]
    pair = _typical_pair(results)
    content = {
        "title": title,
        "set": evaluation_set,
        "reach": distance_text(evaluation_set.radius, evaluation_set.unit),
        "result": results[0],
        "metrics": sorted({result.metric for result in results}),
        "pair_count": len(results[0].pairs),
        "columns": _columns(entries),
        "rows": _rows(entries),
        "chance": _chance_row(results[0]),
        "reading": _reading(results[0]),
        "long_facts": long_facts(entries),
        "curves": images.add(plots.recall_curves({e.name: e.result.recall for e in entries}, results[0].chance), "png"),
        "routes": _routes(images, entries, evaluation_set, pair),
        "route_runs": (evaluation_set.runs[pair.database_run], evaluation_set.runs[pair.query_run]),
        "matrices": _matrices(images, entries, evaluation_set.runs),
        "examples": _examples(images, entries, evaluation_set, examples, seed),
        "frames": _frames(images, evaluation_set, frames, seed),
        "skipped": results[0].skipped_pairs,
        "notes": list(notes),
        "settings": {name: str(value) for name, value in (settings or {}).items()},
    }
    page = render(TEMPLATE, content)
    with atomic_path(folder / "index.html") as path:
        path.write_text(page, encoding="utf-8")
    images.remove_others()
    return folder / "index.html"


def _check_entries(entries: Sequence[ReportEntry], evaluation_set: "EvaluationSet") -> None:
    if not entries:
        raise ValueError("a report needs at least one entry")
    for entry in entries:
        if len(entry.result.runs) != len(evaluation_set.runs):
            raise ValueError(
                f"{entry.name!r} was evaluated on {len(entry.result.runs)} runs, not {len(evaluation_set.runs)}"
            )
        if _pairs(entry.result) != _pairs(entries[0].result):
            raise ValueError(f"{entry.name!r} and {entries[0].name!r} were evaluated on different pairs of runs")


def _pairs(result: RetrievalResult) -> list[tuple[int, int]]:
    return [(pair.database_run, pair.query_run) for pair in result.pairs]


def _typical_pair(results: Sequence[RetrievalResult]) -> PairResult:
    """The pair whose R@1, averaged over the entries, lies nearest to their mean; then the one with more queries."""
    matrix = np.mean([result.matrix(1) for result in results], axis=0)
    mean = np.mean([result.recall[1] for result in results])

    def distance(pair: PairResult) -> tuple[float, int]:
        return abs(float(matrix[pair.database_run, pair.query_run] - mean)), -pair.evaluated

    return min(results[0].pairs, key=distance)


def _columns(entries: Sequence[ReportEntry]) -> list[str]:
    return ["R@1", "R@5", "R@10", "R@1 %", *_extras(entries), *short_facts(entries)]


def _extras(entries: Sequence[ReportEntry]) -> list[str]:
    """Names of further measures, in order of appearance."""
    return list(dict.fromkeys(name for entry in entries for name in entry.result.extra))


def _recalls(recall: Mapping[int, float], one_percent: float) -> list[float | None]:
    return [recall.get(1), recall.get(5), recall.get(10), one_percent]


def _scores(entry: ReportEntry, extras: Sequence[str]) -> list[float | None]:
    return [
        *_recalls(entry.result.recall, entry.result.one_percent_recall),
        *(entry.result.extra.get(n) for n in extras),
    ]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _fraction(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _rows(entries: Sequence[ReportEntry]) -> list[dict[str, Any]]:
    """Table rows: the entry's colour in the plots, its measures (best of each column marked), its short facts."""
    extras = _extras(entries)
    scores = [_scores(entry, extras) for entry in entries]
    best = [max((value for value in column if value is not None), default=None) for column in zip(*scores, strict=True)]
    rows = []
    for index, entry in enumerate(entries):
        bounds = entry.result.intervals()
        cells = [
            {
                "interval": interval_text(bounds.get(_columns(entries)[column])),
                "text": _percent(value) if column < len(scores[index]) - len(extras) else _fraction(value),
                "best": len(entries) > 1 and value is not None and value == best[column],
            }
            for column, value in enumerate(scores[index])
        ]
        cells += [
            {"text": str(entry.facts.get(name, "-")), "best": False, "interval": ""} for name in short_facts(entries)
        ]
        rows.append({"name": entry.name, "colour": plots.PALETTE[index % len(plots.PALETTE)], "cells": cells})
    return rows


def _chance_row(result: RetrievalResult) -> list[str]:
    return [_percent(value) for value in _recalls(result.chance, result.one_percent_chance)]


def _reading(result: RetrievalResult) -> list[str]:
    """Sentences on how rankings were read, where that is not "every item of the other run counts"."""
    rules, count = result.rules, result.unmatched
    sentences = []
    if count:
        noun = "query without a match is" if count == 1 else "queries without a match are"
        miss = ("a miss" if count == 1 else "misses") if rules is not None and rules.unmatched == "miss" else ""
        sentences.append(f"{count} {noun} {'counted as ' + miss if miss else 'left out'}.")
    if rules is not None and rules.groups:
        sentences.append("Of every panorama only the best-ranked image counts.")
    if rules is not None and rules.excluded:
        sentences.append("What must not be retrieved for a query (itself, what is near in time) is removed first.")
    if rules is not None and rules.f1_radii is not None and result.extra:
        right, wrong = rules.f1_radii
        sentences.append(
            f"F1max: the largest F1 of first results over all thresholds of similarity, right within {right:g} m, "
            f"wrong beyond {wrong:g} m."
        )
    return sentences


def _routes(
    images: PictureFolder, entries: Sequence[ReportEntry], evaluation_set: "EvaluationSet", pair: PairResult
) -> list[dict[str, str]]:
    if evaluation_set.unit != "m":  # frame numbers make no map
        return []
    database = positions(evaluation_set.database[pair.database_run])
    queries = positions(evaluation_set.queries[pair.query_run])
    shown = []
    for entry in entries:
        own = entry.result.pair(pair.database_run, pair.query_run)
        link = images.add(plots.route(database, queries, own.ranks), "png")
        shown.append({"name": entry.name, "link": link, "recall": _percent(own.recall[1])})
    return shown


def _matrices(images: PictureFolder, entries: Sequence[ReportEntry], runs: Sequence[str]) -> list[dict[str, str]]:
    """Heat maps; none for a single pair, which the table already states."""
    if len(entries[0].result.pairs) < 2:
        return []
    return [{"name": e.name, "link": images.add(plots.run_matrix(e.result.matrix(1), runs), "png")} for e in entries]


def _examples(
    images: PictureFolder, entries: Sequence[ReportEntry], evaluation_set: "EvaluationSet", count: int, seed: int
) -> list[dict[str, Any]]:
    """The same queries for every entry; none where the data set has no pictures."""
    chosen = choose_examples([entry.result for entry in entries], evaluation_set, count, seed)
    words = _OUTCOMES if len(entries) > 1 else _OUTCOMES_OF_ONE
    shown = [
        {
            "outcome": words[example.outcome],
            "kind": example.outcome,
            "link": images.add_place(evaluation_set.queries[example.query_run][example.query]),
            "query": example.query,
            "query_run": evaluation_set.runs[example.query_run],
            "database_run": evaluation_set.runs[example.database_run],
            "retrieved": [_retrieved(images, entry, evaluation_set, example) for entry in entries],
        }
        for example in chosen
    ]
    return [item for item in shown if item["link"] is not None]


def _retrieved(
    images: PictureFolder, entry: ReportEntry, evaluation_set: "EvaluationSet", example: Example
) -> dict[str, Any]:
    places = retrieved(entry.result, evaluation_set, example)
    tiles = [
        {"link": images.add_place(p.record), "right": p.right, "apart": distance_text(p.metres, evaluation_set.unit, 1)}
        for p in places
    ]
    rank = entry.result.pair(example.database_run, example.query_run).ranks[example.query]
    return {"name": entry.name, "tiles": tiles, "rank": int(rank) if rank < NEVER else None}


def _frames(images: PictureFolder, evaluation_set: "EvaluationSet", count: int, seed: int) -> list[dict[str, str]]:
    shown = []
    for record in choose_frames(evaluation_set, count, seed):
        link = images.add_place(record)
        if link is not None:
            shown.append({"link": link, "run": record.run, "key": record.key})
    return shown
