"""Coordinates, their order, range and batches; pooling per batch element; kernel maps built once."""

from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.common.errors import UserError
from distilplace.models.sparse import (
    CoordinateManager,
    GeM,
    SparseConv,
    SparseTensor,
    SparseTransposedConv,
    broadcast_multiply,
    global_average,
)
from distilplace.models.sparse import kernel_map as kernel_map_module
from distilplace.models.sparse import neighbours as neighbours_module


def random_coords(count, low, high, batches=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(low, high, (count, 4), generator=generator)
    rows[:, 0] = torch.randint(0, batches, (count,), generator=generator)
    rows = torch.unique(rows, dim=0)
    return rows[torch.randperm(len(rows), generator=generator)].int()


def test_rows_are_a_permutation_of_the_input():
    coords = random_coords(300, -40, 40)
    features = torch.arange(len(coords)).float()[:, None]
    x = SparseTensor(features, coords)
    assert torch.equal(x.coordinates, coords[x.source_rows])
    assert torch.equal(x.features[:, 0].long(), x.source_rows)
    assert torch.equal(x.batch_index, x.batch_index.sort().values)


def test_coarser_levels_are_floors():
    coords = random_coords(500, -3000, 3000)
    manager = CoordinateManager(coords)
    for level in range(1, 8):
        step = 2**level
        floors = torch.cat([coords[:, :1], torch.div(coords[:, 1:], step, rounding_mode="floor") * step], 1)
        mine = {tuple(row) for row in manager.coordinates(level).tolist()}
        assert mine == {tuple(row) for row in floors.tolist()}
        assert len(mine) == len(manager.level(level))


def test_a_tensor_may_start_at_a_coarser_stride():
    coords = torch.tensor([[0, -4, 8, 0], [0, 0, 8, 4]])
    x = SparseTensor(torch.ones(2, 1), coords, stride=4)
    assert x.stride == 4
    assert torch.equal(x.coordinates, coords[x.source_rows].int())
    with pytest.raises(UserError, match="multiples"):
        SparseTensor(torch.ones(1, 1), torch.tensor([[0, 2, 0, 0]]), stride=4)


def test_duplicates_keep_the_first():
    coords = torch.tensor([[0, 5, 5, 5], [0, 1, 1, 1], [0, 5, 5, 5], [1, 5, 5, 5]])
    x = SparseTensor(torch.tensor([[10.0], [20.0], [30.0], [40.0]]), coords)
    assert sorted(x.features[:, 0].tolist()) == [10.0, 20.0, 40.0]
    assert sorted(x.source_rows.tolist()) == [0, 1, 3]


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_out_of_range_raises(axis):
    coords = torch.zeros(2, 4, dtype=torch.int32)
    coords[1, axis] = 2**17
    with pytest.raises(UserError, match="window"):
        SparseTensor(torch.ones(2, 1), coords)
    coords[0, axis] = -1
    coords[1, axis] = 2**16  # the aligned window is full here
    with pytest.raises(UserError, match="window"):
        SparseTensor(torch.ones(2, 1), coords)


def test_far_away_but_compact_is_fine():
    near = random_coords(200, -20, 20)
    shift = torch.tensor([0, 2**30, -(2**30), 2**20], dtype=torch.int32)
    layer = SparseConv(1, 2, 3)
    with torch.no_grad():
        values = torch.randn(len(near), 1)
        here, there = layer(SparseTensor(values, near)), layer(SparseTensor(values, near + shift))
    assert {tuple(row) for row in there.coordinates.tolist()} == {tuple(row) for row in (near + shift).tolist()}
    # same voxels, another order of rows
    back = torch.empty_like(here.features)
    back[here.source_rows] = here.features
    again = torch.empty_like(back)
    again[there.source_rows] = there.features
    torch.testing.assert_close(back, again)


def test_batch_numbers_are_checked():
    coords = torch.tensor([[2, 0, 0, 0]])
    for bad, size in ((coords, 2), (torch.tensor([[-1, 0, 0, 0]]), None), (torch.tensor([[5000, 0, 0, 0]]), None)):
        with pytest.raises(UserError, match=r"batch"):
            SparseTensor(torch.ones(1, 1), bad, batch_size=size)


def test_shapes_and_types_are_checked():
    with pytest.raises(UserError, match=r"\[N, 4\]"):
        SparseTensor(torch.ones(1, 1), torch.zeros(1, 3, dtype=torch.int32))
    with pytest.raises(UserError, match="int32"):
        SparseTensor(torch.ones(1, 1), torch.zeros(1, 4))
    with pytest.raises(UserError, match="do not fit"):
        SparseTensor(torch.ones(2, 1), torch.zeros(1, 4, dtype=torch.int32))
    with pytest.raises(UserError, match="either"):
        SparseTensor(torch.ones(1, 1))


@given(st.integers(0, 10**6), st.sampled_from([1, 2, 3, 4]), st.sampled_from([(-5, 5), (-300, -270), (-65536, 65536)]))
@settings(max_examples=40, deadline=None)
def test_coarse_to_fine_search_equals_plain_search(seed, reach, window):
    manager = CoordinateManager(random_coords(150, *window, seed=seed))
    level, above = manager.level(0), manager.level(1)
    with mock.patch.object(neighbours_module, "SEARCH_BELOW", 20):
        refined = manager.neighbours(0, reach)
    coarse = manager.neighbours(1, (reach + 1) // 2)
    others = [
        neighbours_module.search_vectorised(level, reach),
        neighbours_module.search_compiled(level, reach),
        neighbours_module.refine_vectorised(level, above, coarse, reach),
        neighbours_module.refine_compiled(level, above, coarse, reach),
    ]
    first, *rest = [torch.stack([each.rows, each.cols, each.codes], 1).unique(dim=0) for each in (refined, *others)]
    for pairs in rest:
        assert torch.equal(first, pairs)
    # and they are those that a comparison of all with all finds
    place = manager.coordinates(0).long()
    difference = place[None, :, 1:] - place[:, None, 1:]
    near = (difference.abs() <= reach).all(2) & (place[:, None, 0] == place[None, :, 0])
    assert torch.equal(near.triu(1).nonzero(), first[:, :2].long())
    width = 2 * reach + 1
    steps = difference[first[:, 0], first[:, 1]] + reach
    assert torch.equal(steps @ torch.tensor([1, width, width**2]), first[:, 2].long())


def test_maps_are_shared_between_layers():
    x = SparseTensor(torch.randn(200, 2), random_coords(2000, -8, 8)[:200])
    with mock.patch.object(kernel_map_module, "group", wraps=kernel_map_module.group) as build:
        y = SparseConv(2, 3, 3)(x)
        SparseConv(3, 2, 3)(y)
        assert build.call_count == 1
        down = SparseConv(2, 2, 2, stride=2)(x)
        assert build.call_count == 2
        SparseTransposedConv(2, 2)(down)
        assert build.call_count == 2  # the strided map, read backwards
        SparseConv(2, 2, 3)(down)
        assert build.call_count == 3


def test_pooling_is_per_batch_element_and_in_order():
    coords = torch.tensor([[3, 0, 0, 0], [0, 1, 0, 0], [3, 1, 1, 1], [1, -7, 0, 0]])
    values = torch.tensor([[1.0, 8.0], [2.0, 5.0], [3.0, 4.0], [7.0, 6.0]], requires_grad=True)
    x = SparseTensor(values, coords, batch_size=5)
    means = global_average(x)
    assert means.tolist() == [[2, 5], [7, 6], [0, 0], [2, 6], [0, 0]]
    scaled = broadcast_multiply(x, torch.arange(5.0)[:, None].expand(5, 2))
    assert sorted(scaled.features[:, 0].tolist()) == [0.0, 3.0, 7.0, 9.0]
    means[3].sum().backward()
    assert values.grad.tolist() == [[0.5, 0.5], [0, 0], [0.5, 0.5], [0, 0]]


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_gem_formula_and_gradient():
    coords = random_coords(30, -4, 4, batches=3)
    features = (torch.randn(len(coords), 2, dtype=torch.float64)).requires_grad_()
    gem = GeM(2.7).double()
    x = SparseTensor(features, coords, batch_size=4)
    out = gem(x)
    for number in range(3):
        rows = features[coords[:, 0] == number].clamp(min=1e-6)
        torch.testing.assert_close(out[number], (rows**gem.p).mean(0) ** (1 / gem.p))
    assert out[3].tolist() == [0, 0]
    with torch.autograd.detect_anomaly(check_nan=True):  # nothing undefined on the way back from the empty element
        (gem(x) * torch.tensor([[1.0], [1.0], [1.0], [0.0]])).sum().backward()
    assert torch.isfinite(features.grad).all()
    assert (features.grad[features < 1e-6] == 0).all()
    assert (features.grad[features > 1e-6] > 0).all()
    assert torch.isfinite(gem.p.grad).all()
    positive = torch.rand(len(coords), 2, dtype=torch.float64).add(0.1).requires_grad_()
    power = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    function = lambda v, p: torch.func.functional_call(gem, {"p": p}, (SparseTensor(v, coords, batch_size=4),))  # noqa: E731
    assert torch.autograd.gradcheck(function, (positive, power))


def test_broadcast_gradient():
    coords = random_coords(12, -4, 4, batches=3)
    features = torch.randn(len(coords), 2, dtype=torch.float64, requires_grad=True)

    def attended(values):
        x = SparseTensor(values, coords, batch_size=4)
        return broadcast_multiply(x, torch.sigmoid(global_average(x))).features

    assert torch.autograd.gradcheck(attended, (features,))


def test_sums_need_the_same_voxels():
    x = SparseTensor(torch.ones(1, 1), torch.zeros(1, 4, dtype=torch.int32))
    other = SparseTensor(torch.ones(1, 1), torch.zeros(1, 4, dtype=torch.int32))
    assert (x + x).features.item() == 2
    with pytest.raises(UserError, match="cannot be added"):
        x + other
