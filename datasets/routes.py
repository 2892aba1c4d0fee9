"""Measures along and between routes: float64 [n,2] places (northing, easting) in metres."""

import math
from collections.abc import Callable

import numpy as np


def travelled(places: np.ndarray) -> np.ndarray:
    """Arc length from the first frame, metres, float64 [n]."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(places, axis=0), axis=1))])


def distance_to(places: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance of each place to the nearest of the others, metres; infinite when there is none."""
    if len(others) == 0 or len(places) == 0:
        return np.full(len(places), np.inf)
    from sklearn.neighbors import KDTree

    distances, _ = KDTree(others - others[0]).query(places - others[0], k=1)
    return np.asarray(distances[:, 0])


def metres_below(value: float) -> str:
    """``value`` as text, rounded down to a decimal (two digits below 1): a radius that must be smaller may be that."""
    return _rounded(value, math.floor, 1e-6)


def metres_above(value: float) -> str:
    """``value`` as text, rounded up likewise: a radius that must reach so far may be that."""
    return _rounded(value, math.ceil, -1e-6)


def _rounded(value: float, rounding: Callable[[float], int], slack: float) -> str:
    digits = 1 if value >= 1 or value <= 0 else 1 - math.floor(math.log10(value))
    return f"{rounding(value * 10**digits + slack) / 10**digits:.{digits}f}"
