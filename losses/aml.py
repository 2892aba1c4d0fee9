"""Asymmetric metric learning. Budnik & Avrithis, CVPR 2021 (arXiv 2006.16331).

Metric learning between the networks: anchors are the student's embeddings, positives and negatives are the teacher's.
With d_ab = |n(s_a) - n(t_b)| (n: to unit length), N(a) the hardest negatives of anchor a, those with the smallest d,
and p running over its positives, whose weights w sum to 1:

    contrastive   sum_p w_p d_ap^2 / 2 + sum over N(a) of [m - d_an]_+^2 / 2
    triplet       sum_p w_p sum over N(a) of [d_ap^2 - d_an^2 + m]_+

and the mean over the anchors. Formulas, margins and the number of negatives are those of the authors' program; it draws
tuples of one positive and five negatives mined from the whole set, here both come from the batch.
"""

from typing import Annotated

import torch
from torch import Tensor

from distilplace.losses.distiller import same_space
from distilplace.losses.parts.checks import CountOrZero, OneOf, PositiveOrNone, Switch
from distilplace.losses.parts.relations import pairwise_distance
from distilplace.losses.parts.vectors import unit

MARGINS = {"contrastive": 0.7, "triplet": 0.1}


def aml(
    student: Tensor,
    teacher: Tensor,
    positives_mask: Tensor,
    negatives_mask: Tensor,
    *,
    aml_form: Annotated[str, OneOf(tuple(MARGINS))] = "contrastive",
    aml_margin: PositiveOrNone = None,
    aml_negatives: CountOrZero = 5,
    aml_self: Switch = False,
) -> Tensor:
    """The mean over the anchors; an anchor without positives, or without negatives, lacks that part.

    Args:
        student: embeddings [B, d].
        teacher: embeddings [B, d] in the space of ``--align_space``.
        positives_mask: bool [B, B].
        negatives_mask: bool [B, B].
        aml_form: contrastive or triplet.
        aml_margin: m; None: 0.7 (contrastive) or 0.1 (triplet).
        aml_negatives: hardest negatives per anchor; 0: all.
        aml_self: the teacher's embedding of the anchor itself is a positive besides, of weight 1 ("Contr+").

    """
    same_space(student, teacher)
    margin = MARGINS[aml_form] if aml_margin is None else aml_margin
    distances = pairwise_distance(unit(student), unit(teacher))
    weights = positives_mask / positives_mask.sum(dim=1, keepdim=True).clamp_min(1)
    weights = (weights + aml_self * torch.eye(len(weights), device=weights.device)).to(distances.dtype)
    hardest, there = _hardest(distances, negatives_mask, aml_negatives)
    if aml_form == "contrastive":
        pulls = (weights * distances.square()).sum() / 2
        pushes = ((margin - hardest).clamp_min(0).square() * there).sum() / 2
        return (pulls + pushes) / len(student)
    anchors, positives = weights.nonzero(as_tuple=True)
    gaps = distances[anchors, positives].square().unsqueeze(1) - hardest[anchors].square() + margin
    violations = (gaps.clamp_min(0) * there[anchors]).sum(dim=1)
    return (weights[anchors, positives] * violations).sum() / len(student)


def _hardest(distances: Tensor, negatives_mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Distances [B, N] of each anchor's nearest negatives, and which of them there are, 1 or 0."""
    wanted = min(count or len(distances), int(negatives_mask.sum(dim=1).max()))
    order = distances.detach().masked_fill(~negatives_mask, torch.inf).argsort(dim=1, stable=True)[:, :wanted]
    return distances.gather(1, order), negatives_mask.gather(1, order).to(distances.dtype)
