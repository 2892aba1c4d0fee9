"""A flat folder of images, one ordered sequence, without database and queries: what ASHT-KD's ``--data_dir`` holds.

Images up to ``frame_tolerance`` numbers apart show one place. The first part of the sequence trains; of the rest, which
begins two tolerances later, every other image is a query to those between.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distilplace.common.decoding import image_suffixes
from distilplace.common.errors import UserError
from distilplace.common.inputs.image_files import entries_of
from distilplace.datasets.image_sets import Images, record
from distilplace.datasets.matches import matches_by_number
from distilplace.datasets.records import PlaceRecord, TrainingSet


def is_flat(folder: Path, sides: Sequence[str]) -> bool:
    """Does ``folder`` hold images itself, and none of the folders ``sides``?"""
    if any((folder / side).is_dir() for side in sides):
        return False
    names = (entry.name for entry in entries_of(folder))
    return any(not name.startswith(".") and Path(name).suffix.lower() in image_suffixes() for name in names)


def flat_tolerance(folder: Path, tolerance: int | None, sides: str) -> int:
    """``tolerance``, or a :class:`UserError` that says what a flat folder needs."""
    if tolerance is None:
        raise UserError(
            f"{folder} is a flat folder of images: set --frame_tolerance N (images up to N frames apart show one "
            f"place), or sort the images into {sides}"
        )
    if tolerance == 0:
        raise UserError(f"--frame_tolerance 0 leaves no two images of the flat {folder} in one place: set at least 1")
    return tolerance


def flat_parts(
    folder: Path, names: Sequence[str], numbers: np.ndarray, tolerance: int, fraction: float
) -> tuple[Images, TrainingSet | None]:
    """Test and training part of the images ``names`` [n] below ``folder`` with frame ``numbers``, int64 [n].

    ``fraction`` of them train, in the order of the numbers; None for 0. Positives are up to ``tolerance`` apart;
    images up to twice that, which may share a positive, are no negatives.

    Raises:
        UserError: no two images of a part lie within the tolerance.

    """
    order = np.argsort(numbers, kind="stable")
    cut = round(fraction * len(order))
    first, rest = order[:cut], order[cut:]
    training = None
    if fraction > 0:
        training = _training_set(_records(folder, names, numbers, first, "train"), numbers[first], tolerance)
        rest = rest[numbers[rest] > (numbers[first[-1]] if cut else -1) + 2 * tolerance]
    database, queries = rest[::2], rest[1::2]
    truth = matches_by_number(numbers[database], numbers[queries], tolerance)
    if not any(len(row) for row in truth):
        raise UserError(
            f"{folder}: of {len(names)} images {len(rest)} are left to test on, and no two of them, taken alternately "
            f"as database and query, lie within --frame_tolerance {tolerance}: raise it, or lower --train_fraction"
        )
    remembered = _records(folder, names, numbers, database, "database")
    return Images(remembered, _records(folder, names, numbers, queries, "queries"), truth), training


def flat_note(test: Images, training: TrainingSet | None, tolerance: int) -> str:
    """What was made of a flat folder, for the log."""
    trained = "none trains" if training is None else f"the first {len(training)} train"
    return (
        f"flat folder: {trained}; then every other image is a query ({len(test.queries)}) to those between "
        f"({len(test.database)}); one place: up to {tolerance} frame{'' if tolerance == 1 else 's'} apart"
    )


def _records(folder: Path, names: Sequence[str], numbers: np.ndarray, rows: np.ndarray, run: str) -> list[PlaceRecord]:
    start = numbers.min()
    return [record(run, folder / names[i], names[i], float(numbers[i] - start), upright=True) for i in rows]


def _training_set(records: list[PlaceRecord], numbers: np.ndarray, tolerance: int) -> TrainingSet:
    near = matches_by_number(numbers, numbers, tolerance)
    positives = [row[row != index] for index, row in enumerate(near)]
    if not any(len(row) for row in positives):
        step = f"; the smallest step is {np.diff(numbers).min()}" if len(numbers) > 1 else ""
        raise UserError(
            f"no two of the {len(records)} training images lie within --frame_tolerance {tolerance}{step}: raise it "
            "or --train_fraction"
        )
    return TrainingSet(records, positives, matches_by_number(numbers, numbers, 2 * tolerance))
