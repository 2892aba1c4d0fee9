"""The table of predictions against rankings by a plain sort, on disk and read back, and the recalls that follow."""

import re
from pathlib import Path

import numpy as np
import pandas
import pytest

from distilplace.datasets.benchmarks import LandmarkSet
from distilplace.datasets.records import EvaluationSet, PlaceRecord, RankingRules
from distilplace.datasets.relations import true_neighbours
from distilplace.evaluation.landmarks import evaluate_landmarks
from distilplace.evaluation.retrieval.predictions import predictions_of
from distilplace.evaluation.retrieval.predictions_file import write_csv, write_parquet
from distilplace.evaluation.retrieval.ranking import leading
from distilplace.evaluation.retrieval.runs import evaluate_runs

PAGE = Path(__file__).parents[3] / "docs" / "guide" / "evaluation.md"


def street(sizes=(130, 40, 0, 170), seed=0, rules=None):
    """Runs along one street, a place a metre; run 2 is empty, and the end of run 3 lies beyond every other run."""
    random = np.random.default_rng(seed)

    def record(n, i):
        return PlaceRecord(f"{n}/{i}", "", None, (Path(f"/d/{n}/{i}.png"),), 0.0, i + random.uniform(0, 0.4))

    runs = [[record(n, i) for i in range(size)] for n, size in enumerate(sizes)]
    names = [f"run {n}" for n in range(len(sizes))]
    test = EvaluationSet("street", names, runs, runs, true_neighbours(runs, runs, 1.5), 1.5, rules or RankingRules())
    base = random.standard_normal((max(sizes), 6))
    embeddings = [base[:size] + 0.9 * random.standard_normal((size, 6)) for size in sizes]
    return test, embeddings


def evaluated(test, embeddings, metric="cosine"):
    return evaluate_runs(embeddings, embeddings, test.query_sets, metric, runs=test.runs, rules=test.rules)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_table_is_a_plain_sort_of_every_query(metric):
    test, embeddings = street()
    result = evaluated(test, embeddings, metric)
    table = predictions_of(result, test, depth=5)
    expected = []
    for m, items in enumerate(embeddings):
        for n, queries in enumerate(embeddings):
            for i, query in enumerate(queries if m != n and len(items) else []):
                if metric == "cosine":
                    values = items @ query / np.linalg.norm(items, axis=1) / np.linalg.norm(query)
                else:
                    values = -np.linalg.norm(items - query, axis=1)
                order = np.argsort(-values)
                true = set(test.query_sets[n][i].get(m, ()))
                hits = [rank for rank, item in enumerate(order.tolist(), 1) if item in true]
                for rank, item in enumerate(order[:5].tolist(), 1):
                    away = abs(test.database[m][item].easting - test.queries[n][i].easting)
                    row = m, n, i, rank, item, item in true, bool(true), len(true), min(hits, default=0), len(items)
                    expected.append((*row, values[item], away))
    exact = ["database_run", "query_run", "query", "rank", "retrieved", "correct", "evaluated", "positives"]
    exact += ["first_correct", "database_size"]
    assert list(zip(*(table[name].tolist() for name in exact), strict=True)) == [row[:10] for row in expected]
    np.testing.assert_allclose(table["similarity"], [row[10] for row in expected], atol=1e-5)
    np.testing.assert_allclose(table["distance"], [row[11] for row in expected], atol=1e-4)
    assert not table["evaluated"][(table["query_run"] == 3) & (table["query"] >= 135)].any()
    assert len(table.first()) == 2 * (130 + 40 + 170)  # all queries in the two other runs that have a database


def test_the_files_say_the_same_as_the_table(tmp_path):
    test, embeddings = street()
    table = predictions_of(evaluated(test, embeddings), test)
    write_parquet(tmp_path / "p.parquet", {"a": table, "b": table})
    write_csv(tmp_path / "p.csv", {"a": table, "b": table})
    read = pandas.read_parquet(tmp_path / "p.parquet")
    assert len(read) == 2 * len(table)
    assert read.model.tolist() == ["a"] * len(table) + ["b"] * len(table)
    read = read[read.model == "a"]
    for name in ("query", "rank", "retrieved", "similarity", "distance", "correct", "evaluated", "positives"):
        np.testing.assert_array_equal(read[name], table[name])
    rows = zip(read.database_run, read.query_run, read["query"], read.retrieved, strict=True)
    keys = [(f"{n[4:]}/{i}", f"/d/{n[4:]}/{i}.png", f"{m[4:]}/{j}", f"/d/{m[4:]}/{j}.png") for m, n, i, j in rows]
    named = zip(read.query_key, read.query_file, read.retrieved_key, read.retrieved_file, strict=True)
    assert list(named) == keys
    text = pandas.read_csv(tmp_path / "p.csv")
    assert list(text.columns) == list(read.columns)
    assert text.retrieved_file[: len(table)].tolist() == read.retrieved_file.tolist()
    np.testing.assert_allclose(text.similarity[: len(table)], table["similarity"], atol=1e-6)


