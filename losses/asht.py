"""ASHT-KD (IEEE Xplore 10759546): several teachers, soft targets for query images, hard ones for database images.

No formula of the paper is public and its repository is a stub: apart from ``asht_repo_loss`` this is our reading. For
batches of P places with a query image q_i and a database image r_j each, student and teachers are compared by their
matrices ``z_ij = cos(q_i, r_j) / tau_student``, rows about query images, columns about database images; embeddings may
differ in dimension. Goes with the task loss RankingCrossEntropy.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from distilplace.common.errors import UserError
from distilplace.common.outputs import layer_maps
from distilplace.losses import settings
from distilplace.losses.baselines.units import same_batch
from distilplace.losses.distiller import Distiller, Outputs, refuse_no_weight
from distilplace.losses.parts.asht_terms import (
    Targets,
    attention_error,
    exchange_knowledge,
    hard_errors,
    repo_loss,
    soft_errors,
)
from distilplace.losses.parts.pairs import Pairs, pairs_of


class ASHT(Distiller):
    """Terms ``asht_soft``, ``asht_hard`` and ``asht_feature``.

    ``asht_soft``: T^2 KL from the teachers' fused row to the student's. ``asht_hard``: cross-entropy with the fused
    teachers' best partner. Which image gets which:

    - ``role``: query images soft, with the student's database vectors held fixed; database images hard, with its
      query vectors held fixed.
    - ``entropy``: both images get both, an item of complexity c (0 to 1) soft with weight 1 - c and hard with c.
    - ``fixed``: likewise with ``asht_lambda`` and 1 - ``asht_lambda``.

    In the last two a term is the sum of the means over query and over database images: the weights of each branch sum
    to 1, as they do by role.

    ``asht_feature``: agreement of attention maps, layer by layer from the coarsest backwards, as many layers as the
    poorest network has. A query image weights the teachers as its row does, a database image as its column does. It is
    left out where its weight is 0 or any of the networks gives no feature maps; to have it, teachers must run live.

    ``statistics``: ``asht_weight_1`` to ``_K``, mean weight of each teacher; ``asht_entropy``, mean complexity;
    ``asht_right_labels``, share of pseudo-labels that name the true partner.

    Args:
        asht_mode: ``S``: soft alone, ``H``: hard alone, ``SH``: both (paper, Table II).
        asht_gate: role, entropy or fixed.
        asht_lambda: share of the soft term by the gate ``fixed``, 0 to 1.
        temperature: T of the soft term (3, as in the repository).
        tau_student: temperature of the cosines; without one, rows at T = 3 would be almost uniform.
        tau_weight: temperature of the teachers' weights; large: all alike.
        asht_soft_weight: weight of the term.
        asht_hard_weight: weight of the term.
        asht_feature_weight: weight of the term.
        asht_repo_loss: the repository's loss on z instead: ``asht_soft`` is its KL (mean of the teachers' z, no T^2),
            ``asht_hard`` its cross-entropy with the places as labels. For comparison only; gates do not apply.

    """

    teacher_count = None
    reads_masks = True

    def __init__(
        self,
        asht_mode: str = "SH",
        asht_gate: str = "role",
        asht_lambda: float | str = 0.5,
        temperature: float | str = 3.0,
        tau_student: float | str = 0.07,
        tau_weight: float | str = 1.0,
        asht_soft_weight: float | str = 1.0,
        asht_hard_weight: float | str = 1.0,
        asht_feature_weight: float | str = 1.0,
        asht_repo_loss: bool | str = False,
    ) -> None:
        super().__init__()
        mode = settings.choice("asht_mode", asht_mode, ("S", "H", "SH"))
        self.gate = settings.choice("asht_gate", asht_gate, ("role", "entropy", "fixed"))
        self.soft_share = settings.share("asht_lambda", asht_lambda)
        self.temperature = settings.positive("temperature", temperature)
        self.tau_student = settings.positive("tau_student", tau_student)
        self.tau_weight = settings.positive("tau_weight", tau_weight)
        self.repo_literal = settings.switch("asht_repo_loss", asht_repo_loss)
        feature = settings.weight("asht_feature_weight", asht_feature_weight)
        self.weights = {
            "asht_soft": settings.weight("asht_soft_weight", asht_soft_weight) * ("S" in mode),
            "asht_hard": settings.weight("asht_hard_weight", asht_hard_weight) * ("H" in mode),
            "asht_feature": feature * (not self.repo_literal),
        }
        self.student_layers: frozenset[str] = frozenset()
        self.teacher_layers: frozenset[str] = frozenset()
        refuse_no_weight(sum(self.weights.values()), "--asht_soft_weight, --asht_hard_weight or --asht_feature_weight")

    def student_maps(self, layers: tuple[str, ...]) -> tuple[str, ...]:
        """All layers, for the feature term, which then reads these maps and no others that an output may hold."""
        self.student_layers = frozenset(layers)
        return layers if self.weights["asht_feature"] > 0 else ()

    def teacher_maps(self, layers: tuple[str, ...]) -> tuple[str, ...]:
        """Likewise; may be called for several teachers."""
        self.teacher_layers |= frozenset(layers)
        return layers if self.weights["asht_feature"] > 0 else ()

    def terms(self, student: Outputs, teachers: Sequence[Outputs], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The terms of a batch of pairs, read from ``batch["pairs"]`` (without it: consecutive rows)."""
        if not teachers:
            raise UserError("asht distils from one teacher or more, none given: name them after --model")
        embedding = student["embedding"]
        for teacher in teachers:
            same_batch(embedding, teacher["embedding"])
        pairs = pairs_of(embedding, batch["negatives_mask"], batch.get("pairs"))
        known = torch.stack([pairs.logits(teacher["embedding"]) for teacher in teachers]) / self.tau_student
        if self.repo_literal:
            return self._weighted(self._repo_terms(embedding, known, pairs))
        rows, columns = (
            exchange_knowledge(logits, self.temperature, self.tau_weight) for logits in (known, known.transpose(1, 2))
        )
        self._note(rows, columns)
        by_gate = self._by_role if self.gate == "role" else self._by_both
        terms = by_gate(embedding, pairs, rows, columns)
        maps = [_by_area(student, self.student_layers)]
        maps += [_by_area(teacher, self.teacher_layers) for teacher in teachers]
        if self.weights["asht_feature"] > 0 and all(maps):
            terms["asht_feature"] = _feature_term(maps, pairs, rows, columns)
        return self._weighted(terms)

    def _weighted(self, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.unweighted = {name: value for name, value in terms.items() if self.weights[name] > 0}
        return {name: self.weights[name] * value for name, value in self.unweighted.items()}

    def _by_role(self, embedding: Tensor, pairs: Pairs, rows: Targets, columns: Targets) -> dict[str, Tensor]:
        soft = pairs.logits(embedding, fixed="database") / self.tau_student
        hard = pairs.logits(embedding, fixed="queries") / self.tau_student
        return {
            "asht_soft": soft_errors(rows, soft, self.temperature).mean(),
            "asht_hard": hard_errors(columns, hard.T).mean(),
        }

    def _by_both(self, embedding: Tensor, pairs: Pairs, rows: Targets, columns: Targets) -> dict[str, Tensor]:
        logits = pairs.logits(embedding) / self.tau_student
        soft, hard = embedding.new_zeros(()), embedding.new_zeros(())
        for targets, own in ((rows, logits), (columns, logits.T)):
            share = 1 - targets.complexity if self.gate == "entropy" else self.soft_share
            soft = soft + (share * soft_errors(targets, own, self.temperature)).mean()
            hard = hard + ((1 - share) * hard_errors(targets, own)).mean()
        return {"asht_soft": soft, "asht_hard": hard}

    def _repo_terms(self, embedding: Tensor, known: Tensor, pairs: Pairs) -> dict[str, Tensor]:
        logits = pairs.logits(embedding) / self.tau_student
        places = torch.arange(len(logits), device=logits.device)
        _, distilled, labelled = repo_loss(logits, list(known), places, self.temperature)
        return {"asht_soft": distilled, "asht_hard": labelled}

    def _note(self, rows: Targets, columns: Targets) -> None:
        means = torch.cat([rows.weights, columns.weights], dim=1).mean(dim=1).tolist()
        self.statistics |= {f"asht_weight_{number}": value for number, value in enumerate(means, 1)}
        self.statistics["asht_entropy"] = torch.cat([rows.complexity, columns.complexity]).mean().item()
        right = torch.cat([rows.hard.diagonal(), columns.hard.diagonal()])
        self.statistics["asht_right_labels"] = right.mean().item()


def _feature_term(maps: Sequence[Sequence[Tensor]], pairs: Pairs, rows: Targets, columns: Targets) -> Tensor:
    """Sum of the attention errors over the maps that all networks (student first) have, coarsest first."""
    order = torch.cat([pairs.queries, pairs.database])
    weights = torch.cat([rows.weights, columns.weights], dim=1)
    errors = [
        attention_error(own[order], [value[order] for value in others], weights)
        for own, *others in zip(*maps, strict=False)
    ]
    return torch.stack(errors).sum()


def _by_area(output: Outputs, names: Collection[str]) -> list[Tensor]:
    """Maps [B, C, h, w] of an output by growing area; of equal ones the later first (outputs run from fine to coarse).

    Those of the given names, which other methods' maps may stand beside; without names all.
    """
    maps = [value for name, value in layer_maps(output).items() if not names or name in names]
    return sorted(maps, key=lambda value: value.shape[-2] * value.shape[-1], reverse=True)[::-1]
