"""What the report shows of videos: average precisions of all queries, some queries and the videos ranked first.

A strip is one picture: frames of a video, evenly spread over it, side by side.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distilplace.evaluation.report.entries import ReportEntry
from distilplace.evaluation.report.measured_examples import (
    THIRDS,
    check_counts,
    curve_sections,
    draw_by_thirds,
    query_sections,
)
from distilplace.evaluation.report.measured_parts import Example, Kind, Retrieved, Section, Tile
from distilplace.evaluation.report.picture_folder import PictureFolder
from distilplace.evaluation.report.pictures import picture

if TYPE_CHECKING:
    from distilplace.datasets.benchmarks import VideoSet
    from distilplace.datasets.records import PlaceRecord
    from distilplace.evaluation.videos import VideoResult

FRAMES = 5
SHOWN = 3
_HEIGHT = 120
_NOTHING = "#e5e7eb"


def video_sections(
    images: PictureFolder,
    entries: "Sequence[ReportEntry[VideoResult]]",
    benchmark: "VideoSet",
    seed: int,
    each: int = 2,
) -> list[Section]:
    """The report's sections, with ``each`` example queries of the best, the middle and the worst third.

    ValueError for a result with another number of queries than the set has.
    """
    panels = {
        panel: {entry.name: entry.result.average_precisions[measure] for entry in entries}
        for panel, measure in {"first 100": "mAP@100", "whole ranking": "mAP"}.items()
    }
    whole = panels["whole ranking"]
    check_counts(whole, len(benchmark.queries))
    pictured = [any(record.images for record in benchmark.videos[video]) for video in benchmark.queries]
    drawn = draw_by_thirds(whole, pictured, each, seed)
    text = f"Queries drawn from the best, the middle and the worst third, {FRAMES} frames of every video."
    legend: list[tuple[Kind, str, str]] = [("right", "green", "a near-duplicate"), ("wrong", "red", "anything else")]
    return [
        *curve_sections(images, panels, "Average precision of the query videos, best first."),
        *query_sections([_example(images, entries, benchmark, *item) for item in drawn], text, legend),
    ]


def _example(
    images: PictureFolder,
    entries: "Sequence[ReportEntry[VideoResult]]",
    benchmark: "VideoSet",
    third: str,
    query: int,
) -> Example:
    wanted = _near_duplicates(benchmark, query)
    numbers = [
        (entry.name, f"{100 * entry.result.average_precisions['mAP'][query]:.1f}", listed(entry.result.ranks[query]))
        for entry in entries
    ]
    video = benchmark.queries[query]
    return Example(
        third,
        THIRDS[third],
        f"query {video}: {len(wanted)} near-duplicate{'' if len(wanted) == 1 else 's'}",
        Tile(_strip(images, benchmark.videos[video]), "query"),
        number_names=("AP", "near-duplicates at ranks"),
        numbers=numbers,
        retrieved=_retrieved(images, entries, benchmark, query),
        strips=True,
    )


def _near_duplicates(benchmark: "VideoSet", query: int) -> list[str]:
    return [name for name, label in benchmark.labels[query].items() if label > 0]


def _retrieved(
    images: PictureFolder, entries: "Sequence[ReportEntry[VideoResult]]", benchmark: "VideoSet", query: int
) -> list[Retrieved]:
    """What every entry ranks first."""
    labels = benchmark.labels[query]
    shown = []
    for entry in entries:
        tiles = []
        for rank, name in enumerate(entry.result.first[query][:SHOWN], start=1):
            kind: Kind = "right" if labels.get(name, 0) > 0 else "wrong"
            tiles.append(Tile(_strip(images, benchmark.videos[name]), f"{rank}. {_said(labels, name)}", kind))
        shown.append(Retrieved(entry.name, "", tiles))
    return shown


def _said(labels: Mapping[str, int], name: str) -> str:
    """What the ground truth says of a result, and its name."""
    if name not in labels:
        return f"unlabelled: {name}"
    return f"{'near-duplicate' if labels[name] > 0 else 'no near-duplicate'}: {name}"


def listed(ranks: NDArray[np.int64], count: int = 8) -> str:
    """The first ``count`` ranks, and how many more there are."""
    shown = ", ".join(str(rank) for rank in ranks[:count])
    return f"{shown} and {len(ranks) - count} more" if len(ranks) > count else shown


def _strip(images: PictureFolder, frames: "Sequence[PlaceRecord]") -> str | None:
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
        tile = Image.new("RGB", (width, _HEIGHT), _NOTHING) if image is None else image.resize((width, _HEIGHT))
        strip.paste(tile, (place * (width + 2), 0))
    return images.add_image(strip)


def spread(length: int, count: int) -> list[int]:
    """At most ``count`` indices below ``length``, evenly spread, the first and the last among them."""
    return sorted({round(index) for index in np.linspace(0, length - 1, min(count, length))})
