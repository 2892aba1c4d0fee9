"""Batch-hard triplet margin losses, as MinkLoc++ (Komorowski et al., IJCNN 2021) and DistilVPR train with.

For each anchor the farthest positive and the nearest negative of the batch, by Euclidean distance on raw embeddings;
``max(d(a,p) - min(d(a,n), d(p,n)) + margin, 0)``, mean over the triplets above 0 (Hermans et al. 2017; the swap is
Balntas et al., BMVC 2016). The loss, its swap and its mean are pytorch-metric-learning's; mining is by masks.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.reducers import AvgNonZeroReducer
from torch import Tensor, nn

from distilplace.common.errors import UserError
from distilplace.losses import settings
from distilplace.losses.parts.relations import pairwise_distance
from distilplace.losses.settings import Weights
from distilplace.losses.tasks.task_loss import Result, TaskLoss

KEYS = ("embedding", "cloud_embedding", "image_embedding")
Triplets = tuple[Tensor, Tensor, Tensor]
"""Indices of anchors, positives and negatives, each int64 [T]."""


@dataclass(frozen=True)
class Mined:
    """The hardest triplets of a batch, and the distances they were chosen by (of all rows that have such partners)."""

    triplets: Triplets
    positive_distances: Tensor
    negative_distances: Tensor


def mine_hardest(distances: Tensor, positives_mask: Tensor, negatives_mask: Tensor) -> Mined:
    """Farthest positive and nearest negative of each row of a distance matrix [B, B] that has both."""
    has_positive, has_negative = positives_mask.any(dim=1), negatives_mask.any(dim=1)
    farthest, positive = distances.masked_fill(~positives_mask, -torch.inf).max(dim=1)
    nearest, negative = distances.masked_fill(~negatives_mask, torch.inf).min(dim=1)
    anchor = torch.nonzero(has_positive & has_negative).squeeze(1)
    triplets = (anchor, positive[anchor], negative[anchor])
    return Mined(triplets, farthest[has_positive], nearest[has_negative])


class ExactDistance(LpDistance):
    """The library's Euclidean distance, without the shortcut that puts equal rows apart (batches above 25)."""

    def compute_mat(self, query_emb: Tensor, ref_emb: Tensor | None) -> Tensor:
        """Distances [B, C] of the rows of two matrices."""
        return pairwise_distance(query_emb, ref_emb)


class BatchHard(nn.Module):
    """The loss of one embedding [B, D]: ``(scalar, statistics)``; the triplets of the last call are in ``triplets``."""

    def __init__(self, margin: float, normalize_embeddings: bool) -> None:
        super().__init__()
        self.distance = ExactDistance(normalize_embeddings=normalize_embeddings)
        reducer = AvgNonZeroReducer(collect_stats=True)
        self.loss = TripletMarginLoss(margin=margin, swap=True, distance=self.distance, reducer=reducer)
        self.triplets: Triplets | None = None

    def forward(self, embedding: Tensor, positives_mask: Tensor, negatives_mask: Tensor) -> Result:
        """A batch without any triplet has the loss 0, with a gradient of zeros."""
        with torch.autocast(embedding.device.type, enabled=False):
            embedding = embedding.to(torch.promote_types(embedding.dtype, torch.float32))
            with torch.no_grad():
                mined = mine_hardest(
                    self.distance(embedding), positives_mask.to(embedding.device), negatives_mask.to(embedding.device)
                )
                norms = self.distance.maybe_normalize(embedding).norm(dim=1)
            self.triplets = mined.triplets
            loss = self.loss(embedding, indices_tuple=mined.triplets)
        active = self.loss.reducer.num_past_filter
        value = loss.item()
        return loss, {
            "loss": value,
            "avg_embedding_norm": norms.mean().item(),
            "num_triplets": float(len(mined.triplets[0])),
            "num_non_zero_triplets": float(active),
            "total_loss": value * active,
            **_spread("pos_pair_dist", mined.positive_distances),
            **_spread("neg_pair_dist", mined.negative_distances),
        }


