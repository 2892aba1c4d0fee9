"""Ranking cross-entropy of query-database pairs, the task loss of ASHT-KD (IEEE Xplore 10759546).

The paper's framework figure shows the correlation matrix of both branches, its top-x pairs, a small fully connected
network and a cross-entropy on ranking scores; no formula is public. Our reading: of each
row and of each column of the cosine matrix the x largest, sorted, go through Linear-ReLU-Linear-ReLU-Linear, and the
target of the cross-entropy is the slot that holds the true partner.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distilplace.common.randomness import forked_random_state
from distilplace.losses import settings
from distilplace.losses.parts.pairs import pairs_of
from distilplace.losses.parts.vectors import in_full_precision
from distilplace.losses.tasks.task_loss import Result, TaskLoss

WIDTH = 64
"""Hidden units of the ranking network; twice x where that is more."""
STEEPNESS = 1 / 0.07
"""Scores of a new ranking network over the cosines that it is shown."""
LEAST = -1.0
"""Input of a slot that holds nothing: the smallest cosine."""


def ranking_loss(similarity: Tensor, network: Callable[[Tensor], Tensor], top: int) -> tuple[Tensor, Tensor]:
    """``L_rank`` of a cosine matrix [P, P] (minus infinity: not to be ranked), and the share of partners found.

    Mean of two means: over the rows and over the columns whose partner (the diagonal) is among their ``top`` largest
    entries. The others are skipped; a side of which all are skipped counts as 0, with a gradient of zeros.

    Slots that have no entry, because P < ``top`` or because entries are left out, are shown to the network as the
    smallest cosine, and get no part of the softmax: they cannot win.

    Args:
        similarity: cosines, queries in rows; the diagonal is finite.
        network: [n, ``top``] cosines, falling along each row -> [n, ``top``] scores.
        top: x of "top-x".

    """
    sides = [_one_side(matrix, network, top) for matrix in (similarity, similarity.T)]
    losses, shares = (torch.stack(values) for values in zip(*sides, strict=True))
    return losses.mean(), shares.mean()


def _one_side(similarity: Tensor, network: Callable[[Tensor], Tensor], top: int) -> tuple[Tensor, Tensor]:
    places = len(similarity)
    largest, found = similarity.topk(min(top, places), dim=1)
    exists = largest > -torch.inf
    shown = F.pad(torch.where(exists, largest, LEAST), (0, top - largest.shape[1]), value=LEAST)
    scores = network(shown)[:, : largest.shape[1]].to(similarity.dtype).masked_fill(~exists, -torch.inf)
    is_partner = found == torch.arange(places, device=found.device).unsqueeze(1)
    kept = is_partner.any(dim=1)
    errors = F.cross_entropy(scores, is_partner.int().argmax(dim=1), reduction="none")
    return torch.where(kept, errors, 0 * errors).sum() / kept.sum().clamp_min(1), kept.double().mean()


def partner_errors(logits: Tensor) -> Tensor:
    """Cross-entropy [P] of each row of logits [..., P, P] against its own partner, the diagonal."""
    return -F.log_softmax(logits, dim=-1).diagonal(dim1=-2, dim2=-1)


def ranking_network(top: int) -> nn.Sequential:
    """Linear(x, 64) - ReLU - Linear(64, 64) - ReLU - Linear(64, x), the same at the start of every run.

    It starts as the identity times ``STEEPNESS``, so that the loss starts as the cross-entropy of the cosines. With a
    random start the favoured slot is arbitrary, and embeddings settle with their partners at, say, the fifth place
    (measured: recall@1 of eight trained pairs 0 to 1 by seed, against 1). Hidden units 0 to 2x - 1 hold the input and
    its negative; the others are random and count from the first step on.
    """
    width = max(WIDTH, 2 * top)
    with forked_random_state("ranking network"):
        first, second, third = nn.Linear(top, width), nn.Linear(width, width), nn.Linear(width, top)
    step, signs = STEEPNESS ** (1 / 3), torch.cat([torch.eye(top), -torch.eye(top)])
    with torch.no_grad():
        first.weight[: 2 * top], first.bias[: 2 * top] = step * signs, 0
        second.weight[: 2 * top], second.bias[: 2 * top] = step * torch.eye(2 * top, width), 0
        third.weight.zero_()
        third.weight[:, : 2 * top] = step * signs.T
        third.bias.zero_()
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)


class RankingCrossEntropy(TaskLoss):
    """The loss of ``output["embedding"]`` [B, D] on batches of pairs; embeddings of any length, compared by cosine.

    It owns the ranking network, see :func:`ranking_network`. Images whose partner is not among the ``asht_topx``
    largest teach nothing: in batches of many more places the correlation loss, or distillation, must bring it there.

    Args:
        asht_topx: x of "top-x", the width of the network's input (10 is our choice; the paper's is not public).

    """

    metric = "cosine"
    batch_keys = ("pairs",)
    layout = "pairs"

    def __init__(self, asht_topx: int | str = 10) -> None:
        super().__init__()
        self.top = settings.whole("asht_topx", asht_topx)
        self.network = ranking_network(self.top)

    def forward(
        self,
        output: Mapping[str, Any],
        positives_mask: Tensor,
        negatives_mask: Tensor,
        pairs: Tensor | None = None,
    ) -> Result:
        """Loss and statistics.

        Args:
            output: a model's output.
            positives_mask: bool [B, B]; not read, the pairs say what belongs together.
            negatives_mask: bool [B, B]; entries of other places that are not negatives take no part.
            pairs: int64 [P, 2]; None: consecutive rows are pairs.

        Raises:
            UserError: rows that do not come in pairs.

        """
        embedding = output["embedding"]
        with torch.autocast(embedding.device.type, enabled=False):
            chosen = pairs_of(embedding, negatives_mask, pairs)
            similarity = chosen.logits(in_full_precision(embedding))
            ranking, share = ranking_loss(similarity, self._scores, self.top)
            terms = {"ranking": ranking, **self.further_terms(similarity)}
            loss = torch.stack(list(terms.values())).sum().to(torch.promote_types(embedding.dtype, torch.float32))
        first = similarity.detach().argmax(dim=1) == torch.arange(len(similarity), device=similarity.device)
        return loss, {
            "loss": loss.item(),
            **{name: value.item() for name, value in terms.items()},
            "partner_in_top": share.item(),
            "recall@1": first.double().mean().item(),
            "avg_embedding_norm": embedding.detach().double().norm(dim=1).mean().item(),
        }

    def _scores(self, cosines: Tensor) -> Tensor:
        return self.network(cosines.to(next(self.network.parameters()).dtype))

    def further_terms(self, similarity: Tensor) -> dict[str, Tensor]:
        """What is added to the ranking term, from cosines [P, P]."""
        return {}


class CorrelationRankingCrossEntropy(RankingCrossEntropy):
    """``L_rank + CE_row(z) + CE_col(z)``, z the cosines over ``tau_student``: what ASHT-KD's teachers train with."""

    def __init__(self, asht_topx: int | str = 10, tau_student: float | str = 0.07) -> None:
        super().__init__(asht_topx)
        self.temperature = settings.positive("tau_student", tau_student)

    def further_terms(self, similarity: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of the own partner along rows and along columns."""
        logits = similarity / self.temperature
        return {
            "correlation_rows": partner_errors(logits).mean(),
            "correlation_columns": partner_errors(logits.T).mean(),
        }
