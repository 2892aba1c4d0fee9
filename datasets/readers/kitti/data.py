"""``kitti``: KITTI odometry as a place-recognition set, by one of three protocols.

Figures of different protocols cannot be compared: name the one used.

- A (LoGG3D-Net, SG_PR): any earlier frame of the sequence, older than 30 s, may be retrieved; right within 3 m,
  wrong beyond 20 m. Recall over the revisits, and the largest F1 over all frames.
- B (OREOS, OverlapNet, EgoNN): the map is the first 170 s, the rest are queries; frames moved less than 0.1 m are
  dropped, and so are queries without a map element within 5 m. Right within ``eval_radius``: 5 or 20 m.
- C (MinkLoc3D-SI): the lists that its authors published, right within 25 m.

Positions are (z, x) of camera 0 in its first frame. Frames have an image (image_2) and a scan (velodyne), whichever is
there.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distilplace.common.errors import UserError
from distilplace.datasets.base import existing_folder
from distilplace.datasets.doubts import doubts
from distilplace.datasets.image_sets import Images, evaluation_set, matches_by_distance
from distilplace.datasets.io.cloud_bins import BinWidth
from distilplace.datasets.readers.kitti.layout import (
    KittiSequence,
    first_images,
    odometry_root,
    present_sequences,
    read_sequence,
)
from distilplace.datasets.readers.kitti.lists import published_lists
from distilplace.datasets.records import EvaluationSet, PlaceRecord, RankingRules, TrainingSet, positions
from distilplace.datasets.relations import Radii, checked_radii, training_relations
from distilplace.datasets.scans import ScanData

EVALUATION_RADII = {"A": 3.0, "B": 5.0, "C": 25.0}
WRONG_BEYOND = 20.0  # metres, protocol A
RECENT = 30.0  # seconds
MAP_SECONDS, MAP_STEP, MAP_REACH = 170.0, 0.1, 5.0  # seconds, metres, metres: protocol B


def earlier_frames(times: np.ndarray, gap: float = RECENT) -> np.ndarray:
    """Int64 [n]: how many frames lie more than ``gap`` seconds before each; these are the first ones."""
    return np.searchsorted(times, times - gap, side="left").astype(np.int64)


class KittiData(ScanData):
    """KITTI odometry under ``dataset_folder`` (with sequences/ and poses/).

    ``kitti_sequence`` is tested by ``kitti_protocol``; ``kitti_train_sequences`` train, by default all others of 00..10
    that are there. Metres: true within ``eval_radius`` (3, 5, 25 for A, B, C), in training positive within
    ``positive_radius`` (3), never negative within ``negative_radius`` (20). Scans: 0.5 m voxels of 4096 points drawn,
    ``bin_columns`` (4) float32 a point in the file.
    """

    name = "kitti"

    def __init__(
        self,
        dataset_folder: Path | str | None = None,
        kitti_protocol: str = "A",
        kitti_sequence: str = "00",
        kitti_train_sequences: Sequence[str] | None = None,
        eval_radius: float | None = None,
        positive_radius: float | None = None,
        negative_radius: float | None = None,
        bin_columns: int | None = None,
    ) -> None:
        if kitti_protocol not in EVALUATION_RADII:
            raise UserError(f"--kitti_protocol must be A, B or C, not '{kitti_protocol}'")
        self._root = odometry_root(existing_folder(dataset_folder, "--dataset_folder", "data set folder"))
        default = Radii(EVALUATION_RADII[kitti_protocol], 3.0, 20.0)
        self._radii = checked_radii(eval_radius, positive_radius, negative_radius, default)
        self.notes = []
        self.row_width = BinWidth(bin_columns or 4, given=bin_columns is not None)
        self._tested = kitti_sequence
        present = present_sequences(self._root)
        self._trained = _checked_training(kitti_train_sequences, present, kitti_sequence)
        self.settle_image_size(first_images(self._root, {*present, kitti_sequence}))
        self._training: TrainingSet | None = None
        sequence = self._read(kitti_sequence)
        protocols = {"A": self._protocol_a, "B": self._protocol_b, "C": self._protocol_c}
        self._evaluation = protocols[kitti_protocol](sequence)
        self.notes += doubts(self._evaluation)
        matches = self._evaluation.matched()
        matched = sum(matches)
        self.notes.append(
            f"KITTI {kitti_sequence}, protocol {kitti_protocol}, right within {self._evaluation.radius:g} m: "
            f"{len(self._evaluation.database[0])} database frames, {matched} of {len(matches)} queries have a match"
        )

    def training_set(self) -> TrainingSet:
        """All frames of the training sequences, laid side by side, too far apart for any radius."""
        if self._training is None:
            self._training = self._training_set()
        return self._training

    def evaluation_set(self) -> EvaluationSet:
        """Runs ``database`` and ``queries``; with protocol A the same frames under the same keys in both."""
        return self._evaluation

    def _read(self, name: str) -> KittiSequence:
        sequence = read_sequence(self._root, name, self.row_width.required())
        if sequence.identity_first():
            self.notes.append(
                f"poses of {name} begin with an exact identity: KITTI's own ground truth does not, so these may be "
                "a SLAM system's estimates: compare with the official file"
            )
        if absent := [
            kind for kind, files in (("image_2", sequence.images), ("velodyne", sequence.clouds)) if not files
        ]:
            self.notes.append(f"sequence {name} has no {' and no '.join(absent)} folder")
        return sequence

    def _protocol_a(self, sequence: KittiSequence) -> EvaluationSet:
        earlier = earlier_frames(sequence.times)
        queried = np.flatnonzero(earlier > 0)
        if len(queried) == 0:
            raise UserError(
                f"KITTI sequence {sequence.name} lasts {np.ptp(sequence.times):.1f} s: protocol A retrieves frames "
                f"more than {RECENT:g} s old"
            )
        database = places_of(sequence)
        queries = [database[i] for i in queried]
        near = matches_by_distance(database, queries, self._radii.evaluation)
        truth = [row[row < earlier[i]] for i, row in zip(queried, near, strict=True)]
        rules = RankingRules(
            excluded={(0, 1): [range(int(earlier[i]), len(database)) for i in queried]},
            f1_radii=(self._radii.evaluation, max(WRONG_BEYOND, self._radii.evaluation)),
        )
        return evaluation_set(self.name, Images(database, queries, truth), self._radii.evaluation, rules)

    def _protocol_b(self, sequence: KittiSequence) -> EvaluationSet:
        kept = moved_frames(sequence.positions(), MAP_STEP)
        mapped = sequence.times[kept] - sequence.times[0] < MAP_SECONDS
        everything = places_of(sequence)
        database = [everything[i] for i in kept[mapped]]
        rest = [everything[i] for i in kept[~mapped]]
        reached = matches_by_distance(database, rest, MAP_REACH)
        queries = [record for record, row in zip(rest, reached, strict=True) if len(row)]
        if not queries:
            raise UserError(
                f"KITTI sequence {sequence.name}: no frame after {MAP_SECONDS:g} s lies within {MAP_REACH:g} m of the "
                "map; protocol B needs a sequence that returns, such as 00"
            )
        truth = matches_by_distance(database, queries, self._radii.evaluation)
        return evaluation_set(self.name, Images(database, queries, truth), self._radii.evaluation)

    def _protocol_c(self, sequence: KittiSequence) -> EvaluationSet:
        everything = places_of(sequence)
        lists = published_lists(self._root, sequence.name, len(sequence))
        database = [everything[frame] for frame in lists.database]
        queries = [everything[frame] for frame in lists.queries]
        farthest = _farthest_match(database, queries, lists.truth)
        if farthest > EVALUATION_RADII["C"]:
            self.notes.append(f"a match of the published lists lies {farthest:.1f} m away: other poses than theirs?")
        return evaluation_set(self.name, Images(database, queries, lists.truth), EVALUATION_RADII["C"])

    def _training_set(self) -> TrainingSet:
        if not self._trained:
            raise UserError(
                f"KITTI: no sequence to train on in {self._root}: add another of 00..10 than {self._tested}, which is "
                "tested, with its poses"
            )
        records: list[PlaceRecord] = []
        edge: float | None = None
        for name in self._trained:
            sequence = self._read(name)
            eastings = sequence.positions()[:, 1]
            shift = 0.0 if edge is None else float(np.ceil(edge + 1000.0 + 10 * self._radii.negative - eastings.min()))
            edge = float(eastings.max()) + shift
            records += places_of(sequence, shift)
        self.notes.append(f"training sequences {', '.join(self._trained)}: {len(records)} frames")
        return TrainingSet(records, *training_relations(positions(records), *self._radii[1:]))


def places_of(sequence: KittiSequence, shift: float = 0.0) -> list[PlaceRecord]:
    """A record per frame, keys ``NN/000000``; ``shift`` metres are added to eastings."""
    return [
        PlaceRecord(
            f"{sequence.name}/{frame:06d}",
            sequence.name,
            sequence.clouds[frame] if sequence.clouds else None,
            sequence.images[frame : frame + 1],
            northing,
            easting + shift,
        )
        for frame, (northing, easting) in enumerate(sequence.positions().tolist())
    ]


def moved_frames(places: np.ndarray, step: float) -> np.ndarray:
    """Int64: the first frame and every one at least ``step`` metres from the last one kept; ``places`` [n, 2]."""
    kept = [0]
    for frame in range(1, len(places)):
        if np.hypot(*(places[frame] - places[kept[-1]])) >= step:
            kept.append(frame)
    return np.array(kept, dtype=np.int64)


def _farthest_match(database: list[PlaceRecord], queries: list[PlaceRecord], truth: list[np.ndarray]) -> float:
    there, here = positions(database), positions(queries)
    gaps = [np.linalg.norm(there[row] - here[i], axis=1).max() for i, row in enumerate(truth) if len(row)]
    return float(max(gaps, default=0.0))


def _checked_training(given: Sequence[str] | None, present: list[str], tested: str) -> list[str]:
    if given is None:
        return [name for name in present if name != tested]
    if tested in given:
        raise UserError(f"--kitti_train_sequences names {tested}, which is tested: leave it out")
    if absent := [name for name in given if name not in present]:
        raise UserError(f"--kitti_train_sequences: {', '.join(absent)} not there (with poses: {', '.join(present)})")
    return list(dict.fromkeys(given))
