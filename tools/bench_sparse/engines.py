"""The engines that ``tools.bench_sparse`` compares, behind one face, and the layers they are compared on.

Every engine gets the same weights: those of our layers, drawn from the layer's name.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from distilplace.common.randomness import forked_random_state
from distilplace.models import create_model
from distilplace.models.image.eca import ECALayer
from distilplace.models.sparse import GeM, SparseBatchNorm, SparseConv, SparseTensor, SparseTransposedConv


@dataclass(frozen=True)
class Layer:
    """One layer that reads level ``level`` (stride 2^level): ``channels`` in, ``width`` out, kernel ``size``."""

    name: str
    kind: str  # conv, down, up, norm, eca or gem
    level: int
    channels: int
    width: int
    size: int = 1

    @property
    def stride(self) -> int:
        """2 for the layers that change the level."""
        return 2 if self.kind in ("down", "up") else 1


# Each where the default trunk has it.
LAYERS = (
    Layer("5^3 1->32 at stride 1", "conv", 0, 1, 32, 5),
    Layer("3^3 32->32 at stride 2", "conv", 1, 32, 32, 3),
    Layer("3^3 64->64 at stride 4", "conv", 2, 64, 64, 3),
    Layer("2^3 stride 2, 32->32 at stride 1", "down", 0, 32, 32, 2),
    Layer("transposed 2^3 128->128 at stride 8", "up", 3, 128, 128, 2),
    Layer("1^3 64->128 at stride 4", "conv", 2, 64, 128, 1),
    Layer("batch norm 32 at stride 1", "norm", 0, 32, 32),
    Layer("ECA 32 at stride 2", "eca", 1, 32, 32),
    Layer("GeM 128 at stride 4", "gem", 2, 128, 128),
)
NARROW = 4
# The default trunk's kernel maps, each once, through layers so narrow that finding the pairs is what costs.
CHAIN = (
    Layer("5^3", "conv", 0, 1, NARROW, 5),
    *(
        Layer(f"{size}^3", kind, level, NARROW, NARROW, size)
        for stage in range(3)
        for kind, level, size in (("down", stage, 2), ("conv", stage + 1, 3))
    ),
    Layer("2^3", "up", 3, NARROW, NARROW, 2),
)


def own_layer(layer: Layer) -> nn.Module:
    """Our module for ``layer``, with the weights that every engine gets."""
    with forked_random_state("bench sparse", layer.name, layer.level):
        match layer.kind:
            case "conv" | "down":
                return SparseConv(layer.channels, layer.width, layer.size, layer.stride)
            case "up":
                return SparseTransposedConv(layer.channels, layer.width)
            case "norm":
                return SparseBatchNorm(layer.width)
            case "eca":
                return ECALayer(layer.width)
            case _:
                return GeM()


def own_trunk(backend: str = "auto") -> nn.Module:
    """The default MinkLoc with the weights that every engine gets."""
    with forked_random_state("bench sparse", "trunk"):
        return create_model("minkloc", sparse_backend=backend)


class Engine(ABC):
    """One competitor. ``pools_batches``: its reductions per cloud are right for batches of more than one too."""

    name: str
    pools_batches: bool = True

    @abstractmethod
    def tensor(self, coords: torch.Tensor, features: torch.Tensor) -> Any:
        """A sparse tensor of the engine's own from int32 ``[N, 4]`` and ``[N, C]``, nothing built before."""

    @abstractmethod
    def at(self, x: Any, level: int) -> tuple[torch.Tensor, Callable[[torch.Tensor], Any]]:
        """Coordinates int32 ``[M, 4]`` of a level of x, and what makes a tensor there of features ``[M, C]``."""

    @abstractmethod
    def parts(self, x: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Features and coordinates of a layer's result; None where it has a row per cloud."""

    @abstractmethod
    def layer(self, layer: Layer) -> nn.Module:
        """The engine's module for ``layer``."""

    @abstractmethod
    def trunk(self) -> nn.Module:
        """The default MinkLoc: {coords, features} -> {embedding}."""

    def chain(self) -> nn.Module:
        """The layers that need every kernel map of the trunk."""
        return nn.Sequential(*(self.layer(layer) for layer in CHAIN))


class OwnEngine(Engine):
    """An engine of ``distilplace.models.sparse.backends`` under our layers."""

    def __init__(self, name: str) -> None:
        self.name = name

    def tensor(self, coords: torch.Tensor, features: torch.Tensor) -> SparseTensor:
        """See :class:`Engine`."""
        return SparseTensor(features, coords, backend=self.name)

    def at(self, x: SparseTensor, level: int) -> tuple[torch.Tensor, Callable[[torch.Tensor], SparseTensor]]:
        """See :class:`Engine`."""
        return x.manager.coordinates(level), lambda features: x.with_features(features, level)

    def parts(self, x: SparseTensor | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See :class:`Engine`."""
        return (x, None) if isinstance(x, torch.Tensor) else (x.features, x.coordinates)

    def layer(self, layer: Layer) -> nn.Module:
        """See :class:`Engine`."""
        return own_layer(layer)

    def trunk(self) -> nn.Module:
        """See :class:`Engine`."""
        return own_trunk(self.name)
