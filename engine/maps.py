"""Kernel maps built where batches are loaded (``--sparse_maps workers``), so that the device only multiplies."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from distilplace.engine.options import ModelOptions
from distilplace.engine.step import split_batch
from distilplace.models import PlaceNetwork

Batch = dict[str, Any]


@dataclass(frozen=True)
class MapBuilder:
    """Adds ``maps`` to a batch: a coordinate manager with all kernel maps for every part of at most ``size`` places."""

    manager: type[Any]
    wanted: frozenset[tuple[int, int, int, int]]
    size: int

    def __call__(self, batch: Batch) -> Batch:
        """The batch, with ``maps`` where it holds clouds."""
        if "coords" in batch:
            batch["maps"] = tuple(self._build(part) for part in split_batch(batch, self.size))
        return batch

    def _build(self, part: Batch) -> Any:
        manager = self.manager(part["coords"], batch_size=len(part["keys"]))
        for settings in sorted(self.wanted):
            manager.kernel_map(*settings)
        return manager


def map_builder(
    options: ModelOptions, networks: Iterable[nn.Module], size: int, device: Any
) -> Callable[[Batch], Batch] | None:
    """What a loader does with each batch for these networks; None where maps are built on the device.

    Raises:
        UserError: the chosen sparse engine builds its maps itself.

    """
    parts = [part for network in networks for part in network.modules() if isinstance(part, PlaceNetwork)]
    wanted = [settings for part in parts for settings in part.kernel_maps()]
    if options.sparse_maps == "device" or not wanted:
        return None
    from distilplace.models.sparse.backends import choose_map_maker

    return MapBuilder(choose_map_maker(options.sparse_backend, device), frozenset(wanted), size)
