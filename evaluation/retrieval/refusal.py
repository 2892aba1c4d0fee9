"""Can an answer be trusted? Precision and recall where an answer may be refused: "this place is not on the map".

Every query put to a database gives one answer, its first retrieved item, and is answered when the similarity reaches a
threshold. Of the answered ones, precision is the share that is correct; recall is the share of all queries **with** a
true neighbour that are answered correctly (so it ends at R@1 over all questions). A query without a true neighbour can
only be answered wrongly: it must be refused. All runs share one threshold, as a robot does, and are pooled.

AUC is the average precision, ``sum (R_n - R_(n-1)) P_n`` over falling thresholds. KITTI's F1 with two radii is another
protocol: :mod:`distilplace.evaluation.retrieval.precision_recall`.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shares = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """The curve, shares from 0 to 1, from the highest threshold down: float64 ``[T]`` each.

    ``matched`` and ``unmatched``: questions (a query put to one database) with and without a true neighbour.
    """

    thresholds: Shares = field(repr=False)
    precision: Shares = field(repr=False)
    recall: Shares = field(repr=False)
    matched: int
    unmatched: int

    @property
    def auc(self) -> float:
        """Average precision, 0 to 1."""
        return float(np.sum(np.diff(self.recall, prepend=0.0) * self.precision))

    @property
    def f1_max(self) -> tuple[float, float | None]:
        """The largest F1, 0 to 1, and its threshold (the highest of equals); 0 and None where nothing is correct."""
        total = self.precision + self.recall
        f1 = np.divide(2 * self.precision * self.recall, total, out=np.zeros(len(total)), where=total > 0)
        return self._at(f1)

    def recall_at(self, precision: float) -> tuple[float, float | None]:
        """The largest recall, 0 to 1, with at least this precision, and its threshold; 0 and None: there is none."""
        return self._at(np.where(self.precision >= precision, self.recall, 0.0))

    def _at(self, values: Shares) -> tuple[float, float | None]:
        best = int(values.argmax()) if len(values) else 0
        if not len(values) or values[best] <= 0:
            return 0.0, None
        return float(values[best]), float(self.thresholds[best])

    def to_dict(self) -> dict[str, Any]:
        """The figures with their thresholds, ready for ``json.dumps``; recalls in percent."""
        f1, f1_threshold = self.f1_max
        recalls = {f"recall_at_{percent}_precision": self.recall_at(percent / 100) for percent in (95, 100)}
        return {
            "auc": self.auc,
            "f1_max": f1,
            "f1_threshold": f1_threshold,
            **{name: 100.0 * value for name, (value, _) in recalls.items()},
            **{f"{name}_threshold": threshold for name, (_, threshold) in recalls.items()},
            "matched": self.matched,
            "unmatched": self.unmatched,
        }


def precision_recall(similarity: Any, correct: Any, matched: Any) -> PrecisionRecall:
    """The curve of first answers.

    Args:
        similarity: ``[Q]`` of each first answer; NaN where nothing may be answered.
        correct: bool ``[Q]``, is the answer a true neighbour?
        matched: bool ``[Q]``, does the query have a true neighbour in the database?

    """
    from sklearn.metrics import precision_recall_curve

    values, right, known = np.asarray(similarity), np.asarray(correct, bool), np.asarray(matched, bool)
    given, counts = ~np.isnan(values), (int(known.sum()), int((~known).sum()))
    if not right.any():
        thresholds = np.unique(values[given])[::-1].astype(np.float64)
        return PrecisionRecall(thresholds, np.zeros(len(thresholds)), np.zeros(len(thresholds)), *counts)
    precision, recall, thresholds = precision_recall_curve(right[given], values[given])
    recall = recall[-2::-1] * (right.sum() / known.sum())
    return PrecisionRecall(thresholds[::-1].astype(np.float64), precision[-2::-1], recall, *counts)


def resampled_figures(
    similarity: Any, correct: Any, matched: Any, weights: NDArray[Any], precision: float = 0.95
) -> tuple[Shares, Shares]:
    """AUC and recall at ``precision``, ``[B]`` each, of B weighted samples of the same answers.

    ``weights`` ``[B, Q]``: how often each question occurs in each sample. NaN for a sample without a matched one.
    """
    values = np.nan_to_num(np.asarray(similarity, dtype=np.float64), nan=-np.inf)
    order = np.argsort(-values, kind="stable")
    values = values[order]
    last = np.flatnonzero(np.append(values[1:] != values[:-1], True) & (values > -np.inf))
    counted = weights[:, order]
    true = np.cumsum(counted * np.asarray(correct, bool)[order], axis=1)[:, last]
    answered = np.cumsum(counted, axis=1)[:, last]
    with np.errstate(invalid="ignore"):
        recall = true / (weights @ np.asarray(matched, dtype=weights.dtype))[:, None]
        precise = np.divide(true, answered, out=np.zeros(true.shape), where=answered > 0)
    auc = np.sum(np.diff(recall, axis=1, prepend=0.0) * precise, axis=1)
    return auc, np.max(np.where(precise >= precision, recall, 0.0), axis=1, initial=0.0)
