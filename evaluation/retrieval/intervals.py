"""How sure a figure is: 95 % intervals of recalls and of means or medians over queries.

They answer one question: with other queries of the same places and conditions, how far could this figure have gone? A
training of its own with another seed varies besides, which no single run can tell.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FEW = 30
"""Queries below which a figure says little, and reports say so."""
RESAMPLES = 2000
_Z = 1.959963984540054  # standard normal, 97.5 %
Interval = tuple[float, float]


class Asked(Protocol):
    """One pair of runs: the run that asks, and per query its rank, 0 where it was not evaluated."""

    @property
    def query_run(self) -> int:
        """The run whose queries are asked."""

    @property
    def ranks(self) -> NDArray[np.int64]:
        """int64 [queries]."""


def wilson(share: float, count: float, z: float = _Z) -> Interval:
    """Wilson's score interval (1927) of a ``share`` (0 to 1) among ``count`` independent queries; shares too.

    Unlike the normal approximation it is right near 0 and 1: all of 3 queries found gives 0.44 to 1, not 1 to 1.
    ``z``: how many standard errors; 97.5 % of the standard normal.
    """
    if count <= 0:
        return 0.0, 1.0
    square = z**2 / count
    centre = (share + square / 2) / (1 + square)
    reach = z / (1 + square) * float(np.sqrt(share * (1 - share) / count + square / (4 * count)))
    return (0.0 if share == 0 else max(0.0, centre - reach)), (1.0 if share == 1 else min(1.0, centre + reach))


def query_weights(pairs: Sequence[Asked]) -> NDArray[np.float64]:
    """The share that each query frame has in the mean over ``pairs``, float64 [distinct queries], summing to 1.

    A pair counts 1 / pairs, and its queries alike; a frame asks several databases, so its shares add up.
    """
    runs: dict[int, NDArray[np.float64]] = {}
    for pair in pairs:
        asked = np.asarray(pair.ranks) != 0
        share = asked / (len(pairs) * max(int(asked.sum()), 1))
        runs[pair.query_run] = runs.get(pair.query_run, np.zeros(len(asked))) + share
    weights = np.concatenate([np.zeros(0), *runs.values()])
    return weights[weights > 0]


def effective_queries(weights: NDArray[np.float64]) -> float:
    """How many equally weighted queries are as sure as these: Kish's 1 / sum of squares (1965).

    A frame's answers in several databases are taken to be one and the same answer, the cautious extreme.
    """
    return float(1.0 / np.square(weights).sum()) if len(weights) else 0.0


def resampled(values: NDArray[np.float64], statistic: Callable[..., Any] = np.mean) -> Interval | None:
    """Percentile bootstrap over queries of ``statistic`` of what is not NaN; None below 2 values."""
    from scipy.stats import bootstrap

    kept = values[~np.isnan(values)]
    if len(kept) < 2:
        return None
    found = bootstrap(
        (kept,),
        statistic,
        n_resamples=RESAMPLES,
        method="percentile",
        batch=max(1, 2_000_000 // len(kept)),
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def interval_text(interval: Interval | None) -> str:
    """``69.5-78.1``, ``0.81-1.06`` (three decimals below 1, two below 10); empty where there is none."""
    if interval is None:
        return ""
    decimals = 3 if interval[1] < 1 else 2 if interval[1] < 10 else 1
    return f"{interval[0]:.{decimals}f}-{interval[1]:.{decimals}f}"
