"""Example retrievals of place recognition as one picture, for TensorBoard."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distilplace.datasets.records import EvaluationSet, distance_text
from distilplace.evaluation.report.figures import CORRECT, GREY, WRONG
from distilplace.evaluation.report.pictures import picture
from distilplace.evaluation.report.sections.places import choose_queries, retrieved
from distilplace.evaluation.retrieval.results import RetrievalResult

if TYPE_CHECKING:
    from PIL import Image

_QUERY = "#4b5563"


def example_retrievals(
    result: RetrievalResult,
    evaluation_set: EvaluationSet,
    *,
    count: int = 6,
    k: int = 3,
    seed: int = 0,
    width: int = 160,
) -> NDArray[np.uint8]:
    """A sheet uint8 ``[H, W, 3]`` (RGB): each row a query and what it retrieves first, correct blue, wrong orange.

    For TensorBoard: ``add_image(tag, sheet, dataformats="HWC")``. ``width`` is that of one picture in pixels.
    """
    from PIL import Image

    rows = []
    for chosen in choose_queries([result], evaluation_set, count, seed):
        query = evaluation_set.queries[chosen.query_run][chosen.query]
        row: list[tuple[Image.Image | None, str, str]] = [(picture(query, width), _QUERY, "query")]
        for found in retrieved(result, evaluation_set, chosen, k):
            label = f"{found.verdict}, {distance_text(found.distance, evaluation_set.unit, 0)}"
            row.append((picture(found.record, width), CORRECT if found.verdict == "correct" else WRONG, label))
        rows.append(row)
    heights = [image.height for row in rows for image, _, _ in row if image is not None]
    height = max(heights, default=round(0.75 * width))
    strip, gap = 16, 6
    tile = (width + gap, height + strip + gap)
    sheet = Image.new("RGB", (tile[0] * (k + 1) + gap, tile[1] * max(1, len(rows)) + gap), "white")
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
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=GREY)
    if image is None:
        draw.text((x + width // 2, y + height // 2), "no image", fill=_QUERY, font=font, anchor="mm")
    else:
        sheet.paste(image, (x + (width - image.width) // 2, y + (height - image.height) // 2))
    draw.rectangle((x, y, x + width - 1, y + height - 1), outline=colour, width=3)
    draw.text((x + 1, y + height + 2), label, fill=colour, font=font)
