"""Failures, similarities, projection: the right rows, shown with the right numbers."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from distilplace.evaluation.report import figures
from distilplace.evaluation.report.kinds import kind_of
from distilplace.evaluation.report.parts import ReportEntry
from distilplace.evaluation.report.sections import recall, routes
from distilplace.evaluation.report.sections.failures import most_confident_errors
from distilplace.evaluation.report.sections.projection import principal_plane, route_coordinate
from distilplace.evaluation.report.sections.sequences import sequences
from distilplace.evaluation.report.writer import write_report
from distilplace.evaluation.retrieval.predictions import predictions_of
from distilplace.evaluation.retrieval.refusal import precision_recall
from distilplace.evaluation.retrieval.results import SequenceRecall
from distilplace.evaluation.retrieval.runs import evaluate_runs
from tests.evaluation.report.town import Page, world

pytestmark = pytest.mark.filterwarnings("ignore:a database of .* is smaller than k")


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A town, two results on it and the sections of their page by heading."""
    folder = tmp_path_factory.mktemp("town")
    town = world(folder)
    results = [wide_result(town, 0.5, 0), wide_result(town, 0.8, 1)]
    entries = []
    for index, result in enumerate(results):
        found = predictions_of(result, town)
        first = found.first().where(found.first()["evaluated"])
        curve = precision_recall(first["similarity"], first["correct"], first["positives"] > 0)
        entries.append(ReportEntry(f"m{index}", replace(result, precision_recall=curve), {}, found))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "png", lambda figure: repr(figure.get_size_inches()).encode())
        page = write_report(folder / "r", kind_of(town), entries, town, environment={"command": "python a < b"})
    text = page.read_text(encoding="utf-8")
    sections = {re.search("<h2>(.*?)</h2>", part)[1]: part for part in text.split("<section>")[1:]}
    return town, results, sections


def wide_result(town, noise, seed):
    """Embeddings of 8 numbers, whose similarities differ by far more than single precision tells."""
    random = np.random.default_rng(seed)

    def embed(records):
        angles = np.array([record.northing / 40 for record in records])
        return np.column_stack([np.cos(angles), np.sin(angles), noise * random.standard_normal((len(records), 6))])

    sides = ([embed(run) for run in side] for side in (town.database, town.queries))
    return evaluate_runs(*sides, town.query_sets, runs=town.runs)


def searches(town, result):
    """Every evaluated search the slow way: (cosine of the first result, database run, query run, query, index)."""
    for n, entries in enumerate(town.query_sets):
        for query, entry in entries.items():
            for m, matches in ((m, entry[m]) for m in range(len(town.runs)) if m in entry):
                cosines = []
                for item in result.space.database[m]:
                    asked = result.space.queries[n][query]
                    cosines.append(float(asked @ item / np.linalg.norm(asked) / np.linalg.norm(item)))
                first = int(np.argmax(cosines))
                if matches:
                    yield cosines[first], m, n, query, first, first in matches


def test_the_worst_failures_are_the_most_similar_wrong_results_each_query_once(shown):
    town, results, sections = shown
    expected = []
    for result in results:
        seen, rows = set(), []
        wrong = [each for each in searches(town, result) if not each[5]]
        for similarity, m, n, query, first, _ in sorted(wrong, reverse=True):
            if (n, query) not in seen and len(rows) < 4:
                asked, found = town.queries[n][query], town.database[m][first]
                metres = np.hypot(asked.northing - found.northing, asked.easting - found.easting)
                true = min(np.hypot(asked.northing - d.northing, asked.easting - d.easting) for d in town.database[m])
                rows.append((f"{similarity:.3f}", str(query), f"{metres:.1f}", f"{true:.1f}"))
            seen.add((n, query))
        expected += rows
    text = " ".join(Page(sections["Worst failures"]).text.split())
    pattern = r"similarity ([\d.]+): query (\d+) of .*?query retrieved, ([\d.]+) m true place, ([\d.]+) m"
    assert re.findall(pattern, text) == expected
    assert len(expected) == 8


def test_errors_without_a_true_place_are_no_failures(shown):
    town, results, _ = shown
    found = most_confident_errors(predictions_of(results[1], town))
    assert not found["correct"].any()
    assert (found["positives"] > 0).all()
    assert len(np.unique(found.query_rows())) == len(found)
    assert (np.diff(found["similarity"]) <= 0).all()
    table = predictions_of(results[1], town)
    every = replace(table, columns={**table.columns, "evaluated": table["rank"] > 0})  # as where misses count
    assert (most_confident_errors(every)["positives"] > 0).all()


