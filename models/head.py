"""Layers behind a network's embedding, stored and exported with it: a linear layer, means to subtract, unit length.

A list of names says what they are, in their order:

================ ============================================================ ==========================
name             [B, D] ->                                                    state dict
================ ============================================================ ==========================
``linear:<d>``   W e + b, [B, d]: learned with the network, or fitted after   ``weight`` [d, D], ``bias``
``norm``         batch norm without scale and shift: learns no parameter      ``running_mean``, ...
``centre``       e - m                                                        ``mean`` [D]
``unit``         e / length of e                                              nothing
================ ============================================================ ==========================

Embeddings behind GeM are nearly collinear: a linear layer that learns would first have to find their mean, which
``norm`` in front of it takes away (the neck of Luo et al., arXiv 1903.07071, with the linear layer behind).

GeM is no linear function of the feature map, so none of these can be folded into the convolution before it: they stay
layers of their own, in float32 also where the rest of a network is in 8 or 16 bits.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distilplace.common.errors import UserError
from distilplace.models.shared import sees_a_share

SETTING = "embedding_head"
"""What ``create_model`` and a weights file call the list of names; no network's own signature has it."""
LINEAR = "linear:"


class Centre(nn.Module):
    """Subtracts a mean [D], which does not learn."""

    mean: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))

    def forward(self, embedding: Tensor) -> Tensor:
        """[B, D] -> [B, D]."""
        return embedding - self.mean


class Unit(nn.Module):
    """Brings rows to the length 1."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, embedding: Tensor) -> Tensor:
        """[B, D] -> [B, D]."""
        return functional.normalize(embedding, dim=1)


class Norm(nn.BatchNorm1d):
    """Batch norm of embeddings that learns nothing: mean 0 and variance 1 in every number, of the training set."""

    def __init__(self, width: int) -> None:
        super().__init__(width, affine=False)

    def forward(self, embedding: Tensor) -> Tensor:
        """[B, D] -> [B, D]; :class:`UserError` for a single embedding in training."""
        if self.training and len(embedding) < 2 and not sees_a_share():
            raise UserError(
                "the embedding head's batch norm needs two samples at a time in training: give "
                "--train_batch_split_size 2 or more, and no last batch of one"
            )
        return super().forward(embedding)


_FIXED: dict[str, type[nn.Module]] = {"norm": Norm, "centre": Centre, "unit": Unit}


class EmbeddingHead(nn.Sequential):
    """The layers that ``names`` lists, for embeddings of ``width`` numbers.

    Args:
        width: D of what comes in.
        names: as in this module's table.

    Raises:
        UserError: a name that is none.

    """

    def __init__(self, width: int, names: Sequence[str]) -> None:
        super().__init__()
        self.names: tuple[str, ...] = ()
        self.output_dim = width
        self.extend_by(names)

    def extend_by(self, names: Sequence[str]) -> None:
        """Further layers behind those that are there. A linear layer begins orthogonal: lengths and angles stay."""
        for name in names:
            width = linear_width(name)
            if width is not None:
                layer: nn.Module = nn.Linear(self.output_dim, width)
                nn.init.orthogonal_(layer.weight)  # type: ignore[arg-type]
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
                self.output_dim = width
            else:
                layer = _FIXED[name](self.output_dim)
            self.append(layer)
            self.names = (*self.names, name)

    def forward(self, embedding: Tensor) -> Tensor:
        """[B, D] -> [B, d], float32 whatever precision the network runs in."""
        with torch.autocast(embedding.device.type, enabled=False):
            found: Tensor = super().forward(embedding.float())
            return found


def linear_width(name: str) -> int | None:
    """The width behind a layer of a head, None where it stays as it is; :class:`UserError` for what is no layer."""
    if name in _FIXED:
        return None
    width = name.removeprefix(LINEAR)
    if not (name.startswith(LINEAR) and width.isascii() and width.isdecimal() and 0 < int(width) < 1_000_000):
        raise UserError(f"'{name}' is no layer of an embedding head: they are linear:<width>, {', '.join(_FIXED)}")
    return int(width)


def head_in(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The layers of the head of a weights file, by what it says of itself; empty: it has none."""
    settings = metadata.get("settings")
    found = settings.get(SETTING) if isinstance(settings, dict) else None
    return tuple(map(str, found)) if isinstance(found, list) else ()
