"""MinkowskiEngine 0.5.4 behind the engine interface, for those who have it and for comparison.

C. Choy, J. Gwak, S. Savarese, "4D Spatio-Temporal ConvNets: Minkowski Convolutional Neural Networks" (CVPR 2019).
Its coordinate maps and convolutions are used as they are; pooling and broadcasting are ours, by batch index, because
its CPU build mixes the clouds of a batch there.
"""

import importlib
import importlib.util
import warnings
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from distilplace.models.sparse.manager import Manager, check_coordinates, check_stride, checked_batch_size

INSTALL = "python -m tools.install_minkowski"


@lru_cache(maxsize=1)
def _engine() -> Any:
    """The package; its notice of a build without CUDA is left out, :meth:`MinkowskiManager.unavailable` says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("MinkowskiEngine")


class MinkowskiManager(Manager):
    """MinkowskiEngine's coordinate maps, rows in the order it gives them.

    Any int32 coordinates are accepted. Of duplicate rows the first is kept, as in the other engines. Sums are in the
    kernel's own float32 (or float64), autocast or not: MinkowskiEngine has no half precision.
    """

    name = "minkowski"

    @classmethod
    def unavailable(cls, device: torch.device) -> str | None:
        """See :class:`Manager`."""
        if importlib.util.find_spec("MinkowskiEngine") is None:
            return f"MinkowskiEngine is not installed: {INSTALL}"
        try:
            package = _engine()
        except ImportError as error:  # built against another PyTorch
            return f"MinkowskiEngine is installed but does not load ({error}); build it again: {INSTALL}"
        if device.type == "cuda" and not package.is_cuda_available():
            return f"this MinkowskiEngine was built without CUDA; build it again where nvcc is: {INSTALL}"
        if device.type not in ("cpu", "cuda"):
            return f"MinkowskiEngine does not run on {device.type}"
        return None

    def __init__(self, coordinates: Tensor, *, base_stride: int = 1, batch_size: int | None = None) -> None:
        self.base_stride = base_stride
        self.batch_size = _checked_batch_size(coordinates, base_stride, batch_size)
        self._coordinates: dict[int, Tensor] = {}
        self._batch_index: dict[int, Tensor] = {}
        self._device = coordinates.device
        self._keys: list[Any] = []
        self.rows = torch.empty(0, dtype=torch.int64, device=self._device)
        if not len(coordinates):
            return  # MinkowskiEngine cannot hold an empty batch: every level is then empty, without it
        package = _engine()
        kind = package.CoordinateMapType
        self._manager = package.CoordinateManager(
            D=3, coordinate_map_type=kind.CUDA if coordinates.is_cuda else kind.CPU
        )
        key, (kept, inverse) = self._manager.insert_and_map(coordinates.to(torch.int32).contiguous(), base_stride)
        self._keys.append(key)
        self.rows = kept.to(torch.int64)
        if len(kept) != len(coordinates):  # it keeps any of several equal rows; take the first of each
            order = torch.arange(len(coordinates), device=self._device)
            self.rows = torch.full_like(self.rows, len(coordinates)).scatter_reduce(
                0, inverse.to(torch.int64), order, "amin"
            )

    def _key(self, number: int) -> Any:
        """MinkowskiEngine's name of a level's coordinates."""
        while len(self._keys) <= number:
            self._keys.append(self._manager.stride(self._keys[-1], 2))
        return self._keys[number]

    def count(self, number: int) -> int:
        """See :class:`Manager`."""
        return int(self._manager.size(self._key(number))) if self._keys else 0

    def coordinates(self, number: int) -> Tensor:
        """See :class:`Manager`; in MinkowskiEngine's row order."""
        if not self._keys:
            return torch.empty(0, 4, dtype=torch.int32, device=self._device)
        if number not in self._coordinates:
            self._coordinates[number] = self._manager.get_coordinates(self._key(number))
        return self._coordinates[number]

    def batch_index(self, number: int) -> Tensor:
        """See :class:`Manager`."""
        if number not in self._batch_index:
            self._batch_index[number] = self.coordinates(number)[:, 0].to(torch.int64)
        return self._batch_index[number]

    def counts(self, number: int) -> Tensor:
        """See :class:`Manager`."""
        return torch.bincount(self.batch_index(number), minlength=self.batch_size)

    def convolution(
        self, features: Tensor, kernel: Tensor, number: int, kernel_size: int, stride: int, dilation: int
    ) -> Tensor:
        """See :class:`Manager`."""
        settings = {"kernel_size": kernel_size, "stride": stride, "dilation": dilation}
        return self._product("MinkowskiConvolutionFunction", features, kernel, number, number + stride - 1, settings)

    def transposed_convolution(self, features: Tensor, kernel: Tensor, number: int, kernel_size: int) -> Tensor:
        """See :class:`Manager`; lands on the voxels the coarser level was made from."""
        settings = {"kernel_size": kernel_size, "stride": 2, "dilation": 1}
        return self._product("MinkowskiConvolutionTransposeFunction", features, kernel, number, number - 1, settings)

    def _product(
        self,
        function: str,
        features: Tensor,
        kernel: Tensor,
        source: int,
        target: int,
        settings: dict[str, int],
    ) -> Tensor:
        """Apply one of MinkowskiEngine's autograd functions from level ``source`` to level ``target``."""
        features = features.to(kernel.dtype)
        with torch.autocast(features.device.type, enabled=False):
            if not self._keys:
                empty: Tensor = features @ kernel.sum(0)
                return empty
            package = _engine()
            generator = package.KernelGenerator(dimension=3, **settings)
            mode = importlib.import_module("MinkowskiEngineBackend._C").ConvolutionMode.DEFAULT
            apply = getattr(package, function).apply
            keys = (self._key(source), self._key(target))
            result: Tensor = apply(features, kernel.contiguous(), generator, mode, *keys, self._manager)
        return result


def _checked_batch_size(coordinates: Tensor, base_stride: int, batch_size: int | None) -> int:
    """The number of batch elements, after the checks that every engine makes of its input."""
    check_coordinates(coordinates)
    if not len(coordinates):
        return batch_size or 0
    check_stride(coordinates, base_stride)
    low, high = (int(value) for value in torch.aminmax(coordinates[:, 0]))
    return checked_batch_size(low, high, batch_size)
