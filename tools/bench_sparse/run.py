"""``make bench-sparse``: every installed sparse engine side by side, in one process, in turns.

Map building (cold), each layer kind alone (maps kept), and the whole default MinkLoc trunk from raw coordinates
(all again in every run); on generated streets, the demo world and real KITTI frames. Before anything is timed the
engines must agree. "Times as fast" is the reference's time / the engine's, the median over rounds; peak memory is that
of the trunk, above the level before; "of the floor" is the share of the memory-bandwidth floor that is reached.

The last line compares the engine that "auto" takes with MinkowskiEngine (the faster of our adapter to it and a model
written in its own layers), on real clouds where there are any. Nothing of the machine's settings is changed; one
command serves a GPU: ``python -m tools.bench_sparse --device cuda``.
"""

import argparse
import json
import os
import platform
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from distilplace.common.errors import UserError
from distilplace.common.files import atomic_path
from distilplace.common.home import program
from distilplace.engine.program import exit_code
from distilplace.models.sparse.backends import available_backends, choose_backend, list_backends
from distilplace.tools.bench.machine import device_name
from distilplace.tools.bench.run import STOPPED
from distilplace.tools.bench_sparse.cases import GROUPS, TRUNK_BACKWARD, TRUNK_FORWARD, SparseCase, cases, deviations
from distilplace.tools.bench_sparse.clouds import SOURCES, AbsentClouds, batch_of, voxel_clouds
from distilplace.tools.bench_sparse.engines import Engine, OwnEngine, own_trunk
from distilplace.tools.bench_sparse.floor import Traffic, trunk_traffic
from distilplace.tools.bench_sparse.native import NAME as NATIVE
from distilplace.tools.bench_sparse.native import NativeEngine, native_unavailable
from distilplace.tools.bench_sparse.report import MINKOWSKI, Result, choose_reference, ratio, summaries, table
from distilplace.tools.bench_sparse.timing import alternate, copy_bandwidth, cuda_peak, resident_peaks

PACKAGES = ("torch", "numpy", "MinkowskiEngine", "spconv-triton", "triton", "numba")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
HEADLINE_BATCH = 8
HEADLINE_CLOUDS = ("real", "demo", "street")
CUDA_WARM_UP = 3


@dataclass(frozen=True)
class Settings:
    """What to measure; ``seconds`` per case, all engines together."""

    engines: tuple[str, ...]
    clouds: tuple[str, ...]
    batches: tuple[int, ...]
    cases: tuple[str, ...]
    points: int
    seconds: float
    device: str


def chosen_engines(names: Sequence[str] | None, device: torch.device) -> list[Engine]:
    """The engines by name, or all that are installed and fit the device, from the preferred on.

    Raises:
        UserError: unknown name, or one that cannot run here.

    """
    if names is None:
        found: list[Engine] = [OwnEngine(name) for name in available_backends(device)]
        return found if native_unavailable(device) else [*found, NativeEngine()]
    known = [*list_backends(), NATIVE]
    for name in names:
        reason = native_unavailable(device) if name == NATIVE else None
        if name not in known:
            raise UserError(f"--engines {name}: unknown; choose from {', '.join(known)}")
        if reason is not None:
            raise UserError(f"--engines {name}: {reason}")
        if name != NATIVE:
            choose_backend(name, device)
    return [NativeEngine() if name == NATIVE else OwnEngine(name) for name in known if name in names]


def measure(
    case: SparseCase, labels: tuple[str, torch.Tensor], settings: Settings, peaks: dict[str, int | None], floor: float
) -> Iterator[Result]:
    """One result per engine; ``labels``: the clouds' source and coordinates; ``floor`` in ms, 0 where there is none."""
    source, coords = labels
    found = deviations(case)
    runs = {name: side.run for name, side in case.sides.items()}
    if coords.is_cuda:
        peaks = {name: cuda_peak(run, coords.device) for name, run in runs.items()}
    warm_up = CUDA_WARM_UP if coords.is_cuda else 1
    times = alternate(runs, settings.seconds, coords.device, warm_up)
    reference = choose_reference(list(times))
    for name, mine in times.items():
        yield Result(
            source,
            int(coords[:, 0].max()) + 1,
            len(coords),
            case.name,
            name,
            reference,
            mine,
            ratio(times[reference], mine),
            found.get(name),
            peaks.get(name),
            floor / median(mine) if floor else None,
        )


