"""Batch-hard triplet losses against the recorded cases, loops, and degenerate batches."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.common.errors import UserError
from distilplace.losses import create_task_loss
from tests.goldens import is_recorded

MULTI, SINGLE = "MultiBatchHardTripletMarginLoss", "BatchHardTripletMarginLoss"
ALL_CASES = (
    *("student_b16", "student_b64", "teacher_b16", "batchhard_b16", "batchhard_b12_normalized_margin0.4"),
    *("row_without_positive", "row_without_negative", "no_positive_at_all", "all_easy_zero_loss", "duplicates"),
)
RECORDED = [name for name in ALL_CASES if is_recorded("g_task_losses.pt", name)]


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("g_task_losses.pt")


def build(case: dict):
    options = {"margin": case["margin"], "normalize_embeddings": case["normalize_embeddings"]}
    if case["cls"].startswith("Multi"):
        return create_task_loss(MULTI, **options, weights=tuple(case["weights"]))
    return create_task_loss(SINGLE, **options)


def test_no_recorded_triplet_case_is_forgotten(recorded):
    assert {name for name, case in recorded.items() if "Triplet" in case["cls"]} <= set(RECORDED)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", [name for name in RECORDED if name != "no_positive_at_all"])
def test_recorded_losses(recorded, name, dtype, tolerance):
    case = recorded[name]
    loss_function = build(case)
    output = {key: value.clone().to(dtype).requires_grad_() for key, value in case["embeddings"].items()}
    loss, statistics = loss_function(output, case["positives_mask"], case["negatives_mask"])
    loss.backward()
    assert loss.item() == pytest.approx(case["loss_f64"], rel=tolerance, abs=1e-12)
    for key, embedding in output.items():
        wanted = case["grads"][key]
        if wanted is None:
            assert embedding.grad is None
        else:
            torch.testing.assert_close(embedding.grad.float(), wanted, rtol=1e-4, atol=1e-6)
    found = loss_function.triplets["final"]
    assert [indices.tolist() for indices in found] == [
        case["triplets_final"][role].tolist() for role in ("anchor", "positive", "negative")
    ]
    for statistic, value in statistics.items():
        assert math.isfinite(value)
        lacking = name.startswith("row_without") and statistic.endswith("_dist")
        if not lacking:  # upstream counts rows without positives as 0, rows without negatives as infinite
            assert value == pytest.approx(case["stats"][statistic], rel=1e-4, abs=1e-6), statistic


def test_a_batch_without_triplets_has_no_loss_and_fresh_statistics(recorded):
    """Oddity 15: upstream raises, or reports the last batch's numbers."""
    good, bad = recorded["student_b16"], recorded["no_positive_at_all"]
    assert "raises" in bad
    loss_function = build(bad)
    first, _ = loss_function(good["embeddings"], good["positives_mask"], good["negatives_mask"])
    assert first.item() > 0
    embedding = bad["embeddings"]["embedding"].clone().requires_grad_()
    loss, statistics = loss_function({"embedding": embedding}, bad["positives_mask"], bad["negatives_mask"])
    loss.backward()
    assert loss.item() == 0
    assert (embedding.grad == 0).all()
    assert statistics["final_num_triplets"] == statistics["final_num_non_zero_triplets"] == statistics["loss"] == 0
    assert statistics["final_mean_pos_pair_dist"] == 0
    assert all(math.isfinite(value) for value in statistics.values())
    assert len(loss_function.triplets["final"][0]) == 0
    nothing = torch.zeros_like(bad["positives_mask"])
    loss, statistics = loss_function({"embedding": embedding}, nothing, nothing)
    assert loss.item() == 0
    assert all(math.isfinite(value) for value in statistics.values())


def test_rows_without_negatives_leave_no_infinity_in_the_statistics(recorded):
    """Oddity 15."""
    case = recorded["row_without_negative"]
    assert math.isinf(case["stats"]["final_mean_neg_pair_dist"])
    _, statistics = build(case)(case["embeddings"], case["positives_mask"], case["negatives_mask"])
    distances = torch.cdist(case["embeddings"]["embedding"].double(), case["embeddings"]["embedding"].double())
    nearest = [distances[i][mask].min().item() for i, mask in enumerate(case["negatives_mask"]) if mask.any()]
    assert statistics["final_mean_neg_pair_dist"] == pytest.approx(sum(nearest) / len(nearest), rel=1e-4)
    assert statistics["final_max_neg_pair_dist"] == pytest.approx(max(nearest), rel=1e-4)


