"""DistilVPR's pickles as records: training tuples, evaluation lists, image index; checked on the way in."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.inputs.text_tables import read_table
from distilplace.common.numbers import parse_finite, parse_whole
from distilplace.datasets.io.pickles import TrainingTuple, load_pickle


@dataclass(frozen=True)
class Submap:
    """What a stored path such as ``oxford/<run>/pointcloud_20m/<us>.bin`` says."""

    path: str
    run: str
    stamp: int

    @property
    def key(self) -> str:
        """The path without its suffix: the same file, whichever list names it, has the same key."""
        return str(PurePosixPath(self.path).with_suffix(""))


def parse_submap(path: Any, source: Path) -> Submap:
    """The run and the stamp of a stored cloud path."""
    pure = PurePosixPath(str(path).replace("\\", "/"))
    stamp = parse_whole(pure.stem)
    if len(pure.parts) < 3 or stamp is None or not pure.stem.isdecimal():
        raise UserError(f"{source}: {str(path)!r} is not of the form <set>/<run>/<folder>/<timestamp>.<suffix>")
    return Submap(str(pure), pure.parent.parent.name, stamp)


@dataclass
class TrainingRows:
    """A training pickle in columns: path, position ``[n, 2]`` (northing, easting; metres) and relations per item."""

    paths: list[str]
    positions: np.ndarray
    positives: list[np.ndarray]
    non_negatives: list[np.ndarray]
    unsorted: int


class Locations:
    """Positions from ``<set>/<run>/pointcloud_locations_<kind>.csv`` (timestamp,northing,easting; metres)."""

    def __init__(self, pickle_path: Path) -> None:
        self.source = pickle_path
        self._tables: dict[Path, dict[int, np.ndarray]] = {}

    def of(self, stored: Any) -> np.ndarray:
        """Northing and easting of a stored cloud path ``<set>/<run>/pointcloud_<kind>/<us>.bin``."""
        submap = parse_submap(stored, self.source)
        folder = self.source.parent / PurePosixPath(submap.path).parent
        kind = folder.name.removeprefix("pointcloud_")
        table = folder.parent / f"pointcloud_locations_{kind}.csv"
        if table not in self._tables:
            self._tables[table] = self._read(table)
        if submap.stamp not in self._tables[table]:
            raise ValueError(f"has no position: {table} lacks the timestamp {submap.stamp}")
        return self._tables[table][submap.stamp]

    def _read(self, table: Path) -> dict[int, np.ndarray]:
        if not table.is_file():
            raise UserError(f"{self.source} carries no positions, and {table}, which should, does not exist")
        columns = ("timestamp", "northing", "easting")
        advice = "expected columns timestamp,northing,easting of numbers"
        found: dict[int, np.ndarray] = {}
        for line, row in read_table(table, columns, advice).rows:
            stamp, place = parse_whole(row["timestamp"]), [parse_finite(row[name]) for name in columns[1:]]
            if stamp is None or None in place:
                raise UserError(f"{table} line {line}: {advice}, found {', '.join(row[name] for name in columns)}")
            if stamp in found:
                raise UserError(f"{table} line {line}: timestamp {stamp} stands there twice")
            found[stamp] = np.array(place, dtype=np.float64)
        return found


def read_training(path: Path) -> TrainingRows:
    """A training pickle; a :class:`UserError` says which item is inconsistent and how.

    Either MinkLoc's tuples, or PointNetVLAD's original dicts (query, positives, negatives), whose positions come from
    the ``pointcloud_locations_*.csv`` beside the clouds.
    """
    table = load_pickle(path)
    if not isinstance(table, dict) or not table:
        raise UserError(f"{path}: a training pickle is a non-empty dict of tuples, not {type(table).__name__}")
    count = len(table)
    if set(table) != set(range(count)):
        raise UserError(f"{path}: the keys are not 0..{count - 1}")
    rows = TrainingRows([], np.empty((count, 2)), [], [], 0)
    locations = Locations(path)
    for index in range(count):
        try:
            _append_row(rows, index, count, _attributes(table[index], count, locations))
        except (KeyError, TypeError, ValueError) as error:
            text = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise UserError(f"{path}: item {index} {text}") from error
    return rows


def _attributes(item: Any, count: int, locations: Locations) -> dict[str, Any]:
    """A training item in MinkLoc's terms."""
    if isinstance(item, TrainingTuple):
        return {name: getattr(item, name) for name in TrainingTuple.__slots__ if hasattr(item, name)}
    if not isinstance(item, dict):
        raise TypeError(f"is a {type(item).__name__}, not a training tuple")
    if "negatives" not in item:
        return item
    near = np.ones(count, dtype=bool)
    near[_indices(item["negatives"], count, "negatives")[0]] = False
    return {
        "rel_scan_filepath": item["query"],
        "positives": np.sort(np.asarray(item["positives"], dtype=np.int64)),  # this form never promises an order
        "non_negatives": np.flatnonzero(near),
        "position": locations.of(item["query"]),
    }


