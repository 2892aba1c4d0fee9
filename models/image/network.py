"""Image networks: a torchvision trunk, a 1x1 convolution, a pooling head (the student of DistilVPR, AAAI 2024)."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from distilplace.models.checkpoints.content import is_counter
from distilplace.models.image.backbones import build_trunk, trunk_width, unused_prefixes, used_stages
from distilplace.models.image.base import HeadedNetwork, checked_images
from distilplace.models.image.pooling import HEADS
from distilplace.models.image.pretrained import load_pretrained

_WHITEN_MTD = "base_encoder."


class ImageNetwork(HeadedNetwork):
    """Images to place descriptors.

    State-dict keys are DistilVPR's: ``model.*`` (torchvision's names), ``conv1x1.*`` and the head's (``image_gem.p``,
    ``imagecosplace.*``, ``imageconvap.*`` or ``imagenetvlad.*``; ours: ``image_gemfc.fc.*``). Layers that are not used
    are not built.

    Args:
        network: a name of :data:`distilplace.models.image.backbones.NETWORKS`.
        output_dim: channels behind the 1x1 convolution. The descriptor has as many numbers with GeM and CosPlace,
            4 times as many with ConvAP, 64 times with NetVLAD: the attribute ``output_dim`` is the descriptor's width.
            With pool "mean" there is no such convolution, and the width is the trunk's whatever is given here; nor
            with GeMFC, whose linear layer gives the width.
        pool: GeM and GeMFC (not normalised), CosPlace, ConvAP, NetVLAD or mean (these four give unit vectors). "mean"
            has nothing to learn: the mean of the trunk's last map over its locations. GeMFC with ``useallstages`` is
            the student of Whiten-MTD (AAAI 2024).
        useallstages: cut behind stage 4 instead of stage 3; VGGs and MobileNets always keep all.
        pretrained: "none" (random), "imagenet", or the path of a torchvision-keyed state dict.
        gem_p: the exponent of GeMFC, which does not learn; 1: the plain mean. Of no effect with the other heads (GeM
            learns its own). It is not in the state dict.

    """

    trunk_keys = ("", "model.")

    def __init__(
        self,
        network: str,
        output_dim: int = 384,
        pool: str = "GeM",
        useallstages: bool = False,
        pretrained: str = "none",
        gem_p: float = 3.0,
    ) -> None:
        super().__init__(network, output_dim, pool, gem_p)
        stages = used_stages(network, useallstages)
        self.model = build_trunk(network, stages)
        load_pretrained(self.model, network, stages, pretrained)
        unused = (f"model.{prefix}" for prefix in unused_prefixes(network, stages))
        self.add_head(trunk_width(network, stages), unused)
        self.level_maps = tuple(f"layer{stage}" for stage in range(1, stages + 1))

    def forward(self, batch: Mapping[str, Any], feature_maps: Sequence[str] = ()) -> dict[str, Any]:
        """Feature maps: ``stem``, ``layer1`` ... ``layer3`` (``layer4`` where used), ``map`` (the head's input)."""
        maps = self.model(checked_images(batch))
        return self.described(maps, list(maps)[-1], feature_maps)

    def own_state(self, state: Mapping[str, Tensor], source: str) -> Mapping[str, Tensor]:
        """A file's ``state``; that of a student of Whiten-MTD's authors under this model's names.

        Theirs is a whole ResNet in ``base_encoder.`` whose last layer ``fc`` makes the embedding: GeMFC's, here.
        """
        if not all(key.startswith(_WHITEN_MTD) or is_counter(key) for key in state):
            return state
        bare = {key.removeprefix(_WHITEN_MTD): value for key, value in state.items() if not is_counter(key)}
        head = HEADS["GeMFC"].key
        return {f"{head}.{key}" if key.startswith("fc.") else f"model.{key}": value for key, value in bare.items()}
