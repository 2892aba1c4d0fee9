"""Parts of the pyramid transformers of ASHT-KD: attention with reduced keys, stages, the up path, the attention head.

The paper's layers are not public; all of this is our reading: a pyramid as in PVT v2 (Wang et al., CVM 2022).
Nothing here has a position table, so every image size works. Where a location lies is known through zero padding: the
overlapping strided convolutions and the depth-wise 3x3 convolution of every feed-forward layer see the map's border.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

EXPANSION = 4  # hidden channels of a feed-forward layer, per channel of the map


class ReducedAttention(nn.Module):
    """Multi-head attention of every location to a coarser copy of the map (PVT, Wang et al., ICCV 2021).

    Keys and values come from a convolution of kernel and stride ``reduction``, on a map padded with zeros at the bottom
    and at the right to whole cells. Queries and keys have no bias: behind a layer norm, or in the softmax, it is idle.
    """

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.reduction = reduction
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.projection = nn.Linear(width, width)
        if reduction > 1:
            self.reduce = nn.Conv2d(width, width, kernel_size=reduction, stride=reduction)
            self.reduce_norm = nn.LayerNorm(width)

    def forward(self, features: Tensor) -> Tensor:
        """[B, h, w, C] -> [B, h, w, C]."""
        query = self._by_head(self.query(features))
        key, value = self.key_value(self._reduced(features)).chunk(2, dim=-1)
        mixed = functional.scaled_dot_product_attention(query, self._by_head(key), self._by_head(value))
        return self.projection(mixed.transpose(1, 2).reshape(features.shape))

    def _reduced(self, features: Tensor) -> Tensor:
        """[B, h, w, C] -> [B, ceil(h / reduction), ceil(w / reduction), C]."""
        if self.reduction == 1:
            return features
        height, width = features.shape[1:3]
        cells = functional.pad(features, (0, 0, 0, -width % self.reduction, 0, -height % self.reduction))
        reduced: Tensor = self.reduce(cells.permute(0, 3, 1, 2))
        return self.reduce_norm(reduced.permute(0, 2, 3, 1))

    def _by_head(self, features: Tensor) -> Tensor:
        """[B, h, w, C] -> [B, heads, hw, C / heads]."""
        return features.flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Linear layer to 4 C, depth-wise 3x3 convolution (padded with zeros), GELU, linear layer back (PVT v2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = EXPANSION * width
        self.expand = nn.Linear(width, hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, groups=hidden)
        self.contract = nn.Linear(hidden, width)

    def forward(self, features: Tensor) -> Tensor:
        """[B, h, w, C] -> [B, h, w, C]."""
        hidden = self.depthwise(self.expand(features).permute(0, 3, 1, 2))
        return self.contract(functional.gelu(hidden).permute(0, 2, 3, 1))


class PyramidBlock(nn.Module):
    """A pre-norm transformer block: ``x + attention(norm(x))``, then ``x + feed_forward(norm(x))``."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = ReducedAttention(width, heads, reduction)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)

    def forward(self, features: Tensor) -> Tensor:
        """[B, h, w, C] -> [B, h, w, C]."""
        features = features + self.attention(self.attention_norm(features))
        return features + self.feed_forward(self.feed_forward_norm(features))


class PyramidStage(nn.Module):
    """An overlapping strided convolution, then blocks at that resolution; a layer norm behind each of the two.

    The kernel has 2 stride - 1 pixels, padding stride - 1 (PVT v2): 7 at the stem's stride 4, 3 at stride 2. The map
    that comes out has ceil(H / stride) x ceil(W / stride) locations.
    """

    def __init__(self, channels: int, width: int, stride: int, depth: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, width, kernel_size=2 * stride - 1, stride=stride, padding=stride - 1)
        self.embed_norm = nn.LayerNorm(width)
        self.blocks = nn.Sequential(*(PyramidBlock(width, heads, reduction) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, width, h, w]."""
        embedded = self.embed_norm(self.embed(features).permute(0, 2, 3, 1))
        return self.norm(self.blocks(embedded)).permute(0, 3, 1, 2)


def initialise(layer: nn.Module) -> None:
    """Start of one layer, as in PVT v2: small linear weights, so that residual branches begin near the identity.

    With PyTorch's larger ones Adam makes all descriptors equal within the first steps, and they stay so.
    """
    if isinstance(layer, nn.Linear):
        nn.init.trunc_normal_(layer.weight, std=0.02)
    elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels // layer.groups
        nn.init.normal_(layer.weight, std=(2.0 / fan_out) ** 0.5)
    if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d) and layer.bias is not None:
        nn.init.zeros_(layer.bias)


class UpPath(nn.Module):
    """The way back up the hour-glass: from the coarsest map to the finest, by transposed convolutions and sums.

    ``U_L = F_L``; ``U_l = norm(F_l + up_l(U_{l+1}))`` where ``up_l`` doubles the map (kernel and stride 2). A row or
    column too many, from maps of odd size, is cut off.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, kernel_size=2, stride=2) for fine, coarse in pairs)
        self.norm = nn.ModuleList(nn.LayerNorm(fine) for fine, _ in pairs)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [B, C_l, h_l, w_l], fine to coarse -> as many, of the same shapes and in the same order."""
        levels = [maps[-1]]
        for level in reversed(range(len(self.up))):
            lateral = maps[level]
            height, width = lateral.shape[-2:]
            total = lateral + self.up[level](levels[0])[..., :height, :width]
            levels.insert(0, self.norm[level](total.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return levels


class AttentionHead(nn.Module):
    """Salient features of every level, joined to one descriptor (our reading of the paper's attention head and SUM).

    Per level ``a = softmax_hw(w_l . F_l)`` and ``d_l = sum_hw a F_l``; then ``x = n(W [n(d_1); ...; n(d_L)])``, where
    n scales to unit length.
    """

    def __init__(self, widths: Sequence[int], output_dim: int) -> None:
        super().__init__()
        self.score = nn.ModuleList(nn.Conv2d(width, 1, kernel_size=1, bias=False) for width in widths)
        self.descriptor = nn.Linear(sum(widths), output_dim, bias=False)

    def attention(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Maps [B, C_l, h_l, w_l] -> ``a`` of every level, [B, 1, h_l, w_l], whose sum over locations is 1."""
        scores = [score(level) for score, level in zip(self.score, levels, strict=True)]
        return [score.flatten(2).softmax(dim=-1).view_as(score) for score in scores]

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Maps [B, C_l, h_l, w_l] -> descriptor [B, output_dim] of length 1, attended maps ``a F_l`` [B, C_l, h, w]."""
        attended = [weights * level for weights, level in zip(self.attention(levels), levels, strict=True)]
        salient = [functional.normalize(level.sum(dim=(-2, -1)), dim=1) for level in attended]
        return functional.normalize(self.descriptor(torch.cat(salient, dim=1)), dim=1), attended
