"""Retrieval recomputed the slow way: points one can draw, exact arithmetic, every permutation of a small database."""

import json
import subprocess
import sys
import warnings
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.common.errors import UserError
from distilplace.evaluation.retrieval import ranking
from distilplace.evaluation.retrieval.runs import chance_recall, evaluate_runs, one_percent_recall, recall_at


def sets_of(truth, own=1, other=0):
    """Query sets of two runs: run ``own`` asks, with these true neighbours in run ``other``."""
    entries = {i: {"query": f"q{i}", "northing": 0.0, "easting": float(i), other: list(t)} for i, t in enumerate(truth)}
    sets = [{}, {}]
    sets[own] = entries
    return sets


def evaluate(database, queries, truth, metric="euclidean", k=25):
    """One pair: run 0 is the database, run 1 asks."""
    width = np.shape(database)[1]
    nothing = np.zeros((0, width))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return evaluate_runs([database, nothing], [nothing, queries], sets_of(truth), metric, k)


def slow_recalls(database, queries, truth, metric, k):
    """Recall@1..k by python loops and exact fractions; ties by lower index."""
    hits, asked = [0] * k, 0
    for query, true_items in zip(queries, truth, strict=True):
        if not true_items:
            continue
        asked += 1
        order = sorted(range(len(database)), key=lambda i: (-closeness(query, database[i], metric), i))
        for rank in range(k):
            hits[rank] += any(item in true_items for item in order[: rank + 1])
    return [100 * hit / asked for hit in hits]


def closeness(query, item, metric):
    """Exact, monotone in the similarity for a fixed query: minus squared distance, or sign(q.d) (q.d)^2 / |d|^2."""
    if metric == "euclidean":
        return -sum(Fraction(int(a) - int(b)) ** 2 for a, b in zip(query, item, strict=True))
    dot = sum(int(a) * int(b) for a, b in zip(query, item, strict=True))
    square = sum(int(b) ** 2 for b in item)
    return Fraction(abs(dot) * dot, square) if square else Fraction(0)


def test_ten_points_on_a_line():
    # database at 0, 1, ..., 9 metres of a corridor, embedded as themselves; a place is true within 1 m
    database = np.arange(10.0)[:, None]
    queries = np.array([[0.2], [3.4], [8.9], [5.0], [4.0]])
    truth = [[0, 1], [5], [0], [], [9]]
    # query 1: 3, 4, 2, 5 -> rank 4.  query 2: 9, 8, 7, ... 0 -> rank 10.  query 3 is not asked.
    # query 4 (at 4): 4, then 3 and 5 tie, 2 and 6, 1 and 7, 0 and 8, and 9 last -> rank 10
    result = evaluate(database, queries, truth)
    assert result.pairs[0].ranks.tolist() == [1, 4, 10, 0, 10]
    assert result.pairs[0].evaluated == 4
    assert [result.recall[r] for r in (1, 3, 4, 9, 10, 25)] == [25, 25, 50, 50, 100, 100]
    assert result.one_percent_recall == 25
    assert result.top(0, 1, 4).tolist()[1] == [3, 4, 2, 5]
    assert result.top(0, 1, 4, [4, 0]).tolist() == [[4, 3, 5, 2], [0, 1, 2, 3]]
    assert result["recall"] is result.recall
    with pytest.raises(KeyError):
        result["recal"]


def test_means_are_over_pairs_not_over_queries():
    # run 0 is found by 1 of 1 queries of run 1 and by 0 of 3 queries of run 2: mean 50, not 25
    database = [np.array([[1.0, 0.0], [0.0, 1.0]]), np.zeros((0, 2)), np.zeros((0, 2))]
    queries = [np.zeros((0, 2)), np.array([[1.0, 0.1]]), np.array([[1.0, 0.1]] * 3)]
    sets = [{}, {0: {0: [0], 2: []}}, {i: {0: [1], 1: []} for i in range(3)}]
    with pytest.warns(UserWarning, match="smaller than k"):
        result = evaluate_runs(database, queries, sets)
    assert result.recall[1] == 50
    assert result.per_run[0][1] == 50
    assert result.evaluated == 4
    assert np.array_equal(result.matrix(1)[0], [np.nan, 100, 0], equal_nan=True)
    assert [(s.database_run, s.query_run) for s in result.skipped_pairs] == [(1, 0), (1, 2), (2, 0), (2, 1)]
    assert {s.reason for s in result.skipped_pairs} == {"the database run is empty"}


