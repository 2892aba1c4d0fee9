"""Sparse convolution as an autograd function of its own, which keeps nothing but the input and the kernel.

Two implementations share its three products (forward, gradient of the input, gradient of the kernel): compiled loops in
one pass over the pairs on the CPU (:mod:`distilplace.models.sparse.fused`), library calls elsewhere and for other types
(:mod:`distilplace.models.sparse.gathered`).
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distilplace.models.sparse import fused, gathered
from distilplace.models.sparse.kernel_map import KernelMap


def sparse_convolution(features: Tensor, kernel: Tensor, kernel_map: KernelMap) -> Tensor:
    """out[u] = sum over pairs (v, u, k) of features[v] @ kernel[k].

    Args:
        features: ``[n_in, C_in]``.
        kernel: ``[K, C_in, C_out]``.
        kernel_map: its pairs.

    Returns:
        ``[n_out, C_out]``. Under autocast the sums stay in float32: casting down is left to the dense layers.

    """
    with torch.autocast(features.device.type, enabled=False):
        result: Tensor = _SparseConvolution.apply(features.to(kernel.dtype), kernel, kernel_map)
    return result


class _SparseConvolution(torch.autograd.Function):
    """Forward and both gradients of :func:`sparse_convolution`."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, kernel: Tensor, kernel_map: KernelMap) -> Tensor:
        ctx.save_for_backward(features, kernel)
        ctx.kernel_map = kernel_map
        return _implementation(features, kernel.shape[2]).convolve(features, kernel, kernel_map)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        features, kernel = ctx.saved_tensors
        gradient = gradient.contiguous()
        to_features = to_kernel = None
        if ctx.needs_input_grad[0]:
            to_features = _implementation(gradient, kernel.shape[1]).input_gradient(gradient, kernel, ctx.kernel_map)
        if ctx.needs_input_grad[1]:
            implementation = _implementation(features, kernel.shape[2])
            to_kernel = implementation.kernel_gradient(features, gradient, ctx.kernel_map, kernel)
        return to_features, to_kernel, None


def _implementation(table: Tensor, channels: int) -> ModuleType:
    """The module that multiplies rows of ``table`` into results of so many channels."""
    return fused if fused.fits(table, channels) else gathered
