"""Where teacher outputs come from: a frozen live network, or a store on disk. The training loop cannot tell which."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from distilplace.common.errors import UserError
from distilplace.common.randomness import generator
from distilplace.common.tensor_files import content_hash
from distilplace.engine.step import forward_with_maps
from distilplace.models import PlaceNetwork


class Frozen(nn.Module):
    """A network that stays in eval mode and gets no gradient, whatever ``train()`` is called on its parents."""

    def __init__(self, network: nn.Module, feature_maps: Sequence[str] = ()) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.feature_maps = tuple(feature_maps)

    def train(self, mode: bool = True) -> "Frozen":
        """Keep eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Outputs of the frozen network, float32, with the feature maps it was made for."""
        return forward_with_maps(self.network, batch, self.feature_maps)


class TeacherSource(Protocol):
    """One teacher. ``requires``: the batch keys that must be loaded for it (none for a store)."""

    requires: tuple[str, ...]
    network: Frozen | None
    """What runs in every step; None for a store."""

    def outputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Teacher outputs for the places of the batch: ``embedding [B, D]``, ... without gradient."""
        ...

    def digest(self) -> str:
        """Hash of what its outputs come from: a network's weights, or a store's tables."""
        ...


class LiveTeacher:
    """Runs the teacher on the very (augmented) samples that the student sees."""

    def __init__(self, network: PlaceNetwork, feature_maps: Sequence[str] = ()) -> None:
        self.requires = network.requires
        self.network: Frozen | None = Frozen(network, feature_maps)
        self._frozen = self.network

    def outputs(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Embeddings, and feature maps if any are wanted, of the batch's places."""
        outputs: dict[str, Any] = self._frozen(batch)
        return outputs

    def digest(self) -> str:
        """Hash of its weights."""
        return content_hash(self._frozen.network.state_dict())


class StoredTeacher:
    """Looks up embeddings that were computed once, by place key."""

    requires: tuple[str, ...] = ()
    network: Frozen | None = None

    def __init__(
        self, tables: dict[str, Tensor], keys: list[str], where: Path, facts: dict[str, str] | None = None
    ) -> None:
        self._tables = tables
        self._rows = {key: row for row, key in enumerate(keys)}
        self._where = where
        self.facts = facts or {}

    def outputs(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Embeddings of the batch's places, on the device of the batch's tensors."""
        try:
            rows = torch.tensor([self._rows[key] for key in batch["keys"]])
        except KeyError as error:
            raise UserError(
                f"teacher store {self._where} has no place {error}; rebuild it with --rebuild_store"
            ) from None
        device = next((value.device for value in batch.values() if isinstance(value, Tensor)), torch.device("cpu"))
        return {name: table[rows].to(device) for name, table in self._tables.items()}

    def digest(self) -> str:
        """Hash of its tables."""
        return content_hash(self._tables)

    @property
    def keys(self) -> Collection[str]:
        """The places that it has outputs of."""
        return self._rows.keys()

    def shuffled(self, seed: int) -> "StoredTeacher":
        """Control: the same outputs, each handed to another place (a permutation without fixed points)."""
        count = len(self._rows)
        order = generator("shuffled teacher", seed).permutation(count)
        handed = torch.empty(count, dtype=torch.long)
        handed[torch.as_tensor(order)] = torch.as_tensor(order).roll(1)
        keys = sorted(self._rows, key=self._rows.__getitem__)
        return StoredTeacher(
            {name: table[handed] for name, table in self._tables.items()}, keys, self._where, self.facts
        )
