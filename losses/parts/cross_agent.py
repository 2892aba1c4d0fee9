"""DistilVPR's cross-agent relations: how the terms of ``dist``, ``sim`` and ``geo`` are computed and chosen.

R(s, t) holds between the two networks' embeddings, made comparable by a norm function, in flat space (``dist``), on
the sphere (``sim``) and on the Poincare ball (``geo``). AAAI 2024, arXiv 2312.10616; see
:mod:`distilplace.losses.distilvpr`.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.losses import settings
from distilplace.losses.parts.hyperbolic import distance_matrix, is_saturated, to_poincare
from distilplace.losses.parts.relations import pairwise_distance, similarity, without_diagonal
from distilplace.losses.settings import Weights

NORMS: Mapping[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    # torch's, since the published gradient of an embedding of zeros (1e12) is among the recorded ones
    "l2": (lambda x: F.normalize(x, dim=1), lambda x: F.normalize(x, dim=1)),
    "softmax": (lambda x: F.softmax(x, dim=1), lambda x: F.softmax(x, dim=1)),
    "log_softmax": (lambda x: F.log_softmax(x, dim=1), lambda x: F.softmax(x, dim=1)),
    "identity": (lambda x: x, lambda x: x),
}
"""What is done to the embeddings [B, D] of (student, teacher) before cross relations are taken."""

CRITERIA: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "MSE": lambda found, wanted: (found - wanted).square(),
    "L1": lambda found, wanted: (found - wanted).abs(),
    "KLDiv": lambda found, wanted: torch.xlogy(wanted, wanted) - wanted * found,
}
"""Disagreement of two relation matrices, entry by entry. KLDiv takes ``found`` for logarithms, as torch does."""

MAPPINGS: Mapping[str, tuple[str, ...]] = {
    "identity": ("identity",),
    "topoincare": ("topoincare",),
    "id_topoin": ("identity", "topoincare"),
    "centred": ("identity",),
}
"""``--logit_mapping_fn``: the spaces in which ``dist`` and ``sim`` are taken, one weight each.

``centred`` is flat space too, with the teacher's embeddings less the mean of its training outputs (our addition).
"""

KINDS = ("dist", "sim", "geo")
DIRECTIONS = ("st2ss", "tt2st")


@dataclass(frozen=True)
class Ball:
    """The Poincare ball that embeddings are mapped into: curvature c, and the longest vector before the map."""

    curvature: float = 0.1
    clip_radius: float | None = None

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Embeddings [B, D] as points of the ball."""
        return to_poincare(embeddings, self.curvature, clip_radius=self.clip_radius)

    def saturated_share(self, embeddings: Tensor) -> float:
        """Share of embeddings [B, D] that the map puts onto the rim."""
        return is_saturated(embeddings, self.curvature, clip_radius=self.clip_radius).double().mean().item()


def cross_errors(
    student: Tensor,
    teacher: Tensor,
    kind: str,
    *,
    direction: str = "st2ss",
    criterion: str = "MSE",
    norm: str = "l2",
    mapping: str = "identity",
    ball: Ball = Ball(),
    divide: bool = True,
) -> Tensor:
    """One cross-agent term before the mean: disagreement of each pair, [B, B].

    Args:
        student: embeddings s [B, D].
        teacher: embeddings t [B, D], taken as constant.
        kind: ``dist`` (Euclidean), ``sim`` (dot product, with ``divide`` the cosine) or ``geo`` (geodesic distance).
        direction: ``st2ss`` or ``tt2st``; the target is constant although that of ``st2ss`` contains the student.
        criterion: one of :data:`CRITERIA`.
        norm: one of :data:`NORMS`.
        mapping: space of ``dist`` and ``sim``, ``identity`` or ``topoincare``; ``geo`` is always on the ball.
        ball: the ball that ``topoincare`` and ``geo`` map into.
        divide: whether ``sim`` is divided by the norms.

    """
    of_student, of_teacher = NORMS[norm]
    s, t = of_student(student), of_teacher(teacher.detach())
    if kind == "geo" or mapping == "topoincare":
        s, t = ball(s), ball(t)

    def relation(x: Tensor, y: Tensor) -> Tensor:
        if kind == "geo":
            return distance_matrix(x, y, ball.curvature)
        return similarity(x, y, divide=divide) if kind == "sim" else pairwise_distance(x, y)

    if direction == "st2ss":
        return CRITERIA[criterion](relation(s, s), relation(s, t).detach())
    return CRITERIA[criterion](relation(s, t), relation(t, t))


