"""The engines' benchmark runs, refuses engines that disagree, and reports what it measured."""

import json
import mmap
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from distilplace.models.sparse import CoordinateManager, SparseConv, SparseTensor, SparseTransposedConv, kernel_offsets
from distilplace.models.sparse import backends as sparse_backends
from distilplace.models.sparse.manager import Manager
from distilplace.tools.bench_sparse.cases import GROUPS, TRUNK_BACKWARD, TRUNK_FORWARD, cases, common_order, deviations
from distilplace.tools.bench_sparse.clouds import batch_of, voxel_clouds
from distilplace.tools.bench_sparse.engines import LAYERS, OwnEngine, own_trunk
from distilplace.tools.bench_sparse.floor import pairs, trunk_traffic
from distilplace.tools.bench_sparse.native import NAME as NATIVE
from distilplace.tools.bench_sparse.native import NativeEngine, native_unavailable
from distilplace.tools.bench_sparse.report import choose_reference
from distilplace.tools.bench_sparse.run import main, pin_threads
from distilplace.tools.bench_sparse.timing import alternate, peak_growth

CPU = torch.device("cpu")
RATIOS = re.compile(r"trunk batch 8: forward \d+\.\d\dx, forward\+backward \d+\.\d\dx vs \S+")
ALONE = re.compile(
    r"trunk batch 8: forward \d+\.\d ms, forward\+backward \d+\.\d ms "
    r"\(MinkowskiEngine is not installed: python -m tools.install_minkowski\)"
)
needs_minkowski = pytest.mark.skipif(native_unavailable(CPU) is not None, reason="needs MinkowskiEngine")


@pytest.fixture
def coords() -> torch.Tensor:
    """Two small street clouds."""
    return batch_of(voxel_clouds("street", 200, 2), 2)


def install(monkeypatch: pytest.MonkeyPatch, engine: type[Manager]) -> None:
    """One more engine in the table of engines."""
    module = ModuleType("engine_of_a_test")
    module.Made = engine
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sparse_backends._BACKENDS, engine.name, "engine_of_a_test:Made")


def with_convolution(name: str, convolution: Callable[..., torch.Tensor]) -> type[CoordinateManager]:
    """The PyTorch engine but for its convolution."""
    return type("Made", (CoordinateManager,), {"name": name, "convolution": convolution})