@pytest.mark.parametrize("unmatched", ["skip", "miss"])
@pytest.mark.parametrize("excluding", [False, True])
def test_recalls_follow_by_the_lines_of_the_docs(tmp_path, capsys, unmatched, excluding):
    every = {(0, 3): [range(130)] * 3 + [range(min(i, 130), min(i + 20, 130)) for i in range(167)]} if excluding else {}
    rules = RankingRules(unmatched=unmatched, excluded=every, groups={0: np.arange(130) // 3} if excluding else {})
    test, embeddings = street((130, 40, 0, 170, 460), rules=rules)
    result = evaluated(test, embeddings)
    path = tmp_path / "predictions.parquet"
    write_parquet(path, {"student": predictions_of(result, test)})
    lines = re.search(r"```python\n(import pandas\n.*?)```", PAGE.read_text(), re.DOTALL)
    exec(lines[1].replace("logs/demo/distilled/predictions.parquet", str(path)), {})
    expected = {**{f"R@{n}": result.recall[n] for n in (1, 5)}, "R@1 %": result.one_percent_recall}
    told = [f"{name} {{'student': {round(value, 2)}}}" for name, value in expected.items()]
    assert capsys.readouterr().out.splitlines() == told
    first = predictions_of(result, test).first()
    assert (first["first_correct"] == 1).tolist() == first["correct"].tolist()


def test_a_query_that_nothing_may_answer_keeps_its_row(tmp_path):
    rules = RankingRules(unmatched="miss", excluded={(0, 1): [range(130)] + [()] * 39})
    test, embeddings = street((130, 40), rules=rules)
    table = predictions_of(evaluated(test, embeddings), test)
    own = table.where((table["query_run"] == 1) & (table["query"] == 0))
    assert (own["rank"].tolist(), own["retrieved"].tolist(), own["evaluated"].tolist()) == ([1], [-1], [True])
    assert own.retrieved_rows().tolist() == [-1]
    assert (own["positives"].tolist(), own["first_correct"].tolist()) == ([0], [0])
    write_parquet(tmp_path / "p.parquet", {"a": table})
    read = pandas.read_parquet(tmp_path / "p.parquet")
    row = read[(read.query_run == "run 1") & (read["query"] == 0)].iloc[0]
    assert row[["similarity", "distance", "retrieved_file"]].isna().all()


def test_landmarks_are_listed_without_junk():
    random = np.random.default_rng(1)
    database, queries = random.standard_normal((60, 4)), random.standard_normal((3, 4))
    records = [PlaceRecord(str(i), "all", None, (Path(f"{i}.jpg"),), 0.0, 0.0) for i in range(63)]
    kinds = {"easy": [[1, 5], [], []], "hard": [[7], [9], []], "junk": [[0, 2, 3], [4], [6]]}
    lists = {kind: [np.array(row, dtype=np.int64) for row in rows] for kind, rows in kinds.items()}
    test = LandmarkSet("marks", records[:60], records[60:], **lists)
    table = predictions_of(evaluate_landmarks(queries, database, test), test, depth=10)
    for query in range(3):
        own = table.where(table["query"] == query)
        similarity = database @ queries[query] / np.linalg.norm(database, axis=1)
        order = [i for i in np.argsort(-similarity).tolist() if i not in kinds["junk"][query]]
        true = {*kinds["easy"][query], *kinds["hard"][query]}
        assert own["retrieved"].tolist() == order[:10]
        assert own["correct"].tolist() == [i in true for i in order[:10]]
        assert own["first_correct"][0] == next((r for r, i in enumerate(order, 1) if i in true), 0)
        assert own["evaluated"].all() == bool(true)
        assert set(own["place"]) == {query}


def test_leading_columns_are_a_stable_sort_with_ties():
    random = np.random.default_rng(2)
    values = random.integers(0, 30, (40, 300)).astype(float)
    values[random.random(values.shape) < 0.3] = -np.inf
    values[0] = -np.inf
    for k in (1, 7, 25, 200):
        np.testing.assert_array_equal(leading(values, k), np.argsort(-values, axis=1, kind="stable")[:, :k])