@st.composite
def integer_worlds(draw):
    size, asked, width = draw(st.integers(1, 9)), draw(st.integers(1, 6)), draw(st.integers(1, 3))
    numbers = st.lists(st.integers(-4, 4), min_size=width, max_size=width)
    database = draw(st.lists(numbers, min_size=size, max_size=size))
    queries = draw(st.lists(numbers, min_size=asked, max_size=asked))
    truth = draw(st.lists(st.sets(st.integers(0, size - 1), max_size=3), min_size=asked, max_size=asked))
    truth[0] = truth[0] or {0}
    return database, queries, truth


@given(integer_worlds(), st.sampled_from(["cosine", "euclidean"]), st.sampled_from([np.float32, np.float64]))
@settings(max_examples=150, deadline=None)
def test_equals_the_slow_loop_ties_and_zero_vectors_included(world, metric, dtype):
    database, queries, truth = world
    result = evaluate(np.array(database, dtype), np.array(queries, dtype), truth, metric, k=5)
    expected = slow_recalls(database, queries, truth, metric, 5)
    assert list(result.recall.values()) == pytest.approx(expected)
    ranked = result.top(0, 1)
    for index, query in enumerate(queries):
        order = sorted(range(len(database)), key=lambda i: (-closeness(query, database[i], metric), i))
        assert ranked[index].tolist() == order


@given(st.integers(0, 2**31), st.sampled_from([3, 7, 40]), st.sampled_from(["cosine", "euclidean"]))
@settings(max_examples=40, deadline=None)
def test_permuting_the_database_leaves_recall_unchanged(seed, size, metric):
    random = np.random.default_rng(seed)
    database, queries = random.standard_normal((size, 8)), random.standard_normal((12, 8))
    truth = [random.choice(size, random.integers(0, 3), replace=False).tolist() for _ in queries]
    truth[0] = [0]
    order = random.permutation(size)
    moved = [[int(np.flatnonzero(order == item)[0]) for item in items] for items in truth]
    straight = evaluate(database, queries, truth, metric)
    shuffled = evaluate(database[order], queries, moved, metric)
    assert straight.recall == shuffled.recall
    assert straight.one_percent_recall == shuffled.one_percent_recall
    assert straight.chance == pytest.approx(shuffled.chance)


def test_several_runs_equal_their_pairs_alone():
    random = np.random.default_rng(5)
    database = [random.standard_normal((n, 6)).astype(np.float32) for n in (30, 4, 26)]
    queries = [random.standard_normal((n, 6)).astype(np.float32) for n in (5, 9, 1)]
    sets = [
        {
            i: {m: random.choice(len(database[m]), 2).tolist() for m in range(3) if m != n and (i + m) % 3}
            for i in range(len(queries[n]))
        }
        for n in range(3)
    ]
    with pytest.warns(UserWarning, match="database of 4 items"):
        result = evaluate_runs(database, queries, sets)
    assert len(result.pairs) + len(result.skipped_pairs) == 6
    for pair in result.pairs:
        truth = [sets[pair.query_run][i].get(pair.database_run, []) for i in range(len(queries[pair.query_run]))]
        alone = evaluate(database[pair.database_run], queries[pair.query_run], truth, "cosine")
        assert alone.pairs[0].recall == pair.recall
        assert alone.pairs[0].ranks.tolist() == pair.ranks.tolist()


def test_one_percent_of_3000_looks_at_30_neighbours():
    # an arc of 3000 directions; the query looks along the first, so item i has rank i + 1
    angles = np.linspace(0.0, 3.0, 3000)
    database = np.column_stack([np.cos(angles), np.sin(angles)])
    queries = np.array([[1.0, 0.0]] * 3)
    result = evaluate(database, queries, [[27], [29, 2000], [30]], "cosine")
    assert result.pairs[0].ranks.tolist() == [28, 30, 31]
    assert result.recall[25] == 0
    assert result.one_percent_recall == pytest.approx(200 / 3)
    neighbours = result.top(0, 1, 40)
    assert one_percent_recall(neighbours, [[27], [29, 2000], [30]], 3000) == pytest.approx(200 / 3)
    with pytest.raises(ValueError, match="too few for one percent of 3000"):
        one_percent_recall(neighbours[:, :25], [[27], [29], [30]], 3000)


