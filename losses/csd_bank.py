"""Contextual similarity distillation against a database of teacher outputs. Wu et al., CSD (CVPR 2022).

A student's query should see the teacher's database as the teacher's own query does. With N(i) the K places of the bank
(the teacher's embeddings g of all training places) that are nearest to place i, itself among them:

    mean_i KL(softmax over j in N(i) of cos(t_i, g_j) / tau_t | softmax over j in N(i) of cos(s_i, g_j) / tau_s)

No labels are read. The term ``csd`` is DistilVPR's form of it: whole batch, no neighbours, no temperatures. The authors
published no program; the temperatures are those of D3still's re-implementation (CVPR 2024).
"""

import torch
from torch import Tensor, nn

from distilplace.losses.baselines.relational import row_divergence
from distilplace.losses.baselines.units import Start
from distilplace.losses.distiller import same_space
from distilplace.losses.parts.checks import Count, Positive
from distilplace.losses.parts.vectors import unit

BLOCK = 2**22
"""Similarities that are laid out at one time."""


class CSDBank(nn.Module):
    """The term, with the bank [n, d] and each place's neighbours [n, K], which are found once and not saved.

    Args:
        start: embeddings of student and teacher, and the bank in the order of the training places.
        csd_bank_neighbours: K; all places where there are fewer.
        csd_bank_student_temperature: tau_s.
        csd_bank_teacher_temperature: tau_t.

    """

    bank: Tensor
    neighbours: Tensor

    def __init__(
        self,
        start: Start,
        *,
        csd_bank_neighbours: Count = 96,
        csd_bank_student_temperature: Positive = 1.0,
        csd_bank_teacher_temperature: Positive = 0.01,
    ) -> None:
        super().__init__()
        if start.bank is None or len(start.bank) != start.places:
            raise ValueError("csd_bank needs the teacher's embedding of every training place: call see_bank first")
        self.temperatures = csd_bank_student_temperature, csd_bank_teacher_temperature
        bank = unit(start.bank.float())
        self.register_buffer("bank", bank, persistent=False)
        self.register_buffer("neighbours", nearest(bank, min(csd_bank_neighbours, len(bank))), persistent=False)

    def forward(self, student: Tensor, teacher: Tensor, indices: Tensor) -> Tensor:
        """The scalar of embeddings [B, d] of the places ``indices`` [B] of the training set."""
        same_space(student, teacher)
        bank = self.bank.to(student.dtype)
        near = self.neighbours[indices]
        found, wanted = ((unit(x) @ bank.T).gather(1, near) for x in (student, teacher))
        of_student, of_teacher = self.temperatures
        return row_divergence(found / of_student, wanted / of_teacher)


def nearest(bank: Tensor, count: int) -> Tensor:
    """The ``count`` rows of a bank [n, d] of unit vectors nearest to each of them, itself among them: int64 [n, K]."""
    rows = max(1, BLOCK // len(bank))
    parts = [(bank[start : start + rows] @ bank.T).topk(count, dim=1).indices for start in range(0, len(bank), rows)]
    return torch.cat(parts)
