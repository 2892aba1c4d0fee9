"""Intervals against SciPy's, against explicit loops, and against what they promise: 95 of 100 hold the truth."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binomtest

from distilplace.engine.reporting import certainty, result_table
from distilplace.evaluation.report.parts import ReportEntry
from distilplace.evaluation.retrieval.intervals import (
    effective_queries,
    interval_text,
    query_weights,
    resampled,
    wilson,
)
from distilplace.evaluation.retrieval.runs import evaluate_runs


@pytest.mark.parametrize(("found", "count"), [(0, 3), (3, 3), (1, 7), (45, 60), (240, 240), (12, 1000)])
def test_wilson_is_scipys(found, count):
    expected = binomtest(found, count).proportion_ci(0.95, "wilson")
    assert wilson(found / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_all_of_three_is_no_certainty():
    low, high = wilson(1.0, 3)
    assert (round(100 * low, 1), high) == (43.9, 1.0)


def pair(query_run, ranks):
    return SimpleNamespace(query_run=query_run, ranks=np.array(ranks))


def test_weights_by_explicit_loops():
    pairs = [pair(0, [1, 0, 3]), pair(0, [2, 5, 0]), pair(2, [1, 1, 1, 4])]
    slow: dict[tuple[int, int], float] = {}
    for one in pairs:
        asked = [row for row, rank in enumerate(one.ranks) if rank]
        for row in asked:
            slow[one.query_run, row] = slow.get((one.query_run, row), 0.0) + 1 / len(pairs) / len(asked)
    weights = query_weights(pairs)
    assert weights.sum() == pytest.approx(1.0)
    assert sorted(weights) == pytest.approx(sorted(slow.values()))
    assert effective_queries(weights) == pytest.approx(1 / sum(weight**2 for weight in slow.values()))


def test_a_frame_that_asks_several_databases_counts_once():
    alone, often = [pair(0, [1] * 50)], [pair(0, [1] * 50)] * 4
    assert effective_queries(query_weights(alone)) == effective_queries(query_weights(often)) == pytest.approx(50)
    assert effective_queries(query_weights([])) == 0


def test_intervals_hold_the_truth_nineteen_times_in_twenty():
    rng = np.random.default_rng(1)
    found = rng.binomial(80, 0.75, 2000) / 80
    hits = [low <= 0.75 <= high for low, high in (wilson(share, 80) for share in found)]
    assert 0.93 < np.mean(hits) < 0.97
    samples = rng.exponential(size=(150, 200))
    medians = [resampled(row, np.median) for row in samples]
    assert 0.9 < np.mean([low <= np.log(2) <= high for low, high in medians]) < 0.99


def test_resampling_leaves_nan_out_and_repeats():
    values = np.array([0.2, np.nan, 0.4, 0.9])
    assert resampled(values) == resampled(values[~np.isnan(values)])
    assert resampled(np.array([0.5, np.nan])) is None


def few_queries(count):
    entries = {i: {"query": "", "northing": 0.0, "easting": 0.0, 0: [i]} for i in range(count)}
    rows, empty = np.eye(40)[:, :40], np.zeros((0, 40))
    return evaluate_runs([rows, empty], [empty, rows[:count]], [{}, entries])


def test_tables_show_interval_and_queries_beside_a_recall():
    entries = [ReportEntry("student", few_queries(3))]
    assert "100.00 (43.9-100.0)" in result_table(entries)
    assert certainty(entries) == (
        "in brackets: 95 % interval, 3 queries; fewer than 30 are too few to tell networks apart"
    )
    assert certainty([ReportEntry("student", few_queries(40))]) == "in brackets: 95 % interval, 40 queries"
    assert few_queries(3).to_dict()["interval_95"]["R@1"] == pytest.approx([43.850, 100.0], abs=1e-3)
    assert [interval_text(each) for each in ((69.48, 78.12), (0.812, 1.057), (0.114, 0.131), None)] == [
        *("69.5-78.1", "0.81-1.06", "0.114-0.131", "")
    ]
