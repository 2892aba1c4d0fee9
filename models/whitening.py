"""PCA whitening of a teacher's embeddings, as Whiten-MTD fits it (AAAI 2024).

Of m embeddings e with mean mu and covariance C = (1/m) sum (e - mu)(e - mu)', eigenvalues lambda floored at 1e-5 of the
largest, and the d leading eigenvectors V:

    y = W (e - mu),   W = lambda^(-1/2) V'

so that the y have the identity as covariance in all directions in which the e vary. The similarities of teachers of
different kinds become commensurable by it. In use: network, to unit length, whitening, to unit length; the steps to
unit length are the caller's.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from distilplace.common.errors import UserError
from distilplace.common.pca import blocks, principal
from distilplace.common.tensor_files import read_tensors, write_tensors
from distilplace.models.checkpoints import read_state

FLOOR = 1e-5
"""Smallest eigenvalue, as a share of the largest."""
_EQUAL = 1e-20  # variance over mean square, below which samples differ by rounding alone


class Whitening(nn.Module):
    """Embeddings of ``dim1`` numbers to whitened ones of ``dim2``. Made by ``fit``, ``load`` or ``from_state``.

    Args:
        mean: float64 [dim1].
        dvt: float64 [dim2, dim1], the matrix W above; the largest entry of each row is positive where :meth:`fit` made
            it (an eigenvector has no sign of its own).
        kept: explained variance, the share of the samples' variance in the ``dim2`` directions; NaN: not known.
        samples: how many embeddings it was fitted on; 0 where it is not known.
        dropped: how many rows of zeros were left out of them.

    """

    mean: Tensor
    dvt: Tensor

    def __init__(
        self, mean: Tensor, dvt: Tensor, kept: float = math.nan, *, samples: int = 0, dropped: int = 0
    ) -> None:
        super().__init__()
        if dvt.ndim != 2 or mean.shape != dvt.shape[1:]:
            raise ValueError(f"a mean {list(mean.shape)} does not go with a matrix {list(dvt.shape)}")
        self.dim2, self.dim1 = dvt.shape
        self.kept, self.samples, self.dropped = kept, samples, dropped
        self.register_buffer("mean", mean.double())
        self.register_buffer("dvt", dvt.double())

    @classmethod
    @torch.no_grad()
    def fit(cls, embeddings: Tensor, dim2: int, *, whit: float = 0.5) -> "Whitening":
        """Fit on embeddings [m, dim1], read in blocks: beside them memory holds a few float64 matrices [dim1, dim1].

        Rows of zeros are left out: they are images that were never embedded (a loader that drops its last batch).

        Args:
            embeddings: of any floating type, on any device; not changed.
            dim2: how many numbers to keep.
            whit: exponent of the eigenvalues, W = lambda^(-whit) V': 0.5 whitens; the published program has 1 too.

        Raises:
            UserError: not finite, fewer than ``dim2`` + 1 samples, all of them equal, or ``dim2`` above ``dim1``.
            ValueError: not a matrix.

        """
        if embeddings.ndim != 2:
            raise ValueError(f"embeddings must be [m, dim1], not {list(embeddings.shape)}")
        given, dim1 = embeddings.shape
        used = _rows_with_content(embeddings)
        dropped = given - len(used)
        also = f" ({dropped} more were all zero)" if dropped else ""
        if not 1 <= dim2 <= dim1:
            raise UserError(f"--whiten_dim {dim2}: the teacher's embeddings have {dim1} numbers; give 1 to {dim1}")
        if len(used) <= dim2:
            raise UserError(
                f"--whiten_dim {dim2} needs {dim2 + 1} samples at least, here are {len(used)}{also}: give a smaller "
                "--whiten_dim or more images"
            )
        found = principal(
            lambda rows, _: embeddings[used[rows].to(embeddings.device)].to("cpu", torch.float64).numpy(),
            len(used),
            dim1,
            dim2,
            divisor=len(used),
        )
        mean, values = torch.from_numpy(found.mean), torch.from_numpy(found.values)
        if float(values[0]) <= _EQUAL * float(mean.square().sum()):
            raise UserError(f"--whiten_dim {dim2}: all {len(used)} samples{also} are equal, there is nothing to whiten")
        scales = values.clamp_min(FLOOR * float(values[0])) ** -whit
        dvt = torch.from_numpy(found.vectors) * scales.unsqueeze(1)
        kept = float(values.sum()) / found.total
        return cls(mean, dvt, kept, samples=len(used), dropped=dropped)

    def forward(self, e: Tensor) -> Tensor:
        """Embeddings [B, dim1] whitened: a new tensor [B, dim2] of their type (float32 at least), of any length.

        Computed in float64, on the device of the buffers.
        """
        if e.ndim != 2 or e.shape[1] != self.dim1:
            raise UserError(f"embeddings {list(e.shape)} do not fit a whitening of {self.dim1} numbers: fit it again")
        outside = torch.promote_types(e.dtype, torch.float32)
        return ((e.to(self.mean) - self.mean) @ self.dvt.T).to(e.device, outside)

    def state(self) -> dict[str, Tensor]:
        """``dim1``, ``dim2``, ``mean`` [1, dim1] and ``dvt``: the published program's names and shapes, on the CPU."""
        sizes = {"dim1": torch.tensor(self.dim1), "dim2": torch.tensor(self.dim2)}
        return sizes | {"mean": self.mean.cpu().unsqueeze(0), "dvt": self.dvt.cpu().contiguous()}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "Whitening":
        """The whitening of a state dict with ``dim1``, ``dim2``, ``mean`` and ``dvt``, :meth:`state`'s or published.

        The published ones also hold all eigenvalues ``d``, rising, of which ``kept`` is computed; their eigenvectors
        ``v``, the exponent ``whit`` and the number of floored eigenvalues ``n_0`` are in ``dvt`` already.

        Raises:
            UserError: a tensor that is absent, of another kind or size, or not finite.

        """
        missing = [name for name in ("dim1", "dim2", "mean", "dvt") if name not in state]
        if missing:
            raise UserError(f"this is no whitening: {', '.join(missing)} absent, found {', '.join(state) or 'nothing'}")
        if state["dim1"].numel() != 1 or state["dim2"].numel() != 1 or state["dvt"].is_complex():
            raise UserError("this whitening's sizes are no single numbers, or its matrix is complex: it is damaged")
        dim1, dim2 = (int(state[name]) for name in ("dim1", "dim2"))
        mean, dvt = state["mean"].flatten(), state["dvt"]
        if tuple(dvt.shape) != (dim2, dim1) or len(mean) != dim1:
            raise UserError(
                f"this whitening says {dim1} -> {dim2} numbers, but its matrix has the shape {list(dvt.shape)} and its "
                f"mean {list(state['mean'].shape)}: it is damaged"
            )
        if not bool(mean.isfinite().all() and dvt.isfinite().all()):
            raise UserError("this whitening holds numbers that are not finite: it is damaged")
        values = state["d"].double().flatten().clamp_min(0) if "d" in state else torch.full((1,), math.nan)
        return cls(mean, dvt, float(values[-dim2:].sum() / values.sum()))

    def save(self, path: Path | str, made_from: str) -> None:
        """Write a .safetensors file, whole or not at all; ``made_from`` names what it was fitted on."""
        facts = {"kept": self.kept.hex(), "samples": str(self.samples), "dropped": str(self.dropped)}
        write_tensors(path, self.state(), {"made_from": made_from, **facts})

    @classmethod
    def load(cls, path: Path | str, made_from: str) -> "Whitening":
        """What :meth:`save` wrote.

        Raises:
            UserError: a file that is absent, damaged, or made from something else than ``made_from``.

        """
        state, facts = read_tensors(path, "whitening file", "remove it to fit it again")
        if facts.get("made_from") != made_from:
            raise UserError(f"whitening file {path} was fitted with other weights, images or options: remove it")
        try:
            found = cls.from_state(state)
        except UserError as error:
            raise UserError(f"whitening file {path}: {error}; remove it to fit it again") from None
        found._take(facts)
        return found

    @classmethod
    def published(cls, path: Path | str) -> "Whitening":
        """The whitening of any file: Whiten_MTD's ``pca_weights/*.pt``, or what :meth:`save` wrote for anything.

        Raises:
            UserError: a file that is absent, damaged, or no whitening.

        """
        state = read_state(path)
        if "dvt" in state and state["dvt"].ndim == 2:
            sizes = {f"dim{2 - axis}": torch.tensor(size) for axis, size in enumerate(state["dvt"].shape)}
            state = sizes | state
        try:
            return cls.from_state(state)
        except (UserError, ValueError, RuntimeError) as error:
            raise UserError(f"whitening file {path}: {error}") from None

    def _take(self, facts: Mapping[str, str]) -> None:
        self.kept = float.fromhex(facts.get("kept", "nan"))
        self.samples, self.dropped = (int(facts.get(name, 0)) for name in ("samples", "dropped"))


def _rows_with_content(embeddings: Tensor) -> Tensor:
    """int64 numbers, on the CPU, of the rows that are not all zero; :class:`UserError` where a row is not finite."""
    if not embeddings.is_floating_point():
        raise ValueError(f"embeddings must be floating-point numbers, not {embeddings.dtype}")
    parts = [embeddings[rows] for rows in blocks(*embeddings.shape)]
    bad = sum(int((~part.isfinite().all(dim=1)).sum()) for part in parts)
    if bad:
        raise UserError(
            f"{bad} of {len(embeddings)} embeddings to whiten are not finite: check the teacher's weights and images"
        )
    found = [part.any(dim=1).cpu() for part in parts]
    return torch.cat(found).nonzero().flatten() if found else torch.zeros(0, dtype=torch.int64)
