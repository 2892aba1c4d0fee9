"""Sparse convolutions against MinkowskiEngine's (golden a0) and against dense 3-D convolutions on a small grid."""

from unittest import mock

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from distilplace.common.errors import UserError
from distilplace.models.sparse import SparseBatchNorm, SparseConv, SparseTensor, SparseTransposedConv, kernel_offsets
from distilplace.models.sparse import functional as functional_module
from distilplace.models.sparse import neighbours as neighbours_module
from tests.goldens import is_recorded

ALL_CASES = (
    "conv_k5_1_32",
    "conv_k3_8_12",
    "conv_k2s2_8_8",
    "conv_k1_16_24",
    "tconv_k2s2_8_10",
    "conv_k3_1_1_two_isolated",
)
CASES = [name for name in ALL_CASES if is_recorded("a0_sparse_layers.pt", "cases", name)]


def canonical(coords, *tables):
    """Rows sorted by (batch, x, y, z)."""
    order = sorted(range(len(coords)), key=lambda row: tuple(coords[row].tolist()))
    return [table[order] for table in (coords, *tables)]


def close(value, reference, tolerance=1e-4):
    return (value - reference).abs().max() <= tolerance * reference.abs().max()


def test_golden_offsets(golden):
    for size, offsets in golden("a0_sparse_layers.pt")["offsets"].items():
        assert torch.equal(kernel_offsets(size), offsets)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("search_below", [0, 1024])
def test_golden_layer(golden, name, search_below):
    case = golden("a0_sparse_layers.pt")["cases"][name]
    features = case["in_feats"].clone().requires_grad_()
    x = SparseTensor(features, case["in_coords"])
    with mock.patch.object(neighbours_module, "SEARCH_BELOW", search_below):
        if case["kind"] == "tconv":
            down = SparseConv(8, 8, 2, stride=2)
            down.kernel.data = case["down_kernel"]
            layer = SparseTransposedConv(8, case["out_channels"])
            layer.kernel.data = case["kernel"]
            middle = down(x)
            coords, feats = canonical(middle.coordinates, middle.features)
            down_coords, down_feats = canonical(case["down_coords"], case["down_feats"])
            assert torch.equal(coords, down_coords)
            assert close(feats, down_feats)
            out = layer(middle)
        else:
            layer = SparseConv(case["in_channels"], case["out_channels"], case["kernel_size"], case["stride"])
            assert layer.kernel.shape == case["kernel"].shape
            layer.kernel.data = case["kernel"]
            out = layer(x)
    assert [out.stride] * 3 == list(case["out_stride"])
    coords, feats = canonical(out.coordinates, out.features)
    assert torch.equal(coords, case["out_coords"])
    assert close(feats, case["out_feats"])
    (feats * case["cotangent"]).sum().backward()
    assert close(layer.kernel.grad, case["grad_kernel"])
    assert close(features.grad, case["grad_in_feats"])
    if case["kind"] == "tconv":
        assert close(down.kernel.grad, case["grad_down_kernel"])


