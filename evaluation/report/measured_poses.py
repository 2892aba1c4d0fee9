"""What the report shows of camera poses: error curves, plans of the positions, the best and the worst images."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distilplace.evaluation.report import measured_plots
from distilplace.evaluation.report.entries import ReportEntry
from distilplace.evaluation.report.measured_parts import Example, Kind, Section, Tile
from distilplace.evaluation.report.picture_folder import PictureFolder
from distilplace.evaluation.report.plots import PALETTE

if TYPE_CHECKING:
    from distilplace.datasets.benchmarks import PoseSet
    from distilplace.evaluation.poses import PoseResult


def pose_sections(
    images: PictureFolder, entries: "Sequence[ReportEntry[PoseResult]]", benchmark: "PoseSet", each: int = 2
) -> list[Section]:
    """The report's sections, with ``each`` images of the smallest, the middling and the largest errors.

    ValueError for a result with another number of errors than the set has images.
    """
    for entry in entries:
        if len(entry.result.metres) != len(benchmark.records):
            raise ValueError(
                f"{entry.name!r} has errors of {len(entry.result.metres)} images, not {len(benchmark.records)}"
            )
    errors = {entry.name: (entry.result.metres, entry.result.degrees) for entry in entries}
    text = (
        "Share of the images whose pose is found within an error. The axes end where 95 percent of the images of the "
    )
    text += "worst model lie."
    curves = Section("Errors", text, plot=images.add(measured_plots.error_curves(errors), "png"))
    return [curves, _plans(images, entries, benchmark), *_examples(images, entries, benchmark, each)]


def _plans(images: PictureFolder, entries: "Sequence[ReportEntry[PoseResult]]", benchmark: "PoseSet") -> Section:
    """All positions seen along the axis in which they spread least; the same window for every entry."""
    true = benchmark.poses[:, :3]
    seen = list(measured_plots.widest_axes(true))
    names = "xyz"[seen[0]], "xyz"[seen[1]]
    found = [entry.result.found[:, seen] for entry in entries]
    window = measured_plots.plan_window(true[:, seen], found)
    columns = []
    for index, (entry, positions) in enumerate(zip(entries, found, strict=True)):
        colour = PALETTE[index % len(PALETTE)]
        plan = measured_plots.camera_plan(true[:, seen], positions, names, window, colour)
        columns.append((f"{entry.name}: {entry.result.summary}", images.add(plan, "png")))
    text = f"True (grey) and found positions of the cameras in {names[0]} and {names[1]}, the axes of largest spread."
    return Section("Camera positions", text, columns=columns)


def _examples(
    images: PictureFolder, entries: "Sequence[ReportEntry[PoseResult]]", benchmark: "PoseSet", each: int
) -> list[Section]:
    """Images from both ends and the middle of the errors; none where no picture can be read."""
    metres = np.mean([entry.result.metres for entry in entries], axis=0)
    shown = []
    for tag, kind, index in choose_by_error(metres, each):
        link = images.add_place(benchmark.records[index])
        if link is not None:
            position = ", ".join(f"{value:.2f}" for value in benchmark.poses[index, :3])
            numbers = [
                (entry.name, f"{entry.result.metres[index]:.2f}", f"{entry.result.degrees[index]:.2f}")
                for entry in entries
            ]
            asked = Tile(link, f"camera at {position}")
            key = benchmark.records[index].key
            shown.append(Example(tag, kind, key, asked, number_names=("metres", "degrees"), numbers=numbers))
    if not shown:
        return []
    mean = ", averaged over the models" if len(entries) > 1 else ""
    text = f"Chosen by the error of the position{mean}. Below each picture x, y, z of the true position in metres."
    return [Section("Images", text, examples=shown)]


def choose_by_error(metres: NDArray[np.float64], each: int) -> list[tuple[str, Kind, int]]:
    """Tag, kind and index of ``each`` images with the smallest, middling and largest errors, no image twice."""
    order = np.argsort(metres, kind="stable")
    middle = max(0, (len(order) - each) // 2)
    groups: tuple[tuple[str, Kind, NDArray[np.int64]], ...] = (
        ("smallest error", "right", order[:each]),
        ("largest error", "wrong", order[-each:]),
        ("middling error", "middle", order[middle : middle + each]),
    )
    chosen: dict[int, tuple[str, Kind, int]] = {}
    for tag, kind, indices in groups:
        for index in indices:
            chosen.setdefault(int(index), (tag, kind, int(index)))
    return sorted(chosen.values(), key=lambda item: metres[item[2]])
