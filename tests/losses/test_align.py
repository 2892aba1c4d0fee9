"""Cosine regression: its formula, in which space it compares, and what it refuses."""

import math

import pytest
import torch

from distilplace.common.errors import UserError
from distilplace.losses import create_distiller
from distilplace.losses.align import align
from distilplace.losses.combined import with_terms


def rows(seed: int, count: int = 5, width: int = 4) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(x: list[float], y: list[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)


def test_the_mean_of_two_minus_two_cosines():
    s, t = rows(1), rows(2)
    wanted = sum(2 - 2 * cosine(a, b) for a, b in zip(s.tolist(), t.tolist(), strict=True)) / 5
    assert float(align(s, t)) == pytest.approx(wanted, rel=1e-12)
    assert float(align(s, 3 * t)) == pytest.approx(wanted, rel=1e-12)
    assert float(align(s, 2 * s)) == pytest.approx(0, abs=1e-24)


def test_it_reads_the_teachers_embedding_in_its_space_and_pulls_the_student_alone():
    s, t, centred = rows(1).requires_grad_(), rows(2).requires_grad_(), rows(3).requires_grad_()
    method = create_distiller("align")
    assert method.teacher_requires == ("aligned_embedding",)
    (term,) = method({"embedding": s}, [{"embedding": t, "aligned_embedding": centred}], {}).values()
    assert term.item() == pytest.approx(align(s, centred).item(), rel=1e-12)
    term.backward()
    assert s.grad.abs().max() > 0
    assert t.grad is None
    assert centred.grad is None


def test_it_stands_beside_a_method_and_several_teachers_are_averaged():
    s, t = {"embedding": rows(1)}, {"embedding": rows(2), "aligned_embedding": rows(3)}
    method = with_terms(create_distiller("ours_rkdg", rkdgloss_weight=1.0), ["align:2"])
    found = method(s, [t], {})
    assert list(found) == ["rkdg", "align"]
    assert float(found["align"]) == pytest.approx(2 * float(align(rows(1), rows(3))), rel=1e-12)
    two = create_distiller("align")(s, [t, {**t, "aligned_embedding": rows(4)}], {})["align"]
    assert float(two) == pytest.approx(float(align(rows(1), rows(3)) + align(rows(1), rows(4))) / 2, rel=1e-12)


def test_other_widths_and_teachers_without_a_space_are_refused():
    with pytest.raises(UserError, match=r"3 numbers.* 4: give --student_output_dim 4, or .*--embedding_head_dim 4"):
        align(rows(1, width=3), rows(2))
    with pytest.raises(UserError, match="needs aligned_embedding, which the teacher does not give"):
        create_distiller("align")({"embedding": rows(1)}, [{"embedding": rows(2)}], {})


def test_the_projection_is_learned_with_the_student_and_free_of_its_scale_and_width():
    s, t = 5 * rows(1, 8, 6) + 3, rows(2, 8)
    teacher = {"embedding": t, "aligned_embedding": rows(3, 8)}
    method = create_distiller("align_projected")
    assert not method.absolute
    method.prepare({"embedding": s[:2]}, [{name: each[:2] for name, each in teacher.items()}], 8)
    (part,) = method.parts
    (projection,) = part.adaptors
    assert projection.linear.weight.shape == (4, 6)
    student = s.clone().requires_grad_()
    (term,) = method({"embedding": student}, [teacher], {}).values()
    normed = (s - s.mean(dim=0)) / (s.var(dim=0, correction=0) + 1e-5).sqrt()
    projected = normed @ projection.linear.weight.double().T + projection.linear.bias.double()
    wanted = align(projected.detach(), teacher["aligned_embedding"])
    assert term.item() == pytest.approx(wanted.item(), rel=1e-4)
    (scaled,) = method({"embedding": 10 * s - 4}, [teacher], {}).values()
    assert scaled.item() == pytest.approx(term.item(), rel=1e-4)
    term.backward()
    assert student.grad.abs().max() > 0
    assert projection.linear.weight.grad.abs().max() > 0