def _spread(name: str, values: Tensor) -> dict[str, float]:
    """Mean, largest and least of the values; zeros when there are none, so that a log stays finite."""
    if len(values) == 0:
        return {f"{which}_{name}": 0.0 for which in ("mean", "max", "min")}
    return {
        f"mean_{name}": values.mean().item(),
        f"max_{name}": values.max().item(),
        f"min_{name}": values.min().item(),
    }


class BatchHardTripletMarginLoss(TaskLoss):
    """The loss of ``output["embedding"]`` [B, D].

    Args:
        margin: by how much a negative must be farther than a positive.
        normalize_embeddings: to unit length before distances are taken.

    """

    metric = "euclidean"

    def __init__(self, margin: float | str = 0.2, normalize_embeddings: bool = False) -> None:
        super().__init__()
        self.final = BatchHard(
            settings.weight("margin", margin), settings.switch("normalize_embeddings", normalize_embeddings)
        )

    def forward(self, output: Mapping[str, Tensor], positives_mask: Tensor, negatives_mask: Tensor) -> Result:
        """Loss and statistics, from boolean masks [B, B]."""
        return self.final(output["embedding"], positives_mask, negatives_mask)

    @property
    def triplets(self) -> dict[str, Triplets | None]:
        """Triplets of the last call."""
        return {"final": self.final.triplets}


class MultiBatchHardTripletMarginLoss(TaskLoss):
    """Weighted sum over the final, cloud and image embedding of a model, as many of them as its output has.

    A student gives only ``embedding``: with the default weights its loss is half the triplet loss, as published.
    Statistics carry the prefix final_, cloud_ or image_; an embedding of weight 0 is measured, not trained.

    Args:
        margin: by how much a negative must be farther than a positive.
        weights: of the final, the cloud and the image embedding.
        normalize_embeddings: to unit length before distances are taken.

    """

    metric = "euclidean"

    def __init__(
        self,
        margin: float | str = 0.2,
        weights: Weights = (0.5, 0.5, 0.0),
        normalize_embeddings: bool = False,
    ) -> None:
        super().__init__()
        distance = settings.weight("margin", margin), settings.switch("normalize_embeddings", normalize_embeddings)
        self.weights = settings.weights("weights", weights, ("final", "cloud", "image"))
        if sum(self.weights) == 0:
            raise UserError("weights are all 0: the task loss would train nothing; give --weights 0.5_0.5_0 or others")
        self.parts = {name: BatchHard(*distance) for name in ("final", "cloud", "image")}

    def forward(self, output: Mapping[str, Tensor], positives_mask: Tensor, negatives_mask: Tensor) -> Result:
        """Loss and statistics, from boolean masks [B, B]."""
        if not any(weight > 0 and key in output for key, weight in zip(KEYS, self.weights, strict=True)):
            raise UserError(
                f"weights {'_'.join(f'{weight:g}' for weight in self.weights)} (final, cloud, image) are 0 for all "
                f"that the model gives ({', '.join(key for key in KEYS if key in output)}): weight the first one"
            )
        terms: list[Tensor] = []
        statistics: dict[str, float] = {}
        for key, weight, (name, part) in zip(KEYS, self.weights, self.parts.items(), strict=True):
            if key not in output:
                part.triplets = None
                continue
            embedding = output[key] if weight > 0 else output[key].detach()
            loss, measured = part(embedding, positives_mask, negatives_mask)
            statistics |= {f"{name}_{statistic}": value for statistic, value in measured.items()}
            if weight > 0:
                terms.append(weight * loss)
        total = torch.stack(terms).sum()
        return total, {**statistics, "loss": total.item()}

    @property
    def triplets(self) -> dict[str, Triplets | None]:
        """Triplets of the last call by embedding; None where the output had no such embedding."""
        return {name: part.triplets for name, part in self.parts.items()}
