"""``distilplace bench student WEIGHTS``: how fast and how large a student is on this machine, and maps for it.

The network in PyTorch (eager, channels-last, bf16), then exported as ONNX float32 and INT8; each kind and batch size in
a process of its own, one after another: one warm-up, then --seconds of batches, from uint8 arrays to embeddings. Ratios
are against eager at the same batch size, above 1 is better. "CPU ms" counts all threads. Peak memory is the process's,
with Python and its libraries. The exports are compared with the network as by ``distilplace export``; INT8 is
calibrated on the images of the data set or of --calibrate, else on generated pictures, enough for its speed.

Then maps of --sizes places are built and searched with and without a position prior (``python -m tools.bench.maps``;
a million places take some 20 minutes and 3 GB of disk).

    distilplace bench student logs/<run>/models/best.safetensors --json bench/student.json

Further flags are those of evaluate.py on data sets, such as --dataset_folder.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from distilplace.common.errors import UserError
from distilplace.common.files import atomic_path, require_file
from distilplace.common.home import program
from distilplace.engine.program import exit_code
from distilplace.engine.progress import stage
from distilplace.tools.bench import maps
from distilplace.tools.bench.machine import device_name
from distilplace.tools.bench.student_process import EAGER, Task, Timing, measure
from distilplace.tools.export.files import described, write
from distilplace.tools.export.graph import onnx_graph
from distilplace.tools.export.images import generated_images
from distilplace.tools.export.quantise import quantise
from distilplace.tools.export.run import ANY_SIZE, compared, pixel_network
from distilplace.tools.export.source import open_data, open_source

ONNX = ("ONNX float32", "ONNX INT8")
HEADER = ("kind", "batch", "p50 ms", "p95 ms", "CPU ms", "images/s", "MiB peak", "MB file", "faster", "CPU", "smaller")
SIZES = "6006,21711,100000"
CALIBRATION = 50
STOPPED = "stopped; nothing was written"


class Row(NamedTuple):
    """One kind at one batch size; ``faster``, ``cpu_ratio`` and ``smaller`` against eager."""

    kind: str
    batch: int
    timing: Timing
    file_mb: float
    faster: float
    cpu_ratio: float
    smaller: float

    def cells(self) -> tuple[str, ...]:
        """As text."""
        wall = self.timing
        rate = 1000 * self.batch / wall.p50_ms
        peak = "-" if wall.peak_mib is None else f"{wall.peak_mib:.0f}"
        times = (f"{value:.1f}" for value in (wall.p50_ms, wall.p95_ms, wall.cpu_ms, rate))
        ratios = (f"{value:.2f}x" for value in (self.faster, self.cpu_ratio, self.smaller))
        return (self.kind, str(self.batch), *times, peak, f"{self.file_mb:.1f}", *ratios)


def exported(weights: Path, folder: Path, calibrate: Path | None, flags: Sequence[str]) -> tuple[dict[str, Path], Task]:
    """The files that each kind runs, and the first task, of the network's size; says how close the exports are.

    Raises:
        UserError: weights that cannot be exported, or a pose network.

    """
    source = open_source(require_file(weights, "weights file"))
    size = source.size or ANY_SIZE
    network = pixel_network(source)
    if network.output != "embedding":
        raise UserError(f"weights file {weights} gives poses: students that give embeddings are measured")
    data = open_data(source, weights, calibrate, flags, calibrates=True)
    files = dict.fromkeys(EAGER, weights)
    with stage("exporting"):
        graph = onnx_graph(network, source.size)
        images = (data.calibration or generated_images(size, source.preprocessing)).spread(CALIBRATION)
        made = zip(ONNX, (graph, quantise(graph, list(images.batches(1, "calibrating")), "cpu").model), strict=True)
    for kind, model in made:
        parity = compared(network, model, source, data)
        print(f"{kind} against the network itself: {parity.told()}", flush=True)
        precision = "int8" if kind == ONNX[1] else "float32"
        files[kind] = folder / f"{precision}.onnx"
        write(described(model, source.card, {"precision": precision, "target": "cpu"}), files[kind])
    return files, Task(EAGER[0], weights, 1, size, 1, 0.0)


def timings(files: dict[str, Path], first: Task, batches: Sequence[int]) -> list[Row]:
    """Every kind at every batch size, each in a new process."""
    rows: list[Row] = []
    for batch in batches:
        for kind, path in files.items():
            with stage(f"{kind}, batch {batch}"):
                timing = _alone(first._replace(kind=kind, path=path, batch=batch))
            size = path.stat().st_size / 1e6
            eager = next((row for row in rows if row.batch == batch), None)
            base = eager or Row(kind, batch, timing, size, 1.0, 1.0, 1.0)
            ratios = base.timing.p50_ms / timing.p50_ms, base.timing.cpu_ms / timing.cpu_ms, base.file_mb / size
            rows.append(Row(kind, batch, timing, size, *ratios))
    return rows


def _alone(task: Task) -> Timing:
    """``measure`` in a new process, which inherits nothing but the environment."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, task).result()


def table(rows: Sequence[Row]) -> str:
    """The rows, aligned."""
    lines = [HEADER, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    texts = [[cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *cells[1:]]) for line, cells in zip(lines, texts, strict=True)
    )


def bench(chosen: argparse.Namespace, flags: Sequence[str]) -> None:
    """Measure, print both tables, and write ``chosen.json``."""
    batches, sizes = _numbers(chosen.batches, "--batches"), _numbers(chosen.sizes, "--sizes")
    print(f"{device_name()}, {chosen.threads} thread(s)", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        files, first = exported(chosen.weights, Path(folder), chosen.calibrate, flags)
        task = first._replace(threads=chosen.threads, seconds=chosen.seconds)
        rows = timings(files, task, batches)
        print(f"{table(rows)}\nratios against eager, above 1 is better", flush=True)
        searches = []
        for size in sizes:
            with stage(f"map of {size:,} places"):
                searches += maps.measure(size, maps.usual_indexes(), Path(folder))
        if searches:
            print(f"{maps.table(searches)}\n{maps.threshold(searches)}")
    if chosen.json is not None:
        plain = [{**row._asdict(), "timing": row.timing._asdict()} for row in rows]
        content = {"device": device_name(), "threads": chosen.threads, "weights": str(chosen.weights)}
        written = {**content, "students": plain, "maps": [row._asdict() for row in searches]}
        with atomic_path(chosen.json) as path:
            path.write_text(json.dumps(written, indent=1) + "\n")
        print(f"written to {chosen.json}")


def _numbers(text: str, flag: str) -> list[int]:
    if text == "none":
        return []
    if not all(each.isdecimal() and int(each) > 0 for each in text.split(",")):
        raise UserError(f"{flag} {text}: give whole numbers above 0, separated by commas")
    return [int(each) for each in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 on success, 2 on a user's mistake."""
    parser = argparse.ArgumentParser(
        prog=f"{program('tools.bench')} student",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help="weights file of a run (best.safetensors)")
    parser.add_argument("--batches", default="1,32", help="images at once, separated by commas (1,32)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads (all cores)")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each kind and batch size (5)")
    parser.add_argument("--calibrate", type=Path, metavar="FOLDER", help="images to calibrate INT8 and compare on")
    parser.add_argument("--sizes", default=SIZES, help=f"places of maps, separated by commas, or none ({SIZES})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the numbers go")
    chosen, flags = parser.parse_known_args(arguments)

    def work() -> None:
        if chosen.threads < 1:
            raise UserError(f"--threads {chosen.threads}: at least 1 is needed")
        bench(chosen, flags)

    return exit_code(work, STOPPED)
