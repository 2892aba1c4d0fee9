"""Masks against slow loops; radius relations against all distances."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.datasets.records import PlaceRecord, TrainingSet, distinct
from distilplace.datasets.relations import neighbours_within, training_relations, true_neighbours


def slow_masks(training: TrainingSet, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    positives = [[j != i and j in training.positives[i].tolist() for j in indices] for i in indices]
    negatives = [[j != i and j not in training.non_negatives[i].tolist() for j in indices] for i in indices]
    return torch.tensor(positives), torch.tensor(negatives)


@settings(deadline=None)
@given(
    places=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=25),
    seed=st.integers(0, 1000),
    size=st.integers(1, 30),
)
def test_masks_equal_the_slow_loop(places, seed, size):
    positions = np.array(places, dtype=np.float64)
    records = [PlaceRecord(str(i), "r", None, (), *place) for i, place in enumerate(positions.tolist())]
    training = TrainingSet(records, *training_relations(positions, 10.0, 30.0))
    indices = np.random.default_rng(seed).integers(0, len(records), size).tolist()  # with repeats
    positive, negative = training.masks(indices)
    expected = slow_masks(training, indices)
    assert positive.dtype == negative.dtype == torch.bool
    assert torch.equal(positive, expected[0])
    assert torch.equal(negative, expected[1])
    assert not (positive & negative).any()
    same = torch.tensor(indices)[:, None] == torch.tensor(indices)[None]
    assert not (positive | negative)[same].any()


def test_an_item_is_neither_to_itself_whatever_the_lists_say():
    records = [PlaceRecord(str(i), "r", None, (), 0.0, 0.0) for i in range(2)]
    own = TrainingSet(records, [np.array([0]), np.array([1])], [np.array([0]), np.array([1])])
    none = TrainingSet(records, [np.array([], dtype=np.int64)] * 2, [np.array([], dtype=np.int64)] * 2)
    for training in (own, none):
        positive, negative = training.masks([0, 1, 0])
        assert not positive.any()
        assert negative.tolist() == [[False, True, False], [True, False, True], [False, True, False]]


def test_masks_equal_the_golden_ones(golden):
    for case in golden("j_sampler.pt").values():
        n = len(case["positives"])
        records = [PlaceRecord(str(i), "r", None, (), *case["positions"][i].tolist()) for i in range(n)]
        lists = [[case[name][i].numpy() for i in range(n)] for name in ("positives", "non_negatives")]
        positive, negative = TrainingSet(records, *lists).masks(case["epoch1"][0])
        assert torch.equal(positive, case["first_batch_positives_mask"])
        assert torch.equal(negative, case["first_batch_negatives_mask"])


def test_relations_equal_the_golden_ones(golden):
    for case in golden("j_sampler.pt").values():
        positions = case["positions"].numpy()
        positives, non_negatives = training_relations(positions, 10.0, 50.0)
        for i in range(len(positions)):
            np.testing.assert_array_equal(positives[i], case["positives"][i])
            np.testing.assert_array_equal(non_negatives[i], case["non_negatives"][i])


@settings(deadline=None)
@given(
    queries=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=12),
    database=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=12),
)
def test_neighbours_equal_all_distances_boundary_included(queries, database):
    """Integer positions and a 3-4-5 radius: many pairs lie exactly on the boundary; the offsets are Oxford's."""
    origin = np.array([5735712.0, 620084.0])
    one, other = (np.array(places, dtype=np.float64).reshape(-1, 2) + origin for places in (queries, database))
    found = neighbours_within(one, other, 25.0)
    assert len(found) == len(queries)
    for place, row in zip(one, found, strict=True):
        expected = [j for j, q in enumerate(other) if ((place - q) ** 2).sum() <= 625.0]
        assert row.tolist() == expected
        assert row.dtype == np.int64


def test_utm_positions_are_compared_in_float64():
    """In float32 a northing of 5.7e6 m has steps of half a metre."""
    query, database = np.array([[5735712.0, 0.0]]), np.array([[5735736.9, 0.0], [5735737.2, 0.0]])
    assert neighbours_within(query, database, 25.0)[0].tolist() == [0]


def test_radii_must_be_ordered():
    for radii in ((0.0, 1.0), (3.0, 2.0)):
        with pytest.raises(ValueError, match="radii"):
            training_relations(np.zeros((2, 2)), *radii)


def _places(run: str, northings: list[float]) -> list[PlaceRecord]:
    return [PlaceRecord(f"{run}/{i}", run, None, (), north, 0.0) for i, north in enumerate(northings)]


def test_true_neighbours_have_upstreams_structure():
    database = [_places("a", [0, 20, 40]), _places("b", [25, 100]), []]
    queries = [_places("a", [0]), _places("b", [45.0]), _places("c", [500])]
    assert true_neighbours(database, queries, 25.0) == [
        {0: {"query": "a/0", "northing": 0, "easting": 0.0, 1: [0], 2: []}},
        {0: {"query": "b/0", "northing": 45.0, "easting": 0.0, 0: [1, 2], 2: []}},
        {0: {"query": "c/0", "northing": 500, "easting": 0.0, 0: [], 1: []}},
    ]


def test_distinct_keeps_the_first_of_each_key():
    first, other = _places("a", [0, 1])
    copy = PlaceRecord(first.key, "elsewhere", None, (), 9.0, 9.0)
    assert distinct([first, other, copy, first]) == [first, other]