@given(seed=st.integers(0, 999), size=st.integers(2, 6), margin=st.sampled_from([0.0, 0.2, 2.0]))
@settings(max_examples=40, deadline=None)
def test_loss_by_loops(seed, size, margin):
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(size, 3, generator=generator, dtype=torch.float64)
    label = torch.randint(0, 3, (size,), generator=generator)
    positives = (label.unsqueeze(0) == label.unsqueeze(1)) & ~torch.eye(size, dtype=torch.bool)
    negatives = label.unsqueeze(0) != label.unsqueeze(1)
    points, losses = embedding.tolist(), []
    for a in range(size):
        near = [(math.dist(points[a], points[p]), p) for p in range(size) if positives[a, p]]
        far = [(math.dist(points[a], points[n]), n) for n in range(size) if negatives[a, n]]
        if near and far:
            (d_ap, p), (d_an, n) = max(near), min(far)
            losses.append(max(d_ap - min(d_an, math.dist(points[p], points[n])) + margin, 0.0))
    active = [loss for loss in losses if loss > 0]
    wanted = sum(active) / len(active) if active else 0.0
    found, statistics = create_task_loss(SINGLE, margin=margin)({"embedding": embedding}, positives, negatives)
    assert found.item() == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    assert statistics["num_triplets"] == len(losses)
    assert statistics["num_non_zero_triplets"] == len(active)


def test_equal_rows_are_0_apart_in_batches_above_25():
    # the library's own distance puts a quarter of such rows some 5e-3 apart
    half = torch.randn(20, 384, generator=torch.Generator().manual_seed(0)).abs()
    embedding = (8 * torch.nn.functional.normalize(half, dim=1)).repeat(2, 1).requires_grad_()
    positives = torch.eye(20, dtype=torch.bool).repeat(2, 2) & ~torch.eye(40, dtype=torch.bool)
    negatives = ~torch.eye(20, dtype=torch.bool).repeat(2, 2)
    loss, statistics = create_task_loss(SINGLE, margin=20.0)({"embedding": embedding}, positives, negatives)
    loss.backward()
    assert statistics["max_pos_pair_dist"] == 0
    assert embedding.grad.isfinite().all()


def test_the_metric_that_is_trained_is_declared():
    """Oddity 9: upstream trains with one distance, tests with another and says neither."""
    assert create_task_loss(MULTI).metric == create_task_loss(SINGLE).metric == "euclidean"
    assert create_task_loss("TruncatedSmoothAP", ap_similarity="cosine").metric == "cosine"


def test_the_students_loss_is_half_of_one_embeddings(recorded):
    case = recorded["student_b16"]
    arguments = case["embeddings"], case["positives_mask"], case["negatives_mask"]
    half, _ = create_task_loss(MULTI)(*arguments)
    whole, _ = create_task_loss(SINGLE)(*arguments)
    assert half.item() == pytest.approx(0.5 * whole.item(), rel=1e-6)
    text, _ = create_task_loss(MULTI, weights="0.5_0.5_0")(*arguments)
    assert text.item() == half.item()


def test_half_precision_is_lifted(recorded):
    case = recorded["student_b16"]
    masks = case["positives_mask"], case["negatives_mask"]
    low = case["embeddings"]["embedding"].bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = create_task_loss(SINGLE)({"embedding": low}, *masks)
    exact, _ = create_task_loss(SINGLE)({"embedding": low.double()}, *masks)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "0_0_0"}, "all 0"),
        ({"weights": "1_1"}, "give 3"),
        ({"weights": (1, -1, 0)}, "negative"),
        ({"margin": -0.1}, "negative"),
        ({"margn": 0.1}, "did you mean 'margin'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        create_task_loss(MULTI, **options)


def test_weights_that_miss_the_model_are_refused():
    mask = torch.zeros(2, 2, dtype=torch.bool)
    with pytest.raises(UserError, match=r"0_1_0.*embedding"):
        create_task_loss(MULTI, weights="0_1_0")({"embedding": torch.zeros(2, 3)}, mask, mask)
