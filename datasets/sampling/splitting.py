"""A validation set cut from the training samples: one stretch of the route; model selection never sees the test.

The rule. The run with the most places is the guide; candidates are stretches of consecutive places of it, its last one
first. Every run's places within half the evaluation radius of the stretch are validation (a region in space, so that
no other traversal of it trains). The stretch is as long as the region needs to hold ``fraction`` of all places, at most
half of the guide; it is taken when at least half of its queries have a true match. Training places within the buffer
of a validation place are dropped. The buffer is at most 10 % of the extent of the guide's places (diagonal of their
bounding box): 50 m in a city, less in small worlds.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from distilplace.common.errors import UserError
from distilplace.datasets.records import Benchmark, EvaluationSet, PlaceRecord, TrainingSet, distance_text
from distilplace.datasets.relations import true_neighbours
from distilplace.datasets.routes import distance_to

LARGEST_BUFFER_SHARE = 0.1


@dataclass(frozen=True)
class Split:
    """What :func:`split` made; ``validation`` is None when none was wanted or nothing usable found: ``note`` says."""

    training: TrainingSet
    validation: Benchmark | None
    note: str


def split(
    training_set: TrainingSet, fraction: float, *, buffer: float = 50.0, eval_radius: float = 25.0, unit: str = "m"
) -> Split:
    """Training set without the validation stretch and its buffer (metres), and the stretch as an evaluation set.

    The training set as it is for fraction 0, and when no stretch gives a usable validation. ``unit`` as in
    EvaluationSet.
    """
    if not 0.0 <= fraction < 1.0:
        raise UserError(f"--val_fraction must be at least 0 and below 1, not {fraction}")
    if fraction == 0.0:
        return Split(training_set, None, "no validation split: the last epoch is kept")
    places = training_set.positions()
    guide = _guide(training_set.records)
    extent = float(np.linalg.norm(np.ptp(places[guide], axis=0))) if len(guide) else 0.0
    buffer = min(buffer, LARGEST_BUFFER_SHARE * extent)
    for marks in _regions(places, guide, fraction, eval_radius / 2):
        rest = np.flatnonzero(~marks & (distance_to(places, places[marks]) > buffer))
        training = subset(training_set, rest)
        validation = _evaluation([training_set.records[i] for i in np.flatnonzero(marks).tolist()], eval_radius, unit)
        if _usable(training, validation):
            note = (
                f"validation: {int(marks.sum())} of {len(marks)} training samples, {len(rest)} left to train on "
                f"(buffer {buffer:.1f} {unit})"
            )
            return Split(training, validation, note)
    reach = distance_text(eval_radius, unit)
    note = (
        f"no validation split: no stretch of {fraction:.0%} of the {len(places)} training samples gives half of its "
        f"queries a true match ({reach}) and leaves positive pairs to train on: all of them train, the last "
        "epoch is kept"
    )
    return Split(training_set, None, note)


def subset(training_set: TrainingSet, indices: np.ndarray) -> TrainingSet:
    """The places at the sorted ``indices`` with their poses and groups, relations renumbered to them."""
    number = np.full(len(training_set), -1, dtype=np.int64)
    number[indices] = np.arange(len(indices))

    def renumbered(rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        moved = [number[rows[i]] for i in indices]
        return [row[row >= 0] for row in moved]

    records = [training_set.records[i] for i in indices.tolist()]
    queries = training_set.queries
    if queries is not None:
        queries = number[queries]
        queries = queries[queries >= 0]
    poses, groups = training_set.poses, training_set.groups
    return replace(
        training_set,
        records=records,
        positives=renumbered(training_set.positives),
        non_negatives=renumbered(training_set.non_negatives),
        queries=queries,
        poses=None if poses is None else poses[indices],
        groups=None if groups is None else groups[indices],
    )


def _guide(records: Sequence[PlaceRecord]) -> np.ndarray:
    """Indices, in their order, of the places of the run that has most (the first such run among equals)."""
    runs: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        runs.setdefault(record.run, []).append(index)
    return np.array(max(runs.values(), key=len, default=[]), dtype=np.int64)


def _regions(places: np.ndarray, guide: np.ndarray, fraction: float, reach: float) -> Iterator[np.ndarray]:
    """Candidate validation marks (bool [n]), the guide's last stretch first: each the shortest with enough places."""
    wanted = max(2, round(fraction * len(places)))
    end = len(guide)
    while end > 0:

        def marks(size: int, end: int = end) -> np.ndarray:
            return distance_to(places, places[guide[max(0, end - size) : end]]) <= reach

        longest = max(2, min(end, len(guide) // 2))
        size = bisect_left(range(longest), wanted, lo=2, key=lambda size: int(marks(size).sum()))
        yield marks(size)
        end -= size


def _evaluation(records: list[PlaceRecord], radius: float, unit: str) -> EvaluationSet:
    """All ordered pairs of runs; a run alone gives alternate places to the database and to the queries."""
    runs = sorted({record.run for record in records})
    if len(runs) > 1:
        database = [[record for record in records if record.run == run] for run in runs]
        queries = database
    else:
        runs = [f"{runs[0]}/database", f"{runs[0]}/queries"]
        database = [records[::2], []]
        queries = [[], records[1::2]]
    truth = true_neighbours(database, queries, radius)
    return EvaluationSet("validation", runs, database, queries, truth, radius, unit=unit)


def _usable(training: TrainingSet, validation: EvaluationSet) -> bool:
    """Do at least half of the queries have a true match, and does a positive pair remain to train on?"""
    matched = validation.matched()
    return any(matched) and 2 * sum(matched) >= len(matched) and any(len(row) for row in training.positives)
