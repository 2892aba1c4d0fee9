"""Precision and recall of answers that may be refused, against loops over every threshold."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from distilplace.evaluation.retrieval.refusal import precision_recall, resampled_figures


def answers(seed, count=60):
    """Similarities with ties, which are correct, which queries have a match; one may not be answered at all."""
    random = np.random.default_rng(seed)
    matched = random.random(count) < 0.8
    correct = matched & (random.random(count) < 0.6)
    similarity = np.round(random.random(count) + 0.4 * correct, 1 if seed % 2 else 6).astype(np.float32)
    similarity[0], correct[0] = np.nan, False
    return similarity, correct, matched


def slow_curve(similarity, correct, matched):
    rows = []
    for threshold in sorted({float(value) for value in similarity if value == value}, reverse=True):
        answered = [i for i, value in enumerate(similarity) if value >= threshold]
        right = sum(bool(correct[i]) for i in answered)
        rows.append((threshold, right / len(answered), right / sum(matched.tolist())))
    return rows


@pytest.mark.parametrize("seed", range(6))
def test_curve_and_figures_are_those_of_every_threshold(seed):
    similarity, correct, matched = answers(seed)
    curve, rows = precision_recall(similarity, correct, matched), slow_curve(similarity, correct, matched)
    # scikit-learn leaves out thresholds below the one where every correct answer is given
    reached = next(i for i, row in enumerate(rows) if row[2] == rows[-1][2]) + 1
    assert len(curve.thresholds) >= reached
    kept = rows[: len(curve.thresholds)]
    np.testing.assert_allclose(np.column_stack([curve.thresholds, curve.precision, curve.recall]), kept, atol=1e-12)
    assert curve.auc == pytest.approx(sum(p * (r - (rows[i - 1][2] if i else 0)) for i, (_, p, r) in enumerate(rows)))
    f1, at = curve.f1_max
    best = max((2 * p * r / (p + r) if p + r else 0.0, t) for t, p, r in rows)
    assert (f1, at) == pytest.approx(best)
    for precision in (0.5, 0.95, 1.0):
        good = [(r, t) for t, p, r in rows if p >= precision and r > 0]
        assert curve.recall_at(precision) == (pytest.approx(max(good)) if good else (0.0, None))
    assert (curve.matched, curve.unmatched) == (matched.sum(), (~matched).sum())


def test_where_all_queries_match_and_all_answers_are_right_everything_is_one():
    curve = precision_recall([0.9, 0.8], [True, True], [True, True])
    assert (curve.auc, curve.f1_max, curve.recall_at(1.0)) == (1.0, (1.0, 0.8), (1.0, 0.8))


def test_a_query_without_a_match_must_be_refused():
    known = precision_recall([0.9, 0.8], [True, True], [True, True])
    with_strange = precision_recall([0.9, 0.8, 0.85], [True, True, False], [True, True, False])
    assert known.recall_at(1.0) == (1.0, 0.8)
    assert with_strange.recall_at(1.0) == (0.5, 0.9)
    assert with_strange.auc == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_nothing_correct_gives_zeros_not_a_warning():
    curve = precision_recall([0.3, 0.4], [False, False], [True, False])
    told = curve.to_dict()
    assert (told["auc"], told["f1_max"], told["f1_threshold"], told["recall_at_95_precision"]) == (0.0, 0.0, None, 0.0)
    json.dumps(told)


@pytest.mark.parametrize("seed", range(4))
def test_resampled_figures_are_those_of_repeated_rows(seed):
    similarity, correct, matched = answers(seed)
    weights = np.random.default_rng(seed).integers(0, 3, (5, len(similarity))).astype(float)
    auc, recall = resampled_figures(similarity, correct, matched, weights)
    for row, one, other in zip(weights, auc, recall, strict=True):
        often = np.repeat(np.arange(len(row)), row.astype(int))
        curve = precision_recall(similarity[often], correct[often], matched[often])
        assert one == pytest.approx(curve.auc)
        assert other == pytest.approx(curve.recall_at(0.95)[0])
        given = often[~np.isnan(similarity[often])]
        share = correct[often].sum() / matched[often].sum()
        assert one == pytest.approx(average_precision_score(correct[given], similarity[given]) * share)


def test_a_precision_that_is_just_reached_counts():
    _, recall = resampled_figures([0.9, 0.8], [False, True], [True, True], np.ones((1, 2)), precision=0.5)
    assert recall == [0.5]
    assert precision_recall([0.9, 0.8], [False, True], [True, True]).recall_at(0.5) == (0.5, 0.8)


def test_a_sample_without_a_matched_query_has_no_figure():
    auc, recall = resampled_figures([0.5, 0.4], [True, False], [True, False], np.array([[0.0, 2.0], [1.0, 1.0]]))
    assert np.isnan(auc[0])
    assert auc[1] == recall[1] == 1.0
