"""DistilVPR, AAAI 2024 (arXiv 2312.10616): an image-only student learns a fused teacher's relations.

Self-agent relations (``rkdg``) stay within a network: distances, angles and geodesic distances of the raw embeddings,
student against teacher. Cross-agent relations R(s, t) hold between the two networks, on embeddings made comparable
by a norm function (``l2``), in flat space (``dist``), on the sphere (``sim``) and on the Poincare ball (``geo``):

    st2ss   C(R(s, s), sg R(s, t))        tt2st   C(R(s, t), sg R(t, t))

with C the mean of squared (MSE) or absolute (L1) differences over all B x B entries and sg the stop-gradient. Three
methods: ``rkdg`` (the paper's -S), ``ours`` (-C), ``ours_rkdg`` (-SC). Formulas from the paper and from the values
that the published program gives.
"""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distilplace.common.outputs import ALIGNED
from distilplace.losses import settings
from distilplace.losses.distiller import Distiller, Outputs, refuse_no_weight, same_shape
from distilplace.losses.parts.cross_agent import (
    NORMS,
    Ball,
    CrossSettings,
    CrossTerm,
    cross_errors,
    cross_terms,
    diagonal_share,
    mean_error,
)
from distilplace.losses.parts.hyperbolic import distance_matrix, noisy_distance_matrix
from distilplace.losses.parts.relations import (
    angle_loss,
    divided_by_mean,
    divided_by_positive_mean,
    pairwise_distance,
    without_diagonal,
)
from distilplace.losses.rkd import rkd_distance
from distilplace.losses.settings import Weights

SATURATION_WARNING = 0.05
"""Share of embeddings on the rim of the ball from which on a run is warned."""


def rkdg_geodesic(student: Tensor, teacher: Tensor, ball: Ball, *, legacy_mean: bool = False) -> Tensor:
    """Smooth-L1 between geodesic distance matrices of raw embeddings [B, D], each in units of its mean.

    The diagonal is exactly 0 and left out of the mean. Upstream's diagonal is rounding noise, and its mean is over
    "entries above 0", whichever these are; ``legacy_mean`` does that, with [B, B, D] numbers in memory.
    """
    return F.smooth_l1_loss(
        _relative_geodesic(student, ball, legacy_mean), _relative_geodesic(teacher.detach(), ball, legacy_mean)
    )


def _relative_geodesic(embeddings: Tensor, ball: Ball, legacy_mean: bool) -> Tensor:
    points = ball(embeddings)
    if legacy_mean:
        return divided_by_positive_mean(noisy_distance_matrix(points, ball.curvature))
    return divided_by_mean(without_diagonal(distance_matrix(points, None, ball.curvature)))


