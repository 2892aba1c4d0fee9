"""What ``tools.bench`` measures against: the same results, written the plain way.

Sparse convolution by a search per kernel offset, losses on [B, B, D] differences and all angles at once, batch masks by
a double loop, recall by a loop over pairs of runs. Correct and unhurried; nothing outside the benchmark uses it.
"""

import copy
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distilplace.datasets.records import TrainingSet
from distilplace.evaluation.retrieval.runs import one_percent_threshold
from distilplace.losses.parts.hyperbolic import MAX_ARTANH, mobius_add, to_poincare
from distilplace.losses.parts.relations import without_diagonal
from distilplace.models.sparse import SparseConv, SparseTensor, SparseTransposedConv, kernel_offsets
from distilplace.models.sparse.manager import Manager

Pairs = list[tuple[Tensor, Tensor]]
Maps = WeakKeyDictionary[Manager, dict[tuple[int, int, int], Pairs]]
CURVATURE = 0.1


def search_pairs(source: Tensor, target: Tensor, offsets: Tensor) -> Pairs:
    """Per offset the rows (of source, of target) with ``source = target + offset``; coordinates int [N, 4]."""
    margin = int(offsets.abs().max())
    low = torch.cat([source, target]).amin(0) - margin
    extent = (torch.cat([source, target]).amax(0) + margin - low + 1).tolist()
    radix = torch.tensor([extent[1] * extent[2] * extent[3], extent[2] * extent[3], extent[3], 1])
    keys, order = ((source.long() - low) * radix).sum(1).sort()
    wanted = ((target.long() - low) * radix).sum(1)
    pairs = []
    for step in (offsets * radix[1:]).sum(1).tolist():
        place = torch.searchsorted(keys, wanted + step).clamp_max(len(keys) - 1)
        rows = (keys[place] == wanted + step).nonzero().squeeze(1)
        pairs.append((order[place[rows]], rows))
    return pairs


class NaiveConv(nn.Module):
    """A sparse convolution by search, gather, matrix product and ``index_add_`` per kernel offset.

    It takes the weights of one of ours; maps are kept per set of coordinates, so both engines build each once.
    """

    def __init__(self, layer: SparseConv | SparseTransposedConv, maps: Maps) -> None:
        super().__init__()
        self.kernel = layer.kernel
        self.kernel_size, self.stride = layer.kernel_size, layer.stride
        self.upwards = isinstance(layer, SparseTransposedConv)
        self.maps = maps

    def forward(self, x: SparseTensor) -> SparseTensor:
        """``[N, C_in]`` -> ``[M, C_out]``."""
        if self.kernel.ndim == 2:
            return x.with_features(x.features @ self.kernel)
        level = x.level - self.stride + 1 if self.upwards else x.level + self.stride - 1
        out = x.features.new_zeros(x.manager.count(level), self.kernel.shape[2])
        for weight, (rows, target) in zip(self.kernel, self._pairs(x, min(level, x.level)), strict=True):
            source, target = (target, rows) if self.upwards else (rows, target)
            out.index_add_(0, target, x.features[source] @ weight)
        return x.with_features(out, level)

    def _pairs(self, x: SparseTensor, fine: int) -> Pairs:
        kept = self.maps.setdefault(x.manager, {})
        key = (fine, self.kernel_size, self.stride)
        if key not in kept:
            source, target = (x.manager.coordinates(number) for number in (fine, fine + self.stride - 1))
            kept[key] = search_pairs(source, target, kernel_offsets(self.kernel_size) * 2**fine)
        return kept[key]


def naive_copy(network: nn.Module) -> nn.Module:
    """The same network with every sparse convolution replaced by a :class:`NaiveConv`."""
    maps: Maps = WeakKeyDictionary()
    network = copy.deepcopy(network)
    if isinstance(network, SparseConv | SparseTransposedConv):
        return NaiveConv(network, maps)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SparseConv | SparseTransposedConv):
                setattr(parent, name, NaiveConv(child, maps))
    return network


