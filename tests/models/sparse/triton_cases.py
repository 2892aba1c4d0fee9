"""The engine ``triton`` against the PyTorch engine: run by test_sparse_triton.py in a process of its own.

With TRITON_INTERPRET=1 on the CPU, without it on a GPU: Triton reads the variable when the kernels are defined.
"""

import os
from unittest import mock

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from distilplace.models import create_model
from distilplace.models.sparse import global_average
from distilplace.models.sparse.backends import choose_backend, triton_convolution
from distilplace.models.sparse.tensor import SparseTensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
SAME_OR_DOWN = [(1, 1, 1), (1, 2, 1), (2, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (5, 1, 1), (5, 2, 1)]
LAYERS = [(*form, False) for form in SAME_OR_DOWN] + [(2, 2, 1, True), (3, 2, 1, True)]


@pytest.fixture(autouse=INTERPRETED, scope="module")
def _short_runs():
    """The interpreter computes every step of a run, masked or not: tiny clouds need tiny runs."""
    with mock.patch.object(triton_convolution, "SHORT_RUN", 32):
        yield


@st.composite
def clouds(draw):
    """A few clouds of voxels, some empty, some of one voxel, with duplicates, anywhere: (coords [N, 4], batch size)."""
    sizes = draw(st.lists(st.sampled_from([0, 1, 2, 15]), min_size=1, max_size=3))
    seed = draw(st.integers(0, 2**20))
    centre = draw(st.sampled_from([(0, 0, 0), (-5, 3, -8), (-70000, 65536, 12345)]))
    generator = torch.Generator().manual_seed(seed)
    coords = torch.randint(-1, 3, (sum(sizes), 4), generator=generator) + torch.tensor((0, *centre))
    coords[:, 0] = torch.repeat_interleave(torch.tensor(sizes))
    return coords.int(), len(sizes)


def cube(side, batch_size=1):
    steps = torch.arange(side)
    return torch.cartesian_prod(torch.arange(batch_size), steps, steps, steps).int()


def convolve(backend, coords, batch_size, layer, channels, dtype=torch.float32, rounded=None):
    """Output, input gradient and kernel gradient of one layer, as float64; numbers drawn from a fixed seed."""
    size, stride, dilation, transposed = layer
    manager = choose_backend(backend, DEVICE)(coords.to(DEVICE), batch_size=batch_size)
    level = 1 if transposed else 0
    generator = torch.Generator().manual_seed(len(coords) + size)

    def draw(*shape):
        values = torch.randn(*shape, generator=generator)
        return values.to(rounded or dtype).to(DEVICE, dtype).requires_grad_()

    features, kernel = draw(manager.count(level), channels[0]), draw(size**3, *channels)
    if transposed:
        out = manager.transposed_convolution(features, kernel, level, size)
    else:
        out = manager.convolution(features, kernel, level, size, stride, dilation)
    assert len(out) == manager.count(0 if transposed else stride - 1)
    cotangent = draw(*out.shape).detach().to(out.dtype)
    gradients = torch.autograd.grad(out, [features, kernel], cotangent)
    assert [each.dtype for each in gradients] == [dtype, dtype]
    return [each.detach().double() for each in (out, *gradients)], out.dtype


def assert_close(values, references, tolerance):
    for value, reference in zip(values, references, strict=True):
        assert value.shape == reference.shape
        if reference.numel():
            assert (value - reference).abs().max() <= tolerance * reference.abs().max()


def compare(coords, batch_size, layer, channels):
    ours, _ = convolve("triton", coords, batch_size, layer, channels)
    theirs, _ = convolve("torch", coords, batch_size, layer, channels)
    truth, _ = convolve("torch", coords, batch_size, layer, channels, torch.float64, rounded=torch.float32)
    assert_close(ours, theirs, 1e-4)
    assert_close(ours, truth, 1e-5)


@given(batch=clouds(), layer=st.sampled_from(LAYERS), channels=st.sampled_from([(1, 3), (3, 1), (5, 17), (40, 8)]))
@settings(max_examples=20 if INTERPRETED else 300, deadline=None)
def test_equals_the_pytorch_engine(batch, layer, channels):
    compare(*batch, layer, channels)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_every_kind_of_layer(layer):
    coords = torch.cat([cube(3), cube(2) + torch.tensor([2, -9, 1, 0], dtype=torch.int32)])  # element 1 is empty
    compare(coords, 4, layer, (4, 6))


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("channels", [(1, 2), (3, 2)])
def test_no_voxel_and_one(count, channels):
    for layer in LAYERS:
        compare(torch.tensor([[0, -1, -1, 2]] * count, dtype=torch.int32).reshape(count, 4), 1, layer, channels)


@pytest.mark.parametrize("long_runs", [False, True])
def test_many_tiles(long_runs):
    """Up to 180 pairs per offset: more than one tile, and more than one short run, holds."""
    with mock.patch.object(triton_convolution, "LONG_RUNS_FROM", 0 if long_runs else 10**9):
        compare(cube(6), 1, (3, 1, 1, False), (3, 5))


@pytest.mark.parametrize("channels", [(70, 130), (1, 70), (130, 1)], ids=str)
def test_more_channels_than_one_block_holds(channels):
    compare(cube(2), 1, (2, 2, 1, False), channels)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layer", [(3, 1, 1, False), (2, 2, 1, False), (2, 2, 1, True)], ids=str)
@pytest.mark.parametrize("channels", [(1, 4), (5, 3)], ids=str)
def test_autocast_rounds_the_operands_and_sums_in_float32(layer, channels, dtype):
    coords = cube(3, 2)
    truth, _ = convolve("torch", coords, 2, layer, channels, torch.float64, rounded=dtype)
    with torch.autocast(DEVICE.type, dtype):
        (out, to_features, to_kernel), kept = convolve("triton", coords, 2, layer, channels, rounded=dtype)
    assert kept == dtype
    assert_close([out, to_features], truth[:2], torch.finfo(dtype).eps)
    assert_close([to_kernel], truth[2:], 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_parameters(dtype):
    truth, _ = convolve("torch", cube(3), 1, (3, 1, 1, False), (5, 3), torch.float64, rounded=dtype)
    ours, kept = convolve("triton", cube(3), 1, (3, 1, 1, False), (5, 3), dtype)
    assert kept == dtype
    assert_close(ours, truth, torch.finfo(dtype).eps)


def test_float64_is_left_to_the_pytorch_engine():
    for layer in ((3, 1, 1, False), (2, 2, 1, True)):
        ours, truth = (convolve(name, cube(3), 1, layer, (2, 3), torch.float64)[0] for name in ("triton", "torch"))
        assert_close(ours, truth, 1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("sizes", "width"), [((5, 0, 3000, 1, 0), 3), ((0,), 4), ((2500,), 70)])
def test_sum_rows(sizes, width, dtype):
    coords = torch.zeros(sum(sizes), 4, dtype=torch.int32)
    coords[:, 0] = torch.repeat_interleave(torch.tensor(sizes))
    coords[:, 1] = torch.arange(sum(sizes)) - 100
    manager = choose_backend("triton", DEVICE)(coords.to(DEVICE), batch_size=len(sizes))
    features = torch.randn(width, sum(sizes), generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype).t()
    total = manager.sum_rows(features, 0)
    truth = torch.stack([rows.sum(0) for rows in features.double().split(sizes)])
    assert total.dtype == dtype
    assert_close([total.double()], [truth], 1e-6 if dtype != torch.bfloat16 else 2**-8)


def minkloc(backend):
    torch.manual_seed(0)
    settings = {"feature_size": 8, "planes": (8, 8), "layers": (1, 1), "conv0_kernel_size": 3}
    return create_model("minkloc", sparse_backend=backend, **settings).to(DEVICE)


def minkloc_batch():
    coords = torch.randint(-3, 5, (60, 4), generator=torch.Generator().manual_seed(1)).int()
    coords[:, 0] = coords[:, 0] % 2 * 2  # element 1 is empty
    return {"coords": coords.to(DEVICE), "features": torch.ones(60, 1, device=DEVICE), "keys": ["a", "b", "c"]}


def test_a_whole_network():
    results = []
    for backend in ("triton", "torch"):
        model = minkloc(backend)
        embedding = model(minkloc_batch())["embedding"]
        weights = torch.arange(embedding.numel(), device=DEVICE).view_as(embedding).cos()
        (embedding * weights).sum().backward()
        results.append([embedding.detach(), *(each.grad for each in model.parameters())])
    assert_close(*results, 1e-4)


def test_a_whole_network_under_autocast():
    model = minkloc("triton")
    exact = minkloc("torch")(minkloc_batch())["embedding"]
    with torch.autocast(DEVICE.type, torch.bfloat16):
        embedding = model(minkloc_batch())["embedding"]
    embedding.sum().backward()
    assert all(each.grad.isfinite().all() for each in model.parameters())
    assert_close([embedding.double()], [exact.double()], 0.05)


class _NoWaiting(TorchDispatchMode):
    """Refuses the operations that bring a value or a data-dependent size to the host."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        assert not any(each in name for each in ("_local_scalar_dense", "nonzero", "unique", "masked_select")), name
        return function(*args, **(kwargs or {}))


def prebuilt_step(manager):
    """A function that runs layers of every kind forward and backward on the maps of one manager."""
    features = torch.randn(manager.count(0), 1, device=DEVICE, requires_grad=True)
    shapes = {"stem": (27, 1, 4), "same": (27, 4, 4), "down": (8, 4, 4), "up": (8, 4, 4)}
    kernels = {name: torch.randn(shape, device=DEVICE, requires_grad=True) for name, shape in shapes.items()}

    def step():
        x = manager.convolution(features, kernels["stem"], 0, 3, 1, 1)
        x = manager.convolution(x, kernels["down"], 0, 2, 2, 1)
        x = manager.convolution(x, kernels["same"], 1, 3, 1, 1)
        x = manager.transposed_convolution(x, kernels["up"], 1, 2)
        global_average(SparseTensor(x, manager=manager)).sum().backward()

    return step


def test_no_step_waits_for_the_device_once_the_maps_are_built():
    manager = choose_backend("triton", DEVICE)(cube(3, 2).to(DEVICE), batch_size=3)
    step = prebuilt_step(manager)
    step()
    if INTERPRETED:  # all that can be seen without a device
        with _NoWaiting():
            step()
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(INTERPRETED, reason="takes a GPU's speed")
@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize("channels", [(1, 32), (32, 64), (64, 64), (128, 128)], ids=str)
def test_full_size(layer, channels):
    generator = torch.Generator().manual_seed(0)
    coords = torch.randint(-40, 40, (60000, 4), generator=generator).int()
    coords[:, 0] = coords[:, 0] % 8
    compare(coords, 9, layer, channels)


@example(batch=(cube(2), 1))
@given(batch=clouds())
@settings(max_examples=5, deadline=None)
def test_coordinates_are_those_of_the_pytorch_engine(batch):
    ours, theirs = (
        choose_backend(name, DEVICE)(batch[0].to(DEVICE), batch_size=batch[1]) for name in ("triton", "torch")
    )
    for level in range(3):
        assert torch.equal(ours.coordinates(level), theirs.coordinates(level))
