"""The GPU engine: coordinates and kernel maps of the PyTorch engine, products and sums by kernels written in Triton.

P. Tillet, H. T. Kung, D. Cox, "Triton: An Intermediate Language and Compiler for Tiled Neural Network Computations"
(MAPL 2019). Voxels have few neighbours (of 27 offsets 4 to 11 are occupied, of the stem's 125 about 3), so the kernels
visit the pairs that exist instead of all offsets: gather, multiply, add in place, without a copy of the pairs.
"""

import os
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from distilplace.models.sparse.backends.triton_tiles import TiledMap
from distilplace.models.sparse.coordinates import CoordinateManager

OLDEST_CAPABILITY = (8, 0)  # Ampere: the matrix products in three TF32 steps need it


class TritonManager(CoordinateManager):
    """The PyTorch engine's coordinates with Triton's convolutions; levels, row order and maps are the same.

    With the maps built, no step waits for the GPU. Products of float32 are as precise as float32's own; under autocast
    features and kernels are rounded to its type, sums stay in float32, and the result has autocast's type. Sums over
    the pairs of an output row are float32 atomics: their order, hence the last digits, vary from run to run.
    float64 takes the PyTorch engine's way. With ``TRITON_INTERPRET=1`` set before the first use it runs on the CPU,
    slowly, for tests; "auto" does not choose it there.
    """

    name = "triton"

    @classmethod
    def unavailable(cls, device: torch.device) -> str | None:
        """See :class:`Manager`."""
        if find_spec("triton") is None:
            return "Triton is not installed: pip install triton"
        if os.environ.get("TRITON_INTERPRET") == "1":
            return None
        if device.type != "cuda" or not torch.cuda.is_available() or torch.version.cuda is None:
            return f"needs a CUDA device, not {device.type}"
        capability = torch.cuda.get_device_capability(device)
        if capability < OLDEST_CAPABILITY:
            found, needed = (".".join(map(str, each)) for each in (capability, OLDEST_CAPABILITY))
            return f"needs a GPU of compute capability {needed} or newer, not {found}"
        return None

    @classmethod
    def automatic(cls, device: torch.device) -> bool:
        """Only on a GPU: the interpreter is for tests."""
        return device.type == "cuda"

    def __init__(self, coordinates: Tensor, *, base_stride: int = 1, batch_size: int | None = None) -> None:
        super().__init__(coordinates, base_stride=base_stride, batch_size=batch_size)
        self._tiled: dict[tuple[int, int, int, int], TiledMap] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._tiled = {}

    def tiled_map(self, number: int, kernel_size: int, stride: int, dilation: int) -> TiledMap:
        """The kernel map of a convolution that reads level ``number``, cut into tiles (built once, then shared)."""
        key = (number, kernel_size, stride, dilation)
        if key not in self._tiled:
            self._tiled[key] = TiledMap(self.kernel_map(*key))
        return self._tiled[key]

    def convolution(
        self, features: Tensor, kernel: Tensor, number: int, kernel_size: int, stride: int, dilation: int
    ) -> Tensor:
        """See :class:`Manager`."""
        if kernel.dtype == torch.float64:
            return super().convolution(features, kernel, number, kernel_size, stride, dilation)
        from distilplace.models.sparse.backends.triton_convolution import tiled_convolution

        return tiled_convolution(features, kernel, self.tiled_map(number, kernel_size, stride, dilation))

    def transposed_convolution(self, features: Tensor, kernel: Tensor, number: int, kernel_size: int) -> Tensor:
        """See :class:`Manager`."""
        if kernel.dtype == torch.float64:
            return super().transposed_convolution(features, kernel, number, kernel_size)
        from distilplace.models.sparse.backends.triton_convolution import tiled_convolution

        return tiled_convolution(features, kernel, self.tiled_map(number - 1, kernel_size, 2, 1), backwards=True)

    def sum_rows(self, features: Tensor, number: int) -> Tensor:
        """Sums over consecutive rows in a fixed order, in float32 at least, without waiting for the GPU."""
        from distilplace.models.sparse.backends.triton_convolution import segment_sum

        return segment_sum(features, *self.segments(number))
