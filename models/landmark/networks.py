"""The off-the-shelf retrieval networks that Whiten-MTD distils from (Let All be Whitened, AAAI 2024)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from distilplace.common.errors import UserError, unknown_name
from distilplace.models.base import PlaceNetwork
from distilplace.models.image.backbones import ResNetTrunk, build_trunk, network_named, trunk_width
from distilplace.models.image.base import checked_images, chosen_maps
from distilplace.models.image.pooling import GeM
from distilplace.models.image.pretrained import load_pretrained
from distilplace.models.image.second_order import AttentiveResNet
from distilplace.models.landmark.keys import LAYOUTS, OWN, published_keys, under_own_names, unused_parts


class Family(NamedTuple):
    """What tells the kinds of teachers apart, beside the names of their weights."""

    share: float = 1.0
    """Default ``output_dim`` by the trunk's width."""
    width: int = 0
    """Default ``output_dim`` whatever the trunk."""
    unit: bool = False
    """The pooled vector has length 1 before the linear layer."""
    attention: bool = False
    """Second-order attention behind the last two stages."""
    bgr: bool = False
    """Reads the colours in the order blue, green, red."""
    power: float = 3.0
    """Default exponent of the pooling."""


FAMILIES: dict[str, Family] = {
    "gem": Family(unit=True),
    "ap_gem": Family(),
    "solar": Family(unit=True, attention=True),
    "delg": Family(width=512, bgr=True),
    "dolg": Family(share=0.5, bgr=True),
    "mocov3": Family(power=1.0),
    "barlowtwins": Family(power=1.0),
}


class RetrievalNetwork(PlaceNetwork):
    """Images to descriptors, not normalised: a whole ResNet, generalised mean pooling, mostly a linear layer.

    ========= =================================================================================================
    family    behind the trunk
    ========= =================================================================================================
    gem       GeM, unit length, linear layer that whitens (Radenovic et al., TPAMI 2019)
    ap_gem    GeM, linear layer (Revaud et al., ICCV 2019)
    solar     as gem, with second-order attention behind stages 4 and 5 (Ng et al., ECCV 2020)
    delg      GeM, linear layer to 512: the global branch of DELG (Cao et al., ECCV 2020); BGR
    dolg      GeM, linear layer to half the width (1024): DOLG's global branch alone (Yang et al., ICCV 2021); BGR
    mocov3    the mean, no projector (Chen et al., ICCV 2021)
    barlow-   the mean, no projector (Zbontar et al., ICML 2021)
    twins
    ========= =================================================================================================

    Which part of each is used is Whiten-MTD's choice. BGR: the channels of the ImageNet-normalised tensor are swapped,
    as they are (the means and deviations stay those of their place). The exponent never learns and is never read from
    a checkpoint: ``gem_p`` decides, as in Whiten-MTD.

    Own state-dict keys: ``model.*`` (torchvision's names; ``model.soa4.*`` and ``model.soa5.*`` of solar) and the
    linear layer's ``whiten.*`` (gem, solar), ``fc.*`` (ap_gem), ``head_fc.*`` (delg) or ``fc_t.*`` (dolg); alone
    ``base_encoder.*`` (mocov3) or ``backbone.*`` (barlowtwins). Checkpoints under their authors' names
    (:mod:`distilplace.models.landmark.keys`) load too.

    Args:
        family: a key of :data:`FAMILIES`.
        network: a ResNet of :data:`distilplace.models.image.backbones.NETWORKS`. Checkpoints are published
            for resnet101 (gem, solar also in other depths), of mocov3 and barlowtwins for resnet50.
        output_dim: numbers of the descriptor; None: as published, see above (the trunk's width if nothing is said).
            mocov3 and barlowtwins have the trunk's width whatever is given here.
        gem_p: exponent of the pooling, above 0; None: 3, for mocov3 and barlowtwins 1 (the mean).
        pretrained: start of the trunk: "none" (random), "imagenet", or the path of a torchvision-keyed state dict.

    Raises:
        UserError: unknown family or network, another kind of network than a ResNet, impossible numbers.

    """

    level_maps = ("layer1", "layer2", "layer3", "layer4")

    def __init__(
        self,
        family: str,
        network: str = "resnet101",
        output_dim: int | None = None,
        gem_p: float | None = None,
        pretrained: str = "none",
    ) -> None:
        super().__init__()
        if family not in FAMILIES:
            raise unknown_name("retrieval teacher", family, FAMILIES)
        if network_named(network).family != "resnet":
            raise UserError(f"there is no retrieval teacher {family} on {network}: take one on a ResNet")
        row, own = FAMILIES[family], LAYOUTS[family][OWN]
        trunk, width = build_trunk(network, stages=4), trunk_width(network, stages=4)
        assert isinstance(trunk, ResNetTrunk)
        load_pretrained(trunk, network, 4, pretrained)
        self.network, self.family, self.row = network, family, row
        self.trunk_name, self.head_name = own.trunk.removesuffix("."), own.head
        self.add_module(self.trunk_name, AttentiveResNet(trunk, width) if row.attention else trunk)
        self.pooling = GeM(width, row.power if gem_p is None else gem_p, learns=False)
        self.output_dim = width
        if self.head_name:
            self.output_dim = output_dim if output_dim is not None else row.width or round(row.share * width)
            if self.output_dim < 1:
                raise UserError(f"output_dim of {network}_{family} is {output_dim}; it must be at least 1")
            self.add_module(self.head_name, nn.Linear(width, self.output_dim))
        self.unused_checkpoint_prefixes = unused_parts(family)

    def forward(self, batch: Mapping[str, Any], feature_maps: Sequence[str] = ()) -> dict[str, Any]:
        """Feature maps: ``stem``, ``layer1`` ... ``layer4``, of solar also ``soa4`` and ``soa5``; ``pooled`` [B, C].

        ``pooled`` is the vector before the linear layer. Images are RGB for every family.
        """
        images = checked_images(batch)
        maps: dict[str, Tensor] = self.get_submodule(self.trunk_name)(images.flip(1) if self.row.bgr else images)
        pooled = self.pooling(list(maps.values())[-1])
        maps["pooled"] = functional.normalize(pooled, dim=1) if self.row.unit else pooled
        embedding = self.get_submodule(self.head_name)(maps["pooled"]) if self.head_name else maps["pooled"]
        return {"embedding": embedding, **chosen_maps(f"{self.family} network", feature_maps, maps)}

    def expected_keys(self) -> list[str]:
        """The tensors a published checkpoint must hold, by its authors' names, without ``module.`` before them.

        Of the batch norms' ``num_batches_tracked`` any may be absent, and so may the pooling's exponent, which is never
        read. MoCo v3's files have ``base_encoder.`` before all keys, as here; Barlow Twins' ``resnet50.pth`` has
        torchvision's bare names.
        """
        return published_keys(self.family, self.state_dict())

    def own_state(self, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
        """A checkpoint's ``state`` under this model's names (:func:`models.landmark.keys.under_own_names`)."""
        return under_own_names(self.family, self.network, self.state_dict(), state, source)
