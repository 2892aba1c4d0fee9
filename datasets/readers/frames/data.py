"""``frames``: one's own robot. One folder per run (frames_layout.py); sections and relations are made here.

Training and test sections lie apart by more than the negative radius (frames_sections.py). Traversals of one route are
evaluated over all ordered pairs of runs, as Boreas. A run without a second traversal gives alternate frames of its test
section to the database (first camera) and to the queries (second camera where there is one).
"""

import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.inputs.position_checks import SMALL, doubt, refuse_small_span
from distilplace.datasets.base import existing_folder
from distilplace.datasets.doubts import doubts, unmatched
from distilplace.datasets.io.cloud_bins import bin_width, refuse_misfits, width_note
from distilplace.datasets.readers.frames.layout import read_runs
from distilplace.datasets.readers.frames.radii import choose_radii
from distilplace.datasets.readers.frames.sections import Section, cut_runs
from distilplace.datasets.records import EvaluationSet, PlaceRecord, TrainingSet, positions
from distilplace.datasets.relations import Radii, check_radii, training_relations, true_neighbours
from distilplace.datasets.routes import distance_to, metres_above
from distilplace.datasets.scans import ScanData, cloud_settings
from distilplace.datasets.shared_files import refuse_shared, shared_note

MAP_RULES = ("auto", "shared", "local")
AT_ORIGIN = 1e-6  # metres


