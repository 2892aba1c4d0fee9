"""What losses on directions share: full precision, and vectors of unit length."""

import torch
from torch import Tensor

SHORTEST = 1e-12
"""Vectors at most this long have no direction."""


def in_full_precision(values: Tensor) -> Tensor:
    """float64, since losses are sums of small differences; Apple's GPUs stop at float32."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def unit(x: Tensor, dim: int = -1) -> Tensor:
    """``x`` scaled to length 1 along ``dim``; a vector without a direction becomes zero and hands on no gradient."""
    lengths = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    directed = lengths > SHORTEST
    return torch.where(directed, x / torch.where(directed, lengths, 1), 0)
