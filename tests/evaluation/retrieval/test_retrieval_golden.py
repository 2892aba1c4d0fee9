"""Golden file i: the published evaluation's own numbers, and what ours does where it raises (oddities 9, 10, 25)."""

import warnings

import numpy as np
import pytest

from distilplace.evaluation.retrieval.runs import RetrievalResult, evaluate_runs, one_percent_threshold
from tests.goldens import is_recorded

SIZES = {250: "database_of_250 (round(2.5) = 2)", 350: "database_of_350 (1% threshold 4 -> banker's rounding of 3.5)"}
REFERENCE = {"cosine": "get_recall_torch", "euclidean": "get_recall"}
RANKS = range(1, 26)


@pytest.fixture(scope="module")
def cases(golden):
    return golden("i_evaluation.pt")


def run(case, metric) -> RetrievalResult:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return evaluate_runs(case["database_embeddings"], case["query_embeddings"], case["query_sets"], metric)


def curve(recall):
    return np.array([recall[rank] for rank in RANKS])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_every_pair_equals_the_published_program(cases, metric):
    compared = 0
    for case in cases.values():
        result = run(case, metric)
        for name, pair in case["results"]["pairs"].items():
            expected = pair[REFERENCE[metric]]
            if "raises" in expected:
                continue
            database_run, query_run = (int(part) for part in name.removeprefix("db").split("_q"))
            own = result.pair(database_run, query_run)
            np.testing.assert_allclose(curve(own.recall), expected["recall"], rtol=1e-12)
            assert own.one_percent_recall == pytest.approx(expected["one_percent_recall"], rel=1e-12)
            if expected["top1_similarity"] is not None:
                np.testing.assert_allclose(own.top1_similarities, expected["top1_similarity"], rtol=1e-5)
            compared += 1
    assert compared >= 30


def test_means_over_pairs_and_per_database_run_equal_the_published_ones(cases):
    compared = 0
    for case in cases.values():
        expected = case["results"]["evaluate_dataset"]
        if "raises" in expected:
            continue
        result = run(case, "cosine")
        np.testing.assert_allclose(curve(result.recall), expected["ave_recall"], rtol=1e-6)
        assert result.one_percent_recall == pytest.approx(expected["ave_one_percent_recall"], rel=1e-6)
        for database_run, recall in result.per_run.items():
            np.testing.assert_allclose(curve(recall), expected["ave_recall_for_each_scene"][database_run], rtol=1e-6)
        assert len(result.per_run) == len(expected["ave_recall_for_each_scene"])
        compared += 1
    assert compared >= 4


def test_oddity_9_the_metric_is_declared_stored_and_matters(cases):
    case = cases["four_runs"]
    cosine, euclidean = run(case, "cosine"), run(case, "euclidean")
    assert (cosine.metric, euclidean.metric) == ("cosine", "euclidean")
    assert cosine.to_dict()["metric"] == "cosine"
    for pair in cosine.pairs:  # measured by the reference: with varying norms every pair differs
        assert pair.recall != euclidean.pair(pair.database_run, pair.query_run).recall
    unit = cases["normalised_embeddings"]
    assert run(unit, "cosine").recall == run(unit, "euclidean").recall
    with pytest.raises(ValueError, match="unknown metric"):
        run(case, "manhattan")


def test_oddity_10_a_pair_without_evaluated_queries_is_skipped_and_counted(cases):
    case = cases["one_pair_without_evaluated_queries"]
    raising = [n for n, p in case["results"]["pairs"].items() if "ZeroDivision" in p["get_recall"].get("raises", "")]
    assert raising, "the golden case has lost its point"
    for metric in REFERENCE:
        result = run(case, metric)
        skipped = [f"db{pair.database_run}_q{pair.query_run}" for pair in result.skipped_pairs]
        assert skipped == raising
        assert "no query has a true neighbour" in result.skipped_pairs[0].reason
        assert len(result.pairs) == len(case["results"]["pairs"]) - len(raising)
        evaluated = [curve(pair.recall) for pair in result.pairs]
        np.testing.assert_allclose(curve(result.recall), np.mean(evaluated, axis=0), rtol=1e-12)
        assert np.isfinite(curve(result.recall)).all()
        of_run_0 = [curve(pair.recall) for pair in result.pairs if pair.database_run == 0]
        np.testing.assert_allclose(curve(result.per_run[0]), np.mean(of_run_0, axis=0), rtol=1e-12)


def test_oddity_10_a_database_smaller_than_25_works_with_one_warning(cases):
    case = cases["database_smaller_than_25"]
    for metric in REFERENCE:
        with pytest.warns(UserWarning, match="smaller than k = 25") as caught:
            result = evaluate_runs(case["database_embeddings"], case["query_embeddings"], case["query_sets"], metric)
        assert len(caught) == 1
        size = len(case["database_embeddings"][0])
        assert size < 25
        values = curve(result.recall)
        assert np.isfinite(values).all()
        assert (np.diff(values) >= 0).all()
        assert (values[size - 1 :] == 100).all()
        assert result.top(0, 1).shape == (len(case["query_embeddings"][1]), size)


@pytest.mark.parametrize(
    ("size", "expected"), [(1, 1), (50, 1), (149, 1), (150, 2), (250, 2), (350, 4), (450, 4), (3000, 30), (2551, 26)]
)
def test_oddity_10_one_percent_rounds_halves_to_even(size, expected):
    assert one_percent_threshold(size) == expected


@pytest.mark.parametrize("size", [size for size, name in SIZES.items() if is_recorded("i_evaluation.pt", name)])
def test_oddity_10_rounding_decides_the_golden_values(cases, size):
    case = cases[SIZES[size]]
    result = run(case, "cosine")
    assert {pair.database_size for pair in result.pairs} == {size}
    for pair in result.pairs:
        assert pair.one_percent_recall == pair.recall[one_percent_threshold(size)]


def test_oddity_25_query_embeddings_must_belong_to_the_query_sets(cases):
    case = cases["boreas_mode (queries = database embeddings)"]
    queries = [run[:-1] for run in case["query_embeddings"]]
    with pytest.raises(ValueError, match="query embeddings, but the query set has"):
        evaluate_runs(case["database_embeddings"], queries, case["query_sets"])
