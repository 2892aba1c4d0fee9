"""The report's figures as PNG bytes. Matplotlib by its object API (Agg, no global state), loaded when drawing."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distilplace.evaluation.report.pictures import RIGHT, WRONG

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#4b5563")
INK = "#1f2937"
FAINT = "#9ca3af"


def panels(count: int, width: float, height: float) -> "tuple[Figure, list[Axes]]":
    """A figure (inches) of ``count`` axes side by side, in the report's looks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    found = list(figure.subplots(1, count, squeeze=False)[0])
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
        axes.tick_params(colors=INK, labelsize=9, length=3)
    return figure, found


def _figure(width: float, height: float) -> "tuple[Figure, Axes]":
    figure, (axes,) = panels(1, width, height)
    return figure, axes


def png(figure: "Figure") -> bytes:
    """The figure as a PNG file's content; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    # no software or date entry: the same results give the same bytes
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def short_name(name: str, length: int = 22) -> str:
    """A long name with its middle left out."""
    if len(name) <= length:
        return name
    tail = (length - 1) // 2
    return f"{name[: length - 1 - tail]}…{name[-tail:]}"


def literal(text: str) -> str:
    """Text that Matplotlib must not read as mathematics."""
    return text.replace("$", r"\$")


def recall_curves(curves: Mapping[str, Mapping[int, float]], chance: Mapping[int, float]) -> bytes:
    """Recall@1..k of every entry (percent), with the expected recall of a random ranking as a dashed line."""
    figure, axes = _figure(7.6, 3.9)
    for index, (name, recall) in enumerate(curves.items()):
        colour, line = PALETTE[index % len(PALETTE)], "o-" if index < len(PALETTE) else "o:"
        axes.plot(list(recall), list(recall.values()), line, label=literal(name), color=colour, linewidth=1.8, ms=3)
    axes.plot(list(chance), list(chance.values()), label="chance", color=FAINT, linewidth=1.2, linestyle="--")
    last = max(chance)
    axes.set(xlim=(0.5, last + 0.5), ylim=(0, 102), xlabel="N, places retrieved", ylabel="recall@N, percent")
    axes.set_xticks([rank for rank in (1, 5, 10, 15, 20, 25, last) if rank <= last])
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=9, loc="best")
    return png(figure)


def run_matrix(matrix: NDArray[np.float64], runs: Sequence[str]) -> bytes:
    """Recall@1 per pair: rows database runs, columns query runs; runs without a pair are left out, NaN stays blank."""
    present = ~np.isnan(matrix)
    rows, columns = np.flatnonzero(present.any(axis=1)), np.flatnonzero(present.any(axis=0))
    shown = matrix[np.ix_(rows, columns)]
    cell = 0.5 if max(shown.shape) <= 12 else 0.3
    figure, axes = _figure(max(3.2, 2.2 + cell * len(columns)), max(2.4, 1.5 + cell * len(rows)))
    image = axes.imshow(np.ma.masked_invalid(shown), cmap="viridis", vmin=0, vmax=100, aspect="auto")
    axes.set_facecolor("#f3f4f6")
    names = [literal(short_name(run)) for run in runs]
    axes.set_xticks(range(len(columns)), [names[index] for index in columns], rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(rows)), [names[index] for index in rows], fontsize=8)
    axes.set(xlabel="query run", ylabel="database run")
    if max(shown.shape) <= 12:
        for (row, column), value in np.ndenumerate(shown):
            if not np.isnan(value):
                ink = "white" if value < 60 else "black"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=ink)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=2)
    return png(figure)


def route(database: NDArray[np.float64], queries: NDArray[np.float64], ranks: NDArray[np.int64]) -> bytes:
    """The route seen from above, in metres from its south-west corner: hits, misses and queries that were not asked.

    Args:
        database: ``[N, 2]`` (northing, easting) of the database run.
        queries: ``[Q, 2]`` likewise.
        ranks: ``[Q]`` rank of the first hit, 0 = no true neighbour (not evaluated).

    """
    origin = np.vstack([database, queries]).min(axis=0)
    extent = np.maximum(np.vstack([database, queries]).max(axis=0) - origin, 1.0)
    ratio = float(np.clip(extent[0] / extent[1], 0.3, 1.2))
    figure, axes = _figure(4.4, 3.9 * ratio + 0.9)
    north, east = (database - origin).T
    axes.scatter(east, north, s=7, color="#d1d5db", label=f"database ({len(database)})", zorder=1)
    hit, unasked = ranks == 1, ranks == 0
    looks: list[tuple[NDArray[np.bool_], str, dict[str, Any]]] = [
        (
            unasked,
            "not evaluated",
            {"s": 14, "facecolors": "none", "edgecolors": FAINT, "zorder": 2},
        ),
        (hit, "hit", {"s": 18, "color": RIGHT, "linewidths": 0, "zorder": 3}),
        (~hit & ~unasked, "miss", {"s": 26, "color": WRONG, "marker": "x", "linewidths": 1.4, "zorder": 4}),
    ]
    for mask, label, look in looks:
        if mask.any():
            north, east = (queries[mask] - origin).T
            axes.scatter(east, north, label=f"{label} ({np.count_nonzero(mask)})", **look)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xlabel="easting, metres", ylabel="northing, metres")
    axes.grid(color="#f3f4f6", linewidth=0.8)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=8, handletextpad=0.1, columnspacing=0.8)
    return png(figure)
