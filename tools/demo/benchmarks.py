"""``make demo-sckd``, ``make demo-whiten``: camera poses, landmarks and videos on the generated world, three seeds.

``sckd``: a ResNet34 that regresses poses, its ResNet18 student alone and distilled, median metres and degrees.
``whiten``: two retrieval networks, students of each alone and of both (Whiten_MTD), mAP of landmarks and of videos.
Every step is a ``train.py`` or ``evaluate.py`` command, shown before it runs; finished ones are not repeated.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distilplace import evaluate
from distilplace.common.files import atomic_path
from distilplace.common.home import program
from distilplace.engine.program import exit_code
from distilplace.engine.runs.folder import LOG
from distilplace.tools.demo.papers import SEEDS, from_recipe, spread
from distilplace.tools.demo.run import step
from distilplace.tools.shared_flags import refuse_in_vain

Measures = dict[str, float]
TEACHER_SEED = 11
VIDEOS = "evaluation-demo_videos"


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seed alone, one line of the table."""

    name: str
    folders: tuple[Path, ...]


def trained(folder: Path, title: str, *flags: str) -> Path:
    """A run's folder, trained unless it has finished already."""
    if not (folder / "test.json").is_file():
        step(title, *flags, "--logdir", str(folder.parent), "--exp_name", folder.name, "--resume", "auto")
    return folder


def weights(folder: Path) -> str:
    """The weights that a run chose."""
    return str(folder / "models" / "best.safetensors")


def seeds(logdir: Path, name: str, *flags: str) -> Row:
    """The same run with every seed."""
    folders = [trained(logdir / f"{name}-{seed}", f"{name}-{seed}", *flags, "--seed", str(seed)) for seed in SEEDS]
    return Row(name, tuple(folders))


def sckd(logdir: Path, extra: Sequence[str]) -> list[Row]:
    """Teacher, undistilled and distilled pose networks."""
    teach = [*from_recipe("demo_sckd_teacher"), "--seed", str(TEACHER_SEED), *extra]
    teacher = trained(logdir / "resnet34pose", "teacher resnet34pose", *teach)
    student = [*from_recipe("demo_sckd"), *extra]
    alone = seeds(logdir, "alone", *student, "--distil_method", "nokd")
    distilled = seeds(logdir, "distilled", *student, "--teacher_weights_path", weights(teacher))
    return [Row("teacher resnet34pose", (teacher,)), alone, distilled]


TEACHERS = ("resnet18_gem", "resnet18_solar")


def whiten(logdir: Path, extra: Sequence[str]) -> list[Row]:
    """Teachers of two kinds, students of one, the student of both."""
    rows, files = [], []
    for name in TEACHERS:
        flags = [*from_recipe("demo_whiten_teacher"), "--model", name, "--seed", str(TEACHER_SEED), *extra]
        folder = trained(logdir / name, f"teacher {name}", *flags)
        rows.append(Row(f"teacher {name}", (folder,)))
        files.append(weights(folder))
    student = [*from_recipe("demo_whiten"), *extra]
    for name, file in zip(TEACHERS, files, strict=True):
        rows.append(seeds(logdir, f"student-of-{name}", *student, "--model", name, "--teacher_weights_path", file))
    rows.append(seeds(logdir, "student-of-both", *student, "--model", *TEACHERS, "--teacher_weights_path", *files))
    for folder in (folder for row in rows for folder in row.folders):
        score_videos(folder)
    return rows


def score_videos(folder: Path) -> None:
    """Evaluate a run on the world's videos too, unless that was done."""
    if not (folder / VIDEOS / "test.json").is_file():
        flags = ["--weights", weights(folder), "--dataset", "demo_videos", "--report", str(folder / VIDEOS)]
        LOG.info("\n$ python evaluate.py %s", " ".join(flags))
        evaluate.run(flags)


def pose_measures(folder: Path) -> Measures:
    """What a table of poses shows of a run."""
    found = _first(folder / "test.json")
    return {"median m": found["median_metres"], "median deg": found["median_degrees"]}


def retrieval_measures(folder: Path) -> Measures:
    """What a table of landmarks and videos shows of a run."""
    landmarks, videos = _first(folder / "test.json"), _first(folder / VIDEOS / "test.json")
    maps = {f"mAP {name[0].upper()}": landmarks[name]["mAP"] for name in ("easy", "medium", "hard")}
    return {**maps, "mAP videos": videos["mAP"]}


def _first(path: Path) -> Mapping[str, Any]:
    """The trained network's numbers in a ``test.json``."""
    found: Mapping[str, Any] = next(iter(json.loads(path.read_text()).values()))
    return found


STUDIES = {"sckd": (sckd, pose_measures), "whiten": (whiten, retrieval_measures)}
RECIPES = {name: (f"demo_{name}_teacher", f"demo_{name}") for name in STUDIES}


def table(rows: Mapping[str, Sequence[Measures]]) -> str:
    """Markdown: a line per row, mean and standard deviation over its runs."""
    columns = list(next(iter(rows.values()))[0])
    lines = [f"| network | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, runs in rows.items():
        cells = [spread([run[column] for run in runs], 2) for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def study(name: str, logdir: Path, extra: Sequence[str]) -> None:
    """Run one study, keep its scores, print the table."""
    runs, measure = STUDIES[name]
    refuse_in_vain(extra, [from_recipe(each) for each in RECIPES[name]])
    rows = {row.name: [measure(folder) for folder in row.folders] for row in runs(logdir, extra)}
    with atomic_path(logdir / "scores.json") as path:
        path.write_text(json.dumps(rows, indent=1))
    LOG.info("\nOn traversals that none has seen, seeds %s\n\n%s", SEEDS, table(rows))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: ``python -m tools.demo.benchmarks sckd|whiten [--logdir D] [train.py flags]``."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(program("tools.demo.benchmarks"), description=__doc__, formatter_class=kind)
    parser.add_argument("study", choices=STUDIES, help="which of the two")
    parser.add_argument("--logdir", type=Path, help="folder of the runs [logs/demo_<study>]")
    known, extra = parser.parse_known_args(arguments)
    logdir = known.logdir or Path(f"logs/demo_{known.study}")
    return exit_code(lambda: study(known.study, logdir, extra), "stopped; the same command goes on")


if __name__ == "__main__":
    sys.exit(main())
