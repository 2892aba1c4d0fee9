"""Sparse convolution layers. Weights are ``kernel``: ``[K, C_in, C_out]``, or ``[C_in, C_out]`` for kernel size 1."""

import math

import torch
from torch import nn

from distilplace.common.errors import UserError
from distilplace.models.sparse.kernel_map import reach_of
from distilplace.models.sparse.tensor import SparseTensor


class _SparseConvBase(nn.Module):
    """The weights and the settings that both directions share."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, dilation: int) -> None:
        super().__init__()
        reach_of(kernel_size, stride, dilation)  # refuses what no kernel map can be built for
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.stride, self.dilation = kernel_size, stride, dilation
        volume = kernel_size**3
        shape = (in_channels, out_channels) if volume == 1 else (volume, in_channels, out_channels)
        self.kernel = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming normal for ReLU over the outgoing connections: std = sqrt(2 / (K * C_out))."""
        nn.init.normal_(self.kernel, std=math.sqrt(2.0 / (self.kernel_size**3 * self.out_channels)))

    def _checked(self, x: SparseTensor) -> SparseTensor:
        if x.features.shape[1] != self.in_channels:
            raise UserError(f"sparse convolution expects {self.in_channels} channels, got {x.features.shape[1]}")
        return x


class SparseConv(_SparseConvBase):
    """out[u] = sum_k in[u + offset_k * dilation * s_in] W_k over occupied voxels; no bias.

    With stride 1 the output has the input's voxels; with stride 2 the distinct floor(c / 2s) * 2s.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, dilation)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """``[N, C_in]`` at stride s -> ``[M, C_out]`` at stride s * ``stride``."""
        x = self._checked(x)
        if self.kernel_size == 1 and self.stride == 1:
            return x.with_features(x.features @ self.kernel)
        kernel = self.kernel if self.kernel.ndim == 3 else self.kernel[None]
        settings = (self.kernel_size, self.stride, self.dilation)
        features = x.manager.convolution(x.features, kernel, x.level, *settings)
        return x.with_features(features, x.level + self.stride - 1)


class SparseTransposedConv(_SparseConvBase):
    """The transpose of a stride-2 :class:`SparseConv`, onto the finer voxels the tensor came from.

    out[u] += in[u - offset_k * s_fine] W_k: the strided layer's map, read backwards.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 2, stride: int = 2) -> None:
        if stride != 2:
            raise UserError(f"transposed sparse convolution has stride 2, not {stride}")
        super().__init__(in_channels, out_channels, kernel_size, stride, 1)

    def reset_parameters(self) -> None:
        """Uniform within 1 / sqrt(K * C_out), MinkowskiEngine's default for transposed layers."""
        bound = 1.0 / math.sqrt(self.kernel_size**3 * self.out_channels)
        nn.init.uniform_(self.kernel, -bound, bound)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """``[M, C_in]`` at stride 2s -> ``[N, C_out]`` at stride s."""
        x = self._checked(x)
        if x.level == 0:
            raise UserError("transposed sparse convolution: the tensor has no finer voxels to land on")
        kernel = self.kernel if self.kernel.ndim == 3 else self.kernel[None]
        features = x.manager.transposed_convolution(x.features, kernel, x.level, self.kernel_size)
        return x.with_features(features, x.level - 1)
