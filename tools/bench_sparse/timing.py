"""Rounds of several engines in turns, timed by the wall on the CPU and by device events on CUDA; peak memory."""

import multiprocessing
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np
import torch

from distilplace.tools.bench.run import MAX_ROUNDS, MIN_ROUNDS
from distilplace.tools.bench_sparse.cases import trunk_side
from distilplace.tools.bench_sparse.engines import Engine

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
COPY_BYTES = 2**28
FEW = 16  # voxels


def milliseconds(run: Callable[[], object], device: torch.device) -> float:
    """How long one run takes, freeing what it returns included."""
    if device.type != "cuda":
        begin = time.perf_counter()
        run()
        return 1000 * (time.perf_counter() - begin)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def alternate(
    runs: Mapping[str, Callable[[], object]], seconds: float, device: torch.device, warm_up: int = 1
) -> dict[str, list[float]]:
    """Milliseconds of every run by name: A, B, C, A, B, C ... for about ``seconds``, 5 to 100 rounds.

    A change of the machine's load so meets all, and round i of one may be divided by round i of another.
    """
    for _ in range(warm_up):
        for run in runs.values():
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    for done in range(MAX_ROUNDS):
        if done >= MIN_ROUNDS and time.perf_counter() > end:
            break
        for name, run in runs.items():
            times[name].append(milliseconds(run, device))
    return times


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second that a copy of 256 MiB reads and writes: the median of the rounds."""
    source = torch.ones(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    times = alternate({"copy": lambda: target.copy_(source)}, 0.3, device)["copy"]
    return 2 * COPY_BYTES / (median(times) / 1000)


def cuda_peak(run: Callable[[], object], device: torch.device) -> int:
    """Bytes that ``run`` holds on the device at its peak, above what was held before."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def resident_peaks(engine: Engine, coords: torch.Tensor) -> tuple[int | None, int | None]:
    """Bytes that the trunk's forward pass and its training step add to the resident memory at their peaks.

    In a new process, where no memory freed earlier can hide what they take. It comes from a server that has loaded the
    libraries but has no threads yet, for a fork of a process with threads may hang. None where the system does not
    tell (it is not Linux).
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["distilplace.tools.bench_sparse.timing"])
    receiver, sender = context.Pipe(duplex=False)
    settings = (sender, engine, coords.numpy(), torch.get_num_threads())
    child = context.Process(target=_report_peaks, args=settings, daemon=True)
    child.start()
    sender.close()
    try:
        forward, both = receiver.recv()
    except EOFError:  # it died; its own message says why
        forward = both = None
    child.join()
    return forward, both


def _report_peaks(sender: Connection, engine: Engine, rows: np.ndarray, threads: int) -> None:
    """In the new process: first steps on a few voxels (they load and compile what is needed), then the others."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    coords = torch.from_numpy(rows)
    for backward in (False, True):
        trunk_side(engine, coords[:FEW], backward).run()
    sender.send(peak_growth([trunk_side(engine, coords, backward).run for backward in (False, True)]))


def peak_growth(runs: Sequence[Callable[[], object]]) -> list[int | None]:
    """Bytes by which the resident memory has grown at most, above the level before all, once each run is done.

    So the runs' own peaks, if they come in ascending order. None where the system does not tell.
    """
    try:
        CLEAR.write_text("5")  # the peak starts from the present
        before = _resident("VmRSS")
        grown: list[int | None] = []
        for run in runs:
            run()
            grown.append(max(_resident("VmHWM") - before, 0))
    except OSError:
        return [None] * len(runs)
    return grown


def _resident(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"{STATUS} has no {field}")
    return 1024 * int(found[1])