def measure_batch(
    source: str, coords: torch.Tensor, engines: Sequence[Engine], settings: Settings, bandwidth: float
) -> Iterator[Result]:
    """Every case on one batch."""
    peaks: dict[str, dict[str, int | None]] = {TRUNK_FORWARD: {}, TRUNK_BACKWARD: {}}
    floors: dict[str, float] = {}
    if "trunk" in settings.cases:
        for engine in engines if not coords.is_cuda else ():
            for name, peak in zip(peaks, resident_peaks(engine, coords), strict=True):
                peaks[name][engine.name] = peak
        traffic = trunk_traffic(own_trunk().to(coords.device).eval(), coords)
        floors = {name: 1000 * size / bandwidth for name, size in _case_bytes(traffic).items()}
    for case in cases(engines, coords, settings.cases):
        print(f"  {source} x {int(coords[:, 0].max()) + 1}: {case.name} ...", file=sys.stderr, flush=True)
        yield from measure(case, (source, coords), settings, peaks.get(case.name, {}), floors.get(case.name, 0.0))


def _case_bytes(traffic: Traffic) -> dict[str, int]:
    return {TRUNK_FORWARD: traffic.forward, TRUNK_BACKWARD: traffic.forward + traffic.backward}


def clouds_at_hand(settings: Settings, skipped: dict[str, str]) -> dict[str, list[Any]]:
    """The voxel clouds of every source that is there; why another is not goes to ``skipped`` and is printed."""
    found = {}
    for source in settings.clouds:
        try:
            found[source] = voxel_clouds(source, settings.points, max(settings.batches))
        except AbsentClouds as absent:
            skipped[source] = str(absent)
            print(f"{source} clouds skipped: {absent}", flush=True)
    if not found:
        raise UserError(f"--clouds {' '.join(settings.clouds)}: none of them is on this machine; street always is")
    return found


def bench(settings: Settings, output: Path) -> None:
    """Measure everything, print the table and the last line, write it all to ``output``."""
    device = torch.device(settings.device)
    engines = chosen_engines(settings.engines or None, device)
    machine = _machine(device)
    print(f"{machine['device']}, {machine['threads']} thread(s), torch {machine['versions']['torch']}")
    print(f"engines: {', '.join(engine.name for engine in engines)}", flush=True)
    skipped: dict[str, str] = {}
    sources = clouds_at_hand(settings, skipped)
    single = {}  # first of all single clouds: there every engine's results can be compared
    for source, clouds in sources.items():
        on_one = cases(engines, batch_of(clouds, 1).to(device), settings.cases)
        single[source] = {case.name: deviations(case) for case in on_one}
    bandwidth = copy_bandwidth(device)
    results: list[Result] = []
    for source, clouds in sources.items():
        for size in settings.batches:
            results += measure_batch(source, batch_of(clouds, size).to(device), engines, settings, bandwidth)
    names, auto = [engine.name for engine in engines], choose_backend("auto", device).name
    ours = auto if auto in names else next((name for name in names if name not in MINKOWSKI), names[0])
    lines = list(summaries(results, ours, native_unavailable(device) or "no other engine was chosen"))
    content = {
        **machine,
        "settings": asdict(settings),
        "engines": names,
        "auto": auto,
        "ours": ours,
        "copy_bytes_per_second": bandwidth,
        "skipped": skipped,
        "single_cloud_deviations": single,
        "results": [{**asdict(each), "median_ms": each.median_ms, "spread": each.spread} for each in results],
        "summaries": [{"clouds": clouds, "batch": batch, "line": line} for clouds, batch, line in lines],
    }
    with atomic_path(output) as path:
        path.write_text(json.dumps(content, indent=1) + "\n")
    _print_report(results, lines, output, bandwidth)


