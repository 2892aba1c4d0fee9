"""From images to places with coordinates, a confidence, and "not on the map"."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilplace.common.errors import UserError
from distilplace.runtime.localise.confidence import Confidence, features_of_answer, lead_of, log_spread
from distilplace.runtime.localise.motion import MotionModel, step_of
from distilplace.runtime.localise.sequence import Belief, PlaceFilter, chords
from distilplace.runtime.map import BaseMap, Match, PlaceMap

RADIUS = 25.0
"""Metres within which an answer counts as right, unless a calibration says otherwise."""
CANDIDATES = 100
"""Places whose similarities and positions the confidence looks at."""


class Prior(NamedTuple):
    """Where the robot is known to be: within ``radius`` metres of a point."""

    easting: float
    northing: float
    radius: float


@dataclass(frozen=True)
class Location:
    """The answer to one image.

    ``matches``: the most similar places, or with a sequence the most probable ones, best first. ``confidence``: the
    probability that the first is within the calibration's radius of the robot; None where the map is not calibrated.
    ``on_map``: is it accepted? None: nobody can say without a calibration. ``off_map``: with a sequence, how probable
    it is that the robot is off the map.
    """

    matches: tuple[Match, ...]
    confidence: float | None
    on_map: bool | None
    off_map: float | None = None


class Localiser:
    """Finds a robot on a map, from single images or along a sequence.

    Args:
        places: the map; sequences need a map file (:class:`~distilplace.runtime.PlaceMap`) with an exact index.
        student: what embeds images: anything with ``embed(images) -> [n, D]``, the model that made the map.
        step: metres between two images of a sequence; None: as far as the map's own images lie apart.

    """

    def __init__(self, places: BaseMap, student: Any, step: float | None = None) -> None:
        self._places, self._student, self._step = places, student, step
        calibration = places.calibration or {}
        self.single = _confidence(calibration, "single")
        self.along = _confidence(calibration, "sequence")
        self._follower: Follower | None = None

    def localise(self, images: Sequence[Any], k: int = 5, prior: Prior | None = None) -> Iterator[Location]:
        """One answer per image, each by itself.

        With a ``prior`` only places in its circle count; confidence is then that of the best of these.
        """
        for image in images:
            yield self.locate(self._student.embed([image])[0], k, prior)

    def locate(self, embedding: NDArray[Any], k: int = 5, prior: Prior | None = None) -> Location:
        """As :meth:`localise`, for an embedding ``[D]``."""
        centre, radius = ((prior.easting, prior.northing), prior.radius) if prior else (None, None)
        found = self._places.search(embedding, max(k, CANDIDATES), centre, radius)
        if not found or self.single is None:
            return Location(tuple(found[:k]), None, None if found else False)
        features = features_of_matches(found, self.single.radius, self.single.k)
        confidence = float(self.single.probability(features))
        return Location(tuple(found[:k]), confidence, self.single.accepts(confidence))

    def follow(self, images: Sequence[Any], k: int = 5, odometry: Sequence[Any] | None = None) -> Iterator[Location]:
        """One answer per image, from it and all images before it, in order of time.

        ``odometry``: one entry per image, metres travelled since the image before or (easting, northing) of that way;
        the first entry is not read. Without a calibration for sequences, ``confidence`` is the filter's own belief.
        """
        if odometry is not None and len(odometry) != len(images):
            raise UserError(f"odometry has {len(odometry)} entries for {len(images)} images: give one each")
        self.restart()
        for number, image in enumerate(images):
            yield self.advance(self._student.embed([image])[0], k, None if odometry is None else odometry[number])

    def restart(self) -> None:
        """Forget the images of a sequence."""
        if self._follower is not None:
            self._follower.filter.restart()

    def advance(self, embedding: NDArray[Any], k: int = 5, odometry: Any = None) -> Location:
        """As :meth:`follow`, for the embedding ``[D]`` of the next image."""
        if self._follower is None:
            self._follower = Follower(self._places, self._step)
        follower = self._follower
        similarities = follower.similarities(embedding)
        belief = follower.filter.update(follower.distances(similarities), odometry)
        matches = follower.matches(belief, similarities, k)
        if self.along is None:
            return Location(matches, belief.best(follower.positions, RADIUS)[1], None, belief.off_map)
        features = features_of_belief(belief, similarities, follower.positions, self.along.radius, self.along.k)
        confidence = float(self.along.probability(features))
        return Location(matches, confidence, self.along.accepts(confidence), belief.off_map)


class Follower:
    """A filter over a map's places, which stand in order of run and time.

    ``kept``: bool [n], which of the map's places it knows (calibration hides some); None: all.
    """

    def __init__(self, places: BaseMap, step: float | None, kept: NDArray[np.bool_] | None = None) -> None:
        if not isinstance(places, PlaceMap):
            raise UserError("sequences are followed on a map file; this map lies on a server")
        columns = places.columns()
        if not len(columns["id"]):
            raise UserError("the map holds no place: add a run first")
        self._places = places
        self._count = len(columns["id"])
        numbers = _run_numbers(columns["run"])
        order = np.lexsort((columns["timestamp"], numbers))
        self.order = order if kept is None else order[kept[order]]
        self.positions = np.stack([columns["easting"], columns["northing"]], axis=1)[self.order]
        lengths = np.bincount(numbers[self.order]).tolist()
        motion = MotionModel(step_of(self.positions, lengths) if step is None else step)
        self.filter = PlaceFilter(self.positions, motion, lengths)

    def similarities(self, embedding: NDArray[Any]) -> NDArray[Any]:
        """With every place, in the filter's order: ``[n]``; :class:`UserError` where the map has grown since."""
        found = self._places.similarities(embedding)
        if len(found) != self._count:
            raise UserError("the map has changed while a sequence was followed: start again")
        return found[self.order]

    def distances(self, similarities: NDArray[Any]) -> NDArray[np.float64]:
        """Euclidean distances of embeddings, by their similarities ``[n]``."""
        wide = np.asarray(similarities, dtype=np.float64)
        return chords(wide) if self._places.space.spherical else -wide

    def matches(self, belief: Belief, similarities: NDArray[Any], k: int) -> tuple[Match, ...]:
        """The k most probable places."""
        best = np.argsort(-belief.places, kind="stable")[:k]
        return tuple(self._places.match(int(self.order[row]), float(similarities[row])) for row in best)


