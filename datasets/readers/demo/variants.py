"""``demo_poses``, ``demo_landmarks``, ``demo_videos``: the images of the generated world, for other tasks.

The world is that of ``demo``, in the same folder, made on first use; its clouds are left aside.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from distilplace.common.errors import UserError
from distilplace.datasets.benchmarks import LandmarkSet, VideoSet
from distilplace.datasets.image_sets import ImageSet
from distilplace.datasets.io.images import ImageSize
from distilplace.datasets.readers.demo.data import DemoData
from distilplace.datasets.readers.poses.data import Part, PoseData, Scene
from distilplace.datasets.readers.poses.lists import PoseList
from distilplace.datasets.readers.poses.quaternions import quaternions_from_matrices
from distilplace.datasets.records import PlaceRecord, TrainingSet, positions
from distilplace.datasets.relations import group_relations, neighbours_within
from distilplace.datasets.sampling.splitting import subset
from distilplace.demoworld.camera import CameraPose
from distilplace.demoworld.drive import Drive
from distilplace.demoworld.layout import make_layout

CROP_SIZE = 112  # pixels; the world's images are 160 x 120
STAMP_TOLERANCE = 1000  # microseconds: another machine may round a stamp otherwise
LANDMARK_RADIUS = 10.0  # metres from its first sight within which a landmark is seen
RADII = (5.0, 25.0, 35.0)  # metres within which an image is easy, hard, junk
CLIP_LENGTH = 5  # places


class DemoPosesData(PoseData):
    """``demo_poses``: where was the camera, and where did it look? Training and test traversals as in ``demo``.

    Positions: x east, y north, z up, metres from the town's origin, z = 0 the street. Quaternions turn from the world
    into the camera (x right, y down, z forward), as Cambridge Landmarks' do: a point X of the world lies at R (X - c)
    of the camera. Of q and -q it is the one nearer to a camera looking north-east: streets run along the axes, so the
    sign changes on none. The poses are those that the images were rendered with. Images stay as they are, 160 x 120
    pixels; the mean image as in :class:`distilplace.datasets.readers.poses.data.PoseData`, kept in the world's folder.
    """

    name = "demo_poses"
    resize: ImageSize | None = None
    crop_size = CROP_SIZE
    world_to_camera = True
    scenes: ClassVar[Mapping[str, Scene]] = {}

    def __init__(
        self,
        dataset_folder: Path | str | None = None,
        demo_seed: int = 1,
        places: int = 60,
        train_runs: int = 5,
        test_runs: int = 4,
        mean_image_path: Path | str | None = None,
    ) -> None:
        self.world = DemoData(dataset_folder, demo_seed, places=places, train_runs=train_runs, test_runs=test_runs)
        self.seed, self.places = demo_seed, places
        super().__init__(self.world.dataset_folder, mean_image_path)
        self.notes += self.world.notes

    def records(self, part: Part) -> list[PlaceRecord]:
        """The images of one part, with the positions of ``demo``."""
        if part == "train":
            return list(training_images(self.world).records)
        return [place for run in test_images(self.world) for place in run]

    def read_list(self, part: Part) -> PoseList:
        """The images' paths within the world's folder and their poses, recomputed from the world's seed."""
        records = self.records(part)
        names = [str(place.images[0].absolute().relative_to(self.folder)) for place in records]
        return PoseList(names, camera_poses(records, self.seed, self.places), np.ones(len(records)))


class DemoImages(ImageSet):
    """Base of the sets without poses: the images of ``demo``'s world."""

    crop_size = CROP_SIZE

    def __init__(
        self,
        dataset_folder: Path | str | None = None,
        demo_seed: int = 1,
        places: int = 60,
        train_runs: int = 5,
        test_runs: int = 4,
    ) -> None:
        super().__init__()
        self.world = DemoData(dataset_folder, demo_seed, places=places, train_runs=train_runs, test_runs=test_runs)
        self.notes = self.world.notes


class DemoLandmarksData(DemoImages):
    """``demo_landmarks``: which images show this place? As with the landmarks of GLDv2 and revisited Oxford.

    Training: every place of the first training traversal is a landmark, seen from all places of the training
    traversals that are nearest to it and no further than 10 m; those of one landmark are positives. Layout "groups".
    Test: the first test traversal holds the queries, the others the database. Images taken within 5 m are easy, up to
    25 m hard (what is     seen has come nearer or is still far off), up to 35 m junk: neither right nor wrong.
    """

    name = "demo_landmarks"
    views = "landmarks"

    def training_set(self) -> TrainingSet:
        """Images by landmark; :class:`UserError` when no landmark is seen twice, as in a single traversal."""
        everything = training_images(self.world)
        landmark = nearest_landmarks(everything.records, LANDMARK_RADIUS)
        seen = np.bincount(landmark[landmark >= 0])
        kept = np.flatnonzero((landmark >= 0) & (seen[landmark] > 1))
        if len(kept) == 0:
            raise UserError(f"data set {self.name}: no place is seen twice in training: raise train_runs or places")
        _, groups = np.unique(landmark[kept], return_inverse=True)
        places = subset(everything, kept)
        return replace(places, positives=group_relations(groups)[0], groups=groups.astype(np.int64), layout="groups")

    def evaluation_set(self) -> LandmarkSet:
        """The first test traversal's images as queries to all others'."""
        queries, *others = test_images(self.world)
        database = [place for run in others for place in run]
        where, wanted = positions(database), positions(queries)
        easy, wide, wider = (neighbours_within(wanted, where, radius) for radius in RADII)
        hard = [np.setdiff1d(outer, inner) for outer, inner in zip(wide, easy, strict=True)]
        junk = [np.setdiff1d(outer, inner) for outer, inner in zip(wider, wide, strict=True)]
        return LandmarkSet(self.name, database, queries, easy, hard, junk)


