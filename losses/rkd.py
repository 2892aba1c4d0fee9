"""Relational knowledge distillation. Park et al., CVPR 2019 (arXiv 1904.05068), equations 5 to 9.

The student need not give the teacher's vectors, only the teacher's geometry: the pairwise distances in units of
their mean, and the angles of all triples. On raw embeddings (DistilVPR and the authors' code do not normalise).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from distilplace.losses import settings
from distilplace.losses.baselines.units import same_batch
from distilplace.losses.distiller import Distiller, Outputs, refuse_no_weight
from distilplace.losses.parts.relations import angle_loss, divided_by_mean, pairwise_distance, without_diagonal

MIN_SQUARE = 1e-12
"""Least squared distance of two different items, as in RKD's code: items that coincide count as 1e-6 apart."""


def rkd_distance(student: Tensor, teacher: Tensor, *, squared: bool = False) -> Tensor:
    """Smooth-L1 between the distance matrices [B, B] of student and teacher, each in units of its mean.

    ``mean_ij SL1(d^S_ij / mu^S, d^T_ij / mu^T)``, mu the mean off the diagonal; ``squared`` takes d^2 for d.
    """
    return F.smooth_l1_loss(_relative(student, squared), _relative(teacher, squared))


def _relative(distances: Tensor, squared: bool) -> Tensor:
    floored = distances.square().clamp_min(MIN_SQUARE) if squared else distances.clamp_min(MIN_SQUARE**0.5)
    return divided_by_mean(without_diagonal(floored))


class RKD(Distiller):
    """Plain RKD as a baseline: terms ``rkd_distance`` and ``rkd_angle``; the two may differ in dimension.

    Args:
        rkdloss_weight: factor of both terms.
        rkdloss_distance_weight: weight of the distances (1 in the paper's metric learning and in DistilVPR).
        rkdloss_angle_weight: weight of the angles (2 in the paper's metric learning, 1 in DistilVPR's baseline).

    """

    def __init__(
        self,
        rkdloss_weight: float | str = 1.0,
        rkdloss_distance_weight: float | str = 1.0,
        rkdloss_angle_weight: float | str = 1.0,
    ) -> None:
        super().__init__()
        outer = settings.weight("rkdloss_weight", rkdloss_weight)
        self.weights = {
            "rkd_distance": outer * settings.weight("rkdloss_distance_weight", rkdloss_distance_weight),
            "rkd_angle": outer * settings.weight("rkdloss_angle_weight", rkdloss_angle_weight),
        }
        refuse_no_weight(sum(self.weights.values()), "--rkdloss_weight")

    def terms(self, student: Outputs, teachers: Sequence[Outputs], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The two terms, each left out when its weight is 0."""
        embeddings = student["embedding"], teachers[0]["embedding"]
        same_batch(*embeddings)
        distances = [pairwise_distance(embedding) for embedding in embeddings]
        losses = {"rkd_distance": rkd_distance, "rkd_angle": angle_loss}
        for name, weight in self.weights.items():
            if weight > 0:
                self.unweighted[name] = losses[name](*distances)
        return {name: self.weights[name] * value for name, value in self.unweighted.items()}
