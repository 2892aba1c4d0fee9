"""Second-order attention of SOLAR (Ng et al., ECCV 2020): locations of a map, reweighted by how alike they are.

Which layers there are, and their names, is as in its published checkpoints.
"""

from torch import Tensor, nn
from torch.nn import functional

from distilplace.models.image.backbones import ResNetTrunk

REDUCTIONS = {4: 4, 5: 2}
"""Stage of the paper (4 is ``layer3``, 5 is ``layer4``) -> k: the attention has channels / k inside."""


class SecondOrderAttention(nn.Module):
    """``y = x + v(softmax(f(x)^T g(x) / sqrt(C / k)) h(x))`` over the locations of a map (a non-local block).

    ``f``, ``g``: 1x1 convolution to C / k channels, batch norm, ReLU; ``h``, ``v``: 1x1 convolutions there and back.
    ``v`` starts at zero, so that a new block changes nothing.
    """

    def __init__(self, channels: int, k: int) -> None:
        super().__init__()
        inner = channels // k
        self.f = _projection(channels, inner)
        self.g = _projection(channels, inner)
        self.h = _convolution(channels, inner)
        self.v = nn.Conv2d(inner, channels, kernel_size=1)
        nn.init.zeros_(self.v.weight)
        nn.init.zeros_(_bias(self.v))

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        query, key, value = (layer(features).flatten(2).transpose(1, 2) for layer in (self.f, self.g, self.h))
        attended = functional.scaled_dot_product_attention(query, key, value)  # [B, H W, C / k]; divides by the root
        return features + self.v(attended.transpose(1, 2).unflatten(2, features.shape[-2:]))


class AttentiveResNet(ResNetTrunk):
    """A whole ResNet trunk with second-order attention behind its last two stages (``soa4``, ``soa5``)."""

    def __init__(self, trunk: ResNetTrunk, width: int) -> None:
        """``trunk`` gives the layers, ``width`` is the channels of its ``layer4``."""
        super().__init__(trunk, stages=4)
        self.soa4 = SecondOrderAttention(width // 2, REDUCTIONS[4])
        self.soa5 = SecondOrderAttention(width, REDUCTIONS[5])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] -> ``stem``, ``layer1`` ... ``layer3``, ``soa4``, ``layer4``, ``soa5``, each [B, C, h, w]."""
        maps: dict[str, Tensor] = {}
        features = images
        order = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "soa4", "layer4", "soa5")
        for name in order:
            features = self.get_submodule(name)(features)
            if name not in ("conv1", "bn1", "relu"):
                maps["stem" if name == "maxpool" else name] = features
        return maps


def _projection(channels: int, inner: int) -> nn.Sequential:
    return nn.Sequential(_convolution(channels, inner), nn.BatchNorm2d(inner), nn.ReLU())


def _convolution(channels: int, inner: int) -> nn.Conv2d:
    """1x1, He's initialisation, no bias at the start."""
    layer = nn.Conv2d(channels, inner, kernel_size=1)
    nn.init.kaiming_normal_(layer.weight)
    nn.init.zeros_(_bias(layer))
    return layer


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias
