"""The report and its pictures: complete, readable without a network, right about what is right, never half written."""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image

from distilplace.evaluation.report import figures
from distilplace.evaluation.report.figures import CORRECT, WRONG, short_name
from distilplace.evaluation.report.kinds import kind_of
from distilplace.evaluation.report.parts import ReportEntry
from distilplace.evaluation.report.sections.contact_sheet import example_retrievals
from distilplace.evaluation.report.sections.places import (
    choose_frames,
    choose_queries,
    place_examples,
    random_frames,
    retrieved,
)
from distilplace.evaluation.report.sections.recall import draw_curves, draw_matrix
from distilplace.evaluation.report.sections.routes import draw_route
from distilplace.evaluation.report.writer import write_report
from tests.evaluation.report.town import Page, colour_of, result_of, world


def entries_of(evaluation_set):
    return [
        ReportEntry("teacher <script>alert(1)</script>", result_of(evaluation_set, 0.25), {"parameters": "1.5 M"}),
        ReportEntry(
            "student & co", result_of(evaluation_set, 0.6, 1), {"ms per place": "2.0", "weights": "logs/" * 20}
        ),
    ]


def write(folder, entries, evaluation_set, kind=None, **options):
    return write_report(folder, kind or kind_of(evaluation_set), entries, evaluation_set, **options)


def counted(evaluation_set, examples, frames):
    """The kind with other numbers of examples and frames."""
    kind = kind_of(evaluation_set)
    chosen = {
        place_examples: partial(place_examples, count=examples),
        random_frames: partial(random_frames, count=frames),
    }
    return replace(kind, sections=tuple(chosen.get(section, section) for section in kind.sections))


@pytest.fixture
def quick(monkeypatch):
    """Figures are laid out but most of them not drawn, which is most of a report's time."""
    monkeypatch.setattr(figures, "png", lambda figure: repr(figure.get_size_inches()).encode())


pytestmark = pytest.mark.filterwarnings("ignore:a database of .* is smaller than k")


def test_a_report_is_whole_escaped_and_needs_no_network(tmp_path):
    town = world(tmp_path)
    settings = {"learning_rate": 0.001, "note": "<u>x</u>"}
    path = write(tmp_path / "report", entries_of(town), town, title="<h1>T", notes=["a < b"], settings=settings)
    assert path == tmp_path / "report" / "index.html"
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "b>sunny", "i", "u", "iframe"})
    for raw in ("<script>alert(1)</script>", "<b>sunny</b> & $mild$", "<i>town</i>", "a < b", "<u>x</u>", "<h1>T"):
        assert raw in page.text
    assert len(page.links) > 20
    for link in page.links:
        with Image.open(path.parent / link) as image:
            image.verify()
    assert {link.split("/")[-1] for link in page.links} == {p.name for p in (path.parent / "images").iterdir()}
    leftover = [p.name for p in path.parent.rglob(".*")]
    assert leftover == []


def test_the_table_states_recalls_facts_and_chance(tmp_path, quick):
    town = world(tmp_path)
    entries = entries_of(town)
    page = Page(write(tmp_path / "report", entries, town).read_text(encoding="utf-8"))
    words = page.words
    for name in ("R@1", "R@5", "R@10", "parameters", "chance", "1.5", "weights"):
        assert name in words
    for entry in entries:
        for value in (*(entry.result.recall[r] for r in (1, 5, 10)), entry.result.one_percent_recall):
            assert f"{value:.1f}" in words
    assert f"{entries[0].result.chance[1]:.1f}" in words
    assert "cosine" in words
    assert "1 pair of runs skipped" in page.text
    assert "snow in night: no query has a true neighbour in this database" in page.text
    assert "5 ordered pairs" in page.text


def test_examples_show_the_truth_and_every_kind(tmp_path, quick):
    town = world(tmp_path)
    results = [entry.result for entry in entries_of(town)]
    examples = choose_queries(results, town, 9, seed=0)
    assert examples == choose_queries(results, town, 9, seed=0)
    assert examples != choose_queries(results, town, 9, seed=1)
    assert len(examples) == 9
    assert {e.outcome for e in examples} == {"correct", "differ", "wrong"}
    assert len({(e.query_run, e.query) for e in examples}) == 9
    for example in examples:
        asked = town.queries[example.query_run][example.query]
        for result, correct in zip(results, example.correct, strict=True):
            items = retrieved(result, town, example)
            assert (items[0].verdict == "correct") is correct
            for item in items:
                assert (item.verdict == "correct") is (abs(item.record.northing - asked.northing) <= 12)
                metres = np.hypot(item.record.northing - asked.northing, item.record.easting - asked.easting)
                assert item.distance == pytest.approx(metres)
    page = Page(write(tmp_path / "report", entries_of(town), town).read_text(encoding="utf-8"))
    tiles = [a["class"] for tag, a in page.tags if tag == "figure" and a.get("class", "").startswith("tile ")]
    expected = [
        "tile correct" if item.verdict == "correct" else "tile wrong"
        for example in examples
        for result in results
        for item in retrieved(result, town, example)
    ]
    assert tiles == expected


def test_kinds_that_are_missing_leave_their_share_to_the_others(tmp_path):
    town = world(tmp_path)
    perfect = result_of(town, 0.0)
    assert [e.outcome for e in choose_queries([perfect, perfect], town, 6, seed=0)] == ["correct"] * 6
    assert len(choose_queries([perfect], town, 1000, seed=0)) == 3 * 12


