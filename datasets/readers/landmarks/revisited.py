"""``roxford5k`` and ``rparis6k``: revisited Oxford and Paris (Radenovic et al., CVPR 2018).

Test sets: ``roxford5k/jpg/<name>.jpg`` with ``roxford5k/gnd_roxford5k.pkl``, opened by the restricted reader. The
images of both were replaced by an edition with blurred faces in 2022, which shifts results slightly.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.inputs.text_files import read_lines
from distilplace.datasets.base import existing_folder
from distilplace.datasets.benchmarks import LandmarkSet
from distilplace.datasets.image_sets import ImageSet, record
from distilplace.datasets.io.pickles import load_pickle
from distilplace.datasets.records import PlaceRecord, TrainingSet

Box = tuple[float, float, float, float]
Rows = list[np.ndarray]
GRADES = ("easy", "hard", "junk")
COUNTED = ("database images", "queries", *GRADES)
CROPPING = {
    True: "--query_crop: queries are cut to their boxes, as the benchmark's protocol has it",
    False: "--no_query_crop: queries are whole images, unlike the benchmark's protocol, like whiten_mtd's",
}
DISTRACTORS = "revisitop1m"
DISTRACTOR_COUNT = 1_001_001


@dataclass(frozen=True)
class RevisitedTruth:
    """A ground-truth file: image names without extension, query boxes (x1 y1 x2 y2, pixels), graded indices.

    ``easy[i]``, ``hard[i]``, ``junk[i]``: sorted int64 indices into ``database``, disjoint.
    """

    database: list[str]
    queries: list[str]
    boxes: list[Box]
    easy: Rows
    hard: Rows
    junk: Rows

    def totals(self) -> tuple[int, ...]:
        """Numbers of database images, queries, easy, hard and junk items."""
        graded = (sum(map(len, rows)) for rows in (self.easy, self.hard, self.junk))
        return len(self.database), len(self.queries), *graded


class RevisitedData(ImageSet):
    """Base of both sets, ``dataset_folder`` being the set's own folder or the one above it.

    ``query_crop``: queries are cut to their box before anything else, as the benchmark does; False: whole images, as
    whiten_mtd does. ``distractors_folder``: the million distractors, appended to the database; wrong for every query.
    """

    views = "landmarks"
    metric_positions = False
    published: tuple[int, int, int, int, int]
    """The totals of the published ground truth."""
    sized_queries = True

    def __init__(
        self,
        dataset_folder: Path | str | None = None,
        query_crop: bool = False,
        distractors_folder: Path | str | None = None,
    ) -> None:
        super().__init__()
        folder = existing_folder(dataset_folder, "--dataset_folder", "dataset folder")
        self._truth_file = _truth_file(folder, self.name)
        self._images = self._truth_file.parent / "jpg"
        self._crop = query_crop
        self._distractors = None
        if distractors_folder is not None:
            self._distractors = existing_folder(distractors_folder, "--distractors_folder", "distractor folder")

    def training_set(self) -> TrainingSet:
        """There is none: :class:`UserError`."""
        raise UserError(f"data set {self.name} has no training part: train on gldv2, then evaluate on {self.name}")

    def evaluation_set(self) -> LandmarkSet:
        """All queries and database images, distractors last."""
        truth = read_revisited_truth(self._truth_file)
        found = truth.totals()
        listed = ", ".join(f"{count} {what}" for count, what in zip(found, COUNTED, strict=True))
        agrees = "as published" if found == self.published else f"published: {', '.join(map(str, self.published))}"
        self.notes = [f"{listed} ({agrees})", CROPPING[self._crop]]
        database = [record("database", self._images / f"{name}.jpg", name) for name in truth.database]
        queries = [self._query(name, box) for name, box in zip(truth.queries, truth.boxes, strict=True)]
        if self._distractors is not None:
            distractors = read_distractors(self._distractors)
            self.notes.append(f"{len(distractors)} distractors (published: {DISTRACTOR_COUNT})")
            database += distractors
        return LandmarkSet(self.name, database, queries, truth.easy, truth.hard, truth.junk)

    def _query(self, name: str, box: Box) -> PlaceRecord:
        path = self._images / f"{name}.jpg"
        if not self._crop:
            return replace(record("queries", path, name), as_query=True)
        # A key of its own: the same file, but another input.
        return PlaceRecord(f"queries/{name}#crop", "queries", None, (path,), 0.0, 0.0, crop=box, as_query=True)


class ROxford5kData(RevisitedData):
    """``roxford5k``: revisited Oxford, 70 queries among 4,993 images; queries 11 and 66 have no easy item."""

    name = "roxford5k"
    published = (4_993, 70, 3_029, 2_497, 1_356)


class RParis6kData(RevisitedData):
    """``rparis6k``: revisited Paris, 70 queries among 6,322 images."""

    name = "rparis6k"
    published = (6_322, 70, 6_874, 10_350, 7_153)


def _truth_file(folder: Path, name: str) -> Path:
    """``gnd_<name>.pkl``, or one file ``<something>_gnd_<name>.pkl``, in ``folder``/<name> or ``folder``."""
    for home in (folder / name, folder):
        if (home / f"gnd_{name}.pkl").is_file():
            return home / f"gnd_{name}.pkl"
        renamed = sorted(home.glob(f"*_gnd_{name}.pkl"))
        if len(renamed) == 1:
            return renamed[0]
    raise UserError(f"no ground truth gnd_{name}.pkl in {folder / name} or {folder}: put it beside jpg/")


def read_revisited_truth(path: Path) -> RevisitedTruth:
    """The checked content of a ``gnd_*.pkl``.

    Raises:
        UserError: not a dict of gnd, imlist and qimlist, the ground truth of before the revision (with ``ok``),
            indices out of range, overlapping lists, a query that is in the database; with the file and the query.

    """
    content = load_pickle(path)
    if not isinstance(content, dict) or not {"gnd", "imlist", "qimlist"} <= content.keys():
        raise UserError(f"ground truth {path}: expected a dict with gnd, imlist and qimlist")
    database, queries = (_image_names(content[key], f"ground truth {path}: {key}") for key in ("imlist", "qimlist"))
    both = sorted(set(database) & set(queries))
    if both:
        raise UserError(f"ground truth {path}: {len(both)} queries are in imlist too, such as {both[0]}")
    entries = content["gnd"]
    if not isinstance(entries, list | tuple) or len(entries) != len(queries):
        raise UserError(f"ground truth {path}: gnd must list one entry for each of the {len(queries)} queries")
    boxes: list[Box] = []
    graded: tuple[Rows, Rows, Rows] = ([], [], [])
    for number, entry in enumerate(entries):
        where = f"ground truth {path}, query {number} ({queries[number]})"
        _check_entry(entry, where)
        boxes.append(_box(entry["bbx"], where))
        lists = [_indices(entry[grade], len(database), f"{where}: {grade}") for grade in GRADES]
        if len(np.unique(np.concatenate(lists))) != sum(map(len, lists)):
            raise UserError(f"{where}: easy, hard and junk must not share or repeat an index")
        for rows, found in zip(graded, lists, strict=True):
            rows.append(found)
    return RevisitedTruth(database, queries, boxes, *graded)


def _check_entry(entry: Any, where: str) -> None:
    if isinstance(entry, dict) and "ok" in entry:
        raise UserError(f"{where}: has a list 'ok': this is the ground truth of before the revision; get gnd_r*.pkl")
    if not isinstance(entry, dict) or not {"bbx", *GRADES} <= entry.keys():
        raise UserError(f"{where}: expected a dict with bbx, easy, hard and junk")


def _image_names(values: Any, where: str) -> list[str]:
    """Names that are relative paths staying in their folder, each once."""
    names = values.tolist() if isinstance(values, np.ndarray) else values
    if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where} must be a list of image names")
    if len(set(names)) != len(names):
        raise UserError(f"{where} names an image twice")
    if outside := [name for name in names if name.startswith("/") or ".." in name.split("/")]:
        raise UserError(f"{where}: '{outside[0]}' points out of the image folder")
    return list(names)


def _array(values: Any) -> np.ndarray:
    """``values`` as an array; rows of unequal length give one of objects, which every caller refuses."""
    try:
        return np.asarray(values)
    except ValueError:
        return np.asarray(None)


def _box(values: Any, where: str) -> Box:
    found = _array(values)
    if found.shape != (4,) or found.dtype.kind not in "iuf" or not np.isfinite(found).all():
        raise UserError(f"{where}: bbx must be four numbers, x1 y1 x2 y2")
    x1, y1, x2, y2 = (float(value) for value in found)
    if not (x1 < x2 and y1 < y2):
        raise UserError(f"{where}: bbx {x1:g} {y1:g} {x2:g} {y2:g} is empty: expected x1 < x2 and y1 < y2")
    return x1, y1, x2, y2


def _indices(values: Any, count: int, where: str) -> np.ndarray:
    found = _array(values)
    if found.shape == (0,):
        return np.empty(0, dtype=np.int64)
    if found.ndim != 1 or found.dtype.kind not in "iu" or found.min() < 0 or found.max() >= count:
        raise UserError(f"{where} must list indices from 0 to {count - 1} into imlist")
    return np.sort(found.astype(np.int64))


def read_distractors(folder: Path) -> list[PlaceRecord]:
    """The images named, with extension, in ``revisitop1m.txt``; they lie in jpg/, in revisitop1m/ or beside it."""
    homes = [home for home in (folder / DISTRACTORS, folder) if (home / f"{DISTRACTORS}.txt").is_file()]
    if not homes:
        raise UserError(f"no {DISTRACTORS}.txt in {folder} or {folder / DISTRACTORS}: check --distractors_folder")
    path = homes[0] / f"{DISTRACTORS}.txt"
    names = _image_names([line for _, line in read_lines(path, "list of distractors")], f"list of distractors {path}")
    places = [homes[0] / "jpg", homes[0] / DISTRACTORS, homes[0]]
    images = next((place for place in places if (place / names[0]).is_file()), places[0])
    return [record("distractors", images / name, name) for name in names]
