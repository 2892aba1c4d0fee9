"""MinkLoc in MinkowskiEngine's own layers: the fairest opponent, without our layers around MinkowskiEngine's maps.

Written from the papers (MinkLoc3D, ECA-Net) with the parameter names of ours, so that one state dict serves both.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from distilplace.models.cloud.minkloc import DEFAULT_PLANES
from distilplace.tools.bench_sparse.engines import Engine, Layer, own_layer, own_trunk

NAME = "minkowski-native"
DIMENSION = 3


@cache
def minkowski() -> Any:
    """The library, imported where it is first used: it is optional, and warns at import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import MinkowskiEngine

        return MinkowskiEngine


def native_unavailable(device: torch.device) -> str | None:
    """Why MinkowskiEngine cannot run here, or None."""
    try:
        library = minkowski()
    except ImportError:  # absent, or built for another torch
        return "MinkowskiEngine is not installed: python -m tools.install_minkowski"
    if device.type == "cuda" and not library.is_cuda_available():
        return "MinkowskiEngine is built for the CPU only: python -m tools.install_minkowski"
    return None


def _conv(layer: Layer) -> nn.Module:
    library = minkowski()
    chosen = library.MinkowskiConvolutionTranspose if layer.kind == "up" else library.MinkowskiConvolution
    return chosen(layer.channels, layer.width, kernel_size=layer.size, stride=layer.stride, dimension=DIMENSION)


class _Attention(nn.Module):
    """ECA: the mean over a cloud's voxels, a convolution over channels, sigmoid, multiplied onto the voxels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.average = minkowski().MinkowskiGlobalPooling()
        size = abs(int((math.log2(channels) + 1) / 2))
        size += 1 - size % 2
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)
        self.multiply = minkowski().MinkowskiBroadcastMultiplication()

    def forward(self, x: Any) -> Any:
        mean = self.average(x)
        weights = torch.sigmoid(self.conv(mean.F[:, None])[:, 0])
        where = {"coordinate_map_key": mean.coordinate_map_key, "coordinate_manager": mean.coordinate_manager}
        return self.multiply(x, minkowski().SparseTensor(weights, **where))


class _GeM(nn.Module):
    """(mean over a cloud's voxels of max(x, eps)^p)^(1/p)."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), 3.0))
        self.average = minkowski().MinkowskiGlobalAvgPooling()

    def forward(self, x: Any) -> torch.Tensor:
        where = {"coordinate_map_key": x.coordinate_map_key, "coordinate_manager": x.coordinate_manager}
        powers = minkowski().SparseTensor(x.F.clamp(min=1e-6).pow(self.p), **where)
        return self.average(powers).F.pow(1.0 / self.p)


class _Block(nn.Module):
    """Two 3^3 convolutions with attention, and the shortcut."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        library = minkowski()
        self.conv1, self.norm1 = _conv(Layer("", "conv", 0, channels, width, 3)), library.MinkowskiBatchNorm(width)
        self.conv2, self.norm2 = _conv(Layer("", "conv", 0, width, width, 3)), library.MinkowskiBatchNorm(width)
        self.eca = _Attention(width)
        self.relu = library.MinkowskiReLU()
        self.downsample: nn.Module | None = None
        if channels != width:
            self.downsample = nn.Sequential(
                _conv(Layer("", "conv", 0, channels, width)), library.MinkowskiBatchNorm(width)
            )

    def forward(self, x: Any) -> Any:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.eca(self.norm2(self.conv2(x))) + shortcut)


class _Pyramid(nn.Module):
    """Stem, three stages of halved resolution, one step back up."""

    def __init__(self, planes: Sequence[int], width: int) -> None:
        super().__init__()
        library = minkowski()
        self.conv0, self.bn0 = _conv(Layer("", "conv", 0, 1, planes[0], 5)), library.MinkowskiBatchNorm(planes[0])
        self.relu = library.MinkowskiReLU()
        entries = [planes[0], *planes[:-1]]
        self.convs = nn.ModuleList(_conv(Layer("", "down", 0, entry, entry, 2)) for entry in entries)
        self.bns = nn.ModuleList(library.MinkowskiBatchNorm(entry) for entry in entries)
        pairs = zip(entries, planes, strict=True)
        self.blocks = nn.ModuleList(nn.Sequential(_Block(entry, plane)) for entry, plane in pairs)
        self.conv1x1s = nn.ModuleList(_conv(Layer("", "conv", 0, plane, width)) for plane in planes[:-3:-1])
        self.tconvs = nn.ModuleList([_conv(Layer("", "up", 0, width, width, 2))])

    def forward(self, x: Any) -> Any:
        x = self.relu(self.bn0(self.conv0(x)))
        stages = []
        for conv, norm, block in zip(self.convs, self.bns, self.blocks, strict=True):
            x = block(self.relu(norm(conv(x))))
            stages.append(x)
        return self.tconvs[0](self.conv1x1s[0](stages[-1])) + self.conv1x1s[1](stages[-2])


class NativeMinkLoc(nn.Module):
    """The default MinkLoc: {coords, features} -> {embedding ``[B, width]``}."""

    def __init__(self, planes: Sequence[int] = DEFAULT_PLANES, width: int = 128) -> None:
        super().__init__()
        self.backbone = _Pyramid(planes, width)
        self.pooling = nn.ModuleDict({"pooling": _GeM()})

    def forward(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """As ``distilplace.models.cloud.minkloc.MinkLoc``."""
        x = minkowski().SparseTensor(batch["features"], coordinates=batch["coords"])
        return {"embedding": self.pooling["pooling"](self.backbone(x))}


class NativeEngine(Engine):
    """MinkowskiEngine without anything of ours.

    Its CPU build pools a batch's clouds into each other's rows: the work
    is the same, the numbers can be compared for single clouds only.
    """

    name = NAME
    pools_batches = False

    def tensor(self, coords: torch.Tensor, features: torch.Tensor) -> Any:
        """See :class:`Engine`."""
        return minkowski().SparseTensor(features, coordinates=coords)

    def at(self, x: Any, level: int) -> tuple[torch.Tensor, Callable[[torch.Tensor], Any]]:
        """See :class:`Engine`."""
        manager, key = x.coordinate_manager, x.coordinate_map_key
        for _ in range(level):
            key = manager.stride(key, 2)
        where = {"coordinate_map_key": key, "coordinate_manager": manager}
        return manager.get_coordinates(key), lambda features: minkowski().SparseTensor(features, **where)

    def parts(self, x: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See :class:`Engine`."""
        return (x, None) if isinstance(x, torch.Tensor) else (x.F, x.C)

    def layer(self, layer: Layer) -> nn.Module:
        """See :class:`Engine`."""
        match layer.kind:
            case "norm":
                module: nn.Module = minkowski().MinkowskiBatchNorm(layer.width)
            case "eca":
                module = _Attention(layer.width)
            case "gem":
                module = _GeM()
            case _:
                module = _conv(layer)
        module.load_state_dict(own_layer(layer).state_dict())
        return module

    def trunk(self) -> nn.Module:
        """See :class:`Engine`."""
        network = NativeMinkLoc()
        network.load_state_dict(own_trunk().state_dict())
        return network
