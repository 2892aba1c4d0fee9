"""``make demo``: generate the world, train a teacher, train a student with and without it, compare the three; then
export the distilled student, build a map and localise three pictures with it, and in a map that the teacher makes.

Every step is a ``train.py`` command, shown before it runs; run it yourself with other options. Finished steps are not
repeated (``--resume auto``), so an interrupted demo goes on. ``--quick`` does the same on a smaller world with fewer
epochs: it shows that everything works here, its figures mean little.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from distilplace.common.home import home, is_checkout, program, recipe
from distilplace.datasets.readers.demo.data import DemoData
from distilplace.datasets.readers.oxford.layout import IMAGES
from distilplace.engine.building import build_data
from distilplace.engine.options import TrainOptions
from distilplace.engine.options.command_line import last_of_each, parse
from distilplace.engine.program import exit_code
from distilplace.engine.reporting import Outcome, report_outcome
from distilplace.engine.runs.folder import LOG
from distilplace.tools.demo.on_robot import on_robot
from distilplace.tools.shared_flags import only_read, refuse_in_vain
from distilplace.train import run

QUICK_WORLD = {"places": 26, "train_runs": 3, "test_runs": 2}
QUICK_FLAGS = ["--epochs", "5", "--milestones", "4"]
ALONE = ("--distil_method", "nokd", "--kd", "None", "--align_head", "False")
"""Flags of the demo's student without a teacher: the same network, which learns from the task loss."""


def step(title: str, *flags: str) -> Outcome:
    """Run one ``train.py`` command in this process, without those of the ``flags`` that it does not read."""
    flags = tuple(only_read(flags))
    LOG.info("\n=== %s\n$ %s %s", title, "python train.py" if is_checkout() else "distilplace train", " ".join(flags))
    return run(parse(TrainOptions, flags, home=home()))


def student_flags(logdir: Path, name: str, *flags: str) -> list[str]:
    """Flags of a student run distilled from the teacher in the same folder of runs."""
    teacher = logdir / "teacher" / "models" / "best.safetensors"
    where = ["--logdir", str(logdir), "--exp_name", name, "--resume", "auto"]
    return ["--config", str(recipe("demo_student")), "--teacher_weights_path", str(teacher), *where, *flags]


def teacher_flags(logdir: Path, *flags: str) -> list[str]:
    """Flags of the demo's teacher run."""
    where = ["--logdir", str(logdir), "--exp_name", "teacher", "--resume", "auto"]
    return ["--config", str(recipe("demo_teacher")), *where, *flags]


def demo(logdir: Path, flags: list[str]) -> Path:
    """The three runs and their common report; path of the report."""
    start = time.perf_counter()
    teacher = step("1/3  teacher: LiDAR + image", *teacher_flags(logdir, *flags))
    alone = step("2/3  student: image only, no teacher", *student_flags(logdir, "alone", *ALONE, *flags))
    distilled = step("3/3  student: image only, distilled", *student_flags(logdir, "distilled", *flags))
    names = ("teacher (LiDAR + image)", "student alone (image)", "student distilled (image)")
    networks = (teacher.entries[0], alone.entries[0], distilled.entries[0])
    entries = [replace(entry, name=name) for name, entry in zip(names, networks, strict=True)]
    LOG.info("\n=== result, on traversals none of the three has seen (%.0f s)", time.perf_counter() - start)
    outcome = Outcome(logdir, entries, teacher.test, teacher.notes, teacher.device)
    page = report_outcome(outcome, title="DistilPlace demo", seed=1)
    chosen = parse(TrainOptions, last_of_each(teacher_flags(logdir, *flags)), home=home(), all_read=False)
    on_robot(logdir, build_data(chosen).training_set().records, teacher.test, chosen.dataset)
    return page


def quick_flags(logdir: Path, flags: list[str]) -> list[str]:
    """Flags that put the three runs on a small world, generated where the demo's worlds are kept, for few epochs."""
    chosen = parse(TrainOptions, last_of_each(teacher_flags(logdir, *flags)), home=home(), all_read=False)
    world = DemoData(chosen.dataset_folder, chosen.demo_seed, **QUICK_WORLD).dataset_folder
    where = ["--dataset", "oxford", "--dataset_folder", str(world), "--image_path", str(world / IMAGES)]
    return [*QUICK_FLAGS, *flags, *where]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: ``python -m tools.demo [--quick] [--logdir logs/demo] [train.py flags for all three runs]``."""
    parser = argparse.ArgumentParser(
        prog=program("tools.demo"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--logdir", type=Path, help="folder of the three runs (default logs/demo or logs/demo_quick)")
    parser.add_argument("--quick", action="store_true", help="small world, few epochs: 1 to 2 minutes on 2 cores")
    known, flags = parser.parse_known_args(arguments)
    logdir = known.logdir or Path("logs/demo_quick" if known.quick else "logs/demo")

    def work() -> None:
        refuse_in_vain(flags, [teacher_flags(logdir), student_flags(logdir, "distilled")])
        demo(logdir, quick_flags(logdir, flags) if known.quick else flags)

    return exit_code(work)