def test_a_route_counts_what_is_drawn_and_answers_at_the_threshold_itself(shown, monkeypatch):
    town, results, _ = shown
    monkeypatch.setattr(figures, "png", lambda figure: [text.get_text() for text in figure.legends[0].get_texts()])
    line = np.column_stack([np.zeros(6), np.arange(6.0)])
    ranks, refused = np.array([1, 1, 1, 2, 5, 0]), np.array([False, True, True, True, False, False])
    labels = ["not evaluated (1)", "correct, refused (2)", "wrong, refused (1)", "correct (1)", "wrong (1)"]
    assert routes.draw_route(line, line, ranks, refused) == ["database (6)", *labels]
    table = predictions_of(results[0], town)
    curve = precision_recall(table.first()["similarity"], table.first()["correct"], table.first()["positives"] > 0)
    entry = ReportEntry("m", replace(results[0], precision_recall=curve), {}, table)
    given = [~routes._refused(entry, pair.database_run, pair.query_run) for pair in results[0].pairs]
    asked = table.first().where(table.first()["evaluated"])
    assert sum(each.sum() for each in given) == (asked["similarity"] >= np.float32(curve.recall_at(0.95)[1])).sum()


def test_of_pairs_equally_near_to_the_average_the_one_with_more_queries_is_drawn():
    pairs = [SimpleNamespace(database_run=0, query_run=n, evaluated=count) for n, count in ((1, 3), (2, 5), (3, 4))]
    matrix = np.array([[np.nan, 40.0, 60.0, 90.0]])
    result = SimpleNamespace(pairs=pairs, recall={1: 50.0}, matrix=lambda rank: matrix)
    assert routes.typical_pair([result]) is pairs[1]


def test_sequences_name_the_filter_first():
    result = SimpleNamespace(sequences=(SequenceRecall(5, 61.24, 43.0, 10, 2),))
    section = sequences(SimpleNamespace(entries=[ReportEntry("m", result)]))
    assert section.parts[0].rows == [["m", "61.2 (43.0)"]]


def test_the_matrix_names_the_runs_that_have_pairs(monkeypatch):
    monkeypatch.setattr(recall, "png", lambda figure: figure.axes[0])
    matrix = np.full((3, 3), np.nan)
    matrix[0, 1:] = 10.0, 90.0
    axes = recall.draw_matrix(matrix, ["a", "b", "c"])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a  1"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["2", "3"]


def test_similarities_tell_how_often_a_correct_result_is_more_similar(shown):
    town, results, sections = shown
    told = re.findall(r"<h3>m\d, AUROC ([\d.]+)", sections["Similarity of correct and wrong first results"])
    for result, value in zip(results, told, strict=True):
        found = list(searches(town, result))
        right, wrong = ([each[0] for each in found if each[5] is verdict] for verdict in (True, False))
        wins = [(a > b) + 0.5 * (a == b) for a in right for b in wrong]
        assert float(value) == pytest.approx(np.mean(wins), abs=0.006)


def test_operating_points_are_those_of_trying_every_threshold(shown):
    town, results, sections = shown
    page = sections["Precision and recall with refusals"]
    for index, result in enumerate(results):
        found = list(searches(town, result))
        best = {"f1": (0.0, 0.0), 0.95: (0.0, 0.0), 1.0: (0.0, 0.0)}
        for threshold in sorted({each[0] for each in found}, reverse=True):
            given = [each[5] for each in found if each[0] >= threshold]
            precision, recall = sum(given) / len(given), sum(given) / len(found)
            values = {"f1": 2 * precision * recall / max(precision + recall, 1e-9)}
            values |= {level: 100 * recall if precision >= level else 0.0 for level in (0.95, 1.0)}
            best = {name: max(best[name], (value, -threshold)) for name, value in values.items()}
        cells = re.findall(r"<td[^>]*>(?:<span.*?</span>)?([^<]*)", page[page.index(f"</span>m{index}</td>") :])
        (f1, at), (sure, sure_at), (full, full_at) = ((value, -at) for value, at in best.values())
        expected = [f"{f1:.3f}", f"{at:.3f}"]
        expected += [
            text for v, t in ((sure, sure_at), (full, full_at)) for text in (f"{v:.1f}", f"{t:.3f}" if v else "-")
        ]
        assert cells[1:7] == expected


def test_the_page_ends_with_the_command(shown):
    *_, last = shown[2].items()
    assert last[0] == "Command and versions"
    assert "python a &lt; b" in last[1]
    assert shown[2]["Projection of the embeddings"].count("<img") == 2


def test_the_projection_is_that_of_a_singular_value_decomposition():
    points = np.random.default_rng(0).standard_normal((40, 6)) * (5, 3, 1, 0.5, 0.2, 0.1)
    plane, share = principal_plane(points)
    centred = points - points.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    assert np.abs(plane) == pytest.approx(np.abs(left[:, :2] * values[:2]), abs=1e-6)
    assert share == pytest.approx((values[:2] ** 2).sum() / (values**2).sum())
    assert principal_plane(np.ones((5, 1)))[0].tolist() == np.zeros((5, 2)).tolist()


def test_a_place_has_the_distance_driven_to_the_nearest_frame():
    route = np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 10.0]])
    points = np.array([[0.1, 0.0], [3.0, 9.0], [2.5, 4.0]])
    assert route_coordinate(route, points).tolist() == [0.0, 11.0, 5.0]