def features_of_matches(found: Sequence[Match], radius: float, k: int) -> NDArray[np.float64]:
    """What :func:`features_of_answer` says of the best places of a search: float64 ``[3]``."""
    similarities = np.array([match.similarity for match in found])
    positions = np.array([(match.easting, match.northing) for match in found])
    return features_of_answer(similarities, positions, radius, k)


def features_of_belief(
    belief: Belief, similarities: NDArray[Any], positions: NDArray[Any], radius: float, k: int
) -> NDArray[np.float64]:
    """Features ``[4]`` of a sequence's answer (``SEQUENCE_FEATURES``): those of the image, and the belief as log odds.

    The similarity is that of the most probable place, and its lead that over the best place elsewhere.
    """
    best, near = belief.best(positions, radius)
    lead, spread = lead_of(best, similarities, positions, radius), log_spread(belief.places, positions, k)
    odds = np.clip(near, 1e-6, 1 - 1e-6)
    return np.array([similarities[best], lead, spread, np.log(odds / (1 - odds))])


def _confidence(calibration: dict[str, Any], kind: str) -> Confidence | None:
    values = calibration.get(kind)
    return None if values is None else Confidence.from_dict(values, "this map")


def _run_numbers(runs: NDArray[Any]) -> NDArray[np.int64]:
    """Number of each row's run, in the order in which runs first appear."""
    _, first, inverse = np.unique(runs, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]
