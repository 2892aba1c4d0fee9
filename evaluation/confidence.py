"""The confidence of answers, fitted and thresholded on images whose position is known.

Half of the images fit a logistic regression of right against wrong; the other half chooses, among thresholds that the
first half proposes, the lowest that keeps the promised precision: Learn then Test with fixed-sequence testing
(Angelopoulos, Bates, Candes, Jordan, Lei, 2021, arXiv 2110.01052), by MAPIE's ``BinaryClassificationController``.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from distilplace.common.errors import UserError
from distilplace.evaluation.retrieval.intervals import Interval, wilson
from distilplace.runtime.localise.confidence import FEATURES, Confidence

FEWEST = 60
BLOCKS = 10


def fit_confidence(
    features: NDArray[Any],
    right: NDArray[Any],
    *,
    radius: float,
    k: int,
    source: str,
    names: Sequence[str] = FEATURES,
    precision: float = 0.95,
    level: float = 0.9,
    second: NDArray[Any] | None = None,
) -> Confidence:
    """The fitted model and threshold for answers with ``features`` ``[n, F]``, ``right`` bool ``[n]``.

    ``second`` bool ``[n]``: the half that chooses the threshold. None: alternate tenths, as rows are in order of time
    and consecutive images are alike.

    Raises:
        UserError: fewer than 60 images, or all answers of the half that is fitted are right, or all wrong.

    """
    right = np.asarray(right, dtype=bool)
    if len(right) < FEWEST:
        raise UserError(f"{source}: {len(right)} calibration images; at least {FEWEST} are needed")
    if second is None:
        second = (np.arange(len(right)) * BLOCKS // len(right)) % 2 == 1
    first = ~second
    if len(set(right[first])) < 2:
        raise UserError(
            f"{source}: {right[first].sum()} of {first.sum()} answers that a confidence is learned from are right; "
            "both kinds are needed: take other images, such as some from off the map"
        )
    scaler = StandardScaler().fit(features[first])
    model = LogisticRegression().fit(scaler.transform(features[first]), right[first])
    probabilities = model.predict_proba(scaler.transform(features))[:, 1]
    threshold = accepted_from(probabilities[first], probabilities[second], right[second], precision, level)
    accepted = 0.0 if threshold is None else float((probabilities[second] >= threshold).mean())
    return Confidence(
        features=tuple(names),
        mean=tuple(map(float, scaler.mean_)),
        scale=tuple(map(float, scaler.scale_)),
        weights=tuple(map(float, model.coef_[0])),
        bias=float(model.intercept_[0]),
        radius=float(radius),
        k=int(k),
        threshold=threshold,
        precision=float(precision),
        level=float(level),
        queries=int(second.sum()),
        accepted=accepted,
        source=source,
    )


@dataclass(frozen=True)
class Measured:
    """What became of a promise on other images: how many there were, how many of these lay off the map, how many
    answers were accepted, how many of those were right, and how many were of images off the map.
    """

    queries: int
    away: int
    accepted: int
    right: int
    accepted_away: int

    @property
    def precision(self) -> float | None:
        """Share of the accepted answers that are right; None where nothing is accepted."""
        return self.right / self.accepted if self.accepted else None

    @property
    def interval(self) -> Interval:
        """95 % interval of the precision (Wilson), as if images were independent."""
        return wilson(self.right / max(self.accepted, 1), self.accepted)


def measure(confidence: Confidence, features: NDArray[Any], right: NDArray[Any], away: NDArray[Any]) -> Measured:
    """The acceptance rule on answers with ``features`` ``[n, F]``; ``right``, ``away`` (off the map) bool ``[n]``."""
    probabilities = np.asarray(confidence.probability(features))
    accepted = np.array([confidence.accepts(each) for each in probabilities.tolist()], dtype=bool)
    counts = (accepted.sum(), (accepted & right).sum(), (accepted & away).sum())
    return Measured(len(right), int(away.sum()), *map(int, counts))


def accepted_from(
    proposing: NDArray[Any], probabilities: NDArray[Any], right: NDArray[Any], precision: float, level: float
) -> float | None:
    """The lowest threshold that keeps ``precision`` at ``level`` on ``probabilities``, ``right``; None: none does.

    Candidates are quantiles of ``proposing``, which must be independent of the others, from the most confident fifth of
    answers (more where a fifth is too few to prove anything) to all, tested in that order until the first that fails.
    """
    from mapie.risk_control import BinaryClassificationController

    enough = 2 * np.log(1 - level) / np.log(precision)  # twice as many as prove it when all are right
    start = min(max(0.2, enough / len(probabilities)), 1.0)
    candidates = np.unique(np.quantile(proposing, np.linspace(1 - start, 0.0, 33)))[::-1]
    controller = BinaryClassificationController(
        predict_function=lambda rows: np.stack([1 - rows[:, 0], rows[:, 0]], axis=1),
        risk="precision",
        target_level=precision,
        confidence_level=level,
        list_predict_params=candidates,
        fwer_method="fixed_sequence",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where no threshold holds; None says so
        controller.calibrate(np.asarray(probabilities)[:, None], np.asarray(right, dtype=int))
    kept = np.asarray(controller.valid_predict_params, dtype=np.float64).ravel()
    return float(kept.min()) if kept.size else None
