"""Batches made of pairs (an anchor and one of its positives), counted by (seed, epoch, batch size)."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from distilplace.common.errors import UserError
from distilplace.common.randomness import generator
from distilplace.datasets.records import TrainingSet

LOG = logging.getLogger(__name__)
MIN_BATCH = 4  # two pairs: with one there is no negative
ATTEMPTS = 8

Pair = tuple[int, int]


class PlaceSampler(Sampler[list[int]], ABC):
    """What the trainer needs of a sampler: batches of indices, in rounds between which it may look at the network.

    ``state_dict`` and ``load_state_dict`` hold all that the batches to come depend on.
    """

    rounds = 1
    """Parts of an epoch; each begins with :meth:`begin_round`."""

    @abstractmethod
    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Choose the epoch; the first ``skip`` batches are left out (they were seen before an interruption)."""

    def begin_round(self, number: int, features: Callable[[], np.ndarray]) -> None:
        """Choose the round; ``features()`` gives unit embeddings float32 [n, D] of all items by the current network."""

    @abstractmethod
    def layout(self, count: int) -> dict[str, torch.Tensor]:
        """What the rows of a batch of ``count`` items are to each other."""

    def expand_batch(self) -> bool:
        """Enlarge the batch for the epochs to come, where the sampler can."""
        return False

    @property
    @abstractmethod
    def batches_per_epoch(self) -> int:
        """Batches of the whole current epoch, all rounds, skipped ones included."""

    @abstractmethod
    def __len__(self) -> int:
        """Batches that iterating will give."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and tensors."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as the sampler that gave ``state``."""


class ComposedSampler(PlaceSampler):
    """Base of samplers whose epochs depend on (seed, epoch, batch_size) alone: subclasses compose one whole epoch.

    After ``set_epoch(epoch, skip=n)`` the batches from the n-th on are those of the uninterrupted run.
    ``max_batches`` cuts the epoch short.
    """

    def __init__(
        self, training_set: TrainingSet, batch_size: int, *, seed: int, max_batches: int | None = None
    ) -> None:
        self.seed, self.batch_size, self.max_batches = seed, batch_size, max_batches
        self.epoch = self.skip = 0
        self.count = len(training_set)
        self._cached: tuple[tuple[int, int, int], list[list[int]]] | None = None

    @abstractmethod
    def _compose(self) -> list[list[int]]:
        """All batches of the current epoch."""

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Choose the epoch; the first ``skip`` batches are left out (they were seen before an interruption)."""
        self.epoch, self.skip = epoch, skip

    def layout(self, count: int) -> dict[str, torch.Tensor]:
        """``pairs`` int64 [P, 2]: rows (0, 1), (2, 3), ..."""
        return {"pairs": torch.arange(count).reshape(-1, 2)}

    def __iter__(self) -> Iterator[list[int]]:
        yield from [list(batch) for batch in self.batches()[self.skip :]]

    def __len__(self) -> int:
        """How many batches iterating will give: those of the epoch less the skipped ones."""
        return max(len(self.batches()) - self.skip, 0)

    @property
    def batches_per_epoch(self) -> int:
        """Batches of the current epoch, skipped ones included."""
        return len(self.batches())

    def batches(self) -> list[list[int]]:
        """All batches of the current epoch, skipped ones included."""
        key = (self.seed, self.epoch, self.batch_size)
        if self._cached is None or self._cached[0] != key:
            self._cached = (key, self._compose()[: self.max_batches])
        return self._cached[1]

    def state_dict(self) -> dict[str, Any]:
        """What the composition depends on, and where the epoch was entered."""
        return {"seed": self.seed, "epoch": self.epoch, "skip": self.skip, "batch_size": self.batch_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as the sampler that gave ``state``."""
        self.seed, self.batch_size = int(state["seed"]), int(state["batch_size"])
        self.set_epoch(int(state["epoch"]), int(state["skip"]))


