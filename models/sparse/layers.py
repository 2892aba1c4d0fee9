"""ReLU, pooling and broadcasting on sparse tensors.

Reductions run per batch element over its rows, in batch order. MinkowskiEngine's CPU build permutes the rows of a batch
there (../shared/goldens/reference-oddities.md, 1); a batch of N equals N batches of one here.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from models.sparse.backends.base import Manager
from models.sparse.tensor import SparseTensor


class SparseReLU(nn.Module):
    """max(0, x) on the features."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        """``[N, C]`` -> ``[N, C]``."""
        return x.with_features(torch.relu(x.features))


class _SegmentSum(torch.autograd.Function):
    """Sum of the rows of each batch element; its gradient copies each element's row to its voxels."""

    @staticmethod
    def forward(ctx: Any, features: torch.Tensor, manager: Manager, level: int) -> torch.Tensor:
        ctx.where = manager, level
        return manager.sum_rows(features, level)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _SegmentCopy.apply(gradient, *ctx.where), None, None


class _SegmentCopy(torch.autograd.Function):
    """Each batch element's row copied to its voxels; its gradient is the sum."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, manager: Manager, level: int) -> torch.Tensor:
        ctx.where = manager, level
        return manager.copy_rows(rows, level)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        manager, level = ctx.where
        return manager.sum_rows(gradient.contiguous(), level), None, None


def global_average(x: SparseTensor) -> torch.Tensor:
    """Mean over the voxels of each batch element, ``[B, C]``, in batch order; zero for an element without voxels."""
    total: torch.Tensor = _SegmentSum.apply(x.features, x.manager, x.level)
    return total / x.manager.counts(x.level).clamp(min=1).to(total.dtype)[:, None]


def broadcast_multiply(x: SparseTensor, factors: torch.Tensor) -> SparseTensor:
    """Every voxel's features times the row of its batch element: ``[N, C]``, factors ``[B, C]``."""
    copied: torch.Tensor = _SegmentCopy.apply(factors, x.manager, x.level)
    return x.with_features(x.features * copied)


class GeM(nn.Module):
    """Generalised mean per batch element: (mean of max(x, eps)^p)^(1/p), p learnable.

    F. Radenovic, G. Tolias, O. Chum, "Fine-tuning CNN image retrieval with no human annotation" (PAMI 2018).
    A batch element without voxels gives a row of zeros and passes no gradient.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), p))
        self.eps = eps

    def forward(self, x: SparseTensor) -> torch.Tensor:
        """``[N, C]`` on voxels -> ``[B, C]``."""
        # exp(p log x): its gradients with respect to x and p reuse what the forward pass computed; pow's do not
        logarithms = x.features.clamp(min=self.eps).log()
        means = global_average(x.with_features((logarithms * self.p).exp()))
        occupied = (x.manager.counts(x.level) > 0)[:, None]
        return torch.where(occupied, means, 1.0).pow(1.0 / self.p) * occupied
