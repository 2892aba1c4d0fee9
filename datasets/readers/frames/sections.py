"""Cutting runs into a training and a test section, apart by the negative radius (positions only, metres).

Runs that follow one another's route are traversals: the test section is one stretch of the route, taken from all of
them. A run alone is cut into its first part (training) and its last (test).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distilplace.common.errors import UserError
from distilplace.datasets.relations import neighbours_within
from distilplace.datasets.routes import distance_to, metres_below, travelled

TEST_SHARE = 0.35  # of the first run's path, by arc length
NO_RADIUS = 0.01  # metres: no negative radius below that separates places
SAME_ROUTE = 0.25  # share of a run's frames near another run that makes the two traversals of one route


@dataclass
class Section:
    """Which frames of one run train and which test (bool [n]); ``traversal``: it is tested against other runs."""

    training: np.ndarray
    test: np.ndarray
    traversal: bool


def cut_runs(
    names: Sequence[str],
    places: Sequence[np.ndarray],
    negative_radius: float,
    eval_radius: float,
    positive_radius: float = 0.0,
) -> list[Section]:
    """One section per run of *one map*; ``places[r]`` is float64 [n_r, 2] (northing, easting).

    ``positive_radius``: only for the advice in the error that a run is too short.
    """
    sections: list[Section | None] = [None] * len(names)
    for group in _routes(places, eval_radius):
        marks = _shared_test(group, places, negative_radius, eval_radius) if len(group) > 1 else None
        for position, run in enumerate(group):
            test = last_stretch(places[run]) if marks is None else marks[position]
            sections[run] = Section(~test, test, marks is not None)
    cut = [section for section in sections if section is not None]
    _keep_apart(cut, places, negative_radius)
    for name, section, place in zip(names, cut, places, strict=True):
        if not section.traversal and (section.test.sum() < 2 or section.training.sum() < 2):
            raise _too_short(name, place, section, negative_radius, positive_radius)
    if sum(int(section.training.sum()) for section in cut) < 2:
        raise _too_short(" + ".join(names), places[0], cut[0], negative_radius, positive_radius)
    return cut


def last_stretch(places: np.ndarray, share: float = TEST_SHARE) -> np.ndarray:
    """Bool [n]: the frames on the last ``share`` of the path, by arc length."""
    along = travelled(places)
    return along > (1.0 - share) * along[-1]


def _routes(places: Sequence[np.ndarray], radius: float) -> list[list[int]]:
    """Groups of runs that share a route, each sorted: ``SAME_ROUTE`` of either's frames lie within the radius."""
    groups: list[list[int]] = []
    for run in range(len(places)):
        joined = [group for group in groups if any(_same_route(places[run], places[other], radius) for other in group)]
        groups = [group for group in groups if group not in joined]
        groups.append(sorted([run, *(member for group in joined for member in group)]))
    return sorted(groups)


def _same_route(one: np.ndarray, other: np.ndarray, radius: float) -> bool:
    shares = [np.mean(distance_to(a, b) <= radius) for a, b in ((one, other), (other, one))]
    return bool(max(shares) >= SAME_ROUTE)


def _shared_test(
    group: list[int], places: Sequence[np.ndarray], negative_radius: float, eval_radius: float
) -> list[np.ndarray] | None:
    """Test marks per run of the group, or None when no stretch of the first run's path is seen by a second run.

    The stretch is the last one that most runs pass and that leaves training frames. A frame lies inside when it is
    within half the evaluation radius of the stretch, so every query has a true match in the first run.
    """
    first = places[group[0]]
    along = travelled(first)
    best: tuple[int, list[np.ndarray]] | None = None
    for start in np.linspace(1.0 - TEST_SHARE, 0.0, 14):
        core = first[(along >= start * along[-1]) & (along <= (start + TEST_SHARE) * along[-1])]
        marks = [distance_to(places[run], core) <= eval_radius / 2 for run in group]
        tested = np.concatenate([places[run][mark] for run, mark in zip(group, marks, strict=True)])
        passing = sum(bool(mark.any()) for mark in marks)
        left = sum(int((distance_to(places[run], tested) > negative_radius).sum()) for run in group)
        if passing >= 2 and left >= 2 and (best is None or passing > best[0]):
            best = (passing, marks)
    return None if best is None else best[1]


def _keep_apart(sections: Sequence[Section], places: Sequence[np.ndarray], negative_radius: float) -> None:
    """Take from training whatever lies within the negative radius of any test frame of the map."""
    tested = np.concatenate([place[section.test] for section, place in zip(sections, places, strict=True)])
    for section, place in zip(sections, places, strict=True):
        near = neighbours_within(place, tested, negative_radius)
        section.training &= np.array([len(row) == 0 for row in near], dtype=bool)


def _too_short(
    name: str, place: np.ndarray, section: Section, negative_radius: float, positive_radius: float
) -> UserError:
    length, tests = travelled(place)[-1], int(section.test.sum())
    found = (
        f"run {name} ({len(place)} frames, {length:.1f} m) leaves {int(section.training.sum())} training and {tests} "
        f"test frames at a negative radius of {negative_radius:g} m"
    )
    reach = np.sort(distance_to(place[~section.test], place[section.test]))
    if tests < 2 or len(reach) < 2 or not NO_RADIUS < reach[-2] < np.inf:
        return UserError(f"{found}: at least 2 of each are needed; record a longer run or remove this one")
    limit = metres_below(reach[-2])
    both = f" (and --positive_radius {positive_radius:g} with it)" if positive_radius >= float(limit) else ""
    return UserError(f"{found}: lower --negative_radius below {limit} m{both}, or remove the run")
