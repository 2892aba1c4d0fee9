"""SCKD (e-LENS/SCKD): a pose network learns how well its teacher's similarities agree with those of the true poses.

Formulas as in the published program where that is sound. Its last commits cannot run;
which similarity loss is meant (squares, or KL of softmax rows with ``SCKL``) is our reading.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distilplace.common.errors import UserError, unknown_name
from distilplace.common.randomness import counted_seed, forked_random_state
from distilplace.losses import settings
from distilplace.losses.baselines.units import same_batch
from distilplace.losses.distiller import Distiller, Outputs, feature_map, refuse_no_weight
from distilplace.losses.parts.vectors import in_full_precision, unit

LAYERS = {
    "1": "stem",
    "2": "layer1",
    "3": "layer2",
    "4": "layer3",
    "5": "layer4",
    "6": "pooled",
    "0": "pooled",
}
"""Feature maps by the numbers that SCKD's flags give them."""
SHORTEST_ROW = 1e-8
Layers = str | int | Sequence[str | int]


class SCKD(Distiller):
    """Terms ``sckd_hint`` (features themselves) and ``sckd_sc`` (self-cross similarity), each a sum over its layers.

    Args:
        SCmodule: layers of the similarity, numbers of :data:`LAYERS` joined by '_' ("3_4"), or a sequence; "none": off.
        hintmodule: likewise of the hint.
        SCKL: compare similarities by KL of their softmax over the batch instead of by squares.
        SCKL_reduction: "batchmean" divides that divergence by the batch size B, as the published call does; "sum" does
            not and is B times as strong: one distribution over the batch has one divergence, whatever B is.
        alpha: weight of ``sckd_hint``.
        sigma: weight of ``sckd_sc``.
        sc_pose_norm: true positions are standardised by mean and deviation over the training set (see
            :meth:`see_training`) before their similarity is taken. Our reading; published: raw metres.
        seed: of the random start of what bridges different channel counts.

    Raises:
        UserError: an unknown layer, one named twice, a bad number, or nothing left to distil.

    """

    position_mean: Tensor
    position_deviation: Tensor

    def __init__(
        self,
        SCmodule: Layers = "3",
        hintmodule: Layers = "5",
        SCKL: bool | str = False,
        SCKL_reduction: str = "batchmean",
        alpha: float | str = 100.0,
        sigma: float | str = 100.0,
        sc_pose_norm: bool | str = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.alpha, self.sigma = settings.weight("alpha", alpha), settings.weight("sigma", sigma)
        hint_layers, similarity_layers = parse_layers("hintmodule", hintmodule), parse_layers("SCmodule", SCmodule)
        self.hint_layers = hint_layers if self.alpha > 0 else ()
        self.similarity_layers = similarity_layers if self.sigma > 0 else ()
        refuse_no_weight(len(self.hint_layers + self.similarity_layers), "SCmodule and sigma, or hintmodule and alpha")
        reduction = settings.choice("SCKL_reduction", SCKL_reduction, ("batchmean", "sum"))
        kl = partial(divergence, mean=reduction == "batchmean")
        self.compare = kl if settings.switch("SCKL", SCKL) else F.mse_loss
        self.pose_norm = settings.switch("sc_pose_norm", sc_pose_norm)
        self.seed = seed
        self.bridges = nn.ModuleDict()
        self.is_ready = False
        self.register_buffer("position_mean", torch.full((3,), torch.nan))
        self.register_buffer("position_deviation", torch.ones(3))

    def student_maps(self, layers: tuple[str, ...]) -> tuple[str, ...]:
        """The layers."""
        return tuple(dict.fromkeys((*self.hint_layers, *self.similarity_layers)))

    def teacher_maps(self, layers: tuple[str, ...]) -> tuple[str, ...]:
        """The same as of the student."""
        return self.student_maps(layers)

    def see_training(self, poses: np.ndarray) -> None:
        """Remember mean and deviation of the training positions; ``poses`` [n, 7], x y z in metres first.

        An axis along which nothing moves is only centred.
        """
        positions = torch.from_numpy(np.asarray(poses, dtype=np.float64)[:, :3])
        deviation = positions.std(dim=0, correction=0)
        self.position_mean.copy_(positions.mean(dim=0))
        self.position_deviation.copy_(torch.where(deviation > 0, deviation, 1))

    @torch.no_grad()
    def prepare(self, student: Outputs, teachers: Sequence[Outputs], places: int) -> None:
        """Build what brings the student's channels to the teacher's, where their counts differ.

        Raises:
            UserError: maps of different size, which a hint cannot compare.

        """
        self.bridges = nn.ModuleDict()
        for layer in self.hint_layers:
            own, wanted = _pair(layer, student, teachers)
            _refuse_other_size(layer, own, wanted)
            if own.shape[1] != wanted.shape[1]:
                with forked_random_state(counted_seed(self.seed, "sckd", layer)):
                    self.bridges[layer] = bridge(own.shape[1], wanted.shape[1], flat=own.dim() == 2).to(own.device)
        self.is_ready = True

    def terms(self, student: Outputs, teachers: Sequence[Outputs], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The terms that have layers and a weight."""
        same_batch(student["embedding"], teachers[0]["embedding"])
        weighted: dict[str, Tensor] = {}
        if self.hint_layers:
            if not self.is_ready:  # called directly: the trainer prepares before the first step
                self.prepare(student, teachers, len(student["embedding"]))
            errors = [self._hint(layer, *_pair(layer, student, teachers)) for layer in self.hint_layers]
            self.unweighted["sckd_hint"] = torch.stack(errors).sum()
            weighted["sckd_hint"] = self.alpha * self.unweighted["sckd_hint"]
        if self.similarity_layers:
            poses = self_similarity(self._true_poses(batch, student["embedding"]))
            errors = []
            for layer in self.similarity_layers:
                own, wanted = (cross_similarity(x, poses) for x in _pair(layer, student, teachers))
                errors.append(self.compare(own, wanted))
            self.unweighted["sckd_sc"] = torch.stack(errors).sum()
            weighted["sckd_sc"] = self.sigma * self.unweighted["sckd_sc"]
        return weighted

    def _hint(self, layer: str, own: Tensor, wanted: Tensor) -> Tensor:
        _refuse_other_size(layer, own, wanted)
        if layer in self.bridges:
            own = self.bridges[layer](own.to(next(self.bridges[layer].parameters()).dtype))
        return F.mse_loss(own, wanted.to(own.dtype))

    def _true_poses(self, batch: Mapping[str, Any], embedding: Tensor) -> Tensor:
        """The batch's poses [B, 7] as they are compared."""
        poses = batch.get("poses")
        if poses is None:
            raise UserError("sckd compares with true poses, which this data set does not give: give --SCmodule none")
        poses = in_full_precision(poses.to(embedding.device))
        same_batch(embedding, poses)
        if not self.pose_norm:
            return poses
        if self.position_mean.isnan().any():
            raise UserError("sc_pose_norm needs the poses of the training set, which were not given: omit it")
        mean, deviation = (x.to(poses) for x in (self.position_mean, self.position_deviation))
        return torch.cat([(poses[:, :3] - mean) / deviation, poses[:, 3:]], dim=1)


def self_similarity(features: Tensor) -> Tensor:
    """Cosines [B, B] of the flattened rows of ``features`` [B, ...]; the diagonal is 0. Rows of zeros: cosine 0."""
    rows = unit(features.flatten(start_dim=1))
    return (rows @ rows.T).masked_fill(torch.eye(len(rows), dtype=torch.bool, device=rows.device), 0)


def row_cosine(x: Tensor, y: Tensor) -> Tensor:
    """Cosines [B] of the rows of x and y, [B, D] both; 0, without gradient, where either is shorter than 1e-8."""
    lengths = torch.linalg.vector_norm(x, dim=1), torch.linalg.vector_norm(y, dim=1)
    long = (lengths[0] > SHORTEST_ROW) & (lengths[1] > SHORTEST_ROW)
    return torch.where(long, (x * y).sum(dim=1) / torch.where(long, lengths[0] * lengths[1], 1), 0)


def cross_similarity(features: Tensor, poses: Tensor) -> Tensor:
    """``v`` [B]: how well each row of the self-similarity of ``features`` [B, ...] agrees with that of ``poses``."""
    return row_cosine(in_full_precision(self_similarity(features)), poses)


def divergence(student: Tensor, teacher: Tensor, *, mean: bool = True) -> Tensor:
    """``KL(softmax(teacher) || softmax(student))`` of vectors [B], one distribution; ``mean``: divided by B."""
    logs = F.log_softmax(student, dim=0), F.log_softmax(teacher, dim=0)
    return F.kl_div(*logs, reduction="batchmean" if mean else "sum", log_target=True)


def bridge(channels: int, wanted: int, *, flat: bool) -> nn.Sequential:
    """Features of ``channels`` channels, [B, C] (``flat``) or [B, C, h, w], to ``wanted`` channels of at least 0.

    The published program draws it again in every step and never trains it; this one is trained.
    """
    layer = nn.Linear(channels, wanted, bias=False) if flat else nn.Conv2d(channels, wanted, kernel_size=1, bias=False)
    return nn.Sequential(layer, nn.ReLU())


def parse_layers(name: str, value: Layers) -> tuple[str, ...]:
    """Names of the feature maps behind "3", 3, "3_4", ["3", 4], ["3_4"]; "none": no layer.

    Raises:
        UserError: a number that is none of :data:`LAYERS`, or one map named twice.

    """
    given = [value] if isinstance(value, str | int) else value
    parts = [part for each in given for part in str(each).split("_")]
    if parts == ["none"]:
        return ()
    for part in parts:
        if part not in LAYERS:
            raise unknown_name(f"layer of {name}", part, (*LAYERS, "none"))
    layers = tuple(LAYERS[part] for part in parts)
    if len(set(layers)) < len(layers):
        raise UserError(f"{name} {'_'.join(parts)} names one feature map twice: give each once (6 and 0 are the same)")
    return layers


def _pair(layer: str, student: Outputs, teachers: Sequence[Outputs]) -> tuple[Tensor, Tensor]:
    """A feature map of the student, and the teacher's."""
    advice = "take pose networks, such as --model resnet34pose --student_model resnet18pose"
    own = feature_map(student, layer, "sckd", "student", advice)
    return own, feature_map(teachers[0], layer, "sckd", "teacher", advice)


def _refuse_other_size(layer: str, own: Tensor, wanted: Tensor) -> None:
    if own.shape[2:] != wanted.shape[2:]:
        ours, theirs = (" x ".join(str(side) for side in x.shape[2:]) or "no" for x in (own, wanted))
        raise UserError(
            f"sckd's hint compares maps of equal size; '{layer}' has {ours} places in the student and {theirs} in the "
            "teacher: take networks of the same strides, or another --hintmodule"
        )
