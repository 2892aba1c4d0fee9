"""The three products of a sparse convolution on the CPU, by the one-pass kernels of ``fused_kernels.py``."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from distilplace.models.sparse.kernel_map import KernelMap
from distilplace.models.sparse.threads import share

PIECES = 16  # into which the work of one layer is cut at most
WORTH_SHARING = 2_000_000  # multiplications below which waking another thread takes longer than the work


def fits(table: Tensor, channels: int) -> bool:
    """Whether the kernels can write ``channels`` wide results in the type and on the device of ``table``."""
    if table.device.type != "cpu" or table.dtype != torch.float32:
        return False
    from distilplace.models.sparse.fused_kernels import LANES

    return channels % LANES == 0


def convolve(features: Tensor, kernel: Tensor, kernel_map: KernelMap) -> Tensor:
    """See :func:`distilplace.models.sparse.gathered.convolve`."""
    if kernel_map.centre is None:
        out = features.new_zeros(kernel_map.n_out, kernel.shape[2])
    else:
        out = features @ kernel[kernel_map.centre]
    _run("add_products", features, kernel, kernel_map, out)
    return out


def input_gradient(gradient: Tensor, kernel: Tensor, kernel_map: KernelMap) -> Tensor:
    """See :func:`distilplace.models.sparse.gathered.input_gradient`."""
    return convolve(gradient, kernel.transpose(1, 2).contiguous(), kernel_map.reverse)


def kernel_gradient(features: Tensor, gradient: Tensor, kernel_map: KernelMap, kernel: Tensor) -> Tensor:
    """See :func:`distilplace.models.sparse.gathered.kernel_gradient`."""
    out = torch.zeros_like(kernel, memory_format=torch.contiguous_format)
    if kernel_map.centre is not None:
        torch.mm(features.t(), gradient, out=out[kernel_map.centre])
    _run("add_outer_products", features, gradient, kernel_map, out)
    return out


def _run(name: str, first: Tensor, second: Tensor, kernel_map: KernelMap, out: Tensor) -> None:
    """Call a kernel, its tasks shared among as many threads as PyTorch may use (``threads.py``)."""
    from distilplace.models.sparse import fused_kernels

    kernel: Callable[..., None] = getattr(fused_kernels, name)
    starts = np.concatenate([[0], np.cumsum(kernel_map.sizes)])
    tables = [each.detach().contiguous().numpy() for each in (first, second)]
    rows = (kernel_map.in_rows.numpy(), kernel_map.out_rows.numpy())
    result = out.numpy()
    width = out.shape[-1]
    tasks = width // fused_kernels.LANES * (len(out) if out.dim() == 3 else 1)
    step = -(-tasks // PIECES)
    if int(starts[-1]) * first.shape[1] * width < WORTH_SHARING:
        step = tasks
    ends = [*range(0, tasks, step), tasks]
    share(len(ends) - 1, lambda piece: kernel(*tables, *rows, starts, result, ends[piece], ends[piece + 1]))