@st.composite
def sparse_batches(draw):
    """A few clouds of voxels, some empty, anywhere; with room for one voxel alone."""
    sizes = draw(st.lists(st.sampled_from([0, 1, 2, 12, 40]), min_size=1, max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    centre = draw(st.sampled_from([(0, 0, 0), (-5, 3, -8), (-70000, 65536, 12345)]))
    parts = []
    for number, size in enumerate(sizes):
        voxels = torch.unique(torch.randint(-4, 5, (size, 3), generator=generator), dim=0) + torch.tensor(centre)
        parts.append(functional.pad(voxels, (1, 0), value=number))
    coords = torch.cat(parts)
    return coords[torch.randperm(len(coords), generator=generator)].int(), len(sizes), generator


def dense(coords, features, batch_size, low, side):
    """``[B, C, z, y, x]`` grid with the features at their voxels, zero elsewhere; differentiable."""
    grid = features.new_zeros(batch_size, side, side, side, features.shape[1])
    b, x, y, z = coords.long().unbind(1)
    return grid.index_put((b, z - low[2], y - low[1], x - low[0]), features).permute(0, 4, 1, 2, 3)


def dense_convolution(grid, kernel, size, stride, dilation, transposed):
    """The dense counterpart: the kernel's rows run x fastest, so it unrolls to z, y, x."""
    weights = kernel.reshape(size, size, size, *kernel.shape[-2:])
    padding = size // 2 * dilation if size % 2 else 0
    if transposed:
        options = {"stride": 2, "padding": padding, "output_padding": size % 2}
        return functional.conv_transpose3d(grid, weights.permute(3, 4, 0, 1, 2), **options)
    return functional.conv3d(grid, weights.permute(4, 3, 0, 1, 2), stride=stride, padding=padding, dilation=dilation)


@given(
    batch=sparse_batches(),
    form=st.sampled_from([(1, 1, 1), (1, 2, 1), (2, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (5, 1, 1), (5, 2, 1)]),
    channels=st.sampled_from([(1, 3), (2, 1), (3, 4)]),
    search_below=st.sampled_from([0, 4, 1024]),
    transposed=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_equals_dense_convolution(batch, form, channels, search_below, transposed):
    coords, batch_size, generator = batch
    size, stride, dilation = form
    low, side = [c - 16 for c in (-70000, 65536, 12345)], 32
    if len(coords):
        low = [int(value) // 8 * 8 - 8 for value in coords[:, 1:].amin(0)]
    source = torch.randn(len(coords), channels[0], dtype=torch.float64, generator=generator, requires_grad=True)
    with mock.patch.object(neighbours_module, "SEARCH_BELOW", search_below):
        x = SparseTensor(source, coords, batch_size=batch_size)
        transposed = transposed and stride == 2
        if transposed:
            pool = SparseConv(channels[0], channels[0], 2, stride=2).double()
            x = pool(x)
            layer = SparseTransposedConv(*channels, size).double()
        else:
            layer = SparseConv(*channels, size, stride, dilation).double()
        out = layer(x)
    x_low = [value // x.stride for value in low]
    grid = dense(x.coordinates // torch.tensor([1] + [x.stride] * 3), x.features, batch_size, x_low, side // x.stride)
    full = dense_convolution(grid, layer.kernel, size, stride, dilation, transposed)
    places = out.coordinates.long()
    b, i, j, k = ((places - torch.tensor([0, *low])) // torch.tensor([1] + [out.stride] * 3)).unbind(1)
    expected = full[b, :, k, j, i]
    torch.testing.assert_close(out.features, expected, rtol=0, atol=1e-11)
    cotangent = torch.randn(expected.shape, dtype=torch.float64, generator=generator)
    inputs = [source, layer.kernel]
    got = torch.autograd.grad((out.features * cotangent).sum(), inputs, retain_graph=True)
    wanted = torch.autograd.grad((expected * cotangent).sum(), inputs)
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-11)
    corners = {(row[0], *(value // out.stride * out.stride for value in row[1:])) for row in coords.tolist()}
    assert {tuple(row) for row in out.coordinates.tolist()} == (
        corners if out.stride > 1 else set(map(tuple, coords.tolist()))
    )


def test_gradcheck():
    coords = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, -1], [1, 0, 0, 0], [1, 2, 2, 2], [1, 2, 1, 2]])
    features = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    down, same = SparseConv(2, 3, 2, stride=2).double(), SparseConv(3, 2, 3).double()
    up, norm = SparseTransposedConv(2, 2).double(), SparseBatchNorm(2).double().train()

    def network(values, *kernels):
        x = SparseTensor(values, coords)
        for layer, kernel in zip((down, same, up), kernels, strict=True):
            x = torch.func.functional_call(layer, {"kernel": kernel}, (x,))
        return norm(x).features

    kernels = [layer.kernel.detach().requires_grad_() for layer in (down, same, up)]
    assert torch.autograd.gradcheck(network, (features, *kernels))


def test_the_stem_computes_no_gradient_for_its_input():
    layer = SparseConv(1, 16, 3)
    x = SparseTensor(torch.ones(3, 1), torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [0, 9, 9, 9]]))
    with mock.patch.object(
        functional_module.fused, "input_gradient", wraps=functional_module.fused.input_gradient
    ) as spy:
        layer(x).features.sum().backward()
        assert spy.call_count == 0
    assert layer.kernel.grad is not None


@given(count=st.sampled_from([8, 50, 4000]), seed=st.integers(0, 1000))
@example(count=1, seed=0)
@settings(max_examples=20, deadline=None)
def test_batch_norm_equals_torch(count, seed):
    torch.manual_seed(seed)
    ours, theirs = SparseBatchNorm(5), torch.nn.BatchNorm1d(5).double()
    ours.bn.weight.data, ours.bn.bias.data = torch.rand(5) + 0.5, torch.randn(5)
    theirs.load_state_dict(ours.bn.state_dict())
    coords = functional.pad(torch.arange(count)[:, None].int(), (1, 2))
    features = (torch.randn(count, 5) + 0.5).requires_grad_()
    reference = features.detach().double().requires_grad_()
    if count == 1:  # no variance: running statistics, unchanged
        theirs.eval()
    out, expected = ours(SparseTensor(features, coords)).features, theirs(reference)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=2e-5)
    cotangent = torch.randn(count, 5)
    (out * cotangent).sum().backward()
    (expected * cotangent).sum().backward()
    assert close(features.grad.double(), reference.grad, 1e-4)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.bn.state_dict()[name].double(), value.double(), rtol=1e-5, atol=1e-6)


def test_batch_norm_follows_torch_switches():
    coords = functional.pad(torch.arange(6)[:, None].int(), (1, 2))
    x = SparseTensor(torch.randn(6, 3), coords)
    norm = SparseBatchNorm(3)
    norm.bn.momentum = 0.0  # how staged backprop leaves the statistics alone
    norm(x)
    assert torch.equal(norm.bn.running_mean, torch.zeros(3))
    norm.bn.momentum = None  # cumulative average: after two batches, the first's share is one half
    norm.bn.num_batches_tracked.zero_()
    norm(x)
    torch.testing.assert_close(norm.bn.running_mean, x.features.mean(0))
    norm.eval()
    torch.testing.assert_close(norm(x).features, norm.bn(x.features))
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(norm)
    assert isinstance(converted.bn, torch.nn.SyncBatchNorm)


def test_batch_norm_is_well_rounded():
    torch.manual_seed(0)
    features = torch.randn(20000, 4) * 0.05 + 0.1
    coords = functional.pad(torch.arange(20000)[:, None].int(), (1, 2))
    exact = functional.batch_norm(features.double(), None, None, training=True)
    error = SparseBatchNorm(4)(SparseTensor(features, coords)).features - exact
    assert error.square().mean().sqrt() < 4e-7  # torch's own: 2e-6


@pytest.mark.parametrize(
    ("size", "stride", "dilation"), [(2, 1, 1), (4, 1, 1), (3, 3, 1), (2, 2, 2), (0, 1, 1), (3, 1, 0)]
)
def test_refuses_other_kernels(size, stride, dilation):
    with pytest.raises(UserError, match="kernel"):
        SparseConv(1, 1, size, stride, dilation)


def test_refuses_wrong_channels_and_missing_finer_voxels():
    x = SparseTensor(torch.ones(1, 2), torch.zeros(1, 4, dtype=torch.int32))
    with pytest.raises(UserError, match="channels"):
        SparseConv(3, 1, 3)(x)
    with pytest.raises(UserError, match="no finer voxels"):
        SparseTransposedConv(2, 1)(x)
