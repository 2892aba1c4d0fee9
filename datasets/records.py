"""What every data set turns into: samples, training relations, evaluation runs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from distilplace.common.errors import UserError


@dataclass(frozen=True)
class PlaceRecord:
    """One sample: where its files lie and where the robot stood.

    ``key`` is a stable id: one key = one input, so an embedding stored under it may be used wherever the key occurs.
    ``images`` are ordered nearest in time first. Positions are metres in a planar frame. ``crop``: x1 y1 x2 y2 in
    pixels of the file, cut out before anything else is done to the image; None: all of it.
    """

    key: str
    run: str
    cloud: Path | None
    images: tuple[Path, ...]
    northing: float
    easting: float
    crop: tuple[float, float, float, float] | None = None
    as_query: bool = False
    """Is it only ever a query, never retrieved? Then it has the size of queries (``PlaceData.query_resize``)."""
    upright: bool = False
    """Do reports show the images turned as their EXIF orientation says? As the data set reads them."""


Layout = Literal["pairs", "items", "views", "groups", "tuples"]
"""How a batch is composed: pairs that show one place, single items, two views of each item, one random pair of each
group, or mined tuples."""


@dataclass
class TrainingSet:
    """Training samples and, per sample, the indices of its positives and non-negatives.

    ``positives[i]``: sorted int64, without i. ``non_negatives[i]``: sorted int64, with i and its positives; whatever is
    in neither list is a negative, whatever is only in the second is ignored by the losses. ``queries``: the sorted
    int64 indices of those that are queries, the others being the gallery; None where every sample may be either.
    ``poses``: float64 [n, 7] camera poses (x y z in metres, unit quaternion, scalar first). ``groups``: int64 [n],
    which landmark each item shows. ``layout``: how batches are composed where the task loss does not say.
    """

    records: Sequence[PlaceRecord]
    positives: Sequence[np.ndarray]
    non_negatives: Sequence[np.ndarray]
    queries: np.ndarray | None = None
    poses: np.ndarray | None = None
    groups: np.ndarray | None = None
    layout: Layout = "pairs"

    def __post_init__(self) -> None:
        require_one_input_per_key(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def positions(self) -> np.ndarray:
        """Float64 ``[n, 2]``: northing and easting, metres."""
        return positions(self.records)

    def masks(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Positives and negatives among the samples of a batch of B ``indices`` (an index may occur twice).

        Two bool tensors ``[B, B]``; an item and its copies are neither positive nor negative to each other.
        """
        batch = np.asarray(indices, dtype=np.int64)
        positive, negative = _listed(self.positives, batch), ~_listed(self.non_negatives, batch)
        same = batch[:, None] == batch[None, :]
        return torch.from_numpy(positive & ~same), torch.from_numpy(negative & ~same)


def _listed(lists: Sequence[np.ndarray], batch: np.ndarray) -> np.ndarray:
    """Bool ``[B, B]``: is batch[j] in lists[batch[i]]? However many samples there are, only the B are looked for."""
    wanted, column = np.unique(batch, return_inverse=True)
    table = np.zeros((len(batch), len(wanted)), dtype=bool)
    rows = [lists[index] for index in batch.tolist()]
    if rows:
        listed, owners = np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        place = np.minimum(np.searchsorted(wanted, listed), len(wanted) - 1)
        found = wanted[place] == listed
        table[owners[found], place[found]] = True
    return table[:, column]


@dataclass(frozen=True)
class RankingRules:
    """How a protocol reads rankings, where that differs from "every item of the other run counts".

    ``unmatched``: queries without ground truth are omitted from recall ("skip") or counted as misses ("miss").
    ``groups[m]``: int64 [n], the panorama of each database item of run m, of which only the best-ranked item counts
    (spatial suppression). ``excluded[m, n][i]``: indices of database run m that must not be retrieved for query
    i of run n, such as itself or the frames of the last 30 s. ``f1_radii``: metres within which the first is right and
    beyond which it is wrong; with them the largest F1 over all similarity thresholds is reported too.
    """

    unmatched: Literal["skip", "miss"] = "skip"
    groups: Mapping[int, np.ndarray] = field(default_factory=dict)
    excluded: Mapping[tuple[int, int], Sequence[Sequence[int] | np.ndarray]] = field(default_factory=dict)
    f1_radii: tuple[float, float] | None = None


class Benchmark(ABC):
    """What is measured at the end: which images have to be described, and what is right."""

    name: str

    def __post_init__(self) -> None:
        require_one_input_per_key(self.all_records)

    @abstractmethod
    def all_records(self) -> Iterable[PlaceRecord]:
        """Every record, database first; one may occur several times."""

    def distinct_records(self) -> list[PlaceRecord]:
        """Every record once per key: what has to be embedded."""
        return distinct(self.all_records())

    @abstractmethod
    def require_queries(self) -> None:
        """:class:`UserError` when nothing could be measured: said before anything is trained."""

    @abstractmethod
    def summary(self) -> str:
        """How much is tested, for the log."""


