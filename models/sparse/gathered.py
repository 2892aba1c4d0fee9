"""The three products of a sparse convolution by library calls: gather, multiply, sum. Any device, any type.

Gathered offset by offset, so that the rows of one stay in cache until the product has read them. Sums run over sorted
bags (``embedding_bag``): deterministic, and parallel over rows.
"""

import torch
from torch import Tensor

from distilplace.models.sparse.kernel_map import KernelMap


def bag_sum(table: Tensor, index: Tensor, starts: Tensor, weights: Tensor | None = None) -> Tensor:
    """``[len(starts), C]``: sums of the rows ``index`` of ``table [R, C]``, each bag from its start to the next."""
    if not len(index) or not len(starts):
        return table.new_zeros(len(starts), table.shape[1])
    return torch.nn.functional.embedding_bag(index, table, starts, mode="sum", per_sample_weights=weights)


def convolve(features: Tensor, kernel: Tensor, kernel_map: KernelMap) -> Tensor:
    """out[u] = sum of features[v] @ kernel[k] over the pairs (v, u, k): ``[n_in, C_in]`` -> ``[n_out, C_out]``."""
    by_out = kernel_map.by_out
    if kernel.shape[1] == 1:  # one input channel (the stem): a weighted sum of kernel rows, no product needed
        weights = features[:, 0].index_select(0, kernel_map.in_rows_by_out)
        out = bag_sum(kernel[:, 0], kernel_map.offsets_by_out, by_out.starts, weights)
    else:
        products = kernel_map.workspace.take(len(kernel_map.in_rows), kernel.shape[2], features)
        targets = products.split(kernel_map.sizes)
        for k, rows, _ in kernel_map.by_offset:
            torch.mm(features.index_select(0, rows), kernel[k], out=targets[k])
        out = bag_sum(products, by_out.index, by_out.starts)
    return out if kernel_map.centre is None else out.addmm_(features, kernel[kernel_map.centre])


def input_gradient(gradient: Tensor, kernel: Tensor, kernel_map: KernelMap) -> Tensor:
    """The gradient of the input from that of the output: ``[n_out, C_out]`` -> ``[n_in, C_in]``."""
    return convolve(gradient, kernel.transpose(1, 2), kernel_map.reverse)


def kernel_gradient(features: Tensor, gradient: Tensor, kernel_map: KernelMap, kernel: Tensor) -> Tensor:
    """The gradient of the kernel ``[K, C_in, C_out]``: for every k the sum of features[v]^T gradient[u]."""
    result = torch.zeros_like(kernel, memory_format=torch.contiguous_format)
    if kernel.shape[1] == 1:
        sizes = torch.tensor(kernel_map.sizes, device=gradient.device)
        starts = (sizes.cumsum(0) - sizes).to(torch.int32)
        weights = features[:, 0].index_select(0, kernel_map.in_rows)
        result[:, 0] = bag_sum(gradient, kernel_map.out_rows, starts, weights)
    else:
        for k, in_rows, out_rows in kernel_map.by_offset:
            torch.mm(features.index_select(0, in_rows).t(), gradient.index_select(0, out_rows), out=result[k])
    if kernel_map.centre is not None:
        torch.mm(features.t(), gradient, out=result[kernel_map.centre])
    return result
