"""Figures of pose, landmark and video results as PNG bytes, in the looks of :mod:`evaluation.report.plots`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distilplace.evaluation.report.plots import FAINT, INK, PALETTE, literal, panels, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GRID = "#e5e7eb"


def _panels(count: int, width: float, height: float) -> "tuple[Figure, list[Axes]]":
    """A figure of ``count`` axes side by side, with a grid."""
    figure, found = panels(count, width, height)
    for axes in found:
        axes.grid(color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, found


def _draw_named(
    figure: "Figure", panels: "Sequence[Axes]", curves: Sequence[Mapping[str, tuple[NDArray, NDArray]]]
) -> None:
    """One ``name -> (x, y)`` of staircase curves per panel, the same colours everywhere, one legend above."""
    for axes, named in zip(panels, curves, strict=True):
        for index, (name, (across, up)) in enumerate(named.items()):
            axes.plot(
                across,
                up,
                label=literal(name),  # not mathematics
                color=PALETTE[index % len(PALETTE)],
                linestyle="-" if index < len(PALETTE) else ":",
                linewidth=1.8,
                drawstyle="steps-post",
            )
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(3, len(labels)), frameon=False, fontsize=9)


def error_curves(errors: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> bytes:
    """Share of images (percent) within an error: metres left, degrees right.

    Args:
        errors: entry -> (metres [n], degrees [n]). Axes end where 95 % of the worst entry's images lie.

    """
    figure, panels = _panels(2, 8.6, 3.9)
    curves: list[dict[str, tuple[NDArray, NDArray]]] = []
    for index, (axes, unit) in enumerate(zip(panels, ("metres", "degrees"), strict=True)):
        end = max(max(float(np.nanpercentile(pair[index], 95)) for pair in errors.values()), 1e-6)
        curves.append({name: cumulative(pair[index], end) for name, pair in errors.items()})
        axes.set(xlim=(0, end), ylim=(0, 102), xlabel=f"error, {unit}")
    panels[0].set_ylabel("images within this error, percent")
    _draw_named(figure, panels, curves)
    return png(figure)


def cumulative(values: NDArray[np.float64], end: float) -> tuple[NDArray, NDArray]:
    """Sorted values from 0 to ``end`` and the percentage at or below each."""
    ordered = np.sort(values)
    share = 100.0 * np.arange(len(ordered) + 1) / len(ordered)
    within = np.searchsorted(ordered, end, side="right")
    return np.concatenate([[0.0], ordered[:within], [end]]), np.append(share[: within + 1], share[within])


def sorted_precisions(panels: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> bytes:
    """Average precision of every query (percent), best query first: one panel per protocol.

    Args:
        panels: protocol -> entry -> AP [Q] in 0..1; NaN where a query does not count.

    """
    figure, axes_list = _panels(len(panels), 4.3 * max(2, len(panels)), 3.9)
    curves = []
    for axes, (protocol, named) in zip(axes_list, panels.items(), strict=True):
        sorted_values = {name: 100 * np.sort(values[~np.isnan(values)])[::-1] for name, values in named.items()}
        curves.append(
            {name: (np.arange(len(v) + 1.0), np.append(v, v[-1:])) for name, v in sorted_values.items() if len(v)}
        )
        last = max((len(values) for values in sorted_values.values()), default=0)
        axes.set(xlim=(0, max(1, last)), ylim=(0, 102), xlabel=f"queries, best first ({last})")
        axes.set_title(protocol, fontsize=10, color=INK)
    axes_list[0].set_ylabel("average precision, percent")
    _draw_named(figure, axes_list, curves)
    return png(figure)


def widest_axes(positions: NDArray[np.float64]) -> tuple[int, int]:
    """The two of x, y, z (0, 1, 2) along which positions ``[n, 3]`` spread most, in their order."""
    first, second = sorted(np.argsort(-np.ptp(positions, axis=0), kind="stable")[:2])
    return int(first), int(second)


def plan_window(
    true: NDArray[np.float64], found: Sequence[NDArray[np.float64]]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Limits of both axes: all true positions ``[n, 2]`` and the middle 96 % of what was found, with a margin."""
    low, high = true.min(axis=0), true.max(axis=0)
    for positions in found:
        low = np.minimum(low, np.nanpercentile(positions, 2, axis=0))
        high = np.maximum(high, np.nanpercentile(positions, 98, axis=0))
    margin = 0.05 * np.maximum(high - low, 1e-3).max()
    (left, bottom), (right, top) = low - margin, high + margin
    return (float(left), float(right)), (float(bottom), float(top))


def camera_plan(
    true: NDArray[np.float64],
    found: NDArray[np.float64],
    names: tuple[str, str],
    window: tuple[tuple[float, float], tuple[float, float]],
    colour: str,
) -> bytes:
    """Camera positions ``[n, 2]`` in metres along two axes: true ones grey, found ones and error lines coloured."""
    from matplotlib.collections import LineCollection

    (left, right), (bottom, top) = window
    ratio = float(np.clip((top - bottom) / (right - left), 0.3, 1.2))
    figure, (axes,) = _panels(1, 4.4, 3.7 * ratio + 0.9)
    size = 16 if len(true) <= 200 else 7
    axes.scatter(true[:, 0], true[:, 1], s=2 * size, color=FAINT, linewidths=0, label="true", zorder=1)
    axes.add_collection(LineCollection(list(np.stack([true, found], axis=1)), colors=colour, linewidths=0.8, alpha=0.5))
    axes.scatter(found[:, 0], found[:, 1], s=size, color=colour, linewidths=0, label="found", zorder=3)
    inside = ((found >= (left, bottom)) & (found <= (right, top))).all(axis=1)
    if not inside.all():
        axes.plot([], [], linestyle="", label=f"{np.count_nonzero(~inside)} found outside this plan")
    axes.set(xlim=(left, right), ylim=(bottom, top), xlabel=f"{names[0]}, metres", ylabel=f"{names[1]}, metres")
    axes.set_aspect("equal", adjustable="box")
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=8, handletextpad=0.1, columnspacing=0.8)
    return png(figure)
