"""Truncated smooth AP against the recorded cases, loops, and degenerate batches."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.common.errors import UserError
from distilplace.losses import create_task_loss

NAME = "TruncatedSmoothAP"
RECORDED = ("ap_b16", "ap_b32_cosine", "ap_pairs_fewer_positives", "ap_row_without_positive")


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("g_task_losses.pt")


def test_no_recorded_case_is_forgotten(recorded):
    assert {name for name, case in recorded.items() if case["cls"] == NAME} <= set(RECORDED)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_losses(recorded, name, dtype, tolerance):
    case = recorded[name]
    loss_function = create_task_loss(
        NAME,
        ap_tau1=case["tau1"],
        ap_similarity=case["similarity"],
        ap_positives_per_query=case["positives_per_query"],
    )
    embedding = case["embeddings"]["embedding"].clone().to(dtype).requires_grad_()
    loss, statistics = loss_function({"embedding": embedding}, case["positives_mask"], case["negatives_mask"])
    loss.backward()
    assert loss.item() == pytest.approx(case["loss_f64"], rel=tolerance)
    torch.testing.assert_close(embedding.grad.float(), case["grads"]["embedding"], rtol=1e-4, atol=1e-5)
    names = ["loss", "ap", "avg_embedding_norm", "positives_per_query"]
    names += ["best_positive_ranking"] if case["positives_mask"].any(dim=1).all() else []
    for statistic in names:
        assert statistics[statistic] == pytest.approx(case["stats"][statistic], rel=1e-4)


@given(
    seed=st.integers(0, 999),
    size=st.integers(2, 6),
    kept=st.integers(1, 8),
    similarity=st.sampled_from(["euclidean", "cosine"]),
)
@settings(max_examples=40, deadline=None)
def test_loss_by_loops(seed, size, kept, similarity):
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(size, 3, generator=generator, dtype=torch.float64)
    label = torch.randint(0, 2, (size,), generator=generator)
    positives = (label.unsqueeze(0) == label.unsqueeze(1)) & ~torch.eye(size, dtype=torch.bool)
    negatives = label.unsqueeze(0) != label.unsqueeze(1)
    points = embedding.tolist()

    def score(q: int, z: int) -> float:
        if similarity == "cosine":
            return sum(a * b for a, b in zip(points[q], points[z], strict=True))
        return -math.dist(points[q], points[z])

    def ahead(q: int, z: int, p: int) -> float:
        return 1 / (1 + math.exp(-(score(q, z) - score(q, p)) / 0.1))

    precisions, firsts = [], []
    for q in range(size):
        ranked = sorted((z for z in range(size) if positives[q, z]), key=lambda z: -score(q, z))
        if not ranked:
            continue
        ratios = []
        for p in ranked[:kept]:
            among = 1 + sum(ahead(q, z, p) for z in ranked if z != p)
            ratios.append(among / (among + sum(ahead(q, z, p) for z in range(size) if negatives[q, z])))
        precisions.append(sum(ratios) / len(ratios))
        firsts.append(all(score(q, z) <= score(q, ranked[0]) for z in range(size) if negatives[q, z]))
    loss_function = create_task_loss(NAME, ap_tau1=0.1, ap_similarity=similarity, ap_positives_per_query=kept)
    loss, statistics = loss_function({"embedding": embedding}, positives, negatives)
    wanted = 1 - sum(precisions) / len(precisions) if precisions else 0.0
    assert loss.item() == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    assert statistics["recall@1"] == pytest.approx(sum(firsts) / len(firsts) if firsts else 0.0)


def test_a_batch_without_positives_has_no_loss():
    embedding = torch.randn(3, 4, requires_grad=True)
    mask = torch.zeros(3, 3, dtype=torch.bool)
    loss, statistics = create_task_loss(NAME)({"embedding": embedding}, mask, ~mask)
    loss.backward()
    assert loss.item() == 0
    assert (embedding.grad == 0).all()
    assert all(math.isfinite(value) for value in statistics.values())


def test_equal_rows_give_finite_gradients():
    embedding = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    embedding[1] = embedding[0]
    embedding.requires_grad_()
    positives = torch.zeros(6, 6, dtype=torch.bool)
    positives[0, 1] = positives[1, 0] = positives[2, 3] = positives[3, 2] = True
    loss, _ = create_task_loss(NAME)({"embedding": embedding}, positives, ~positives)
    loss.backward()
    assert embedding.grad.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ap_tau1": 0}, "above 0"),
        ({"ap_similarity": "cosinus"}, "did you mean 'cosine'"),
        ({"ap_positives_per_query": 0}, "at least 1"),
        ({"ap_positives_per_query": 1.5}, "whole number"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        create_task_loss(NAME, **options)
