"""Oxford RobotCar in DistilVPR's layout (PointNetVLAD submaps + MinkLoc++ images), and AdaFusion's split of it.

``dataset_folder`` holds ``oxford/<run>/pointcloud_20m[_10overlap]/<us>.bin`` and the training and evaluation pickles;
``image_path`` holds ``<run>/<us>.png`` and ``lidar2image_ndx.pickle``. Files are named as DistilVPR names them.
"""

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.inputs.folder_flags import flag_of
from distilplace.datasets.base import PlaceData, checked_points, existing_file, existing_folder
from distilplace.datasets.doubts import doubts, unmatched
from distilplace.datasets.io.cloud_layouts import is_text
from distilplace.datasets.readers.oxford.tables import (
    Submap,
    parse_submap,
    read_evaluation,
    read_image_index,
    read_training,
)
from distilplace.datasets.records import CloudSettings, EvaluationSet, PlaceRecord, TrainingSet
from distilplace.datasets.scans import cloud_settings

EVALUATION_RADIUS = 25.0


class OxfordData(PlaceData):
    """``oxford``: submaps of 4096 points, unit scale (the metric scale is lost), quantised at 0.01.

    ``image_lidar_k`` keeps the k images nearest in time (None: all listed). Without ``image_path`` the records carry no
    images, which is enough for cloud-only models.
    """

    name = "oxford"
    training_pickle = "training_queries_baseline.pickle"
    database_pickle = "oxford_evaluation_database.pickle"
    query_pickle = "oxford_evaluation_query.pickle"
    image_index = "lidar2image_ndx.pickle"
    defaults = CloudSettings(quantization_size=0.01, n_points=4096, augmentation="oxford")
    clouds_in_metres = False

    def __init__(
        self,
        dataset_folder: Path | str | None = None,
        image_path: Path | str | None = None,
        image_lidar_k: int | None = 1,
        quantization_size: float | None = None,
        n_points: int | None = None,
    ) -> None:
        if image_lidar_k is not None and image_lidar_k < 1:
            raise UserError(f"--image_lidar_k {image_lidar_k}: must be at least 1, or None for all listed images")
        self.dataset_folder = existing_folder(dataset_folder, "--dataset_folder", "data set folder")
        self.image_path = self._find_images(image_path)
        self.image_lidar_k = image_lidar_k
        self.cloud = cloud_settings(self.defaults, quantization_size, n_points)
        self.notes = [] if self.image_path else [f"{self.name}: no --image_path, so the places carry no images"]

    def _find_images(self, image_path: Path | str | None) -> Path | None:
        return None if image_path is None else existing_folder(image_path, "--image_path", "image folder")

    def _image_index_file(self) -> Path:
        assert self.image_path is not None
        return existing_file(self.image_path / self.image_index, "--image_path", "image index")

    def _image_file(self, run: str, stamp: int) -> Path:
        assert self.image_path is not None
        return self.image_path / run / f"{stamp}.png"

    def training_set(self) -> TrainingSet:
        """The training tuples, with relations as the pickle lists them (upstream: positives 10 m, negatives 50 m)."""
        path = existing_file(self.dataset_folder / self.training_pickle, "--dataset_folder", "training pickle")
        rows = read_training(path)
        if rows.unsorted:
            self.notes.append(f"{path.name}: relations of {rows.unsorted} items were not sorted; sorted while reading")
        records = [
            self._record(parse_submap(name, path), float(north), float(east))
            for name, (north, east) in zip(rows.paths, rows.positions, strict=True)
        ]
        _refuse_repeats(records, path)
        return TrainingSet(records, rows.positives, rows.non_negatives)

    def evaluation_set(self) -> EvaluationSet:
        """Database and queries per run, 25 m, as the two evaluation pickles list them."""
        database_path, query_path = (
            existing_file(self.dataset_folder / name, "--dataset_folder", "evaluation pickle")
            for name in (self.database_pickle, self.query_pickle)
        )
        database, queries = read_evaluation(database_path, query_path)
        database_records = [self._run_records(run, database_path) for run in database]
        query_records = [self._run_records(run, query_path) for run in queries]
        runs = [
            next((record.run for record in (*db, *query)), f"run {number}")
            for number, (db, query) in enumerate(zip(database_records, query_records, strict=True))
        ]
        test = EvaluationSet(self.name, runs, database_records, query_records, queries, EVALUATION_RADIUS)
        self.note(*unmatched(test), *doubts(test))
        return test

    def read_cloud(self, path: Path) -> np.ndarray:
        """Float64 little-endian x y z, no header: exactly ``n_points`` * 24 bytes; returned as float32 ``[N, 3]``."""
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise UserError(f"cloud file {path} cannot be read ({error.strerror}): check {flag_of(path)}") from error
        expected = self.cloud.n_points * 3 * 8
        if len(raw) != expected:
            raise UserError(
                f"cloud file {path}: {len(raw)} bytes, expected {expected} "
                f"({self.cloud.n_points} points of three float64): truncated, or another format"
            )
        if is_text(raw):
            raise UserError(f"cloud file {path} is text, not float64 numbers: copy it again")
        return checked_points(np.frombuffer(raw, dtype="<f8").reshape(-1, 3), path)

    @cached_property
    def _images(self) -> dict[int, list[int]]:
        return read_image_index(self._image_index_file())

    def _run_records(self, run: dict[int, dict[Any, Any]], source: Path) -> list[PlaceRecord]:
        return [
            self._record(parse_submap(entry["query"], source), float(entry["northing"]), float(entry["easting"]))
            for entry in run.values()
        ]

    def _record(self, submap: Submap, northing: float, easting: float) -> PlaceRecord:
        cloud = self.dataset_folder / submap.path
        return PlaceRecord(submap.key, submap.run, cloud, self._nearest_images(submap), northing, easting)

    def _nearest_images(self, submap: Submap) -> tuple[Path, ...]:
        if self.image_path is None:
            return ()
        stamps = self._images.get(submap.stamp)
        if not stamps:
            raise UserError(
                f"{self._image_index_file()} lists no image for LiDAR stamp {submap.stamp} ({submap.path}): "
                "the index is older than the pickles, or of another release"
            )
        files = tuple(self._image_file(submap.run, stamp) for stamp in stamps[: self.image_lidar_k])
        if self.image_lidar_k == 1:
            return files
        # The published index may name images of another traversal, which are not in this run's folder.
        return tuple(file for file in files if file.is_file()) or files[:1]


class OxfordAdafusionData(OxfordData):
    """``oxfordadafusion``: AdaFusion's ten runs, overlapping submaps; same layout under other file names."""

    name = "oxfordadafusion"
    training_pickle = "oxfordadafusion_training_queries_baseline.pickle"
    database_pickle = "oxfordadafusion_evaluation_database.pickle"
    query_pickle = "oxfordadafusion_evaluation_query.pickle"
    image_index = "oxfordadafusion_lidar2image_ndx.pickle"


def _refuse_repeats(records: list[PlaceRecord], source: Path) -> None:
    key, times = Counter(record.key for record in records).most_common(1)[0]
    if times > 1:
        raise UserError(f"{source}: {key} occurs {times} times; every training item needs its own cloud file")
