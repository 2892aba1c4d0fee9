"""Image networks: a torchvision trunk, a 1x1 convolution, a pooling head (the student of DistilVPR, AAAI 2024)."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from common.errors import UserError
from models.backbones import build_trunk, trunk_width, unused_prefixes, used_stages
from models.names import unknown_name
from models.pooling import HEADS, head_named
from models.pretrained import load_pretrained

SMALLEST_SIDE = 32  # pixels: stage 4 has stride 32


class ImageNetwork(nn.Module):
    """Images to place descriptors.

    State-dict keys are DistilVPR's: ``model.*`` (torchvision's names), ``conv1x1.*`` and the head's (``image_gem.p``,
    ``imagecosplace.*``, ``imageconvap.*`` or ``imagenetvlad.*``). Layers that are not used are not built.

    Args:
        network: a name of :data:`models.backbones.NETWORKS`.
        output_dim: channels behind the 1x1 convolution. The descriptor has as many numbers with GeM and CosPlace,
            4 times as many with ConvAP, 64 times with NetVLAD: the attribute ``output_dim`` is the descriptor's width.
            With pool "mean" there is no such convolution, and the width is the trunk's whatever is given here.
        pool: GeM (not normalised), CosPlace, ConvAP, NetVLAD or mean (these four give unit vectors). "mean" has nothing
            to learn: the mean of the trunk's last map over its locations.
        useallstages: cut behind stage 4 instead of stage 3; VGGs and MobileNets always keep all.
        pretrained: "none" (random), "imagenet", or the path of a torchvision-keyed state dict.

    ``level_maps`` names the maps for terms on several levels, fine to coarse.

    """

    requires: tuple[str, ...] = ("images",)
    trunk_keys = ("", "model.")
    """What stands before a trunk's keys in torchvision's files, and in this model's."""

    def __init__(
        self,
        network: str,
        output_dim: int = 384,
        pool: str = "GeM",
        useallstages: bool = False,
        pretrained: str = "none",
    ) -> None:
        super().__init__()
        if output_dim < 1:
            raise UserError(f"output_dim of image network {network} is {output_dim}; it must be at least 1")
        stages = used_stages(network, useallstages)
        head = head_named(pool)
        self.network = network
        self.pool = pool
        self.model = build_trunk(network, stages)
        load_pretrained(self.model, network, stages, pretrained)
        width = trunk_width(network, stages)
        self.conv1x1 = nn.Conv2d(width, output_dim, kernel_size=1) if head.learnt else nn.Identity()
        self.add_module(head.key, head.kind(output_dim if head.learnt else width))
        self.output_dim: int = self.get_submodule(head.key).output_dim  # type: ignore[assignment]
        self.level_maps = tuple(f"layer{stage}" for stage in range(1, stages + 1))
        self.unused_checkpoint_prefixes: tuple[str, ...] = (
            *(f"model.{prefix}" for prefix in unused_prefixes(network, stages)),
            *(f"{other.key}." for other in HEADS.values() if other.learnt and other.key != head.key),
        )

    def forward(self, batch: Mapping[str, Any], feature_maps: Sequence[str] = ()) -> dict[str, Any]:
        """Describe the images of a batch.

        Args:
            batch: ``images`` float [B, 3, H, W], ImageNet-normalised; any H, W >= 32, odd ones too.
            feature_maps: names of maps to return too: ``stem``, ``layer1`` ... ``layer3`` (``layer4`` when it is used),
                ``map`` (what the head sees, behind the 1x1 convolution if there is one).

        Returns:
            ``embedding`` [B, output_dim]; with ``feature_maps`` also that: name -> [B, C, h, w].

        """
        maps = self.model(checked_images(batch))
        maps["map"] = self.conv1x1(maps[list(maps)[-1]])
        output: dict[str, Any] = {"embedding": self.get_submodule(HEADS[self.pool].key)(maps["map"])}
        if feature_maps:
            for name in feature_maps:
                if name not in maps:
                    raise unknown_name(f"feature map of {self.network}", name, maps)
            output["feature_maps"] = {name: maps[name] for name in feature_maps}
        return output

    def branch_parameters(self) -> dict[str, list[nn.Parameter]]:
        """The parameters that learn by branch, for learning rates of their own."""
        return {"image": learning_parameters(self), "cloud": []}


def checked_images(batch: Mapping[str, Any]) -> Tensor:
    """The ``images`` of a batch, [B, 3, H, W].

    Raises:
        ValueError: another shape.
        UserError: a side of fewer than 32 pixels.

    """
    images: Tensor = batch["images"]
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be [B, 3, H, W], not {list(images.shape)}")
    if min(images.shape[-2:]) < SMALLEST_SIDE:
        height, width = images.shape[-2:]
        raise UserError(f"images of {height} x {width} pixels are too small: {SMALLEST_SIDE} a side is the least")
    return images


def learning_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of ``module`` that are not frozen."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
