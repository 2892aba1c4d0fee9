"""The memory-bandwidth floor of the trunk: what its layers must read and write at least, at the speed of a copy.

Counted once for every layer (convolution, batch norm, ReLU, attention, pooling): its features in and out, its kernel,
and 8 bytes for each pair of its kernel map. A backward pass reads the input and the output's gradient and writes the
input's gradient, reads the kernel and writes its gradient, reads the map. Sums of two tensors, building the maps and
whatever a layer reads twice are left out; an engine that joins layers may go below.
"""

from dataclasses import dataclass

import torch
from torch import nn

from distilplace.models.image.eca import ECALayer
from distilplace.models.sparse import GeM, SparseBatchNorm, SparseConv, SparseReLU, SparseTensor, SparseTransposedConv

PAIR_BYTES = 8  # two int32 row numbers
LAYER_TYPES = (SparseConv, SparseTransposedConv, SparseBatchNorm, SparseReLU, ECALayer, GeM)


@dataclass(frozen=True)
class Traffic:
    """Bytes of one trunk pass over a batch."""

    forward: int
    backward: int


def trunk_traffic(network: nn.Module, coords: torch.Tensor) -> Traffic:
    """What ``network`` (one of ours, on the coordinates' device) must move for int32 ``[N, 4]`` coordinates."""
    totals = [0, 0]

    def count(module: nn.Module, arguments: tuple[SparseTensor, ...], result: SparseTensor | torch.Tensor) -> None:
        x = arguments[0]
        into = _bytes(x.features)
        out = _bytes(result if isinstance(result, torch.Tensor) else result.features)
        kernel = sum(_bytes(parameter) for parameter in module.parameters())
        maps = PAIR_BYTES * pairs(module, x)
        totals[0] += into + out + kernel + maps
        totals[1] += 2 * into + out + 2 * kernel + maps

    layers = [module for module in network.modules() if isinstance(module, LAYER_TYPES)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        network({"coords": coords, "features": torch.ones(len(coords), 1, device=coords.device)})
    for hook in hooks:
        hook.remove()
    return Traffic(*totals)


def pairs(module: nn.Module, x: SparseTensor) -> int:
    """How many pairs a convolution's kernel map holds: its output for ones under a kernel of ones, summed."""
    if not isinstance(module, SparseConv | SparseTransposedConv) or module.kernel_size == 1:
        return 0
    ones = x.features.new_ones(len(x), 1)
    kernel = ones.new_ones(module.kernel_size**3, 1, 1)
    size = module.kernel_size
    if isinstance(module, SparseTransposedConv):
        counts = x.manager.transposed_convolution(ones, kernel, x.level, size)
    else:
        counts = x.manager.convolution(ones, kernel, x.level, size, module.stride, module.dilation)
    return int(counts.double().sum())


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