def _append_row(rows: TrainingRows, index: int, count: int, item: dict[str, Any]) -> None:
    """Check one item and add it to ``rows``."""
    if int(item.get("id", index)) != index:
        raise ValueError(f"carries the id {item['id']}")
    positives, positives_sorted = _indices(item["positives"], count, "positives")
    non_negatives, non_negatives_sorted = _indices(item["non_negatives"], count, "non_negatives")
    positives = positives[positives != index]
    if not np.isin(np.append(positives, index), non_negatives).all():
        raise ValueError("has non_negatives that lack the item itself or one of its positives")
    rows.paths.append(str(item["rel_scan_filepath"]))
    rows.positions[index] = _position(item)
    rows.positives.append(positives)
    rows.non_negatives.append(non_negatives)
    rows.unsorted += not (positives_sorted and non_negatives_sorted)


def _indices(values: Any, count: int, name: str) -> tuple[np.ndarray, bool]:
    """``values`` sorted, unique, int64; and whether they came strictly ascending."""
    raw = np.asarray(list(values) if isinstance(values, set | frozenset) else values)
    if raw.size == 0:
        return np.empty(0, dtype=np.int64), True
    array = raw.astype(np.int64)
    if array.ndim != 1 or not (array == raw).all():
        raise ValueError(f"has {name} that are not a list of integers")
    ascending = bool((np.diff(array) > 0).all())
    if not ascending:
        array = np.unique(array)
    if array[0] < 0 or array[-1] >= count:
        raise ValueError(f"has {name} outside 0..{count - 1}")
    return array, ascending


def _position(item: dict[str, Any]) -> np.ndarray:
    """Northing and easting in metres; stored as dtype object in practice. EgoNN's 4 x 4 pose has x east, y north."""
    if "position" in item:
        position = np.asarray(item["position"]).astype(np.float64)
        if position.shape != (2,):
            raise ValueError(f"has a position of shape {position.shape}, not (2,)")
    else:
        pose = np.asarray(item["pose"]).astype(np.float64)
        if pose.shape != (4, 4):
            raise ValueError(f"has a pose of shape {pose.shape}, not (4, 4)")
        position = pose[[1, 0], 3]
    if not np.isfinite(position).all():
        raise ValueError("has a position that is not finite")
    return position


def read_evaluation(database_path: Path, query_path: Path) -> tuple[list[dict[int, Any]], list[dict[int, Any]]]:
    """The two evaluation pickles: per run, in one order, index -> entry; entries of upstream's structure, checked."""
    database, queries = _runs(database_path), _runs(query_path)
    if len(database) != len(queries):
        raise UserError(f"{database_path} has {len(database)} runs, {query_path} has {len(queries)}: they must match")
    if not any(database):
        raise UserError(f"{database_path}: no run has any database item, so there is nothing to retrieve from")
    if not any(queries):
        raise UserError(f"{query_path}: no run has any query, so there is nothing to evaluate")
    sizes = [len(run) for run in database]
    for n, run in enumerate(queries):
        for i, entry in run.items():
            entry.pop(n, None)  # neighbours in the own run are never evaluated
            for m, size in enumerate(sizes):
                if m != n:
                    _check_neighbours(entry, m, size, f"{query_path}: query {i} of run {n}")
    return database, queries


def _runs(path: Path) -> list[dict[int, Any]]:
    runs = load_pickle(path)
    if not isinstance(runs, list | tuple) or not all(isinstance(run, dict) for run in runs):
        raise UserError(f"{path}: an evaluation pickle is a list of dicts, one per run")
    for number, run in enumerate(runs):
        if set(run) != set(range(len(run))):
            raise UserError(f"{path}: the items of run {number} are not numbered 0..{len(run) - 1}")
        for index, entry in run.items():
            if not isinstance(entry, dict) or not {"query", "northing", "easting"} <= set(entry):
                raise UserError(f"{path}: item {index} of run {number} lacks query, northing or easting")
            for axis in ("northing", "easting"):
                if not isinstance(entry[axis], int | float) or not np.isfinite(entry[axis]):
                    raise UserError(f"{path}: item {index} of run {number} has {axis} {entry[axis]!r}, not a number")
    return [{index: run[index] for index in range(len(run))} for run in runs]


def _check_neighbours(entry: dict[Any, Any], run: int, size: int, where: str) -> None:
    if run not in entry:
        raise UserError(f"{where} lacks the list of its neighbours in run {run}")
    try:
        neighbours = [int(neighbour) for neighbour in entry[run]]
    except (TypeError, ValueError) as error:
        raise UserError(f"{where} has neighbours in run {run} that are not a list of integers") from error
    if neighbours and not (min(neighbours) >= 0 and max(neighbours) < size):
        raise UserError(f"{where} has neighbours in run {run} outside its {size} database items")
    entry[run] = neighbours


def read_image_index(path: Path) -> dict[int, list[int]]:
    """``lidar2image_ndx.pickle``: LiDAR stamp -> image stamps, nearest first."""
    index = load_pickle(path)
    if not isinstance(index, dict):
        raise UserError(f"{path}: an image index is a dict of LiDAR stamp -> image stamps, not {type(index).__name__}")
    try:
        return {int(stamp): [int(image) for image in images] for stamp, images in index.items()}
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: an image index maps integer stamps to lists of integer stamps ({error})") from error
