"""``--align_head``: the linear map from a student's embeddings to its teacher's, in closed form.

With S [n, D] the student's unit embeddings of training frames and T [n, d] the teacher's, in the space in which its map
is searched (ridge regression, Hoerl and Kennard 1970):

    W, b = argmin  sum_i |W s_i + b - t_i|^2 + a |W|^2

The strength a is a share of the mean eigenvalue of the centred S'S, so that one list of shares fits every network.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

LOG = logging.getLogger("distilplace")
SHARES = tuple(float(10.0**power) for power in np.arange(-4, 2.5, 0.5))
"""Strengths that are tried."""


class Ridge(NamedTuple):
    """``weight`` [d, D], ``bias`` [d], float64."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, student: np.ndarray) -> np.ndarray:
        """[n, D] -> [n, d]."""
        return np.asarray(student @ self.weight.T + self.bias)


def fit_ridge(student: np.ndarray, teacher: np.ndarray, share: float) -> Ridge:
    """The map of least squares from rows [n, D] to rows [n, d] at one strength, in float64."""
    from sklearn.linear_model import Ridge as Regression

    student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    mean_eigenvalue = ((student - student.mean(axis=0)) ** 2).sum() / student.shape[1]
    found = Regression(alpha=share * max(mean_eigenvalue, np.finfo(np.float64).tiny), solver="cholesky")
    found.fit(student, teacher)
    return Ridge(found.coef_, found.intercept_)


def choose_share(student: np.ndarray, teacher: np.ndarray, score: Callable[[Ridge], float]) -> float:
    """The strength whose map scores best on places that were held back; of equals the strongest, which varies least.

    Args:
        student: [n, D] of the places that are left.
        teacher: [n, d] of the same.
        score: what a map is worth on those held back; larger is better.

    """
    scores = [score(fit_ridge(student, teacher, share)) for share in SHARES]
    told = ", ".join(f"{share:.1e}: {value:.1f}" for share, value in zip(SHARES, scores, strict=True))
    best = max(range(len(SHARES)), key=lambda row: (scores[row], row))
    LOG.info("ridge strengths on held-back places (student -> teacher R@1): %s", told)
    return SHARES[best]
