"""The demo's last step: the distilled student as one file; three pictures in its map and its teacher's."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.home import is_checkout
from distilplace.datasets.records import Benchmark, EvaluationSet, PlaceRecord, positions
from distilplace.engine.heads.fitted import ALIGNED_FILE
from distilplace.engine.runs.folder import LOG, TEACHER_FILE
from distilplace.runtime import Localiser, Location, PlaceMap, Student
from distilplace.tools.export.run import export, flag_parser
from distilplace.tools.localise.calibrate import calibration_parser, check, fit
from distilplace.tools.localise.trials import Drive
from distilplace.tools.map.run import add
from distilplace.tools.map.run import flag_parser as map_parser
from distilplace.tools.map.sources import by_run

PICTURES = 3


def on_robot(logdir: Path, training: Sequence[PlaceRecord], test: Benchmark, dataset: str) -> list[Location]:
    """Export the distilled student of ``logdir``, map the training traversals, localise pictures of the last test one.

    The map is calibrated on half of the test traversals, which the student has not learned from, and the promise is
    measured on the other half. Then the teacher maps the same traversals of ``dataset`` with its LiDAR, and the
    student's pictures are localised there too. What an earlier demo left of these files is made anew.
    """
    if not isinstance(test, EvaluationSet):
        raise UserError(f"{test.name} retrieves no places: the demo's last step needs traversals")
    weights = logdir / "distilled" / "models" / "best.safetensors"
    student_file, map_file = logdir / "student.onnx", _free(logdir / "map.db")
    words = [str(weights), "-o", str(student_file)]
    LOG.info("\n=== to the robot: one file, a map, three pictures\n$ %s %s", _command("export"), " ".join(words))
    export(flag_parser().parse_args(words), [])
    student = Student(student_file)
    drives = [
        Drive(run, student.embed(_images(records)), positions(records)[:, ::-1])
        for run, records in zip(test.runs, test.queries, strict=True)
    ]
    with PlaceMap(map_file, student.metadata) as places:
        for run, records in by_run(training).items():
            places.add(run, student.embed(_images(records)), positions(records)[:, ::-1], images=_images(records))
        LOG.info("map %s: %d places of %d traversals", map_file, places.info()["places"], len(places.runs()))
        _calibrate(places, map_file, drives, dataset)
    found = _localise(map_file, student, test.queries[-1])
    surveyor, aligned = weights.with_name(TEACHER_FILE), weights.with_name(ALIGNED_FILE)
    if surveyor.is_file() and aligned.is_file():
        survey_file, aligned_file = _free(logdir / "lidar_map.db"), logdir / "student_aligned.onnx"
        words = [str(aligned), "-o", str(aligned_file)]
        LOG.info("\n=== the same in a LiDAR map of the teacher's\n$ %s %s", _command("export"), " ".join(words))
        export(flag_parser().parse_args(words), [])
        words = ["add", str(survey_file), "--dataset", dataset, "--part", "train", "--model", str(surveyor)]
        LOG.info("$ %s %s", _command("map"), " ".join(words))
        add(map_parser().parse_args(words))
        found += _localise(survey_file, Student(aligned_file), test.queries[-1])
    return found


def _localise(map_file: Path, student: Student, held: Sequence[PlaceRecord]) -> list[Location]:
    """Some pictures of a drive on the map; how far off each is, in the log."""
    rows = np.linspace(0, len(held) - 1, PICTURES + 2).round().astype(int)[1:-1]
    chosen = [held[row] for row in rows]
    pictures = [str(record.images[0]) for record in chosen]
    LOG.info("$ %s --map %s %s", _command("localise"), map_file, " ".join(pictures))
    with PlaceMap(map_file, student.metadata) as places:
        localiser = Localiser(places, student)
        found = [localiser.locate(embedding, k=1) for embedding in student.embed(_images(chosen))]
    for record, location in zip(chosen, found, strict=True):
        (match,) = location.matches
        off = float(np.hypot(match.easting - record.easting, match.northing - record.northing))
        sure = "" if location.confidence is None else f", confidence {location.confidence:.2f}"
        accepted = ", not accepted" if location.on_map is False else ""
        LOG.info(
            "%s: E %.1f N %.1f, similarity %.3f%s%s: %.1f m from where it was taken",
            *(record.key, match.easting, match.northing, match.similarity, sure, accepted, off),
        )
    return found


def _free(map_file: Path) -> Path:
    """The path, where nothing of an earlier map lies any more."""
    for left in (map_file, *(map_file.with_name(map_file.name + end) for end in ("-wal", "-shm"))):
        left.unlink(missing_ok=True)
    return map_file


def _calibrate(places: PlaceMap, map_file: Path, drives: Sequence[Drive], dataset: str) -> None:
    """Calibrate the map on half of the drives, and measure that on the others; a note where it cannot."""
    half = len(drives) // 2
    for work, chosen, more in ((fit, drives[:half], []), (check, drives[half:], ["--check"])):
        runs = [drive.run for drive in chosen]
        words = ["--map", str(map_file), "--dataset", dataset, "--part", "test", "--runs", *runs, *more]
        LOG.info("$ %s %s", _command("localise.calibrate" if is_checkout() else "calibrate"), " ".join(words))
        try:
            work(places, chosen, calibration_parser().parse_args(words))
        except UserError as error:
            LOG.info("the map is not calibrated: %s", error)
            return


def _command(name: str) -> str:
    return f"python -m tools.{name}" if is_checkout() else f"distilplace {name}"


def _images(records: Sequence[PlaceRecord]) -> list[Path]:
    return [record.images[0] for record in records]
