"""Training in generations (SFRS, Ge et al., ECCV 2020): each starts again, distilled from the one before.

Generation 0 is one epoch, the others have ``--epochs`` each. At the start of a generation the network so far is frozen
and kept as ``previous``; network, losses, optimiser and schedule go back to where they began. With ``--generations 1``,
the default, there is one generation of ``--epochs`` and nothing is ever kept.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from distilplace.engine.teachers.sources import Frozen
from distilplace.models import PlaceNetwork


class Generations:
    """Which generation an epoch belongs to, and the network that the previous one left.

    Args:
        count: how many generations.
        epochs: epochs of every generation but the first (of the only one, where there is one).
        network: the network that learns.
        parts: everything that begins again, by name; the network is one of them.
        feature_maps: what is asked of the previous network beside its embedding.

    """

    def __init__(
        self, count: int, epochs: int, network: PlaceNetwork, parts: Mapping[str, Any], feature_maps: Sequence[str]
    ) -> None:
        self.count, self.epochs = count, epochs
        self._network, self._parts, self._feature_maps = network, parts, tuple(feature_maps)
        self._start = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()} if count > 1 else {}
        self._previous: Frozen | None = None

    @property
    def total(self) -> int:
        """Epochs of all generations together."""
        return self.epochs if self.count == 1 else 1 + (self.count - 1) * self.epochs

    def number(self, epoch: int) -> int:
        """The generation of an epoch, both from 0."""
        return 0 if self.count == 1 or epoch == 0 else 1 + (epoch - 1) // max(self.epochs, 1)

    def begin_epoch(self, epoch: int) -> bool:
        """Start a new generation if ``epoch`` is its first; True if so."""
        if self.count == 1 or epoch == 0 or self.number(epoch) == self.number(epoch - 1):
            return False
        self._previous = Frozen(copy.deepcopy(self._network), self._feature_maps)
        for name, part in self._parts.items():
            part.load_state_dict(copy.deepcopy(self._start[name]))
        return True

    def entries(self, epoch: int, batch: dict[str, Any]) -> dict[str, Any]:
        """What a batch says of generations: ``generation``, and ``previous``, that network's output or None."""
        previous = None if self._previous is None else self._previous(batch)
        return {"generation": self.number(epoch), "previous": previous}

    def state_dict(self) -> dict[str, Any]:
        """The start and the previous network; empty with one generation."""
        if self.count == 1:
            return {}
        previous = {} if self._previous is None else self._previous.network.state_dict()
        return {"start": self._start, "previous": previous}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as the one that gave ``state``."""
        if self.count == 1:
            return
        self._start = state["start"]
        if state["previous"]:
            network = copy.deepcopy(self._network)
            network.load_state_dict(state["previous"])
            self._previous = Frozen(network, self._feature_maps)
