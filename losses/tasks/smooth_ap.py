"""Truncated smooth average precision. Brown et al., Smooth-AP (ECCV 2020), truncated as in MinkLoc3Dv2 (ICPR 2022).

For a query q and each of its k nearest positives p, with G a sigmoid of temperature tau1:

    R_pos(p) = 1 + sum over positives z != p of G(s_qz - s_qp)
    R_all(p) = R_pos(p) + sum over negatives z of G(s_qz - s_qp)

    loss = 1 - mean over q of the mean over p of R_pos(p) / R_all(p)
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from distilplace.losses import settings
from distilplace.losses.parts.relations import pairwise_distance
from distilplace.losses.tasks.task_loss import Result, TaskLoss

MAX_EXPONENT = 50.0


class TruncatedSmoothAP(TaskLoss):
    """The loss of ``output["embedding"]`` [B, D].

    Args:
        ap_tau1: temperature of the sigmoid on differences of similarity.
        ap_similarity: ``euclidean`` (minus the distance) or ``cosine`` (the dot product, as published: not divided).
        ap_positives_per_query: how many of the nearest positives count.

    """

    def __init__(
        self,
        ap_tau1: float | str = 0.01,
        ap_similarity: str = "euclidean",
        ap_positives_per_query: int | str = 4,
    ) -> None:
        super().__init__()
        self.temperature = settings.positive("ap_tau1", ap_tau1)
        self.metric = settings.choice("ap_similarity", ap_similarity, ("euclidean", "cosine"))
        self.positives_per_query = settings.whole("ap_positives_per_query", ap_positives_per_query)

    def forward(self, output: Mapping[str, Tensor], positives_mask: Tensor, negatives_mask: Tensor) -> Result:
        """Loss and statistics, from boolean masks [B, B]; queries without a positive count in neither.

        A batch without any positive has the loss 0, with a gradient of zeros.
        """
        embedding = output["embedding"]
        with torch.autocast(embedding.device.type, enabled=False):
            embedding = embedding.to(torch.promote_types(embedding.dtype, torch.float32))
            positives, negatives = positives_mask.to(embedding.device), negatives_mask.to(embedding.device)
            queries = positives.any(dim=1)
            if queries.any():
                precision, best_rank = self._precision(embedding, positives, negatives, queries)
                loss = 1 - precision.mean()
            else:
                best_rank = embedding.new_zeros(1)
                loss = (embedding * 0).sum()
        return loss, {
            "loss": loss.item(),
            "ap": 1 - loss.item() if bool(queries.any()) else 0.0,
            "avg_embedding_norm": embedding.norm(dim=1).mean().item(),
            "positives_per_query": positives.sum(dim=1).double().mean().item(),
            "best_positive_ranking": best_rank.double().mean().item(),
            "recall@1": (best_rank == 0).double().mean().item() if bool(queries.any()) else 0.0,
        }

    def _precision(
        self, embedding: Tensor, positives: Tensor, negatives: Tensor, queries: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Average precision of each query [Q], and how many negatives come before its best positive [Q]."""
        scores = embedding @ embedding.T if self.metric == "cosine" else -pairwise_distance(embedding)
        scores, positives, negatives = scores[queries], positives[queries], negatives[queries]
        count = min(self.positives_per_query, scores.shape[1])
        chosen = scores.detach().masked_fill(~positives, -torch.inf).topk(count, dim=1).indices
        is_positive = positives.gather(1, chosen)
        gaps = scores.unsqueeze(1) - scores.gather(1, chosen).unsqueeze(2)
        ahead = torch.sigmoid((gaps / self.temperature).clamp(-MAX_EXPONENT, MAX_EXPONENT))
        others = positives.unsqueeze(1).expand_as(ahead).scatter(2, chosen.unsqueeze(2), False)
        rank_among_positives = 1 + (ahead * others).sum(dim=2)
        rank = rank_among_positives + (ahead * negatives.unsqueeze(1)).sum(dim=2)
        precision = (rank_among_positives / rank * is_positive).sum(dim=1) / is_positive.sum(dim=1)
        return precision, ((gaps[:, 0] > 0) & negatives).sum(dim=1)
