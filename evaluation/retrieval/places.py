"""Which query frames show one place: what the intervals of :mod:`evaluation.retrieval.bootstrap` are drawn over."""

import numpy as np
from numpy.typing import NDArray

from distilplace.datasets.records import EvaluationSet, positions
from distilplace.evaluation.retrieval.ranking import Indices


def places_of(test: EvaluationSet) -> Indices:
    """The place of each query frame, int64 ``[n]`` from 0 on: frames within ``radius`` of the place's first one.

    Frames of all runs, one run after the other; -1: of a run that no other run has a database for. Where positions say
    nothing (all are one), every frame is a place of its own.
    """
    searched = [any(len(items) for m, items in enumerate(test.database) if m != n) for n in range(len(test.queries))]
    asked = np.repeat(np.array(searched, dtype=bool), np.array([len(run) for run in test.queries], dtype=np.int64))
    labels = np.full(len(asked), -1, dtype=np.int64)
    labels[asked] = _clusters(positions([record for run in test.queries for record in run])[asked], test.radius)
    return labels


def _clusters(where: NDArray[np.float64], radius: float) -> Indices:
    """Greedy: the first point not yet in a cluster begins one, and takes what is left within ``radius``."""
    from scipy.spatial import cKDTree

    if not len(where) or (where == where[0]).all():
        return np.arange(len(where))
    tree, labels, count = cKDTree(where), np.full(len(where), -1, dtype=np.int64), 0
    for index, point in enumerate(where):
        if labels[index] < 0:
            near = np.asarray(tree.query_ball_point(point, radius), dtype=np.int64)
            labels[near[labels[near] < 0]] = count
            labels[index] = count
            count += 1
    return labels
