"""The demo's last step: the distilled student as one ONNX file, a map of places, three pictures localised."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.home import is_checkout
from distilplace.datasets.records import Benchmark, EvaluationSet, PlaceRecord, positions
from distilplace.engine.runs.folder import LOG
from distilplace.runtime import Localiser, Location, PlaceMap, Student
from distilplace.tools.export.run import export, flag_parser

PICTURES = 3


def on_robot(logdir: Path, test: Benchmark) -> list[Location]:
    """Export the distilled student of ``logdir``, map all test traversals but the last, localise pictures of that.

    What an earlier demo left of these files is made anew.
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
        for run, records in zip(test.runs[:-1], test.database[:-1], strict=True):
            places.add(run, student.embed(_images(records)), positions(records)[:, ::-1], images=_images(records))
        held = test.queries[-1]
        chosen = [held[row] for row in np.linspace(0, len(held) - 1, PICTURES + 2).round().astype(int)[1:-1]]
        pictures = [str(record.images[0]) for record in chosen]
        LOG.info("map %s: %d places of %d traversals", map_file, places.info()["places"], len(places.runs()))
        LOG.info("$ %s --map %s %s", _command("localise"), map_file, " ".join(pictures))
        found = list(Localiser(places, student).localise(pictures, k=1))
    for record, location in zip(chosen, found, strict=True):
        (match,) = location.matches
        off = float(np.hypot(match.easting - record.easting, match.northing - record.northing))
        LOG.info(
            "%s: E %.1f N %.1f, similarity %.3f: %.1f m from where it was taken",
            *(record.key, match.easting, match.northing, match.similarity, off),
        )
    return found


def _command(name: str) -> str:
    return f"python -m tools.{name}" if is_checkout() else f"distilplace {name}"


def _images(records: Sequence[PlaceRecord]) -> list[Path]:
    return [record.images[0] for record in records]
