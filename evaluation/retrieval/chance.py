"""What a random ranking would find: expected recall, exact where items are ranked, defined where panoramas are.

Without panoramas: every order of a query's candidates equally likely, ``1 - C(P-t, r) / C(P, r)`` with P candidates
(what is left after exclusion) and t true ones. With panoramas (our reading): every order of the panoramas equally
likely, each represented by one of its candidates at random. Where panoramas have equally many candidates that is
exactly a random ranking collapsed.
"""

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]


def expected_hits(true_counts: NDArray[np.int64], pools: NDArray[np.int64], last: int) -> Curve:
    """Expected number of queries answered right within ranks 1..last: float64 ``[last]``.

    ``true_counts`` (all at least 1) and ``pools`` are int64 ``[Q]``: true candidates and candidates of each query.
    """
    curve: Curve = expected_hits_of_runs(np.zeros_like(true_counts), true_counts, pools, 1, last)[0]
    return curve


def expected_hits_of_runs(
    owners: NDArray[np.int64], true_counts: NDArray[np.int64], pools: NDArray[np.int64], runs: int, last: int
) -> Curve:
    """:func:`expected_hits` of the queries of each of some ``runs``, ``[runs, last]``; ``owners`` their run ``[Q]``."""
    radix = int(pools.max(initial=0)) + 1
    kinds, kind = np.unique(true_counts * radix + pools, return_inverse=True)
    true, pool = (column[:, None] for column in np.divmod(kinds, radix))
    drawn = np.arange(last)
    missed = np.cumprod(np.clip((pool - true - drawn) / np.maximum(pool - drawn, 1), 0.0, 1.0), axis=1)
    repeats = np.bincount(owners * len(kinds) + kind, minlength=runs * len(kinds)).reshape(runs, len(kinds))
    return repeats.sum(axis=1, keepdims=True) - repeats @ missed


def expected_hit_of_groups(shares: Curve, groups: int, last: int) -> Curve:
    """Probability that a query is answered right within ranks 1..last when ``groups`` panoramas are drawn one by one.

    ``shares`` ``[T]``: of each panorama that holds true candidates their share, the probability that it is right. The
    misses of j such panoramas average ``e_j(1 - shares) / C(T, j)``; how many are among r drawn is hypergeometric.
    """
    count = len(shares)
    averages = np.zeros(count + 1)
    averages[0] = 1.0
    j = np.arange(count + 1)
    for taken, wrong in enumerate(1.0 - shares, start=1):
        averages = ((taken - j) * averages + j * wrong * np.roll(averages, 1)) / taken
    drawn_right = np.zeros(count + 1)
    drawn_right[0] = 1.0
    curve = np.empty(last)
    for rank in range(last):
        if rank < groups:
            step = drawn_right * (count - j) / (groups - rank)
            drawn_right = drawn_right - step
            drawn_right[1:] += step[:-1]
        curve[rank] = 1.0 - drawn_right @ averages
    return curve
