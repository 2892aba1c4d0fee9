"""``make demo-papers``: ASHT-KD, WAKD and three baselines on the generated world, teachers once, students three times.

Every step is a ``train.py`` command, shown before it runs. A run that has finished is not repeated, one that was
stopped goes on, so the whole may be interrupted at any time. The recipes are ``recipes/demo_*.yaml``.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from distilplace.common.files import atomic_path
from distilplace.common.home import program, recipe
from distilplace.datasets.readers.demo.data import DemoData
from distilplace.datasets.readers.oxford.layout import IMAGES
from distilplace.engine.program import exit_code
from distilplace.engine.runs.folder import LOG
from distilplace.tools.demo.run import step
from distilplace.tools.shared_flags import refuse_in_vain

PLACES, TRAIN_RUNS, TEST_RUNS = 40, 5, 3  # 200 training places
SEEDS = (1, 2, 3)
Scores = dict[str, list[float]]


@dataclass(frozen=True)
class Teacher:
    """A teacher's run: its folder's name, its recipe, its model and seed, further flags."""

    name: str
    recipe: str
    model: str
    seed: int
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """One method: which teachers teach which recipe's student; ``alone``: whose undistilled runs it shares."""

    name: str
    recipe: str
    teachers: tuple[Teacher, ...]
    flags: tuple[str, ...] = ()
    alone: str | None = None


PYRAMIDS = tuple(Teacher(f"apformer-{seed}", "demo_asht_teacher", "apformer", seed) for seed in (11, 12, 13))
VLAD = Teacher("resnet18netvlad", "demo_wakd_teacher", "resnet18netvlad", 11)
FUSED = Teacher("minklocmmcat", "demo_teacher", "minklocmmcat", 11, ("--image_size", "64x96"))
STUDIES = (
    Study("asht", "demo_asht", PYRAMIDS),
    Study("wakd", "demo_wakd", (VLAD,)),
    Study("epcnet", "demo_baseline", (FUSED,), ("--kd", "epcnet:0.5")),
    Study("rkd", "demo_baseline", (FUSED,), ("--kd", "rkd:0.5"), alone="epcnet"),
    Study("pkt", "demo_baseline", (FUSED,), ("--kd", "pkt:0.5"), alone="epcnet"),
)


def trained(folder: Path, title: str, *flags: str) -> float:
    """R@1 of a run in its folder, which is trained unless it has finished already."""
    result = folder / "test.json"
    if not result.is_file():
        step(title, *flags, "--logdir", str(folder.parent), "--exp_name", folder.name, "--resume", "auto")
    first = next(iter(json.loads(result.read_text()).values()))
    return float(first["recall"]["1"])


def from_recipe(name: str) -> list[str]:
    """The flag that names a recipe."""
    return ["--config", str(recipe(name))]


def study(logdir: Path, chosen: Study, extra: Sequence[str]) -> Scores:
    """R@1 of the study's teachers, and of its students alone and distilled, seed by seed."""
    scores: Scores = {"teacher": [], "alone": [], "distilled": []}
    for teacher in chosen.teachers:
        flags = [
            *from_recipe(teacher.recipe),
            "--model",
            teacher.model,
            "--seed",
            str(teacher.seed),
            *teacher.flags,
            *extra,
        ]
        scores["teacher"].append(trained(logdir / teacher.name, f"teacher {teacher.name}", *flags))
    models = [teacher.model for teacher in chosen.teachers]
    weights = [str(logdir / teacher.name / "models" / "best.safetensors") for teacher in chosen.teachers]
    with_teachers = ["--model", *models, "--teacher_weights_path", *weights, *chosen.flags]
    for seed in SEEDS:
        common = [*from_recipe(chosen.recipe), "--seed", str(seed), *extra]
        name = f"{chosen.alone or chosen.name}-alone-{seed}"
        scores["alone"].append(trained(logdir / name, name, *common, "--distil_method", "nokd"))
        name = f"{chosen.name}-distilled-{seed}"
        scores["distilled"].append(trained(logdir / name, name, *common, *with_teachers))
    return scores


def table(found: dict[str, Scores]) -> str:
    """R@1 in percent as Markdown: mean and standard deviation over the seeds (over the teachers, for them)."""
    lines = ["| method | teacher | student alone | distilled | distilled per seed |", "|---|---|---|---|---|"]
    for name, scores in found.items():
        cells = [spread(scores[kind]) for kind in ("teacher", "alone", "distilled")]
        lines.append(f"| {name} | {' | '.join(cells)} | {', '.join(f'{x:.1f}' for x in scores['distilled'])} |")
    return "\n".join(lines)


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean ± standard deviation, or the value alone."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def papers(logdir: Path, names: Sequence[str], extra: Sequence[str]) -> None:
    """Run the studies, keep their scores, print the table."""
    chosen_ones = [chosen for chosen in STUDIES if chosen.name in names]
    students = [[*from_recipe(chosen.recipe), *chosen.flags] for chosen in chosen_ones]
    refuse_in_vain(
        extra, [*students, *(from_recipe(each.recipe) for chosen in chosen_ones for each in chosen.teachers)]
    )
    world = DemoData(places=PLACES, train_runs=TRAIN_RUNS, test_runs=TEST_RUNS).dataset_folder
    where = ["--dataset", "oxford", "--dataset_folder", str(world), "--image_path", str(world / IMAGES), *extra]
    found = {}
    for chosen in chosen_ones:
        found[chosen.name] = study(logdir, chosen, where)
        with atomic_path(logdir / "scores.json") as path:
            path.write_text(json.dumps(found, indent=1))
    LOG.info("\nR@1 on traversals that none has seen, seeds %s\n\n%s", SEEDS, table(found))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: ``python -m tools.demo.papers [--only asht wakd ...] [--logdir D] [train.py flags]``."""
    parser = argparse.ArgumentParser(
        prog=program("tools.demo.papers"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [chosen.name for chosen in STUDIES]
    parser.add_argument("--logdir", type=Path, default=Path("logs/demo_papers"), help="folder of the runs")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="METHOD", help="some of the methods")
    known, extra = parser.parse_known_args(arguments)
    return exit_code(lambda: papers(known.logdir, known.only, extra), "stopped; the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
