"""Measures along and between routes: float64 [n,2] places (northing, easting) in metres."""

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
