"""Batch norm over voxels with well-rounded statistics.

On the CPU torch sums the moments of an ``[N, C]`` tensor in plain float32 order, which costs a factor of twenty in
precision (2e-6 against 7e-8 on 24 000 voxels). In a network of ReLUs that is the difference between agreeing with a
float64 evaluation and flipping a few units. ``mean(0)`` and ``sum(0)`` add pairwise, so the moments and the gradients'
sums are taken that way, at the same speed.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from distilplace.models.shared import sees_a_share
from distilplace.models.sparse.tensor import SparseTensor


class SparseBatchNorm(nn.Module):
    """Batch norm over all voxels of the batch (eps 1e-5, momentum 0.1); parameters live in ``.bn``.

    ``.bn`` is a ``BatchNorm1d``, so that freezing, momentum changes and conversion to synchronised batch norm work.
    ``inplace``: in training mode the input, the fresh result of a convolution that nobody else needs, is overwritten.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1, *, inplace: bool = False) -> None:
        super().__init__()
        self.bn = VoxelBatchNorm1d(channels, eps=eps, momentum=momentum)
        self.bn.inplace = inplace

    def forward(self, x: SparseTensor) -> SparseTensor:
        """``[N, C]`` -> ``[N, C]``."""
        return x.with_features(self.bn(x.features))


class VoxelBatchNorm1d(nn.BatchNorm1d):
    """``BatchNorm1d`` on ``[N, C]``, also for N below two.

    Without a variance the running statistics are used and kept. Statistics are float32 under autocast too.
    """

    inplace = False

    def forward(self, features: Tensor) -> Tensor:
        """``[N, C]`` -> ``[N, C]``."""
        if sees_a_share():
            return super().forward(features)  # torch's function, whose place shared_rows has taken
        keeps_statistics = self.track_running_stats and self.running_mean is not None
        use_batch = self.training or self.running_mean is None
        if not use_batch or (len(features) < 2 and self.running_mean is not None):
            running = (self.running_mean, self.running_var, self.weight, self.bias)
            return nn.functional.batch_norm(features, *running, training=False, eps=self.eps)
        with torch.autocast(features.device.type, enabled=False):
            wide = features.to(self.weight.dtype)
            inplace = self.inplace and self.training and not wide.is_leaf
            result, mean, variance, _ = _BatchNorm.apply(wide, self.weight, self.bias, self.eps, inplace)
        if self.training and keeps_statistics:
            self._update(mean, variance, len(features))
        return result.to(features.dtype)

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics towards the batch's (the variance unbiased); momentum None averages them all."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var.dtype), share)


class _BatchNorm(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * weight + bias; further results: the batch's mean, biased variance, x - mean."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, inplace: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean = x.mean(0)
        centred = x.sub_(mean) if inplace else x - mean
        result = centred.square()
        variance = result.mean(0)
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(centred, weight, scale)
        ctx.set_materialize_grads(False)
        if inplace:
            ctx.mark_dirty(centred)
            ctx.mark_non_differentiable(mean, variance)
        else:
            ctx.mark_non_differentiable(mean, variance, centred)
        return torch.addcmul(bias, centred, scale * weight, out=result), mean, variance, centred

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * 5
        centred, weight, scale = ctx.saved_tensors
        to_bias = gradient.sum(0)
        product = gradient * centred
        to_weight = product.sum(0) * scale
        to_x = None
        if ctx.needs_input_grad[0]:
            common, slope = -to_bias / len(centred), -to_weight * scale / len(centred)
            to_x = torch.addcmul(common, centred, slope, out=product).add_(gradient).mul_(weight * scale)
        return to_x, to_weight, to_bias, None, None