@dataclass
class EvaluationSet(Benchmark):
    """Database and queries per run, and which database items are right for which query.

    ``query_sets[n][i]`` is upstream's structure: ``{"query", "northing", "easting", m: [indices into database[m]]}``
    for every other run m; the own run is absent. Neighbours lie within ``radius`` metres, the boundary included.
    """

    name: str
    runs: list[str]
    database: list[list[PlaceRecord]]
    queries: list[list[PlaceRecord]]
    query_sets: list[dict[int, dict[Any, Any]]]
    radius: float
    rules: RankingRules = field(default_factory=RankingRules)
    unit: str = "m"
    """What positions and ``radius`` are counted in: metres, or frames of a sequence."""
    conditions: Sequence[str] = ()
    """Season, weather or light of each run, where the data set says it; empty: it does not."""

    def all_records(self) -> Iterable[PlaceRecord]:
        """The database run by run, then the queries."""
        return chain.from_iterable([*self.database, *self.queries])

    def matched(self) -> list[bool]:
        """Does each query, run by run, have a true match in any other run?"""
        runs = range(len(self.runs))
        return [any(len(entry.get(m, ())) for m in runs) for run in self.query_sets for entry in run.values()]

    def require_queries(self) -> None:
        """:class:`UserError` when nothing could be measured: said before anything is trained."""
        if not any(self.database):
            raise UserError(f"data set {self.name}: no run has any database item; check its evaluation database")
        if not any(self.queries):
            raise UserError(f"data set {self.name}: no run with any query; check its evaluation queries")
        if not any(self.matched()):
            reach = distance_text(self.radius, self.unit)
            raise UserError(f"data set {self.name}: no query has a true neighbour in another run (radius: {reach})")

    def summary(self) -> str:
        """How much is tested."""
        return f"{len(self.runs)} runs, {len(self.distinct_records())} samples"


@dataclass(frozen=True)
class CloudSettings:
    """How a data set's clouds become voxels: step in the cloud's own unit, points per file, augmentation chain."""

    quantization_size: float
    n_points: int
    augmentation: Literal["oxford", "boreas"]


def positions(records: Sequence[PlaceRecord]) -> np.ndarray:
    """Float64 ``[n, 2]``: northing and easting, metres."""
    return np.array([(record.northing, record.easting) for record in records], dtype=np.float64).reshape(-1, 2)


def distance_text(distance: float, unit: str, digits: int | None = None) -> str:
    """A distance in the ``unit`` of an :class:`EvaluationSet`: "12.5 m", "exact frame", "1 frame", "3 frames".

    ``digits`` after the point for metres; None: as many as it has.
    """
    if unit != "frames":
        return f"{distance:g} {unit}" if digits is None else f"{distance:.{digits}f} {unit}"
    return "exact frame" if distance == 0 else f"{distance:g} frame{'' if distance == 1 else 's'}"


def require_one_input_per_key(records: Sequence[PlaceRecord] | Callable[[], Iterable[PlaceRecord]]) -> None:
    """:class:`UserError` naming both files where one key stands for two inputs; the same input may occur again.

    ``records``: or a function that gives them, always in one order. Only those with a key like another's are held.
    """

    def again() -> Iterable[PlaceRecord]:
        return records() if callable(records) else records

    hashes = np.fromiter((hash(record.key) for record in again()), dtype=np.int64)
    _, number, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    seen: dict[str, PlaceRecord] = {}
    for record in compress(again(), (counts[number] > 1).tolist()) if (counts > 1).any() else ():
        first = seen.setdefault(record.key, record)
        if first is not record and _input(first) != _input(record):
            pairs = zip(_files(first), _files(record), strict=False)
            one, other = next((pair for pair in pairs if pair[0] != pair[1]), (first.crop, record.crop))
            raise UserError(
                f"two inputs have one key, {record.key}: {one} and {other}: their embeddings would be taken for one "
                "another; rename a file or its folder"
            )


def _input(record: PlaceRecord) -> tuple[object, ...]:
    return record.cloud, record.images, record.crop


def _files(record: PlaceRecord) -> tuple[Path | None, ...]:
    return (*(record.images or (None,)), record.cloud)


def distinct(records: Iterable[PlaceRecord]) -> list[PlaceRecord]:
    """The first record of each key, in order."""
    seen: dict[str, PlaceRecord] = {}
    for record in records:
        seen.setdefault(record.key, record)
    return list(seen.values())
