"""One way to run a student, timed in a process of its own: what ONNX Runtime is measured in never loads torch."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distilplace.tools.bench.machine import peak_mib

EAGER = ("eager", "channels-last", "bf16")
MIN_ROUNDS = 5


class Task(NamedTuple):
    """What a process measures."""

    kind: str
    """One of :data:`EAGER` (``path`` is a weights file), else a name for the ONNX file ``path``."""
    path: Path
    batch: int
    size: tuple[int, int]
    threads: int
    seconds: float


class Timing(NamedTuple):
    """Milliseconds of a batch (wall, then CPU of all threads), and MiB that the process held at most."""

    rounds: int
    p50_ms: float
    p95_ms: float
    cpu_ms: float
    peak_mib: float | None


def measure(task: Task) -> Timing:
    """In a new process: one warm-up, then batches for about ``task.seconds``, from arrays of pixels to embeddings."""
    os.environ["OMP_NUM_THREADS"] = str(task.threads)
    run = _eager(task) if task.kind in EAGER else _onnx(task)
    pixels = np.random.default_rng(0).integers(0, 256, (task.batch, *task.size, 3), dtype=np.uint8)
    run(pixels)
    wall: list[float] = []
    cpu, end = time.process_time(), time.perf_counter() + task.seconds
    while len(wall) < MIN_ROUNDS or time.perf_counter() < end:
        start = time.perf_counter()
        run(pixels)
        wall.append(1000 * (time.perf_counter() - start))
    used = 1000 * (time.process_time() - cpu) / len(wall)
    p50, p95 = np.percentile(wall, (50, 95)).tolist()
    return Timing(len(wall), p50, p95, used, peak_mib())


def _eager(task: Task) -> Callable[[np.ndarray], object]:
    import torch

    from distilplace.models.loaded import load_network

    torch.set_num_threads(task.threads)
    network = load_network(task.path, "cpu")
    if task.kind != "eager":
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(pixels: np.ndarray) -> object:
        with torch.autocast("cpu", torch.bfloat16, enabled=task.kind == "bf16"):
            return network.embed(pixels, len(pixels))

    return run


def _onnx(task: Task) -> Callable[[np.ndarray], object]:
    from distilplace.runtime import Student

    student = Student(task.path, task.threads)
    return lambda pixels: student.embed(pixels, len(pixels))
