"""revisitop recomputed by loops, the published numbers, the real Oxford ground truth under an oracle."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.common.errors import UserError
from distilplace.datasets.benchmarks import LandmarkSet
from distilplace.datasets.io.pickles import load_pickle
from distilplace.datasets.records import PlaceRecord
from distilplace.evaluation.landmarks import (
    average_precision,
    evaluate_landmarks,
    expected_score,
    mean_average_precision,
    precision_at,
)
from distilplace.evaluation.retrieval import ranking

PROTOCOLS = {"E": "easy", "M": "medium", "H": "hard"}


def records(letter, count):
    return [PlaceRecord(f"{letter}{i}", "run", None, (), 0.0, 0.0) for i in range(count)]


def landmark_set(gnd, size):
    lists = ([np.array(row[kind], dtype=np.int64) for row in gnd] for kind in ("easy", "hard", "junk"))
    return LandmarkSet("marks", records("d", size), records("q", len(gnd)), *lists)


def slow_protocol(order, entry, protocol, kappas=(1, 5, 10)):
    """AP and precisions of one query by walking down its ranking; None when it has no right answer."""
    right, ignored = {
        "easy": (entry["easy"], [*entry["hard"], *entry["junk"]]),
        "medium": ([*entry["easy"], *entry["hard"]], entry["junk"]),
        "hard": (entry["hard"], [*entry["easy"], *entry["junk"]]),
    }[protocol]
    if not len(right):
        return None
    seen = hits = 0
    area, previous, marks = 0.0, 1.0, []
    for item in order:
        if item in ignored:
            continue
        seen += 1
        marks.append(item in right)
        hits += item in right
        precision = hits / seen
        if item in right:
            area += (previous + precision) / 2 / len(right)
        previous = precision
    last = max((i + 1 for i, mark in enumerate(marks) if mark), default=None)
    depths = [kappa if last is None else min(last, kappa) for kappa in kappas]
    return area, [sum(marks[:depth]) / depth for depth in depths]


def random_truth(rng, size, queries):
    gnd = []
    for _ in range(queries):
        items = rng.permutation(size)
        a, b, c = np.sort(rng.integers(0, size + 1, 3))
        gnd.append({"easy": items[:a].tolist(), "hard": items[a:b].tolist(), "junk": items[b:c].tolist()})
    return gnd


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("letter", list(PROTOCOLS))
def test_published_numbers(golden, index, letter):
    case = golden("l_whiten_mtd.pt")["roxford"][index]
    score = mean_average_precision(case["ranks"], case["gnd"], case["ks"], PROTOCOLS[letter])
    expected = case["results"][letter]
    assert score.mean_ap == pytest.approx(expected["mAP"], abs=1e-12)
    np.testing.assert_allclose(score.average_precisions, expected["APs"], atol=1e-12)
    np.testing.assert_allclose(score.precisions, expected["P_at_k_per_query"], atol=1e-12)
    np.testing.assert_allclose(list(score.mean_precisions.values()), expected["mP_at_k"], atol=1e-12)


def test_the_real_oxford_ground_truth_under_an_oracle(real_data):
    truth = load_pickle(real_data("samples/roxford_rparis") / "oxford5k_gnd_roxford5k.pkl")
    gnd, size = truth["gnd"], len(truth["imlist"])
    assert (len(gnd), size) == (70, 4993)
    assert [sum(len(row[kind]) for row in gnd) for kind in ("easy", "hard", "junk")] == [3029, 2497, 1356]
    evaluated = {"easy": 68, "medium": 70, "hard": 70}
    columns = []
    for row in gnd:  # easy and hard first, in any order, then junk, then the rest
        chosen = [*row["hard"], *row["easy"], *row["junk"]]
        columns.append([*chosen, *np.setdiff1d(np.arange(size), chosen)])
    for protocol in PROTOCOLS.values():
        score = mean_average_precision(np.array(columns).T, gnd, protocol=protocol)
        assert score.mean_ap == 1.0
        assert set(score.mean_precisions.values()) == {1.0}
        if protocol == "easy":
            assert score.evaluated == evaluated[protocol]
            assert np.flatnonzero(np.isnan(score.average_precisions)).tolist() == [11, 66]
        worst = mean_average_precision(np.array(columns)[:, ::-1].T, gnd, protocol=protocol)
        assert worst.mean_ap < 0.02
        assert 0 < expected_score(gnd, size, protocol=protocol).mean_ap < 0.03


def test_an_oracle_in_embeddings_scores_100():
    gnd = [{"easy": [0, 5], "hard": [3], "junk": [1]}, {"easy": [2], "hard": [4, 6], "junk": []}]
    database, query = np.zeros((8, 2)), np.eye(2)
    for row, entry in enumerate(gnd):
        database[[*entry["easy"], *entry["hard"], *entry["junk"]], row] = 1.0
    database[7] = 0.1, 0.1
    result = evaluate_landmarks(query, database, landmark_set(gnd, 8))
    assert result.columns() == dict.fromkeys(["mAP E", "mAP M", "mAP H", "mP@10 M", "mP@10 H"], "100.0")
    assert result.summary == "mAP M 100.0"
    assert result.selection_score == 100.0
    assert result.scalars() == {"mAP_easy": 100.0, "mAP_medium": 100.0, "mAP_hard": 100.0}
    assert result.to_dict()["hard"]["mP@1"] == 100.0
    assert result.to_dict()["hard"]["queries"] == 2
    assert result.top(2, [1]).tolist() == [[2, 4]]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.booleans())
def test_equals_walking_down_the_ranking(seed, size, shortened):
    rng = np.random.default_rng(seed)
    gnd = random_truth(rng, size, 4)
    ranks = np.stack([rng.permutation(size) for _ in gnd], axis=1)
    if shortened:
        ranks = ranks[: (size + 1) // 2]
    for protocol in PROTOCOLS.values():
        score = mean_average_precision(torch.from_numpy(ranks), gnd, protocol=protocol)
        for row, entry in enumerate(gnd):
            slow = slow_protocol(ranks[:, row], entry, protocol)
            if slow is None:
                assert np.isnan(score.average_precisions[row])
            else:
                assert score.average_precisions[row] == pytest.approx(slow[0], rel=1e-12)
                np.testing.assert_allclose(score.precisions[row], slow[1])


@pytest.mark.parametrize("held", [True, False])
def test_embeddings_are_ranked_by_cosine_in_blocks_ties_by_index(monkeypatch, held):
    rng = np.random.default_rng(4)
    database, query = rng.integers(-2, 3, size=(40, 3)).astype(float), rng.integers(-2, 3, size=(9, 3)).astype(float)
    gnd = random_truth(rng, 40, 9)
    gnd[3] = {"easy": [], "hard": [], "junk": [1]}
    units = [rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9) for rows in (query, database)]
    similarity = np.round(units[0] @ units[1].T, 9)
    ranks = np.stack([sorted(range(40), key=lambda i, row=row: (-row[i], i)) for row in similarity], axis=1)
    monkeypatch.setattr(ranking, "_BLOCK", 80)
    monkeypatch.setattr(ranking, "_HELD", 2**24 if held else 100)
    result = evaluate_landmarks(7.0 * query, torch.from_numpy(0.3 * database).float(), landmark_set(gnd, 40))
    for protocol in PROTOCOLS.values():
        expected = mean_average_precision(ranks, gnd, protocol=protocol)
        np.testing.assert_array_equal(result.scores[protocol].average_precisions, expected.average_precisions)
        np.testing.assert_array_equal(result.scores[protocol].precisions, expected.precisions)


def test_ignored_images_change_nothing_wherever_they_stand():
    gnd = [{"easy": [0], "hard": [1], "junk": [2, 3]}]
    plain = mean_average_precision([[4], [0], [1], [2], [3]], gnd)
    for order in ([2, 3, 4, 0, 1], [4, 2, 0, 3, 1], [4, 3, 0, 1, 2]):
        score = mean_average_precision(np.array(order)[:, None], gnd)
        assert score.mean_ap == plain.mean_ap == pytest.approx((0 / 1 + 1 / 2 + 1 / 2 + 2 / 3) / 4)


def test_average_precision_by_hand():
    assert average_precision([0, 1], 2) == 1.0
    assert average_precision([0], 2) == 0.5
    assert average_precision([], 3) == 0.0
    assert average_precision([1, 3], 2) == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    assert precision_at([], 5) == 0.0
    assert precision_at([1], 5) == 0.5  # the last right answer is second: two are looked at
    assert precision_at([1, 9], 5) == 0.2
    with pytest.raises(ValueError, match="1 right answers, of which 2"):
        average_precision([0, 1], 1)


@pytest.mark.parametrize("entry", [([0], [1], []), ([0, 1], [2], [3]), ([], [4], [0]), ([0, 1, 2, 3, 4], [], [])])
def test_chance_is_the_mean_over_every_ranking(entry):
    gnd = [dict(zip(("easy", "hard", "junk"), entry, strict=True))]
    every = np.array(list(permutations(range(5)))).T
    for protocol in PROTOCOLS.values():
        expected = expected_score(gnd, 5, (1, 2, 3, 10), protocol)
        actual = mean_average_precision(every, gnd * every.shape[1], (1, 2, 3, 10), protocol)
        assert expected.mean_ap == pytest.approx(actual.mean_ap, rel=1e-12, nan_ok=True)
        for kappa, value in expected.mean_precisions.items():
            assert value == pytest.approx(actual.mean_precisions[kappa], rel=1e-12, nan_ok=True)


def test_a_protocol_without_questions_shows_a_dash():
    gnd = [{"easy": [0], "hard": [], "junk": []}]
    result = evaluate_landmarks(np.ones((1, 2)), np.ones((3, 2)), landmark_set(gnd, 3))
    assert result.columns()["mAP H"] == result.chance_columns()["mP@10 H"] == "-"
    assert result.columns()["mAP M"] == "100.0"  # all tied: the lower index leads
    assert "mAP_hard" not in result.scalars()
    assert result.to_dict()["hard"]["mAP"] is None


def test_mistakes_are_named():
    gnd = [{"easy": [0], "hard": [7], "junk": []}]
    with pytest.raises(UserError, match="query 0 names database image 7, but there are 3"):
        evaluate_landmarks(np.ones((1, 2)), np.ones((3, 2)), landmark_set(gnd, 3))
    with pytest.raises(UserError, match=r"marks \(queries\) are not finite"):
        evaluate_landmarks(np.full((1, 2), np.nan), np.ones((8, 2)), landmark_set(gnd, 8))
    with pytest.raises(ValueError, match="2 query and 8 database embeddings do not fit"):
        evaluate_landmarks(np.ones((2, 2)), np.ones((8, 2)), landmark_set(gnd, 8))
    with pytest.raises(UserError, match="no query has a positive"):
        evaluate_landmarks(np.ones((1, 2)), np.ones((3, 2)), landmark_set([{"easy": [], "hard": [], "junk": [1]}], 3))
    with pytest.raises(UserError, match="unknown protocol 'meduim': did you mean 'medium'"):
        mean_average_precision(np.zeros((1, 1)), gnd, protocol="meduim")
    with pytest.raises(ValueError, match="more than one of the lists"):
        mean_average_precision(np.zeros((1, 1)), [{"easy": [0], "hard": [0], "junk": []}])
    with pytest.raises(ValueError, match="do not fit 1 queries"):
        mean_average_precision(np.zeros((1, 2)), gnd)
