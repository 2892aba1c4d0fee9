"""Camera poses: error curves, images with small, middling and large errors."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from distilplace.datasets.benchmarks import PoseSet
from distilplace.evaluation.poses import PoseResult
from distilplace.evaluation.report import figures
from distilplace.evaluation.report.parts import Example, Examples, Material, Section, Table, Tile, Verdict, wide_plot

Poses = Material[PoseResult, PoseSet]


def pose_errors(material: Poses) -> Section:
    """Share of the images within an error, metres and degrees."""
    plot = draw_errors({entry.name: (entry.result.metres, entry.result.degrees) for entry in material.entries})
    text = (
        "Share of the images whose pose is found within an error. The axes end where 95 percent of the images of the "
        "worst model lie."
    )
    return Section("Errors", [text, wide_plot(material.images.add(plot, "png"))])


def draw_errors(errors: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> bytes:
    """Share of images (percent) within an error: metres left, degrees right.

    Args:
        errors: entry -> (metres [n], degrees [n]). Axes end where 95 % of the worst entry's images lie.

    """
    figure, panels = figures.panels(2, 8.6, 3.9)
    curves: list[dict[str, tuple[NDArray, NDArray]]] = []
    for index, (axes, unit) in enumerate(zip(panels, ("metres", "degrees"), strict=True)):
        end = max(max(float(np.nanpercentile(pair[index], 95)) for pair in errors.values()), 1e-6)
        curves.append({name: cumulative(pair[index], end) for name, pair in errors.items()})
        axes.set(xlim=(0, end), ylim=(0, 102), xlabel=f"error, {unit}")
    panels[0].set_ylabel("images within this error, percent")
    figures.draw_steps(figure, panels, curves)
    return figures.png(figure)


def cumulative(values: NDArray[np.float64], end: float) -> tuple[NDArray, NDArray]:
    """Sorted values from 0 to ``end`` and the percentage at or below each."""
    ordered = np.sort(values)
    share = 100.0 * np.arange(len(ordered) + 1) / len(ordered)
    within = np.searchsorted(ordered, end, side="right")
    return np.concatenate([[0.0], ordered[:within], [end]]), np.append(share[: within + 1], share[within])


def pose_examples(material: Poses, each: int = 2) -> Section | None:
    """``each`` images from both ends and the middle of the errors; None where no picture can be read."""
    benchmark, entries = material.benchmark, material.entries
    shown = []
    for tag, verdict, index in choose_by_error(np.mean([e.result.metres for e in entries], axis=0), each):
        record = benchmark.records[index]
        position = ", ".join(f"{value:.2f}" for value in benchmark.poses[index, :3])
        query = Tile(material.images.add_record(record), f"camera at {position}")
        errors = [(e.name, f"{e.result.metres[index]:.2f}", f"{e.result.degrees[index]:.2f}") for e in entries]
        if query.link is not None:
            shown.append(
                Example(tag, verdict, record.key, query, Table(("model", "metres", "degrees"), errors, "numbers"))
            )
    mean = ", averaged over the models" if len(entries) > 1 else ""
    text = f"Chosen by the error of the position{mean}. Below each picture x, y, z of the true position in metres."
    return Section("Images", [text, Examples(shown)]) if shown else None


def choose_by_error(metres: NDArray[np.float64], each: int) -> list[tuple[str, Verdict, int]]:
    """Tag, verdict and index of ``each`` images with the smallest, middling and largest errors, no image twice."""
    order = np.argsort(metres, kind="stable")
    middle = max(0, (len(order) - each) // 2)
    groups: tuple[tuple[str, Verdict, NDArray[np.int64]], ...] = (
        ("smallest error", "correct", order[:each]),
        ("largest error", "wrong", order[-each:]),
        ("middling error", "middle", order[middle : middle + each]),
    )
    chosen: dict[int, tuple[str, Verdict, int]] = {}
    for tag, verdict, indices in groups:
        for index in indices:
            chosen.setdefault(int(index), (tag, verdict, int(index)))
    return sorted(chosen.values(), key=lambda item: metres[item[2]])
