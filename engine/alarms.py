"""What goes wrong in training without an error: measured in every step, told once, with what to do about it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

LOG = logging.getLogger("distilplace")
LINE = 1.5
"""Effective rank below which all embeddings lie on one line; of healthy runs here it was 3 and more."""
POINT = 1e-6
"""Variance of unit embeddings below which all are one. GeM's, nearly collinear, have 0.01 and more."""


def embedding_statistics(embeddings: Tensor, positives: Tensor | None, negatives: Tensor | None) -> dict[str, float]:
    """``embedding_rank``, ``embedding_variance`` and, where there are such pairs, ``similarity_gap`` of a batch.

    The rank is the participation ratio (sum of eigenvalues)^2 / (sum of their squares) of the covariance of the unit
    embeddings: 1 on a line, D in a round cloud. The gap: mean cosine of matches less that of other places.

    Args:
        embeddings: [B, D].
        positives: bool [B, B]; None: not known.
        negatives: bool [B, B]; None: not known.

    """
    unit = functional.normalize(embeddings.detach().double(), dim=1)
    centred = unit - unit.mean(dim=0)
    gram = centred @ centred.T
    total = gram.trace()
    found = {
        "embedding_variance": float(total / len(unit)),
        "embedding_rank": float(total.square() / gram.square().sum().clamp_min(torch.finfo(torch.float64).tiny)),
    }
    if positives is not None and negatives is not None and positives.any() and negatives.any():
        cosines = unit @ unit.T
        found["similarity_gap"] = float(cosines[positives].mean() - cosines[negatives].mean())
    return found


@dataclass
class Alarms:
    """Looks at the means of every epoch; each alarm is given once a run."""

    _said: set[str] = field(default_factory=set)

    def look(self, epoch: int, means: Mapping[str, float]) -> None:
        """Warn of what the ``means`` of ``epoch`` (from 1 on) show."""
        if means.get("embedding_variance", 1.0) < POINT:
            self._say(epoch, "point", "all embeddings of a batch are nearly one and the same: lower the learning rate")
        elif means.get("embedding_rank", LINE) < LINE:
            self._say(epoch, "line", "the embeddings of a batch lie on one line: lower the learning rate")
        if epoch > 1 and means.get("similarity_gap", 1.0) <= 0:
            self._say(epoch, "gap", "matches are no more alike than other places: check positions and learning rate")
        if active_triplets(means) == 0:
            self._say(epoch, "easy", "no triplet violates the margin any more: larger batches or --margin teach more")

    def _say(self, epoch: int, kind: str, text: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            LOG.warning("epoch %d: %s", epoch, text)


def active_triplets(means: Mapping[str, float]) -> float | None:
    """Share of the mined triplets of the final embedding that violate the margin; None where a loss mines none."""
    for prefix in ("", "final_"):  # a loss of one embedding, a loss of several
        if count := means.get(f"{prefix}num_triplets"):
            return means[f"{prefix}num_non_zero_triplets"] / count
    return None
