"""NetVLAD networks: a convolutional map of 512 channels, its soft-assigned residuals, and their sums over regions.

The networks of WAKD (Xu et al., ICPR 2022) and of its parents OpenIBL and SFRS (Ge et al., ECCV 2020).
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from distilplace.common.errors import UserError, unknown_name
from distilplace.common.outputs import with_maps
from distilplace.models.base import PlaceNetwork
from distilplace.models.image.backbones import (
    PlainTrunk,
    ResNetTrunk,
    build_trunk,
    halving_layers,
    network_named,
    trunk_width,
)
from distilplace.models.image.base import check_map_names, checked_images
from distilplace.models.image.clustering import initialise_netvlad
from distilplace.models.image.mobilenet_wakd import MobileNetV3WAKD
from distilplace.models.image.pooling import NetVLAD, normalised_vlad
from distilplace.models.image.pretrained import load_pretrained

CHANNELS = 512
PARTS = 3  # a map is cut into 3 x 3 cells
TRAINABLE_FROM = ("all", "conv5")
_FAMILIES = ("vgg", "mobilenet", "resnet")


class ReducedResNet(nn.Module):
    """A whole ResNet trunk and a 1x1 convolution to 512 channels (our reading: WAKD says nothing of the width)."""

    def __init__(self, base: ResNetTrunk, width: int) -> None:
        super().__init__()
        self.base = base
        self.reduction = nn.Conv2d(width, CHANNELS, kernel_size=1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] -> ``stem``, ``layer1`` ... ``layer4`` and ``map`` [B, 512, h, w], stride 32."""
        maps: dict[str, Tensor] = self.base(images)
        return maps | {"map": self.reduction(maps["layer4"])}


class VLADNetwork(PlaceNetwork):
    """Images to NetVLAD descriptors of length 1.

    The map before the head, always 512 channels wide:

    - VGG: to the last convolution of block 5, without the ReLU and the pooling behind it: stride 16.
    - MobileNetV3-Large: torchvision's trunk, which ends in 1x1 convolutions 160 -> 960, then one 960 -> 512 with batch
      norm and h-swish: stride 32. Small likewise, 96 -> 576 -> 512.
    - ``mobilenetv3_large_wakd``: the trunk of WAKD's own program as it is, stride 32
      (``models/image/mobilenet_wakd.py``); its keys have no ``base.``: ``base_model.conv1.weight``.
    - ResNet: the whole trunk and a 1x1 convolution to 512 (our reading): stride 32.

    State-dict keys are those of OpenIBL's checkpoints: ``base_model.base.<layer>.*``, ``net_vlad.conv.weight`` and
    ``net_vlad.centroids``; the PCA layer of its published files (``pca_layer.*``) is skipped by name. Random centroids
    do not learn: see :meth:`initialise_clusters`.

    Args:
        network: a VGG, a MobileNetV3 or a ResNet of :data:`distilplace.models.image.backbones.NETWORKS`.
        clusters: K; ``output_dim`` is 512 K.
        pretrained: start of the trunk: "none" (random), "imagenet", or the path of a torchvision-keyed state dict.
        trainable_from: "all", or "conv5": only the last stage and what follows learn (VGG's fifth block, ResNet's
            ``layer4``, a MobileNet's blocks at stride 32); the layers below stay as they are, batch norm too.

    """

    unused_checkpoint_prefixes = ("pca_layer.",)
    has_clusters = True

    def __init__(self, network: str, clusters: int = 64, pretrained: str = "none", trainable_from: str = "all") -> None:
        super().__init__()
        family = network_named(network).family
        if not family.startswith(_FAMILIES):
            raise UserError(f"there is no NetVLAD network on {network}: take one on a {', '.join(_FAMILIES)}")
        if clusters < 1:
            raise UserError(f"clusters of NetVLAD network {network} is {clusters}; it must be at least 1")
        if trainable_from not in TRAINABLE_FROM:
            raise unknown_name("trainable_from", trainable_from, TRAINABLE_FROM)
        trunk = build_trunk(network, stages=4)
        load_pretrained(trunk, network, 4, pretrained)
        self.network = network
        self.frozen = _layers_before_conv5(trunk) if trainable_from == "conv5" else ()
        for layer in self.frozen:
            layer.requires_grad_(False)
        self.base_model = _with_512_channels(trunk, network)
        self.net_vlad = NetVLAD(CHANNELS, clusters)
        self.output_dim = self.net_vlad.output_dim
        self.level_maps = ("layer1", "layer2", "layer3") + (() if family == "vgg" else ("layer4",))
        self.trunk_keys = ("" if family == "resnet" else "features.", "base_model.base.")
        if family == "mobilenet_wakd":
            self.trunk_keys = ("", "base_model.")

    def train(self, mode: bool = True) -> "VLADNetwork":
        """As of any module, but frozen layers never collect batch-norm statistics."""
        super().train(mode)
        for layer in self.frozen:
            layer.eval()
        return self

    def forward(self, batch: Mapping[str, Any], feature_maps: Sequence[str] = ()) -> dict[str, Any]:
        """``embedding`` [B, 512 K]: residual sums, each cluster's row and then the whole (cluster slowest) of length 1.

        Feature maps: ``stem`` and those of ``level_maps``; ``map`` [B, 512, h, w] before the head; ``vlad``
        [B, K, 512], the residual sums before any normalisation; ``regions`` [B, 7, 512 K], see :func:`region_vectors`,
        of which a map needs 3 rows and columns (:class:`UserError`).
        """
        known = ("stem", *self.level_maps, "map", "vlad", "regions")
        check_map_names(f"{self.network}netvlad", feature_maps, known)
        maps = self.base_model(checked_images(batch))
        maps.setdefault("map", maps[self.level_maps[-1]])
        local, assignment = self.net_vlad.assign(maps["map"])
        maps["vlad"] = self.net_vlad.residual_sums(local, assignment)
        output: dict[str, Any] = {"embedding": normalised_vlad(maps["vlad"])}
        if "regions" in feature_maps:
            maps["regions"] = region_vectors(self.net_vlad, local, assignment, output["embedding"])
        return output | with_maps({name: maps[name] for name in feature_maps})

    def initialise_clusters(self, descriptors: Tensor) -> float:
        """Start the NetVLAD head from local descriptors [n, 512]."""
        return initialise_netvlad(self.net_vlad, descriptors)