class FramesData(ScanData):
    """Frames of one's own robot under ``dataset_folder``: a run, or a folder of runs.

    ``frames_map``: do the runs' coordinates share one map ("shared"), has each its own ("local"), or is that to be seen
    from whether every run starts at (0, 0) ("auto")? Local maps are laid side by side, too far apart for any radius, so
    a record's position differs from the file's by its map's offset. Radii and ``quantization_size`` are metres; radii
    that are not given are chosen from the spacing of the frames (frames_radii.py). ``bin_columns``: float32 a row of
    ``.bin`` clouds; None: what their sizes leave, if that is one width.
    """

    name = "frames"
    upright = True

    def __init__(
        self,
        dataset_folder: Path | str | None = None,
        image_lidar_k: int | None = 1,
        quantization_size: float | None = None,
        n_points: int | None = None,
        positive_radius: float | None = None,
        negative_radius: float | None = None,
        eval_radius: float | None = None,
        frames_map: str = "auto",
        bin_columns: int | None = None,
    ) -> None:
        folder = existing_folder(dataset_folder, "--dataset_folder", "data set folder")
        given = (positive_radius, negative_radius, eval_radius)
        check_radii(eval_radius, positive_radius, negative_radius)
        if frames_map not in MAP_RULES:
            raise UserError(f"--frames_map must be one of {', '.join(MAP_RULES)}, not '{frames_map}'")
        if image_lidar_k is not None and image_lidar_k < 1:
            raise UserError(f"--image_lidar_k must be at least 1 or None, not {image_lidar_k}")
        self.cloud = cloud_settings(self.cloud, quantization_size, n_points)
        self.notes = []
        self._images_kept = image_lidar_k
        self._runs = read_runs(folder, self.notes)
        self.settle_image_size(path for run in self._runs for path in run.images[0])
        self._clouds = [path for run in self._runs for path in run.clouds if path]
        self.row_width = bin_width(self._clouds, bin_columns)
        maps = self._maps(frames_map)
        places = [run.positions for run in self._runs]
        refuse_small_span(places, "positions in poses.csv", min(SMALL, positive_radius or SMALL))
        doubtful = [*filter(None, [doubt(places)]), *(line for run in self._runs for line in run.doubts)]
        self.notes += doubtful
        try:
            self._settle(given, places, maps)
        except UserError as error:
            raise UserError(f"{error}; {doubtful[0]}") if doubtful else error from None
        refuse_shared(self._evaluation)
        self._describe()

    def _settle(
        self, given: tuple[float | None, float | None, float | None], places: list[np.ndarray], maps: list[list[int]]
    ) -> None:
        """Choose radii, cut the runs, relate the frames."""
        self.radii, announced = choose_radii(given, places, partial(self._cut, maps))
        self.notes += [announced] if announced else []
        self.validation_buffer = self.radii.negative
        self._offsets = self._laid_side_by_side(maps)
        self._sections = self._cut(maps, self.radii)
        self._training = self._training_set()
        self._evaluation = self._evaluation_set()

    def training_set(self) -> TrainingSet:
        """The training sections of all runs, joined."""
        return self._training

    def evaluation_set(self) -> EvaluationSet:
        """The test sections: one run per traversal, then ``<run>/database`` and ``<run>/queries`` of single runs."""
        return self._evaluation

    def survey_clouds(self, paths: Iterable[Path | None]) -> None:
        """Look at the sizes of all ``.bin`` and at a sample of all clouds, once."""
        if not self.clouds_surveyed:
            refuse_misfits(self._clouds, self.row_width)
            super().survey_clouds(self._clouds)

    def _maps(self, rule: str) -> list[list[int]]:
        """Groups of run numbers that share coordinates; notes what was chosen."""
        starts = np.array([run.positions[0] for run in self._runs])
        at_origin = bool((np.abs(starts) <= AT_ORIGIN).all())
        everybody = list(range(len(self._runs)))
        local = rule == "local" or (rule == "auto" and at_origin)
        if len(everybody) == 1:
            self.notes.append("one run, one map")
            return [everybody]
        why = (
            "as --frames_map says" if rule != "auto" else f"every run starts at (0, 0): {'yes' if at_origin else 'no'}"
        )
        kind = "each run has a map of its own" if local else "all runs share one map"
        self.notes.append(f"{len(everybody)} runs, {kind} ({why})")
        return [[run] for run in everybody] if local else [everybody]

    def _laid_side_by_side(self, maps: list[list[int]]) -> list[np.ndarray]:
        """Per run the (northing, easting) added to its positions: zero in the first map, the others east of it."""
        offsets = [np.zeros(2) for _ in self._runs]
        gap = 1000.0 + 10 * max(self.radii)
        eastern_edge: float | None = None
        for group in maps:
            places = np.concatenate([self._runs[run].positions for run in group])
            shift = 0 if eastern_edge is None else math.ceil(eastern_edge + gap - places[:, 1].min())
            eastern_edge = float(places[:, 1].max()) + shift
            for run in group:
                offsets[run] = np.array([0.0, shift])
                if shift:
                    self.notes.append(f"map of {self._runs[run].name}: drawn {shift} m east of its own coordinates")
        return offsets

    def _cut(self, maps: list[list[int]], radii: Radii) -> list[Section]:
        sections: dict[int, Section] = {}
        for group in maps:
            names = [self._runs[run].name for run in group]
            places = [self._runs[run].positions for run in group]
            cut = cut_runs(names, places, radii.negative, radii.evaluation, radii.positive)
            sections.update(zip(group, cut, strict=True))
        return [sections[run] for run in range(len(self._runs))]

    def _record(self, number: int, index: int, images: tuple[Path, ...], camera: int = 0) -> PlaceRecord:
        run = self._runs[number]
        northing, easting = run.positions[index] + self._offsets[number]
        key = f"{run.name}/{run.frames[index]}" + (f"@{run.cameras[camera]}" if camera else "")
        place = float(northing), float(easting)
        return PlaceRecord(key, run.name, run.clouds[index], images, *place, upright=self.upright)

    def _training_set(self) -> TrainingSet:
        records = [
            self._record(number, int(index), self._runs[number].images[index][: self._images_kept])
            for number, section in enumerate(self._sections)
            for index in np.flatnonzero(section.training)
        ]
        positives, non_negatives = training_relations(positions(records), self.radii.positive, self.radii.negative)
        if not any(len(row) for row in positives):
            raise UserError(
                f"no two training frames lie within --positive_radius {self.radii.positive:g} m of each other: raise "
                f"it above {metres_above(_closest(positions(records)))} m"
            )
        return TrainingSet(records, positives, non_negatives)

    def _evaluation_set(self) -> EvaluationSet:
        runs: list[str] = []
        database: list[list[PlaceRecord]] = []
        queries: list[list[PlaceRecord]] = []
        alone: list[int] = []
        for number, (run, section) in enumerate(zip(self._runs, self._sections, strict=True)):
            if not section.traversal:
                alone.append(number)
            elif section.test.any():
                tested = [self._view(number, int(index)) for index in np.flatnonzero(section.test)]
                runs.append(run.name)
                database.append(tested)
                queries.append(tested)
        if alone:
            name = self._runs[alone[0]].name if len(alone) == 1 else "test"
            tests = [(number, np.flatnonzero(self._sections[number].test)) for number in alone]
            runs += [f"{name}/database", f"{name}/queries"]
            database += [[self._view(n, int(i)) for n, indices in tests for i in indices[::2]], []]
            queries += [[], [self._view(n, int(i), second=True) for n, indices in tests for i in indices[1::2]]]
            self._check_matched(database[-2], queries[-1])
        query_sets = true_neighbours(database, queries, self.radii.evaluation)
        return EvaluationSet(self.name, runs, database, queries, query_sets, self.radii.evaluation)

    def _view(self, number: int, index: int, second: bool = False) -> PlaceRecord:
        """A test frame seen by the first camera, or by the second where the run has one."""
        images = self._runs[number].images[index]
        camera = 1 if second and len(images) > 1 else 0
        return self._record(number, index, images[camera : camera + 1], camera)

    def _check_matched(self, database: list[PlaceRecord], queries: list[PlaceRecord]) -> None:
        nearest = distance_to(positions(queries), positions(database)).min()
        reach = self.radii.evaluation
        if nearest > reach:
            raise UserError(
                f"no query has a database frame within --eval_radius {reach:g} m: raise it above "
                f"{metres_above(nearest)} m"
            )

    def _describe(self) -> None:
        sizes = [sum(map(len, side)) for side in (self._evaluation.database, self._evaluation.queries)]
        self.notes.append(f"{len(self._training)} training, {sizes[0]} database, {sizes[1]} query items")
        tested = positions(self._evaluation.distinct_records())
        gap = float(distance_to(positions(self._training.records), tested).min())
        wanted = f"wanted: more than {self.radii.negative:g} m"
        self.notes.append(f"training frames keep {gap:.1f} m from test frames ({wanted})")
        self.notes += [*unmatched(self._evaluation), *doubts(self._evaluation)]
        self.notes += shared_note(self._training.records, self._evaluation)
        self.notes += [
            f"{run.name}: {run.unlisted} files without a row in poses.csv are omitted"
            for run in self._runs
            if run.unlisted
        ]
        self.notes += [note for run in self._runs for note in run.notes]
        if any(None in run.clouds for run in self._runs):
            bare = ", ".join(run.name for run in self._runs if None in run.clouds)
            self.notes.append(f"no cloud folder in {bare}: image-only models can use it, others cannot")
        if any(path.suffix.lower() == ".bin" for path in self._clouds):
            self.notes.append(width_note(self.row_width))
        self.notes.append(f"clouds of more than {self.cloud.n_points} points: as many drawn, the same ones every time")


def _closest(places: np.ndarray) -> float:
    from sklearn.neighbors import KDTree

    return float(KDTree(places - places[0]).query(places - places[0], k=2)[0][:, 1].min())
