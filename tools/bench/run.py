"""``make bench``: how fast DistilPlace's parts are, as a ratio to a plain reference measured in the same run.

Ours and the reference alternate, so that a change of the machine's load meets both; times are medians over the rounds,
the ratio (ours / reference; below 1 is faster) is the median of the rounds' ratios. Before anything is timed the two
must agree. "Kept" is what autograd keeps for the backward pass, each storage counted once; index tables are left out on
both sides, and it is not the peak within the forward pass. On the CPU; set OMP_NUM_THREADS to choose the threads.

``distilplace bench student WEIGHTS`` measures a trained student instead.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.common.files import atomic_path
from distilplace.common.home import program
from distilplace.engine.program import exit_code
from distilplace.tools.bench.cases import cases
from distilplace.tools.bench.inputs import QUICK, Case, Sizes
from distilplace.tools.bench.machine import device_name
from distilplace.tools.bench.relations import angle_peak

HEADER = ("name", "ours ms", "ref. ms", "ratio", "ours kept", "ref. kept", "reference")
MIN_ROUNDS, MAX_ROUNDS = 5, 100
STOPPED = "stopped; nothing was written"


@dataclass(frozen=True)
class Measurement:
    """One line of the table; ``ratio`` is ours / reference, the bytes are None where no graph is built."""

    name: str
    reference: str
    ours_ms: float
    reference_ms: float
    ratio: float
    rounds: int
    difference: float
    ours_kept_bytes: int | None
    reference_kept_bytes: int | None


def kept_bytes(build: Callable[[], Sequence[Tensor]]) -> int:
    """Bytes of the distinct storages that autograd keeps while ``build`` runs, index tables aside."""
    storages: dict[int, int] = {}
    held: list[Tensor] = []  # until the end, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        if tensor.dtype not in (torch.int32, torch.int64):
            held.append(tensor)
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        build()
    return sum(storages.values())


def difference(ours: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Largest deviation of two results, each tensor's relative to its largest number; NaN counts as infinite."""
    worst = 0.0
    for found, wanted in zip(ours, reference, strict=True):
        if found.shape != wanted.shape:
            return float("inf")
        scale = wanted.double().abs().max().clamp_min(1e-30)
        deviation = ((found.double() - wanted.double()).abs().max() / scale).item()
        worst = max(worst, deviation if deviation == deviation else float("inf"))
    return worst


def measure(case: Case, seconds: float) -> Measurement:
    """Check that both sides agree, then time them in turns for about ``seconds``, 5 to 100 rounds."""
    deviation = difference(case.ours(), case.reference())
    if deviation > case.tolerance:
        raise UserError(
            f"{case.name}: ours and the reference differ by {deviation:.1e} of the largest number, more than "
            f"{case.tolerance:.0e}; the timing would mean nothing"
        )
    kept = [kept_bytes(each) if case.saves else None for each in (case.ours, case.reference)]
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while len(times[0]) < MIN_ROUNDS or (time.perf_counter() < end and len(times[0]) < MAX_ROUNDS):
        for side, run in zip(times, (case.ours, case.reference), strict=True):
            start = time.perf_counter()
            run()
            side.append(1000 * (time.perf_counter() - start))
    ratio = median(mine / other for mine, other in zip(*times, strict=True))
    medians = median(times[0]), median(times[1])
    return Measurement(case.name, case.against, *medians, ratio, len(times[0]), deviation, *kept)


def table(found: Sequence[Measurement]) -> str:
    """The measurements, aligned."""
    rows = [HEADER]
    for line in found:
        kept = ["-" if size is None else f"{size / 2**20:.1f} MiB" for size in _kept(line)]
        times = f"{line.ours_ms:.3f}", f"{line.reference_ms:.3f}", f"{line.ratio:.3f}"
        rows.append((line.name, *times, kept[0], kept[1], line.reference))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    lines = []
    for row in rows:
        first, *numbers, last = row
        middle = (number.rjust(width) for number, width in zip(numbers, widths[1:-1], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *middle, last]))
    return "\n".join(lines)


def _kept(line: Measurement) -> tuple[int | None, int | None]:
    return line.ours_kept_bytes, line.reference_kept_bytes


def bench(sizes: Sizes, seconds: float, output: Path) -> list[Measurement]:
    """Measure everything, print the table and write it to ``output``."""
    machine = {"device": device_name(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(f"{machine['device']}, {machine['threads']} thread(s), torch {machine['torch']}", flush=True)
    found = []
    for case in cases(sizes):
        print(f"  {case.name} ...", file=sys.stderr, flush=True)
        found.append(measure(case, seconds))
    angles = angle_peak(sizes, alone=seconds > 0)
    print(f"{table(found)}\nratio: ours / reference, below 1 is faster; kept: for the backward pass, without indices")
    print(angles)
    content = {**machine, "sizes": asdict(sizes), "results": [asdict(line) for line in found], "angles": angles}
    with atomic_path(output) as path:
        path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"written to {output}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: ``python -m tools.bench [--quick] [--output bench/bench.json]``, or ``student WEIGHTS``."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["student"]:
        from distilplace.tools.bench import student

        return student.main(words[1:])
    parser = argparse.ArgumentParser(
        prog=program("tools.bench"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs; the ratios mean little")
    parser.add_argument("--output", type=Path, default=Path("bench/bench.json"), help="where the numbers go")
    known = parser.parse_args(words)

    def work() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tiny databases and the like
            bench(QUICK if known.quick else Sizes(), 0.0 if known.quick else 10.0, known.output)

    return exit_code(work, STOPPED)
