"""What the report shows of landmarks: average precisions of all queries, some queries and the images ranked first."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from distilplace.evaluation.report.entries import ReportEntry
from distilplace.evaluation.report.measured_examples import (
    THIRDS,
    check_counts,
    curve_sections,
    draw_by_thirds,
    precision_text,
    query_sections,
)
from distilplace.evaluation.report.measured_parts import Example, Kind, Retrieved, Section, Tile
from distilplace.evaluation.report.picture_folder import PictureFolder

if TYPE_CHECKING:
    from distilplace.datasets.benchmarks import LandmarkSet
    from distilplace.evaluation.landmarks import LandmarkResult

RESULTS = 5
_KINDS: dict[str, Kind] = {"easy": "right", "hard": "right", "junk": "ignored", "wrong": "wrong"}
_LEGEND: list[tuple[Kind, str, str]] = [
    ("right", "green", "an easy or hard image of the landmark"),
    ("ignored", "grey", "junk, which is ignored"),
    ("wrong", "red", "anything else"),
]


def landmark_sections(
    images: PictureFolder,
    entries: "Sequence[ReportEntry[LandmarkResult]]",
    benchmark: "LandmarkSet",
    seed: int,
    each: int = 2,
) -> list[Section]:
    """The report's sections, with ``each`` example queries of the best, the middle and the worst third.

    ValueError for a result with another number of queries than the set has.
    """
    medium = {entry.name: entry.result.scores["medium"].average_precisions for entry in entries}
    hard = {entry.name: entry.result.scores["hard"].average_precisions for entry in entries}
    check_counts(medium, len(benchmark.queries))
    drawn = draw_by_thirds(medium, [bool(record.images) for record in benchmark.queries], each, seed)
    text = "Queries of the best, the middle and the worst third under the medium protocol; the images ranked first."
    if any(record.crop is not None for record in benchmark.queries):
        text += " The yellow frame is what the models saw of the query."
    return [
        *curve_sections(images, {"medium": medium, "hard": hard}, "Average precision of the queries, best first."),
        *query_sections([_example(images, entries, benchmark, *item) for item in drawn], text, _LEGEND),
    ]


def _example(
    images: PictureFolder,
    entries: "Sequence[ReportEntry[LandmarkResult]]",
    benchmark: "LandmarkSet",
    third: str,
    query: int,
) -> Example:
    lists = {"easy": benchmark.easy[query], "hard": benchmark.hard[query], "junk": benchmark.junk[query]}
    names = {int(index): name for name, indices in lists.items() for index in indices}
    retrieved = []
    for entry in entries:
        tiles = []
        for rank, index in enumerate(entry.result.top(RESULTS, [query])[0], start=1):
            name = names.get(int(index), "wrong")
            tiles.append(Tile(images.add_place(benchmark.database[index]), f"{rank}. {name}", _KINDS[name]))
        retrieved.append(
            Retrieved(entry.name, precision_text(entry.result.scores["medium"].average_precisions[query]), tiles)
        )
    record = benchmark.queries[query]
    heading = f"{record.key}: {len(lists['easy'])} easy and {len(lists['hard'])} hard images to be found"
    return Example(third, THIRDS[third], heading, Tile(images.add_place(record), "query"), retrieved=retrieved)
