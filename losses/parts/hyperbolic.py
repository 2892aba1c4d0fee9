"""The Poincare ball of curvature -c (radius 1/sqrt(c)): maps, Moebius addition and geodesic distances.

Formulas of Ganea et al., Hyperbolic Neural Networks (NeurIPS 2018), and Khrulkov et al., Hyperbolic Image Embeddings
(CVPR 2020), with the guards that DistilVPR's figures contain: norms of at least 1e-5, tanh arguments within +-15,
radii of at most (1 - 1e-3)/sqrt(c), artanh arguments within +-(1 - 1e-5), and 1e-5 added to the Moebius denominator.
They are part of the published numbers: near the rim the plain arcosh formula gives others.

Points are rows, [..., D]. The curvature is an argument of every call; nothing is remembered between calls.
"""

import torch
from torch import Tensor

from distilplace.losses.parts.relations import pairwise_distance

MIN_NORM = 1e-5
MAX_TANH = 15.0
RIM = 1e-3
MAX_ARTANH = 1 - 1e-5
DENOMINATOR_EPS = 1e-5


def expmap0(u: Tensor, c: float) -> Tensor:
    """Exponential map at the origin: tangent vectors [..., D] to points, ``tanh(sqrt(c)|u|) u / (sqrt(c)|u|)``."""
    scaled = c**0.5 * _norm(u).clamp_min(MIN_NORM)
    return _tanh(scaled) * u / scaled


def project(x: Tensor, c: float) -> Tensor:
    """Points whose radius exceeds (1 - 1e-3)/sqrt(c) drawn back onto it; the others unchanged."""
    norm = _norm(x).clamp_min(MIN_NORM)
    radius = (1 - RIM) / c**0.5
    return torch.where(norm > radius, x / norm * radius, x)


def to_poincare(x: Tensor, c: float, *, clip_radius: float | None = None) -> Tensor:
    """Euclidean vectors [..., D] to points of the ball: :func:`expmap0`, then :func:`project`.

    Args:
        x: vectors in Euclidean space, [..., D].
        c: curvature, above 0.
        clip_radius: longest vector before the map; keeps long ones off the rim (Guo et al., CVPR 2022).

    """
    if clip_radius is not None:
        x = x * (clip_radius / (_norm(x) + MIN_NORM)).clamp_max(1)
    return project(expmap0(x, c), c)


def is_saturated(x: Tensor, c: float, *, clip_radius: float | None = None) -> Tensor:
    """Which vectors [B, D] :func:`to_poincare` puts onto the rim, where distances forget the vector's length: [B]."""
    norm = _norm(x).squeeze(-1)
    if clip_radius is not None:
        norm = norm.clamp_max(clip_radius)
    return torch.tanh(c**0.5 * norm) >= 1 - RIM


def mobius_add(x: Tensor, y: Tensor, c: float) -> Tensor:
    """Moebius addition of points [..., D]: ``x + y`` of the ball."""
    xy = (x * y).sum(-1, keepdim=True)
    x2, y2 = x.square().sum(-1, keepdim=True), y.square().sum(-1, keepdim=True)
    numerator = (1 + 2 * c * xy + c * y2) * x + (1 - c * x2) * y
    return numerator / (1 + 2 * c * xy + c**2 * x2 * y2 + DENOMINATOR_EPS)


def distance_matrix(x: Tensor, y: Tensor | None, c: float) -> Tensor:
    """Geodesic distances [B, C] between the points x [B, D] and y [C, D] (None: x); exactly 0 between equal points.

    The definition is ``2/sqrt(c) artanh(sqrt(c) |(-x) + y|)`` with Moebius addition. Its norm is evaluated as
    ``|x - y| sqrt(q) / (q + 1e-5)`` with ``q = (1 - c|x|^2)(1 - c|y|^2) + c|x - y|^2``: the same number, of [B, C]
    matrices only, and without the cancellation that gives upstream's points a distance to themselves.
    """
    y = x if y is None else y
    return _geodesic(pairwise_distance(x, y), _square(x).unsqueeze(1), _square(y), c)


def noisy_distance_matrix(x: Tensor, c: float) -> Tensor:
    """Geodesic distances [B, B] the way upstream evaluates them: [B, B, D] numbers, and noise on the diagonal.

    The dot products come from a matrix product and the squares from sums; that they differ in the last digit is
    what puts a point apart from itself. Only for ``legacy_mean``.
    """
    xy, x2 = -(x @ x.T).unsqueeze(2), _square(x)
    first = (1 + 2 * c * xy + c * x2.unsqueeze(1)) * -x.unsqueeze(1)
    second = (1 - c * x2).view(-1, 1, 1) * x
    divisor = 1 + 2 * c * xy + c**2 * (x2.unsqueeze(1) * x2).unsqueeze(2) + DENOMINATOR_EPS
    difference = (first + second) / divisor
    return 2 / c**0.5 * _artanh(c**0.5 * _norm(difference)).squeeze(-1)


def _geodesic(separation: Tensor, x2: Tensor, y2: Tensor, c: float) -> Tensor:
    q = ((1 - c * x2) * (1 - c * y2) + c * separation.square()).clamp_min(torch.finfo(separation.dtype).tiny)
    return 2 / c**0.5 * _artanh(c**0.5 * separation * q.sqrt() / (q + DENOMINATOR_EPS))


def _square(x: Tensor) -> Tensor:
    return x.square().sum(-1)


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def _tanh(x: Tensor) -> Tensor:
    return x.clamp(-MAX_TANH, MAX_TANH).tanh()


def _artanh(x: Tensor) -> Tensor:
    """Inverse tanh within +-(1 - 1e-5); beyond, the gradient at the bound passes on (as published)."""
    bounded = x + (x.clamp(-MAX_ARTANH, MAX_ARTANH) - x).detach()
    return torch.atanh(bounded)