def region_vectors(head: NetVLAD, local: Tensor, assignment: Tensor, whole: Tensor) -> Tensor:
    """The descriptors of seven regions of each map: whole, 3 rows (top first), 3 columns (left first); WAKD's regions.

    The map is cut into 3 x 3 cells, VLAD is summed per cell, a row or column is the sum of its three cells. Where a
    side n does not divide by 3 the cuts lie at n/3 and 2n/3 rounded (our reading): 4 = 1 + 2 + 1, 5 = 2 + 1 + 2.

    Args:
        head: gives the centroids.
        local: [B, C, h, w], of ``head.assign``.
        assignment: [B, K, h, w], likewise.
        whole: the whole map's descriptor [B, K C].

    Returns:
        [B, 7, K C], vectors of length 1.

    """
    height, width = local.shape[-2:]
    if min(height, width) < PARTS:
        raise UserError(f"regions need a map of 3 x 3 locations at least, not {height} x {width}: give larger images")
    rows = []
    for top, bottom in _cuts(height):
        windows = [(slice(None), slice(None), slice(top, bottom), slice(left, right)) for left, right in _cuts(width)]
        rows.append(torch.stack([head.residual_sums(local[window], assignment[window]) for window in windows], dim=1))
    cells = torch.stack(rows, dim=1)  # [B, 3, 3, K, C]
    return torch.cat((whole[:, None], normalised_vlad(cells.sum(dim=2)), normalised_vlad(cells.sum(dim=1))), dim=1)


def _cuts(side: int) -> list[tuple[int, int]]:
    """Begin and end of each of the three parts of ``side``."""
    bounds = [round(part * side / PARTS) for part in range(PARTS + 1)]
    return list(pairwise(bounds))


def _with_512_channels(trunk: nn.Module, network: str) -> ReducedResNet | PlainTrunk | MobileNetV3WAKD:
    """``trunk`` cut or extended as :class:`VLADNetwork` says, its layers in ``base``; WAKD's own as it is."""
    width = trunk_width(network, 4)
    if isinstance(trunk, MobileNetV3WAKD):
        return trunk
    if isinstance(trunk, ResNetTrunk):
        return ReducedResNet(trunk, width)
    layers = list(trunk.get_submodule("features").children())
    if network_named(network).family == "vgg":
        return PlainTrunk(nn.Sequential(*layers[:-2]), key="base")
    narrowing = nn.Conv2d(width, CHANNELS, kernel_size=1, bias=False)
    nn.init.kaiming_normal_(narrowing.weight, mode="fan_out")
    tail = nn.Sequential(narrowing, nn.BatchNorm2d(CHANNELS), nn.Hardswish())
    return PlainTrunk(nn.Sequential(*layers, tail), key="base")


def _layers_before_conv5(trunk: nn.Module) -> tuple[nn.Module, ...]:
    """The layers before the last stage: before ``layer4`` of a ResNet, else before the step to that resolution."""
    if isinstance(trunk, MobileNetV3WAKD):
        return trunk.before_stride_32()
    if isinstance(trunk, ResNetTrunk):
        return tuple(layer for name, layer in trunk.named_children() if name != "layer4")
    layers = list(trunk.get_submodule("features").children())
    # A VGG's fifth block lies between its last two poolings.
    steps = halving_layers(layers)
    return tuple(layers[: steps[-2] if isinstance(layers[-1], nn.MaxPool2d) else steps[-1]])
