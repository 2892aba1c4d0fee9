"""The table of a report: a row per model with intervals, the best of every column marked, chance below."""

import re
from collections.abc import Mapping, Sequence

from distilplace.evaluation.report.figures import FAINT, colour_of
from distilplace.evaluation.report.parts import Cell, Details, Material, Part, ReportEntry, Section, Table
from distilplace.evaluation.retrieval.intervals import interval_text
from distilplace.evaluation.retrieval.measures import Result

SHORT = 18
"""Characters of the longest fact that gets a column."""


def results(
    material: Material,
    measured: Sequence[Mapping[str, str]] | None = None,
    chance: Mapping[str, str] | None = None,
    *,
    largest: bool = True,
    below: Sequence[Part] = (),
) -> Section:
    """The table, then ``below``.

    ``measured`` (column -> cell, per entry) and ``chance`` are what the results say themselves where not given;
    ``largest``: is the largest number of a column the best, or the smallest?
    """
    entries: Sequence[ReportEntry[Result]] = material.entries
    measured = [entry.result.columns() for entry in entries] if measured is None else measured
    chance = entries[0].result.chance_columns() if chance is None else chance
    columns = list(dict.fromkeys(name for cells in measured for name in cells))
    best = {name: _best([cells[name] for cells in measured if name in cells], largest) for name in columns}
    rows = []
    for index, (entry, cells) in enumerate(zip(entries, measured, strict=True)):
        bounds = entry.result.intervals()
        row = [Cell(entry.name, dot=colour_of(index))]
        for name in columns:
            cell = cells.get(name, "-")
            row.append(Cell(cell, "best" if cell == best[name] else "", below=interval_text(bounds.get(name))))
        rows.append(row)
    if chance:
        values = (chance.get(name, "") for name in columns)
        rows.append([Cell("chance", "chance", dot=FAINT), *(Cell(value, "chance") for value in values)])
    return Section("Results", [Table(["model", *columns], rows), *below])


def size_and_speed(material: Material[Result, object]) -> Section | None:
    """What the entries' facts say, short ones as columns, long ones below; None where there are none."""
    entries = material.entries
    facts = list(dict.fromkeys(name for entry in entries for name in entry.facts))
    short = [name for name in facts if all(len(str(entry.facts.get(name, ""))) <= SHORT for entry in entries)]
    parts: list[Part] = []
    if short:
        rows = [
            [Cell(entry.name, dot=colour_of(index)), *(Cell(str(entry.facts.get(name, "-"))) for name in short)]
            for index, entry in enumerate(entries)
        ]
        parts.append(Table(["model", *short], rows))
    long = [(e.name, name, str(value)) for e in entries for name, value in e.facts.items() if name not in short]
    if long:
        parts.append(Details("More about the models", Table((), long, "text")))
    return Section("Size and speed", parts) if parts else None


def _best(cells: Sequence[str], largest: bool) -> str | None:
    """The cell that begins with the largest (smallest) number; None where there is nothing to compare."""
    found = {cell: re.match(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?", cell) for cell in cells}
    numbers = {cell: float(match[0]) for cell, match in found.items() if match is not None}
    if len(cells) < 2 or not numbers:
        return None
    return (max if largest else min)(numbers, key=lambda cell: numbers[cell])
