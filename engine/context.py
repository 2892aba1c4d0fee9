"""What all parts of a command share: its options, an open data set, the device with its precision."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from distilplace.datasets.base import PlaceData
from distilplace.datasets.loading import RATES, evaluation_loader
from distilplace.datasets.records import PlaceRecord
from distilplace.engine.building import build_data, build_fabric, quantizer_for
from distilplace.engine.caches.fingerprint import Augmented
from distilplace.engine.maps import map_builder
from distilplace.engine.options import EvaluateOptions, TrainOptions

Chosen = TypeVar("Chosen", bound=TrainOptions | EvaluateOptions, covariant=True)
Batch = dict[str, Any]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors, and kernel maps if it has any, on a device.

    Images lie there channels last: convolutions take over the layout of what they read, and are faster in it (a step of
    ResNet18 on a CPU by a fifth).
    """
    moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    images = moved.get("images")
    if isinstance(images, Tensor) and images.dim() == 4:
        moved["images"] = images.contiguous(memory_format=torch.channels_last)
    if "maps" in batch and device.type != "cpu":
        moved["maps"] = tuple(each.to(device, non_blocking=True) for each in batch["maps"])
    return moved


@dataclass(frozen=True)
class Context(Generic[Chosen]):
    """Options (batch sizes, workers, seed, ...), data set, device and precision (Lightning Fabric)."""

    options: Chosen
    data: PlaceData
    fabric: Any
    scales: tuple[float, ...] = (1.0,)
    """Sizes at which every image is described; the descriptors are averaged."""

    @classmethod
    def open(cls, options: Chosen) -> "Context[Chosen]":  # type: ignore[misc]
        """The training data set and the device that the options name; :class:`UserError` where one is absent."""
        return cls(options, build_data(options), build_fabric(options))

    def testing(self, data: PlaceData) -> "Context[Chosen]":
        """The same with a test set, whose images are described at all ``--scales``."""
        return replace(self, data=data, scales=tuple(self.options.scales))

    @property
    def device(self) -> torch.device:
        """Where networks run."""
        found: torch.device = self.fabric.device
        return found

    def move(self, batch: Batch) -> Batch:
        """The batch on the device."""
        return to_device(batch, self.device)

    def loader(
        self,
        network: nn.Module,
        records: Sequence[PlaceRecord],
        batch_size: int | None = None,
        augmented: Augmented | None = None,
    ) -> Any:
        """Batches for a network of places in their order, ``--val_batch_size`` where no size is given, not moved."""
        requires: tuple[str, ...] = network.requires  # type: ignore[assignment]
        size = batch_size or self.options.val_batch_size
        seed, rates, view = augmented or (None, RATES, 0)
        return evaluation_loader(
            self.data,
            records,
            wants=requires,
            quantize=quantizer_for(requires),
            batch_size=size,
            num_workers=self.options.num_workers,
            augment_seed=seed,
            rates=rates,
            view=view,
            finish=map_builder(self.options, [network], size, self.device),
        )

    def sample(self, records: Sequence[PlaceRecord], wants: Collection[str]) -> Batch:
        """One clean batch of these places with all keys in ``wants``, on the device."""
        how: dict[str, Any] = {"batch_size": len(records), "num_workers": 0, "one_size": True}
        loader = evaluation_loader(self.data, records, wants=wants, quantize=quantizer_for(wants), **how)
        return self.move(next(iter(loader)))
