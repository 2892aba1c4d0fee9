"""Residual blocks on sparse tensors, plain and with efficient channel attention.

Q. Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks" (CVPR 2020);
its use on sparse clouds: J. Komorowski et al., "MinkLoc++" (IJCNN 2021).
"""

import math

import torch
from torch import nn

from distilplace.models.sparse import (
    SparseBatchNorm,
    SparseConv,
    SparseReLU,
    SparseTensor,
    broadcast_multiply,
    global_average,
)


class ECALayer(nn.Module):
    """Channel weights from the mean over each cloud: sigmoid(conv1d over channels), multiplied onto its voxels."""

    def __init__(self, channels: int, gamma: float = 2.0, b: float = 1.0) -> None:
        super().__init__()
        t = abs(int((math.log2(channels) + b) / gamma))
        size = t if t % 2 else t + 1
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """``[N, C]`` -> ``[N, C]``."""
        attention = self.conv(global_average(x)[:, None])[:, 0]
        return broadcast_multiply(x, torch.sigmoid(attention))


class BasicBlock(nn.Module):
    """relu(norm2(conv2(relu(norm1(conv1(x))))) + shortcut(x)), 3^3 kernels.

    The shortcut is the identity, or a 1x1 convolution and a norm where the widths differ.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = SparseConv(in_channels, channels, 3)
        self.norm1 = SparseBatchNorm(channels, inplace=True)
        self.conv2 = SparseConv(channels, channels, 3)
        self.norm2 = SparseBatchNorm(channels, inplace=True)
        self.relu = SparseReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if in_channels != channels:
            norm = SparseBatchNorm(channels, inplace=True)
            self.downsample = nn.Sequential(SparseConv(in_channels, channels, 1), norm)

    def attend(self, x: SparseTensor) -> SparseTensor:
        """What happens between the second norm and the sum: nothing in the plain block."""
        return x

    def forward(self, x: SparseTensor) -> SparseTensor:
        """``[N, C_in]`` -> ``[N, C]`` on the same voxels."""
        residual = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.norm1(self.conv1(x)))
        x = self.attend(self.norm2(self.conv2(x)))
        return self.relu(x.add_(residual) if self.training else x + residual)


class ECABasicBlock(BasicBlock):
    """The residual block with channel attention after its second norm."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(in_channels, channels)
        self.eca = ECALayer(channels)

    def attend(self, x: SparseTensor) -> SparseTensor:
        """Channel attention."""
        return self.eca(x)


BLOCKS: dict[str, type[BasicBlock]] = {"BasicBlock": BasicBlock, "ECABasicBlock": ECABasicBlock}
