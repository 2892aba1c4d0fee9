"""Quantisation against MinkowskiEngine's (golden c) and against a dictionary filled point by point."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.common.errors import UserError
from distilplace.models.sparse import batched_coordinates, quantize
from tests.goldens import is_recorded

ALL_CASES = ("street", "negatives", "multiples_of_0.01", "many_duplicates", "boreas_metres_q1", "zeros_block")
CASES = [name for name in ALL_CASES if is_recorded("c_quantisation.pt", name)]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_golden(golden, name, kind):
    case = golden("c_quantisation.pt")[name]
    points = case["points"].numpy() if kind == "numpy" else case["points"]
    coords, index, inverse = quantize(points, case["quantization_size"], return_inverse=True)
    assert type(coords) is type(index) is type(inverse) is type(points)
    coords, index, inverse = (torch.as_tensor(each) for each in (coords, index, inverse))
    assert coords.dtype == torch.int32
    assert torch.equal(coords, case["coords"])
    assert torch.equal(index, case["unique_index"])
    assert torch.equal(inverse, case["inverse"])
    assert torch.equal(coords, case["coords_with_features"])
    assert torch.equal(case["points"][index], case["features_kept"])


def test_golden_batched(golden):
    case = golden("c_quantisation.pt")["batched"]
    assert torch.equal(batched_coordinates(case["coord_list"]), case["batched"])
    as_numpy = batched_coordinates([each.numpy() for each in case["coord_list"]])
    assert isinstance(as_numpy, np.ndarray)
    assert np.array_equal(as_numpy, case["batched"].numpy())


@given(
    st.lists(st.tuples(*[st.floats(-50, 50, width=32)] * 3), max_size=60),
    st.sampled_from([0.01, 0.3, 1, 7.5]),
)
@settings(max_examples=80, deadline=None)
def test_slow_way(points, size):
    cloud = np.array(points, dtype=np.float32).reshape(-1, 3)
    first = {}
    places = []
    for number, point in enumerate(cloud):
        voxel = tuple(math.floor(np.float32(value) / np.float32(size)) for value in point)
        first.setdefault(voxel, number)
        places.append(voxel)
    coords, index, inverse = quantize(cloud, size, return_inverse=True)
    assert [tuple(row) for row in coords.tolist()] == list(first)
    assert index.tolist() == list(first.values())
    assert [tuple(coords[row]) for row in inverse] == places


def test_empty_cloud():
    coords, index = quantize(np.zeros((0, 3), np.float32), 0.01)
    assert coords.shape == (0, 3)
    assert coords.dtype == np.int32
    assert index.shape == (0,)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_refuses_what_is_not_a_number(bad):
    cloud = np.zeros((5, 3), np.float32)
    cloud[3, 1] = bad
    with pytest.raises(UserError, match="NaN or infinite"):
        quantize(cloud, 0.01)


def test_refuses_indices_beyond_int32_instead_of_wrapping():
    with pytest.raises(UserError, match="int32"):
        quantize(np.array([[3e9, 0, 0]], np.float32), 1.0)
    with pytest.raises(UserError, match="64-bit key"):
        quantize(np.array([[-2e9] * 3, [2e9] * 3], np.float32), 1.0)


def test_far_from_the_origin_is_fine():
    cloud = np.array([[6e5, 5.8e6, 90.0], [6e5 + 1, 5.8e6, 90.0], [6e5, 5.8e6, 90.5]], np.float32)
    assert quantize(cloud, 1.0)[0].tolist() == [[600000, 5800000, 90], [600001, 5800000, 90]]


@pytest.mark.parametrize("size", [0, -1, math.nan, math.inf])
def test_refuses_impossible_sizes(size):
    with pytest.raises(UserError, match="positive"):
        quantize(np.zeros((1, 3), np.float32), size)


def test_refuses_other_shapes():
    with pytest.raises(UserError, match="shape"):
        quantize(np.zeros((4, 4), np.float32), 0.1)
