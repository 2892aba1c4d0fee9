"""What is measured beside place recognition between runs: camera poses, landmarks, near-duplicate videos."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np

from distilplace.common.errors import UserError
from distilplace.datasets.records import Benchmark, PlaceRecord

VideoSimilarity = Literal["fme", "fmx", "sme", "smx", "cf"]


@dataclass
class PoseSet(Benchmark):
    """Images and the camera poses to be regressed.

    ``poses`` float64 [n, 7]: x y z in metres, then a unit quaternion, scalar first. Which frame it turns into which is
    the data set's own convention (Cambridge: world to camera, 7-Scenes: camera to world). ``training_poses`` [m, 7] are
    what one may guess from without looking; None: unknown.
    """

    name: str
    records: list[PlaceRecord]
    poses: np.ndarray
    training_poses: np.ndarray | None = None

    def all_records(self) -> Iterable[PlaceRecord]:
        """The images."""
        return self.records

    def require_queries(self) -> None:
        """:class:`UserError` without any image, or with a number of poses that is not theirs."""
        if not self.records:
            raise UserError(f"data set {self.name} has no test image; check its test list")
        if self.poses.shape != (len(self.records), 7):
            raise ValueError(f"poses {self.poses.shape} for {len(self.records)} images: [n, 7] expected")

    def summary(self) -> str:
        """How much is tested."""
        return f"{len(self.records)} images with poses"


@dataclass
class LandmarkSet(Benchmark):
    """Query and database images of landmarks (revisited Oxford and Paris, Radenovic et al., CVPR 2018).

    ``easy[i]``, ``hard[i]``, ``junk[i]``: disjoint int64 indices into ``database``; the rest is wrong for query i.
    """

    name: str
    database: list[PlaceRecord]
    queries: list[PlaceRecord]
    easy: list[np.ndarray]
    hard: list[np.ndarray]
    junk: list[np.ndarray]

    def all_records(self) -> Iterable[PlaceRecord]:
        """The database, then the queries."""
        return chain(self.database, self.queries)

    def require_queries(self) -> None:
        """:class:`UserError` when no query has a positive."""
        if not self.database or not any(len(row) for row in (*self.easy, *self.hard)):
            raise UserError(f"data set {self.name}: no query has a positive in the database; check its ground truth")

    def summary(self) -> str:
        """How much is tested."""
        return f"{len(self.database)} database images, {len(self.queries)} queries"


@dataclass
class VideoSet(Benchmark):
    """Near-duplicate video retrieval (SVD, Jiang et al., ICCV 2019).

    ``videos[v]``: the sampled frames of video v, in order. Query ``queries[i]`` is searched among its labelled
    candidates ``labels[i]`` (video -> 1 near-duplicate, 0 not) and all of ``unlabelled``, which count as wrong.
    """

    name: str
    videos: Mapping[str, Sequence[PlaceRecord]]
    queries: list[str]
    labels: list[Mapping[str, int]]
    unlabelled: list[str]
    similarity: VideoSimilarity = "fmx"

    def all_records(self) -> Iterable[PlaceRecord]:
        """The frames, video by video."""
        return chain.from_iterable(self.videos.values())

    def require_queries(self) -> None:
        """:class:`UserError` when no query has a near-duplicate."""
        if not any(any(row.values()) for row in self.labels):
            raise UserError(f"data set {self.name}: no query video has a near-duplicate; check its ground truth")

    def summary(self) -> str:
        """How much is tested."""
        frames = sum(map(len, self.videos.values()))
        return f"{len(self.queries)} query videos, {len(self.videos)} videos, {frames} frames"
