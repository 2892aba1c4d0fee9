"""Pictures of known position, answered by a map as a robot would be: what confidences are fitted and measured on.

A picture never meets its own run. Off-map pictures are made from the drives themselves: for a stretch of every run, the
places of the map within the radius of its pictures are hidden, so whatever is answered there is wrong.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from distilplace.common.errors import UserError
from distilplace.runtime.localise.confidence import features_of_answer
from distilplace.runtime.localise.localiser import CANDIDATES, Follower, features_of_belief, features_of_matches
from distilplace.runtime.map import BaseMap, PlaceMap

BLOCKS = 10
"""Stretches that every run is cut into: they alternate between fitting and choosing the threshold."""


class Rule(NamedTuple):
    """What is right: ``radius`` metres; ``near`` places whose spread is looked at; ``length`` of sequences; ``away``:
    the share of every run whose places are hidden.
    """

    radius: float
    near: int
    length: int
    away: float


class Drive(NamedTuple):
    """Pictures of one run in order of time: ``embeddings`` [n, D], ``positions`` [n, 2] easting, northing."""

    run: str
    embeddings: NDArray[Any]
    positions: NDArray[np.float64]


class Trials(NamedTuple):
    """Answers in order of run and time: ``features`` [n, F], ``right`` bool [n]; ``away`` bool [n]: nothing of the map
    lay within the radius; ``second`` bool [n]: those that choose the threshold.
    """

    features: NDArray[np.float64]
    right: NDArray[np.bool_]
    away: NDArray[np.bool_]
    second: NDArray[np.bool_]


class Answer(NamedTuple):
    """One row of :class:`Trials`, and where the answer lies (easting, northing)."""

    features: NDArray[np.float64]
    place: NDArray[np.float64]
    away: bool


class Scene(NamedTuple):
    """Pictures of one run (their numbers) and the places of the map, bool [m], that may answer them."""

    rows: NDArray[np.int64]
    kept: NDArray[np.bool_]


def searched(places: BaseMap, drives: Sequence[Drive], rule: Rule) -> Trials:
    """Answers to single pictures of a map that can only search, such as one on a server: all its places, every time."""
    if rule.away or {run.name for run in places.runs()} & {drive.run for drive in drives}:
        raise UserError("a map on a server hides no places: give --off_map 0, and runs that are not in the map")
    found = []
    for drive in drives:
        answers: dict[int, Answer] = {}
        for row, embedding in enumerate(tqdm(drive.embeddings, "searching", delay=3)):
            matches = places.search(embedding, CANDIDATES)
            if not matches:
                raise UserError("the map holds no place: add a run first")
            best = np.array([matches[0].easting, matches[0].northing])
            away = not places.search(embedding, 1, drive.positions[row], rule.radius)
            answers[row] = Answer(features_of_matches(matches, rule.radius, rule.near), best, away)
        found.append(_trials(answers, drive, rule))
    return _joined(found)


def single(places: PlaceMap, drives: Sequence[Drive], rule: Rule) -> Trials:
    """Answers to single pictures."""
    columns = places.columns()
    positions = np.stack([columns["easting"], columns["northing"]], axis=1)
    found = []
    for number, drive in enumerate(drives):
        answers: dict[int, Answer] = {}
        hidden = hidden_rows(len(drive.positions), number, rule.away)
        for rows, kept in scenes(drive, columns, hidden, rule.radius):
            where = positions[kept]
            for row in tqdm(rows, "searching", delay=3):
                scores = places.similarities(drive.embeddings[row])[kept]
                first = np.argsort(-scores, kind="stable")[:CANDIDATES]
                features = features_of_answer(scores[first], where[first], rule.radius, rule.near)
                away = not _near(drive.positions[row], where, rule.radius).any()
                answers[int(row)] = Answer(features, where[first[0]], away)
        found.append(_trials(answers, drive, rule))
    return _joined(found)


def along(places: PlaceMap, drives: Sequence[Drive], rule: Rule) -> Trials:
    """Answers along sequences of up to ``rule.length`` pictures, each started anew."""
    columns = places.columns()
    found = []
    for number, drive in enumerate(drives):
        answers: dict[int, Answer] = {}
        hidden = hidden_rows(len(drive.positions), number, rule.away)
        for rows, kept in scenes(drive, columns, hidden, rule.radius):
            follower = Follower(places, None, kept)
            look = lru_cache(rule.length)(partial(_looked_up, follower, drive))
            for row in tqdm(rows, "sequences", delay=3):
                follower.filter.restart()
                for each in range(max(0, row - rule.length + 1), row + 1):
                    belief = follower.filter.update(follower.distances(look(each)))
                features = features_of_belief(belief, look(each), follower.positions, rule.radius, rule.near)
                best = follower.positions[int(belief.places.argmax())]
                away = not _near(drive.positions[row], follower.positions, rule.radius).any()
                answers[int(row)] = Answer(features, best, away)
        found.append(_trials(answers, drive, rule))
    return _joined(found)


def _looked_up(follower: Follower, drive: Drive, row: int) -> NDArray[Any]:
    return follower.similarities(drive.embeddings[row])


def hidden_rows(count: int, number: int, share: float) -> NDArray[np.bool_]:
    """Which of ``count`` pictures of run ``number`` are off the map: pairs of neighbouring blocks, another pair in
    each run, so that both halves of the calibration have some; about ``share`` of all.
    """
    pair = np.arange(count) * BLOCKS // count // 2 + number
    return np.floor((pair + 1) * share + 1e-9) > np.floor(pair * share + 1e-9)


def scenes(drive: Drive, columns: dict[str, NDArray[Any]], hidden: NDArray[np.bool_], radius: float) -> Iterator[Scene]:
    """The run on the map, then each of its hidden stretches.

    Raises:
        UserError: no place of the map is left to answer.

    """
    others = columns["run"] != drive.run
    positions = np.stack([columns["easting"], columns["northing"]], axis=1)
    if not others.any():
        raise UserError(f"the map holds no place of another run than {drive.run}: add a run first")
    cuts = np.flatnonzero(np.diff(hidden)) + 1
    stretches = [rows for rows in np.split(np.arange(len(hidden)), cuts) if len(rows) and hidden[rows[0]]]
    yield Scene(np.flatnonzero(~hidden), others)
    for rows in stretches:
        near = np.zeros(len(positions), dtype=bool)
        for query in drive.positions[rows]:
            near |= _near(query, positions, radius)
        if not (others & ~near).any():
            raise UserError(f"a stretch of {drive.run} covers the whole map: give a smaller --off_map, or 0")
        yield Scene(rows, others & ~near)


def _near(query: NDArray[Any], places: NDArray[Any], radius: float) -> NDArray[np.bool_]:
    """Which of ``places`` [m, 2] lie within ``radius`` of ``query`` [2]."""
    found: NDArray[np.bool_] = np.linalg.norm(places - query, axis=1) <= radius
    return found


def _trials(answers: dict[int, Answer], drive: Drive, rule: Rule) -> Trials:
    rows = [answers[row] for row in range(len(answers))]
    apart = np.linalg.norm(drive.positions - np.array([row.place for row in rows]), axis=1)
    return Trials(
        np.array([row.features for row in rows]),
        apart <= rule.radius,
        np.array([row.away for row in rows]),
        np.arange(len(rows)) * BLOCKS // len(rows) % 2 == 1,
    )


def _joined(parts: Sequence[Trials]) -> Trials:
    return Trials(*(np.concatenate(column) for column in zip(*parts, strict=True)))
