"""How far a robot gets between two images, in metres along the map's runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilplace.runtime.localise.neighbours import Pairs

FARTHEST = 3.0
"""Deviations beyond which a displacement is not thought of."""


@dataclass(frozen=True)
class MotionModel:
    """How the robot moves from image to image, metres.

    Without odometry it drives at one of several ``speeds``, in units of ``step`` an image along the run that it is on,
    give or take ``spread`` steps, never farther than four; from image to image it takes another speed with probability
    ``switches``. Odometry, a distance or an (easting, northing) displacement, is off by ``sigma`` metres plus ``drift``
    times the distance travelled. ``leaves``, ``stays_away``: probabilities of leaving the map in a step and of staying
    off it.
    """

    step: float
    speeds: tuple[float, ...] = (0.5, 0.71, 1.0, 1.41, 2.0)
    spread: float = 0.3
    switches: float = 0.02
    sigma: float = 3.0
    drift: float = 0.1
    leaves: float = 0.02
    stays_away: float = 0.97

    @property
    def reach(self) -> float:
        """Farthest place that is thought of, metres."""
        return 4 * self.step


class Moves(NamedTuple):
    """What one image without odometry does to a belief over (speed, place) pairs, numbered speed * n + place.

    ``source``, ``target`` ``[m]``; ``weight`` ``[m]``: probability of the target, given the source.
    """

    source: NDArray[np.intp]
    target: NDArray[np.intp]
    weight: NDArray[np.float64]


def moves_of(motion: MotionModel, pairs: Pairs, ahead: NDArray[np.float64], count: int) -> Moves:
    """The moves between ``count`` places, whose ``pairs`` lie ``ahead`` metres of each other (:func:`ahead_of`).

    From a place after which the map goes on elsewhere or not at all, the robot goes to the place that fits best.
    """
    starts = np.searchsorted(pairs.source, np.arange(count))
    parts = []
    for number, speed in enumerate(motion.speeds):
        squared = np.square((ahead / motion.step - speed) / motion.spread)
        beyond = squared - np.minimum.reduceat(squared, starts)[pairs.source]
        kept = beyond <= FARTHEST**2
        source, weight = pairs.source[kept].astype(np.intp), np.exp(-0.5 * beyond[kept])
        weight /= np.bincount(source, weight, minlength=count)[source]
        parts.append((source + number * count, pairs.target[kept] + number * count, weight))
    return Moves(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def ahead_of(pairs: Pairs, positions: NDArray[Any], run_lengths: Sequence[int] | None, reach: float) -> NDArray[Any]:
    """Metres from the first to the second place of every pair, as a robot drives; negative: backwards.

    Within a run, the way along it, corners included; between runs the distance, signed by the first place's heading.
    ``run_lengths`` None: distances.
    """
    offset = pairs.offset.astype(np.float64)
    distance = np.linalg.norm(offset, axis=1)
    if run_lengths is None:
        return distance
    heading = headings_of(positions, run_lengths)[pairs.source]
    signed = np.where((offset * heading).sum(axis=1) < 0, -distance, distance)
    run = np.repeat(np.arange(len(run_lengths)), run_lengths)
    steps = np.linalg.norm(np.diff(np.asarray(positions, dtype=np.float64), axis=0), axis=1)
    way = np.concatenate([[0.0], np.cumsum(steps)])
    along = way[pairs.target] - way[pairs.source]
    near = (run[pairs.source] == run[pairs.target]) & (np.abs(along) <= 2 * reach)  # else it came back to this place
    return np.where(near, along, signed)


def step_of(positions: NDArray[Any], run_lengths: Sequence[int]) -> float:
    """How far apart a map's images lie: the median step within its runs, metres; at least 0.1, and 1 where none moves.

    ``positions`` lie run after run in order of time, so many in each as ``run_lengths`` says.
    """
    parts = np.split(np.asarray(positions, dtype=np.float64), np.cumsum(run_lengths)[:-1])
    steps = np.concatenate([np.linalg.norm(np.diff(part, axis=0), axis=1) for part in parts])
    moved = steps[steps > 0]
    return max(0.1, float(np.median(moved))) if len(moved) else 1.0


def headings_of(positions: NDArray[Any], run_lengths: Sequence[int]) -> NDArray[np.float64]:
    """Unit vectors ``[n, 2]`` from the place before to the place after, within each run; zero where they coincide."""
    parts = np.split(np.asarray(positions, dtype=np.float64), np.cumsum(run_lengths)[:-1])
    found = [np.gradient(part, axis=0) if len(part) > 1 else np.zeros_like(part) for part in parts]
    along = np.concatenate(found)
    length = np.linalg.norm(along, axis=1, keepdims=True)
    return np.divide(along, length, out=np.zeros_like(along), where=length > 1e-9)
