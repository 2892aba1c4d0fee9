"""What every benchmark's result can say of itself, and the arithmetic that the measures share."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from distilplace.evaluation.retrieval.chance import expected_hits
from distilplace.evaluation.retrieval.intervals import Interval


@runtime_checkable
class Result(Protocol):
    """What an evaluation found, whatever was measured: retrieval, poses, landmarks, videos."""

    @property
    def selection_score(self) -> float:
        """The number epochs are chosen by; larger is better."""

    @property
    def summary(self) -> str:
        """The result in a few words: ``R@1 54.20``, ``0.93 m, 5.96 deg``."""

    def columns(self) -> dict[str, str]:
        """The table cells of a network, in order."""

    @property
    def query_count(self) -> int:
        """How many queries, images or videos the figures are over."""

    def intervals(self) -> dict[str, Interval]:
        """95 % intervals of figures, by the names of :meth:`columns` (:mod:`evaluation.retrieval.intervals`)."""

    def chance_columns(self) -> dict[str, str]:
        """What knowing nothing gives, for some or all keys of :meth:`columns`."""

    def scalars(self) -> dict[str, float]:
        """The numbers to be logged after an epoch, by names without spaces."""

    def to_dict(self) -> dict[str, Any]:
        """Everything but embeddings and per-query values, ready for ``json.dumps``."""


def percent(share: float) -> str:
    """A share (0 to 1) in percent with one decimal; a dash where there is none (NaN)."""
    return "-" if np.isnan(share) else f"{100.0 * share:.1f}"


def finite_mean(values: NDArray[np.float64]) -> float:
    """The mean of what is not NaN; NaN when nothing is left."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else float("nan")


def in_percent(share: float) -> float | None:
    """A share (0 to 1) in percent for JSON, which knows no NaN: None then."""
    return None if np.isnan(share) else 100.0 * share


def expected_precision_sum(items: int, positives: int, depth: int) -> float:
    """Expected sum of the precisions at the positives among the first ``depth`` of ``items`` in random order.

    Position i holds a positive with probability P / N, and then each of the i - 1 positions before it holds one of the
    others with probability (P - 1) / (N - 1). Exact; divided by P it is the expected average precision.
    """
    depth = min(depth, items)
    others = (positives - 1) / max(items - 1, 1)
    harmonic = float((1.0 / np.arange(1, depth + 1)).sum())
    return positives / items * ((1.0 - others) * harmonic + others * depth)


def expected_found_precision(items: int, positives: int, depth: int) -> float:
    """Expected average precision of the first ``depth`` of ``items`` in random order, divided by what is found there.

    Of f positives found all orders are equally likely, so given f it is :func:`expected_precision_sum` (depth, f) / f,
    linear in f; f is hypergeometric. 0 when none is found. Exact.
    """
    depth = min(depth, items)
    some = float(expected_hits(np.array([positives]), np.array([items]), depth)[-1])
    alone = expected_precision_sum(depth, 1, depth)
    each = (expected_precision_sum(depth, 2, depth) / 2 - alone) if depth > 1 else 0.0
    return some * (alone - each) + depth * positives / items * each
