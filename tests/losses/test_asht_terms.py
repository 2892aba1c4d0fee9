"""ASHT-KD's pieces: the recorded loss of its repository, and how teachers are weighted, fused and looked at."""

import pytest
import torch

from distilplace.losses.parts.asht_terms import attention_error, exchange_knowledge, repo_loss

T = 3.0


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("n_asht_kd.pt")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_recorded_losses_of_the_repository(recorded, dtype, tolerance):
    for case in recorded.values():
        student = case["student_output"].clone().to(dtype).requires_grad_()
        teachers = [logits.to(dtype).requires_grad_() for logits in case["teacher_outputs"]]
        value, distilled, labelled = repo_loss(student, teachers, case["labels"], case["temperature"])
        value.backward()
        assert value.item() == pytest.approx(case["value_f64"], rel=tolerance)
        assert distilled.item() == pytest.approx(case["kd_part"], rel=1e-5)
        assert labelled.item() == pytest.approx(case["ce_part"], rel=1e-5)
        torch.testing.assert_close(student.grad.float(), case["grads"][0], rtol=1e-4, atol=1e-7)
        assert all(logits.grad is None for logits in teachers)


def test_a_teacher_counts_less_for_the_row_it_gets_wrong_and_for_no_other():
    logits = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = exchange_knowledge(logits, T, 1.0).weights
    logits[1, 2, 2] -= 1
    after = exchange_knowledge(logits, T, 1.0).weights
    assert after[1, 2] < before[1, 2] - 0.01
    assert torch.equal(after[:, [0, 1, 3]], before[:, [0, 1, 3]])
    alike = exchange_knowledge(logits, T, 1e9).weights
    torch.testing.assert_close(alike, torch.full_like(alike, 0.5))


def test_a_tie_for_the_pseudo_label_is_shared():
    logits = torch.tensor([[[0.0, 1, 1], [0, 1, 0], [2, 2, 2]]], dtype=torch.float64)
    assert exchange_knowledge(logits, T, 1.0).hard.tolist() == [[0, 0.5, 0.5], [0, 1, 0], [1 / 3] * 3]


def test_attention_of_maps_without_any_signal_is_finite():
    student = torch.zeros(2, 3, 2, 2, requires_grad=True)
    error = attention_error(student, [torch.zeros(2, 3, 2, 2)], torch.ones(1, 2, dtype=torch.float64))
    error.backward()
    assert error.item() == 0
    assert student.grad.isfinite().all()
