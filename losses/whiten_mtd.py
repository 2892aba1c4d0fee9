"""Whiten-MTD, "Let All be Whitened" (AAAI 2024, arXiv 2312.09716): one student learns from several retrieval models.

With X and Y the two views of the batch's P places (two images of a landmark, or two crops of a frame) and n(.) to unit
length, S = n(X) n(Y)' of the student and T_k likewise of each teacher, fused to F entry by entry
(distilplace.losses.parts.fusion):

    L = KL(softmax(F / tau_T) | softmax(S / tau_S)) + KL(softmax(F' / tau_T) | softmax(S' / tau_S))

each the mean over its P rows. P counts the places of all processes. Similarities of different teachers mean the same
only after whitening, which the teachers' embeddings have behind them when they come here
(distilplace.models.whitening; the engine does it). There are no labels beyond "same landmark"; the task loss is
``none``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.losses import settings
from distilplace.losses.baselines.relational import similarity_divergence
from distilplace.losses.baselines.units import same_batch
from distilplace.losses.distiller import Distiller, Outputs
from distilplace.losses.parts.fusion import DRAWING, STRATEGIES, drawn_teachers, fuse, winning_shares
from distilplace.losses.parts.gather import gather_rows
from distilplace.losses.parts.relations import similarity


class WhitenMTD(Distiller):
    """Term ``whiten_mtd``; student and teachers may all differ in dimension, and see the same crops.

    ``statistics``: ``whiten_win_1``, ``whiten_win_2``, ...: share of the positive pairs that each teacher finds more
    similar than the others do.

    Args:
        strategy: how teachers are fused, one of :data:`distilplace.losses.parts.fusion.STRATEGIES`.
        student_temperature: tau_S.
        teacher_temperature: tau_T.

    """

    teacher_count = None
    same_inputs = True

    def __init__(
        self,
        strategy: str = "maxmin",
        student_temperature: float | str = 0.05,
        teacher_temperature: float | str = 0.05,
    ) -> None:
        super().__init__()
        self.strategy = settings.choice("strategy", strategy, STRATEGIES)
        self.student_temperature = settings.positive("student_temperature", student_temperature)
        self.teacher_temperature = settings.positive("teacher_temperature", teacher_temperature)

    def terms(self, student: Outputs, teachers: Sequence[Outputs], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The term, from ``batch["pairs"]`` int64 [P, 2]: rows of the two views of each place.

        ``rand`` and ``maxrand`` draw by the places' ``batch["indices"]`` (by their rows where there are none), so a run
        that goes on, or that is spread over processes, draws what it would have drawn. Each process hands in its own
        places, which are gathered here, unless the batch has a ``share``: then the outputs are of all places already.

        Raises:
            UserError: no teacher, no pairs, or outputs of batches of different size.

        """
        if not teachers:
            raise UserError("whiten_mtd needs one teacher at least: name them after --model")
        own = student["embedding"]
        pairs = _pairs(batch).to(own.device)
        for teacher in teachers:
            same_batch(own, teacher["embedding"])
        gather = _gather(batch)
        found = pair_similarity(own, pairs, gather)
        wanted = torch.stack([pair_similarity(teacher["embedding"], pairs, gather) for teacher in teachers])
        drawn = self._drawn(wanted, pairs, batch) if self.strategy in DRAWING else None
        fused = fuse(wanted, self.strategy, drawn)
        loss = similarity_divergence(found, fused, self.student_temperature, self.teacher_temperature)
        self.unweighted["whiten_mtd"] = loss
        shares = winning_shares(wanted)
        self.statistics |= {f"whiten_win_{number}": share for number, share in enumerate(shares, 1)}
        return {"whiten_mtd": loss}

    @staticmethod
    def _drawn(wanted: Tensor, pairs: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """The draw of this batch, the same in every process."""
        rows = pairs if batch.get("indices") is None else batch["indices"].to(pairs.device)[pairs]
        return drawn_teachers(len(wanted), wanted.shape[1], *_gather(batch)(rows).flatten().tolist())


def pair_similarity(embedding: Tensor, pairs: Tensor, gather: Callable[[Tensor], Tensor] = gather_rows) -> Tensor:
    """Cosines [P, P] of the first views (rows) and the second views (columns) of the places of all processes."""
    first, second = (gather(embedding[rows]) for rows in pairs.unbind(dim=1))
    return similarity(first, second)


def _gather(batch: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    """What makes rows of this process those of all; nothing where the batch is that of all processes already."""
    return gather_rows if batch.get("share") is None else torch.as_tensor


def _pairs(batch: Mapping[str, Any]) -> Tensor:
    pairs = batch.get("pairs")
    if pairs is None or len(pairs) == 0:
        raise UserError(
            "whiten_mtd compares two views of each place, and this batch has no pairs: give --loss none, and a data "
            "set with pairs, groups or views to train on"
        )
    return torch.as_tensor(pairs)