@pytest.mark.slow
def test_quick_command_measures_everything_and_ends_with_the_headline(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "sparse.json"
    command = ["-m", "tools.bench_sparse", "--quick", "--clouds", "street", "--threads", "1", "--output", str(output)]
    done = subprocess.run([sys.executable, *command], cwd=root, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    content = json.loads(output.read_text())
    assert content["threads"] == 1
    assert set(content["environment"].values()) == {"1"}
    assert content["versions"]["torch"]
    assert content["ours"] == content["auto"]
    assert content["auto"] in content["engines"]
    engines = content["engines"]
    assert (NATIVE in engines) == (native_unavailable(CPU) is None)
    results = content["results"]
    assert len(results) == len(engines) * 2 * (1 + 2 * len(LAYERS) + 2)
    assert {(each["clouds"], each["batch"]) for each in results} == {("street", 1), ("street", 8)}
    for each in results:
        assert len(each["times_ms"]) >= 5
        assert min(each["times_ms"]) > 0
        assert each["reference"] == choose_reference(engines)
        if each["engine"] == each["reference"]:
            assert each["speed_up"] == 1
        if each["case"] in (TRUNK_FORWARD, TRUNK_BACKWARD):
            assert each["floor_share"] > 0
            assert each["peak_bytes"] is not None or sys.platform != "linux"
    header = next(number for number, line in enumerate(printed) if line.startswith("clouds "))
    for each, line in zip(results, printed[header + 1 :], strict=False):
        assert each["case"] in line
        assert f" {each['engine']} " in line
        assert f"{each['median_ms']:.3f}" in line
    assert (RATIOS if len(engines) > 1 else ALONE).fullmatch(printed[-1])
    assert printed[-1] == content["summaries"][-1]["line"]
    if NATIVE in engines:
        assert printed[-1].endswith(" vs minkowski")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engines", "torhc"], "--engines torhc: unknown; choose from "),
        (["--batches", "8", "0"], "--batches 0: must be at least 1"),
        (["--points", "-5"], "--points -5: must be at least 1"),
        (["--seconds", "-1"], "--seconds -1.0: must be at least 0"),
        (["--threads", "0"], "--threads 0: must be at least 1"),
        (["--device", "tpu"], "--device tpu: choose cpu or cuda"),
        pytest.param(
            ["--device", "cuda"],
            "--device cuda: PyTorch sees no CUDA device here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA"),
        ),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--quick", "--output", str(tmp_path / "o.json"), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(native_unavailable(CPU) is None, reason="for machines without MinkowskiEngine")
def test_an_engine_that_is_not_installed_says_how(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--engines", NATIVE, "--output", str(tmp_path / "o.json")]) == 2
    assert "MinkowskiEngine is not installed: python -m tools.install_minkowski" in capsys.readouterr().err


def test_stopped_it_says_that_nothing_was_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("distilplace.tools.bench_sparse.run.alternate", stop)
    arguments = ["--quick", "--engines", "torch", "--clouds", "street", "--cases", "maps"]
    assert main([*arguments, "--output", str(tmp_path / "o.json")]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "stopped; nothing was written"
    assert not any(tmp_path.iterdir())


def test_engines_that_disagree_are_not_timed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def swapped(self: CoordinateManager, features: torch.Tensor, kernel: torch.Tensor, *where: int) -> torch.Tensor:
        order = torch.arange(len(kernel))
        order[:2] = torch.tensor([1, 0]) if len(kernel) > 1 else 0  # two offsets of the kernel in the other's place
        return CoordinateManager.convolution(self, features, kernel[order], *where)

    install(monkeypatch, with_convolution("swapped", swapped))
    arguments = ["--quick", "--clouds", "street", "--cases", "layers", "--engines", "torch", "swapped"]
    assert main([*arguments, "--output", str(tmp_path / "o.json")]) == 2
    printed = capsys.readouterr()
    assert re.search(r"^error: .*: swapped and torch differ by .* the timing would mean nothing$", printed.err, re.M)
    assert not any(tmp_path.iterdir())


class Reversed(Manager):
    """The PyTorch engine with the rows of every level in the opposite order."""

    name = "reversed"

    @classmethod
    def unavailable(cls, device: torch.device) -> str | None:
        return None

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self.inner = CoordinateManager(*arguments, **settings)
        self.rows, self.base_stride = self.inner.rows.flip(0), self.inner.base_stride
        self.batch_size = self.inner.batch_size

    def count(self, number: int) -> int:
        return self.inner.count(number)

    def counts(self, number: int) -> torch.Tensor:
        return self.inner.counts(number)

    def coordinates(self, number: int) -> torch.Tensor:
        return self.inner.coordinates(number).flip(0)

    def batch_index(self, number: int) -> torch.Tensor:
        return self.inner.batch_index(number).flip(0)

    def convolution(self, features: torch.Tensor, *settings: Any) -> torch.Tensor:
        return self.inner.convolution(features.flip(0), *settings).flip(0)

    def transposed_convolution(self, features: torch.Tensor, *settings: Any) -> torch.Tensor:
        return self.inner.transposed_convolution(features.flip(0), *settings).flip(0)


def test_engines_are_compared_across_their_row_orders(monkeypatch: pytest.MonkeyPatch, coords: torch.Tensor) -> None:
    install(monkeypatch, Reversed)
    for case in cases([OwnEngine("torch"), OwnEngine("reversed")], coords, GROUPS):
        assert set(deviations(case)) == {"torch", "reversed"}


def test_common_order_is_lexicographic() -> None:
    draw = torch.Generator().manual_seed(3)
    coords = torch.randint(-9, 9, (300, 4), generator=draw, dtype=torch.int32)
    coords[:, 0] = coords[:, 0].abs()
    assert coords[common_order(coords)].tolist() == sorted(coords.tolist())


def test_absent_clouds_are_skipped_with_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISTILPLACE_SHARED", str(tmp_path / "nowhere"))
    output = tmp_path / "o.json"
    arguments = ["--quick", "--engines", "torch", "--cases", "maps", "--batches", "2", "--output", str(output)]
    assert main([*arguments, "--clouds", "street", "real"]) == 0
    line = f"no KITTI frames under {tmp_path / 'nowhere' / 'data'} (set DISTILPLACE_SHARED)"
    assert f"real clouds skipped: {line}" in capsys.readouterr().out.splitlines()
    assert json.loads(output.read_text())["skipped"] == {"real": line}
    assert main([*arguments, "--clouds", "real"]) == 2
    assert "--clouds real: none of them is on this machine" in capsys.readouterr().err


def test_narrow_chain_asks_for_the_trunks_kernel_maps(monkeypatch: pytest.MonkeyPatch, coords: torch.Tensor) -> None:
    asked: set[tuple[int, ...]] = set()

    def recorded(self: CoordinateManager, features: torch.Tensor, kernel: torch.Tensor, *where: int) -> torch.Tensor:
        asked.add(where)
        return CoordinateManager.convolution(self, features, kernel, *where)

    install(monkeypatch, with_convolution("recording", recorded))
    engine = OwnEngine("recording")
    next(cases([engine], coords, ["maps"])).sides["recording"].run()
    of_chain = set(asked)
    asked.clear()
    engine.trunk()({"coords": coords, "features": torch.ones(len(coords), 1)})
    assert of_chain == asked
    ups = [layer for layer in engine.chain() if isinstance(layer, SparseTransposedConv)]
    trunk_ups = [layer for layer in engine.trunk().modules() if isinstance(layer, SparseTransposedConv)]
    assert [layer.kernel_size for layer in ups] == [layer.kernel_size for layer in trunk_ups]


def test_rounds_alternate() -> None:
    order: list[str] = []
    runs = {name: lambda name=name: order.append(name) for name in "abc"}
    times = alternate(runs, 0, CPU)
    assert order == ["a", "b", "c"] * 6  # one of them to warm up
    assert [len(each) for each in times.values()] == [5, 5, 5]


def test_times_are_milliseconds() -> None:
    assert min(alternate({"sleep": lambda: time.sleep(0.02)}, 0, CPU)["sleep"]) >= 20


@pytest.mark.skipif(sys.platform != "linux", reason="the resident memory is read from /proc")
def test_peak_growth_sees_memory_that_is_freed_again() -> None:
    def run(mebibytes: int) -> None:
        with mmap.mmap(-1, mebibytes * 2**20) as memory:  # fresh pages, whatever this process has kept
            for page in range(0, len(memory), mmap.PAGESIZE):
                memory[page] = 1

    small, large, again = (size / 2**20 for size in peak_growth([lambda: run(32), lambda: run(96), lambda: run(64)]))
    assert 30 < small < 48
    assert 94 < large < 112
    assert again == pytest.approx(large, abs=8)
    assert peak_growth([lambda: None])[0] < 4 * 2**20  # an earlier peak does not count


def test_pairs_are_those_of_a_comparison_of_all(coords: torch.Tensor) -> None:
    x = SparseTensor(torch.ones(len(coords), 1), coords)
    fine, coarse = x.manager.coordinates(0), x.manager.coordinates(1)
    wanted = 0
    for offset in kernel_offsets(3).tolist():
        moved = fine + torch.tensor([0, *offset])
        wanted += int((moved[:, None] == fine[None]).all(2).sum())
    assert pairs(SparseConv(1, 1, 3), x) == wanted
    assert pairs(SparseConv(1, 1, 2, 2), x) == len(fine)
    assert pairs(SparseTransposedConv(1, 1), x.with_features(torch.ones(len(coarse), 1), 1)) == len(fine)
    assert pairs(SparseConv(1, 1, 1), x) == 0


def test_traffic_of_one_voxel_can_be_counted_by_hand() -> None:
    coords = torch.tensor([[0, 0, 0, 0]], dtype=torch.int32)
    traffic = trunk_traffic(own_trunk().eval(), coords)
    # One voxel at every level, so every layer moves its channels in and out, its weights, and one pair a map.
    convs = [(125, 1, 32), *[(8, 32, 32)] * 2, (8, 64, 64), *[(27, 32, 32)] * 2, (27, 32, 64), *[(27, 64, 64)] * 3]
    convs += [(1, 32, 64), *[(1, 64, 128)] * 2, (8, 128, 128)]
    features = sum(4 * (into + out) for _, into, out in convs)
    kernels = sum(4 * volume * into * out for volume, into, out in convs)
    maps = 8 * sum(volume > 1 for volume, _, _ in convs)
    norms = [32, 32, 32, 64, 32, 32, 64, 64, 64, 64, 64]  # stem, three downwards, two a block, one shortcut
    relus = [32, 32, 32, 64, 32, 32, 64, 64, 64, 64]
    features += sum(8 * width for width in (*norms, *relus, 32, 64, 64, 128))
    kernels += sum(8 * width for width in norms) + 4 * (3 + 3 + 3 + 1)
    assert traffic.forward == features + kernels + maps


def test_threads_are_pinned_by_starting_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, str]] = []
    monkeypatch.setattr("os.execve", lambda path, arguments, environment: started.append(environment))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, "3")
    pin_threads(3)
    assert not started
    pin_threads(2)
    assert started[0]["OMP_NUM_THREADS"] == started[0]["OPENBLAS_NUM_THREADS"] == "2"


@needs_minkowski
@pytest.mark.minkowski
def test_minkowskis_own_layers_agree_on_a_single_cloud() -> None:
    single = batch_of(voxel_clouds("street", 500, 1), 1)
    for case in cases([OwnEngine("torch"), NativeEngine()], single, GROUPS):
        assert set(deviations(case)) == {"torch", NATIVE}, case.name


@needs_minkowski
@pytest.mark.minkowski
def test_pooling_over_batches_is_not_compared_with_minkowskis_own(coords: torch.Tensor) -> None:
    engines = [OwnEngine("torch"), NativeEngine()]
    left_out = {case.name.split()[0] for case in cases(engines, coords, GROUPS) if NATIVE not in deviations(case)}
    assert left_out == {"ECA", "GeM", "trunk"}
