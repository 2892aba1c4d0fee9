"""The networks of ASHT-KD: the student DSFormer (down-sampling) and the teacher APFormer (hour-glass).

Widths, depths and heads are our reading; the paper names the networks and draws levels, no more.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from distilplace.common.errors import UserError
from distilplace.models.base import PlaceNetwork
from distilplace.models.image.base import checked_images, chosen_maps
from distilplace.models.image.pyramid import AttentionHead, PyramidStage, UpPath, initialise

STRIDES = (4, 2, 2, 2)  # of each stage over the one before it: 4, 8, 16, 32 over the image
REDUCTIONS = (8, 4, 2, 1)


class DSFormer(PlaceNetwork):
    """Student: a pyramid transformer of four stages (strides 4, 8, 16, 32), each read by the attention head.

    State-dict keys: ``stages.*``, ``head.*`` (APFormer also ``up_path.*``). There are no published weights.

    Args:
        output_dim: width of the descriptor, which has length 1. Teachers and student share it.

    """

    level_maps = ("attended1", "attended2", "attended3", "attended4")

    WIDTHS: ClassVar[tuple[int, ...]] = (32, 64, 128, 192)
    DEPTHS: ClassVar[tuple[int, ...]] = (1, 1, 2, 1)
    HEADS: ClassVar[tuple[int, ...]] = (1, 2, 4, 6)

    def __init__(self, output_dim: int = 256) -> None:
        super().__init__()
        if output_dim < 1:
            raise UserError(f"output_dim of {type(self).__name__} is {output_dim}; it must be at least 1")
        inputs = (3, *self.WIDTHS[:-1])
        stages = zip(inputs, self.WIDTHS, STRIDES, self.DEPTHS, self.HEADS, REDUCTIONS, strict=True)
        self.stages = nn.ModuleList(PyramidStage(*stage) for stage in stages)
        self.head = AttentionHead(self.WIDTHS, output_dim)
        self.output_dim = output_dim
        self.stages.apply(initialise)

    def forward(self, batch: Mapping[str, Any], feature_maps: Sequence[str] = ()) -> dict[str, Any]:
        """``embedding`` has rows of length 1.

        Feature maps: ``layer1`` ... ``layer4`` (those that the head reads), ``attended1`` ... ``attended4`` (each times
        its attention), ``map`` (the coarsest).
        """
        levels = self.levels(checked_images(batch))
        embedding, attended = self.head(levels)
        maps = {f"layer{number}": level for number, level in enumerate(levels, start=1)}
        maps |= {f"attended{number}": level for number, level in enumerate(attended, start=1)}
        maps["map"] = levels[-1]
        return {"embedding": embedding, **chosen_maps(type(self).__name__, feature_maps, maps)}

    def levels(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> the maps [B, C_l, ceil(H / s), ceil(W / s)] that the head reads, s = 4, 8, 16, 32."""
        maps: list[Tensor] = []
        for stage in self.stages:
            maps.append(stage(maps[-1] if maps else images))
        return maps


class APFormer(DSFormer):
    """Teacher: wider and deeper, and the head reads the levels of an up path back from the coarsest map."""

    WIDTHS = (64, 128, 256, 384)
    DEPTHS = (2, 2, 4, 2)
    HEADS = (1, 2, 4, 8)

    def __init__(self, output_dim: int = 256) -> None:
        super().__init__(output_dim)
        self.up_path = UpPath(self.WIDTHS)
        self.up_path.apply(initialise)

    def levels(self, images: Tensor) -> list[Tensor]:
        """As :meth:`DSFormer.levels`, each level joined with all that is coarser."""
        return self.up_path(super().levels(images))
