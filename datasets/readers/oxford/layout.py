"""Writes a data set in Oxford's on-disk layout: clouds, images, CSVs and the pickles that DistilVPR's readers expect.

Training tuples are pickled under upstream's class path ``datasets.oxford.TrainingTuple``, as the published files are.
"""

import pickle
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from distilplace.datasets.records import PlaceRecord
from distilplace.datasets.relations import training_relations, true_neighbours

TRAINING_FOLDER, TEST_FOLDER = "pointcloud_20m_10overlap", "pointcloud_20m"
IMAGES = "images"


@dataclass
class WrittenRun:
    """The places of one run in order: stamps (microseconds), positions ``[n, 2]`` (northing, easting), image stamps."""

    name: str
    folder: str
    stamps: list[int] = field(default_factory=list)
    positions: list[tuple[float, float]] = field(default_factory=list)
    images: list[list[int]] = field(default_factory=list)

    def cloud(self, index: int) -> str:
        """Path of a submap relative to the data set folder, as the pickles state it."""
        return f"oxford/{self.name}/{self.folder}/{self.stamps[index]}.bin"


def write_place(
    root: Path,
    run: WrittenRun,
    stamp: int,
    position: tuple[float, float],
    cloud: np.ndarray,
    images: Sequence[tuple[int, np.ndarray]],
) -> None:
    """Add a place to ``run``: its cloud (float64 ``[n, 3]``) and images (stamp, uint8 ``[H, W, 3]``), nearest first."""
    from PIL import Image

    run.stamps.append(stamp)
    run.positions.append(position)
    run.images.append([image_stamp for image_stamp, _ in images])
    path = root / run.cloud(len(run.stamps) - 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.ascontiguousarray(cloud, dtype="<f8").tobytes())
    folder = root / IMAGES / run.name
    folder.mkdir(parents=True, exist_ok=True)
    for image_stamp, pixels in images:
        Image.fromarray(pixels).save(folder / f"{image_stamp}.png")


def write_lists(root: Path, training: Sequence[WrittenRun], test: Sequence[WrittenRun]) -> None:
    """CSVs and pickles; positives within 10 m, non-negatives within 50 m, true neighbours within 25 m."""
    for run in [*training, *test]:
        rows = [f"{s},{north:.6f},{east:.6f}" for s, (north, east) in zip(run.stamps, run.positions, strict=True)]
        path = root / "oxford" / run.name / f"pointcloud_locations{run.folder.removeprefix('pointcloud')}.csv"
        path.write_text("\n".join(["timestamp,northing,easting", *rows]) + "\n")
    index = {
        np.int64(stamp): [np.int64(image) for image in images]
        for run in [*training, *test]
        for stamp, images in zip(run.stamps, run.images, strict=True)
    }
    _dump(root / IMAGES / "lidar2image_ndx.pickle", index)
    with _upstream_tuple() as make:
        _dump(root / "training_queries_baseline.pickle", _training(training, make))
    database, queries = _evaluation(test)
    _dump(root / "oxford_evaluation_database.pickle", database)
    _dump(root / "oxford_evaluation_query.pickle", queries)


def _training(runs: Sequence[WrittenRun], make: type) -> dict[int, Any]:
    places = [(run, index) for run in runs for index in range(len(run.stamps))]
    where = np.array([run.positions[index] for run, index in places])
    positives, non_negatives = training_relations(where, 10.0, 50.0)
    tuples = {}
    for number, (run, index) in enumerate(places):
        row = make()
        row.id = number
        row.timestamp = run.stamps[index]
        row.rel_scan_filepath = run.cloud(index)
        row.positives, row.non_negatives = positives[number], non_negatives[number]
        row.position = where[number]
        tuples[number] = row
    return tuples


def _evaluation(runs: Sequence[WrittenRun]) -> tuple[list[dict[int, Any]], list[dict[int, Any]]]:
    records = [
        [PlaceRecord(run.cloud(i), run.name, None, (), *position) for i, position in enumerate(run.positions)]
        for run in runs
    ]
    entries = ("query", "northing", "easting")
    queries = true_neighbours(records, records, 25.0)
    return [{i: {key: place[key] for key in entries} for i, place in run.items()} for run in queries], queries


def _dump(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        pickle.dump(content, stream, protocol=4)


@contextmanager
def _upstream_tuple() -> Iterator[type]:
    """A class that pickles as ``datasets.oxford.TrainingTuple`` while the block runs.

    Both modules of that path are stand-ins: the pickler imports them, and ``datasets`` is nobody's, a checkout's folder
    or Hugging Face's.
    """
    made = type("TrainingTuple", (), {"__module__": "datasets.oxford", "__qualname__": "TrainingTuple"})
    package, module = ModuleType("datasets"), ModuleType("datasets.oxford")
    module.TrainingTuple = made  # type: ignore[attr-defined]
    package.oxford = module  # type: ignore[attr-defined]
    real = {name: sys.modules.pop(name, None) for name in ("datasets", "datasets.oxford")}
    sys.modules.update({"datasets": package, "datasets.oxford": module})
    try:
        yield made
    finally:
        for name, before in real.items():
            del sys.modules[name]
            if before is not None:
                sys.modules[name] = before
