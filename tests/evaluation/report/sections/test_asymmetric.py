"""The section of students in their teachers' maps: every direction, chance, what is absent and why."""

import numpy as np
import pytest

from distilplace.evaluation.report.figures import png
from distilplace.evaluation.report.parts import Material, ReportEntry, Table
from distilplace.evaluation.report.pictures import PictureFolder
from distilplace.evaluation.report.sections import asymmetric as section
from distilplace.evaluation.retrieval.asymmetric import (
    ACROSS,
    STUDENT,
    TEACHER,
    AsymmetricResult,
    Direction,
    SpaceResult,
)
from distilplace.evaluation.retrieval.cosines import Spread


def direction(recall: float) -> Direction:
    curve = {rank: min(100.0, recall + rank) for rank in range(1, 26)}
    cells = {"R@1": f"{recall:.2f}", "R@5": "90.0", "F1max": "0.5"}
    return Direction(recall, cells, {"recall@1": recall}, curve, {"R@1": (1.0, 19.0), "R@5": (20.0, 29.0)})


def result() -> AsymmetricResult:
    raw = SpaceResult({STUDENT: direction(40.0), TEACHER: direction(80.0)})
    centred = SpaceResult(
        {STUDENT: direction(50.0), ACROSS: direction(20.0), TEACHER: direction(80.0)},
        {"same frame": Spread(0.5, 0.1, 9), "true matches": Spread(float("nan"), float("nan"), 0)},
    )
    curve = {rank: float(rank) for rank in range(1, 26)}
    spaces = {"raw": raw, "centred": centred}
    return AsymmetricResult(
        "t", [STUDENT, ACROSS, TEACHER], {ACROSS: "3 and 4 numbers"}, spaces, {"R@1": "1.00"}, curve
    )


def texts(table: Table) -> list[list[str]]:
    return [[cell if isinstance(cell, str) else cell.text for cell in row] for row in table.rows]


def test_the_section_says_every_number_and_what_is_absent(tmp_path):
    material = Material([ReportEntry("s", None, asymmetric=[result()])], None, PictureFolder(tmp_path / "images"))
    made = section.asymmetric(material)
    first, second = (part for part in made.parts if isinstance(part, Table))
    assert first.head == ["queries -> database", "raw R@1", "raw R@5", "centred R@1", "centred R@5"]
    assert texts(first) == [
        [STUDENT, "40.00", "90.0", "50.00", "90.0"],
        [ACROSS, "-", "-", "20.00", "90.0"],
        [TEACHER, "80.00", "90.0", "80.00", "90.0"],
        ["chance", "1.00", "", "1.00", ""],
    ]
    assert [cell.below for cell in first.rows[0][1:]] == ["1.0-19.0", "20.0-29.0"] * 2
    assert texts(second) == [["cosine, same frame", "-", "0.500 ± 0.100"], ["cosine, true matches", "-", "-"]]
    told = " ".join(part for part in made.parts if isinstance(part, str))
    assert "Centred, student -> teacher keeps 25 % of teacher -> teacher and 40 % of student -> student" in told
    assert "Student -> teacher is absent: 3 and 4 numbers." in told
    assert len(list((tmp_path / "images").iterdir())) == 1
    assert section.asymmetric(Material([ReportEntry("s", None)], None, material.images)) is None


def test_a_direction_has_one_colour_in_table_and_both_panels(monkeypatch):
    drawn = []
    monkeypatch.setattr(section, "png", lambda figure: drawn.append(figure) or png(figure))
    found = result()
    curves = {name: {d: each.recall for d, each in space.directions.items()} for name, space in found.spaces.items()}
    section.draw_curves(found.directions, curves, found.chance_recall)
    (figure,) = drawn
    colours = [{line.get_label(): line.get_color() for line in axes.get_lines()} for axes in figure.axes]
    for row in section.directions_table(found).rows:
        for panel in colours:
            assert panel.get(row[0].text, row[0].dot) == row[0].dot
    assert set(colours[1]) == {STUDENT, ACROSS, TEACHER, "chance"}
    assert figure.axes[1].get_lines()[1].get_ydata() == pytest.approx(np.arange(1.0, 26.0) + 20.0)
