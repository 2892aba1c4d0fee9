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
NOT_FITTED = ("--centre", "False", "--align_head", "False")
PLAIN = ("--kd", "None", *NOT_FITTED)
"""Relations alone, as the published methods have them; centred by the evaluation alone."""
NO_METHOD, HEAD = ("--distil_method", "nokd"), ("--embedding_head", "linear")
DEMO = "ours_rkdg + align_projected"
KINDS: dict[str, tuple[str, ...]] = {
    "alone": (*NO_METHOD, *PLAIN),
    "alone, with head": (*NO_METHOD, *PLAIN, *HEAD),
    "rkdg": ("--distil_method", "rkdg", *PLAIN),
    "ours_rkdg": PLAIN,
    "align, with head": (*NO_METHOD, "--kd", "align:1", *HEAD, *NOT_FITTED),
    "ours_rkdg + align, with head": ("--kd", "align:1", "--logit_mapping_fn", "centred", *HEAD, *NOT_FITTED),
    "aml, with head": (*NO_METHOD, "--kd", "aml:1", *HEAD, *NOT_FITTED),
    "csd_bank, with head": (*NO_METHOD, "--kd", "csd_bank:1", *HEAD, *NOT_FITTED),
    DEMO: (),
    f"{DEMO}, shuffled": ("--shuffle_teacher",),
}
"""Flags of each kind of student on top of the demo's recipe."""
RIDGE = "ridge head"
SPACES = ("raw", "centred")
COLUMNS = tuple((direction, space) for direction in (STUDENT, ACROSS) for space in SPACES)
Scores = dict[str, dict[int, list[float | None]]]


def measured(folder: Path, title: str, *flags: str) -> dict[str, Any]:
    """The networks of a student's run, from its folder; it is trained unless it has finished already."""
    result = folder / "test.json"
    if not result.is_file():
        step(title, *flags)
    numbers: dict[str, Any] = json.loads(result.read_text())
    return numbers


def rows(kind: str, networks: dict[str, Any]) -> dict[str, list[float | None]]:
    """The rows of a run: of the student as it was learned, and of the one with a fitted head for the teacher's map."""
    first, *others = networks
    learned = next((name for name in others if first == f"{name}, centred"), first)
    found = {kind: row(networks[learned])}
    return found | {f"{kind}, {RIDGE}": row(networks[name]) for name in others if name.endswith(RIDGE)}


def row(numbers: dict[str, Any]) -> list[float | None]:
    """R@1 in percent by :data:`COLUMNS`, then that of the teacher in its own map, as it is and centred.

    A student that had no teacher is measured in its own map alone, as it is: None for the rest.
    """
    wanted = [*COLUMNS, *((TEACHER, space) for space in SPACES)]
    if "asymmetric" not in numbers:
        return [numbers["recall"]["1"] if each == (STUDENT, "raw") else None for each in wanted]
    spaces = next(iter(numbers["asymmetric"].values()))
    return [spaces[space]["directions"][direction]["recall@1"] for direction, space in wanted]


def measure(logdir: Path, kinds: Sequence[str], seeds: Sequence[int], extra: list[str]) -> Scores:
    """The rows of every kind and seed; kept in ``scores.json`` after each run."""
    refuse_in_vain(extra, [teacher_flags(logdir), *(student_flags(logdir, "s", *KINDS[kind]) for kind in kinds)])
    if not (logdir / "teacher" / "test.json").is_file():
        step("teacher: LiDAR + image", *teacher_flags(logdir, *extra))
    scores: Scores = {}
    for seed in seeds:
        for kind in kinds:
            name = f"{kind.replace(', ', '-').replace(' + ', '-').replace(' ', '_')}-seed{seed}"
            found = student_flags(logdir, name, "--seed", str(seed), *KINDS[kind], *extra)
            for title, values in rows(kind, measured(logdir / name, f"{kind}, seed {seed}", *found)).items():
                scores.setdefault(title, {})[seed] = values
            with atomic_path(logdir / "scores.json") as path:
                path.write_text(json.dumps(scores, indent=1))
            LOG.info("\n%s", table(scores))
    return scores


def table(scores: Scores) -> str:
    """Mean and standard deviation over the seeds, as Markdown."""
    head = [f"{direction}{'' if space == 'raw' else ', centred'}" for direction, space in COLUMNS]
    lines = [f"| student | seeds | {' | '.join(head)} |", "|---|---|" + "---|" * len(head)]
    for kind, by_seed in scores.items():
        cells = [_spread(column) for column in list(zip(*by_seed.values(), strict=True))[: len(COLUMNS)]]
        lines.append(f"| {kind} | {', '.join(map(str, by_seed))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(found: Sequence[float | None]) -> str:
    values = [value for value in found if value is not None]
    if not values:
        return "-"
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: ``python -m tools.demo.teacher_maps [--logdir logs/demo_teacher_map] [train.py flags]``."""
    parser = argparse.ArgumentParser(prog=program("tools.demo.teacher_maps"), description=__doc__)
    parser.add_argument("--logdir", type=Path, default=Path("logs/demo_teacher_map"), help="folder of the runs")
    parser.add_argument("--students", nargs="+", choices=list(KINDS), default=list(KINDS), help="which kinds")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="one student each (default 1 2 3)")
    known, extra = parser.parse_known_args(arguments)
    return exit_code(lambda: measure(known.logdir, known.students, known.seeds, extra))


if __name__ == "__main__":
    sys.exit(main())
