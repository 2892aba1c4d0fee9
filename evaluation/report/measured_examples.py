"""What reports of landmarks and of videos share: average precisions query by query, and which queries to look at."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from distilplace.common.randomness import generator
from distilplace.evaluation.report import measured_plots
from distilplace.evaluation.report.measured_parts import Example, Kind, Section
from distilplace.evaluation.report.picture_folder import PictureFolder

Precisions = Mapping[str, NDArray[np.float64]]
"""Entry -> average precision [Q], 0 to 1; NaN where a query does not count."""

THIRDS: Mapping[str, Kind] = {"best third": "right", "middle third": "middle", "worst third": "wrong"}


def check_counts(precisions: Precisions, queries: int) -> None:
    """ValueError for an entry with another number of queries."""
    for name, values in precisions.items():
        if len(values) != queries:
            raise ValueError(f"{name!r} has results of {len(values)} queries, not {queries}")


def draw_by_thirds(precisions: Precisions, pictured: Sequence[bool], each: int, seed: int) -> list[tuple[str, int]]:
    """Name of the third and query: ``each`` queries of every third by average precision, best third first.

    Args:
        precisions: their mean over the entries orders the queries.
        pictured: [Q], whether a query has a picture; those without are not drawn.
        each: how many of every third.
        seed: what is drawn is a function of it and the results.

    """
    mean = np.mean(list(precisions.values()), axis=0)
    usable = np.flatnonzero(~np.isnan(mean) & np.asarray(pictured, dtype=bool))
    order = usable[np.argsort(-mean[usable], kind="stable")]
    drawn = []
    for tag, third in zip(THIRDS, np.array_split(order, 3), strict=True):
        places = generator(seed, "answers", tag).permutation(len(third))[:each]
        drawn += [(tag, int(third[place])) for place in sorted(places)]
    return drawn


def curve_sections(images: PictureFolder, panels: Mapping[str, Precisions], text: str) -> list[Section]:
    """One plot, a panel per protocol under which a query counts; no section where none does."""
    counted = {
        protocol: named
        for protocol, named in panels.items()
        if not all(np.isnan(values).all() for values in named.values())
    }
    if not counted:
        return []
    plot = images.add(measured_plots.sorted_precisions(counted), "png")
    return [Section("Query by query", f"{text} Every curve has its own order of queries.", plot=plot)]


def query_sections(examples: Sequence[Example], text: str, legend: Sequence[tuple[Kind, str, str]]) -> list[Section]:
    """The examples whose query has a picture that can be read.

    ``legend``: what is said of the kinds of tiles, where they occur. No section where no picture can be read.
    """
    readable = [example for example in examples if example.asked.link is not None]
    shown = {tile.kind for example in readable for result in example.retrieved for tile in result.tiles}
    kept = [line for line in legend if line[0] in shown]
    return [Section("Queries and retrieved places", text, legend=kept, examples=readable)] if readable else []


def precision_text(value: float) -> str:
    """An average precision (0 to 1) beside what an entry retrieved."""
    return f"average precision {100 * value:.1f}"
