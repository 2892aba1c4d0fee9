"""Baselines that compare relations between the items of a batch; each docstring says whether dimensions may differ.

Every function takes embeddings [B, D] (``sp`` and ``selfsim`` also maps [B, C, h, w]) of student and teacher and gives
a scalar. Embeddings are taken as they come; those terms that work on unit vectors make them.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from distilplace.losses.baselines.units import flat, same_batch
from distilplace.losses.distiller import same_shape
from distilplace.losses.distilvpr import rkdg_geodesic
from distilplace.losses.parts.checks import OneOf, Positive, PositiveOrNone, Switch, Weight
from distilplace.losses.parts.cross_agent import Ball
from distilplace.losses.parts.relations import angle_loss, pairwise_distance, similarity, without_diagonal
from distilplace.losses.parts.vectors import unit
from distilplace.losses.rkd import rkd_distance

PKT_EPSILON = 1e-7


def rkd_d(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD's distances alone, Park et al. (CVPR 2019); dimensions may differ. See :func:`losses.rkd.rkd_distance`."""
    same_batch(student, teacher)
    return rkd_distance(pairwise_distance(student), pairwise_distance(teacher))


def rkd_a(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD's angles alone; dimensions may differ. See :func:`distilplace.losses.parts.relations.angle_loss`."""
    same_batch(student, teacher)
    return angle_loss(pairwise_distance(student), pairwise_distance(teacher))


def rkd(
    student: Tensor,
    teacher: Tensor,
    *,
    rkdloss_distance_weight: Weight = 1.0,
    rkdloss_angle_weight: Weight = 1.0,
) -> Tensor:
    """Both parts of RKD, weighted 1 and 1 as in DistilVPR (elsewhere 25 and 50, or 1 and 2); dimensions may differ."""
    same_batch(student, teacher)
    distances = pairwise_distance(student), pairwise_distance(teacher)
    return rkdloss_distance_weight * rkd_distance(*distances) + rkdloss_angle_weight * angle_loss(*distances)


def rkdg(
    student: Tensor,
    teacher: Tensor,
    *,
    curvature: Positive = 0.1,
    legacy_mean: Switch = False,
    hyperbolic_clip_radius: PositiveOrNone = None,
) -> Tensor:
    """DistilVPR's self-agent term (AAAI 2024): distances, angles and geodesic distances; dimensions may differ."""
    ball = Ball(curvature, hyperbolic_clip_radius)
    return rkd(student, teacher) + rkdg_geodesic(student, teacher, ball, legacy_mean=legacy_mean)


def sp(student: Tensor, teacher: Tensor) -> Tensor:
    """Similarity preserving, Tung & Mori (ICCV 2019): ``1/B^2 |rownorm(Gram(s)) - rownorm(Gram(t))|^2``.

    Of flattened maps or of embeddings; sizes may differ.
    """
    same_batch(student, teacher)
    found, wanted = (unit(flat(x) @ flat(x).T) for x in (student, teacher))
    return F.mse_loss(found, wanted)


def selfsim(student: Tensor, teacher: Tensor) -> Tensor:
    """Self-similarity, our reading of SCKD's comparison: ``MSE`` of cosine matrices, diagonals 0; sizes may differ."""
    same_batch(student, teacher)
    found, wanted = (without_diagonal(similarity(flat(x))) for x in (student, teacher))
    return F.mse_loss(found, wanted)


def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    """Probabilistic knowledge transfer, Passalis & Tefas (ECCV 2018); dimensions may differ.

    P: cosines moved to [0, 1], rows divided by their sums; ``mean_ij Pt log((Pt + 1e-7) / (Ps + 1e-7))``.
    """
    same_batch(student, teacher)
    found, wanted = ((similarity(x) + 1) / 2 for x in (student, teacher))
    found, wanted = found / found.sum(dim=1, keepdim=True), wanted / wanted.sum(dim=1, keepdim=True)
    return (wanted * ((wanted + PKT_EPSILON) / (found + PKT_EPSILON)).log()).mean()


def afd(student: Tensor, teacher: Tensor, *, afd_legacy: Switch = False) -> Tensor:
    """Attention-based feature distillation, Ji et al. (AAAI 2021), in DistilVPR's simplification; equal dimensions.

    ``mean_i sum_j softmax_j(<s_i, t_j>) |n(s_i) - n(t_j)|``: not 0 at s = t, since the weights cover other rows.
    ``afd_legacy`` pairs weight (i, j) with distance (j, i), as DistilVPR's program does.
    """
    same_shape(student, teacher)
    attention = F.softmax(student @ teacher.T, dim=1)
    distances = pairwise_distance(unit(student), unit(teacher))
    return (attention * (distances.T if afd_legacy else distances)).sum(dim=1).mean()


def csd(student: Tensor, teacher: Tensor, *, csd_loss: Annotated[str, OneOf(("mse", "kl"))] = "mse") -> Tensor:
    """Contextual similarity distillation, Wu et al. (CVPR 2022): student anchors against teacher neighbours.

    ``MSE(n(s) n(t)', n(t) n(t)')`` (DistilVPR's form), or with ``kl`` the mean KL of the rows' softmax;
    equal dimensions.
    """
    same_shape(student, teacher)
    found, wanted = similarity(student, teacher), similarity(teacher)
    return F.mse_loss(found, wanted) if csd_loss == "mse" else row_divergence(found, wanted)


def row_divergence(found: Tensor, wanted: Tensor) -> Tensor:
    """``mean_i KL(softmax(wanted_i) | softmax(found_i))`` over the rows of two matrices; 0 if there are none."""
    logarithms = F.log_softmax(found, dim=1), F.log_softmax(wanted, dim=1)
    return F.kl_div(*logarithms, reduction="sum", log_target=True) / max(len(found), 1)


def similarity_divergence(
    student: Tensor, teacher: Tensor, temperature: float = 0.05, teacher_temperature: float | None = None
) -> Tensor:
    """Whiten-MTD's loss (AAAI 2024) of similarity matrices [P, P] between two views: KL of rows plus KL of columns.

    ``teacher_temperature`` None: the student's, ``temperature``.
    """
    divisor = temperature if teacher_temperature is None else teacher_temperature
    found, wanted = student / temperature, teacher / divisor
    return row_divergence(found, wanted) + row_divergence(found.T, wanted.T)


def simkl(
    student: Tensor, teacher: Tensor, pairs: Tensor | None = None, *, simkl_temperature: Positive = 0.05
) -> Tensor:
    """:func:`similarity_divergence` of the cosines between the two images of each place; dimensions may differ.

    Args:
        student: embeddings [B, D].
        teacher: embeddings [B, D'].
        pairs: int64 [P, 2], the two views: row of the query and row of the database image of one place. Without them
            the batch is compared with itself (our reading).
        simkl_temperature: of student and teacher.

    """
    same_batch(student, teacher)
    if pairs is None:
        pairs = torch.arange(len(student), device=student.device).unsqueeze(1).expand(-1, 2)
    found, wanted = (similarity(x[pairs[:, 0]], x[pairs[:, 1]]) for x in (student, teacher))
    return similarity_divergence(found, wanted, simkl_temperature)
