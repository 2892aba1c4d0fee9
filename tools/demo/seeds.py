"""``make demo-seeds``: does distillation help, and is it the teacher's knowledge that helps?

Three students per seed on the generated world: alone, distilled, and distilled from shuffled teacher outputs (each
place is handed another place's output). Seeds and worlds are fixed here: three seeds on the demo's world, one on a
second world. One teacher per world.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from distilplace.common.files import atomic_path
from distilplace.common.home import program
from distilplace.engine.program import exit_code
from distilplace.engine.runs.folder import LOG
from distilplace.tools.demo.run import ALONE, step, student_flags, teacher_flags
from distilplace.tools.shared_flags import refuse_in_vain

SEEDS = {1: (1, 2, 3), 2: (1,)}  # world -> students' seeds
KINDS = {
    "alone": ALONE,
    "distilled": (),
    "shuffled teacher": ("--shuffle_teacher",),
}
Scores = dict[str, list[tuple[float, float, float]]]


def measure(logdir: Path, world: int, extra: list[str]) -> Scores:
    """R@1, R@5 and R@1 % of every student of one world, in the order of the seeds; the teacher's once."""
    folder = logdir / f"world{world}"
    flags = ["--demo_seed", str(world), *extra]
    refuse_in_vain(extra, [teacher_flags(folder), *(student_flags(folder, "s", *more) for more in KINDS.values())])
    teacher = step(f"world {world}: teacher", *teacher_flags(folder, *flags)).entries[0].result
    scores: Scores = {"teacher": [(teacher.recall[1], teacher.recall[5], teacher.one_percent_recall)]}
    for seed in SEEDS[world]:
        for kind, more in KINDS.items():
            name = f"{kind.split()[0]}-seed{seed}"
            outcome = step(
                f"world {world}, seed {seed}: {kind}",
                *student_flags(folder, name, "--seed", str(seed), *more, *flags),
            )
            result = outcome.entries[0].result
            scores.setdefault(kind, []).append((result.recall[1], result.recall[5], result.one_percent_recall))
    return scores


def table(scores: Scores) -> str:
    """Mean and spread (standard deviation) over the seeds, as Markdown."""
    lines = ["| student | R@1 | R@5 | R@1 % | R@1 per seed |", "|---|---|---|---|---|"]
    for kind, rows in scores.items():
        cells = [
            f"{mean(column):.1f} ± {stdev(column):.1f}" if len(rows) > 1 else f"{column[0]:.1f}"
            for column in zip(*rows, strict=True)
        ]
        lines.append(f"| {kind} | {' | '.join(cells)} | {', '.join(f'{row[0]:.1f}' for row in rows)} |")
    return "\n".join(lines)


def compare(logdir: Path, worlds: list[int], extra: list[str]) -> None:
    """Measure every world, keep the scores, print the tables."""
    found = {world: measure(logdir, world, extra) for world in worlds}
    with atomic_path(logdir / "scores.json") as path:
        path.write_text(json.dumps(found, indent=1))
    for world, scores in found.items():
        LOG.info("\nworld %d, seeds %s\n%s", world, SEEDS[world], table(scores))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: ``python -m tools.demo.seeds [--logdir logs/demo_seeds] [train.py flags for all runs]``."""
    parser = argparse.ArgumentParser(prog=program("tools.demo.seeds"), description=__doc__)
    parser.add_argument("--logdir", type=Path, default=Path("logs/demo_seeds"), help="folder of the runs")
    parser.add_argument("--worlds", type=int, nargs="+", choices=list(SEEDS), default=list(SEEDS), help="which worlds")
    known, extra = parser.parse_known_args(arguments)
    return exit_code(lambda: compare(known.logdir, known.worlds, extra))


if __name__ == "__main__":
    sys.exit(main())
