"""Relations between rows of embeddings: pairwise distances, cosines, angles, and their scale-free forms.

Every function works in the dtype it is given; :class:`distilplace.losses.distiller.Distiller` hands in float64.
Distances are summed over the coordinate differences (``cdist`` without its matrix-product shortcut), because ``|x|^2 +
|y|^2 - 2xy`` loses half of the digits: rows that coincide would get a positive distance and, in the angles, a
direction of noise.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

ANGLES_PER_BLOCK = 2**19
"""Entries of the [B, B, B] angle tensor that exist at one time (4 MiB each in float64); at least one anchor's."""


class _PairwiseDistance(torch.autograd.Function):
    """Euclidean distances, exact where rows coincide, with a backward pass that keeps [B, B] numbers, not [B, B, D].

    ``torch.cdist``'s own backward allocates [B, B, D] on CUDA.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, y: Tensor) -> Tensor:
        distances = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
        ctx.save_for_backward(x, y, distances)
        return distances

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, y, distances = ctx.saved_tensors  # type: ignore[attr-defined]
        apart = distances > 0
        pull = torch.where(apart, gradients[0] / torch.where(apart, distances, 1), 0)
        centre = y.mean(dim=0)  # differences of large numbers otherwise, when all rows lie far from the origin
        x, y = x - centre, y - centre
        return pull.sum(1, keepdim=True) * x - pull @ y, pull.sum(0).unsqueeze(1) * y - pull.T @ x


def pairwise_distance(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Euclidean distances [B, C] between the rows of x [B, D] and of y [C, D] (default: x).

    Exactly 0 between equal rows, where the gradient is 0 too.
    """
    return _PairwiseDistance.apply(x, x if y is None else y)


def similarity(x: Tensor, y: Tensor | None = None, *, divide: bool = True) -> Tensor:
    """Dot products [B, C] of the rows of x [B, D] and y [C, D] (default: x); with ``divide`` their cosines.

    The cosine with a row of zeros is 0 and hands that row no gradient (upstream divides 0 by 0).
    """
    y = x if y is None else y
    products = x @ y.T
    return products * _inverse_norms(x) * _inverse_norms(y).T if divide else products


def _inverse_norms(x: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return _inverse(norms)


def _inverse(lengths: Tensor) -> Tensor:
    """1 / length; 0 where the length is 0, so that a missing direction counts as the zero vector."""
    positive = lengths > 0
    return torch.where(positive, 1 / torch.where(positive, lengths, 1), 0)


def without_diagonal(matrix: Tensor) -> Tensor:
    """A copy of a square matrix [B, B] with an exact 0 in each (i, i), value and gradient."""
    return matrix.masked_fill(torch.eye(len(matrix), dtype=torch.bool, device=matrix.device), 0)


def divided_by_mean(distances: Tensor) -> Tensor:
    """Distances [B, B] in units of their mean over the B(B-1) entries off the diagonal, which must be 0.

    Unchanged when all are 0: rows that all coincide have no unit (upstream: NaN).
    """
    count = max(len(distances) * (len(distances) - 1), 1)
    mean = distances.sum() / count
    return distances / torch.where(mean > 0, mean, 1)


def divided_by_positive_mean(distances: Tensor) -> Tensor:
    """Distances [B, B] in units of the mean of whatever entry is above 0, rounding noise included (upstream)."""
    positive = distances[distances > 0]
    return distances / positive.mean() if len(positive) else distances


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean smooth-L1 difference of all angles between triples, from two distance matrices [B, B].

    ``A[i,j,k] = <n(x_j - x_i), n(x_k - x_i)>`` (n: to unit length), by the law of cosines
    ``(d_ij^2 + d_ik^2 - d_jk^2) / (2 d_ij d_ik)``, which stays exact for rows that nearly coincide; 0 where two of
    the three do coincide. The B^3 angles are made for some anchors i at a time, and their gradient with them, so that
    memory grows with B^2 alone. The teacher's matrix gets no gradient.
    """
    return _AngleLoss.apply(student, teacher)


class _AngleLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, student: Tensor, teacher: Tensor) -> Tensor:
        size = len(student)
        anchors = max(1, ANGLES_PER_BLOCK // max(size * size, 1))
        total, gradient = student.new_zeros(()), torch.zeros_like(student)
        inverse = _inverse(student)
        for start in range(0, size, anchors):
            rows = slice(start, start + anchors)
            found = _angles(student, rows)
            excess = found - _angles(teacher, rows)
            total += F.smooth_l1_loss(excess, torch.zeros_like(excess), reduction="sum")
            if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
                slope = excess.clamp_(-1, 1)
                own = (slope * found).sum(dim=2) * inverse[rows]
                slope *= inverse[rows].unsqueeze(2)
                slope *= inverse[rows].unsqueeze(1)
                gradient[rows] += 2 * (student[rows] * slope.sum(dim=2) - own)
                gradient -= student * slope.sum(dim=0)
        count = max(size, 1) ** 3
        ctx.save_for_backward(gradient / count)
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradients[0] * gradient, None


def _angles(distances: Tensor, anchors: slice) -> Tensor:
    """Cosines [A, B, B] at the given anchors."""
    squares = distances.square()
    inverse = _inverse(distances[anchors])
    sides = squares[anchors].unsqueeze(2) + squares[anchors].unsqueeze(1)
    sides -= squares
    sides *= inverse.unsqueeze(2)
    sides *= inverse.unsqueeze(1) / 2
    return sides