def test_the_same_input_gives_the_same_bytes_and_old_pictures_go(tmp_path):
    town = world(tmp_path)
    path = write(tmp_path / "report", entries_of(town), town, seed=3)
    first = {p.name: p.read_bytes() for p in path.parent.rglob("*") if p.is_file()}
    (path.parent / "images" / "mine.txt").write_text("kept")
    write(tmp_path / "report", entries_of(town), town, seed=3)
    assert {p.name: p.read_bytes() for p in path.parent.rglob("*") if p.is_file() and p.name != "mine.txt"} == first
    write(tmp_path / "report", entries_of(town)[:1], town, counted(town, 1, 1), seed=4)
    names = {p.name for p in (path.parent / "images").iterdir()}
    assert "mine.txt" in names
    assert len(names) < len(first) / 2


def test_a_single_run_without_pictures(tmp_path, quick):
    town = world(tmp_path, runs=2, images=False, single=True)
    path = write(tmp_path / "report", entries_of(town)[:1], town)
    page = Page(path.read_text(encoding="utf-8"))
    assert "1 ordered pair of runs" in page.text
    assert "Random frames" not in page.text
    assert "Queries and retrieved places" not in page.text
    assert "Every pair of runs" not in page.text
    assert "the database run is empty" in page.text
    assert len(page.links) == 3  # curves, route, projection


def test_unreadable_pictures_do_not_stop_a_report(tmp_path, quick):
    town = world(tmp_path)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG not really")
    town.database[0] = [replace(record, images=(broken,)) for record in town.database[0]]
    page = Page(write(tmp_path / "report", entries_of(town), town, counted(town, 36, 12)).read_text(encoding="utf-8"))
    assert "no image" in page.text
    assert example_retrievals(entries_of(town)[0].result, town, count=20).ndim == 3


def test_a_failure_leaves_the_earlier_report(tmp_path, monkeypatch, quick):
    town = world(tmp_path)
    path = write(tmp_path / "report", entries_of(town), town)
    before = path.read_text(encoding="utf-8")
    monkeypatch.setattr("distilplace.evaluation.report.writer.TEMPLATE", "absent.j2")
    with pytest.raises(Exception, match="absent"):
        write(tmp_path / "report", entries_of(town), town, title="new")
    assert path.read_text(encoding="utf-8") == before
    assert all((path.parent / link).is_file() for link in Page(before).links)


def test_entries_must_fit_the_evaluation_set(tmp_path, quick):
    town, hamlet = world(tmp_path), world(tmp_path, runs=2)
    with pytest.raises(ValueError, match="at least one"):
        write(tmp_path / "report", [], town)
    with pytest.raises(ValueError, match="2 runs, not 3"):
        write(tmp_path / "report", entries_of(hamlet), town)
    town.query_sets[1] = {i: entry | {2: [0]} for i, entry in town.query_sets[1].items()}
    with pytest.raises(ValueError, match="different pairs"):
        write(tmp_path / "report", [*entries_of(town), *entries_of(world(tmp_path))], town)
    assert not (tmp_path / "report").exists()


def test_the_contact_sheet_frames_right_blue_and_wrong_orange(tmp_path):
    town = world(tmp_path)
    result = result_of(town, 0.3)
    sheet = example_retrievals(result, town, count=4, k=3, seed=0, width=50)
    assert sheet.dtype == np.uint8
    assert sheet.shape == ((31 + 22) * 4 + 6, (50 + 6) * 4 + 6, 3)
    examples = choose_queries([result], town, 4, seed=0)
    assert {e.outcome for e in examples} == {"correct", "wrong"}
    for row, example in enumerate(examples):
        for column, item in enumerate(retrieved(result, town, example), start=1):
            top, left = 6 + row * 53, 6 + column * 56
            border = "#{:02x}{:02x}{:02x}".format(*sheet[top, left])
            assert border == (CORRECT if item.verdict == "correct" else WRONG)
            assert tuple(sheet[top + 15, left + 25]) == colour_of(item.record.images[0])


def test_frames_are_distinct_and_drawn_by_seed(tmp_path):
    town = world(tmp_path)
    frames = choose_frames(town, 12, seed=0)
    assert len({record.images for record in frames}) == 12
    assert frames == choose_frames(town, 12, seed=0) != choose_frames(town, 12, seed=1)
    assert len(choose_frames(town, 1000, seed=0)) == 72
    assert choose_frames(world(tmp_path, images=False), 12, seed=0) == []


def test_many_runs_and_entries_still_draw(tmp_path):
    matrix = np.full((23, 23), 50.0)
    np.fill_diagonal(matrix, np.nan)
    matrix[3] = np.nan
    assert draw_matrix(matrix, [f"2014-11-{i:02d}-12-13-14-a-very-long-name" for i in range(23)])[:4] == b"\x89PNG"
    curves = {f"model {i} $x_": {r: float(r * i) for r in range(1, 8)} for i in range(11)}
    assert draw_curves(curves, dict.fromkeys(range(1, 8), 1.0))[:4] == b"\x89PNG"
    line = np.column_stack([np.zeros(4), np.arange(4.0)])
    assert draw_route(line, line[:1], np.array([0]))[:4] == b"\x89PNG"
    assert short_name("a" * 30 + "z") == "a" * 11 + "…" + "a" * 9 + "z"
