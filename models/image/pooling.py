"""Heads that turn a feature map [B, C, H, W] into one vector per image.

Each head has ``output_dim``, the true width of its vector. Attribute names are those of DistilVPR's checkpoints, where
it has the head.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from distilplace.common.errors import UserError, unknown_name


class GeM(nn.Module):
    """Generalised mean (Radenovic et al., Fine-tuning CNN Image Retrieval, TPAMI 2019, eq. 3), not L2-normalised.

    ``f_c = (mean_hw max(x_chw, eps)^p)^(1/p)``: average pooling at p = 1, towards the maximum as p grows. ``p`` learns,
    or stays what it is; then 1 is the plain mean, which needs no floor (as in Whiten-MTD, AAAI 2024).

    Raises:
        UserError: ``p`` is not a finite number above 0.

    """

    p: nn.Parameter | float

    def __init__(self, channels: int, p: float = 3.0, eps: float = 1e-6, *, learns: bool = True) -> None:
        super().__init__()
        if not 0 < p < math.inf:
            raise UserError(f"gem_p is {p}; the exponent of generalised mean pooling must be above 0 and finite")
        self.p = nn.Parameter(torch.full((1,), p)) if learns else float(p)
        self.eps = eps
        self.output_dim = channels

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C]."""
        if isinstance(self.p, float) and self.p == 1.0:
            return features.mean(dim=(-2, -1))
        return features.clamp(min=self.eps).pow(self.p).mean(dim=(-2, -1)).pow(1.0 / self.p)


class GeMFC(nn.Module):
    """The head of Whiten-MTD's students (AAAI 2024): GeM with a fixed exponent, unit length, linear layer.

    The result is not normalised. ``output_dim`` None: as many numbers as channels.
    """

    def __init__(self, channels: int, output_dim: int | None = None, p: float = 3.0) -> None:
        super().__init__()
        self.output_dim = channels if output_dim is None else output_dim
        self.gem = GeM(channels, p, learns=False)
        self.fc = nn.Linear(channels, self.output_dim)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, output_dim]."""
        return self.fc(functional.normalize(self.gem(features), dim=1))


class Mean(nn.Module):
    """The mean over all locations, then unit length: nothing to learn, so a bare trunk already describes images."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.output_dim = channels

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C], rows of length 1."""
        return functional.normalize(features.mean(dim=(-2, -1)), dim=1)


class CosPlace(nn.Module):
    """Aggregation of CosPlace (Berton et al., CVPR 2022): unit local vectors, GeM, linear layer, unit length."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gem = GeM(channels)
        self.fc = nn.Linear(channels, channels)
        self.output_dim = channels

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C], rows of length 1."""
        pooled = self.gem(functional.normalize(features, dim=1))
        return functional.normalize(self.fc(pooled), dim=1)


class ConvAP(nn.Module):
    """Conv-AP (Ali-bey et al., GSV-Cities, 2022): 1x1 convolution, means of a 2 x 2 grid, unit length."""

    GRID = (2, 2)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel_pool = nn.Conv2d(channels, channels, kernel_size=1)
        self.output_dim = channels * self.GRID[0] * self.GRID[1]

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 4 C] (channel slowest, then grid row, grid column), rows of length 1."""
        cells = functional.adaptive_avg_pool2d(self.channel_pool(features), self.GRID)
        return functional.normalize(cells.flatten(1), dim=1)


class NetVLAD(nn.Module):
    """NetVLAD (Arandjelovic et al., CVPR 2016, eq. 4) on unit local vectors, intra-normalised, then of unit length.

    ``V_k = sum_n a_kn (x_n - c_k)`` with ``a = softmax_k(w_k . x_n)``. The sum is taken apart into
    ``A X^T - diag(A 1) C``, so no [B, K, C, H W] tensor of residuals is made.
    """

    def __init__(self, channels: int, clusters: int = 64) -> None:
        super().__init__()
        self.centroids = nn.Parameter(torch.rand(clusters, channels))
        self.conv = nn.Conv2d(channels, clusters, kernel_size=1, bias=False)
        self.output_dim = clusters * channels

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, K C] (cluster slowest), rows of length 1."""
        return normalised_vlad(self.residual_sums(*self.assign(features)))

    def assign(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, H, W] -> unit local vectors [B, C, H, W] and their soft assignment [B, K, H, W] to the clusters."""
        local = functional.normalize(features, dim=1)
        return local, self.conv(local).softmax(dim=1)

    def residual_sums(self, local: Tensor, assignment: Tensor) -> Tensor:
        """The vectors V [B, K, C], not normalised, of what :meth:`assign` gave or of one window cut out of both."""
        weights = assignment.flatten(2)  # [B, K, HW]
        sums = weights @ local.flatten(2).transpose(1, 2)  # [B, K, C]
        return sums - weights.sum(dim=2, keepdim=True) * self.centroids


def normalised_vlad(residuals: Tensor) -> Tensor:
    """Residual sums [..., K, C] -> [..., K C]: each cluster's row to unit length, then the whole."""
    return functional.normalize(functional.normalize(residuals, dim=-1).flatten(-2), dim=-1)


class Head(NamedTuple):
    """A row of :data:`HEADS`: the class, and the attribute that holds it (DistilVPR's; of GeMFC and mean ours)."""

    kind: type[GeM] | type[CosPlace] | type[ConvAP] | type[NetVLAD] | type[GeMFC] | type[Mean]
    key: str
    reduced: bool = True
    """Has a 1x1 convolution before it, as all of DistilVPR's; without, it pools the trunk's own map."""


HEADS: dict[str, Head] = {
    "GeM": Head(GeM, "image_gem"),
    "CosPlace": Head(CosPlace, "imagecosplace"),
    "ConvAP": Head(ConvAP, "imageconvap"),
    "NetVLAD": Head(NetVLAD, "imagenetvlad"),
    "GeMFC": Head(GeMFC, "image_gemfc", reduced=False),
    "mean": Head(Mean, "imagemean", reduced=False),
}


def head_named(pool: str) -> Head:
    """The row of :data:`HEADS` for ``pool``; an unknown name is a UserError."""
    if pool not in HEADS:
        raise unknown_name("pooling", pool, HEADS)
    return HEADS[pool]
