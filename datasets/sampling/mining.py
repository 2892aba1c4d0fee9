"""Which places a tuple is made of, chosen by the network's own embeddings (SFRS, ECCV 2020; WAKD, ICPR 2022).

GPS says only roughly what shows the same place, so the network chooses among what GPS admits: the positive nearest to
the anchor, the hardest of some random negatives, and difficult positives, which the neighbourhoods of anchor and
positive call alike though their embeddings do not.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]


def squared_distances(left: Floats, right: Floats) -> Floats:
    """Squared Euclidean distances ``[n, m]`` of unit vectors ``[n, D]`` and ``[m, D]``, at least 0."""
    return np.maximum(2.0 - 2.0 * (left @ right.T), 0.0)


def nearest(distances: Floats, items: Indices, count: int) -> Indices:
    """The ``count`` of ``items`` (all, where fewer) at the smallest of ``distances`` ``[n]``; ties by lower index."""
    items = np.sort(items)
    return items[np.argsort(distances[items], kind="stable")[:count]]


def hardest_negatives(distances: Floats, drawn: Indices, cached: Indices, count: int) -> Indices:
    """The negatives nearest to the anchor, hardest first: ``[count]``, or fewer where there are fewer.

    Args:
        distances: ``[n]`` of all items from the anchor.
        drawn: randomly drawn negatives.
        cached: the hardest of the anchor's last visit: a random draw rarely finds them again, so they compete on.
        count: how many are wanted.

    """
    return nearest(distances, np.union1d(drawn, cached), count)


def k_reciprocal_distances(distances: Floats, k1: int = 20, k2: int = 1, mix: float = 0.1) -> Floats:
    """Distances of the first item from all others after k-reciprocal re-ranking (Zhong et al., CVPR 2017): ``[n]``.

    R(i) are the items among i's k1 nearest that have i among theirs, enlarged by the R of half size of any member that
    shares more than two thirds of it. V(i) weighs R(i) by ``exp(-d)``, ``d`` scaled to a largest value of 1 per item,
    to a sum of 1, and is averaged over i's k2 nearest (k2 = 1: itself). The result is
    ``(1 - mix) * Jaccard(V(0), V(j)) + mix * d(0, j)`` with ``Jaccard = 1 - sum min / sum max``.

    Args:
        distances: squared distances ``[n, n]`` within the neighbourhood, the item of interest first.
        k1: neighbours that make R; clipped to n - 1.
        k2: neighbours averaged over; clipped to n.
        mix: share of the plain distance.

    """
    count = len(distances)
    distances = np.array(distances, dtype=np.float64)
    np.fill_diagonal(distances, -1.0)  # an item is its own nearest, also among copies
    order = np.argsort(distances, axis=1, kind="stable")
    np.fill_diagonal(distances, 0.0)
    k1 = min(k1, count - 1)
    members = _reciprocal(order, k1)
    halves = _reciprocal(order, round(k1 / 2)).astype(np.float64)
    shared = members.astype(np.float64) @ halves.T
    trusted = members & (shared > 2 / 3 * halves.sum(axis=1))
    members |= trusted.astype(np.float64) @ halves > 0
    largest = distances.max(axis=1, keepdims=True)
    scaled = distances / np.where(largest > 0, largest, 1.0)
    weights = np.where(members, np.exp(-scaled), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    weights = weights[order[:, : max(1, k2)]].mean(axis=1)
    common = np.minimum(weights[0], weights).sum(axis=1)
    return (1 - mix) * (1 - common / (2 - common)) + mix * scaled[0]


def _reciprocal(order: NDArray[np.intp], k: int) -> NDArray[np.bool_]:
    """Bool ``[n, n]``: is each among the other's ``k`` nearest? ``order`` ``[n, n]``: nearest first, itself leading."""
    near = np.zeros(order.shape, dtype=bool)
    np.put_along_axis(near, order[:, : k + 1], True, axis=1)
    near &= near.T
    return near


def climbers(reranked: Floats, count: int) -> Indices:
    """Difficult positives: at most ``count`` positions in a list that is ordered by distance, at least one.

    First those that re-ranking moves up, the largest move first; then those it leaves where they were. What it moves
    down is not trusted. ``reranked`` ``[n]``: the distances after re-ranking; ties keep their order.
    """
    before = np.arange(len(reranked))
    after = np.empty_like(before)
    after[np.argsort(reranked, kind="stable")] = before
    moves = before - after
    return np.argsort(-moves, kind="stable")[: min(count, np.count_nonzero(moves >= 0))]


def difficult_positives(
    anchor: int, pool: Indices, surroundings: Indices, features: Floats, count: int, k1: int = 20
) -> Indices:
    """At most ``count`` of the positives ``pool`` (nearest first): those that k-reciprocal re-ranking moves up.

    Ranks are compared within the pool. Neighbourhoods are looked for among anchor, pool and ``surroundings`` (the
    anchor's nearest items) instead of in the whole set, whose mutual distances would be too many (our reading).

    Args:
        anchor: its index.
        pool: indices of its positives, by distance; at least one.
        surroundings: indices of further items, which may hold pool members.
        features: unit vectors ``[n, D]`` of all items.
        count: how many are wanted.
        k1: neighbours that make a neighbourhood.

    """
    others = np.setdiff1d(surroundings, np.append(pool, anchor))
    members = features[np.concatenate([[anchor], pool, others])]
    reranked = k_reciprocal_distances(squared_distances(members, members), k1)
    return pool[climbers(reranked[1 : 1 + len(pool)], count)]
