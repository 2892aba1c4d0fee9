"""Which retrievals to look at, and how they look: pictures of queries beside what was retrieved for them.

Only image files are opened, never clouds. Choices are a function of the seed and the results (common.randomness).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distilplace.common.decoding import decode_rgb
from distilplace.common.errors import UserError
from distilplace.common.randomness import generator
from distilplace.datasets.records import distance_text
from distilplace.evaluation.retrieval.runs import RetrievalResult

if TYPE_CHECKING:
    from PIL import Image

    from distilplace.datasets.records import EvaluationSet, PlaceRecord

RIGHT = "#1a9641"
WRONG = "#d7301f"
QUERY = "#4b5563"
_PAPER = "#ffffff"
_NOTHING = "#e5e7eb"


@dataclass(frozen=True)
class Example:
    """A query of one run, searched in the database of another, and which results are correct at rank 1."""

    database_run: int
    query_run: int
    query: int
    right: tuple[bool, ...]

    @property
    def outcome(self) -> str:
        """``right`` (all results), ``differ`` or ``wrong`` (all)."""
        return "right" if all(self.right) else ("differ" if any(self.right) else "wrong")


@dataclass(frozen=True)
class Retrieved:
    """A retrieved place: its record, whether it is right, and its distance from the query in the data set's unit."""

    record: "PlaceRecord"
    right: bool
    metres: float


def choose_examples(
    results: Sequence[RetrievalResult], evaluation_set: "EvaluationSet", count: int, seed: int
) -> list[Example]:
    """At most ``count`` queries: where results differ, all are right, all are wrong, in equal shares if possible.

    A query is shown once at most; queries with a picture go first.
    """
    groups: dict[str, list[Example]] = {"differ": [], "right": [], "wrong": []}
    for pair in results[0].pairs:
        m, n = pair.database_run, pair.query_run
        ranks = np.stack([result.pair(m, n).ranks for result in results])
        for query in np.flatnonzero((ranks > 0).all(axis=0)):
            example = Example(m, n, int(query), tuple(bool(rank == 1) for rank in ranks[:, query]))
            groups[example.outcome].append(example)
    queues: list[deque[Example]] = []
    for outcome, found in groups.items():
        order = [found[index] for index in generator(seed, "examples", outcome).permutation(len(found))]
        order.sort(key=lambda e: not evaluation_set.queries[e.query_run][e.query].images)
        queues.append(deque(order))
    chosen: dict[tuple[int, int], Example] = {}
    while len(chosen) < count and any(queues):
        for queue in queues:
            while queue:
                example = queue.popleft()
                if (example.query_run, example.query) not in chosen:
                    chosen[example.query_run, example.query] = example
                    break
    places = list(groups)
    return sorted(list(chosen.values())[:count], key=lambda example: places.index(example.outcome))


def retrieved(
    result: RetrievalResult, evaluation_set: "EvaluationSet", example: Example, k: int = 3
) -> list[Retrieved]:
    """What ``result`` ranks first for this query: at most ``k`` places that counted, nearest embedding first."""
    m, n, query = example.database_run, example.query_run, example.query
    asked = evaluation_set.queries[n][query]
    true_items = set(evaluation_set.query_sets[n][query].get(m, ()))
    found = []
    ranked = result.top(m, n, k, [query])[0]
    for index in ranked[ranked >= 0]:
        record = evaluation_set.database[m][index]
        metres = float(np.hypot(record.northing - asked.northing, record.easting - asked.easting))
        found.append(Retrieved(record, int(index) in true_items, metres))
    return found


def choose_frames(evaluation_set: "EvaluationSet", count: int, seed: int) -> "list[PlaceRecord]":
    """``count`` random places with pictures, out of all runs; each picture once."""
    places = {
        record.images[0]: record
        for side in (evaluation_set.database, evaluation_set.queries)
        for run in side
        for record in run
        if record.images
    }
    records = list(places.values())
    order = generator(seed, "frames").permutation(len(records))[:count]
    return [records[index] for index in sorted(order)]


def picture(record: "PlaceRecord", width: int) -> "Image.Image | None":
    """The place's nearest image, ``width`` pixels wide at most; None where there is no readable image."""
    from PIL import Image

    if not record.images:
        return None
    try:
        image = decode_rgb(record.images[0], upright=record.upright)
    except UserError:
        return None
    if image.width > width:
        image = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)
    return image


def example_retrievals(
    result: RetrievalResult,
    evaluation_set: "EvaluationSet",
    *,
    count: int = 6,
    k: int = 3,
    seed: int = 0,
    width: int = 160,
) -> NDArray[np.uint8]:
    """A contact sheet uint8 ``[H, W, 3]`` (RGB): each row a query and its first ``k`` places, right green, wrong red.

    For TensorBoard: ``add_image(tag, sheet, dataformats="HWC")``. ``width`` is that of one picture in pixels.
    """
    from PIL import Image

    rows = []
    for example in choose_examples([result], evaluation_set, count, seed):
        asked = evaluation_set.queries[example.query_run][example.query]
        row: list[tuple[Image.Image | None, str, str]] = [(picture(asked, width), QUERY, "query")]
        for place in retrieved(result, evaluation_set, example, k):
            apart = distance_text(place.metres, evaluation_set.unit, 0)
            label = f"{'right' if place.right else 'wrong'}, {apart}"
            row.append((picture(place.record, width), RIGHT if place.right else WRONG, label))
        rows.append(row)
    heights = [image.height for row in rows for image, _, _ in row if image is not None]
    height = max(heights, default=round(0.75 * width))
    strip, gap = 16, 6
    tile = (width + gap, height + strip + gap)
    sheet = Image.new("RGB", (tile[0] * (k + 1) + gap, tile[1] * max(1, len(rows)) + gap), _PAPER)
    for line, row in enumerate(rows):
        for column, (image, colour, label) in enumerate(row):
            _paste_tile(sheet, (gap + column * tile[0], gap + line * tile[1]), (width, height), image, colour, label)
    return np.asarray(sheet)


def _paste_tile(
    sheet: Any, corner: tuple[int, int], size: tuple[int, int], image: "Image.Image | None", colour: str, label: str
) -> None:
    """One bordered picture, centred in its tile, with its label below."""
    from PIL import ImageDraw, ImageFont

    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=11)
    (x, y), (width, height) = corner, size
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=_NOTHING)
    if image is None:
        draw.text((x + width // 2, y + height // 2), "no image", fill=QUERY, font=font, anchor="mm")
    else:
        sheet.paste(image, (x + (width - image.width) // 2, y + (height - image.height) // 2))
    draw.rectangle((x, y, x + width - 1, y + height - 1), outline=colour, width=3)
    draw.text((x + 1, y + height + 2), label, fill=colour, font=font)
