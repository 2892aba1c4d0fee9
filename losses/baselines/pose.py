"""Terms on camera poses: plain imitation, and attentive imitation, which trusts the teacher where it is right.

Attentive: Saputra et al., Distilling Knowledge from a Deep Pose Regressor Network (ICCV 2019), from third-party notes.
Poses are rows [B, 7], x y z (m) and unit quaternion w p q r, compared as plain vectors.
"""

import torch
from torch import Tensor, nn

from distilplace.losses.baselines.maps import Regressor
from distilplace.losses.baselines.units import Start, same_batch
from distilplace.losses.parts.checks import Share

LEAST_RANGE = 1e-12


def squared_error(found: Tensor, wanted: Tensor) -> Tensor:
    """``|found_i - wanted_i|^2`` [B] over all but the first dimension."""
    return (found - wanted).square().flatten(start_dim=1).sum(dim=1)


def trust(errors: Tensor, error_range: Tensor) -> Tensor:
    """``Phi_i = max(0, 1 - e_i / eta)`` [B] from a teacher's squared pose errors; the bound at 0 is our reading."""
    return (1 - errors / error_range.clamp_min(LEAST_RANGE)).clamp_min(0)


def imitation(student: Tensor, teacher: Tensor, poses: Tensor, error_range: Tensor, alpha: float) -> Tensor:
    """``mean_i alpha |p_s - p|^2 + (1 - alpha) Phi_i |p_s - p_t|^2`` of poses [B, 7]; not 0 at s = t."""
    weights = trust(squared_error(teacher, poses), error_range)
    return (alpha * squared_error(student, poses) + (1 - alpha) * weights * squared_error(student, teacher)).mean()


def posekd(student: Tensor, teacher: Tensor) -> Tensor:
    """``mean_i |p_s - p_t|^2`` of poses [B, 7]: the row "vanilla KD" of SCKD's results, metres and quaternion alike."""
    same_batch(student, teacher)
    return squared_error(student, teacher).mean()


class ErrorRange(nn.Module):
    """eta, the teacher's largest less its least squared error over the training set.

    Our reading: over the training items met so far, this batch included; saved with the method.
    """

    least: Tensor
    largest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("least", torch.tensor(torch.inf))
        self.register_buffer("largest", torch.tensor(-torch.inf))

    def forward(self, errors: Tensor) -> Tensor:
        """The range, widened by these errors [B] (in training for good)."""
        errors = errors.to(self.least.dtype)
        least, largest = torch.minimum(self.least, errors.min()), torch.maximum(self.largest, errors.max())
        if self.training:
            self.least.copy_(least)
            self.largest.copy_(largest)
        return largest - least


class AIL(nn.Module):
    """Attentive imitation loss, see :func:`imitation`; ``ail_alpha`` weights the ground truth against the teacher."""

    def __init__(self, start: Start, *, ail_alpha: Share = 0.5) -> None:
        super().__init__()
        self.alpha = ail_alpha
        self.range = ErrorRange()

    def forward(self, student: Tensor, teacher: Tensor, poses: Tensor) -> Tensor:
        """The scalar of the poses [B, 7] of student, teacher and ground truth."""
        same_batch(student, teacher)
        poses = poses.to(student.dtype)
        return imitation(student, teacher, poses, self.range(squared_error(teacher, poses)), self.alpha)


class AHT(nn.Module):
    """Attentive hint training: ``mean_i Phi_i |R(s_i) - t_i|^2`` of maps, R as in ``hint``.

    The published first stage; training all of a network with it beside the pose loss is ours.
    """

    def __init__(self, start: Start) -> None:
        super().__init__()
        self.regressor = Regressor(start)
        self.range = ErrorRange()

    def forward(self, student: Tensor, teacher: Tensor, poses: Tensor, teacher_pose: Tensor) -> Tensor:
        """The scalar of maps [B, C, h, w] and [B, C', h', w'], and the poses [B, 7] of ground truth and teacher."""
        same_batch(student, teacher)
        errors = squared_error(teacher_pose, poses.to(teacher_pose.dtype))
        weights = trust(errors, self.range(errors))
        found = self.regressor(student, (teacher.shape[2], teacher.shape[3]))
        return (weights * squared_error(found, teacher.to(found.dtype))).mean()
