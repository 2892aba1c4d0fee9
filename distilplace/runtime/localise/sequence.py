"""Where is the robot, after several images: the forward pass of a hidden Markov model over the map's places.

States are the map's places and one state "off the map". The likelihood of an image at a place is exp(-lambda d) with
d the distance of the embeddings, and lambda such that the distances of the first image between their quantiles 2.5 %
and 97.5 % span a factor ``contrast`` (Xu, Suenderhauf, Milford: Probabilistic Visual Place Recognition for
Hierarchical Localization, RA-L 2020, arXiv 2105.03091). The off-map state and motion by odometry follow Xu, Fischer,
Suenderhauf, Milford (RA-L 2021, arXiv 2107.07707), with these changes: motion is told in metres between places, not in
steps along one traverse, so that a map of many runs works; without odometry the robot is expected to keep one of
several speeds, as sums along diagonals (SeqSLAM) do, instead of a uniform window at every image: states are pairs of a
speed and a place. The off-map state's likelihood is a quantile of those of the map's places.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilplace.runtime.localise.motion import FARTHEST, MotionModel, ahead_of, moves_of
from distilplace.runtime.localise.neighbours import Pairs, pairs_within


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

    ``positions`` ``[n, 2]``: easting and northing of the map's places, metres, run after run in order of time, so many
    in each as ``run_lengths`` says; None: nothing is known of runs. ``contrast``: see the module's text.
    ``off_map_quantile``: how good an image must fit places of the map to speak for the map.
    """

    def __init__(
        self,
        positions: NDArray[Any],
        motion: MotionModel,
        run_lengths: Sequence[int] | None = None,
        contrast: float = 5.0,
        off_map_prior: float = 0.2,
        off_map_quantile: float = 0.9,
        pairs: Pairs | None = None,
    ) -> None:
        self.positions = np.asarray(positions, dtype=np.float64)
        if not len(self.positions):
            raise ValueError("a filter needs at least one place")
        self.motion, self.contrast = motion, contrast
        self.off_map_prior, self.off_map_quantile = off_map_prior, off_map_quantile
        self.pairs = pairs_within(self.positions, motion.reach) if pairs is None else pairs
        self.ahead = ahead_of(self.pairs, self.positions, run_lengths, motion.reach)
        self._moves = moves_of(motion, self.pairs, self.ahead, len(self.positions))
        self.restart()

    def restart(self) -> None:
        """Forget all images."""
        self.slope: float | None = None
        count, speeds = len(self.positions), len(self.motion.speeds)
        self._joint = np.full((speeds, count), (1 - self.off_map_prior) / (speeds * count))
        self._off_map = self.off_map_prior

    def update(self, distances: NDArray[Any], odometry: float | NDArray[Any] | None = None) -> Belief:
        """The belief after one more image.

        ``distances`` ``[n]``: of the image's embedding to every place's. ``odometry`` since the image before: metres
        travelled, or a displacement ``[2]`` (easting, northing); None: one of ``motion.speeds`` is expected.
        """
        if self.slope is not None:
            self._predict(odometry)
        likelihood, off_map = self._likelihoods(np.asarray(distances, dtype=np.float64))
        self._joint *= likelihood
        away = self._off_map * off_map
        total = self._joint.sum() + away
        self._joint /= total
        self._off_map = float(away / total)
        return Belief(self._joint.sum(axis=0), self._off_map)

    def _likelihoods(self, distances: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        if self.slope is None:
            low, high = np.quantile(distances, [0.025, 0.975])
            self.slope = float(np.log(self.contrast) / max(high - low, 1e-12))
        # Relative to the nearest place: the scale cancels, and no image makes all likelihoods underflow.
        likelihood = np.exp(-self.slope * (distances - distances.min()))
        return likelihood, float(np.quantile(likelihood, self.off_map_quantile))

    def _predict(self, odometry: float | NDArray[Any] | None) -> None:
        motion, size = self.motion, self._joint.size
        places = self._joint.sum(axis=0)
        lost = 0.0
        if odometry is None:
            mixed = (1 - motion.switches) * self._joint + motion.switches * places / len(motion.speeds)
            flow = self._moves.weight * mixed.ravel()[self._moves.source]
            moved = np.bincount(self._moves.target, flow, minlength=size).reshape(self._joint.shape)
        else:
            found, lost = self._displaced(places, odometry)
            moved = np.broadcast_to(found / len(motion.speeds), self._joint.shape)  # no speed is known any more
        back = self._off_map * (1 - motion.stays_away)
        away = self._off_map * motion.stays_away + (places.sum() - lost) * motion.leaves + lost
        self._joint = moved * (1 - motion.leaves) + back / size
        self._off_map = float(away)

    def _displaced(
        self, places: NDArray[np.float64], odometry: float | NDArray[Any]
    ) -> tuple[NDArray[np.float64], float]:
        """The places' probabilities after a displacement, and how much of them leads away from every place."""
        travelled = np.asarray(odometry, dtype=np.float64)
        error = np.linalg.norm(self.pairs.offset - travelled, axis=1) if travelled.ndim else self.ahead - travelled
        sigma = self.motion.sigma + self.motion.drift * float(np.linalg.norm(travelled))
        kept = np.flatnonzero(np.abs(error) <= FARTHEST * sigma)
        source, weights = self.pairs.source[kept], np.exp(-0.5 * np.square(error[kept] / sigma))
        sums = np.bincount(source, weights, minlength=len(places))
        stuck = sums == 0
        flow = places / np.where(stuck, 1.0, sums)
        moved = np.bincount(self.pairs.target[kept], weights * flow[source], minlength=len(places))
        return np.asarray(moved, dtype=np.float64), float(places[stuck].sum())


def chords(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    """Euclidean distances of unit vectors by their cosines."""
    return np.sqrt(np.maximum(2.0 - 2.0 * cosines, 0.0))
