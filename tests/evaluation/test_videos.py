"""Video similarities and average precisions by loops over frames and candidates, and the published numbers."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.common.errors import UserError
from distilplace.datasets.benchmarks import VideoSet
from distilplace.datasets.records import PlaceRecord
from distilplace.evaluation import videos as module
from distilplace.evaluation.videos import (
    SIMILARITIES,
    average_precision,
    evaluate_videos,
    similarity_matrix,
    video_similarity,
)


def video_set(frames, queries, labels, unlabelled, similarity="fmx"):
    records = {
        name: [PlaceRecord(f"{name}{i}", "run", None, (), 0.0, 0.0) for i in range(len(rows))]
        for name, rows in frames.items()
    }
    return VideoSet("svd", records, queries, labels, unlabelled, similarity)


def slow_similarity(query, candidate, kind):
    """One frame pair after the other."""

    def unit(row):
        return row / np.sqrt(sum(value * value for value in row))

    if kind in ("fme", "fmx"):
        gather = np.mean if kind == "fme" else np.max
        left, right = ([gather([row[d] for row in rows]) for d in range(len(rows[0]))] for rows in (query, candidate))
        return float(np.dot(unit(np.array(left)), unit(np.array(right))))
    cosines = [[float(np.dot(unit(a), unit(b))) for b in candidate] for a in query]
    if kind == "cf":
        return float(np.mean([max(row) for row in cosines]))
    flat = [value for row in cosines for value in row]
    return float(np.mean(flat)) if kind == "sme" else max(flat)


def slow_ap(labels, k=0, positives=None):
    labels = labels[:k] if k else labels
    hits, total = 0, 0.0
    for position, label in enumerate(labels, start=1):
        if label:
            hits += 1
            total += hits / position
    divisor = hits if positives is None else positives
    return total / divisor if hits else 0.0


def test_published_similarities(golden):
    case = golden("l_whiten_mtd.pt")["svd_similarity"]
    sides = [
        [frames[:length] for frames, length in zip(case[f"{side}_frames"], case[f"{side}_lengths"], strict=True)]
        for side in ("query", "candidate")
    ]
    assert {"cf", "sme", "smx"} <= set(case)
    for kind in set(SIMILARITIES) & set(case):
        np.testing.assert_allclose(similarity_matrix(*sides, kind), case[kind], atol=1e-6)


def test_published_average_precisions(golden):
    for case in golden("l_whiten_mtd.pt")["svd_ap"]:
        assert average_precision(case["sorted_labels"], case["k"]) == pytest.approx(case["ap"], abs=1e-12)


@pytest.mark.parametrize("kind", SIMILARITIES)
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_similarities_equal_loops_over_frames(kind, seed):
    rng = np.random.default_rng(seed)
    queries = [rng.normal(size=(n, 4)) for n in rng.integers(1, 5, 3)]
    candidates = [rng.normal(size=(n, 4)) * 5 for n in rng.integers(1, 6, 4)]
    found = similarity_matrix(queries, [torch.from_numpy(rows).float() for rows in candidates], kind)
    expected = [[slow_similarity(q, c, kind) for c in candidates] for q in queries]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert video_similarity(queries[0], candidates[1], kind) == pytest.approx(expected[0][1], abs=1e-6)


def test_chamfer_asks_every_query_frame_for_its_best_answer():
    query, candidate = np.eye(3)[:2], np.eye(3)[:1]
    assert video_similarity(query, candidate, "cf") == 0.5
    assert video_similarity(candidate, query, "cf") == 1.0
    assert video_similarity(query, candidate, "smx") == 1.0
    assert video_similarity(query, candidate, "sme") == 0.5
    assert video_similarity(query, candidate, "fme") == pytest.approx(np.sqrt(0.5))


def test_vectors_are_pooled_before_they_are_normalised():
    # the long first frame decides the mean and the maximum, as in the published evaluation
    query, candidate = np.array([[8.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 0.0]])
    assert video_similarity(query, candidate, "fme") == pytest.approx(4 / np.hypot(4, 1))
    assert video_similarity(query, candidate, "fmx") == pytest.approx(8 / np.hypot(8, 1))
    assert video_similarity(query, candidate, "smx") == pytest.approx(8 / np.hypot(8, 1))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 1), max_size=30), st.integers(0, 12))
def test_average_precision_equals_the_loop(labels, k):
    total = sum(labels)
    assert average_precision(labels, k) == pytest.approx(slow_ap(labels, k), rel=1e-12)
    assert average_precision(labels, k, total) == pytest.approx(slow_ap(labels, k, total), rel=1e-12)
    assert average_precision(labels, k, total) <= average_precision(labels, k)


def test_both_divisors_by_hand():
    labels = [0, 1, 0, 1]
    assert average_precision(labels) == 0.5
    assert average_precision(labels, 2) == 0.5
    assert average_precision(labels, 2, positives=2) == 0.25
    assert average_precision([0, 0, 1], 2) == average_precision([0, 0, 1], 2, 1) == 0.0
    with pytest.raises(ValueError, match="1 near-duplicates, of which 2"):
        average_precision(labels, positives=1)


def random_world(rng, count=30, values=None):
    """Videos of 1 to 4 frames; integer frames of few values give ties."""
    names = [f"{i:03d}" for i in rng.permutation(count)]
    frames = {
        name: (
            rng.normal(size=(rng.integers(1, 5), 3))
            if values is None
            else rng.integers(1, values, size=(rng.integers(1, 5), 3)).astype(float)
        )
        for name in names
    }
    queries, unlabelled = names[:3], names[2:25]  # the third query lies among the unlabelled videos
    labels = [{names[i]: int(rng.random() < 0.5) for i in rng.permutation(np.arange(20, count))[:5]} for _ in queries]
    labels[0][names[20]] = 1  # in the unlabelled list too: its label counts
    return frames, queries, labels, unlabelled


def slow_evaluation(frames, queries, labels, unlabelled, kind, depth=100):
    """Per query the sorted labels of its candidates; ties by name."""
    rows = []
    for query, own in zip(queries, labels, strict=True):
        pool = {name: 0 for name in unlabelled if name != query} | own
        closeness = {name: round(slow_similarity(frames[query], frames[name], kind), 6) for name in pool}
        rows.append([pool[name] for name in sorted(pool, key=lambda name, c=closeness: (-c[name], name))])
    return rows


@pytest.mark.parametrize("kind", SIMILARITIES)
@pytest.mark.parametrize("values", [None, 3])
@pytest.mark.parametrize("block", [2**24, 40, 1])
def test_evaluation_equals_sorting_every_pool(monkeypatch, kind, values, block):
    monkeypatch.setattr(module, "_BLOCK", block)
    monkeypatch.setattr(module, "DEPTH", 6)
    frames, queries, labels, unlabelled = random_world(np.random.default_rng(SIMILARITIES.index(kind)), values=values)
    result = evaluate_videos(frames, video_set(frames, queries, labels, unlabelled, kind))
    for row, sorted_labels in enumerate(slow_evaluation(frames, queries, labels, unlabelled, kind)):
        total = sum(sorted_labels)
        if not total:
            assert all(np.isnan(values[row]) for values in result.average_precisions.values())
            continue
        assert result.ranks[row].tolist() == [i + 1 for i, label in enumerate(sorted_labels) if label]
        expected = slow_ap(sorted_labels, 6), slow_ap(sorted_labels, 6, total), slow_ap(sorted_labels)
        for name, value in zip(("mAP@100", "mAP@100 (all)", "mAP"), expected, strict=True):
            assert result.average_precisions[name][row] == pytest.approx(value, rel=1e-12)


def test_blocks_hold_as_many_similarities_as_allowed_and_hardly_more(monkeypatch):
    held = []

    def watched(queries, candidates, kind):
        held.append(len(queries[0]) * len(candidates[0]))
        return similarities(queries, candidates, kind)

    similarities = module._similarities
    monkeypatch.setattr(module, "_similarities", watched)
    monkeypatch.setattr(module, "_BLOCK", 60)
    frames = {f"{i:02d}": np.ones((3, 2)) for i in range(21)}  # 9 similarities a video: seven reach 60
    evaluate_videos({"q": np.ones((3, 2)), **frames}, video_set(frames, ["q"], [{"04": 1}], list(frames), "cf"))
    assert held == [9, 63, 63, 63]  # the near-duplicate, then everybody


def test_an_oracle_scores_100_and_queries_without_a_duplicate_are_left_out():
    frames = {"q": np.eye(2)[:1], "r": np.eye(2)[:1], "a": np.eye(2)[:1], "b": np.eye(2)[1:], "c": np.eye(2)[1:]}
    result = evaluate_videos(frames, video_set(frames, ["q", "r"], [{"a": 1, "b": 0}, {"b": 0}], ["c", "q"]))
    assert result.columns() == {"mAP@100": "100.0", "mAP@100 (all)": "100.0", "mAP": "100.0"}
    assert result.evaluated == 1
    assert result.selection_score == 100.0
    assert result.summary == "mAP 100.0"
    assert result.chance_columns()["mAP"] == "61.1"  # one of three candidates: (1 + 1/2 + 1/3) / 3
    assert result.to_dict()["similarity"] == "fmx"
    assert set(result.scalars()) == {"mAP@100", "mAP@100_all", "mAP"}


def test_constant_embeddings_do_not_score_by_the_order_of_the_labels():
    names = [f"{i:03d}" for i in range(200)]
    frames = dict.fromkeys(["query", *names], np.ones((2, 5), dtype=np.float32) * 0.37)
    labels = dict.fromkeys(names[150:160], 1) | dict.fromkeys(names[:20], 0)
    for kind in SIMILARITIES:
        result = evaluate_videos(frames, video_set(frames, ["query"], [labels], names[20:150] + names[160:], kind))
        assert result.ranks[0].tolist() == list(range(151, 161))
        assert result.columns()["mAP@100"] == "0.0"


def test_chance_is_the_mean_over_every_order(monkeypatch):
    monkeypatch.setattr(module, "DEPTH", 3)
    frames = dict.fromkeys("qabcde", np.ones((1, 2)))
    result = evaluate_videos(frames, video_set(frames, ["q"], [{"a": 1, "b": 1, "c": 0}], ["d", "e"]))
    orders = list(permutations([1, 1, 0, 0, 0]))
    for name, arguments in {"mAP@100": (3,), "mAP@100 (all)": (3, 2), "mAP": ()}.items():
        expected = np.mean([average_precision(order, *arguments) for order in orders])
        assert result.chance[name][0] == pytest.approx(expected, rel=1e-12)


def test_mistakes_are_named():
    frames = {"q": np.ones((1, 2)), "a": np.ones((1, 2)), "empty": np.zeros((0, 2))}
    with pytest.raises(UserError, match="video gone has no embedded frames"):
        evaluate_videos(frames, video_set(frames, ["q"], [{"a": 1}], ["gone"]))
    with pytest.raises(UserError, match="video empty has no frames"):
        evaluate_videos(frames, video_set(frames, ["q"], [{"a": 1}], ["empty"]))
    with pytest.raises(UserError, match="no query video has a near-duplicate"):
        evaluate_videos(frames, video_set(frames, ["q"], [{"a": 0}], []))
    with pytest.raises(UserError, match="video a are not finite"):
        evaluate_videos({**frames, "a": np.full((1, 2), np.nan)}, video_set(frames, ["q"], [{"a": 1}], []))
    with pytest.raises(UserError, match="unknown video similarity 'cfm': did you mean 'cf'"):
        video_similarity(frames["q"], frames["a"], "cfm")
