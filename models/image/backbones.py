"""torchvision networks cut behind stage 3 or 4: only the layers that are used are kept.

Stage k halves the image k + 1 times: ``layer3`` has stride 16, ``layer4`` stride 32. Parameter names are torchvision's.
VGGs and MobileNets are never cut: they are the whole of torchvision's ``features``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distilplace.common.errors import unknown_name
from distilplace.models.image.mobilenet_wakd import MobileNetV3WAKD


class Network(NamedTuple):
    """What is known of a network before it is built: its family, the channels of stage 4, the ImageNet weights."""

    family: str
    final_width: int
    imagenet: str
    """torchvision's name of these weights; empty: torchvision has none."""
    torchvision: str = ""
    """torchvision's name where it is another."""


# The versions of the weights are those DistilVPR starts from; of the VGGs and MobileNets, torchvision's default.
NETWORKS: dict[str, Network] = {
    "resnet18": Network("resnet", 512, "IMAGENET1K_V1"),
    "resnet34": Network("resnet", 512, "IMAGENET1K_V1"),
    "resnet50": Network("resnet", 2048, "IMAGENET1K_V2"),
    "resnet101": Network("resnet", 2048, "IMAGENET1K_V2"),
    "resnet152": Network("resnet", 2048, "IMAGENET1K_V2"),
    "convnext_tiny": Network("convnext", 768, "IMAGENET1K_V1"),
    "convnext_small": Network("convnext", 768, "IMAGENET1K_V1"),
    "swin_t": Network("swin", 768, "IMAGENET1K_V1"),
    "swin_s": Network("swin", 768, "IMAGENET1K_V1"),
    "swin_v2_t": Network("swin", 768, "IMAGENET1K_V1"),
    "swin_v2_s": Network("swin", 768, "IMAGENET1K_V1"),
    "vgg16": Network("vgg", 512, "IMAGENET1K_V1"),
    "vgg19": Network("vgg", 512, "IMAGENET1K_V1"),
    "mobilenet_v2": Network("mobilenet", 1280, "IMAGENET1K_V2"),
    "mobilenetv3_large": Network("mobilenet", 960, "IMAGENET1K_V2", "mobilenet_v3_large"),
    "mobilenetv3_large_wakd": Network("mobilenet_wakd", 512, ""),
    "mobilenetv3_small": Network("mobilenet", 576, "IMAGENET1K_V1", "mobilenet_v3_small"),
}
WHOLE_FAMILIES = ("vgg", "mobilenet", "mobilenet_wakd")

# What a family has beyond the trunk: skipped by name when a checkpoint brings it.
_STAGE_4 = {"resnet": ("layer4.",), "convnext": ("features.6.", "features.7."), "swin": ("features.6.", "features.7.")}
_CLASSIFIER = {
    "resnet": ("fc.",),
    "convnext": ("classifier.",),
    "swin": ("norm.", "head."),
    "vgg": ("classifier.",),
    "mobilenet": ("classifier.",),
    "mobilenet_wakd": ("linear3.", "linear4."),
}
# The last convolution is WAKD's own: ImageNet weights are those of a network that goes on otherwise from there.
_OWN_TAIL = {"mobilenet_wakd": ("conv3.", "bn3.")}


class ResNetTrunk(nn.Module):
    """The stem and the first ``stages`` stages of a torchvision ResNet."""

    def __init__(self, source: nn.Module, stages: int) -> None:
        super().__init__()
        for name in ("conv1", "bn1", "relu", "maxpool", *(f"layer{k}" for k in range(1, stages + 1))):
            self.add_module(name, source.get_submodule(name))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] -> ``stem`` (after the max pooling) and ``layer1`` ... in order, each [B, C, h, w]."""
        maps: dict[str, Tensor] = {}
        features = images
        for name, layer in self.named_children():
            features = layer(features)
            if name not in ("conv1", "bn1", "relu"):
                maps["stem" if name == "maxpool" else name] = features
        return maps


class PatchTrunk(nn.Module):
    """The patch embedding and the first ``stages`` stages of a torchvision ConvNeXt or Swin transformer.

    torchvision alternates: ``features[0]`` embeds, odd entries are stages, the other even ones halve the resolution.
    """

    def __init__(self, source: nn.Module, stages: int, channels_last: bool) -> None:
        super().__init__()
        layers = list(source.get_submodule("features").children())
        self.features = nn.Sequential(*layers[: 2 * stages])
        self.channels_last = channels_last

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] -> ``stem`` and ``layer1`` ... in order, each [B, C, h, w]."""
        maps: dict[str, Tensor] = {}
        features = images
        for index, layer in enumerate(self.features):
            features = layer(features)
            if index == 0 or index % 2 == 1:
                name = f"layer{(index + 1) // 2}" if index else "stem"
                maps[name] = features.permute(0, 3, 1, 2) if self.channels_last else features
        return maps


