"""Where is the robot, after several images: the forward pass of a hidden Markov model over the map's places.

States are the map's places and one state "off the map". The likelihood of an image at a place is exp(-lambda d) with
d the distance of the embeddings, and lambda such that the distances of the first image between their quantiles 2.5 %
and 97.5 % span a factor ``contrast`` (Xu, Suenderhauf, Milford: Probabilistic Visual Place Recognition for
Hierarchical Localization, RA-L 2020, arXiv 2105.03091). The off-map state and motion by odometry follow Xu, Fischer,
Suenderhauf, Milford (RA-L 2021, arXiv 2107.07707), with these changes: motion is told in metres between places, not in
steps along one traverse, so that a map of many runs works; without odometry the robot is expected to go as far along
a run as its own images lie apart, by a Gaussian instead of a uniform window; the off-map state's likelihood is a
quantile of those of the map's places.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilplace.runtime.localise.neighbours import Pairs, pairs_within


@dataclass(frozen=True)
class MotionModel:
    """How the robot moves from image to image, metres.

    Without odometry it goes ``step`` along the run that it is on, give or take ``spread`` of that, and never farther
    than four of them. Odometry, a distance or an (easting, northing) displacement, is off by ``sigma`` metres plus
    ``drift`` times the distance travelled. ``leaves``, ``stays_away``: probabilities of leaving the map in a step and
    of staying off it.
    """

    step: float
    spread: float = 0.5
    sigma: float = 3.0
    drift: float = 0.1
    leaves: float = 0.02
    stays_away: float = 0.9

    @property
    def reach(self) -> float:
        """Farthest place that is thought of, metres."""
        return 4 * self.step


@dataclass(frozen=True)
class Belief:
    """After one image: probability of each place ``[n]`` and of being off the map; they sum to 1."""

    places: NDArray[np.float64]
    off_map: float

    def best(self, positions: NDArray[Any], radius: float) -> tuple[int, float]:
        """The most probable place, and how probable it is that the robot is within ``radius`` metres of it."""
        index = int(np.argmax(self.places))
        near = np.linalg.norm(positions - positions[index], axis=1) <= radius
        return index, float(self.places[near].sum())


class PlaceFilter:
    """Feed it embedding distances image by image, in order of time.

    ``positions`` ``[n, 2]``: easting and northing of the map's places, metres; ``headings`` ``[n, 2]``: unit vectors
    along each place's run (:func:`headings_of`), zero where unknown. ``contrast``: see the module's text (published: 5;
    20 loses less where the robot drives faster or slower than the map's vehicle). ``off_map_quantile``: how good an
    image must fit places of the map to speak for the map.
    """

    def __init__(
        self,
        positions: NDArray[Any],
        motion: MotionModel,
        headings: NDArray[Any] | None = None,
        contrast: float = 20.0,
        off_map_prior: float = 0.2,
        off_map_quantile: float = 0.95,
        pairs: Pairs | None = None,
    ) -> None:
        self.positions = np.asarray(positions, dtype=np.float64)
        if not len(self.positions):
            raise ValueError("a filter needs at least one place")
        self.motion, self.contrast = motion, contrast
        self.off_map_prior, self.off_map_quantile = off_map_prior, off_map_quantile
        self.pairs = pairs_within(self.positions, motion.reach) if pairs is None else pairs
        self.ahead = self._ahead(headings)
        self.slope: float | None = None
        self.belief = self._prior()

    def restart(self) -> None:
        """Forget all images."""
        self.belief, self.slope = self._prior(), None

    def update(self, distances: NDArray[Any], odometry: float | NDArray[Any] | None = None) -> Belief:
        """The belief after one more image.

        ``distances`` ``[n]``: of the image's embedding to every place's. ``odometry`` since the image before: metres
        travelled, or a displacement ``[2]`` (easting, northing); None: ``motion.step`` is expected.
        """
        moved = self.belief if self.slope is None else self._predicted(odometry)
        likelihood, off_map = self._likelihoods(np.asarray(distances, dtype=np.float64))
        places = moved.places * likelihood
        away = moved.off_map * off_map
        total = places.sum() + away
        self.belief = Belief(places / total, float(away / total))
        return self.belief

    def _prior(self) -> Belief:
        count = len(self.positions)
        return Belief(np.full(count, (1 - self.off_map_prior) / count), self.off_map_prior)

    def _likelihoods(self, distances: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        if self.slope is None:
            low, high = np.quantile(distances, [0.025, 0.975])
            self.slope = float(np.log(self.contrast) / max(high - low, 1e-12))
        # Relative to the nearest place: the scale cancels, and no image makes all likelihoods underflow.
        likelihood = np.exp(-self.slope * (distances - distances.min()))
        return likelihood, float(np.quantile(likelihood, self.off_map_quantile))

    def _predicted(self, odometry: float | NDArray[Any] | None) -> Belief:
        motion, pairs, count = self.motion, self.pairs, len(self.positions)
        weights = self._weights(odometry)
        sums = np.bincount(pairs.source, weights, minlength=count)
        flow = self.belief.places * (1 - motion.leaves) / np.maximum(sums, 1e-12)
        stuck = sums <= 1e-12  # odometry leads away from every place
        flow[stuck] = 0.0
        places = np.bincount(pairs.target, weights * flow[pairs.source], minlength=count)
        back = self.belief.off_map * (1 - motion.stays_away)
        lost = self.belief.places[stuck].sum() * (1 - motion.leaves)
        away = self.belief.off_map * motion.stays_away + self.belief.places.sum() * motion.leaves + lost
        return Belief(np.asarray(places + back / count, dtype=np.float64), float(away))

    def _ahead(self, headings: NDArray[Any] | None) -> NDArray[np.float64]:
        """Metres from the first to the second place of every pair, along the run where its heading is known."""
        offset = self.pairs.offset.astype(np.float64)
        distance = np.linalg.norm(offset, axis=1)
        if headings is None:
            return distance
        heading = np.asarray(headings, dtype=np.float64)[self.pairs.source]
        return np.where(heading.any(axis=1), (offset * heading).sum(axis=1), distance)

    def _weights(self, odometry: float | NDArray[Any] | None) -> NDArray[np.float64]:
        """Relative probability of every pair of places."""
        if odometry is None:
            usual, spread = self.motion.step, self.motion.spread
            return np.exp(-0.5 * np.square((self.ahead - usual) / (spread * usual)))
        travelled = np.asarray(odometry, dtype=np.float64)
        error = np.linalg.norm(self.pairs.offset - travelled, axis=1) if travelled.ndim else self.ahead - travelled
        sigma = self.motion.sigma + self.motion.drift * float(np.linalg.norm(travelled))
        squared = np.square(error / sigma)
        return np.where(squared <= 9.0, np.exp(-0.5 * squared), 0.0)


def chords(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    """Euclidean distances of unit vectors by their cosines."""
    return np.sqrt(np.maximum(2.0 - 2.0 * cosines, 0.0))


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
