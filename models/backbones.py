"""torchvision networks cut behind stage 3 or 4: only the layers that are used are kept.

Stage k halves the image k + 1 times: ``layer3`` has stride 16, ``layer4`` stride 32. Parameter names are torchvision's.
"""

from typing import NamedTuple

from torch import Tensor, nn

from models.names import unknown_name


class Network(NamedTuple):
    """What is known of a network before it is built: its family, the channels of stage 4, the ImageNet weights."""

    family: str
    final_width: int
    imagenet: str


# The versions of the weights are those DistilVPR starts from.
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
}

# What a family has beyond the trunk: skipped by name when a checkpoint brings it.
_STAGE_4 = {"resnet": ("layer4.",), "convnext": ("features.6.", "features.7."), "swin": ("features.6.", "features.7.")}
_CLASSIFIER = {"resnet": ("fc.",), "convnext": ("classifier.",), "swin": ("norm.", "head.")}


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


def network_named(network: str) -> Network:
    """The row of :data:`NETWORKS` for ``network``; an unknown name is a UserError."""
    if network not in NETWORKS:
        raise unknown_name("image network", network, NETWORKS)
    return NETWORKS[network]


def build_trunk(network: str, stages: int) -> ResNetTrunk | PatchTrunk:
    """The randomly initialised trunk of ``network`` (torchvision's initialisation) up to ``stages`` = 3 or 4."""
    from torchvision.models import get_model

    family = network_named(network).family
    source = get_model(network, weights=None)
    return ResNetTrunk(source, stages) if family == "resnet" else PatchTrunk(source, stages, family == "swin")


def trunk_width(network: str, stages: int) -> int:
    """Channels of the last map: every stage doubles them."""
    return network_named(network).final_width >> (4 - stages)


def unused_prefixes(network: str, stages: int) -> tuple[str, ...]:
    """The key prefixes (torchvision's) of the layers that a trunk of ``stages`` stages leaves out."""
    family = network_named(network).family
    return (*(_STAGE_4[family] if stages < 4 else ()), *_CLASSIFIER[family])