class DistilVPR(Distiller):
    """The methods of the family; they differ in which of the two groups of terms they compute.

    Terms: ``rkdg`` (its parts are in ``unweighted`` as rkdg_distance, rkdg_angle, rkdg_geodesic), and
    ``crosslogitdist_st2ss``, ``crosslogitsim_tt2st``, ``crosslogitgeodist_st2ss`` and so on; with two mappings the
    space follows (``crosslogitdist_st2ss_topoincare``). A term of weight 0 is not computed. Every method takes all
    settings, as upstream's flags do, so that an ablation changes the method alone; it reads those of its terms.

    ``statistics``: ``diagonal_share_<term>`` (see :func:`diagonal_share`), ``saturated_share_student`` and
    ``_teacher``: share of embeddings on the rim of the ball, where their length no longer counts.

    Args:
        rkdgloss_weight: weight of the self-agent term.
        crosslogitdistloss_type: criterion of the distance term, MSE, L1 or KLDiv; likewise for sim and geodist.
        crosslogitdistloss_logit_norm_fn: l2, softmax, log_softmax or identity.
        crosslogitdistloss_weight_st2ss: weight per mapping, "0.1" or "1_0.5".
        crosslogitdistloss_weight_tt2st: weight per mapping of the other direction.
        crosslogitsimloss_type: as for dist.
        crosslogitsimloss_logit_norm_fn: as for dist.
        crosslogitsimloss_weight_st2ss: as for dist.
        crosslogitsimloss_weight_tt2st: as for dist.
        crosslogitsimloss_divide: cosines (True) or dot products.
        crosslogitgeodistloss_type: as for dist.
        crosslogitgeodistloss_logit_norm_fn: as for dist.
        crosslogitgeodistloss_weight_st2ss: one weight; geodesic distances are always on the ball.
        crosslogitgeodistloss_weight_tt2st: one weight.
        curvature: c of the Poincare ball.
        logit_mapping_fn: identity, topoincare or id_topoin (both): spaces of dist and sim. ``centred``: as identity,
            with all cross terms on the teacher's ``aligned_embedding`` and the student's embedding as it is (ours).
        exclude_diagonal: leave the pairs (i, i) out of the cross terms.
        legacy_mean: upstream's scale of the geodesic part, see :func:`rkdg_geodesic`.
        hyperbolic_clip_radius: longest vector before it is mapped into the ball; None: no bound, as published.

    """

    self_agent = False
    cross_agent = False

    def __init__(
        self,
        rkdgloss_weight: float | str = 0.0,
        crosslogitdistloss_type: str = "MSE",
        crosslogitdistloss_logit_norm_fn: str = "l2",
        crosslogitdistloss_weight_st2ss: Weights = "0",
        crosslogitdistloss_weight_tt2st: Weights = "0",
        crosslogitsimloss_type: str = "MSE",
        crosslogitsimloss_logit_norm_fn: str = "l2",
        crosslogitsimloss_weight_st2ss: Weights = "0",
        crosslogitsimloss_weight_tt2st: Weights = "0",
        crosslogitsimloss_divide: bool = True,
        crosslogitgeodistloss_type: str = "MSE",
        crosslogitgeodistloss_logit_norm_fn: str = "l2",
        crosslogitgeodistloss_weight_st2ss: Weights = "0",
        crosslogitgeodistloss_weight_tt2st: Weights = "0",
        curvature: float | str = 0.1,
        logit_mapping_fn: str = "identity",
        exclude_diagonal: bool = False,
        legacy_mean: bool = False,
        hyperbolic_clip_radius: float | str | None = None,
    ) -> None:
        super().__init__()
        clip = settings.positive_or_none("hyperbolic_clip_radius", hyperbolic_clip_radius)
        self.ball = Ball(settings.positive("curvature", curvature), clip)
        self.exclude_diagonal = settings.switch("exclude_diagonal", exclude_diagonal)
        self.legacy_mean = settings.switch("legacy_mean", legacy_mean)
        self.rkdg_weight = settings.weight("rkdgloss_weight", rkdgloss_weight) if self.self_agent else 0.0
        choices = (
            ("dist", crosslogitdistloss_type, crosslogitdistloss_logit_norm_fn),
            ("sim", crosslogitsimloss_type, crosslogitsimloss_logit_norm_fn),
            ("geo", crosslogitgeodistloss_type, crosslogitgeodistloss_logit_norm_fn),
        )
        weights = (
            (crosslogitdistloss_weight_st2ss, crosslogitdistloss_weight_tt2st),
            (crosslogitsimloss_weight_st2ss, crosslogitsimloss_weight_tt2st),
            (crosslogitgeodistloss_weight_st2ss, crosslogitgeodistloss_weight_tt2st),
        )
        kinds = [CrossSettings(*choice, *pair) for choice, pair in zip(choices, weights, strict=True)]
        divide = settings.switch("crosslogitsimloss_divide", crosslogitsimloss_divide)
        self.cross: tuple[CrossTerm, ...] = ()
        if self.cross_agent:
            self.cross = tuple(cross_terms(kinds, logit_mapping_fn=logit_mapping_fn, ball=self.ball, divide=divide))
            self.absolute = logit_mapping_fn == "centred"
            self.teacher_requires = (ALIGNED,) if self.absolute else ()
        self._warned = False
        if self.self_agent or self.cross_agent:
            flags = ["--rkdgloss_weight"] * self.self_agent + ["a --crosslogit..._weight_st2ss"] * self.cross_agent
            refuse_no_weight(self.rkdg_weight + sum(term.weight for term in self.cross), " or ".join(flags))

    def terms(self, student: Outputs, teachers: Sequence[Outputs], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The weighted terms of embeddings [B, D]; the cross-agent ones need equal D."""
        s, t = student["embedding"], teachers[0]["embedding"]
        reference = teachers[0][ALIGNED] if self.teacher_requires else t
        if self.cross or len(s) != len(t):
            same_shape(s, reference)
        weighted: dict[str, Tensor] = {}
        if self.rkdg_weight > 0:
            weighted["rkdg"] = self.rkdg_weight * self._rkdg(s, t)
        for term in self.cross:
            errors = cross_errors(s, reference, **term.options)
            raw = mean_error(errors, exclude_diagonal=self.exclude_diagonal)
            self.unweighted[term.name] = raw
            self.statistics[f"diagonal_share_{term.name}"] = diagonal_share(errors.detach()).item()
            weighted[term.name] = term.weight * raw
        self._note_saturation(s.detach(), t)
        return weighted

    def _rkdg(self, student: Tensor, teacher: Tensor) -> Tensor:
        distances = pairwise_distance(student), pairwise_distance(teacher)
        parts = {
            "rkdg_distance": rkd_distance(*distances),
            "rkdg_angle": angle_loss(*distances),
            "rkdg_geodesic": rkdg_geodesic(student, teacher, self.ball, legacy_mean=self.legacy_mean),
        }
        total = torch.stack(list(parts.values())).sum()
        self.unweighted |= {"rkdg": total, **parts}
        return total

    def _note_saturation(self, student: Tensor, teacher: Tensor) -> None:
        """Log which share of the embeddings lies on the rim in the worst of the mappings used; warn once."""
        norms = {term.options["norm"] for term in self.cross if "topoincare" in term.options["mapping"]}
        norms |= {"identity"} if self.rkdg_weight > 0 else set()
        for place, (name, embeddings) in enumerate((("student", student), ("teacher", teacher))):
            shares = [self.ball.saturated_share(NORMS[norm][place](embeddings)) for norm in norms]
            if not shares:
                return
            self.statistics[f"saturated_share_{name}"] = max(shares)
            if max(shares) >= SATURATION_WARNING and not self._warned:
                self._warned = True
                warnings.warn(
                    f"{max(shares):.0%} of the {name}'s embeddings (mean norm {embeddings.norm(dim=1).mean():.3g}) "
                    f"lie on the rim of the Poincare ball of curvature {self.ball.curvature:g}: geodesic terms hardly "
                    "see them; lower --curvature, shorten the embeddings or set hyperbolic_clip_radius",
                    stacklevel=2,
                )


_SETTINGS = tuple(inspect.signature(DistilVPR).parameters)


class NoDistillation(DistilVPR):
    """``nokd``: the task loss alone; no teacher needed, no term."""

    ignores = _SETTINGS
    requires = ()
    teacher_count = None

    def terms(self, student: Outputs, teachers: Sequence[Outputs], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Nothing."""
        return {}


class SelfAgent(DistilVPR):
    """``rkdg``, the paper's DistilVPR-S: self-agent relations alone."""

    self_agent = True
    ignores = tuple(n for n in _SETTINGS if n.startswith(("crosslogit", "logit_mapping", "exclude_diagonal")))


class CrossAgent(DistilVPR):
    """``ours``, the paper's DistilVPR-C: cross-agent relations alone."""

    cross_agent = True
    ignores = ("rkdgloss_weight", "legacy_mean")


class SelfCrossAgent(DistilVPR):
    """``ours_rkdg``, the paper's DistilVPR-SC: both."""

    self_agent = cross_agent = True
