"""Baselines made for retrieval: agreement in the order of neighbours, and in the pairs that the task tells apart.

Both take embeddings [B, D] of student and teacher, whose dimensions may differ, and give a scalar.
"""

import torch
from torch import Tensor

from distilplace.losses.baselines.units import same_batch
from distilplace.losses.parts.checks import Count, Positive
from distilplace.losses.parts.relations import pairwise_distance
from distilplace.losses.parts.vectors import unit


def darkrank(
    student: Tensor,
    teacher: Tensor,
    *,
    darkrank_alpha: Positive = 3.0,
    darkrank_beta: Positive = 3.0,
    darkrank_length: Count = 4,
) -> Tensor:
    """Hard DarkRank, Chen et al. (AAAI 2018): the likelihood of the teacher's order under the student's scores.

    Scores ``q = -alpha d^beta`` of distances d; pi: the ``darkrank_length`` rows nearest to row i for the teacher, by
    distance. ``-mean_i sum_m [q_i,pi_m - logsumexp_(l >= m) q_i,pi_l]``; above 0 even at s = t. A row is no neighbour
    of itself (the authors' code takes whichever comes first for it). Smaller batches give shorter lists.
    """
    same_batch(student, teacher)
    length = min(darkrank_length, len(student) - 1)
    itself = torch.eye(len(teacher), dtype=torch.bool, device=teacher.device)
    order = pairwise_distance(teacher).masked_fill(itself, torch.inf).argsort(dim=1, stable=True)[:, :length]
    scores = (-darkrank_alpha * pairwise_distance(student) ** darkrank_beta).gather(1, order)
    remaining = scores.flip(1).logcumsumexp(dim=1).flip(1)
    return (remaining - scores).sum(dim=1).mean()


def lsdnet(student: Tensor, teacher: Tensor, positives_mask: Tensor, negatives_mask: Tensor) -> Tensor:
    """LSD-Net's dual distillation, Peng et al. (IROS 2022), in DistilVPR's form; on unit vectors.

    Mean squared difference of distances over positive pairs, the same over negative pairs, and
    ``MSE(P_s N_s', P_t N_t')`` with P [n_pos, D] and N [n_neg, D] the difference vectors of all positive and all
    negative pairs.

    The last is never laid out: with G the difference of the two Gram matrices, its entry for the pairs (a, b) and
    (c, d) is ``G_ac - G_ad - G_bc + G_bd``, and the squares of all of them sum to ``<L_P G L_N, G>``, where L is the
    Laplacian of the graph of pairs. So no negative has to be left out, however many there are.

    Args:
        student: embeddings [B, D].
        teacher: embeddings [B, D'].
        positives_mask: bool [B, B]. Without any positive, or any negative, pair its parts are 0.
        negatives_mask: bool [B, B].

    """
    same_batch(student, teacher)
    s, t = unit(student), unit(teacher)
    gaps = (pairwise_distance(s) - pairwise_distance(t)).square()
    positives, negatives = positives_mask.to(s.dtype), negatives_mask.to(s.dtype)
    n_positives, n_negatives = positives.sum().clamp_min(1), negatives.sum().clamp_min(1)
    difference = s @ s.T - t @ t.T
    products = ((_laplacian(positives) @ difference @ _laplacian(negatives)) * difference).sum()
    apart = (gaps * positives).sum() / n_positives + (gaps * negatives).sum() / n_negatives
    return apart + products / (n_positives * n_negatives)


def _laplacian(pairs: Tensor) -> Tensor:
    """Sum over the pairs (a, b) of (e_a - e_b)(e_a - e_b)', from a matrix [B, B] of zeros and ones."""
    return torch.diag(pairs.sum(dim=0) + pairs.sum(dim=1)) - pairs - pairs.T
