"""``images``: a folder of query images and a folder of database images, with the truth in whichever form there is.

``D/database`` and ``D/queries`` at any depth; truth from ``D/truth.csv``, from the numbers in the file names
(``frame_tolerance``), or from positions in @utm names. ``D/train`` may hold a training part laid out alike; without
one, ``train_fraction`` takes the first part of the sequence. A flat folder of numbered images is one sequence
(flat_folder.py). EXIF orientation is applied. Queries without a match are counted in a note and left out
of recall.
"""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distilplace.common.errors import UserError
from distilplace.datasets.image_sets import Images, Truth, matches_by_distance, records_at, training_by_distance
from distilplace.datasets.matched_sets import MatchedSet
from distilplace.datasets.matches import frame_numbers, listed_images, matches_by_number, read_truth
from distilplace.datasets.readers.frames.flat_folder import flat_note, flat_parts, flat_tolerance, is_flat
from distilplace.datasets.records import PlaceRecord, TrainingSet
from distilplace.datasets.relations import checked_radii

FOLDERS = ("database", "queries")
TRUTH = "truth.csv"
TRAINING = "train"
ELSEWHERE = 1e5  # easting, in images, of a query that no database image matches: no radius reaches it


@dataclass(frozen=True)
class Listed:
    """Two image folders by name: what a source of truth is applied to; ``truth`` is the table's path, if any."""

    folders: tuple[Path, Path]
    database: list[str]
    queries: list[str]
    truth: Path | None
    upright: bool = False
    prefix: str = ""
    """What keys begin with."""
    notes: tuple[str, ...] = ()

    @classmethod
    def read(
        cls, home: Path, folders: tuple[str, str] = FOLDERS, *, upright: bool = False, prefix: str = ""
    ) -> "Listed":
        """The images of ``home``/database and ``home``/queries, and ``home``/truth.csv where there is one."""
        notes: list[str] = []
        paths = (home / folders[0], home / folders[1])
        database, queries = (listed_images(path, notes) for path in paths)
        if paths[0].resolve() == paths[1].resolve():
            notes.append(f"{folders[0]} and {folders[1]} are one folder: every query finds itself")
        table = home / TRUTH
        truth = table if table.is_file() else None
        return cls(
            paths, database, queries, truth, upright, prefix, tuple(type(note)(f"{prefix}{note}") for note in notes)
        )

    def records(self, database: np.ndarray, queries: np.ndarray) -> tuple[list[PlaceRecord], list[PlaceRecord]]:
        """Database and query places at [n, 2] (northing, easting)."""
        sides = zip(FOLDERS, self.folders, (self.database, self.queries), (database, queries), strict=True)
        first, second = (records_at(*side, upright=self.upright, prefix=self.prefix) for side in sides)
        return first, second

    def by_table(self) -> tuple[Images, float]:
        """Images matched by truth.csv, and the largest distance, in images, from a query's place to a match of it."""
        assert self.truth is not None
        names = (self.folders[0].name, self.folders[1].name)
        return self.by_matches(read_truth(self.truth, self.database, self.queries, names))

    def by_matches(self, truth: Truth) -> tuple[Images, float]:
        """Images with known matches: a database image stands at its number, a query at its middle match."""
        place = np.zeros((len(self.queries), 2))
        reach = 1.0
        for index, row in enumerate(truth):
            middle = row[len(row) // 2] if len(row) else index
            place[index] = (middle, 0.0 if len(row) else ELSEWHERE)
            reach = max(reach, float(np.abs(row - middle).max(initial=0)))
        order = np.column_stack([np.arange(len(self.database)), np.zeros(len(self.database))])
        return Images(*self.records(order, place), truth), reach

    def by_numbers(self, database: np.ndarray, queries: np.ndarray, tolerance: int) -> Images:
        """Images that match when their frame numbers [n] differ by ``tolerance`` at most: one "metre" a frame."""
        start = min(database.min(), queries.min())
        sides = [np.column_stack([side - start, np.zeros(len(side))]) for side in (database, queries)]
        return Images(*self.records(*sides), matches_by_number(database, queries, tolerance))

    def by_utm_names(self, radius: float) -> Images | None:
        """Images matched within ``radius`` metres of the positions in their @utm names; None when a name has none."""
        if not all(name.rsplit("/", 1)[-1].startswith("@") for name in (*self.database, *self.queries)):
            return None
        from distilplace.common.inputs.position_checks import refuse_degrees, refuse_far
        from distilplace.datasets.io.utm_names import parse_utm

        sides = []
        for folder, names in zip(self.folders, (self.database, self.queries), strict=True):
            places = [parse_utm(folder / name, folder) for name in names]
            sides.append(np.array([(northing, easting) for easting, northing, _ in places]))
        for refuse in (refuse_degrees, refuse_far):
            refuse(np.concatenate(sides), "positions in the images' @utm names")
        database, queries = self.records(*sides)
        return Images(database, queries, matches_by_distance(database, queries, radius))


class OwnImages(MatchedSet):
    """Base of one's own images: two folders with their ground truth, or a flat folder that is one sequence.

    ``layouts``: what the two folders (database, queries) may be called.
    """

    upright = True
    layouts: tuple[tuple[str, str], ...] = (FOLDERS,)

    @abstractmethod
    def numbers(self, names: list[str]) -> np.ndarray:
        """Int64 [n]: the frame number of each image of a folder; equal ones show one place."""

    def settle_flat(self, beside: tuple[str, ...] = ()) -> bool:
        """Take a flat folder of images as one sequence; False where it has one of the layouts, or ``beside``."""
        if not is_flat(self._folder, [side for layout in self.layouts for side in (*layout, *beside)]):
            return False
        sides = " and ".join(f"{self._folder}/{side}" for side in self.layouts[0])
        tolerance = flat_tolerance(self._folder, self._tolerance, sides)
        names = listed_images(self._folder, self.notes)
        test, training = flat_parts(self._folder, names, self.numbers(names), tolerance, self._fraction)
        self.notes.append(flat_note(test, training, tolerance))
        self._radius = float(tolerance)
        self._settle(test, training)
        return True

    def listed(self, home: Path, folders: tuple[str, str] = FOLDERS, prefix: str = "") -> Listed:
        """The images of two folders, with their notes."""
        found = Listed.read(home, folders, upright=True, prefix=prefix)
        self.notes += found.notes
        return found

    def by_table(self, listed: Listed, part: str = "") -> Images:
        """Images matched by truth.csv, which gives the radius."""
        found, self._radius = listed.by_table()
        self.notes.append(f"{part}truth: {listed.truth} ({sum(map(len, found.truth))} pairs)")
        return found


class ImagesData(OwnImages):
    """Query and database images under ``dataset_folder``.

    ``frame_tolerance``: how many frames apart images of one place may lie (it wins over a truth.csv).
    ``train_fraction``: the first part of the sequence, which trains where there is no D/train. Radii are metres, for
    @utm names only: true within ``eval_radius`` (25), in training positive within ``positive_radius`` (10), never
    negative within ``negative_radius`` (25).
    """

    name = "images"

    def __init__(
        self,
        dataset_folder: Path | str | None = None,
        frame_tolerance: int | None = None,
        train_fraction: float = 0.0,
        eval_radius: float | None = None,
        positive_radius: float | None = None,
        negative_radius: float | None = None,
    ) -> None:
        super().__init__(dataset_folder, train_fraction, frame_tolerance)
        self._radii = checked_radii(eval_radius, positive_radius, negative_radius)
        self._by_distance = False
        if self.settle_flat((TRAINING,)):
            return
        test = self._matched(self.listed(self._folder))
        self._unit = "m" if self._by_distance else "frames"
        radius, own = self._radius, self._folder / TRAINING
        self._training_remedy = (
            "--train_fraction is 0: set it between 0 and 1 (the first part of the sequence trains, the rest is the "
            f"test), or add {own}/database and {own}/queries"
        )
        training = None
        if own.is_dir():
            training = self._matched(self.listed(own, prefix=f"{TRAINING}/"), "training part: ")
            if training is None:
                raise UserError(f"no truth for {own}: add its {TRUTH}, or name the images by @utm")
            if self._fraction:
                self.notes.append(f"--train_fraction is not used: {own} is the training part")
        self._radius = radius
        self._settle(test, training)

    def numbers(self, names: list[str]) -> np.ndarray:
        """The last number in each name."""
        return frame_numbers(names)

    def _relations(self, training: Images) -> TrainingSet:
        if self._by_distance:
            return training_by_distance(training.database, training.queries, *self._radii[1:])
        return super()._relations(training)

    def _matched(self, listed: Listed, part: str = "") -> Images | None:
        """Applies the first source of truth there is: the tolerance, truth.csv, @utm names; None without any."""
        self._by_distance = False
        if self._tolerance is not None:
            beside = f"; {TRUTH} is left aside" if listed.truth else ""
            apart = f"at most {self._tolerance} apart" if self._tolerance else "equal"
            self.notes.append(f"{part}truth: frame numbers {apart} (--frame_tolerance{beside})")
            self._radius = float(self._tolerance)
            return listed.by_numbers(self.numbers(listed.database), self.numbers(listed.queries), self._tolerance)
        if listed.truth is not None:
            return self.by_table(listed, part)
        self._radius = self._radii.evaluation
        self._by_distance = True
        if found := listed.by_utm_names(self._radius):
            self.notes.append(f"{part}truth: @utm names, {self._radius:g} m")
        return found

    def _without_truth(self) -> UserError:
        return UserError(
            f"no truth for the images in {self._folder}: add a {TRUTH} (header query,database), set --frame_tolerance "
            "N (frame numbers in the file names), or name the images @easting@northing@...@.jpg"
        )
