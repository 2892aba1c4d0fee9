"""Whitenings that others have fitted (``--whitening FILE``): Whiten_MTD publishes one for each of its teachers."""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from distilplace.common.errors import UserError
from distilplace.models.whitening import Whitening

NONE = "none"
"""In a list of files: this network's embeddings are not whitened."""


def published_whitening(path: str, network: nn.Module, name: str, width: int | None = None) -> Whitening:
    """The whitening of a file, for the embeddings of ``network``, called ``name``.

    Args:
        path: Whiten_MTD's ``pca_weights/*.pt``, or a file that this program has fitted.
        network: whose embeddings are whitened.
        name: the network's, for messages.
        width: ``--whiten_dim``, where it is given: the file must whiten to as many numbers.

    Raises:
        UserError: no such file, no whitening, or one for embeddings of another width.

    """
    found = Whitening.published(path)
    given: int = network.output_dim  # type: ignore[assignment]
    if found.dim1 != given:
        raise UserError(f"--whitening {path} is for embeddings of {found.dim1} numbers, those of {name} have {given}")
    if width is not None and width != found.dim2:
        raise UserError(f"--whitening {path} whitens to {found.dim2} numbers, --whiten_dim says {width}: omit one")
    return found


def whitened(whitening: Whitening) -> Callable[[Tensor], Tensor]:
    """What makes unit embeddings [B, dim2] of embeddings [B, dim1]: unit length, whitening, unit length."""

    def project(embeddings: Tensor) -> Tensor:
        return functional.normalize(whitening(functional.normalize(embeddings.double(), dim=1)), dim=1).float()

    return project


def one_for_each(files: Sequence[str], networks: int, what: str) -> list[str | None]:
    """One file per network, None where there is to be none; :class:`UserError` for another number of them."""
    if not files:
        return [None] * networks
    if len(files) != networks:
        raise UserError(f"--whitening names {len(files)} files for {networks} {what}: give one each, or {NONE}")
    for file in files:
        if file != NONE and not Path(file).is_file():
            raise UserError(f"--whitening {file}: no such file")
    return [None if file == NONE else file for file in files]
