"""The demo's last step: the distilled student as one ONNX file, a calibrated map, three pictures localised."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.home import is_checkout
from distilplace.datasets.records import Benchmark, EvaluationSet, PlaceRecord, positions
from distilplace.engine.runs.folder import LOG
from distilplace.runtime import Localiser, Location, PlaceMap, Student
from distilplace.tools.export.run import export, flag_parser
from distilplace.tools.localise.calibrate import calibration_parser, check, fit, own_drives
from distilplace.tools.localise.trials import Drive
from distilplace.tools.map.sources import by_run

PICTURES = 3


def on_robot(logdir: Path, training: Sequence[PlaceRecord], test: Benchmark) -> list[Location]:
    """Export the distilled student of ``logdir``, map the training traversals, localise pictures of the last test one.

    The map is calibrated on its own traversals, each localised among the others, and the promise is measured on all
    test traversals. What an earlier demo left of these files is made anew.
    """
    if not isinstance(test, EvaluationSet):
        raise UserError(f"{test.name} retrieves no places: the demo's last step needs traversals")
    weights = logdir / "distilled" / "models" / "best.safetensors"
    student_file, map_file = logdir / "student.onnx", logdir / "map.db"
    words = [str(weights), "-o", str(student_file)]
    LOG.info("\n=== to the robot: one file, a map, three pictures\n$ %s %s", _command("export"), " ".join(words))
    export(flag_parser().parse_args(words), [])
    student = Student(student_file)
    for left in (map_file, *(map_file.with_name(map_file.name + end) for end in ("-wal", "-shm"))):
        left.unlink(missing_ok=True)
    with PlaceMap(map_file, student.metadata) as places:
        for run, records in by_run(training).items():
            places.add(run, student.embed(_images(records)), positions(records)[:, ::-1], images=_images(records))
        LOG.info("map %s: %d places of %d traversals", map_file, places.info()["places"], len(places.runs()))
        drives = [
            Drive(run, student.embed(_images(records)), positions(records)[:, ::-1])
            for run, records in zip(test.runs, test.queries, strict=True)
        ]
        _calibrate(places, map_file, drives)
        held, last = test.queries[-1], drives[-1]
        rows = np.linspace(0, len(held) - 1, PICTURES + 2).round().astype(int)[1:-1]
        chosen = [held[row] for row in rows]
        pictures = [str(record.images[0]) for record in chosen]
        LOG.info("$ %s --map %s %s", _command("localise"), map_file, " ".join(pictures))
        localiser = Localiser(places, student)
        found = [localiser.locate(last.embeddings[row], k=1) for row in rows]
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


def _calibrate(places: PlaceMap, map_file: Path, drives: Sequence[Drive]) -> None:
    """Calibrate the map on its own runs, and measure that on drives that nothing has seen; a note where it cannot."""
    words = ["--map", str(map_file)]
    LOG.info("$ %s %s", _command("localise.calibrate" if is_checkout() else "calibrate"), " ".join(words))
    known = calibration_parser().parse_args(words)
    try:
        fit(places, own_drives(places, None), known)
    except UserError as error:
        LOG.info("the map is not calibrated: %s", error)
        return
    LOG.info("measured on the test traversals:")
    check(places, drives, known)


def _command(name: str) -> str:
    return f"python -m tools.{name}" if is_checkout() else f"distilplace {name}"


def _images(records: Sequence[PlaceRecord]) -> list[Path]:
    return [record.images[0] for record in records]
