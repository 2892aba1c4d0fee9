"""spconv-triton 1.0.0 behind the engine interface: a GPU engine to compare with.

https://github.com/L-Reichardt/spconv-triton (Apache-2.0): spconv 2's masked implicit GEMM, rewritten in Triton.

Voxels and levels are those of the PyTorch engine, in canonical order; the products, forward and both gradients, are
its ``implicit_gemm``. The pairs of a stride-1 convolution are its own (it keeps the rows' order there). Those of a
strided one are ours, written into its tables: its own would number the output voxels again and, for odd kernels, add
voxels that only a neighbour reaches. Handed (batch, z, y, x), its kernel order (last axis fastest) is ours.
"""

import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distilplace.models.sparse.coordinates import CoordinateManager

MASK_BITS = 32  # larger kernels (the 5^3 stem) visit every offset: its bit masks are one word


@dataclass(frozen=True)
class _Table:
    """A gather table: ``rows`` int32 ``[K, n]``, which row of the other side meets row n under offset k, or -1.

    ``masks``, ``order``: the rows' offset bit masks, sorted, int32 ``[n, 1]``, and the rows in that order ``[n]``;
    empty lists where the product is to visit every offset.
    """

    rows: Tensor
    masks: list[Tensor]
    order: list[Tensor]


@dataclass(frozen=True)
class _Pairs:
    """All pairs of a convolution, from its outputs (``forward``) and from its inputs (``backward``)."""

    forward: _Table
    backward: _Table
    mirrored: bool

    @property
    def reverse(self) -> "_Pairs":
        """The pairs of the transposed convolution."""
        return _Pairs(self.backward, self.forward, self.mirrored)


class SpconvManager(CoordinateManager):
    """The PyTorch engine's coordinates with spconv-triton's products, in float32 whatever autocast says.

    A batch without voxels, which spconv-triton refuses, is left to the PyTorch engine.
    """

    name = "spconv"
    portable = False

    @classmethod
    def unavailable(cls, device: torch.device) -> str | None:
        """See :class:`Manager`."""
        if importlib.util.find_spec("spconv_triton") is None:
            return "spconv-triton is not installed: pip install spconv-triton"
        if device.type != "cuda":
            return f"spconv-triton computes on CUDA devices only, not on {device.type}; choose torch or auto"
        return None

    def __init__(self, coordinates: Tensor, *, base_stride: int = 1, batch_size: int | None = None) -> None:
        super().__init__(coordinates, base_stride=base_stride, batch_size=batch_size)
        self._pairs: dict[tuple[int, ...], _Pairs] = {}

    def convolution(
        self, features: Tensor, kernel: Tensor, number: int, kernel_size: int, stride: int, dilation: int
    ) -> Tensor:
        """See :class:`Manager`."""
        if not self.count(number):
            return super().convolution(features, kernel, number, kernel_size, stride, dilation)
        return _product(features, kernel, self._pairs_of(number, kernel_size, stride, dilation))

    def transposed_convolution(self, features: Tensor, kernel: Tensor, number: int, kernel_size: int) -> Tensor:
        """See :class:`Manager`."""
        if not self.count(number):
            return super().transposed_convolution(features, kernel, number, kernel_size)
        return _product(features, kernel, self._pairs_of(number - 1, kernel_size, 2, 1).reverse)

    def _pairs_of(self, number: int, kernel_size: int, stride: int, dilation: int) -> _Pairs:
        """Built once for all layers that share them."""
        key = (number, kernel_size, stride, dilation)
        if key not in self._pairs:
            own = stride == 1
            self._pairs[key] = self._found(number, kernel_size, dilation) if own else self._mapped(*key)
        return self._pairs[key]

    def _found(self, number: int, kernel_size: int, dilation: int) -> _Pairs:
        """Stride 1: spconv-triton's own search."""
        from spconv_triton.core import ConvAlgo
        from spconv_triton.pytorch import ops

        coordinates = self.coordinates(number)
        grid = coordinates[:, 1:].div(self.base_stride * 2**number, rounding_mode="floor")
        grid = grid - grid.amin(0)
        indices = torch.cat([coordinates[:, :1], grid.flip(1)], 1)
        shape = (grid.amax(0) + 1).tolist()[::-1]
        masked = kernel_size**3 <= MASK_BITS
        _, _, forward, backward, masks, _, order, _, _ = ops.get_indice_pairs_implicit_gemm(
            indices,
            self.batch_size,
            shape,
            ConvAlgo.MaskImplicitGemm,
            ksize=[kernel_size] * 3,
            stride=[1] * 3,
            padding=[0] * 3,  # unused at stride 1: it centres the kernel itself
            dilation=[dilation] * 3,
            out_padding=[0] * 3,
            subm=True,
            do_sort=masked,
        )
        table = _Table(forward, masks, order) if masked else _Table(forward, [], [])
        return _Pairs(table, _Table(backward, [], []), mirrored=True)

    def _mapped(self, number: int, kernel_size: int, stride: int, dilation: int) -> _Pairs:
        """Stride 2: the PyTorch engine's kernel map as tables."""
        found = self.kernel_map(number, kernel_size, stride, dilation)
        offsets, volume = found.offset_of_pair.to(torch.int64), kernel_size**3
        forward = _table(offsets, found.out_rows, found.in_rows, volume, found.n_out)
        backward = _table(offsets, found.in_rows, found.out_rows, volume, found.n_in)
        return _Pairs(forward, backward, mirrored=False)


def _table(offsets: Tensor, rows: Tensor, others: Tensor, volume: int, count: int) -> _Table:
    """The table ``[volume, count]`` of the pairs (offset, row, other row), each ``[P]``."""
    table = torch.full((volume, count), -1, dtype=torch.int32, device=rows.device)
    table[offsets, rows.to(torch.int64)] = others.to(torch.int32)
    if not 1 < volume <= MASK_BITS:
        return _Table(table, [], [])
    bits = torch.arange(volume, device=rows.device)[:, None]
    masks, order = ((table >= 0).to(torch.int64) << bits).sum(0).sort(stable=True)
    return _Table(table, [masks.to(torch.int32)[:, None]], [order.to(torch.int32)])


def _product(features: Tensor, kernel: Tensor, pairs: _Pairs) -> Tensor:
    """``[n_in, C_in]``, ``[K, C_in, C_out]`` -> ``[n_out, C_out]``, differentiable."""
    from spconv_triton.pytorch.functional import implicit_gemm

    forward, backward = pairs.forward, pairs.backward
    words: list[Any] = [np.array([0xFFFFFFFF], dtype=np.uint32)]  # one word of mask
    with torch.autocast(features.device.type, enabled=False):
        result: Tensor = implicit_gemm(
            features.to(kernel.dtype),
            kernel.permute(2, 0, 1),
            forward.rows,
            backward.rows,
            forward.masks,
            backward.masks,
            forward.order,
            backward.order,
            forward.rows.shape[1],
            words,
            True,
            pairs.mirrored,
        )
    return result
