"""What a sparse engine supplies: the coordinates of a batch at every stride, and convolution between them."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from distilplace.common.errors import UserError


def check_coordinates(coordinates: Tensor) -> None:
    """:class:`UserError` unless these are integer rows (batch, x, y, z)."""
    if coordinates.ndim != 2 or coordinates.shape[1] != 4:
        raise UserError(f"sparse coordinates must have shape [N, 4] (batch, x, y, z), not {list(coordinates.shape)}")
    if coordinates.dtype not in (torch.int32, torch.int64):
        raise UserError(f"sparse coordinates must be int32, not {coordinates.dtype}; quantize the cloud first")


def check_stride(coordinates: Tensor, base_stride: int) -> None:
    """:class:`UserError` unless the places are multiples of the stride."""
    if base_stride != 1 and bool((coordinates[:, 1:] % base_stride).any()):
        raise UserError(f"sparse coordinates at stride {base_stride} must be multiples of it")


def checked_batch_size(low: int, high: int, batch_size: int | None) -> int:
    """The number of batch elements, given the lowest and highest batch number found and the number said (or None)."""
    size = high + 1 if batch_size is None else batch_size
    if low < 0 or high >= size:
        raise UserError(f"batch numbers must lie in 0..{size - 1}, found {low}..{high}")
    return size


class Manager(ABC):
    """The voxels of one batch under one engine. Tensors made from one another share it, and with it their kernel maps.

    Level l holds the voxels at stride ``base_stride * 2**l``. Every engine numbers the rows of a level in an order of
    its own, which ``coordinates`` states; which input row became which row of level 0 is in ``rows``. Of duplicate
    input rows one is kept.
    """

    name: ClassVar[str]
    portable: ClassVar[bool] = False  # whether a data-loader worker can make one and send it to the device
    base_stride: int
    batch_size: int
    rows: Tensor

    @classmethod
    @abstractmethod
    def unavailable(cls, device: torch.device) -> str | None:
        """Why this engine cannot run on ``device`` ("... is not installed: pip install ..."), or None if it can."""

    @classmethod
    def automatic(cls, device: torch.device) -> bool:
        """Whether "auto" may choose this engine on ``device``, where it is available."""
        return True

    @abstractmethod
    def __init__(self, coordinates: Tensor, *, base_stride: int = 1, batch_size: int | None = None) -> None:
        """From int32 ``[N, 4]`` (batch, x, y, z), multiples of ``base_stride``; ``batch_size``: None = highest + 1."""

    @abstractmethod
    def count(self, number: int) -> int:
        """How many voxels a level has."""

    @abstractmethod
    def coordinates(self, number: int) -> Tensor:
        """int32 ``[N, 4]`` (batch, x, y, z) of a level, in units of the finest voxel, in the engine's row order."""

    @abstractmethod
    def batch_index(self, number: int) -> Tensor:
        """Batch element of every row of a level, int64 ``[N]``."""

    @abstractmethod
    def counts(self, number: int) -> Tensor:
        """Number of voxels of every batch element at a level, int64 ``[B]``."""

    @abstractmethod
    def convolution(
        self, features: Tensor, kernel: Tensor, number: int, kernel_size: int, stride: int, dilation: int
    ) -> Tensor:
        """out[u] = sum_k in[u + offset_k * dilation * s_in] W_k over occupied voxels, differentiable.

        ``[n_in, C_in]`` on level ``number``, kernel ``[K, C_in, C_out]`` -> ``[n_out, C_out]`` on level
        ``number + stride - 1`` (stride 1 or 2).
        """

    @abstractmethod
    def transposed_convolution(self, features: Tensor, kernel: Tensor, number: int, kernel_size: int) -> Tensor:
        """The transpose of the stride-2 convolution: level ``number`` -> ``number - 1``; out[u] += in[u - offset] W."""

    def scratch(self, like: Tensor) -> Tensor:
        """Uninitialised memory of the shape and type of ``like``; another call, or a convolution, may overwrite it."""
        return torch.empty_like(like)

    def sum_rows(self, features: Tensor, number: int) -> Tensor:
        """Sum over the voxels of each batch element ``[B, C]``; outside autograd."""
        out = features.new_zeros(self.batch_size, features.shape[1])
        return out.index_add_(0, self.batch_index(number), features)

    def copy_rows(self, rows: Tensor, number: int) -> Tensor:
        """Each batch element's row ``[B, C]`` copied to its voxels ``[N, C]``; outside autograd."""
        return rows.index_select(0, self.batch_index(number))

    def scale_rows(self, features: Tensor, factors: Tensor, number: int) -> Tensor:
        """Every voxel's features ``[N, C]`` times its batch element's row of ``factors [B, C]``; outside autograd."""
        return features * self.copy_rows(factors, number)
