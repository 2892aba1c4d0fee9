"""Sparse feature pyramids of the MinkLoc family.

J. Komorowski, "MinkLoc3D: Point Cloud Based Large-Scale Place Recognition" (WACV 2021), section 3.
"""

from collections.abc import Sequence

from torch import nn

from distilplace.common.errors import UserError
from distilplace.models.image.eca import BLOCKS
from distilplace.models.sparse import SparseBatchNorm, SparseConv, SparseReLU, SparseTensor, SparseTransposedConv


class _BottomUp(nn.Module):
    """The stages both pyramids share: 2^3 stride-2 convolution, norm, ReLU, residual blocks."""

    def __init__(self, planes: Sequence[int], layers: Sequence[int], block: str) -> None:
        super().__init__()
        _check_stages(planes, layers, block)
        self.convs = nn.ModuleList()
        self.bns = nn.ModuleList()
        self.blocks = nn.ModuleList()
        self.relu = SparseReLU(inplace=True)
        width = planes[0]
        for plane, count in zip(planes, layers, strict=True):
            self.convs.append(SparseConv(width, width, 2, stride=2))
            self.bns.append(SparseBatchNorm(width, inplace=True))
            self.blocks.append(
                nn.Sequential(*(BLOCKS[block](width if number == 0 else plane, plane) for number in range(count)))
            )
            width = plane

    def stage_maps(self, stem_size: int) -> list[tuple[int, int, int, int]]:
        """(level, kernel size, stride, dilation) of every kernel map of a forward pass."""
        stages = range(len(self.convs))
        return [(0, stem_size, 1, 1)] + [map_ for i in stages for map_ in ((i, 2, 2, 1), (i + 1, 3, 1, 1))]

    def stages(self, x: SparseTensor) -> list[SparseTensor]:
        """The output of every stage, finest first: strides 2, 4, 8, ..."""
        outputs = []
        for conv, bn, blocks in zip(self.convs, self.bns, self.blocks, strict=True):
            x = blocks(self.relu(bn(conv(x))))
            outputs.append(x)
        return outputs


class MinkFPN(_BottomUp):
    """Stem, bottom-up stages, and ``num_top_down`` steps back up by transposed convolution plus 1x1 laterals.

    Args:
        in_channels: feature channels of the voxels (1: ones).
        out_channels: width of the top-down path and of the output.
        planes, layers: width and number of residual blocks of every stage.
        num_top_down: 0..len(planes); at len(planes) the last lateral is the stem's stride-1 map after norm and ReLU.
        conv0_kernel_size: odd size of the stem.
        block: "ECABasicBlock" or "BasicBlock".

    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        planes: Sequence[int] = (32, 64, 64),
        layers: Sequence[int] = (1, 1, 1),
        num_top_down: int = 1,
        conv0_kernel_size: int = 5,
        block: str = "ECABasicBlock",
    ) -> None:
        super().__init__(planes, layers, block)
        if not 0 <= num_top_down <= len(planes):
            raise UserError(
                f"num_top_down must lie in 0..{len(planes)}, the number of stages, not {num_top_down}: "
                "each step goes back up one stage"
            )
        self.num_top_down = num_top_down
        self.conv0 = SparseConv(in_channels, planes[0], _stem_size(conv0_kernel_size))
        self.bn0 = SparseBatchNorm(planes[0], inplace=True)
        laterals = [planes[0], *planes][::-1][: num_top_down + 1]
        self.conv1x1s = nn.ModuleList(SparseConv(width, out_channels, 1) for width in laterals)
        self.tconvs = nn.ModuleList(SparseTransposedConv(out_channels, out_channels) for _ in range(num_top_down))

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Voxels at stride 1 -> features ``[N, out_channels]`` at stride 2^(len(planes) - num_top_down)."""
        stem = self.relu(self.bn0(self.conv0(x)))
        maps = [stem, *self.stages(stem)][::-1]  # coarsest first
        x = self.conv1x1s[0](maps[0])
        for tconv, lateral, finer in zip(self.tconvs, self.conv1x1s[1:], maps[1:], strict=False):
            x = tconv(x) + lateral(finer)
        return x


class GeneralMinkFPN(_BottomUp):
    """The general variant: stem, bottom-up stages, one 1x1 convolution; it has no top-down path.

    Its parameters carry other names (``conv1``, ``bn1``, ``conv1x1``) than :class:`MinkFPN`'s.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        planes: Sequence[int] = (32, 64, 64, 64),
        layers: Sequence[int] = (1, 1, 1, 1),
        conv0_kernel_size: int = 5,
        block: str = "ECABasicBlock",
    ) -> None:
        super().__init__(planes, layers, block)
        self.conv1 = SparseConv(in_channels, planes[0], _stem_size(conv0_kernel_size))
        self.bn1 = SparseBatchNorm(planes[0], inplace=True)
        self.conv1x1 = SparseConv(planes[-1], out_channels, 1)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Voxels at stride 1 -> features ``[N, out_channels]`` at stride 2^len(planes)."""
        return self.conv1x1(self.stages(self.relu(self.bn1(self.conv1(x))))[-1])


def _check_stages(planes: Sequence[int], layers: Sequence[int], block: str) -> None:
    if not planes or len(planes) != len(layers):
        raise UserError(f"planes {tuple(planes)} and layers {tuple(layers)} must name the same stages, at least one")
    if min(planes) < 1 or min(layers) < 1:
        raise UserError(f"planes {tuple(planes)} and layers {tuple(layers)} must be positive")
    if block not in BLOCKS:
        raise UserError(f"unknown block {block!r}; choose one of {', '.join(sorted(BLOCKS))}")


def _stem_size(size: int) -> int:
    if size < 1 or size % 2 == 0:
        raise UserError(f"conv0_kernel_size must be odd, not {size}")
    return size
