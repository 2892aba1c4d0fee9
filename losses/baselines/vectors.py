"""Baselines that compare embeddings coordinate by coordinate: student and teacher need equal dimensions (not CC).

Every function takes embeddings [B, D] of the student and of the teacher and gives a scalar, 0 when they are equal.
"""

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from distilplace.common.randomness import forked_random_state
from distilplace.losses.baselines.units import Start, same_batch
from distilplace.losses.distiller import same_shape
from distilplace.losses.parts.checks import CountOrZero, OneOf, Positive
from distilplace.losses.parts.vectors import unit

NORMS = {"l2": unit, "none": lambda x: x, "softmax": lambda x: F.softmax(x, dim=1)}


def kd(student: Tensor, teacher: Tensor, *, kd_temperature: Positive = 4.0) -> Tensor:
    """``T^2 mean_i KL(softmax(t_i/T) | softmax(s_i/T))``. Hinton et al. 2015 (arXiv 1503.02531).

    Applied to embeddings in place of logits, as DistilVPR's baseline does.
    """
    same_shape(student, teacher)
    found, wanted = (F.log_softmax(x / kd_temperature, dim=1) for x in (student, teacher))
    return kd_temperature**2 * F.kl_div(found, wanted, reduction="batchmean", log_target=True)


def mse(student: Tensor, teacher: Tensor, *, mse_norm: Annotated[str, OneOf(tuple(NORMS))] = "l2") -> Tensor:
    """Mean squared difference of embeddings made comparable by ``mse_norm``: l2, none or softmax.

    EPC-Net's distillation (Hui et al., IEEE TIP 2022) in DistilVPR's form; its authors take 0.1 times the sum.
    """
    same_shape(student, teacher)
    return F.mse_loss(NORMS[mse_norm](student), NORMS[mse_norm](teacher))


def mkd(student: Tensor, teacher: Tensor) -> Tensor:
    """Multi-level logit distillation, Jin et al. (CVPR 2023), in DistilVPR's form: instance, class and batch level.

    With P the rows' softmax: ``kd(T=1) + 1/D |Pt' Pt - Ps' Ps|^2 + 1/B |Pt Pt' - Ps Ps'|^2`` (squared Frobenius norms).
    """
    same_shape(student, teacher)
    s, t = F.softmax(student, dim=1), F.softmax(teacher, dim=1)
    classes = (t.T @ t - s.T @ s).square().sum() / s.shape[1]
    places = (t @ t.T - s @ s.T).square().sum() / len(s)
    return kd(student, teacher, kd_temperature=1.0) + classes + places


def dist(student: Tensor, teacher: Tensor, *, dist_temperature: Positive = 1.0) -> Tensor:
    """DIST, Huang et al. (NeurIPS 2022, arXiv 2205.10536): ``T^2 (2 - mean corr of rows - mean corr of columns)``.

    Pearson correlations of softmax(x/T) between student and teacher: of each place over the coordinates (inter) and
    of each coordinate over the batch (intra), weighted 1 and 1. ``1 - corr`` is evaluated as half the squared distance
    of the centred unit vectors, so that two constant rows, which have no correlation, agree.
    """
    same_shape(student, teacher)
    s, t = F.softmax(student / dist_temperature, dim=1), F.softmax(teacher / dist_temperature, dim=1)
    return dist_temperature**2 * (_uncorrelation(s, t).mean() + _uncorrelation(s.T, t.T).mean())


def _uncorrelation(x: Tensor, y: Tensor) -> Tensor:
    """1 - Pearson's correlation [R] of the rows of two matrices [R, N]."""
    first, second = (unit(each - each.mean(dim=1, keepdim=True)) for each in (x, y))
    return (first - second).square().sum(dim=1) / 2


def neighbour_correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """``mean_b sum_d |delta_b| |delta_(b+1)|``, delta = s - t [B, D]: the form that CC's authors shared.

    Neighbours are those of the batch's order, so this is the one term that a permutation of the batch changes.
    """
    gap = (student - teacher).abs()
    return (gap[:-1] * gap[1:]).sum() / max(len(gap) - 1, 1)


class CC(nn.Module):
    """Correlation congruence, Peng et al. (ICCV 2019): both embeddings mapped linearly to ``cc_dim`` numbers.

    ``cc_dim`` 0 compares the embeddings themselves, which then need equal dimensions; only so is the term 0 at s = t.
    """

    def __init__(self, start: Start, *, cc_dim: CountOrZero = 128) -> None:
        super().__init__()
        self.direct = cc_dim == 0
        if not self.direct:
            with forked_random_state(start.seed):
                self.student_map = nn.Linear(start.student.shape[1], cc_dim)
                self.teacher_map = nn.Linear(start.teacher.shape[1], cc_dim)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The scalar of embeddings [B, D]."""
        if self.direct:
            same_shape(student, teacher)
            return neighbour_correlation(student, teacher)
        same_batch(student, teacher)
        dtype = self.student_map.weight.dtype
        return neighbour_correlation(self.student_map(student.to(dtype)), self.teacher_map(teacher.to(dtype)))
