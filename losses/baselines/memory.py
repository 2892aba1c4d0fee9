"""Contrastive representation distillation with memory banks. Tian et al., CRD (ICLR 2020, arXiv 1910.10699)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distilplace.common.errors import UserError
from distilplace.common.randomness import counted_seed, forked_random_state, generator
from distilplace.losses.baselines.units import Start, same_batch
from distilplace.losses.parts.checks import Count, Positive, Share
from distilplace.losses.parts.vectors import unit


class CRD(nn.Module):
    """The student's vector of a place should pick out the teacher's among K other places, and the reverse.

    Both embeddings are mapped linearly to ``crd_dim`` numbers and to unit length. With ``u = exp(<., .>/tau) / Z`` for
    the place itself (u+) and for K drawn ones (u-), n the number of training places:

        -log u+/(u+ + K/n) - sum over K of log (K/n)/(u- + K/n),    mean over the batch, both directions summed

    The other network's vectors come from a bank of all n places, which follows the batches with ``crd_momentum``
    (in training only; a place that comes twice in a batch counts with its mean). Z is frozen at n times the mean
    score of the first training batch. Negatives are drawn with replacement from all places but the item's own,
    counted by (seed, step, position in the batch): the term depends on the order of the batch through them alone.
    Banks, Z and the step are saved with the method.

    Args:
        start: embeddings of student and teacher, number of places, seed.
        crd_negatives: K.
        crd_momentum: share of the old vector that stays in the bank.
        crd_temperature: tau.
        crd_dim: length of the mapped vectors.

    """

    step: Tensor
    log_constants: Tensor
    student_bank: Tensor
    teacher_bank: Tensor

    def __init__(
        self,
        start: Start,
        *,
        crd_negatives: Count = 16384,
        crd_momentum: Share = 0.5,
        crd_temperature: Positive = 0.07,
        crd_dim: Count = 128,
    ) -> None:
        super().__init__()
        if start.places < 2:
            raise UserError(f"crd tells places apart: it needs at least 2 training places, there are {start.places}")
        self.negatives, self.momentum, self.temperature = crd_negatives, crd_momentum, crd_temperature
        self.seed = start.seed
        with forked_random_state(start.seed):
            self.student_map = nn.Linear(start.student.shape[1], crd_dim)
            self.teacher_map = nn.Linear(start.teacher.shape[1], crd_dim)
            for name in ("student_bank", "teacher_bank"):
                self.register_buffer(name, unit(torch.rand(start.places, crd_dim) * 2 - 1))
        self.register_buffer("log_constants", torch.full((2,), torch.nan))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, student: Tensor, teacher: Tensor, indices: Tensor) -> Tensor:
        """The scalar of embeddings [B, D] and [B, D'] of the places ``indices`` [B] of the training set."""
        same_batch(student, teacher)
        dtype = self.student_bank.dtype
        s, t = unit(self.student_map(student.to(dtype))), unit(self.teacher_map(teacher.to(dtype)))
        compared = torch.cat([indices.unsqueeze(1), self._draw(indices)], dim=1)
        # the bank changes below: keep what this loss was computed from for its gradient
        loss = self._one_way(0, s, self.teacher_bank.clone(), compared)
        loss = loss + self._one_way(1, t, self.student_bank.clone(), compared)
        if self.training:
            self._remember(self.student_bank, s.detach(), indices)
            self._remember(self.teacher_bank, t.detach(), indices)
            self.step += 1
        return loss

    def _draw(self, indices: Tensor) -> Tensor:
        """Other places to compare each item with, [B, K]."""
        numbers = generator(counted_seed(self.seed, "negatives", int(self.step)))
        drawn = numbers.integers(0, len(self.student_bank) - 1, size=(len(indices), self.negatives))
        others = torch.from_numpy(drawn).to(indices.device)
        return others + (others >= indices.unsqueeze(1))

    def _one_way(self, which: int, anchors: Tensor, bank: Tensor, compared: Tensor) -> Tensor:
        """One direction; scores against the whole bank are fewer numbers than the vectors of all negatives."""
        scores = (anchors @ bank.T).gather(1, compared) / self.temperature
        constant = self.log_constants[which].clone()
        if not torch.isfinite(constant):
            constant = scores.detach().logsumexp(dim=(0, 1)) + math.log(len(bank) / scores.numel())
            if self.training:
                self.log_constants[which] = constant
        advantage = scores - constant - math.log(self.negatives / len(bank))
        return (F.softplus(-advantage[:, 0]) + F.softplus(advantage[:, 1:]).sum(dim=1)).mean()

    def _remember(self, bank: Tensor, vectors: Tensor, indices: Tensor) -> None:
        places, slots = indices.unique(return_inverse=True)
        sums = vectors.new_zeros(len(places), vectors.shape[1]).index_add(0, slots, vectors)
        means = sums / slots.bincount(minlength=len(places)).unsqueeze(1)
        bank[places] = unit(self.momentum * bank[places] + (1 - self.momentum) * means)
