"""Gather - matrix product - sum: sparse convolution as an autograd function of its own.

Forward gathers the inputs of each offset's pairs, multiplies them by its matrix, and sums the products per output row.
Backward gathers again instead of keeping anything but the input: memory is linear in the pairs, for one layer at a
time. Sums run over sorted bags (``embedding_bag``), so they are deterministic and parallel over rows.
"""

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
        if kernel.shape[1] == 1:
            out = _stem(features, kernel, kernel_map)
        else:
            out = _gather_multiply_sum(features, kernel, kernel_map)
        if kernel_map.centre is not None:
            out.addmm_(features, kernel[kernel_map.centre])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        features, kernel = ctx.saved_tensors
        kernel_map: KernelMap = ctx.kernel_map
        gradient = gradient.contiguous()
        wants_features, wants_kernel = ctx.needs_input_grad[:2]
        if kernel.shape[1] == 1 and not wants_features:
            return None, _stem_kernel_gradient(features, gradient, kernel_map, kernel) if wants_kernel else None, None
        to_features, to_kernel = _gradients(features, gradient, kernel_map, kernel, wants_features, wants_kernel)
        centre = kernel_map.centre
        if centre is not None and to_features is not None:
            to_features.addmm_(gradient, kernel[centre].t())
        if centre is not None and to_kernel is not None:
            torch.mm(features.t(), gradient, out=to_kernel[centre])
        return to_features, to_kernel, None


def _gather_multiply_sum(features: torch.Tensor, kernel: torch.Tensor, kernel_map: KernelMap) -> torch.Tensor:
    """The pairs' part of the forward pass: every pair's product, summed per output row.

    Gathered offset by offset: the rows of one stay in cache until the product has read them.
    """
    products = kernel_map.workspace.take(len(kernel_map.in_rows), kernel.shape[2], features)
    targets = products.split(kernel_map.sizes)
    for k, rows, _ in kernel_map.by_offset:
        torch.mm(features.index_select(0, rows), kernel[k], out=targets[k])
    return bag_sum(products, kernel_map.by_out.index, kernel_map.by_out.starts)


def _stem(features: torch.Tensor, kernel: torch.Tensor, kernel_map: KernelMap) -> torch.Tensor:
    """The pairs' part with one input channel: a weighted sum of kernel rows, no product needed."""
    weights = features[:, 0].index_select(0, kernel_map.in_rows_by_out)
    return bag_sum(kernel[:, 0], kernel_map.offsets_by_out, kernel_map.by_out.starts, weights)


def _gradients(
    features: torch.Tensor,
    gradient: torch.Tensor,
    kernel_map: KernelMap,
    kernel: torch.Tensor,
    wants_features: bool,
    wants_kernel: bool,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The pairs' part of both gradients, from one gathering of the outer gradient's rows."""
    to_kernel = torch.zeros_like(kernel, memory_format=torch.contiguous_format) if wants_kernel else None
    products = None
    targets: tuple[torch.Tensor, ...] = ()
    if wants_features:
        products = kernel_map.workspace.take(len(kernel_map.in_rows), kernel.shape[1], features)
        targets = products.split(kernel_map.sizes)
    for k, in_rows, out_rows in kernel_map.by_offset:
        gathered = gradient.index_select(0, out_rows)
        if to_kernel is not None:
            torch.mm(features.index_select(0, in_rows).t(), gathered, out=to_kernel[k])
        if targets:
            torch.mm(gathered, kernel[k].t(), out=targets[k])
    if products is None:
        return None, to_kernel
    gathering = kernel_map.reverse.by_out
    return bag_sum(products, gathering.index, gathering.starts), to_kernel


def _stem_kernel_gradient(
    features: torch.Tensor, gradient: torch.Tensor, kernel_map: KernelMap, kernel: torch.Tensor
) -> torch.Tensor:
    """Gradient of each W_k with one input channel: the weighted sum of the outer gradient's rows."""
    result = torch.zeros_like(kernel, memory_format=torch.contiguous_format)
    sizes = torch.tensor(kernel_map.sizes, device=gradient.device)
    starts = (sizes.cumsum(0) - sizes).to(torch.int32)
    weights = features[:, 0].index_select(0, kernel_map.in_rows)
    result[:, 0] = bag_sum(gradient, kernel_map.out_rows, starts, weights)
    if kernel_map.centre is not None:
        torch.mm(features.t(), gradient, out=result[kernel_map.centre])
    return result
