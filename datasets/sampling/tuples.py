"""Batches made of tuples, mined again every round from what the network then sees (SFRS, WAKD)."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distilplace.common.errors import UserError
from distilplace.common.randomness import generator
from distilplace.datasets.records import TrainingSet
from distilplace.datasets.sampling.batches import PlaceSampler
from distilplace.datasets.sampling.mining import difficult_positives, hardest_negatives, nearest, squared_distances

LOG = logging.getLogger(__name__)
SURROUNDINGS = 100  # an anchor's nearest gallery items, among which re-ranking looks for shared neighbours
ANCHORS_AT_ONCE = 64
NOTHING = -1  # fills the cache where an anchor has no negatives yet

Indices = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]


class TupleBatchSampler(PlaceSampler):
    """Index lists for a DataLoader's ``batch_sampler``: ``tuple_size`` tuples a batch, fewer in an epoch's last.

    A tuple is an anchor, its nearest positive, ``neg_num`` hard negatives and ``pos_num`` difficult positives (lists
    that come out shorter are filled up with their first). Anchors are the training set's queries, the others its
    gallery; without that division every item is both. Negatives lie outside the anchor's non-negatives; anchors without
    a positive or a negative in the gallery never appear.

    Every anchor appears once an epoch, in rounds of ``cache_size`` anchors (rounded down to whole batches) whose tuples
    :meth:`begin_round` mines: negatives are the nearest of ``neg_pool`` randomly drawn ones and the anchor's last
    ``neg_num``; difficult positives come from the ``pos_pool`` nearest (:mod:`distilplace.datasets.sampling.mining`).
    ``max_batches`` cuts the epoch short. Draws depend on (seed, epoch, anchor) alone.
    """

    def __init__(
        self,
        training_set: TrainingSet,
        tuple_size: int,
        *,
        pos_num: int = 3,
        pos_pool: int = 20,
        neg_num: int = 3,
        neg_pool: int = 1000,
        cache_size: int = 1000,
        seed: int,
        max_batches: int | None = None,
    ) -> None:
        for name, value, least in (
            ("tuple_size", tuple_size, 1),
            ("pos_num", pos_num, 0),
            ("pos_pool", pos_pool, 1),
            ("neg_num", neg_num, 1),
            ("neg_pool", neg_pool, 1),
            ("cache_size", cache_size, 1),
        ):
            if value < least:
                raise UserError(f"--{name} {value}: must be at least {least}")
        self.training_set = training_set
        self.tuple_size = tuple_size
        self.pos_num, self.pos_pool = pos_num, pos_pool
        self.neg_num, self.neg_pool = neg_num, neg_pool
        self.seed = seed
        self.max_batches = max_batches
        self.epoch = self.skip = self.round = 0
        self._batches_per_round = max(1, cache_size // tuple_size)
        self._find_anchors()
        self._cache = np.full((len(training_set), neg_num), NOTHING)
        self._tuples = np.empty((0, 2 + neg_num + pos_num), dtype=np.int64)
        self._mined = (NOTHING, NOTHING)  # epoch and round that the tuples belong to

    def _find_anchors(self) -> None:
        training = self.training_set
        queries = np.arange(len(training)) if training.queries is None else training.queries
        self._gallery = np.ones(len(training), dtype=bool)
        if training.queries is not None:
            self._gallery[training.queries] = False
        self._anchors = np.array([item for item in queries.tolist() if self._is_usable(item)], dtype=np.int64)
        if not len(self._anchors):
            raise UserError(
                f"none of the training set's {len(queries)} queries has both a positive and a negative in its gallery "
                f"of {int(self._gallery.sum())} items: use more data or other radii"
            )
        if len(self._anchors) < len(queries):
            LOG.info("%d queries without a positive or a negative are left out", len(queries) - len(self._anchors))

    def _is_usable(self, item: int) -> bool:
        has_positive = bool(self._gallery[self.training_set.positives[item]].any())
        return has_positive and len(self._negatives(item)) > 0

    @property
    def batch_size(self) -> int:
        """Items in a full batch."""
        return self.tuple_size * self._tuples.shape[1]

    @property
    def rounds(self) -> int:  # type: ignore[override]
        """Parts of an epoch."""
        return -(-self.batches_per_epoch // self._batches_per_round)

    @property
    def batches_per_epoch(self) -> int:
        """Batches of all rounds together."""
        batches = -(-len(self._anchors) // self.tuple_size)
        return batches if self.max_batches is None else min(batches, self.max_batches)

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Choose the epoch; the first ``skip`` batches, counted over its rounds, are left out.

        Rounds that lie before them are empty, and :meth:`begin_round` needs no features for them.
        """
        self.epoch, self.skip, self.round = epoch, skip, 0

    def begin_round(self, number: int, features: Callable[[], np.ndarray]) -> None:
        """Choose the round and mine its tuples, unless they are known from an interrupted run or all skipped.

        Args:
            number: 0 to ``rounds - 1``.
            features: gives the embeddings of **all** training items by the current network: float32 ``[n, D]``, unit
                rows.

        """
        if not 0 <= number < self.rounds:
            raise ValueError(f"round {number} of {self.rounds}")
        self.round = number
        if len(self) == 0 or (self._skipped() and self._mined == (self.epoch, number)):
            return
        embeddings = features()
        if embeddings.shape[:1] != (len(self.training_set),):
            raise ValueError(f"features {embeddings.shape} do not fit {len(self.training_set)} training items")
        if not np.isfinite(embeddings).all():
            raise UserError("embeddings of the training set are not finite: the model has diverged; lower --image_lr")
        self._tuples = self._mine(self._anchors_of_round(), embeddings)
        self._mined = (self.epoch, number)

    def __iter__(self) -> Iterator[list[int]]:
        if len(self) and self._mined != (self.epoch, self.round):
            raise RuntimeError(f"epoch {self.epoch}, round {self.round}: begin_round has not been called")
        start = self._skipped()
        for batch in range(start, start + len(self)):
            yield self._tuples[batch * self.tuple_size : (batch + 1) * self.tuple_size].ravel().tolist()

    def __len__(self) -> int:
        """How many batches iterating will give: those of the round less the skipped ones."""
        first = self.round * self._batches_per_round
        count = min(self._batches_per_round, self.batches_per_epoch - first)
        return max(count - self._skipped(), 0)

    def _skipped(self) -> int:
        """Skipped batches that belong to the current round, or more if it lies wholly before."""
        return max(self.skip - self.round * self._batches_per_round, 0)

    def layout(self, count: int) -> dict[str, torch.Tensor]:
        """Rows of a batch of ``count`` items: ``tuples`` int64 ``[T, 2 + neg_num]`` (anchor, positive, negatives).

        ``difficult_positives`` is int64 ``[T, pos_num]``.
        """
        rows = torch.arange(count).reshape(-1, self._tuples.shape[1])
        return {"tuples": rows[:, : 2 + self.neg_num], "difficult_positives": rows[:, 2 + self.neg_num :]}

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch was entered, the tuples of the round and the cached negatives."""
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "skip": self.skip,
            "round": self.round,
            "mined": list(self._mined),
            "tuples": torch.from_numpy(self._tuples.copy()),
            "cache": torch.from_numpy(self._cache.copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as the sampler that gave ``state``; ValueError when it sampled other tuples or another set."""
        tuples, cache = state["tuples"].numpy().copy(), state["cache"].numpy().copy()
        if tuples.shape[1] != self._tuples.shape[1] or cache.shape != self._cache.shape:
            raise ValueError(
                f"tuples of {tuples.shape[1]} out of {len(cache)} items, where this sampler makes tuples of "
                f"{self._tuples.shape[1]} out of {len(self._cache)}"
            )
        self.seed = int(state["seed"])
        self.set_epoch(int(state["epoch"]), int(state["skip"]))
        self.round = int(state["round"])
        self._mined = (int(state["mined"][0]), int(state["mined"][1]))
        self._tuples, self._cache = tuples, cache

    def _anchors_of_round(self) -> Indices:
        order = generator(self.seed, self.epoch, "tuples").permutation(self._anchors)
        first = self.round * self._batches_per_round
        last = min(first + self._batches_per_round, self.batches_per_epoch)
        return order[first * self.tuple_size : last * self.tuple_size]

    def _mine(self, anchors: Indices, features: Floats) -> Indices:
        tuples = []
        for start in range(0, len(anchors), ANCHORS_AT_ONCE):
            block = anchors[start : start + ANCHORS_AT_ONCE]
            distances = squared_distances(features[block], features)
            tuples += [self._tuple(a, row, features) for a, row in zip(block.tolist(), distances, strict=True)]
        return np.stack(tuples)

    def _tuple(self, anchor: int, distances: Floats, features: Floats) -> Indices:
        positives = self.training_set.positives[anchor]
        pool = nearest(distances, positives[self._gallery[positives]], self.pos_pool)
        cached = self._cache[anchor]
        drawn = self._draw(anchor)
        negatives = _filled(hardest_negatives(distances, drawn, cached[cached != NOTHING], self.neg_num), self.neg_num)
        self._cache[anchor] = negatives
        parts: list[Indices] = [np.array([anchor]), pool[:1], negatives]
        if self.pos_num:
            others = np.flatnonzero(self._gallery)
            surroundings = nearest(distances, others, SURROUNDINGS)
            hard = difficult_positives(anchor, pool, surroundings, features, self.pos_num)
            parts.append(_filled(hard, self.pos_num))
        return np.concatenate(parts)

    def _draw(self, anchor: int) -> Indices:
        """Random negatives, counted by (seed, epoch, anchor)."""
        negatives = self._negatives(anchor)
        if len(negatives) <= self.neg_pool:
            return negatives
        random = generator(self.seed, self.epoch, "negatives", anchor)
        return random.choice(negatives, self.neg_pool, replace=False)

    def _negatives(self, anchor: int) -> Indices:
        """Gallery items outside the anchor's non-negatives."""
        allowed = self._gallery.copy()
        allowed[self.training_set.non_negatives[anchor]] = False
        allowed[anchor] = False
        return np.flatnonzero(allowed)


def _filled(items: Indices, count: int) -> Indices:
    """``items`` followed by its first as often as ``count`` needs."""
    return np.concatenate([items, np.full(count - len(items), items[0])])
