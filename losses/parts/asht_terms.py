"""ASHT-KD's pieces as functions: how teachers are weighted and fused, and what a student learns from them.

All of it is our reading except :func:`repo_loss`, the published program's loss. Logits
are cosines over a temperature, [P, P], about the item of each row; for database images give transposed matrices.
Entries of minus infinity take part in nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distilplace.losses.parts.vectors import unit
from distilplace.losses.tasks.ranking import partner_errors


@dataclass(frozen=True)
class Targets:
    """What K teachers together say about P items."""

    weights: Tensor
    """omega [K, P]: how much teacher k counts for item i; each column sums to 1."""
    soft: Tensor
    """[P, P]: the fused distribution at temperature T; rows sum to 1."""
    hard: Tensor
    """[P, P]: the pseudo-label as a distribution: 1 at the largest entry of the fused distribution at temperature 1."""
    complexity: Tensor
    """[P], 0 to 1: entropy of ``soft`` over that of the uniform distribution on the row's entries."""


def exchange_knowledge(logits: Tensor, temperature: float, weight_temperature: float) -> Targets:
    """The figure's "knowledge exchange": teachers weighted per item by how well they know its true partner.

    ``omega^k_i = softmax over k of (-e^k_i / tau_omega)``, e the cross-entropy of teacher k's row i with its partner;
    ``p_i = sum_k omega^k_i softmax(z^k_i / T)``. A tie for the pseudo-label is shared equally, so that the order of
    the batch decides nothing.

    Args:
        logits: of the teachers [K, P, P]; the diagonal is finite.
        temperature: T.
        weight_temperature: tau_omega.

    """
    weights = F.softmax(-partner_errors(logits) / weight_temperature, dim=0)
    soft = _fused(logits / temperature, weights)
    sharp = _fused(logits, weights)
    winners = (sharp == sharp.amax(dim=1, keepdim=True)).to(logits.dtype)
    most = (logits[0] > -torch.inf).sum(dim=1).to(logits.dtype).log()
    entropy = -torch.xlogy(soft, soft).sum(dim=1)
    complexity = (entropy / torch.where(most > 0, most, 1)).clamp(0, 1)
    return Targets(weights, soft, winners / winners.sum(dim=1, keepdim=True), complexity)


def _fused(logits: Tensor, weights: Tensor) -> Tensor:
    return (weights.unsqueeze(2) * F.softmax(logits, dim=2)).sum(dim=0)


def soft_errors(targets: Targets, logits: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(p_i || softmax(z_i / T))`` [P] of a student's logits [P, P]."""
    return temperature**2 * divergence(targets.soft, F.log_softmax(logits / temperature, dim=1))


def hard_errors(targets: Targets, logits: Tensor) -> Tensor:
    """Cross-entropy [P] of a student's logits [P, P] with the pseudo-labels."""
    log_probability = F.log_softmax(logits, dim=1)
    return -torch.where(targets.hard > 0, targets.hard * log_probability, 0).sum(dim=1)


def divergence(target: Tensor, log_probability: Tensor) -> Tensor:
    """``KL(target || exp(log_probability))`` [P] along rows; entries of target 0 count nothing, even log 0 there."""
    return torch.where(target > 0, target * (target.log() - log_probability), 0).sum(dim=1)


def attention_error(student: Tensor, teachers: Sequence[Tensor], weights: Tensor) -> Tensor:
    """``MSE(n(vec A^S), n(vec sum_k omega^k A^k))`` of one layer; A is the channel mean of the squared map.

    Args:
        student: map [B, C, h, w].
        teachers: K maps [B, C_k, h_k, w_k]; their A is resized to h x w by averaging cells.
        weights: omega [K, B]; its dtype is that of the result.

    """
    own = student.square().mean(dim=1)
    others = [F.adaptive_avg_pool2d(value.square().mean(dim=1), (own.shape[1], own.shape[2])) for value in teachers]
    fused = torch.einsum("kb,kbn->bn", weights, torch.stack(others).flatten(2).to(weights.dtype))
    return F.mse_loss(unit(own.flatten(1).to(weights.dtype)), unit(fused))


def repo_loss(
    student_logits: Tensor, teacher_logits: Sequence[Tensor], labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The published program's loss: its value, and the two parts that it sums.

    ``KL_batchmean(softmax(mean_k t_k / T) || softmax(s / T)) + CE(s, labels)``: no factor T^2, all teachers alike.

    Args:
        student_logits: s [n, m].
        teacher_logits: K tensors [n, m]; no gradient reaches them.
        labels: int64 [n].
        temperature: T.

    """
    mean = torch.stack([logits.detach() for logits in teacher_logits]).mean(dim=0)
    log_probability = F.log_softmax(student_logits / temperature, dim=1)
    distilled = divergence(F.softmax(mean / temperature, dim=1), log_probability).mean()
    labelled = F.cross_entropy(student_logits, labels)
    return distilled + labelled, distilled, labelled