class PairBatchSampler(ComposedSampler):
    """Index lists for a DataLoader's ``batch_sampler``.

    In every epoch: items 2i and 2i + 1 of a batch are positives of each other; no item is anchor (first of its pair)
    twice; batches have ``batch_size`` items, the last one an even number from 4 up, a shorter rest is left out; items
    without positives never appear. Where the training set says which are ``queries``, anchors are queries and their
    partners are not. An item whose positives are all taken is paired with one of them again, in another
    batch where that is possible.

    ``batch_size`` is raised to 4 and to an even number. ``expand_batch`` multiplies it by ``batch_expansion_rate``, up
    to ``batch_size_limit`` (dynamic batch sizing of MinkLoc3D).
    """

    def __init__(
        self,
        training_set: TrainingSet,
        batch_size: int,
        *,
        seed: int,
        batch_size_limit: int | None = None,
        batch_expansion_rate: float | None = None,
        max_batches: int | None = None,
    ) -> None:
        if batch_expansion_rate is not None:
            if batch_expansion_rate <= 1:
                raise UserError(f"batch expansion rate {batch_expansion_rate}: must be greater than 1")
            if batch_size_limit is None or batch_size_limit < batch_size:
                raise UserError(f"batch size limit {batch_size_limit}: must be at least the batch size {batch_size}")
        super().__init__(training_set, _usable_size(batch_size), seed=seed, max_batches=max_batches)
        self.positives = _partners(training_set)
        if self.batch_size != batch_size:
            LOG.warning("batch size %d raised to %d: batches consist of pairs", batch_size, self.batch_size)
        self.batch_size_limit = batch_size_limit
        self.batch_expansion_rate = batch_expansion_rate
        if not self.batches():
            paired = sum(len(row) > 0 for row in self.positives)
            raise UserError(
                f"the training set has {paired} items with a positive, too few for one batch of two pairs: "
                "use more data or a larger positive radius"
            )

    def expand_batch(self) -> bool:
        """Enlarge the batch for the epochs to come; False when no rate is set or the limit is reached."""
        if self.batch_expansion_rate is None or self.batch_size_limit is None:
            return False
        enlarged = max(_usable_size(int(self.batch_size * self.batch_expansion_rate)), self.batch_size + 2)
        enlarged = min(enlarged, self.batch_size_limit // 2 * 2)
        if enlarged <= self.batch_size:
            return False
        self.batch_size = enlarged
        return True

    def _compose(self) -> list[list[int]]:
        """The best of a few attempts: the first without an item twice in a batch, else the one with the fewest."""
        best: tuple[int, list[list[int]]] | None = None
        for attempt in range(ATTEMPTS):
            batches = self._attempt(generator(self.seed, self.epoch, self.batch_size, "pairs", attempt))
            repeats = sum(len(batch) - len(set(batch)) for batch in batches)
            if best is None or repeats < best[0]:
                best = (repeats, batches)
            if repeats == 0:
                break
        assert best is not None
        return best[1]

    def _attempt(self, rng: np.random.Generator) -> list[list[int]]:
        pairs = self._pairs(rng)
        pairs = [pairs[index] for index in rng.permutation(len(pairs))]
        half = self.batch_size // 2
        batches = [pairs[start : start + half] for start in range(0, len(pairs), half)]
        _separate_repeats(batches, self.positives)
        return [[item for pair in batch for item in pair] for batch in batches if 2 * len(batch) >= MIN_BATCH]

    def _pairs(self, rng: np.random.Generator) -> list[Pair]:
        """Every item with positives once: with a random unused positive, else with any of its positives again."""
        unused = np.ones(len(self.positives), dtype=bool)
        pairs: list[Pair] = []
        for anchor in rng.permutation(len(self.positives)).tolist():
            positives = self.positives[anchor]
            if not unused[anchor] or len(positives) == 0:
                continue
            unused[anchor] = False
            free = positives[unused[positives]]
            second = int(rng.choice(free if len(free) else positives))
            unused[second] = False
            pairs.append((anchor, second))
        return pairs


def _partners(training_set: TrainingSet) -> Sequence[np.ndarray]:
    """Per item whom it may be paired with as anchor: its positives; only those of the gallery where there is one."""
    if training_set.queries is None:
        return training_set.positives
    queries = np.zeros(len(training_set), dtype=bool)
    queries[training_set.queries] = True
    nobody = np.empty(0, dtype=np.int64)
    return [row[~queries[row]] if queries[i] else nobody for i, row in enumerate(training_set.positives)]


def _usable_size(batch_size: int) -> int:
    return max(MIN_BATCH, batch_size + batch_size % 2)


def _separate_repeats(batches: list[list[Pair]], positives: Sequence[np.ndarray]) -> None:
    """Exchange pairs that repeat an item of their batch for pairs of other batches, where that leaves no repeat."""
    for here, batch in enumerate(batches):
        if len({item for pair in batch for item in pair}) == 2 * len(batch):
            continue
        for slot in range(len(batch)):
            if _repeats(batch, slot, batch[slot]):
                _swap_away(batches, here, slot, positives)


def _swap_away(batches: list[list[Pair]], here: int, slot: int, positives: Sequence[np.ndarray]) -> None:
    anchor, partner = batches[here][slot]
    # Another partner is taken only when this one occurs elsewhere too, so that no item falls out of the epoch.
    again = any(partner in pair for index, pair in enumerate(batches[here]) if index != slot)
    partners = [partner, *positives[anchor].tolist()] if again else [partner]
    for there, other in enumerate(batches):
        if there == here:
            continue
        for position, candidate in enumerate(other):
            if _repeats(batches[here], slot, candidate):
                continue
            for second in partners:
                if not _repeats(other, position, (anchor, second)):
                    batches[here][slot], other[position] = candidate, (anchor, second)
                    return


def _repeats(batch: list[Pair], slot: int, pair: Pair) -> bool:
    """Would ``pair`` in place of ``batch[slot]`` repeat an item of the rest of the batch?"""
    return any(item in other for index, other in enumerate(batch) if index != slot for item in pair)
