"""``make demo-teacher-map``: which losses let a camera be localised in a map that its LiDAR + image teacher has made?

One teacher, and for every loss one student per seed, on the demo's world. Every student is measured in its own map
(student -> student) and in its teacher's (student -> teacher), as the networks are and centred. Every run is a
``train.py`` command, shown before it starts; a finished one is not repeated, a stopped one goes on.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from distilplace.common.files import atomic_path
from distilplace.common.home import program
from distilplace.engine.program import exit_code
from distilplace.engine.runs.folder import LOG
from distilplace.evaluation.retrieval.asymmetric import ACROSS, STUDENT, TEACHER
from distilplace.tools.demo.run import step, student_flags, teacher_flags
from distilplace.tools.shared_flags import refuse_in_vain

SEEDS = (1, 2, 3)
HEAD = ("--embedding_head", "linear")
ALONE = ("--distil_method", "nokd")
KINDS: dict[str, tuple[str, ...]] = {
    "rkdg": ("--distil_method", "rkdg"),
    "ours_rkdg": (),
    "align": (*ALONE, "--kd", "align:1", *HEAD),
    "ours_rkdg + align": ("--kd", "align:1", *HEAD),
    "aml": (*ALONE, "--kd", "aml:1", *HEAD),
    "csd_bank": (*ALONE, "--kd", "csd_bank:1", *HEAD),
}
"""Flags of each loss, on top of the demo student's recipe."""
CONTROL = "shuffled teacher outputs"
SPACES = ("raw", "centred")
COLUMNS = tuple((direction, space) for direction in (STUDENT, ACROSS) for space in SPACES)
Scores = dict[str, dict[int, list[float]]]


def measured(folder: Path, title: str, *flags: str) -> dict[str, Any]:
    """A student's numbers from its run's folder; it is trained unless it has finished already."""
    result = folder / "test.json"
    if not result.is_file():
        step(title, *flags)
    numbers: dict[str, Any] = next(iter(json.loads(result.read_text()).values()))
    return numbers


def row(numbers: dict[str, Any]) -> list[float]:
    """R@1 in percent by :data:`COLUMNS`, then that of the teacher in its own map, as it is and centred."""
    spaces = next(iter(numbers["asymmetric"].values()))
    wanted = [*COLUMNS, *((TEACHER, space) for space in SPACES)]
    return [spaces[space]["directions"][direction]["recall@1"] for direction, space in wanted]


def measure(logdir: Path, kinds: Sequence[str], seeds: Sequence[int], extra: list[str]) -> Scores:
    """The rows of every kind and seed; kept in ``scores.json`` after each run."""
    flags = {**KINDS, CONTROL: ("--shuffle_teacher",)}
    refuse_in_vain(extra, [teacher_flags(logdir), *(student_flags(logdir, "s", *flags[kind]) for kind in kinds)])
    if not (logdir / "teacher" / "test.json").is_file():
        step("teacher: LiDAR + image", *teacher_flags(logdir, *extra))
    scores: Scores = {kind: {} for kind in kinds}
    for seed in seeds:
        for kind in kinds:
            name = f"{kind.replace(' ', '').replace('+', '-')}-seed{seed}"
            found = student_flags(logdir, name, "--seed", str(seed), *flags[kind], *extra)
            scores[kind][seed] = row(measured(logdir / name, f"{kind}, seed {seed}", *found))
            with atomic_path(logdir / "scores.json") as path:
                path.write_text(json.dumps(scores, indent=1))
            LOG.info("\n%s", table(scores))
    return scores


def table(scores: Scores) -> str:
    """Mean and standard deviation over the seeds, as Markdown; kinds without a finished run are left out."""
    head = [f"{direction}{'' if space == 'raw' else ', centred'}" for direction, space in COLUMNS]
    lines = [f"| loss | seeds | {' | '.join(head)} |", "|---|---|" + "---|" * len(head)]
    for kind, rows in scores.items():
        if rows:
            cells = [_spread(column) for column in list(zip(*rows.values(), strict=True))[: len(COLUMNS)]]
            lines.append(f"| {kind} | {', '.join(map(str, rows))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: ``python -m tools.demo.teacher_maps [--logdir logs/demo_teacher_map] [train.py flags]``."""
    parser = argparse.ArgumentParser(prog=program("tools.demo.teacher_maps"), description=__doc__)
    parser.add_argument("--logdir", type=Path, default=Path("logs/demo_teacher_map"), help="folder of the runs")
    known_kinds = [*KINDS, CONTROL]
    parser.add_argument("--losses", nargs="+", choices=known_kinds, default=known_kinds, help="which losses")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="one student each (default 1 2 3)")
    known, extra = parser.parse_known_args(arguments)
    return exit_code(lambda: measure(known.logdir, known.losses, known.seeds, extra))


if __name__ == "__main__":
    sys.exit(main())
