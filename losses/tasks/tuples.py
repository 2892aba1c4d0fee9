"""Losses of mined tuples: SARE, triplet, and SFRS's self-supervision by image regions over generations.

A tuple is an anchor (query) a, a positive p, negatives n_1..n_J, and M difficult positives. On unit vectors:

    sare_ind    mean_j -log( e^{s(a,p)} / (e^{s(a,p)} + e^{s(a,n_j)}) )
    sare_joint  -log( e^{s(a,p)} / (e^{s(a,p)} + sum_j e^{s(a,n_j)}) )
    triplet     mean_j max(|a - p| - |a - n_j| + sqrt(margin), 0)

with s the dot product over tau_0 = 0.07, or minus the squared distance. SARE: Liu, Li and Dai, ICCV 2019; regions and
generations: SFRS, Ge et al., ECCV 2020; formulas as WAKD (ICPR 2022) trains with them.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.common.outputs import layer_maps
from distilplace.losses import settings
from distilplace.losses.parts.vectors import in_full_precision, unit
from distilplace.losses.settings import Weights
from distilplace.losses.tasks.task_loss import Result, TaskLoss


def sare_ind(positive: Tensor, negatives: Tensor) -> Tensor:
    """SARE with independent negatives, [T], from logits of the positive [T] and of the negatives [T, J]."""
    return F.softplus(negatives - positive.unsqueeze(1)).mean(dim=1)


def sare_joint(positive: Tensor, negatives: Tensor) -> Tensor:
    """SARE with joint negatives, [T], from logits of the positive [T] and of the negatives [T, J]."""
    return torch.logsumexp(torch.cat([positive.unsqueeze(1), negatives], dim=1), dim=1) - positive


def triplet(positive: Tensor, negatives: Tensor, margin: float) -> Tensor:
    """Triplet loss [T] from distances to the positive [T] and the negatives [T, J]; the square root of ``margin``."""
    return F.relu(positive.unsqueeze(1) - negatives + margin**0.5).mean(dim=1)


def best_regions(anchors: Tensor, regions: Tensor) -> Tensor:
    """Of each item the region most similar to its tuple's anchor: [T, D] and [T, J, R, D] -> [T, J, D]."""
    scores = torch.einsum("td,tjrd->tjr", anchors.detach(), regions.detach())
    chosen = scores.argmax(dim=2)[..., None, None].expand(-1, -1, 1, regions.shape[-1])
    return regions.gather(2, chosen).squeeze(2)


def region_scores(regions: Tensor, anchors: Tensor, positives: Tensor) -> Tensor:
    """Dot products [T, M * R] of each anchor's whole image with all regions of its difficult positives.

    Args:
        regions: unit vectors [B, R, D]; region 0 is the whole image.
        anchors: int64 [T], rows of the batch.
        positives: int64 [T, M].

    """
    return torch.einsum("td,tmrd->tmr", regions[anchors, 0], regions[positives]).flatten(1)


def soft_region_loss(scores: Tensor, previous: Tensor, temperature: float, previous_temperature: float) -> Tensor:
    """Cross-entropy of the softened scores [T, M * R] with those of the previous generation; mean over tuples."""
    target = F.softmax(previous.detach() / previous_temperature, dim=1)
    return -(target * F.log_softmax(scores / temperature, dim=1)).sum(dim=1).mean()


