"""The report of what is no retrieval between runs: camera poses, landmarks, videos. Kept and written as report.py's."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distilplace.common.files import atomic_path
from distilplace.datasets.benchmarks import LandmarkSet, PoseSet, VideoSet
from distilplace.datasets.records import Benchmark
from distilplace.evaluation.report import plots
from distilplace.evaluation.report.entries import ReportEntry, long_facts, short_facts
from distilplace.evaluation.report.measured_landmarks import landmark_sections
from distilplace.evaluation.report.measured_parts import Section
from distilplace.evaluation.report.measured_poses import pose_sections
from distilplace.evaluation.report.measured_videos import video_sections
from distilplace.evaluation.report.picture_folder import PictureFolder, render
from distilplace.evaluation.retrieval.intervals import interval_text

TEMPLATE = "measured.html.j2"
_READING: dict[type[Benchmark], str] = {
    PoseSet: "From one image a model finds where the camera stood and how it was turned. Errors are distances between "
    "positions and angles between orientations. Chance is the best guess that looks at no image.",
    LandmarkSet: "Each query ranks the database by cosine similarity. Average precision in percent. Correct images are "
    "the easy (E), the easy and hard (M) or the hard (H) images; what a protocol ignores is taken out of the ranking. "
    "Chance is what a random ranking would reach.",
    VideoSet: "Each query ranks its labelled candidates and all unlabelled videos. Average precision in percent; only "
    "near-duplicates are right. Chance is what a random ranking would reach.",
}


def write_measured_report(
    folder: Path | str,
    entries: Sequence[ReportEntry],
    benchmark: Benchmark,
    *,
    title: str,
    notes: Sequence[str] = (),
    settings: Mapping[str, object] | None = None,
    seed: int = 0,
) -> Path:
    """Write ``folder/index.html`` and ``folder/images/`` and return the page's path.

    Args:
        folder: where; made if absent.
        entries: the models compared, with their results on ``benchmark`` (PoseResult, LandmarkResult, VideoResult).
        benchmark: the :class:`PoseSet`, :class:`LandmarkSet` or :class:`VideoSet` the results belong to.
        title: the page's heading.
        notes: lines shown as they are (what was chosen, what to keep in mind).
        settings: names and values, shown folded at the end.
        seed: chooses examples.

    Raises:
        ValueError: no entry, or one whose result has not one value per image, query or video of ``benchmark``.
        TypeError: another kind of benchmark (place retrieval: :func:`distilplace.evaluation.report.page.write_report`).

    """
    if not entries:
        raise ValueError("a report needs at least one entry")
    folder = Path(folder)
    images = PictureFolder(folder / "images")
    columns = list(dict.fromkeys(name for entry in entries for name in entry.result.columns()))
    facts = short_facts(entries)
    content = {
        "title": title,
        "set": benchmark,
        "summary": benchmark.summary(),
        "reading": _READING.get(type(benchmark), ""),
        "columns": [*columns, *facts],
        "rows": _rows(entries, columns, facts, largest=not isinstance(benchmark, PoseSet)),
        "chance": _chance_row(entries[0], columns, facts),
        "long_facts": long_facts(entries),
        "sections": _sections(images, entries, benchmark, seed),
        "notes": list(notes),
        "settings": {name: str(value) for name, value in (settings or {}).items()},
    }
    page = render(TEMPLATE, content)
    with atomic_path(folder / "index.html") as path:
        path.write_text(page, encoding="utf-8")
    images.remove_others()
    return folder / "index.html"


def _sections(images: PictureFolder, entries: Sequence[ReportEntry], benchmark: Benchmark, seed: int) -> list[Section]:
    if isinstance(benchmark, PoseSet):
        return pose_sections(images, entries, benchmark)
    if isinstance(benchmark, LandmarkSet):
        return landmark_sections(images, entries, benchmark, seed)
    if isinstance(benchmark, VideoSet):
        return video_sections(images, entries, benchmark, seed)
    raise TypeError(f"no measured report of a {type(benchmark).__name__}")


def _number(cell: str) -> float | None:
    """The number a table cell begins with ("0.93 m": 0.93)."""
    found = re.match(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?", cell)
    return float(found[0]) if found else None


def _best(cells: Sequence[str], largest: bool) -> str | None:
    """The cell with the largest (smallest) number; None where there is nothing to compare."""
    numbers = {cell: value for cell in cells if (value := _number(cell)) is not None}
    if len(cells) < 2 or not numbers:
        return None
    return (max if largest else min)(numbers, key=lambda cell: numbers[cell])


def _rows(
    entries: Sequence[ReportEntry], columns: Sequence[str], facts: Sequence[str], largest: bool
) -> list[dict[str, Any]]:
    """Table rows: the entry's colour in the plots, its measures (best of each column marked), its short facts."""
    measured = [entry.result.columns() for entry in entries]
    best = {name: _best([cells[name] for cells in measured if name in cells], largest) for name in columns}
    rows = []
    for index, entry in enumerate(entries):
        cells = [
            {
                "text": measured[index].get(name, "-"),
                "best": measured[index].get(name, "-") == best[name],
                "interval": interval_text(entry.result.intervals().get(name)),
            }
            for name in columns
        ]
        cells += [{"text": str(entry.facts.get(name, "-")), "best": False, "interval": ""} for name in facts]
        rows.append({"name": entry.name, "colour": plots.PALETTE[index % len(plots.PALETTE)], "cells": cells})
    return rows


def _chance_row(entry: ReportEntry, columns: Sequence[str], facts: Sequence[str]) -> list[str]:
    """What knowing nothing gives, empty below the facts; no row where the result does not say."""
    chance = entry.result.chance_columns()
    return [*(chance.get(name, "") for name in columns), *[""] * len(facts)] if chance else []