def broadcast_loss(student: Tensor, teacher: Tensor, weights: Mapping[str, float]) -> Tensor:
    """``ours_rkdg`` with st2ss terms by broadcasting: [B, B, D] differences and the whole [B, B, B] angle tensor.

    Args:
        student: embeddings [B, D].
        teacher: embeddings [B, D].
        weights: of ``rkdg``, ``dist``, ``sim`` and ``geo``.

    """
    teacher = teacher.detach()
    parts = [
        F.smooth_l1_loss(own_distances(student), own_distances(teacher)),
        F.smooth_l1_loss(all_angles(student), all_angles(teacher)),
        F.smooth_l1_loss(own_geodesics(student), own_geodesics(teacher)),
    ]
    s, t = F.normalize(student, dim=1), F.normalize(teacher, dim=1)
    total = weights["rkdg"] * torch.stack(parts).sum()
    total = total + weights["dist"] * F.mse_loss(_distances(s, s), _distances(s, t).detach())
    total = total + weights["sim"] * F.mse_loss(_cosines(s, s), _cosines(s, t).detach())
    own, across = without_diagonal(_geodesics(_ball(s), _ball(s))), _geodesics(_ball(s), _ball(t))
    return total + weights["geo"] * F.mse_loss(own, across.detach())


def _distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.unsqueeze(1) - y.unsqueeze(0), dim=2)


def _cosines(x: Tensor, y: Tensor) -> Tensor:
    return F.cosine_similarity(x.unsqueeze(1), y.unsqueeze(0), dim=2)


def all_angles(x: Tensor) -> Tensor:
    """Cosines [B, B, B] of the angles of all triples of rows, from [B, B, D] differences."""
    directions = F.normalize(x.unsqueeze(0) - x.unsqueeze(1), dim=2)
    return directions @ directions.transpose(1, 2)


def _ball(x: Tensor) -> Tensor:
    return to_poincare(x, CURVATURE)


def _geodesics(x: Tensor, y: Tensor) -> Tensor:
    difference = mobius_add(-x.unsqueeze(1), y.unsqueeze(0), CURVATURE)
    scaled = CURVATURE**0.5 * torch.linalg.vector_norm(difference, dim=2)
    return 2 / CURVATURE**0.5 * torch.atanh(scaled.clamp_max(MAX_ARTANH))


def own_distances(x: Tensor) -> Tensor:
    """Distances [B, B] in units of their mean, from [B, B, D] differences."""
    return _relative(_distances(x, x).clamp_min(1e-6))


def own_geodesics(x: Tensor) -> Tensor:
    """Geodesic distances [B, B] in units of their mean, by Moebius addition of all pairs [B, B, D]."""
    return _relative(_geodesics(_ball(x), _ball(x)))


def _relative(matrix: Tensor) -> Tensor:
    matrix = without_diagonal(matrix)
    return matrix / (matrix.sum() / (len(matrix) * (len(matrix) - 1)))


def loop_masks(training: TrainingSet, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
    """``TrainingSet.masks`` by a double loop with one binary search per pair and list."""
    positive, negative = (torch.zeros(len(indices), len(indices), dtype=torch.bool) for _ in range(2))
    for row, item in enumerate(indices):
        for column, other in enumerate(indices):
            if item != other:
                positive[row, column] = _in_sorted(other, training.positives[item])
                negative[row, column] = not _in_sorted(other, training.non_negatives[item])
    return positive, negative


def _in_sorted(value: int, values: np.ndarray) -> bool:
    place = bisect_left(values, value)
    return place < len(values) and bool(values[place] == value)


def loop_recall(
    database: Sequence[np.ndarray], queries: Sequence[np.ndarray], truth: Sequence[Mapping[int, Mapping[Any, Any]]]
) -> np.ndarray:
    """Recall@1..25 and one-percent recall (percent, mean over pairs of runs): per pair a product and ``topk``.

    Databases have 25 items to 2500.
    """
    pairs = []
    for m, items in enumerate(database):
        for n, rows in enumerate(queries):
            hits, asked = np.zeros(26), 0
            unit_items, unit_rows = (F.normalize(torch.from_numpy(each), dim=1) for each in (items, rows))
            top = (unit_rows @ unit_items.T).topk(25).indices.tolist() if m != n else []
            for index, ranking in enumerate(top):
                if not (right := truth[n][index].get(m)):
                    continue
                rank = next((place for place, item in enumerate(ranking) if item in right), 25)
                hits[rank:25] += 1
                hits[25] += rank < one_percent_threshold(len(items))
                asked += 1
            if asked:
                pairs.append(100 * hits / asked)
    return np.mean(pairs, axis=0)