def _print_report(results: Sequence[Result], lines: Sequence[tuple[str, int, str]], output: Path, speed: float) -> None:
    print(table(results))
    print(f"times as fast: as {results[0].reference}; floor: what must be moved, at the copy's {speed / 1e9:.1f} GB/s")
    print(f"written to {output}")
    for clouds, _, line in lines:
        print(f"{clouds}: {line}")
    if lines:
        last = min(lines, key=lambda each: (each[1] != HEADLINE_BATCH, HEADLINE_CLOUDS.index(each[0])))
        print(f"on {last[0]} clouds:\n{last[2]}")


def _machine(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device_name()
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    threads = {
        "threads": torch.get_num_threads(),
        "environment": {key: os.environ.get(key) for key in THREAD_VARIABLES},
    }
    return {"device": name, **threads, "python": platform.python_version(), "versions": versions}


def parse(arguments: Sequence[str] | None) -> tuple[Settings, Path, int | None]:
    """The command line: settings, where the numbers go, threads.

    Raises:
        UserError: a number that is out of range, or a device that is not there.

    """
    parser = argparse.ArgumentParser(
        prog=program("tools.bench_sparse"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs; the ratios mean little")
    parser.add_argument("--engines", nargs="+", metavar="ENGINE", help=f"default: all installed; {NATIVE} is one too")
    parser.add_argument("--clouds", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--cases", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--batches", nargs="+", type=int, metavar="B", help="clouds a batch (default 1 8 32 128)")
    parser.add_argument("--points", type=int, help="points a cloud at most (default 4096)")
    parser.add_argument("--seconds", type=float, help="per case, all engines together (default 5); at least 5 rounds")
    parser.add_argument("--threads", type=int, help="on the CPU (default: as many as PyTorch takes)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--output", type=Path, default=Path("bench/sparse.json"), help="where the numbers go")
    known = parser.parse_args(arguments)
    batches = known.batches or ([1, HEADLINE_BATCH] if known.quick else [1, HEADLINE_BATCH, 32, 128])
    points = (128 if known.quick else 4096) if known.points is None else known.points
    seconds = (0.0 if known.quick else 5.0) if known.seconds is None else known.seconds
    threads = 1 if known.threads is None else known.threads
    for flag, value, least in (
        ("--batches", min(batches), 1),
        ("--points", points, 1),
        ("--seconds", seconds, 0),
        ("--threads", threads, 1),
    ):
        if value < least:
            raise UserError(f"{flag} {value}: must be at least {least}")
    _check_device(known.device)
    names = (tuple(known.engines or ()), tuple(dict.fromkeys(known.clouds)))
    settings = Settings(*names, tuple(batches), tuple(known.cases), points, seconds, known.device)
    return settings, known.output, known.threads


def _check_device(name: str) -> None:
    if name not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: choose cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch sees no CUDA device here")


def pin_threads(wanted: int | None) -> None:
    """Start this program again with every library's thread count in the environment, unless it is there already.

    PyTorch's own setting does not reach MinkowskiEngine's OpenMP and OpenBLAS, which read the environment once.
    """
    threads = str(wanted or torch.get_num_threads())
    if any(os.environ.get(name) != threads for name in THREAD_VARIABLES):
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **dict.fromkeys(THREAD_VARIABLES, threads)})


def main(arguments: Sequence[str] | None = None, *, own_process: bool = False) -> int:
    """Command line; ``own_process``: it may start itself again to set the threads."""

    def work() -> None:
        settings, output, threads = parse(arguments)
        if own_process:
            pin_threads(threads)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bench(settings, output)

    return exit_code(work, STOPPED)
