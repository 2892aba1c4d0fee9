"""What every distillation method has in common: checked inputs, a frozen teacher, full precision, named terms."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distilplace.common.errors import UserError
from distilplace.common.outputs import MAPS
from distilplace.losses.parts.vectors import in_full_precision

Outputs = Mapping[str, Any]
"""A model's output: ``embedding`` [B, D], ``maps.<layer>`` where wanted."""


class Distiller(nn.Module):
    """Base of the methods. Calling one gives ``{term: weighted scalar}``; the trainer only sums.

    ``unweighted`` and ``statistics`` hold the raw terms and other numbers of the last call, for the log.
    """

    requires: tuple[str, ...] = ("embedding",)
    """Keys that the output of the student and of each teacher must have."""
    teacher_requires: tuple[str, ...] = ()
    """Keys that the output of each teacher must have besides."""
    teacher_count: int | None = 1
    """How many teachers the method takes; None: any number."""
    absolute: bool = False
    """Is the student's embedding pulled to the teacher's own, so that one may query a map of the other?"""
    reads_bank: bool = False
    """Does it keep the teachers' embeddings of all training places? Then :meth:`see_bank` comes first."""
    reads_masks: bool = False
    """Does it read the batch's ``positives_mask`` or ``negatives_mask``? Where nobody does they are not made."""
    same_inputs: bool = False
    """Must teachers see the very (augmented) images that the student sees? Then no store can stand in for them."""

    ignores: tuple[str, ...] = ()
    """Settings that it accepts, as others of its family do, although none of its own terms depends on them."""

    def __init__(self) -> None:
        super().__init__()
        self.unweighted: dict[str, Tensor] = {}
        self.statistics: dict[str, float] = {}

    def student_maps(self, layers: tuple[str, ...]) -> tuple[str, ...]:
        """The layers whose maps are wanted of the student, whose ``level_maps`` are ``layers`` (fine to coarse)."""
        return ()

    def teacher_maps(self, layers: tuple[str, ...]) -> tuple[str, ...]:
        """Likewise of a teacher."""
        return ()

    def see_training(self, poses: np.ndarray) -> None:
        """Told the training set's poses [n, 7] once, before :meth:`prepare`."""

    def see_bank(self, banks: Sequence[Tensor]) -> None:
        """Told each teacher's aligned embeddings [n, d] of the training places once, before :meth:`prepare`."""

    def prepare(self, student: Outputs, teachers: Sequence[Outputs], places: int) -> None:
        """Build what depends on the networks: adaptors, memory banks. Called once, before the optimiser is made.

        Args:
            student: the student's output for two places.
            teachers: one output per teacher for the same two.
            places: how many training places there are (``batch["indices"]`` runs from 0 to ``places`` - 1).

        """

    def forward(self, student: Outputs, teachers: Sequence[Outputs], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The weighted terms. No gradient reaches a teacher; autocast is off; sums are made in float64.

        Args:
            student: the student's output.
            teachers: one output per teacher.
            batch: the batch both were computed from.

        Raises:
            UserError: a number of teachers, or shapes, that the method cannot compare.

        """
        self.unweighted, self.statistics = {}, {}
        if self.teacher_count is not None and len(teachers) != self.teacher_count:
            raise UserError(
                f"this distillation method takes {self.teacher_count} teacher(s), {len(teachers)} given: "
                f"name {self.teacher_count} after --model"
            )
        embedding = student["embedding"]
        with torch.autocast(embedding.device.type, enabled=False):
            inside = self._inputs(student, "student")
            targets = [on_device(self._inputs(teacher, "teacher"), embedding.device) for teacher in teachers]
            terms = self.terms(inside, targets, batch)
        outside = torch.promote_types(embedding.dtype, torch.float32)
        self.unweighted = {name: value.detach().to(outside) for name, value in self.unweighted.items()}
        return {name: value.to(outside) for name, value in terms.items()}

    def _inputs(self, output: Outputs, whose: str) -> dict[str, Any]:
        """What the method reads of an output: numbers in full precision, feature maps in float32 at least."""
        wanted = self.requires if whose == "student" else (*self.requires, *self.teacher_requires)
        missing = [key for key in wanted if key not in output]
        if missing:
            raise UserError(f"this distillation method needs {', '.join(missing)}, which the {whose} does not give")
        maps = {name: value for name, value in output.items() if name.startswith(MAPS)}
        wide = {name: value.to(torch.promote_types(value.dtype, torch.float32)) for name, value in maps.items()}
        return {**{key: in_full_precision(output[key]) for key in wanted}, **wide}

    @abstractmethod
    def terms(self, student: Outputs, teachers: Sequence[Outputs], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The weighted terms, from float64 tensors; fills ``unweighted`` and ``statistics``."""


def same_shape(student: Tensor, teacher: Tensor) -> None:
    """Refuse embeddings [B, D] that cannot be compared row by row and coordinate by coordinate."""
    if student.shape == teacher.shape and student.dim() == 2:
        return
    if student.dim() == teacher.dim() == 2 and len(student) == len(teacher):
        raise UserError(
            f"the student's embedding has {student.shape[1]} numbers, the teacher's {teacher.shape[1]}: "
            f"cross-agent terms compare them directly; give --student_output_dim {teacher.shape[1]}"
        )
    raise UserError(
        f"embeddings of shape {tuple(student.shape)} (student) and {tuple(teacher.shape)} (teacher): "
        "both must be [batch, dimension] of the same batch"
    )


def same_space(student: Tensor, teacher: Tensor) -> None:
    """Refuse a student whose embeddings [B, D] have another width than the teacher's space."""
    if student.shape[1] != teacher.shape[1]:
        width = teacher.shape[1]
        raise UserError(
            f"the student's embedding has {student.shape[1]} numbers, the teacher's space {width}: give "
            f"--student_output_dim {width}, or --embedding_head linear --embedding_head_dim {width}"
        )


def feature_map(output: Outputs, layer: str, method: str, whose: str, advice: str) -> Tensor:
    """A feature map of the student's or a teacher's output (``whose``); :class:`UserError` where there is none."""
    if f"{MAPS}{layer}" not in output:
        raise UserError(f"{method} reads the feature map '{layer}', which the {whose} does not give: {advice}")
    found: Tensor = output[f"{MAPS}{layer}"]
    return found


def refuse_no_weight(total: float, names: str) -> None:
    """Refuse a method none of whose terms has a weight."""
    if total <= 0:
        raise UserError(f"every weight of this distillation method is 0: set {names}, or --distil_method nokd")


def on_device(output: Mapping[str, Tensor], device: torch.device) -> dict[str, Any]:
    """A teacher's checked output on the student's ``device``, out of reach of gradients."""
    return {name: value.detach().to(device) for name, value in output.items()}
