"""How the report's figures look. Matplotlib by its object API (Agg, no global state), loaded when drawing."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#4b5563")
CORRECT = "#0072b2"
WRONG = "#c84e00"
"""Blue and orange: also apart for readers who do not tell red from green."""
INK = "#1f2937"
FAINT = "#9ca3af"
COLUMN = 3.5
"""Inches: how wide a plot is of which three stand side by side, so that its letters keep their size."""
GREY = "#e5e7eb"
"""Grids, and what has no picture."""


def colour_of(index: int) -> str:
    """The colour of entry ``index``, the same in every figure and table."""
    return PALETTE[index % len(PALETTE)]


def panels(
    count: int, width: float, height: float, grid: str | None = "both", *, stacked: bool = False
) -> "tuple[Figure, list[Axes]]":
    """A figure (inches) of ``count`` axes side by side, or one below the other; ``grid``: both, x, y or None."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    found = list(figure.subplots(*((count, 1) if stacked else (1, count)), squeeze=False).flat)
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
        axes.tick_params(colors=INK, labelsize=9, length=3)
        if grid is not None:
            axes.grid(axis=grid, color=GREY, linewidth=0.8)
            axes.set_axisbelow(True)
    return figure, found


def draw_steps(
    figure: "Figure", panels: "Sequence[Axes]", curves: Sequence[Mapping[str, tuple[NDArray, NDArray]]]
) -> None:
    """One ``name -> (x, y)`` of staircase curves per panel, the same colours everywhere, one legend above."""
    for axes, named in zip(panels, curves, strict=True):
        for index, (name, (across, up)) in enumerate(named.items()):
            line, colour = "-" if index < len(PALETTE) else ":", colour_of(index)
            axes.plot(across, up, line, label=literal(name), color=colour, linewidth=1.8, drawstyle="steps-post")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(3, len(labels)), frameon=False, fontsize=9)


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


def legend_above(figure: "Figure") -> None:
    """A legend of markers above the plot, two in a row."""
    look = {"frameon": False, "fontsize": 8, "handletextpad": 0.3, "columnspacing": 0.8}
    figure.legend(loc="outside upper left", ncols=2, **look)
