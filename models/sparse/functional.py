"""Gather - matrix product - sum: sparse convolution as an autograd function of its own.

Forward gathers the inputs of each offset's pairs, multiplies them by its matrix, and sums the products per output row.
Backward gathers again instead of keeping anything but the input: memory is linear in the pairs, for one layer at a
time. Sums run over sorted bags (``embedding_bag``), so they are deterministic and parallel over rows.
"""

from itertools import accumulate
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from models.sparse.kernel_map import KernelMap


def bag_sum(
    table: torch.Tensor, index: torch.Tensor, starts: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """``[len(starts), C]``: sums of the rows ``index`` of ``table [R, C]``, each bag from its start to the next."""
    if not len(index) or not len(starts):
        return table.new_zeros(len(starts), table.shape[1])
    return torch.nn.functional.embedding_bag(index, table, starts, mode="sum", per_sample_weights=weights)


def sparse_convolution(features: torch.Tensor, kernel: torch.Tensor, kernel_map: KernelMap) -> torch.Tensor:
    """out[u] = sum over pairs (v, u, k) of features[v] @ kernel[k].

    Args:
        features: ``[n_in, C_in]``.
        kernel: ``[K, C_in, C_out]``.
        kernel_map: its pairs.

    Returns:
        ``[n_out, C_out]``. Under autocast the sums stay in float32: casting down is left to the dense layers.

    """
    with torch.autocast(features.device.type, enabled=False):
        result: torch.Tensor = _SparseConvolution.apply(features.to(kernel.dtype), kernel, kernel_map)
    return result


class _SparseConvolution(torch.autograd.Function):
    """Forward and both gradients of :func:`sparse_convolution`."""

    @staticmethod
    def forward(ctx: Any, features: torch.Tensor, kernel: torch.Tensor, kernel_map: KernelMap) -> torch.Tensor:
        ctx.save_for_backward(features, kernel)
        ctx.kernel_map = kernel_map
        return _convolve(features, kernel, kernel_map)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        features, kernel = ctx.saved_tensors
        kernel_map: KernelMap = ctx.kernel_map
        gradient = gradient.contiguous()
        to_features = to_kernel = None
        if ctx.needs_input_grad[0]:
            if kernel_map.mirrored:
                to_features = _convolve(gradient, kernel.flip(0).transpose(1, 2), kernel_map)
            else:
                to_features = _convolve(gradient, kernel.transpose(1, 2), kernel_map.reverse)
        if ctx.needs_input_grad[1]:
            to_kernel = _kernel_gradient(features, gradient, kernel_map, kernel)
        return to_features, to_kernel, None


def _slices(sizes: tuple[int, ...]) -> list[tuple[int, slice]]:
    """(offset, its slice of the pairs) of the offsets that have any."""
    ends = list(accumulate(sizes))
    return [(k, slice(end - size, end)) for k, (size, end) in enumerate(zip(sizes, ends, strict=True)) if size]


def _convolve(features: torch.Tensor, kernel: torch.Tensor, kernel_map: KernelMap) -> torch.Tensor:
    gathering = kernel_map.by_out
    if kernel.shape[1] == 1:  # one input channel (the stem): a weighted sum of kernel rows, no product needed
        weights = features[:, 0].index_select(0, kernel_map.in_rows_by_out)
        out = bag_sum(kernel[:, 0], kernel_map.offsets_by_out, gathering.starts, weights)
    else:
        # Gathered offset by offset: the rows of one stay in cache until the product has read them.
        products = features.new_empty(len(kernel_map.in_rows), kernel.shape[2])
        for k, pairs in _slices(kernel_map.sizes):
            torch.mm(features.index_select(0, kernel_map.in_rows[pairs]), kernel[k], out=products[pairs])
        out = bag_sum(products, gathering.index, gathering.starts)
    if kernel_map.centre is not None:
        out.addmm_(features, kernel[kernel_map.centre])
    return out


def _kernel_gradient(
    features: torch.Tensor, gradient: torch.Tensor, kernel_map: KernelMap, kernel: torch.Tensor
) -> torch.Tensor:
    """Gradient of each W_k: the sum over the pairs of k of features[v]^T gradient[u]."""
    result = torch.zeros_like(kernel, memory_format=torch.contiguous_format)
    if kernel.shape[1] == 1:
        sizes = torch.tensor(kernel_map.sizes, device=gradient.device)
        starts = (sizes.cumsum(0) - sizes).to(torch.int32)
        weights = features[:, 0].index_select(0, kernel_map.in_rows)
        result[:, 0] = bag_sum(gradient, kernel_map.out_rows, starts, weights)
    else:
        for k, pairs in _slices(kernel_map.sizes):
            gathered = features.index_select(0, kernel_map.in_rows[pairs])
            torch.mm(gathered.t(), gradient.index_select(0, kernel_map.out_rows[pairs]), out=result[k])
    if kernel_map.centre is not None:
        torch.mm(features.t(), gradient, out=result[kernel_map.centre])
    return result
