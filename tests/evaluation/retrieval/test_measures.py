"""The shared arithmetic against every order of a small list, and the interface that all results answer to."""

import json
from itertools import combinations

import numpy as np
import pytest

from distilplace.datasets.benchmarks import LandmarkSet, PoseSet, VideoSet
from distilplace.datasets.records import PlaceRecord
from distilplace.evaluation.landmarks import evaluate_landmarks
from distilplace.evaluation.poses import evaluate_poses
from distilplace.evaluation.retrieval.measures import (
    Result,
    expected_found_precision,
    expected_precision_sum,
    finite_mean,
    in_percent,
    percent,
)
from distilplace.evaluation.retrieval.runs import evaluate_runs
from distilplace.evaluation.videos import average_precision, evaluate_videos


def record(key):
    return PlaceRecord(key, "run", None, (), 0.0, 0.0)


def retrieval():
    entries = {i: {"query": "", "northing": 0.0, "easting": 0.0, 0: [i]} for i in range(40)}
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 4))
    empty = np.zeros((0, 4))
    return evaluate_runs([rows, empty], [empty, rows + rng.normal(size=rows.shape)], [{}, entries])


def results():
    rng = np.random.default_rng(0)
    poses = rng.normal(size=(5, 7))
    yield evaluate_poses(poses + 0.1, PoseSet("poses", [record(f"{i}") for i in range(5)], poses))
    lists = [np.array([0]), np.array([1, 2])], [np.array([3]), np.array([])], [np.array([4]), np.array([])]
    pictures = [record(f"d{i}") for i in range(9)], [record("q0"), record("q1")]
    marks = LandmarkSet("marks", *pictures, *lists)
    yield evaluate_landmarks(rng.normal(size=(2, 3)), rng.normal(size=(9, 3)), marks)
    videos = {name: rng.normal(size=(3, 4)) for name in "qabcd"}
    frames = {name: [record(f"{name}{i}") for i in range(3)] for name in videos}
    yield evaluate_videos(videos, VideoSet("videos", frames, ["q"], [{"a": 1, "b": 0}], ["c", "d"]))
    yield retrieval()


@pytest.mark.parametrize("result", list(results()), ids=lambda result: type(result).__name__)
def test_every_result_answers_to_the_interface(result):
    assert isinstance(result, Result)
    assert isinstance(result.selection_score, float)
    assert isinstance(result.summary, str)
    assert set(result.chance_columns()) <= set(result.columns())
    assert all(isinstance(cell, str) for cell in (*result.columns().values(), *result.chance_columns().values()))
    assert all(isinstance(value, float) and " " not in name for name, value in result.scalars().items())
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False)) == result.to_dict()


def test_something_else_is_no_result():
    assert not isinstance({"selection_score": 1.0}, Result)


def test_retrieval_prints_what_the_table_always_had():
    result = retrieval()
    assert list(result.columns()) == ["R@1", "R@5", "R@1 %"]
    assert list(result.columns().values()) == [
        f"{result.recall[1]:.2f}",
        f"{result.recall[5]:.2f}",
        f"{result.one_percent_recall:.2f}",
    ]
    assert result.chance_columns() == {"R@1": "2.50", "R@5": "12.50", "R@1 %": "2.50"}
    assert result.selection_score == result.recall[1]
    assert result.summary == f"R@1 {result.recall[1]:.2f}"
    assert result.scalars() == {
        "recall@1": result.recall[1],
        "recall@5": result.recall[5],
        "recall@25": result.recall[25],
        "recall@1%": result.one_percent_recall,
    }
    result.extra["F1max"] = 0.12345
    assert list(result.columns().items())[-1] == ("F1max", "0.123")
    assert "F1max" not in result.chance_columns()


@pytest.mark.parametrize(("items", "positives"), [(1, 1), (2, 1), (5, 1), (6, 3), (7, 7), (8, 2)])
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 100])
def test_expectations_are_means_over_every_order(items, positives, depth):
    sums, found = [], []
    for places in combinations(range(items), positives):
        labels = [int(i in places) for i in range(items)]
        sums.append(sum(sum(labels[: i + 1]) / (i + 1) for i in range(min(depth, items)) if labels[i]))
        found.append(average_precision(labels, depth))
    assert expected_precision_sum(items, positives, depth) == pytest.approx(np.mean(sums), rel=1e-12)
    assert expected_found_precision(items, positives, depth) == pytest.approx(np.mean(found), rel=1e-12)


def test_shares_without_a_question_have_no_number():
    assert percent(0.5) == "50.0"
    assert percent(float("nan")) == "-"
    assert in_percent(float("nan")) is None
    assert finite_mean(np.array([1.0, np.nan, 2.0])) == 1.5
    assert np.isnan(finite_mean(np.array([np.nan])))
