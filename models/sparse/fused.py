"""The three products of a sparse convolution on the CPU, by the one-pass kernels of ``fused_kernels.py``."""

import importlib
from functools import lru_cache
from types import ModuleType

import numpy as np
import torch

from models.sparse.kernel_map import KernelMap

LANES = 16  # float32 numbers of one vector of the kernels


def fits(table: torch.Tensor, channels: int) -> bool:
    """Whether the kernels can write ``channels`` wide results in the type and on the device of ``table``."""
    return table.device.type == "cpu" and table.dtype == torch.float32 and channels % LANES == 0


def convolve(features: torch.Tensor, kernel: torch.Tensor, kernel_map: KernelMap) -> torch.Tensor:
    """See :func:`models.sparse.gathered.convolve`."""
    if kernel_map.centre is None:
        out = features.new_zeros(kernel_map.n_out, kernel.shape[2])
    else:
        out = features @ kernel[kernel_map.centre]
    _run("add_products", features, kernel, kernel_map, out)
    return out


def input_gradient(gradient: torch.Tensor, kernel: torch.Tensor, kernel_map: KernelMap) -> torch.Tensor:
    """See :func:`models.sparse.gathered.input_gradient`."""
    return convolve(gradient, kernel.transpose(1, 2).contiguous(), kernel_map.reverse)


def kernel_gradient(
    features: torch.Tensor, gradient: torch.Tensor, kernel_map: KernelMap, kernel: torch.Tensor
) -> torch.Tensor:
    """See :func:`models.sparse.gathered.kernel_gradient`."""
    out = torch.zeros_like(kernel, memory_format=torch.contiguous_format)
    if kernel_map.centre is not None:
        torch.mm(features.t(), gradient, out=out[kernel_map.centre])
    _run("add_outer_products", features, gradient, kernel_map, out)
    return out


@lru_cache(maxsize=1)
def _kernels() -> ModuleType:
    """The kernels, on PyTorch's own OpenMP threads (numba would look for TBB first, and warn of Open3D's)."""
    from numba.core import config

    config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]  # type: ignore[attr-defined]
    return importlib.import_module("models.sparse.fused_kernels")


def _run(name: str, first: torch.Tensor, second: torch.Tensor, kernel_map: KernelMap, out: torch.Tensor) -> None:
    """Call a kernel with as many threads as PyTorch may use."""
    import numba
    from numba.core import config

    fused_kernels = _kernels()
    numba.set_num_threads(max(1, min(torch.get_num_threads(), config.NUMBA_NUM_THREADS)))  # type: ignore[attr-defined]
    starts = np.concatenate([[0], np.cumsum(kernel_map.sizes)])
    tables = (each.detach().contiguous().numpy() for each in (first, second))
    rows = (kernel_map.in_rows.numpy(), kernel_map.out_rows.numpy())
    getattr(fused_kernels, name)(*tables, *rows, starts, out.numpy())
