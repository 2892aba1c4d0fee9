"""Batches without mined relations: single items, two views of each item, one random pair of every landmark."""

import numpy as np
import torch

from distilplace.common.errors import UserError
from distilplace.common.randomness import generator
from distilplace.datasets.records import TrainingSet
from distilplace.datasets.sampling.batches import ComposedSampler


class _SizedSampler(ComposedSampler):
    """Base: the training set must hold two of what batches are made of."""

    what = "items"

    def __init__(
        self, training_set: TrainingSet, batch_size: int, *, seed: int, max_batches: int | None = None
    ) -> None:
        super().__init__(training_set, batch_size, seed=seed, max_batches=max_batches)
        if (found := self._available(training_set)) < 2:
            raise UserError(f"the training set has {found} {self.what}, too few for a batch: add data")

    def _available(self, training_set: TrainingSet) -> int:
        return self.count

    def _paired(self, pairs: np.ndarray) -> list[list[int]]:
        """Pairs int64 [P, 2] as flat lists of ``batch_size`` images; a rest of a single pair has no negative."""
        half = max(self.batch_size // 2, 2)
        parts = [pairs[start : start + half] for start in range(0, len(pairs), half)]
        return [part.reshape(-1).tolist() for part in parts if len(part) > 1]


class ItemBatchSampler(_SizedSampler):
    """Every item once an epoch, in batches of ``batch_size``; the last one may be smaller, a single item is omitted.

    For regression: batch norm needs two items.
    """

    def layout(self, count: int) -> dict[str, torch.Tensor]:
        """Nothing: the items stand alone."""
        return {}

    def _compose(self) -> list[list[int]]:
        order = generator(self.seed, self.epoch, self.batch_size, "items").permutation(self.count).tolist()
        batches = [order[start : start + self.batch_size] for start in range(0, self.count, self.batch_size)]
        return [batch for batch in batches if len(batch) > 1]


class ViewBatchSampler(_SizedSampler):
    """Every item twice, side by side, in two views (index i and i + n, see ``datasets.loading.PlaceItems``)."""

    def _compose(self) -> list[list[int]]:
        order = generator(self.seed, self.epoch, self.batch_size, "views").permutation(self.count)
        return self._paired(np.column_stack([order, order + self.count]))


class GroupPairSampler(_SizedSampler):
    """Every group of two items or more once an epoch, by a random pair of it (Whiten-MTD on Google Landmarks v2)."""

    what = "groups of two items or more (landmarks)"

    def _available(self, training_set: TrainingSet) -> int:
        if training_set.groups is None:
            raise UserError("this data set does not say which landmark an image shows: use --batches pairs")
        self._order = np.argsort(training_set.groups, kind="stable")
        _, starts, counts = np.unique(training_set.groups[self._order], return_index=True, return_counts=True)
        self._starts, self._counts = starts[counts > 1], counts[counts > 1]
        return len(self._starts)

    def _compose(self) -> list[list[int]]:
        rng = generator(self.seed, self.epoch, self.batch_size, "groups")
        first = rng.integers(self._counts)
        second = (first + 1 + rng.integers(self._counts - 1)) % self._counts
        pairs = np.column_stack([self._order[self._starts + first], self._order[self._starts + second]])
        return self._paired(pairs[rng.permutation(len(pairs))])