class PlainTrunk(nn.Module):
    """Layers one after another, their maps named by resolution: VGGs and MobileNets.

    ``stem`` is the last map at half the image's size, ``layer1`` the last at a quarter, and so on. A VGG's ``layer3``
    is thus the output of its fifth block, ``layer4`` that of the last pooling.
    """

    def __init__(self, layers: nn.Sequential, key: str = "features") -> None:
        super().__init__()
        self.key = key
        self.add_module(key, layers)
        self.stage_names = _stage_names(layers)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] -> ``stem`` and ``layer1`` ... in order, each [B, C, h, w]."""
        maps: dict[str, Tensor] = {}
        features = images
        for index, layer in enumerate(self.get_submodule(self.key).children()):
            features = layer(features)
            if index in self.stage_names:
                maps[self.stage_names[index]] = features
        return maps


def halving_layers(layers: Sequence[nn.Module]) -> list[int]:
    """The indices of the layers that halve the resolution (a convolution or pooling of stride 2 in them)."""
    strided = [any(getattr(part, "stride", 1) in (2, (2, 2)) for part in layer.modules()) for layer in layers]
    return [index for index, halves in enumerate(strided) if halves]


def _stage_names(layers: nn.Sequential) -> dict[int, str]:
    """Index of the last layer at each resolution -> ``stem``, ``layer1`` ...; full resolution has no name."""
    ends = [index - 1 for index in halving_layers(list(layers))[1:]] + [len(layers) - 1]
    return {end: f"layer{stage}" if stage else "stem" for stage, end in enumerate(ends)}


def network_named(network: str) -> Network:
    """The row of :data:`NETWORKS` for ``network``; an unknown name is a UserError."""
    if network not in NETWORKS:
        raise unknown_name("image network", network, NETWORKS)
    return NETWORKS[network]


def torchvision_name(network: str) -> str:
    """The name that torchvision has for ``network``: "mobilenet_v3_large" of "mobilenetv3_large"."""
    return network_named(network).torchvision or network


def used_stages(network: str, useallstages: bool) -> int:
    """The stages that are kept: 4, or 3 where all are not asked for and the family can be cut."""
    return 4 if useallstages or network_named(network).family in WHOLE_FAMILIES else 3


def build_trunk(network: str, stages: int) -> ResNetTrunk | PatchTrunk | PlainTrunk | MobileNetV3WAKD:
    """The randomly initialised trunk of ``network`` (torchvision's initialisation) up to ``stages``.

    ``stages`` is as :func:`used_stages` says: 3 or 4, and 4 for the families that are never cut.
    """
    from torchvision.models import get_model

    family, name = network_named(network).family, torchvision_name(network)
    if family == "mobilenet_wakd":
        return MobileNetV3WAKD()
    if family == "vgg":
        return PlainTrunk(_vgg_layers(name))
    source = get_model(name, weights=None)
    if family == "mobilenet":
        layers = source.get_submodule("features")
        assert isinstance(layers, nn.Sequential)
        return PlainTrunk(layers)
    return ResNetTrunk(source, stages) if family == "resnet" else PatchTrunk(source, stages, family == "swin")


def _vgg_layers(name: str) -> nn.Sequential:
    """A VGG's convolutions, initialised as torchvision does (He, fan out), without filling 120 M classifier weights."""
    from torchvision.models import get_model

    with torch.device("meta"):
        layers = get_model(name, weights=None, init_weights=False).get_submodule("features")
    assert isinstance(layers, nn.Sequential)
    layers = layers.to_empty(device=torch.get_default_device())
    for layer in layers:
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return layers


def trunk_width(network: str, stages: int) -> int:
    """Channels of the last map: every stage of the families that are cut doubles them."""
    return network_named(network).final_width >> (4 - stages)


def unused_prefixes(network: str, stages: int) -> tuple[str, ...]:
    """The key prefixes (torchvision's) of the layers that a trunk of ``stages`` stages leaves out."""
    family = network_named(network).family
    return (*(_STAGE_4[family] if stages < 4 else ()), *_CLASSIFIER[family])


def own_tail(network: str) -> tuple[str, ...]:
    """The key prefixes of layers that ImageNet weights of ``network`` lack or have for something else."""
    return _OWN_TAIL.get(network_named(network).family, ())