class TupleLoss(TaskLoss):
    """Base of the three: hard loss of the tuples, and from the second generation on (SFRS) a soft loss of regions.

    Generation 0: the hard loss of whole images. Later ones, given the ``previous`` generation's network: each negative
    is replaced by that of its regions which is most similar to the anchor, and the difficult positives' regions are
    scored against the anchor as the previous network scores them. Networks whose ``generations`` is 1 need no regions.

    Args:
        temperatures: tau of each generation's targets, joined by "_"; the first is also that of the own scores.
        soft_weight: weight of the soft loss.
        generations: how many the run has.

    """

    metric = "cosine"
    reads_masks = False
    batch_keys = ("tuples", "difficult_positives", "previous", "generation")
    layout = "tuples"

    def __init__(
        self,
        temperatures: Weights = "0.07_0.07_0.06_0.05",
        soft_weight: float | str = 0.5,
        generations: int | str = 1,
    ) -> None:
        super().__init__()
        parts = temperatures.split("_") if isinstance(temperatures, str) else temperatures
        values = [parts] if isinstance(parts, int | float) else parts
        self.temperatures = tuple(settings.positive("temperatures", value) for value in values)
        self.soft_weight = settings.weight("soft_weight", soft_weight)
        count = settings.whole("generations", generations)
        if count > len(self.temperatures):
            raise UserError(
                f"generations is {count} but temperatures names {len(self.temperatures)}: give one per generation"
            )
        self.feature_maps = ("regions",) if count > 1 else ()

    def forward(
        self,
        output: Mapping[str, Any],
        positives_mask: Tensor | None = None,
        negatives_mask: Tensor | None = None,
        tuples: Tensor | None = None,
        difficult_positives: Tensor | None = None,
        previous: Mapping[str, Any] | None = None,
        generation: int | None = None,
    ) -> Result:
        """Loss and statistics; the masks are not read, the tuples say what belongs together.

        Args:
            output: a model's output: ``embedding`` [B, D]; from generation 1 on ``maps.regions`` [B, R, D].
            positives_mask: not read.
            negatives_mask: not read.
            tuples: int64 [T, 2 + J]: rows of anchor, positive and negatives.
            difficult_positives: int64 [T, M].
            previous: output of the previous generation's network for the same batch.
            generation: which generation this is, from 0; None: 0.

        Raises:
            UserError: no tuples; a later generation without regions, or without a temperature.

        """
        if tuples is None or tuples.dim() != 2 or tuples.shape[1] < 3:
            raise UserError(
                "this task loss needs tuples (anchor, positive, at least one negative) in the batch: "
                "train on an image set with mined tuples, or give another --loss"
            )
        embedding = output["embedding"]
        tuples = tuples.to(embedding.device)
        now = generation or 0
        if now >= len(self.temperatures):
            raise UserError(f"generation {now} has no temperature: give --temperatures one more value")
        with torch.autocast(embedding.device.type, enabled=False):
            if now > 0 and previous is not None:
                hard, soft, recall = self._by_regions(output, previous, tuples, difficult_positives, now)
            else:
                vectors = unit(in_full_precision(embedding))
                hard, recall = self._hard(vectors[tuples[:, 0]], vectors[tuples[:, 1]], vectors[tuples[:, 2:]])
                soft = torch.zeros_like(hard)
            loss = (hard + self.soft_weight * soft).to(torch.promote_types(embedding.dtype, torch.float32))
        return loss, {
            "loss": loss.item(),
            "hard": hard.item(),
            "soft": soft.item(),
            "tuple_recall@1": recall,
            "avg_embedding_norm": embedding.detach().double().norm(dim=1).mean().item(),
        }

    def _by_regions(
        self,
        output: Mapping[str, Any],
        previous: Mapping[str, Any],
        tuples: Tensor,
        difficult: Tensor | None,
        generation: int,
    ) -> tuple[Tensor, Tensor, float]:
        """Hard loss, soft loss and recall of a later generation."""
        regions = _regions(output, "learning")
        anchors = regions[tuples[:, 0], 0]
        negatives = best_regions(anchors, regions[tuples[:, 2:]])
        hard, recall = self._hard(anchors, regions[tuples[:, 1], 0], negatives)
        if difficult is None or difficult.shape[1] == 0 or self.soft_weight == 0:
            return hard, torch.zeros_like(hard), recall
        wanted = _regions(previous, "previous generation's").to(regions.device)
        rows = tuples[:, 0], difficult.to(regions.device)
        scores, target = region_scores(regions, *rows), region_scores(wanted, *rows)
        return hard, soft_region_loss(scores, target, self.temperatures[0], self.temperatures[generation]), recall

    def _hard(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> tuple[Tensor, float]:
        """Mean loss of unit vectors [T, D], [T, D], [T, J, D], and the share of positives nearer than all negatives."""
        near = (anchor * positive).sum(dim=1).detach()
        far = torch.einsum("td,tjd->tj", anchor, negatives).detach()
        recall = (near > far.amax(dim=1)).double().mean().item()
        return self.hard_losses(anchor, positive, negatives).mean(), recall

    @abstractmethod
    def hard_losses(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        """The loss [T] of unit vectors [T, D], [T, D] and [T, J, D]."""


class Sare(TupleLoss):
    """Base of the two forms of SARE; settings are those of :class:`TupleLoss` and one more.

    Args:
        sare_distance: ``dot``: dot products over the first temperature; ``l2``: minus squared distances, without a
            temperature, as teachers and baselines are trained (on unit vectors an effective temperature of 0.5).

    """

    def __init__(self, sare_distance: str = "dot", **shared: Any) -> None:
        super().__init__(**shared)
        self.distance = settings.choice("sare_distance", sare_distance, ("dot", "l2"))

    def logits(self, anchor: Tensor, others: Tensor) -> Tensor:
        """[..] from anchors [.., D] and others [.., D]."""
        if self.distance == "l2":
            return -(anchor - others).square().sum(dim=-1)
        return (anchor * others).sum(dim=-1) / self.temperatures[0]


class SareInd(Sare):
    """``sare_ind``: each negative against the positive by itself."""

    def hard_losses(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        """See :func:`sare_ind`."""
        return sare_ind(self.logits(anchor, positive), self.logits(anchor.unsqueeze(1), negatives))


class SareJoint(Sare):
    """``sare_joint``: all negatives of a tuple at once."""

    def hard_losses(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        """See :func:`sare_joint`."""
        return sare_joint(self.logits(anchor, positive), self.logits(anchor.unsqueeze(1), negatives))


class TupleTriplet(TupleLoss):
    """``triplet``: plain distances; settings are those of :class:`TupleLoss` and one more.

    Args:
        tuple_margin: its square root is the margin: 0.1 means 0.316.

    """

    def __init__(self, tuple_margin: float | str = 0.1, **shared: Any) -> None:
        super().__init__(**shared)
        self.margin = settings.weight("tuple_margin", tuple_margin)

    def hard_losses(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        """See :func:`triplet`."""
        near = torch.linalg.vector_norm(anchor - positive, dim=-1)
        return triplet(near, torch.linalg.vector_norm(anchor.unsqueeze(1) - negatives, dim=-1), self.margin)


def _regions(output: Mapping[str, Any], whose: str) -> Tensor:
    """Unit region vectors [B, R, D] of an output."""
    maps = layer_maps(output)
    if "regions" not in maps:
        raise UserError(
            f"generations need region vectors, which the {whose} network does not give: "
            "train a network with --pool NetVLAD, or give --generations 1"
        )
    return unit(in_full_precision(maps["regions"]))
