"""Mining recomputed by loops and sets on small neighbourhoods, and on points one can draw."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.datasets.sampling.mining import (
    climbers,
    difficult_positives,
    hardest_negatives,
    k_reciprocal_distances,
    nearest,
    squared_distances,
)


def unit(seed, count, width=6):
    matrix = np.random.default_rng(seed).standard_normal((count, width))
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def test_distances_of_unit_vectors():
    left, right = unit(0, 4), unit(1, 7)
    slow = [[((a - b) ** 2).sum() for b in right] for a in left]
    np.testing.assert_allclose(squared_distances(left, right), slow)
    assert squared_distances(left.astype(np.float32), left.astype(np.float32)).min() >= 0


def test_nearest_breaks_ties_by_index():
    distances = np.array([0.5, 0.1, 0.5, 0.0, 0.1])
    assert nearest(distances, np.array([4, 2, 1, 0]), 3).tolist() == [1, 4, 0]
    assert nearest(distances, np.array([2, 3]), 9).tolist() == [3, 2]


def test_cached_negatives_compete_with_drawn_ones():
    distances = np.array([0.9, 0.8, 0.1, 0.4, 0.3, 0.7])
    assert hardest_negatives(distances, np.array([0, 1, 5]), np.array([4, 2, 1]), 3).tolist() == [2, 4, 5]
    assert hardest_negatives(distances, np.array([0, 1]), np.array([], dtype=np.int64), 3).tolist() == [1, 0]


def slow_reranking(distances, k1, k2, mix):
    """Zhong et al., equations 3 to 12, with sets."""
    n = len(distances)
    k1 = min(k1, n - 1)

    def ranked(i):
        return sorted(range(n), key=lambda j: (j != i, distances[i][j], j))

    def mutual(i, k):
        return {j for j in ranked(i)[: k + 1] if i in ranked(j)[: k + 1]}

    vectors = []
    for i in range(n):
        members = mutual(i, k1)
        enlarged = set(members)
        for candidate in members:
            half = mutual(candidate, round(k1 / 2))
            if 3 * len(half & members) > 2 * len(half):
                enlarged |= half
        largest = max(distances[i]) or 1.0
        weights = [np.exp(-distances[i][j] / largest) if j in enlarged else 0.0 for j in range(n)]
        vectors.append([w / sum(weights) for w in weights])
    vectors = [[np.mean([vectors[t][j] for t in ranked(i)[:k2]]) for j in range(n)] for i in range(n)]
    largest = max(distances[0]) or 1.0
    result = []
    for j in range(n):
        low = sum(min(a, b) for a, b in zip(vectors[0], vectors[j], strict=True))
        high = sum(max(a, b) for a, b in zip(vectors[0], vectors[j], strict=True))
        result.append((1 - mix) * (1 - low / high) + mix * distances[0][j] / largest)
    return result


@given(st.integers(1, 14), st.integers(0, 500), st.sampled_from([1, 3, 6, 20]), st.sampled_from([1, 3]), st.booleans())
@settings(max_examples=30, deadline=None)
def test_reranking_equals_the_definition_with_sets(count, seed, k1, k2, copies):
    points = unit(seed, count, 3)
    if copies:
        points = points[np.random.default_rng(seed).integers(0, count, count)]
    distances = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(
        k_reciprocal_distances(distances, k1, k2, 0.1), slow_reranking(distances.tolist(), k1, k2, 0.1), atol=1e-12
    )


def test_shared_neighbours_beat_plain_distance():
    # on a line: the anchor at 0 belongs to a cluster on its right; the lone point on its left is nearer but belongs to
    # another cluster further left
    line = np.array([0.0, 0.5, 0.7, 0.8, 0.9, -0.45, -0.6, -0.62, -0.64, -0.66])
    distances = (line[:, None] - line[None]) ** 2
    reranked = k_reciprocal_distances(distances, k1=4)
    assert distances[0, 5] < distances[0, 1]
    assert reranked[5] > reranked[1]
    features = np.column_stack([np.cos(line), np.sin(line)])
    pool = nearest(squared_distances(features, features)[0], np.array([1, 2, 5]), 3)
    assert pool.tolist() == [5, 1, 2]
    assert difficult_positives(0, pool, np.arange(10), features, 2, k1=4).tolist() == [1, 2]
    assert difficult_positives(0, pool, np.arange(10), features, 1, k1=4).tolist() == [1]


@pytest.mark.parametrize(
    ("reranked", "expected"),
    [
        ([0.1, 0.2, 0.3], [0, 1, 2]),  # nothing moves: the nearest first
        ([0.5, 0.4, 0.1, 0.6], [2, 1, 3]),  # 2 climbs two places, 1 stays, 3 stays, 0 falls
        ([0.9, 0.1, 0.2, 0.3], [1, 2, 3]),
        ([0.2, 0.2, 0.2], [0, 1, 2]),  # ties move nothing
        ([0.3], [0]),
    ],
)
def test_climbers(reranked, expected):
    assert climbers(np.array(reranked), 9).tolist() == expected
    assert climbers(np.array(reranked), 1).tolist() == expected[:1]


@pytest.mark.parametrize("seed", range(3))
def test_larger_neighbourhoods_are_enlarged_as_defined(seed):
    points = unit(seed, 24, 2)  # dense enough for members to bring in neighbours of theirs
    distances = squared_distances(points, points)
    np.testing.assert_allclose(
        k_reciprocal_distances(distances, 7), slow_reranking(distances.tolist(), 7, 1, 0.1), atol=1e-12
    )
