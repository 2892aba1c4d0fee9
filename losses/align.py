"""Cosine regression: each of the student's embeddings should be the teacher's own, in the teacher's space.

``2 - 2 cos(s_i, t_i) = |n(s_i) - n(t_i)|^2``, n: to unit length. Budnik & Avrithis (arXiv 2006.16331) find that plain
regression is the best of their losses where a student's queries meet a teacher's database. Relations between the
embeddings of one network (RKD, DistilVPR's rkdg) fix the student's space up to an isometry only.
"""

from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.losses.baselines.units import same_batch
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


def same_space(student: Tensor, teacher: Tensor) -> None:
    """Refuse a student whose embeddings [B, D] have another width than the teacher's space."""
    same_batch(student, teacher)
    if student.shape[1] != teacher.shape[1]:
        width = teacher.shape[1]
        raise UserError(
            f"the student's embedding has {student.shape[1]} numbers, the teacher's space {width}: give "
            f"--student_output_dim {width}, or --embedding_head linear --embedding_head_dim {width}"
        )