def test_equal_embeddings_rank_by_database_index():
    random = np.random.default_rng(1)
    row = random.standard_normal(37)
    for metric in ("cosine", "euclidean"):
        result = evaluate(
            np.tile(row, (53, 1)), np.tile(random.standard_normal(37), (3, 1)), [[0], [52, 17], [40]], metric
        )
        assert result.pairs[0].ranks.tolist() == [1, 18, 41]
        assert result.top(0, 1, 53)[0].tolist() == list(range(53))


def test_blocks_give_what_one_piece_gives(monkeypatch):
    random = np.random.default_rng(2)
    database, queries = random.integers(-3, 3, (20, 3)), random.integers(-3, 3, (31, 3))
    truth = [random.choice(20, random.integers(0, 4)).tolist() for _ in queries]
    whole = evaluate(database, queries, truth)
    monkeypatch.setattr(ranking, "_BLOCK", 50)
    blocks = evaluate(database, queries, truth)
    assert whole.pairs[0].ranks.tolist() == blocks.pairs[0].ranks.tolist()
    assert whole.top(0, 1).tolist() == blocks.top(0, 1).tolist()


def test_tensors_of_any_precision_and_lists_are_accepted():
    random = np.random.default_rng(3)
    database, queries, truth = random.integers(-8, 8, (30, 4)), random.integers(-8, 8, (6, 4)), [[i] for i in range(6)]
    expected = evaluate(database.astype(np.float64), queries.astype(np.float64), truth).recall
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        tensors = torch.tensor(database, dtype=dtype, requires_grad=True), torch.tensor(queries, dtype=dtype)
        assert evaluate(*tensors, truth).recall == expected
    result = evaluate_runs([database.tolist(), []], [[], queries.tolist()], sets_of(truth), "euclidean")
    assert result.recall == expected


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e30])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_scale_of_the_embeddings_changes_nothing(scale, metric):
    random = np.random.default_rng(4)
    database, queries = random.standard_normal((40, 8)), random.standard_normal((9, 8))
    truth = [[i] for i in range(9)]
    assert (
        evaluate(database * scale, queries * scale, truth, metric).recall
        == evaluate(database, queries, truth, metric).recall
    )


def test_euclidean_survives_a_large_common_offset():
    random = np.random.default_rng(6)
    database, queries = random.standard_normal((40, 4)), random.standard_normal((9, 4))
    truth = [[i] for i in range(9)]
    assert evaluate(database + 1e6, queries + 1e6, truth).recall == evaluate(database, queries, truth).recall


def test_recall_at_of_given_neighbours():
    neighbours = torch.tensor([[4, 2, 0], [1, 3, 2], [0, 1, 2], [5, 6, 7]])
    truth = [[0, 9], {3}, [], np.array([8])]
    assert [recall_at(neighbours, truth, k) for k in (1, 2, 3, 25)] == pytest.approx([0, 100 / 3, 200 / 3, 200 / 3])
    assert one_percent_recall(neighbours, truth, 200) == pytest.approx(100 / 3)
    with pytest.raises(UserError, match="no query has a true neighbour"):
        recall_at(neighbours, [[], [], [], []], 1)
    with pytest.raises(ValueError, match="do not fit"):
        recall_at(neighbours, truth[:2], 1)


def test_chance_is_the_mean_over_every_order_of_the_database():
    size, truth = 5, [[0], [1, 3], [], [0, 1, 2, 4]]
    orders = list(permutations(range(size)))
    result = evaluate(np.arange(5.0)[:, None], np.zeros((4, 1)), truth, k=4)
    for rank in range(1, 5):
        expected = np.mean([recall_at(np.array([order] * 4), truth, rank) for order in orders])
        assert result.chance[rank] == pytest.approx(expected)
        assert chance_recall(sets_of(truth), [size, 0], rank) == pytest.approx(expected)
    assert result.one_percent_chance == pytest.approx(result.chance[1])
    with pytest.raises(UserError, match="no query has a true neighbour"):
        chance_recall(sets_of([[], []]), [5, 0])


