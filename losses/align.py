"""Cosine regression: each of the student's embeddings should be the teacher's own, in the teacher's space.

``2 - 2 cos(s_i, t_i) = |n(s_i) - n(t_i)|^2``, n: to unit length. Budnik & Avrithis (arXiv 2006.16331) find that plain
regression is the best of their losses where a student's queries meet a teacher's database. Relations between the
embeddings of one network (RKD, DistilVPR's rkdg) fix the student's space up to an isometry only.
"""

from torch import Tensor

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
