"""Every pair of installed engines gives the same numbers, and each those of a slow search in dictionaries.

Rows are compared in the order of (batch, x, y, z), since every engine has its own. The two Triton engines have no CPU
build: here they run in Triton's interpreter, in a process of its own; on a GPU (marker ``gpu``) they run as they are.
"""

import importlib.util
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distilplace.models import create_model
from distilplace.models.sparse.backends import _BACKENDS, available_backends, choose_backend, list_backends

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ROOT = Path(__file__).resolve().parents[3]
PAIRS = list(combinations(list_backends(), 2))
TRITON_ENGINES = {"triton", "spconv"}
MINKOWSKI = pytest.mark.minkowski
EXAMPLES = 2 if INTERPRETED else 25
several = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


class Layer(NamedTuple):
    """A convolution that reads ``level``; transposed: it goes back from ``level + 1`` to ``level``."""

    kernel_size: int
    stride: int = 1
    dilation: int = 1
    transposed: bool = False
    level: int = 0

    def __str__(self):
        kind = "transposed" if self.transposed else "conv"
        return f"{kind}{self.kernel_size}_stride{self.stride}_dilation{self.dilation}_level{self.level}"


LAYERS = (
    *(Layer(size) for size in (1, 3, 5)),
    *(Layer(size, 2) for size in (1, 2, 3, 5)),
    *(Layer(size, 1, dilation) for size, dilation in ((3, 2), (3, 3), (5, 2))),
    Layer(3, 2, 2),
    Layer(2, 2, transposed=True),
    Layer(3, 2, transposed=True),
    Layer(3, level=2),
    Layer(2, 2, level=1),
    Layer(2, 2, transposed=True, level=1),
)


class Case(NamedTuple):
    """Voxels ``[N, 4]``, duplicates among them, and what the tensors are drawn from."""

    coordinates: torch.Tensor
    base_stride: int
    batch_size: int
    channels: tuple[int, int]
    seed: int


