"""Whether the installed MinkowskiEngine computes what the PyTorch engine computes, layer by layer."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from distilplace.models.sparse import SparseTensor
from distilplace.models.sparse.convolution import SparseConv, SparseTransposedConv

TOLERANCE = 1e-4


class Layers(NamedTuple):
    """One case: its name, its input channels, and the layers, made again for each engine."""

    name: str
    channels: int
    make: Callable[[], list[SparseConv | SparseTransposedConv]]


CASES = (
    Layers("3^3 convolution", 4, lambda: [SparseConv(4, 6, 3)]),
    Layers("5^3 stem, one channel", 1, lambda: [SparseConv(1, 8, 5)]),
    Layers("2^3 convolution, stride 2", 4, lambda: [SparseConv(4, 6, 2, stride=2)]),
    Layers("2^3 transposed convolution", 4, lambda: [SparseConv(4, 6, 2, stride=2), SparseTransposedConv(6, 5)]),
)


def compare(device: torch.device) -> dict[str, float]:
    """Largest relative difference per case: output, gradient of the input, gradients of the kernels."""
    return {
        case.name: max(map(_difference, *(_run(case, name, device) for name in ("minkowski", "torch"))))
        for case in CASES
    }


def _run(case: Layers, backend: str, device: torch.device) -> list[Tensor]:
    """Output rows and gradients of one case under one engine, rows sorted by coordinate."""
    draw = torch.Generator().manual_seed(1)
    coordinates = torch.randint(-12, 12, (2000, 4), generator=draw, dtype=torch.int32)
    coordinates[:, 0] = torch.arange(2000) % 3
    coordinates = torch.unique(coordinates, dim=0)
    shape = len(coordinates), case.channels
    features = torch.ones(shape) if case.channels == 1 else torch.randn(shape, generator=draw)
    given = features.to(device).requires_grad_()
    x = SparseTensor(given, coordinates.to(device), backend=backend)
    layers = case.make()
    for layer in layers:
        with torch.no_grad():
            layer.kernel.copy_(torch.randn(layer.kernel.shape, generator=draw))
        x = layer.to(device)(x)
    rows = x.features[_order(x.coordinates)]
    weights = torch.randn(rows.shape, generator=draw).to(device)
    (rows * weights).sum().backward()
    gradients = [given.grad, *(layer.kernel.grad for layer in layers)]
    return [rows.detach(), *(gradient for gradient in gradients if gradient is not None)]


def _order(coordinates: Tensor) -> Tensor:
    """The order that sorts rows by batch element, x, y, z: the same for all engines."""
    base = coordinates.long() - coordinates.long().min(dim=0).values
    spans = base.max(dim=0).values + 1
    key = ((base[:, 0] * spans[1] + base[:, 1]) * spans[2] + base[:, 2]) * spans[3] + base[:, 3]
    return key.argsort()


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, relative to the largest value; infinite when shapes differ or a value is not finite."""
    if ours.shape != theirs.shape or not (ours.isfinite().all() and theirs.isfinite().all()):
        return float("inf")
    return float((ours - theirs).abs().max() / theirs.abs().max())
