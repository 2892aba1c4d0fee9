"""ReLU, pooling and broadcasting on sparse tensors.

Reductions run per batch element over its rows, in batch order. MinkowskiEngine's CPU build permutes the rows of a batch
there; a batch of N equals N batches of one here.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from distilplace.models.sparse.manager import Manager
from distilplace.models.sparse.tensor import SparseTensor


class SparseReLU(nn.Module):
    """max(0, x) on the features; ``inplace``: in training mode they are overwritten, where nobody else needs them."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, x: SparseTensor) -> SparseTensor:
        """``[N, C]`` -> ``[N, C]``."""
        return x.with_features(torch.relu_(x.features) if self.inplace and self.training else torch.relu(x.features))


class _SegmentSum(torch.autograd.Function):
    """Sum of the rows of each batch element; its gradient copies each element's row to its voxels."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, manager: Manager, level: int) -> Tensor:
        ctx.where = manager, level
        return manager.sum_rows(features, level)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        manager, level = ctx.where
        return manager.copy_rows(gradient, level), None, None


class _SegmentScale(torch.autograd.Function):
    """Every voxel's features times the row of its batch element."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, factors: Tensor, manager: Manager, level: int) -> Tensor:
        ctx.save_for_backward(features, factors)
        ctx.where = manager, level
        return manager.scale_rows(features, factors, level)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        features, factors = ctx.saved_tensors
        manager, level = ctx.where
        to_features = manager.scale_rows(gradient, factors, level) if ctx.needs_input_grad[0] else None
        to_factors = None
        if ctx.needs_input_grad[1]:
            product = torch.mul(gradient, features, out=manager.scratch(features))
            to_factors = manager.sum_rows(product, level)
        return to_features, to_factors, None, None


class _PowerMean(torch.autograd.Function):
    """Mean of max(x, eps)^p over the voxels of each batch element; nothing is kept but x, its logarithm and its power.

    As exp(p log x), whose gradients with respect to x and p reuse both; those of ``pow`` would compute them again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: Tensor, eps: float, manager: Manager, level: int) -> Tensor:
        logarithms = x.clamp(min=eps).log_()
        powers = (logarithms * p).exp_()
        counts = manager.counts(level).clamp(min=1).to(powers.dtype)[:, None]
        ctx.save_for_backward(x, p, logarithms, powers, counts)
        ctx.where = manager, level, eps
        return manager.sum_rows(powers, level) / counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, p, logarithms, powers, counts = ctx.saved_tensors
        manager, level, eps = ctx.where
        weighted = manager.scale_rows(powers, gradient / counts, level)
        to_p = None
        if ctx.needs_input_grad[1]:
            to_p = torch.mul(weighted, logarithms, out=manager.scratch(powers)).sum().reshape(p.shape)
        to_x = None
        if ctx.needs_input_grad[0]:
            to_x = weighted.mul_(p).div_(x)
            torch.ops.aten.threshold_backward.grad_input(to_x, x, eps, grad_input=to_x)
        return to_x, to_p, None, None, None


def global_average(x: SparseTensor) -> Tensor:
    """Mean over the voxels of each batch element, ``[B, C]``, in batch order; zero for an element without voxels."""
    total: Tensor = _SegmentSum.apply(x.features, x.manager, x.level)
    return total / x.manager.counts(x.level).clamp(min=1).to(total.dtype)[:, None]


def broadcast_multiply(x: SparseTensor, factors: Tensor) -> SparseTensor:
    """Every voxel's features times the row of its batch element: ``[N, C]``, factors ``[B, C]``."""
    return x.with_features(_SegmentScale.apply(x.features, factors, x.manager, x.level))


class GeM(nn.Module):
    """Generalised mean per batch element: (mean of max(x, eps)^p)^(1/p), p learnable.

    F. Radenovic, G. Tolias, O. Chum, "Fine-tuning CNN image retrieval with no human annotation" (PAMI 2018).
    A batch element without voxels gives a row of zeros and passes no gradient.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), p))
        self.eps = eps

    def forward(self, x: SparseTensor) -> Tensor:
        """``[N, C]`` on voxels -> ``[B, C]``."""
        means: Tensor = _PowerMean.apply(x.features, self.p, self.eps, x.manager, x.level)
        occupied = (x.manager.counts(x.level) > 0)[:, None]
        return torch.where(occupied, means, 1.0).pow(1.0 / self.p) * occupied
