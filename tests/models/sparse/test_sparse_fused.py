"""The one-pass CPU kernels against library calls in float64, and against themselves with other numbers of threads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distilplace.models.sparse import (
    CoordinateManager,
    SparseBatchNorm,
    SparseConv,
    SparseReLU,
    SparseTensor,
    fused,
    gathered,
)
from distilplace.models.sparse.functional import _implementation


def manager_of(seed, voxels, spread, batches):
    draw = torch.Generator().manual_seed(seed)
    place = torch.randint(-spread, spread + 1, (voxels, 3), generator=draw)
    batch = torch.randint(0, batches, (voxels, 1), generator=draw)
    return CoordinateManager(torch.cat([batch, place], 1).int(), batch_size=batches)


def near(value, truth, tolerance=1e-5):
    return (value.double() - truth).abs().max() <= tolerance * truth.abs().max().clamp(min=1e-30)


SHAPES = [(5, 1), (3, 1), (3, 2), (2, 2), (5, 2)]


@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 2, 7, 40, 700]),
    st.sampled_from([1, 3, 6]),
    st.sampled_from(SHAPES),
    st.sampled_from([(1, 16), (3, 32), (16, 16), (17, 48), (32, 64)]),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_the_three_products(seed, voxels, spread, shape, channels, backwards):
    manager = manager_of(seed, voxels, spread, 3)
    kernel_map = manager.kernel_map(0, *shape)
    kernel_map = kernel_map.reverse if backwards else kernel_map
    torch.manual_seed(seed)
    features = torch.randn(kernel_map.n_in, channels[0])
    gradient = torch.randn(kernel_map.n_out, channels[1])
    kernel = torch.randn(len(kernel_map.sizes), *channels)
    exact = [each.double() for each in (features, kernel, gradient)]

    assert fused.fits(features, channels[1])
    assert near(fused.convolve(features, kernel, kernel_map), gathered.convolve(exact[0], exact[1], kernel_map))
    truth = gathered.kernel_gradient(exact[0], exact[2], kernel_map, exact[1])
    assert near(fused.kernel_gradient(features, gradient, kernel_map, kernel), truth)
    if channels[0] % 16 == 0:
        truth = gathered.input_gradient(exact[2], exact[1], kernel_map)
        assert near(fused.input_gradient(gradient, kernel, kernel_map), truth)


def test_many_pairs_of_one_offset_are_summed_in_chunks():
    count = 5000
    coords = torch.zeros(count, 4, dtype=torch.int32)
    coords[:, 1] = torch.arange(count)
    kernel_map = CoordinateManager(coords).kernel_map(0, 3)
    features, gradient = torch.full((count, 16), 1 / 3), torch.full((count, 16), 1.0)
    found = fused.kernel_gradient(features, gradient, kernel_map, torch.zeros(27, 16, 16))
    wanted = (count - 1) * float(features[0, 0])
    assert abs(float(found[12, 3, 5]) - wanted) < 2e-6 * wanted  # a running float32 sum is off by 2e-5
    assert float(found[0].abs().max()) == 0


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_does_not_change_a_bit(threads):
    kernel_map = manager_of(0, 900, 5, 2).kernel_map(0, 3)
    torch.manual_seed(0)
    features, kernel = torch.randn(kernel_map.n_in, 32), torch.randn(27, 32, 64)
    gradient = torch.randn(kernel_map.n_out, 64)
    before = torch.get_num_threads()

    def results():
        kernel_map_sums = torch.zeros(kernel_map.n_out, 64)
        fused._run("add_products", features, kernel, kernel_map, kernel_map_sums)
        to_kernel = torch.zeros_like(kernel)
        fused._run("add_outer_products", features, gradient, kernel_map, to_kernel)
        return kernel_map_sums, to_kernel

    wanted = results()
    try:
        torch.set_num_threads(threads)
        found = results()
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_other_types_and_widths_go_by_library_calls():
    assert _implementation(torch.ones(2, 4), 32) is fused
    assert _implementation(torch.ones(2, 4), 12) is gathered
    assert _implementation(torch.ones(2, 4, dtype=torch.float64), 32) is gathered


def test_overwriting_norms_and_relus_change_nothing_but_memory():
    torch.manual_seed(0)
    manager = manager_of(1, 300, 4, 2)
    features = torch.randn(manager.count(0), 8)
    conv = SparseConv(8, 16, 3)
    outputs, gradients = [], []
    for inplace in (False, True):
        norm, relu = SparseBatchNorm(16, inplace=inplace), SparseReLU(inplace=inplace)
        leaf = features.clone().requires_grad_()
        out = relu(norm(conv(SparseTensor(leaf, manager=manager)))).features
        conv.zero_grad()
        out.pow(2).sum().backward()
        outputs.append((out.detach(), norm.bn.running_mean, norm.bn.running_var))
        gradients.append((leaf.grad, conv.kernel.grad.clone(), norm.bn.weight.grad))
    for plain, overwriting in zip(outputs[0] + gradients[0], outputs[1] + gradients[1], strict=True):
        torch.testing.assert_close(plain, overwriting)
    leaf = features.clone().requires_grad_()
    SparseBatchNorm(8, inplace=True)(SparseTensor(leaf, manager=manager))  # a leaf is never overwritten
    assert torch.equal(leaf.detach(), features)