class DemoVideosData(DemoImages):
    """``demo_videos``: which video shows the same drive? As SVD has it of near-duplicates.

    Every test traversal is cut into clips of some 5 consecutive places. Every second clip of the first is a query. Its
    labelled candidates are clips of the other traversals: the same stretch (1) and the stretches before and after
    it (0). Traversals do not stop at the same points, so clips of one stretch are offset by up to one place.
    Unlabelled, and wrong for every query, are all clips that are neither queries nor labelled: those of the first
    traversal between the queries, in the queries' own weather. Training: two views of every training image.
    """

    name = "demo_videos"
    views = "svd"

    def training_set(self) -> TrainingSet:
        """Every training image; layout "views"."""
        return replace(training_images(self.world), layout="views")

    def evaluation_set(self) -> VideoSet:
        """Clips, the queries among them, and their labels."""
        runs = [{_clip_name(clip): clip for clip in clips_of(run)} for run in test_images(self.world)]
        names = [list(run) for run in runs]
        stretches = range(0, len(names[0]), 2)
        labels: list[Mapping[str, int]] = [_labels(names[1:], stretch) for stretch in stretches]
        queries = [names[0][stretch] for stretch in stretches]
        known = {*queries, *(video for row in labels for video in row)}
        videos = {name: clip for run in runs for name, clip in run.items()}
        return VideoSet(self.name, videos, queries, labels, [name for name in videos if name not in known])


def training_images(world: DemoData) -> TrainingSet:
    """The places of the training traversals without clouds; positives within 10 m, negatives beyond 50 m."""
    places = world.training_set()
    return replace(places, records=_without_clouds(places.records))


def test_images(world: DemoData) -> list[list[PlaceRecord]]:
    """The places of each test traversal in the order of the drive, without clouds."""
    return [_without_clouds(run) for run in world.evaluation_set().database]


def camera_poses(records: Sequence[PlaceRecord], seed: int, places: int) -> np.ndarray:
    """Float64 [n, 7]: x y z (metres) and unit quaternion of the cameras that took the records' images.

    The convention is that of :class:`DemoPosesData`. Found by the images' stamps among all of their traversal.

    Raises:
        UserError: an image was not taken on the traversal of this seed and number of places.

    """
    route = make_layout(seed).route
    taken: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for run in {record.run for record in records}:
        drive = Drive(route, seed, run, places)
        exposures = [drive.exposure(index, 0) for index in range(places)]
        poses = np.stack([_pose(camera) for _, camera, _ in exposures])
        taken[run] = np.array([stamp for stamp, _, _ in exposures]), poses
    found = np.empty((len(records), 7))
    for row, record in enumerate(records):
        stamps, poses = taken[record.run]
        off = np.abs(stamps - int(record.images[0].stem))
        if off.min() > STAMP_TOLERANCE:
            raise UserError(
                f"image {record.images[0]} is not of the demo world {seed} with {places} places: remove the world's "
                "folder, and it is made again"
            )
        found[row] = poses[off.argmin()]
    return found


def _pose(camera: CameraPose) -> np.ndarray:
    turn, reference = _quaternion(camera), _quaternion(CameraPose(camera.position, math.pi / 4, 0.0, 0.0))
    return np.concatenate([camera.position, turn if turn @ reference >= 0 else -turn])


def _quaternion(camera: CameraPose) -> np.ndarray:
    forward, right, up = camera.axes().astype(np.float64)
    return quaternions_from_matrices(np.stack([right, -up, forward]))


def nearest_landmarks(records: Sequence[PlaceRecord], radius: float) -> np.ndarray:
    """Int64 [n]: the number of the nearest place of the first run; -1 where that is more than ``radius`` metres off."""
    where = positions(records)
    first = where[[record.run == records[0].run for record in records]]
    apart = np.linalg.norm(where[:, None] - first[None], axis=2)
    nearest: np.ndarray = np.where(apart.min(axis=1) <= radius, apart.argmin(axis=1), -1)
    return nearest


def clips_of(run: Sequence[PlaceRecord]) -> list[list[PlaceRecord]]:
    """A traversal in pieces of about ``CLIP_LENGTH`` consecutive places, at least one."""
    parts = np.array_split(np.arange(len(run)), max(1, round(len(run) / CLIP_LENGTH)))
    return [[run[index] for index in part] for part in parts]


def _clip_name(clip: Sequence[PlaceRecord]) -> str:
    return f"{clip[0].run}/{clip[0].images[0].stem}"


def _labels(runs: Sequence[Sequence[str]], stretch: int) -> dict[str, int]:
    """What is known of the clips of other ``runs`` for a query of ``stretch``; the route is a ring."""
    near = {}
    for run in runs:
        for other in ((stretch - 1) % len(run), stretch, (stretch + 1) % len(run)):
            near[run[other]] = int(other == stretch)
    return near


def _without_clouds(records: Sequence[PlaceRecord]) -> list[PlaceRecord]:
    return [replace(record, cloud=None) for record in records]
