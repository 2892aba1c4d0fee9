"""Cosine regression: each of the student's embeddings should be the teacher's own, in the teacher's space.

``2 - 2 cos(s_i, t_i) = |n(s_i) - n(t_i)|^2``, n: to unit length. Budnik & Avrithis (arXiv 2006.16331) find that plain
regression is the best of their losses where a student's queries meet a teacher's database. Relations between the
embeddings of one network (RKD, DistilVPR's rkdg) fix the student's space up to an isometry only.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from distilplace.common.randomness import forked_random_state
from distilplace.losses.baselines.units import Start
from distilplace.losses.distiller import same_space
from distilplace.losses.parts.vectors import unit


def align(student: Tensor, teacher: Tensor) -> Tensor:
    """``mean_i 2 - 2 cos(s_i, t_i)``.

    Args:
        student: embeddings [B, d].
        teacher: embeddings [B, d] in the space of ``--align_space``.

    Raises:
        UserError: embeddings of different width.

    """
    same_space(student, teacher)
    return (unit(student) - unit(teacher)).square().sum(dim=1).mean()


class ProjectedAlign(nn.Module):
    """:func:`align` of the student's embeddings seen through a batch norm and a linear layer, used in training alone.

    The student keeps its own space and its width; what the teacher's space tells reaches it through the projection, as
    in regression distillation (Romero et al., FitNets, ICLR 2015). The layer starts orthogonal.
    """

    def __init__(self, start: Start) -> None:
        super().__init__()
        width, aim = start.student.shape[1], start.teacher.shape[1]
        with forked_random_state(start.seed):
            self.norm = nn.BatchNorm1d(width, affine=False)
            self.linear = nn.Linear(width, aim)
            nn.init.orthogonal_(self.linear.weight)
            nn.init.normal_(self.linear.bias, std=0.01)  # with none, a batch of equal embeddings has no direction

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The scalar of embeddings [B, D] and, in the space of ``--align_space``, [B, d]."""
        numbers, norm = student.to(self.linear.weight.dtype), self.norm
        alone = len(numbers) < 2  # of which there are no statistics
        projected = self.linear(
            functional.batch_norm(numbers, norm.running_mean, norm.running_var, training=norm.training and not alone)
        )
        return align(projected.to(torch.promote_types(projected.dtype, teacher.dtype)), teacher)
