"""How far a retrieved place can be trusted, and when to say "not on the map".

A logistic model of three numbers of one answer: the similarity of the first place, its lead over the best place
elsewhere, and how far the first k places lie apart. Fitted and thresholded by ``distilplace calibrate``; the threshold
comes from Learn then Test (Angelopoulos, Bates, Candes et al., 2021, arXiv 2110.01052): with probability ``level``
over calibration sets, at least ``precision`` of the accepted answers are right, as long as queries are drawn like the
calibration's.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilplace.common.errors import UserError

FEATURES = ("similarity", "lead", "log_spread")
SEQUENCE_FEATURES = ("similarity", "lead", "log_spread", "belief_logit")


def features_of_answer(
    similarities: NDArray[Any], positions: NDArray[Any], radius: float, k: int = 10
) -> NDArray[np.float64]:
    """The three numbers of one query: float64 ``[3]``, in the order of :data:`FEATURES`.

    ``similarities`` ``[n]`` of the query with every place of the map, ``positions`` ``[n, 2]`` in metres. "Elsewhere"
    is beyond ``radius`` of the first place; where nothing is, the lead is that over the worst place. The spread is
    the root mean square distance of the first k places from their centre, as log(1 + metres).
    """
    best = int(np.argmax(similarities))
    lead = lead_of(best, similarities, positions, radius)
    return np.array([similarities[best], lead, log_spread(similarities, positions, k)], dtype=np.float64)


def lead_of(best: int, similarities: NDArray[Any], positions: NDArray[Any], radius: float) -> float:
    """The similarity of the place ``best`` less that of the best place beyond ``radius`` of it, else of the worst."""
    elsewhere = np.linalg.norm(positions - positions[best], axis=1) > radius
    rival = similarities[elsewhere].max() if elsewhere.any() else similarities.min()
    return float(similarities[best] - rival)


def log_spread(scores: NDArray[Any], positions: NDArray[Any], k: int) -> float:
    """How far the ``k`` places of the highest ``scores`` lie from their centre: log(1 + root mean square metres)."""
    count = min(k, len(scores))
    first = positions[np.argpartition(-scores, count - 1)[:count]]
    return float(np.log1p(np.sqrt(np.square(first - first.mean(axis=0)).sum(axis=1).mean())))


@dataclass(frozen=True)
class Confidence:
    """A fitted logistic model of answers and the threshold above which they are accepted; plain numbers, as JSON.

    ``threshold`` None: no threshold kept the promise on the calibration images, so nothing is accepted. ``queries``
    counts the images that the threshold was chosen on, ``accepted`` the share of them above it.
    """

    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    radius: float
    k: int
    threshold: float | None
    precision: float
    level: float
    queries: int
    accepted: float
    source: str

    def probability(self, features: NDArray[Any]) -> float | NDArray[np.float64]:
        """Of being right: for features ``[F]`` a float, for ``[n, F]`` float64 ``[n]``."""
        scaled = (np.asarray(features, dtype=np.float64) - np.array(self.mean)) / np.array(self.scale)
        found = sigmoid(scaled @ np.array(self.weights) + self.bias)
        return float(found) if found.ndim == 0 else found

    def accepts(self, probability: float) -> bool:
        """Is an answer of this probability given, or is the query "not on the map"?"""
        return self.threshold is not None and probability >= self.threshold

    def promise(self) -> str:
        """What the threshold stands for, in words."""
        if self.threshold is None:
            return (
                f"no threshold gives {self.precision:.0%} correct on {self.queries} pictures of {self.source}: nothing "
                "is accepted"
            )
        return (
            f"accepted from confidence {self.threshold:.2f}, {self.precision:.0%} correct at a level of "
            f"{self.level:.0%} ({self.queries} pictures of {self.source})"
        )

    def _sound(self) -> bool:
        numbers = np.array([*self.mean, *self.scale, *self.weights, self.bias, self.radius], dtype=np.float64)
        widths = {len(self.features), len(self.mean), len(self.scale), len(self.weights)}
        limits = min(self.scale) > 0 and int(self.k) > 0 and (self.threshold is None or 0 <= float(self.threshold) <= 1)
        known = self.features in (FEATURES, SEQUENCE_FEATURES)
        return len(widths) == 1 and known and limits and bool(np.isfinite(numbers).all())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> "Confidence":
        """The inverse of :meth:`to_dict`; :class:`UserError` naming ``where`` for anything else."""
        names = [field.name for field in fields(cls)]
        tables = ("features", "mean", "scale", "weights")
        try:
            given: dict[str, Any] = {name: tuple(values[name]) if name in tables else values[name] for name in names}
            found = cls(**given)
            sound = found._sound()
        except (KeyError, TypeError, ValueError):
            sound = False
        if not sound:
            raise UserError(f"{where}: its calibration cannot be read; run distilplace calibrate again")
        return found


def sigmoid(values: NDArray[Any]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)) without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(values, dtype=np.float64)))
