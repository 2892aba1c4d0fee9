"""Contextual similarity against a bank of teacher outputs: its formula place by place, the bank, and refusals."""

import math

import pytest
import torch

from distilplace.common.errors import UserError
from distilplace.losses import create_distiller
from distilplace.losses.combined import with_terms
from distilplace.losses.csd_bank import nearest

PLACES = 9
INDICES = torch.tensor([4, 0, 7])


def rows(seed: int, count: int = 3, width: int = 4) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(x: list[float], y: list[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def slow(s: torch.Tensor, t: torch.Tensor, bank: torch.Tensor, count: int, of_s: float, of_t: float) -> float:
    database, total = bank.tolist(), 0.0
    for student, teacher, place in zip(s.tolist(), t.tolist(), INDICES.tolist(), strict=True):
        near = sorted(range(len(database)), key=lambda j: -cosine(database[place], database[j]))[:count]
        assert near[0] == place
        wanted = softmax([cosine(teacher, database[j]) / of_t for j in near])
        found = softmax([cosine(student, database[j]) / of_s for j in near])
        total += sum(p * math.log(p / q) for p, q in zip(wanted, found, strict=True))
    return total / len(INDICES)


def method(bank: torch.Tensor, teachers: int = 1, **options: float):
    built = create_distiller("csd_bank", **options)
    assert built.reads_bank
    built.see_bank([bank] * teachers)
    known = {"embedding": bank[:2], "aligned_embedding": bank[:2]}
    built.prepare({"embedding": rows(1)[:2]}, [known] * teachers, PLACES)
    return built


@pytest.mark.parametrize(("count", "of_s", "of_t"), [(3, 0.5, 0.2), (50, 1.0, 0.3)])
def test_the_divergence_by_hand_and_no_gradient_but_the_students(count, of_s, of_t):
    bank, s = rows(3, PLACES).float().double(), rows(1).requires_grad_()
    t = (bank[INDICES] + 0.1 * rows(2)).requires_grad_()
    built = method(
        bank, csd_bank_neighbours=count, csd_bank_student_temperature=of_s, csd_bank_teacher_temperature=of_t
    )
    output = {"embedding": rows(4), "aligned_embedding": t}
    (found,) = built({"embedding": s}, [output], {"indices": INDICES}).values()
    # the bank is kept in float32
    assert found.item() == pytest.approx(slow(s.detach(), t.detach(), bank, count, of_s, of_t), rel=1e-5)
    found.backward()
    assert s.grad.abs().max() > 0
    assert t.grad is None
    assert list(built.parameters()) == []
    assert built.state_dict() == {}


def test_a_student_that_sees_the_database_as_the_teacher_does_is_right():
    bank = rows(3, PLACES)
    built = method(bank, csd_bank_student_temperature=0.1, csd_bank_teacher_temperature=0.1)
    output = {"embedding": bank[INDICES], "aligned_embedding": bank[INDICES]}
    (found,) = built({"embedding": 2 * bank[INDICES]}, [output], {"indices": INDICES}).values()
    assert abs(found.item()) < 1e-10


def test_it_joins_a_method_and_several_teachers_are_averaged():
    bank, student = rows(3, PLACES), {"embedding": rows(1)}
    output, batch = {"embedding": rows(4), "aligned_embedding": bank[INDICES]}, {"indices": INDICES}
    alone = method(bank)(student, [output], batch)["csd_bank"]
    assert method(bank, 2)(student, [output, output], batch)["csd_bank"].item() == pytest.approx(alone.item())
    joined = with_terms(create_distiller("ours_rkdg", rkdgloss_weight=1.0), ["align:1", "csd_bank:4"])
    joined.see_bank([bank])
    joined.prepare({"embedding": rows(1)[:2]}, [{"embedding": bank[:2], "aligned_embedding": bank[:2]}], PLACES)
    found = joined(student, [output], batch)
    assert list(found) == ["rkdg", "align", "csd_bank"]
    assert found["csd_bank"].item() == pytest.approx(4 * alone.item())


def test_neighbours_are_found_block_by_block(monkeypatch):
    bank = torch.nn.functional.normalize(rows(5, 40), dim=1)
    whole = nearest(bank, 6)
    monkeypatch.setattr("distilplace.losses.csd_bank.BLOCK", 100)
    assert torch.equal(nearest(bank, 6), whole)
    assert torch.equal(whole[:, 0], torch.arange(40))


def test_refusals():
    output = {"embedding": rows(1), "aligned_embedding": rows(2)}
    with pytest.raises(UserError, match="--student_output_dim 4"):
        create_distiller("csd_bank").prepare({"embedding": rows(1, width=3)}, [output], PLACES)
    with pytest.raises(ValueError, match="call see_bank first"):
        create_distiller("csd_bank").prepare({"embedding": rows(1)}, [output], PLACES)
