"""Videos: average precisions of all queries, some queries and the videos ranked first.

A strip is one picture: frames of a video, evenly spread over it, side by side.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from distilplace.datasets.benchmarks import VideoSet
from distilplace.datasets.records import PlaceRecord
from distilplace.evaluation.report.figures import GREY
from distilplace.evaluation.report.parts import Example, Material, Retrieved, Section, Table, Tile, Verdict
from distilplace.evaluation.report.pictures import PictureFolder, picture
from distilplace.evaluation.report.sections.examples import Legend, example_section
from distilplace.evaluation.report.sections.precisions import THIRDS, Precisions, draw_by_thirds, query_by_query
from distilplace.evaluation.videos import VideoResult

Videos = Material[VideoResult, VideoSet]
FRAMES = 5
SHOWN = 3
_HEIGHT = 120
_LEGEND: Legend = {"correct": ("blue", "a near-duplicate"), "wrong": ("orange", "anything else")}


def video_precisions(material: Videos) -> Section | None:
    """Average precision of every query over the first 100 and over the whole ranking."""
    panels = {"first 100": _precisions(material, "mAP@100"), "whole ranking": _precisions(material, "mAP")}
    return query_by_query(material.images, panels, "query videos")


def video_examples(material: Videos, each: int = 2) -> Section | None:
    """``each`` queries of the best, the middle and the worst third, and the videos ranked first."""
    benchmark = material.benchmark
    pictured = [any(record.images for record in benchmark.videos[video]) for video in benchmark.queries]
    drawn = draw_by_thirds(_precisions(material, "mAP"), pictured, each, material.seed)
    text = f"Queries drawn from the best, the middle and the worst third, {FRAMES} frames of every video."
    return example_section([_example(material, *item) for item in drawn], text, _LEGEND, "strips")


def _precisions(material: Videos, measure: str) -> Precisions:
    return {entry.name: entry.result.average_precisions[measure] for entry in material.entries}


def _example(material: Videos, third: str, query: int) -> Example:
    benchmark, images = material.benchmark, material.images
    video, labels = benchmark.queries[query], benchmark.labels[query]
    count = sum(label > 0 for label in labels.values())
    numbers, retrieved = [], []
    for entry in material.entries:
        precision = 100 * entry.result.average_precisions["mAP"][query]
        numbers.append((entry.name, f"{precision:.1f}", listed(entry.result.ranks[query])))
        tiles = []
        for rank, name in enumerate(entry.result.first[query][:SHOWN], start=1):
            verdict: Verdict = "correct" if labels.get(name, 0) > 0 else "wrong"
            tiles.append(Tile(_strip(images, benchmark.videos[name]), f"{rank}. {_label(labels, name)}", verdict))
        retrieved.append(Retrieved(entry.name, "", tiles))
    return Example(
        third,
        THIRDS[third],
        f"query {video}: {count} near-duplicate{'' if count == 1 else 's'}",
        Tile(_strip(images, benchmark.videos[video]), "query"),
        Table(("model", "AP", "near-duplicates at ranks"), numbers, "numbers"),
        retrieved,
    )


def _label(labels: Mapping[str, int], name: str) -> str:
    """What the ground truth says of a result, and its name."""
    if name not in labels:
        return f"unlabelled: {name}"
    return f"{'near-duplicate' if labels[name] > 0 else 'no near-duplicate'}: {name}"


def listed(ranks: NDArray[np.int64], count: int = 8) -> str:
    """The first ``count`` ranks, and how many more there are."""
    shown = ", ".join(str(rank) for rank in ranks[:count])
    return f"{shown} and {len(ranks) - count} more" if len(ranks) > count else shown


def _strip(images: PictureFolder, frames: Sequence[PlaceRecord]) -> str | None:
    """The link of a video's strip, frames that cannot be read left grey; None where none can."""
    from PIL import Image

    chosen = [frames[index] for index in spread(len(frames), FRAMES)]
    pictures = [picture(record, 2 * _HEIGHT) for record in chosen]
    readable = [image for image in pictures if image is not None]
    if not readable:
        return None
    width = max(1, round(readable[0].width * _HEIGHT / readable[0].height))
    strip = Image.new("RGB", (len(pictures) * (width + 2) - 2, _HEIGHT), "white")
    for place, image in enumerate(pictures):
        tile = Image.new("RGB", (width, _HEIGHT), GREY) if image is None else image.resize((width, _HEIGHT))
        strip.paste(tile, (place * (width + 2), 0))
    return images.add_image(strip)


def spread(length: int, count: int) -> list[int]:
    """At most ``count`` indices below ``length``, evenly spread, the first and the last among them."""
    return sorted({round(index) for index in np.linspace(0, length - 1, min(count, length))})