def mean_error(errors: Tensor, *, exclude_diagonal: bool = False) -> Tensor:
    """Mean of [B, B] errors over all entries, or over those off the diagonal (0 for a single item)."""
    if not exclude_diagonal:
        return errors.mean()
    return without_diagonal(errors).sum() / max(len(errors) * (len(errors) - 1), 1)


def diagonal_share(errors: Tensor) -> Tensor:
    """Share of the diagonal in the sum of [B, B] errors.

    In ``st2ss`` the student's own diagonal is constant and the target is detached, so this share of the term's value
    hands no gradient to anyone: nothing pulls s_i to t_i.
    """
    total = errors.sum()
    return errors.diagonal().sum() / torch.where(total == 0, 1, total)


@dataclass(frozen=True)
class CrossTerm:
    """One cross-agent term of a run: what :func:`cross_errors` is told, a name for the log and a weight."""

    name: str
    weight: float
    options: Mapping[str, Any]


@dataclass(frozen=True)
class CrossSettings:
    """The settings of one kind of cross-agent term, as DistilVPR's flags give them."""

    kind: str
    criterion: str
    norm: str
    st2ss: Weights
    tt2st: Weights


def cross_terms(
    kinds: Sequence[CrossSettings], *, logit_mapping_fn: str, ball: Ball, divide: bool
) -> Iterator[CrossTerm]:
    """The terms whose weight is above 0.

    Raises:
        UserError: an unknown option, a wrong number of weights, or a criterion that means nothing there.

    """
    spaces = MAPPINGS[settings.choice("logit_mapping_fn", logit_mapping_fn, MAPPINGS)]
    for chosen in kinds:
        term = "crosslogit" + ("geodist" if chosen.kind == "geo" else chosen.kind)
        criterion = settings.choice(f"{term}loss_type", chosen.criterion, CRITERIA)
        norm = settings.choice(f"{term}loss_logit_norm_fn", chosen.norm, NORMS)
        mappings = ("topoincare",) if chosen.kind == "geo" else spaces
        for direction, given in zip(DIRECTIONS, (chosen.st2ss, chosen.tt2st), strict=True):
            weights = settings.weights(f"{term}loss_weight_{direction}", given, mappings)
            for mapping, weight in zip(mappings, weights, strict=True):
                if weight == 0:
                    continue
                if criterion == "KLDiv":
                    _check_divergence(f"{term}loss", chosen.kind, norm, direction)
                options = {
                    **{"kind": chosen.kind, "direction": direction, "criterion": criterion, "norm": norm},
                    **{"mapping": mapping, "ball": ball, "divide": divide},
                }
                suffix = f"_{mapping}" if len(mappings) > 1 else ""
                yield CrossTerm(f"{term}_{direction}{suffix}", weight, options)


def _check_divergence(flag: str, kind: str, norm: str, direction: str) -> None:
    """Refuse KLDiv where it is no divergence; warn where it only reproduces upstream's number."""
    if norm in ("l2", "identity"):
        raise UserError(
            f"{flag}_type KLDiv with {flag}_logit_norm_fn {norm}: KL divergence is defined between probability "
            "distributions, these embeddings are none (values below 0, NaN); use MSE or L1"
        )
    if kind == "sim" and norm == "log_softmax" and direction == "st2ss":
        raise UserError(
            f"{flag}_type KLDiv with log_softmax: the st2ss target is a product with log-probabilities, below 0, whose "
            "logarithm is NaN; use MSE or L1"
        )
    warnings.warn(
        f"{flag}_type KLDiv: a matrix of relations is not a probability distribution, so this term reproduces "
        "upstream's number but may be negative and is not 0 when student and teacher agree; MSE or L1 are safe",
        stacklevel=2,
    )
