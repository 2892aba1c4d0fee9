"""What is added to a map: images with their positions, from a folder and a table or from a data set."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distilplace.common.decoding import USUAL, image_suffixes
from distilplace.common.errors import UserError, unknown_name
from distilplace.common.extras import missing_extra
from distilplace.common.inputs.image_files import Tally, files_by_stem
from distilplace.common.inputs.poses import read_poses
from distilplace.common.inputs.position_checks import doubt, jumps, refuse_outliers, refuse_small_span


class Source(NamedTuple):
    """A run to add: ``positions`` [n, 2] easting, northing; altitudes and yaws [n] with NaN where unknown."""

    run: str
    images: list[Path]
    positions: np.ndarray
    timestamps: np.ndarray | None = None
    altitudes: np.ndarray | None = None
    yaws: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    records: Sequence[Any] = ()
    """The places as their data set has them, with their clouds; none of a folder."""


def from_folder(folder: Path, table: Path, run: str | None) -> Source:
    """The images of ``folder`` at the positions of ``table`` (frame,timestamp,easting,northing[,altitude,yaw]).

    Raises:
        UserError: no such folder or table, rows that are none, a row without an image, positions that are no metres.

    """
    if not folder.is_dir():
        raise UserError(f"image folder {folder} does not exist: check --images")
    rows, tally = read_poses(table), Tally()
    files = files_by_stem(folder, image_suffixes(), tally)
    if not files:
        there = f": it holds {tally.described()}{tally.remedy()}" if tally.left_out else ""
        raise UserError(f"image folder {folder} holds no image ({USUAL}){there}: check --images")
    absent = [row for row in rows if row.frame not in files]
    if absent:
        more = f" (and {len(absent) - 1} more rows)" if len(absent) > 1 else ""
        raise UserError(
            f"{table} line {absent[0].line}: frame {absent[0].frame} has no image in {folder}{more}: add it, remove "
            "the row, or check that table and folder are of one drive"
        )
    places = np.array([(row.northing, row.easting) for row in rows])
    where = [f"{table} line {row.line}: frame {row.frame}" for row in rows]
    refuse_outliers(where, places)
    refuse_small_span([places], f"positions in {table}")
    unlisted = len(files) - len(rows)
    notes = [*tally.notes(folder.name), *jumps(where, places), *filter(None, [doubt([places])])]
    notes += [f"{unlisted} of {len(files)} images have no row in {table.name} and are left out"] if unlisted else []
    return Source(
        run=folder.resolve().name if run is None else run,
        images=[files[row.frame] for row in rows],
        positions=places[:, ::-1].copy(),
        timestamps=np.array([row.timestamp for row in rows]),
        altitudes=_known(row.altitude for row in rows),
        yaws=_known(row.yaw for row in rows),
        notes=tuple(notes),
    )


def from_dataset(name: str, folder: Path | None, run: str | None, part: str = "test", data: Any = None) -> list[Source]:
    """The runs of a data set, each under its own name; ``run``: that one alone.

    ``part``: "test", the database of its evaluation, or "train", the training images in the order that the set lists.

    ``data``: the data set where it is open already.

    Raises:
        UserError: no torch, no such data set or run, one without positions in metres or without images.

    """
    if (reason := missing_extra("distilplace map add --dataset")) is not None:
        raise UserError(reason)
    from distilplace.datasets import EvaluationSet, create_dataset

    settings: dict[str, Any] = {} if folder is None else {"dataset_folder": folder}
    data = data or create_dataset(name, **settings)
    found = data.evaluation_set()
    runs = dict(zip(found.runs, found.database, strict=True)) if isinstance(found, EvaluationSet) else {}
    if not isinstance(found, EvaluationSet) or found.unit != "m" or not any(runs.values()):
        raise UserError(f"data set {name} has no places with positions in metres: a map needs them")
    if part == "train":
        runs = by_run(data.training_set().records)
    if run is not None and run not in runs:
        raise unknown_name("run", run, runs)
    sources = []
    for each, records in runs.items():
        if not records or run not in (None, each):
            continue
        if any(not record.images or record.crop for record in records):
            raise UserError(f"data set {name}: run {each} has records that are no whole images: a map needs them")
        places = np.array([(record.easting, record.northing) for record in records])
        sources.append(Source(each, [record.images[0] for record in records], places, records=records))
    return sources


def by_run(records: Iterable[Any]) -> dict[str, list[Any]]:
    """Place records by run, both in the order in which they come."""
    runs: dict[str, list[Any]] = {}
    for record in records:
        runs.setdefault(record.run, []).append(record)
    return runs


def _known(values: Iterable[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values])