def test_mean_similarity_of_right_first_answers():
    database, queries = np.array([[3.0, 0.0], [0.0, 1.0]]), np.array([[2.0, 0.0], [1.0, 1.0], [0.0, -5.0]])
    truth = [[0], [0], [1]]  # the third is wrong at rank 1
    assert evaluate(database, queries, truth, "cosine").top1_similarity == pytest.approx((1 + 0.5**0.5) / 2)
    assert evaluate(database, queries[:1] * [[2, 1]], [[0]], "euclidean").top1_similarity == pytest.approx(12)
    assert evaluate(database, queries[2:], [[1]], "cosine").top1_similarity is None


def test_embeddings_that_are_not_finite_name_their_run():
    good, bad = np.ones((3, 2)), np.array([[1.0, 1.0], [np.nan, 0.0]])
    sets = [{0: {1: [0]}}, {}]
    with pytest.raises(UserError, match=r"night \(database\) are not finite: 1 of 2 rows"):
        evaluate_runs([good, bad], [np.ones((1, 2)), []], sets, runs=["day", "night"])
    with pytest.raises(UserError, match=r"run 0 \(queries\)"):
        evaluate_runs([good, good], [np.full((1, 2), np.inf), []], sets)


def test_bad_input_is_refused_with_one_line():
    one, none = np.ones((1, 2)), np.zeros((0, 2))
    asking = [{}, {0: {0: [0]}}]
    with pytest.raises(UserError, match="no run with any database item"):
        evaluate_runs([none, none], [none, one], [{}, {0: {}}])
    with pytest.raises(UserError, match="no run with any query"):
        evaluate_runs([one, none], [none, none], [{}, {}])
    with pytest.raises(UserError, match="no query has a true neighbour"):
        evaluate_runs([one, none], [none, one], [{}, {0: {0: []}}])
    with pytest.raises(UserError, match="at least two"):
        evaluate_runs([one], [one], [{0: {}}])
    with pytest.raises(UserError, match="name item 7 of run 0, whose database has 1 items"):
        evaluate_runs([one, none], [none, one], [{}, {0: {0: [7]}}])
    with pytest.raises(UserError, match="name item -1 of"):
        evaluate_runs([one, none], [none, one], [{}, {0: {0: [-1]}}])
    with pytest.raises(ValueError, match="different widths"):
        evaluate_runs([np.ones((1, 3)), none], [none, one], asking)
    with pytest.raises(ValueError, match="different lengths"):
        evaluate_runs([one], [none, one], asking)
    with pytest.raises(ValueError, match=r"expected \[n, D\]"):
        evaluate_runs([np.ones(3), none], [none, one], asking)
    with pytest.raises(ValueError, match="k must be"):
        evaluate_runs([one, none], [none, one], asking, k=0)


def test_the_result_is_ready_for_json_and_large_databases_warn_nobody():
    random = np.random.default_rng(7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate_runs(
            [random.standard_normal((30, 3)), []], [[], random.standard_normal((2, 3))], sets_of([[0], [1]])
        )
    text = json.loads(json.dumps(result.to_dict()))
    assert text["recall"]["1"] == result.recall[1]
    assert text["pairs"][0]["database_size"] == 30
    assert text["skipped_pairs"] == [{"database_run": 1, "query_run": 0, "reason": "the database run is empty"}]


def test_importing_retrieval_loads_nothing_heavy(root):
    code = (
        "import sys, distilplace.evaluation.retrieval.runs\n"
        "assert not {'matplotlib', 'torch', 'PIL', 'jinja2', 'faiss', 'sklearn'} & set(sys.modules)\n"
        "from distilplace.evaluation.report import figures, kinds, writer\n"
        "heavy = {'matplotlib', 'jinja2', 'open3d', 'torchvision', 'faiss'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
