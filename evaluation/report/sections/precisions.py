"""What sections of landmarks and of videos share: average precisions query by query, and which queries to look at."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from distilplace.common.randomness import generator
from distilplace.evaluation.report import figures
from distilplace.evaluation.report.parts import Section, Verdict, wide_plot
from distilplace.evaluation.report.pictures import PictureFolder

Precisions = Mapping[str, NDArray[np.float64]]
"""Entry -> average precision [Q], 0 to 1; NaN where a query does not count."""

THIRDS: Mapping[str, Verdict] = {"best third": "correct", "middle third": "middle", "worst third": "wrong"}


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


def query_by_query(images: PictureFolder, panels: Mapping[str, Precisions], noun: str) -> Section | None:
    """One plot, a panel per protocol under which a query counts; None where none does."""
    counted = {
        protocol: named
        for protocol, named in panels.items()
        if not all(np.isnan(values).all() for values in named.values())
    }
    if not counted:
        return None
    text = f"Average precision of the {noun}, best first. Every curve has its own order of queries."
    return Section("Query by query", [text, wide_plot(images.add(draw_precisions(counted), "png"))])


def draw_precisions(panels: Mapping[str, Precisions]) -> bytes:
    """Average precision of every query (percent), best query first: one panel per protocol."""
    figure, axes_list = figures.panels(len(panels), 4.3 * max(2, len(panels)), 3.9)
    curves = []
    for axes, (protocol, named) in zip(axes_list, panels.items(), strict=True):
        sorted_values = {name: 100 * np.sort(values[~np.isnan(values)])[::-1] for name, values in named.items()}
        curves.append(
            {name: (np.arange(len(v) + 1.0), np.append(v, v[-1:])) for name, v in sorted_values.items() if len(v)}
        )
        last = max((len(values) for values in sorted_values.values()), default=0)
        axes.set(xlim=(0, max(1, last)), ylim=(0, 102), xlabel=f"queries, best first ({last})")
        axes.set_title(protocol, fontsize=10, color=figures.INK)
    axes_list[0].set_ylabel("average precision, percent")
    figures.draw_steps(figure, axes_list, curves)
    return figures.png(figure)
