"""Pictures of place retrieval: queries beside what every entry retrieved for them, random frames of the data set.

Choices are a function of the seed and the results (common.randomness).
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from distilplace.common.randomness import generator
from distilplace.datasets.records import EvaluationSet, PlaceRecord, distance_text
from distilplace.evaluation.report.parts import Example, Material, Pictures, ReportEntry, Retrieved, Section, Tile
from distilplace.evaluation.report.sections.examples import Legend, example_section
from distilplace.evaluation.retrieval.ranking import NEVER
from distilplace.evaluation.retrieval.results import RetrievalResult

Places = Material[RetrievalResult, EvaluationSet]
Outcome = Literal["differ", "correct", "wrong"]
_STREAMS: Mapping[Outcome, str] = {"differ": "differ", "correct": "right", "wrong": "wrong"}
"""What examples are drawn by."""


@dataclass(frozen=True)
class ChosenQuery:
    """A query of one run, searched in the database of another, and which results are correct at rank 1."""

    database_run: int
    query_run: int
    query: int
    correct: tuple[bool, ...]

    @property
    def outcome(self) -> Outcome:
        """``correct`` (all results), ``differ`` or ``wrong`` (all)."""
        return "correct" if all(self.correct) else ("differ" if any(self.correct) else "wrong")


@dataclass(frozen=True)
class Found:
    """A retrieved item: its record, is it a true neighbour?, its distance from the query in the data set's unit."""

    record: PlaceRecord
    verdict: Literal["correct", "wrong"]
    distance: float


def place_examples(material: Places, count: int = 9) -> Section | None:
    """``count`` queries, the same for every entry; none where the data set has no pictures."""
    benchmark = material.benchmark
    chosen = choose_queries([entry.result for entry in material.entries], benchmark, count, material.seed)
    unit = "Metres" if benchmark.unit == "m" else benchmark.unit.capitalize()
    text = (
        "The same queries for every model, and the three database items that it ranks first. "
        f"{unit} from the query's true position."
    )
    legend: Legend = {"correct": ("blue", "a true neighbour"), "wrong": ("orange", "not")}
    return example_section([_example(material, each) for each in chosen], text, legend)


def _example(material: Places, chosen: ChosenQuery) -> Example:
    benchmark, outcome = material.benchmark, chosen.outcome
    all_of = "all " if len(material.entries) > 1 else ""
    return Example(
        tag="results differ" if outcome == "differ" else f"{all_of}{outcome}",
        verdict=outcome,
        heading=f"query {chosen.query} of {benchmark.runs[chosen.query_run]}, "
        f"searched in {benchmark.runs[chosen.database_run]}",
        query=Tile(material.images.add_record(benchmark.queries[chosen.query_run][chosen.query]), "query"),
        retrieved=[_ranked_first(material, entry, chosen) for entry in material.entries],
    )


def _ranked_first(material: Places, entry: ReportEntry[RetrievalResult], chosen: ChosenQuery) -> Retrieved:
    tiles = []
    for place, found in enumerate(retrieved(entry.result, material.benchmark, chosen), start=1):
        text = f"{place}. {found.verdict}, {distance_text(found.distance, material.benchmark.unit, 1)}"
        tiles.append(Tile(material.images.add_record(found.record), text, found.verdict))
    rank = int(entry.result.pair(chosen.database_run, chosen.query_run).ranks[chosen.query])
    text = f"first correct result at rank {rank}" if rank < NEVER else "no correct result at any rank"
    return Retrieved(entry.name, text, tiles)


def choose_queries(
    results: Sequence[RetrievalResult], evaluation_set: EvaluationSet, count: int, seed: int
) -> list[ChosenQuery]:
    """At most ``count`` queries: where results differ, all are correct, all are wrong, in equal shares if possible.

    A query is shown once at most; queries with a picture go first.
    """
    groups: dict[Outcome, list[ChosenQuery]] = {outcome: [] for outcome in _STREAMS}
    for pair in results[0].pairs:
        m, n = pair.database_run, pair.query_run
        ranks = np.stack([result.pair(m, n).ranks for result in results])
        for query in np.flatnonzero((ranks > 0).all(axis=0)):
            example = ChosenQuery(m, n, int(query), tuple(bool(rank == 1) for rank in ranks[:, query]))
            groups[example.outcome].append(example)
    queues: list[deque[ChosenQuery]] = []
    for outcome, found in groups.items():
        order = [found[index] for index in generator(seed, "examples", _STREAMS[outcome]).permutation(len(found))]
        order.sort(key=lambda e: not evaluation_set.queries[e.query_run][e.query].images)
        queues.append(deque(order))
    chosen: dict[tuple[int, int], ChosenQuery] = {}
    while len(chosen) < count and any(queues):
        for queue in queues:
            while queue:
                example = queue.popleft()
                if (example.query_run, example.query) not in chosen:
                    chosen[example.query_run, example.query] = example
                    break
    order_of = list(groups)
    return sorted(list(chosen.values())[:count], key=lambda example: order_of.index(example.outcome))


def retrieved(result: RetrievalResult, evaluation_set: EvaluationSet, chosen: ChosenQuery, k: int = 3) -> list[Found]:
    """What ``result`` ranks first for this query: at most ``k`` items that counted, nearest embedding first."""
    m, n = chosen.database_run, chosen.query_run
    query = evaluation_set.queries[n][chosen.query]
    true_items = set(evaluation_set.query_sets[n][chosen.query].get(m, ()))
    found = []
    ranked = result.top(m, n, k, [chosen.query])[0]
    for index in ranked[ranked >= 0].tolist():
        record = evaluation_set.database[m][index]
        found.append(Found(record, "correct" if index in true_items else "wrong", metres_between(query, record)))
    return found


def metres_between(one: PlaceRecord, other: PlaceRecord) -> float:
    """How far apart two records lie, in the data set's unit."""
    return float(np.hypot(one.northing - other.northing, one.easting - other.easting))


def random_frames(material: Places, count: int = 12) -> Section | None:
    """``count`` random frames of the data set; none where it has no pictures."""
    records = choose_frames(material.benchmark, count, material.seed)
    tiles = [Tile(material.images.add_record(record), record.run, title=record.key) for record in records]
    shown = [tile for tile in tiles if tile.link is not None]
    return Section("Random frames of the data set", [Pictures(shown, "gallery")]) if shown else None


def choose_frames(evaluation_set: EvaluationSet, count: int, seed: int) -> list[PlaceRecord]:
    """``count`` random records with pictures, out of all runs; each picture once."""
    sides = (evaluation_set.database, evaluation_set.queries)
    found = {record.images[0]: record for side in sides for run in side for record in run if record.images}
    records = list(found.values())
    order = generator(seed, "frames").permutation(len(records))[:count]
    return [records[index] for index in sorted(order)]
