"""Students in their teachers' maps: who asks whom, recall curves, cosines of single pairs."""

from collections.abc import Mapping, Sequence
from typing import Any

from distilplace.evaluation.report.figures import FAINT, INK, colour_of, literal, panels, png
from distilplace.evaluation.report.parts import Bold, Cell, Material, Part, Section, Table, Text, wide_plot
from distilplace.evaluation.report.pictures import PictureFolder
from distilplace.evaluation.retrieval.asymmetric import STUDENT, TEACHER, AsymmetricResult, Direction
from distilplace.evaluation.retrieval.intervals import interval_text

READING = (
    "student -> teacher: queries embedded by the student, the database by its teacher, as when a camera is localised "
    "in a map that the teacher's sensors made. Raw: cosines of the embeddings as they are. Centred: each network's "
    "mean over training frames is subtracted first. Losses that compare relations alone fix the student's space only "
    "up to a rotation: student -> student may be good while student -> teacher is chance."
)
ALIGNED = "Aligned: the teacher in the space of --align_space, where the student learnt from it; the student as it is."


def asymmetric(material: Material[Any, Any]) -> Section | None:
    """A table, curves and cosines for every student and each of its teachers; None without any."""
    found = [(entry.name, each) for entry in material.entries for each in entry.asymmetric]
    if not found:
        return None
    is_aligned = any("aligned" in result.spaces for _, result in found)
    parts: list[Part] = [READING, *([ALIGNED] if is_aligned else [])]
    for student, result in found:
        parts += [Text([Bold(f"{student}, teacher {result.teacher}")]), directions_table(result)]
        parts += _sentences(result)
        if result.chance_recall:
            parts.append(_curves(material.images, result))
        if spreads := _cosines(result):
            parts.append(spreads)
    return Section("Student and teacher in one map", parts)


def directions_table(result: AsymmetricResult) -> Table:
    """A row per direction and one of chance; the columns with intervals (all, where none has one) in every space."""
    first = next(iter(result.spaces.values())).directions[STUDENT]
    names = [name for name in first.cells if name in first.intervals] or list(first.cells)
    rows: list[list[Cell]] = []
    for index, direction in enumerate(result.directions):
        row = [Cell(direction, dot=colour_of(index))]
        for space in result.spaces.values():
            row += _cells(space.directions.get(direction), names)
        rows.append(row)
    chance = [Cell(result.chance.get(name, ""), "chance") for _ in result.spaces for name in names]
    rows.append([Cell("chance", "chance", dot=FAINT), *chance])
    return Table(["queries -> database", *(f"{space} {name}" for space in result.spaces for name in names)], rows)


def _cells(direction: Direction | None, names: Sequence[str]) -> list[Cell]:
    if direction is None:
        return [Cell("-") for _ in names]
    return [Cell(direction.cells.get(name, "-"), below=interval_text(direction.intervals.get(name))) for name in names]


def _sentences(result: AsymmetricResult) -> list[Part]:
    kept = []
    for name, space in result.spaces.items():
        shares = {of: space.kept(of) for of in (TEACHER, STUDENT)}
        told = [f"{share:.0f} % of {of}" for of, share in shares.items() if share is not None]
        kept += [f"{name}, student -> teacher keeps {' and '.join(told)}"] if told else []
    lines = [*kept, *(f"{direction} is absent: {why}" for direction, why in result.absent.items()), *result.notes]
    return [". ".join(f"{line[:1].upper()}{line[1:]}" for line in lines) + "."] if lines else []


def _curves(images: PictureFolder, result: AsymmetricResult) -> Part:
    curves = {
        space: {
            direction: found.directions[direction].recall
            for direction in result.directions
            if direction in found.directions
        }
        for space, found in result.spaces.items()
    }
    return wide_plot(images.add(draw_curves(result.directions, curves, result.chance_recall), "png"))


def draw_curves(
    directions: Sequence[str], curves: Mapping[str, Mapping[str, Mapping[int, float]]], chance: Mapping[int, float]
) -> bytes:
    """Recall@1..k (percent): a panel per space, a curve per direction, in the table's colours, chance dashed."""
    figure, axes_list = panels(len(curves), 4.6 * max(2, len(curves)), 3.9, grid="y")
    last = max(chance)
    for axes, (space, named) in zip(axes_list, curves.items(), strict=True):
        for index, direction in enumerate(directions):
            if direction in named:
                recall = named[direction]
                axes.plot(
                    list(recall),
                    list(recall.values()),
                    "o-",
                    label=literal(direction),
                    color=colour_of(index),
                    lw=1.8,
                    ms=3,
                )
        axes.plot(list(chance), list(chance.values()), "--", label="chance", color=FAINT, linewidth=1.2)
        axes.set(xlim=(0.5, last + 0.5), ylim=(0, 102), xlabel="N retrieved")
        axes.set_xticks([rank for rank in (1, 5, 10, 15, 20, 25, last) if rank <= last])
        axes.set_title(space, fontsize=10, color=INK)
    axes_list[0].set_ylabel("recall@N, percent")
    handles, labels = axes_list[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return png(figure)


def _cosines(result: AsymmetricResult) -> Table | None:
    """Mean and deviation of the cosine of a student's and a teacher's embedding, by kind of pair."""
    kinds = list(dict.fromkeys(kind for space in result.spaces.values() for kind in space.cosines))
    rows = []
    for kind in kinds:
        found = [space.cosines.get(kind) for space in result.spaces.values()]
        cells = [f"{each.mean:.3f} ± {each.deviation:.3f}" if each and each.pairs else "-" for each in found]
        rows.append([f"cosine, {kind}", *cells])
    return (
        Table(["student and teacher", *(f"{space} (mean ± deviation)" for space in result.spaces)], rows)
        if rows
        else None
    )
