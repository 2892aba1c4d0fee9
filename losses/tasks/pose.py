"""PoseNet's loss: position and orientation of a camera (Kendall et al., ICCV 2015, squared as in SCKD's program)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.losses import settings
from distilplace.losses.parts.vectors import in_full_precision, unit
from distilplace.losses.tasks.task_loss import Result, TaskLoss


class PoseLoss(TaskLoss):
    """``MSE(x, x*) + beta MSE(q, n(q*))`` of ``output["pose"]``, means over the 3 and over the 4 components.

    The network's quaternion q is taken as it is (its head makes it a unit vector), the true one is scaled to length 1;
    q and -q are different here, as published.

    Args:
        beta: weight of the orientation against the position in metres. Published: 500; 120 to 2000 by scene elsewhere.

    """

    reads_masks = False
    batch_keys = ("poses",)
    layout = "items"

    def __init__(self, beta: float | str = 500.0) -> None:
        super().__init__()
        self.beta = settings.weight("beta", beta)

    def forward(
        self,
        output: Mapping[str, Tensor],
        positives_mask: Tensor | None = None,
        negatives_mask: Tensor | None = None,
        poses: Tensor | None = None,
    ) -> Result:
        """Loss and statistics of ``pose`` [B, 7] and the true ``poses`` [B, 7]; the masks are not read.

        Statistics: ``loss_position`` (m^2) and ``loss_orientation``, both unweighted; ``median_metres`` and
        ``median_degrees`` of the batch's errors, angles without regard to a quaternion's sign.

        Raises:
            UserError: the network gives no pose, or the data set has none, or the numbers of images differ.

        """
        found, wanted = _checked(output, poses)
        with torch.autocast(found.device.type, enabled=False):
            target = unit(wanted[:, 3:])
            position = F.mse_loss(found[:, :3], wanted[:, :3])
            orientation = F.mse_loss(found[:, 3:], target)
            loss = position + self.beta * orientation
        with torch.no_grad():
            metres = torch.linalg.vector_norm(found[:, :3] - wanted[:, :3], dim=1)
            alike = (unit(found[:, 3:]) * target).sum(dim=1).abs().clamp(max=1)
            degrees = torch.rad2deg(2 * torch.acos(alike))
        return loss.to(torch.promote_types(output["pose"].dtype, torch.float32)), {
            "loss_position": position.item(),
            "loss_orientation": orientation.item(),
            "median_metres": metres.quantile(0.5).item(),
            "median_degrees": degrees.quantile(0.5).item(),
        }


def _checked(output: Mapping[str, Tensor], poses: Tensor | None) -> tuple[Tensor, Tensor]:
    """Found and true poses [B, 7] in full precision."""
    if "pose" not in output:
        raise UserError(
            "this task loss needs camera poses, which the network does not give: name a pose network, such as "
            "--student_model resnet18pose"
        )
    if poses is None:
        raise UserError("this task loss needs camera poses, which the data set does not give: take one that has them")
    found = output["pose"]
    if found.shape != poses.shape or found.dim() != 2 or found.shape[1] != 7:
        raise UserError(
            f"poses of shape {tuple(found.shape)} (found) and {tuple(poses.shape)} (true): both must be [batch, 7]"
        )
    return in_full_precision(found), in_full_precision(poses.to(found.device))
