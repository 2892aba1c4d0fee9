"""Asymmetric metric learning: both forms by loops over tuples, its options, and who gets a gradient."""

import math

import pytest
import torch

from distilplace.common.errors import UserError
from distilplace.losses import create_distiller
from distilplace.losses.aml import aml
from distilplace.losses.combined import with_terms

SIZE = 7
PLACE = torch.tensor([0, 0, 0, 1, 1, 2, 3])
POSITIVES = (PLACE[:, None] == PLACE) & ~torch.eye(SIZE, dtype=torch.bool)
NEGATIVES = (PLACE[:, None] - PLACE).abs() >= 2
MASKS = {"positives_mask": POSITIVES, "negatives_mask": NEGATIVES}


def rows(seed: int, width: int = 4) -> torch.Tensor:
    return torch.randn(SIZE, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow(s: torch.Tensor, t: torch.Tensor, form: str, margin: float, count: int, own: bool) -> float:
    """The loss anchor by anchor, pair by pair."""

    def unit(x: torch.Tensor) -> list[list[float]]:
        return [[v / math.hypot(*row) for v in row] for row in x.tolist()]

    anchors, others, total = unit(s), unit(t), 0.0
    for a in range(SIZE):
        distance = [math.dist(anchors[a], other) for other in others]
        near = sorted(distance[n] for n in range(SIZE) if NEGATIVES[a, n])[: count or SIZE]
        mates = [p for p in range(SIZE) if POSITIVES[a, p]]
        weighted = [(p, 1 / len(mates)) for p in mates] + [(a, 1.0)] * own
        if form == "contrastive":
            total += sum(w * distance[p] ** 2 / 2 for p, w in weighted)
            total += sum(max(margin - n, 0) ** 2 / 2 for n in near)
        else:
            total += sum(w * max(distance[p] ** 2 - n**2 + margin, 0) for p, w in weighted for n in near)
    return total / SIZE


@pytest.mark.parametrize("form", ["contrastive", "triplet"])
@pytest.mark.parametrize(("margin", "count", "own"), [(None, 5, False), (1.3, 2, True), (1.3, 0, False)])
def test_both_forms_by_hand(form, margin, count, own):
    s, t = rows(1), rows(2)
    wanted = slow(s, t, form, margin or {"contrastive": 0.7, "triplet": 0.1}[form], count, own)
    found = aml(s, t, **MASKS, aml_form=form, aml_margin=margin, aml_negatives=count, aml_self=own)
    assert wanted > 0.1
    assert float(found) == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("form", ["contrastive", "triplet"])
def test_a_batch_without_positives_or_negatives_lacks_that_part(form):
    none = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    assert float(aml(rows(1), rows(2), none, none, aml_form=form)) == 0
    alone = float(aml(rows(1), rows(2), POSITIVES, none, aml_form=form))
    assert (alone > 0) == (form == "contrastive")


def test_students_alone_are_pulled_beside_another_method():
    s, t, centred = rows(1).requires_grad_(), rows(2).requires_grad_(), rows(3).requires_grad_()
    method = with_terms(create_distiller("ours_rkdg", rkdgloss_weight=1.0), ["aml:3"], aml_form="triplet")
    found = method({"embedding": s}, [{"embedding": t, "aligned_embedding": centred}], MASKS)
    assert list(found) == ["rkdg", "aml"]
    assert found["aml"].item() == pytest.approx(3 * slow(s.detach(), centred.detach(), "triplet", 0.1, 5, False))
    found["aml"].backward()
    assert s.grad.abs().max() > 0
    assert t.grad is None
    assert centred.grad is None


def test_refusals():
    output = {"embedding": rows(1), "aligned_embedding": rows(2)}
    with pytest.raises(UserError, match="needs positives_mask of the batch"):
        create_distiller("aml")({"embedding": rows(1)}, [output], {})
    with pytest.raises(UserError, match="--student_output_dim 4"):
        create_distiller("aml").prepare({"embedding": rows(1, 3)}, [output], SIZE)
    with pytest.raises(UserError, match="aml_form"):
        create_distiller("aml", aml_form="pairs")
