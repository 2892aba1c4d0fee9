"""The space in which embeddings are compared one by one: as they are, centred, or whitened; always at unit length.

Embeddings of networks with GeM pooling are nearly collinear, so a cosine tells little before their mean is taken away.
With mu and W the mean and the PCA whitening of the teacher's training outputs (:mod:`distilplace.models.whitening`):

    raw   e / |e|        centred   (e - mu) / |e - mu|        whitened   W (e - mu) / |W (e - mu)|
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from distilplace.common.errors import UserError
from distilplace.engine.teachers.sources import StoredTeacher
from distilplace.models.whitening import Whitening

SpaceKind = Literal["raw", "centred", "whitened"]


@dataclass(frozen=True, eq=False)
class Space:
    """How embeddings [n, D] are compared. Made by :func:`fit_space`.

    ``mean``: float64 [D], zeros where nothing is subtracted. ``projection``: float64 [D, d], None: as wide as before.
    """

    kind: SpaceKind
    mean: Tensor
    projection: Tensor | None = None

    @property
    def width(self) -> int:
        """Numbers of an embedding in this space."""
        return len(self.mean) if self.projection is None else self.projection.shape[1]

    def apply(self, embeddings: Tensor) -> Tensor:
        """Embeddings [n, D] in this space: [n, ``width``] of unit length, of their type (float32 at least).

        Computed in float64, on their device (Apple's GPUs have no float64: on the CPU).
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != len(self.mean):
            raise UserError(
                f"embeddings {list(embeddings.shape)} do not fit a {self.kind} space of {len(self.mean)} numbers: "
                "fit it to this network's outputs"
            )
        device = torch.device("cpu") if embeddings.device.type == "mps" else embeddings.device
        found = embeddings.to(device, torch.float64) - self.mean.to(device)
        if self.projection is not None:
            found = found @ self.projection.to(device)
        outside = torch.promote_types(embeddings.dtype, torch.float32)
        return functional.normalize(found, dim=1).to(embeddings.device, outside)


def fit_space(kind: SpaceKind, embeddings: Tensor, dim: int | None = None) -> Space:
    """The space of a network's training outputs [n, D].

    Args:
        kind: what becomes of embeddings.
        embeddings: of any floating type, on any device.
        dim: width of a whitened space; None: D, or n - 1 where there are fewer outputs.

    Raises:
        UserError: a width that the outputs do not allow, or outputs that are no finite numbers or all equal.

    """
    count, width = embeddings.shape
    if kind != "whitened" and dim is not None:
        raise UserError(f"--align_dim {dim}: a {kind} space has the teacher's width; give --align_space whitened")
    if not embeddings.isfinite().all():
        raise UserError("the teacher's training outputs hold numbers that are not finite: check its weights")
    if kind == "raw":
        return Space(kind, torch.zeros(width, dtype=torch.float64))
    if kind == "centred":
        return Space(kind, embeddings.to("cpu", torch.float64).mean(dim=0))
    most = max(1, min(width, count - 1))
    if dim is not None and not 1 <= dim <= most:
        raise UserError(f"--align_dim {dim}: {count} training outputs of {width} numbers allow 1 to {most}")
    fitted = Whitening.fit(embeddings, dim or most)
    return Space(kind, fitted.mean.cpu(), fitted.dvt.T.contiguous().cpu())


def training_space(source: StoredTeacher, keys: Sequence[str], kind: SpaceKind, dim: int | None = None) -> Space:
    """The space of a teacher's stored outputs for the training places ``keys``."""
    return fit_space(kind, source.outputs({"keys": list(keys)})["embedding"], dim)
