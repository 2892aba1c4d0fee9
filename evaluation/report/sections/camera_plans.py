"""Camera poses: true and predicted positions on a plan."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distilplace.evaluation.report import figures
from distilplace.evaluation.report.parts import Pictures, Section, Tile
from distilplace.evaluation.report.sections.poses import Poses


def camera_plans(material: Poses) -> Section:
    """All positions seen along the axis in which they spread least; the same window for every entry."""
    true = material.benchmark.poses[:, :3]
    seen = list(widest_axes(true))
    names = "xyz"[seen[0]], "xyz"[seen[1]]
    found = [entry.result.found[:, seen] for entry in material.entries]
    window = plan_window(true[:, seen], found)
    tiles = []
    for index, (entry, positions) in enumerate(zip(material.entries, found, strict=True)):
        plan = draw_plan(true[:, seen], positions, names, window, figures.colour_of(index))
        tiles.append(Tile(material.images.add(plan, "png"), f"{entry.name}: {entry.result.summary}"))
    text = f"True (grey) and found positions of the cameras in {names[0]} and {names[1]}, the axes of largest spread."
    return Section("Camera positions", [text, Pictures(tiles, "columns")])


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


def draw_plan(
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
    figure, (axes,) = figures.panels(1, figures.COLUMN, 2.9 * ratio + 0.9)
    size = 16 if len(true) <= 200 else 7
    axes.scatter(true[:, 0], true[:, 1], s=2 * size, color=figures.FAINT, linewidths=0, label="true", zorder=1)
    axes.add_collection(LineCollection(list(np.stack([true, found], axis=1)), colors=colour, linewidths=0.8, alpha=0.5))
    axes.scatter(found[:, 0], found[:, 1], s=size, color=colour, linewidths=0, label="found", zorder=3)
    inside = ((found >= (left, bottom)) & (found <= (right, top))).all(axis=1)
    if not inside.all():
        axes.plot([], [], linestyle="", label=f"{np.count_nonzero(~inside)} found outside this plan")
    axes.set(xlim=(left, right), ylim=(bottom, top), xlabel=f"{names[0]}, metres", ylabel=f"{names[1]}, metres")
    axes.set_aspect("equal", adjustable="box")
    figures.legend_above(figure)
    return figures.png(figure)
