"""Who is near whom: positives, non-negatives and ground truth from positions (metres), boundaries included."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import numpy as np

from distilplace.common.errors import UserError
from distilplace.datasets.records import PlaceRecord, positions


class Radii(NamedTuple):
    """Metres: a true match of the evaluation; a positive of training; beyond the last, a negative."""

    evaluation: float
    positive: float
    negative: float


USUAL = Radii(25.0, 10.0, 25.0)  # NetVLAD's


def check_radii(evaluation: float | None, positive: float | None = None, negative: float | None = None) -> None:
    """:class:`UserError` for a radius that is no positive number, or positives beyond negatives; None: not given."""
    for flag, value in (("positive", positive), ("negative", negative), ("eval", evaluation)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UserError(f"--{flag}_radius must be a positive number of metres, not {value}")
    if positive is not None and negative is not None and positive > negative:
        raise UserError(f"--positive_radius {positive:g} exceeds --negative_radius {negative:g}: lower the first")


def checked_radii(
    evaluation: float | None,
    positive: float | None = None,
    negative: float | None = None,
    default: Radii = USUAL,
) -> Radii:
    """The radii given, else those of ``default``; :class:`UserError` as :func:`check_radii`."""
    given = (evaluation, positive, negative)
    radii = Radii(*(usual if value is None else value for value, usual in zip(given, default, strict=True)))
    check_radii(*radii)
    return radii


def neighbours_within(queries: np.ndarray, database: np.ndarray, radius: float) -> list[np.ndarray]:
    """Per query ``[q, 2]`` the sorted int64 indices of database ``[n, 2]`` items at distance <= ``radius``."""
    if len(queries) == 0 or len(database) == 0:
        return [np.empty(0, dtype=np.int64) for _ in range(len(queries))]
    from sklearn.neighbors import KDTree

    # Float64 and offsets from one origin: UTM northings of 5.7e6 m would cost half a metre in float32.
    origin = database[0]
    tree = KDTree(np.asarray(database, dtype=np.float64) - origin)
    found = tree.query_radius(np.asarray(queries, dtype=np.float64) - origin, r=radius)
    return [np.sort(row).astype(np.int64) for row in found]


def training_relations(
    places: np.ndarray, positive_radius: float, negative_radius: float
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Positives and non-negatives of each place, as :class:`distilplace.datasets.records.TrainingSet` holds them.

    ``places`` is float64 ``[n, 2]``: northing, easting in metres. Positives lie within ``positive_radius`` metres (self
    excluded), non-negatives within ``negative_radius`` metres (self included).
    """
    if not 0 < positive_radius <= negative_radius:
        raise ValueError(f"radii must satisfy 0 < positive <= negative, not {positive_radius}, {negative_radius}")
    near = neighbours_within(places, places, positive_radius)
    positives = [row[row != index] for index, row in enumerate(near)]
    return positives, neighbours_within(places, places, negative_radius)


class GroupMembers(Sequence[np.ndarray]):
    """Per item the sorted int64 indices of its group's members, looked up when asked for, without or with itself.

    ``groups``: int64 [n], the group of each item. Three numbers an item, and none for a pair.
    """

    def __init__(self, groups: np.ndarray, *, with_self: bool) -> None:
        self._with_self = with_self
        self._order = np.argsort(groups, kind="stable")
        _, self._number, counts = np.unique(groups, return_inverse=True, return_counts=True)
        self._ends = np.cumsum(counts)
        self._starts = self._ends - counts

    def __len__(self) -> int:
        return len(self._number)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        number = self._number[index]
        members: np.ndarray = self._order[self._starts[number] : self._ends[number]]
        return members if self._with_self else members[members != index]


def group_relations(groups: np.ndarray) -> tuple[GroupMembers, GroupMembers]:
    """Positives and non-negatives of items by group, int64 [n]: those of an item's own."""
    return GroupMembers(groups, with_self=False), GroupMembers(groups, with_self=True)


def true_neighbours(
    database: Sequence[Sequence[PlaceRecord]], queries: Sequence[Sequence[PlaceRecord]], radius: float
) -> list[dict[int, dict[Any, Any]]]:
    """Upstream's query structure for every run: per other run m the database indices within ``radius`` metres."""
    database_positions = [positions(run) for run in database]
    query_sets: list[dict[int, dict[Any, Any]]] = []
    for n, run in enumerate(queries):
        entries: dict[int, dict[Any, Any]] = {
            i: {"query": record.key, "northing": record.northing, "easting": record.easting}
            for i, record in enumerate(run)
        }
        for m, places in enumerate(database_positions):
            if m != n:
                for i, near in enumerate(neighbours_within(positions(run), places, radius)):
                    entries[i][m] = near.tolist()
        query_sets.append(entries)
    return query_sets