@st.composite
def cases(draw):
    """A few clouds of voxels; empty ones, also the last; single voxels; negative and far coordinates; duplicates."""
    sizes = draw(st.lists(st.sampled_from([0, 1, 2, 12, 40]), min_size=1, max_size=4))
    seed = draw(st.integers(0, 2**20))
    generator = torch.Generator().manual_seed(seed)
    centre = torch.tensor(draw(st.sampled_from([(0, 0, 0), (-5, 3, -8), (-70000, 65536, 12345)])))
    reach, base_stride = draw(st.sampled_from([2, 4, 9])), draw(st.sampled_from([1, 1, 2]))
    rows = torch.zeros(0, 4, dtype=torch.int64)
    for batch, size in enumerate(sizes):
        places = torch.randint(-reach, reach + 1, (size, 3), generator=generator) + centre
        rows = torch.cat([rows, torch.cat([torch.full((size, 1), batch), places * base_stride], 1)])
    if draw(st.booleans()):
        rows = torch.cat([rows, rows[: len(rows) // 2]])
    shuffled = rows[torch.randperm(len(rows), generator=generator)].to(torch.int32)
    return Case(shuffled, base_stride, len(sizes), draw(st.sampled_from([(1, 3), (3, 4), (16, 8)])), seed)


def require(*names, device="cpu"):
    """The engines called so; skips where one cannot run."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    if missing := [name for name in names if name not in available_backends(device)]:
        pytest.skip("; ".join(f"{name}: {_BACKENDS.load(name).unavailable(torch.device(device))}" for name in missing))
    return [choose_backend(name, device) for name in names]


def on_devices(values):
    """Parameters of ``device`` and engines; Triton's run on the CPU in the interpreter's process alone."""
    found = []
    for device in ("cpu", "cuda"):
        for value in values:
            names = [value] if isinstance(value, str) else list(value)
            if device == "cpu" and not INTERPRETED and TRITON_ENGINES & set(names):
                continue
            marks = [MINKOWSKI] * ("minkowski" in names) + [pytest.mark.gpu] * (device == "cuda")
            found.append(pytest.param(device, value, id="-".join([*names, device]), marks=marks))
    return found


@pytest.fixture(scope="module", autouse=True)
def triton_on_the_cpu():
    """In the interpreter's process: what keeps Triton 3.6 and spconv-triton 1.0 from running there is put right."""
    if not INTERPRETED:
        yield
        return
    from triton.runtime import autotuner, interpreter

    language = interpreter._patch_lang_tensor

    def scalars_become_indices(tensor, scope):
        language(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))  # NumPy 2.4 wants item()

    def untuned(tuner, *arguments, **keywords):
        return tuner.fn.run(*arguments, **keywords, **tuner.configs[0].all_kwargs())  # nothing to time

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang_tensor", scalars_become_indices)
        patch.setattr(autotuner.Autotuner, "run", untuned)
        if importlib.util.find_spec("spconv_triton") is not None:
            from spconv_triton.pytorch import ops
            from spconv_triton.pytorch._impl import gemm

            from distilplace.models.sparse.backends.spconv import SpconvManager

            patch.setattr(SpconvManager, "unavailable", classmethod(lambda cls, device: None))
            patch.setattr(gemm, "_multiprocessor_count", lambda device: 16)
            for module, name in ((gemm, "conv_forward"), (ops, "get_indice_pairs_implicit_gemm")):
                patch.setattr(module, name, said_to_be_on_cuda(getattr(module, name)))
        yield


def said_to_be_on_cuda(function):  # its first line asks for that
    def call(*arguments, **keywords):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "is_cuda", True, raising=False)
            return function(*arguments, **keywords)

    return call


def canonical(coordinates):
    """Rows of ``coordinates`` in the order of (batch, x, y, z)."""
    rows = coordinates.tolist()
    return torch.tensor(sorted(range(len(rows)), key=rows.__getitem__), dtype=torch.int64, device=coordinates.device)


def manager_of(engine, case, device="cpu"):
    return engine(case.coordinates.to(device), base_stride=case.base_stride, batch_size=case.batch_size)


def drawn(case, layer, n_in, n_out):
    """Features ``[n_in, C]``, kernel, cotangent ``[n_out, C']``, rows in canonical order; equal for equal arguments."""
    generator = torch.Generator().manual_seed(case.seed)
    shapes = (n_in, case.channels[0]), (layer.kernel_size**3, *case.channels), (n_out, case.channels[1])
    return [torch.randn(shape, generator=generator) for shape in shapes]


def computed(engine, case, layer, device="cpu"):
    """Output coordinates, output, gradients of features and kernel; rows in canonical order, on the CPU."""
    manager = manager_of(engine, case, device)
    source, target = layer.level, layer.level + layer.stride - 1
    if layer.transposed:
        source, target = target, source
    coordinates = manager.coordinates(target)
    into, out = canonical(manager.coordinates(source)), canonical(coordinates)
    features, kernel, cotangent = (each.to(device) for each in drawn(case, layer, len(into), len(out)))
    features.requires_grad_()
    kernel.requires_grad_()
    own = features.index_select(0, into.argsort())
    if layer.transposed:
        result = manager.transposed_convolution(own, kernel, source, layer.kernel_size)
    else:
        result = manager.convolution(own, kernel, source, layer.kernel_size, layer.stride, layer.dilation)
    assert result.shape == (manager.count(target), case.channels[1])
    result = result.index_select(0, out)
    (result * cotangent).sum().backward()
    return [each.detach().cpu() for each in (coordinates[out], result, features.grad, kernel.grad)]


def looked_up(case, layer):
    """The same by loops over voxels and offsets, in float64."""
    step = case.base_stride * 2**layer.level
    fine = sorted(
        {(b, x // step * step, y // step * step, z // step * step) for b, x, y, z in case.coordinates.tolist()}
    )
    wide = step * layer.stride
    coarse = sorted({(b, x // wide * wide, y // wide * wide, z // wide * wide) for b, x, y, z in fine})
    row_of = {voxel: row for row, voxel in enumerate(fine)}
    first = -(layer.kernel_size // 2) if layer.kernel_size % 2 else 0
    taps = [tap * layer.dilation * step for tap in range(first, first + layer.kernel_size)]
    offsets = [(x, y, z) for z in taps for y in taps for x in taps]  # x fastest
    pairs = [
        (k, row_of[(b, x + dx, y + dy, z + dz)], row)
        for row, (b, x, y, z) in enumerate(coarse)
        for k, (dx, dy, dz) in enumerate(offsets)
        if (b, x + dx, y + dy, z + dz) in row_of
    ]
    ends = (coarse, fine) if layer.transposed else (fine, coarse)
    tensors = drawn(case, layer, len(ends[0]), len(ends[1]))
    features, kernel, cotangent = (each.double().requires_grad_() for each in tensors)
    result = torch.zeros(len(ends[1]), case.channels[1], dtype=torch.float64)
    for k, inner, outer in pairs:
        source, target = (outer, inner) if layer.transposed else (inner, outer)
        result = result.index_add(0, torch.tensor([target]), features[source : source + 1] @ kernel[k])
    (result * cotangent).sum().backward()
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in (features, kernel)]
    return [torch.tensor(ends[1], dtype=torch.int32).reshape(-1, 4), result.detach(), *gradients]


def assert_alike(one, other, tolerance=1e-4):
    assert torch.equal(one[0], other[0])
    for name, mine, theirs in zip(("output", "input gradient", "kernel gradient"), one[1:], other[1:], strict=True):
        assert mine.shape == theirs.shape
        if mine.numel():
            difference = float((mine - theirs).abs().max())
            assert difference <= tolerance * float(theirs.abs().max()), name


@pytest.mark.parametrize(("device", "pair"), on_devices(PAIRS))
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_two_engines_agree(pair, layer, device):
    engines = require(*pair, device=device)

    @several
    @given(cases())
    def check(case):
        assert_alike(*(computed(engine, case, layer, device) for engine in engines))

    check()


@pytest.mark.parametrize(("device", "name"), on_devices(list_backends()))
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_an_engine_equals_the_slow_search(name, layer, device):
    [engine] = require(name, device=device)

    @settings(max_examples=min(EXAMPLES, 8), deadline=None, suppress_health_check=list(HealthCheck))
    @given(cases())
    def check(case):
        assert_alike(computed(engine, case, layer, device), looked_up(case, layer))

    check()


@pytest.mark.parametrize(("device", "name"), on_devices(list_backends()))
def test_levels_rows_and_batches(name, device):
    [engine] = require(name, device=device)

    @several
    @given(cases())
    def check(case):
        manager = manager_of(engine, case, device)
        voxels = [tuple(voxel) for voxel in case.coordinates.tolist()]
        assert torch.equal(case.coordinates[manager.rows.cpu()], manager.coordinates(0).cpu())
        assert sorted(manager.rows.tolist()) == sorted(
            {voxel: row for row, voxel in reversed([*enumerate(voxels)])}.values()
        )
        for number in range(5):
            step = case.base_stride * 2**number
            expected = sorted({(b, *(value // step * step for value in place)) for b, *place in voxels})
            found = manager.coordinates(number)
            assert found.dtype == torch.int32
            assert sorted(map(tuple, found.tolist())) == expected
            assert manager.count(number) == len(expected)
            assert manager.batch_index(number).tolist() == found[:, 0].tolist()
            batches = [voxel[0] for voxel in expected]
            assert manager.counts(number).tolist() == [batches.count(b) for b in range(case.batch_size)]

    check()


@pytest.mark.parametrize(("device", "name"), on_devices(list_backends()))
@pytest.mark.parametrize("layer", [Layer(3), Layer(5), Layer(3, 2), Layer(3, 1, 2)], ids=str)
def test_clouds_do_not_mix(name, layer, device):
    """Two clouds far apart in one batch element, or at one place in two, are computed as if alone."""
    [engine] = require(name, device=device)
    generator = torch.Generator().manual_seed(3)
    cloud = torch.unique(torch.randint(-4, 5, (60, 3), generator=generator), dim=0).to(torch.int32)
    alone = torch.cat([torch.zeros_like(cloud[:, :1]), cloud], 1)
    kernel = torch.randn(layer.kernel_size**3, 2, 3, generator=generator).to(device)
    values = torch.randn(len(cloud), 2, generator=generator).to(device)

    def outputs(coordinates, features):
        manager = engine(coordinates.to(device))
        own = features.index_select(0, manager.rows)
        result = manager.convolution(own, kernel, 0, layer.kernel_size, layer.stride, layer.dilation)
        voxels = manager.coordinates(layer.stride - 1).tolist()
        return {tuple(voxel): row for voxel, row in zip(voxels, result.cpu(), strict=True)}

    single = outputs(alone, values)
    for shift in ([0, 60000, 0, 0], [0, 0, -60000, 0], [0, 0, 0, 60000], [1, 0, 0, 0]):
        both = torch.cat([alone, alone + torch.tensor(shift, dtype=torch.int32)])
        result = outputs(both, torch.cat([values, 2 * values]))
        assert len(result) == 2 * len(single)
        for voxel, row in single.items():
            moved = tuple(place + step for place, step in zip(voxel, shift, strict=True))
            torch.testing.assert_close(torch.stack([result[voxel], result[moved]]), torch.stack([row, 2 * row]))


@pytest.mark.parametrize(("device", "pair"), on_devices(PAIRS))
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_the_whole_network_agrees(pair, training, device):
    require(*pair, device=device)
    generator = torch.Generator().manual_seed(11)
    sizes = (150, 0, 90, 0) if INTERPRETED else (900, 1, 0, 700, 0)
    clouds = [torch.unique(torch.randint(-12, 12, (size, 3), generator=generator), dim=0) for size in sizes]
    coordinates = torch.cat([torch.cat([torch.full((len(c), 1), b), c], 1) for b, c in enumerate(clouds)])
    batch = {"coords": coordinates.to(device, torch.int32), "keys": [str(b) for b in range(len(sizes))]}
    batch["features"] = torch.ones(len(coordinates), 1, device=device)
    cotangent = torch.randn(len(sizes), 128, generator=generator).to(device)
    results = []
    for name in pair:
        torch.manual_seed(5)
        network = create_model("minkloc", sparse_backend=name).to(device).train(training)
        embedding = network(batch)["embedding"]
        (embedding * cotangent).sum().backward()
        results.append((embedding.detach(), dict(network.named_parameters())))
    (one, weights), (other, others) = results
    assert float((one - other).abs().max()) <= 1e-4 * float(other.abs().max())
    largest = max(float(weight.grad.abs().max()) for weight in others.values())
    for name, weight in weights.items():
        reference = others[name].grad
        scale = max(float(reference.abs().max()), 1e-4 * largest)
        assert float((weight.grad - reference).abs().max()) <= 1e-3 * scale, name


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is that process")
@pytest.mark.parametrize("name", ["triton", "spconv"])
def test_in_the_interpreter(name):
    """The tests above for a Triton engine against the PyTorch engine, on the CPU."""
    package = {"triton": "triton", "spconv": "spconv_triton"}[name]
    if importlib.util.find_spec(package) is None or importlib.util.find_spec("triton") is None:
        pytest.skip(f"{package} or triton is not installed")
    chosen = f"{name} and cpu and not minkowski and not {'spconv' if name == 'triton' else 'triton'}"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k", chosen]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "passed" in done.stdout and "skipped" not in done.stdout  # noqa: PT018
