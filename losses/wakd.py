"""WAKD, ICPR 2022: a student learns how its teacher relates the images of a tuple, by VLAD vectors and by attention.

Attention is a gradient-weighted map that needs no classifier. Formulas as in the published program (github.com/
XuYifan98/WAKD); ``wakd_vectors="embedding"``, for networks without NetVLAD, is our
reading. Only N x N matrices of the two networks meet, tuple by tuple: maps and vectors may differ in size.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distilplace.losses import settings
from distilplace.losses.baselines.units import same_batch
from distilplace.losses.distiller import Distiller, Outputs, feature_map, refuse_no_weight
from distilplace.losses.parts.vectors import unit


def gram(x: Tensor) -> Tensor:
    """Dot products [..., N, N] of rows x [..., N, D], each row of the result scaled to length 1."""
    return unit(x @ x.mT)


def gram_vlad(vlad: Tensor) -> Tensor:
    """:func:`gram` of residual sums [..., N, K, C], each of the K scaled to length 1 (rows have the length sqrt(K))."""
    return gram(unit(vlad).flatten(-2))


def class_free_attention(maps: Tensor) -> Tensor:
    """Attention [N, h, w], largest value 1, of maps X [N, C, h, w] without a classifier.

    With A = ReLU(X), z its spatial means, p = softmax(z) and c* the largest z, the gradient of p_c* with respect to A,
    averaged over space, weights the channels: M = mean_c w_c A_c. These weights are proportional to
    ``[c = c*] - p_c``, so ``M ~ A_c* - sum_c p_c A_c``, and the factor cancels in ReLU(M) / max M. The weights are
    constants; the gradient flows through A and through the maximum.

    A map that is 0 everywhere, or the same in all channels, has no attention: zeros.
    """
    activations = F.relu(maps)
    means = activations.detach().mean(dim=(2, 3))
    probability = F.softmax(means, dim=1)
    strongest = activations[torch.arange(len(maps), device=maps.device), means.argmax(dim=1)]
    contrast = strongest - torch.einsum("nc,nchw->nhw", probability, activations)
    peak = contrast.amax(dim=(1, 2), keepdim=True)
    noise = 16 * torch.finfo(maps.dtype).eps * strongest.detach().amax(dim=(1, 2), keepdim=True)
    seen = peak > noise
    return torch.where(seen, F.relu(contrast) / torch.where(seen, peak, 1), 0)


class WAKD(Distiller):
    """Terms ``wakd_vlad`` and, by ``wakd_kd``, ``wakd_attention`` or ``wakd_activation``: MSE of row-scaled Grams.

    A Gram matrix relates the images of one tuple, as in the published program, which holds one tuple per GPU: anchor,
    positive and J negatives, and once more the anchor with its M difficult positives; N = 2 + J + 1 + M rows (9 as
    published), the anchor twice. A batch of T tuples counts as the mean over its tuples: one Gram over all T N rows
    would have longer rows, hence smaller numbers after scaling, and ``kd_weight`` would mean less the larger the batch.
    Batches without tuples (pairs, items) are one group of all their rows.

    Args:
        wakd_kd: ``attention``: vectors and class-free attention (the paper's); ``vlad``: vectors alone;
            ``activation``: vectors and maps, scaled to length 1 along their height as the published program does.
        kd_weight: weight of each term.
        wakd_vectors: ``vlad``: raw residual sums of NetVLAD networks; ``embedding``: the embeddings of any networks,
            as unit vectors.

    """

    def __init__(
        self,
        wakd_kd: str = "attention",
        kd_weight: float | str = 100.0,
        wakd_vectors: str = "vlad",
    ) -> None:
        super().__init__()
        self.kind = settings.choice("wakd_kd", wakd_kd, ("attention", "vlad", "activation"))
        self.vectors = settings.choice("wakd_vectors", wakd_vectors, ("vlad", "embedding"))
        self.weight = settings.weight("kd_weight", kd_weight)
        refuse_no_weight(self.weight, "--kd_weight")

    def student_maps(self, layers: tuple[str, ...]) -> tuple[str, ...]:
        """``map`` and ``vlad``, as far as the terms need them."""
        return ("map",) * (self.kind != "vlad") + ("vlad",) * (self.vectors == "vlad")

    def teacher_maps(self, layers: tuple[str, ...]) -> tuple[str, ...]:
        """The same as of the student."""
        return self.student_maps(layers)

    def terms(self, student: Outputs, teachers: Sequence[Outputs], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The terms, means over the tuples of the batch; without tuples over its one group."""
        same_batch(student["embedding"], teachers[0]["embedding"])
        groups = row_groups(batch, student["embedding"])
        losses = {"wakd_vlad": self._vector_gram}
        if self.kind != "vlad":
            losses[f"wakd_{self.kind}"] = self._map_gram
        for name, relation in losses.items():
            own, wanted = relation(student, "student", groups), relation(teachers[0], "teacher", groups)
            self.unweighted[name] = F.mse_loss(own, wanted)
        return {name: self.weight * value for name, value in self.unweighted.items()}

    def _vector_gram(self, output: Outputs, whose: str, groups: Tensor) -> Tensor:
        embedding = output["embedding"]
        if self.vectors == "embedding":
            return gram(unit(embedding)[groups])
        advice = "give --wakd_vectors embedding for networks without NetVLAD"
        return gram_vlad(feature_map(output, "vlad", "wakd", whose, advice).to(embedding.dtype)[groups])

    def _map_gram(self, output: Outputs, whose: str, groups: Tensor) -> Tensor:
        maps = feature_map(output, "map", "wakd", whose, "run it live")
        seen = class_free_attention(maps) if self.kind == "attention" else unit(maps, dim=2)
        return gram(seen.flatten(1).to(output["embedding"].dtype)[groups])


def row_groups(batch: Mapping[str, Any], embedding: Tensor) -> Tensor:
    """Rows int64 [G, N] of a batch whose Gram matrices are compared, group by group.

    One group per tuple, its anchor twice; without tuples one group of all rows.
    """
    tuples, difficult = batch.get("tuples"), batch.get("difficult_positives")
    if tuples is None:
        return torch.arange(len(embedding), device=embedding.device)[None]
    again = tuples[:, :1] if difficult is None else torch.cat([tuples[:, :1], difficult], dim=1)
    return torch.cat([tuples, again], dim=1).to(embedding.device)
