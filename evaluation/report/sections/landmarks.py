"""Landmarks: average precisions of all queries, some queries and the images ranked first."""

from distilplace.datasets.benchmarks import LandmarkSet
from distilplace.evaluation.landmarks import LandmarkResult
from distilplace.evaluation.report.parts import Example, Material, Retrieved, Section, Tile, Verdict
from distilplace.evaluation.report.sections.examples import Legend, example_section
from distilplace.evaluation.report.sections.precisions import THIRDS, Precisions, draw_by_thirds, query_by_query

Landmarks = Material[LandmarkResult, LandmarkSet]
RESULTS = 5
_VERDICTS: dict[str, Verdict] = {"easy": "correct", "hard": "correct", "junk": "ignored", "wrong": "wrong"}
_LEGEND: Legend = {
    "correct": ("blue", "an easy or hard image of the landmark"),
    "ignored": ("grey", "junk, which is ignored"),
    "wrong": ("orange", "anything else"),
}


def landmark_precisions(material: Landmarks) -> Section | None:
    """Average precision of every query under the medium and the hard protocol."""
    panels = {protocol: _precisions(material, protocol) for protocol in ("medium", "hard")}
    return query_by_query(material.images, panels, "queries")


def landmark_examples(material: Landmarks, each: int = 2) -> Section | None:
    """``each`` queries of the best, the middle and the worst third, and the images ranked first."""
    queries = material.benchmark.queries
    pictured = [bool(record.images) for record in queries]
    drawn = draw_by_thirds(_precisions(material, "medium"), pictured, each, material.seed)
    text = "Queries of the best, the middle and the worst third under the medium protocol; the images ranked first."
    if any(record.crop is not None for record in queries):
        text += " The yellow frame is what the models saw of the query."
    return example_section([_example(material, *item) for item in drawn], text, _LEGEND, "boxes")


def _precisions(material: Landmarks, protocol: str) -> Precisions:
    return {entry.name: entry.result.scores[protocol].average_precisions for entry in material.entries}


def _example(material: Landmarks, third: str, query: int) -> Example:
    benchmark, images = material.benchmark, material.images
    lists = {"easy": benchmark.easy[query], "hard": benchmark.hard[query], "junk": benchmark.junk[query]}
    names = {int(index): name for name, indices in lists.items() for index in indices}
    retrieved = []
    for entry in material.entries:
        tiles = []
        for rank, index in enumerate(entry.result.top(RESULTS, [query])[0].tolist(), start=1):
            name = names.get(index, "wrong")
            tiles.append(Tile(images.add_record(benchmark.database[index]), f"{rank}. {name}", _VERDICTS[name]))
        precision = entry.result.scores["medium"].average_precisions[query]
        retrieved.append(Retrieved(entry.name, f"average precision {100 * precision:.1f}", tiles))
    record = benchmark.queries[query]
    heading = f"{record.key}: {len(lists['easy'])} easy and {len(lists['hard'])} hard images to be found"
    return Example(third, THIRDS[third], heading, Tile(images.add_record(record), "query"), retrieved=retrieved)
