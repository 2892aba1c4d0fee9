"""Any loss and miner of pytorch-metric-learning that works on pair masks: ``--loss pml:NAME --miner NAME``.

The library thinks in class labels, a batch of places in pairs: places between the positive and the negative radius are
neither. Losses get their pairs as ``indices_tuple``. Miners take none: where a batch has places between the
radii they are called anchor by anchor, as a query among its own positives (label 1) and negatives (label 0).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from distilplace.common.errors import UserError, unknown_name
from distilplace.common.randomness import forked_random_state
from distilplace.common.registry import check_settings, parameters
from distilplace.losses import settings
from distilplace.losses.tasks.pml_table import (
    CHOICES,
    DISTANCES,
    DRAWS,
    FIXED,
    LOSSES,
    MINERS,
    NOT_SETTINGS,
    PREFIX,
    REFUSED,
)
from distilplace.losses.tasks.task_loss import Result, TaskLoss

Indices = tuple[Tensor, ...]
"""Anchors, positives, anchors, negatives (pairs) or anchors, positives, negatives (triplets), each int64."""


class PMLLoss(TaskLoss):
    """A loss of the library on ``output["embedding"]`` [B, D], of the mined pairs or of all.

    Args:
        name: one of :data:`distilplace.losses.tasks.pml_table.LOSSES`.
        loss_settings: the loss's own, by their names in the library; ``distance`` (a name) and
            ``normalize_embeddings`` besides.
        miner: one of :data:`distilplace.losses.tasks.pml_table.MINERS`; None: all pairs.
        miner_settings: as for the loss.

    Raises:
        UserError: an unknown or unfit name, an unknown setting, or a value that gives no finite loss.

    """

    def __init__(
        self,
        name: str,
        loss_settings: Mapping[str, Any] | None = None,
        miner: str | None = None,
        miner_settings: Mapping[str, Any] | None = None,
    ) -> None:
        from pytorch_metric_learning import losses, miners

        super().__init__()
        self.loss: Any = _made(losses, "loss", check_name("loss", name), loss_settings or {})
        self.miner: Any = None
        self.draws = miner in DRAWS
        if miner is not None:
            self.miner = _made(miners, "miner", check_name("miner", miner), miner_settings or {})
        elif miner_settings:
            raise UserError("--miner_settings without --miner: name the miner, or omit its settings")
        self.metric = "euclidean" if not self.loss.distance.is_inverted else "cosine"
        self.mined: Tensor
        self.register_buffer("mined", torch.zeros((), dtype=torch.int64))
        self._try(name, miner, loss_settings, miner_settings)

    def forward(self, output: Mapping[str, Tensor], positives_mask: Tensor, negatives_mask: Tensor) -> Result:
        """Loss and statistics, from boolean masks [B, B]; a batch without pairs has the loss 0 and zero gradients."""
        embedding = output["embedding"]
        with torch.autocast(embedding.device.type, enabled=False):
            embedding = embedding.to(torch.promote_types(embedding.dtype, torch.float32))
            positives, negatives = positives_mask.to(embedding.device), negatives_mask.to(embedding.device)
            indices = self._indices(embedding.detach(), positives, negatives)
            loss = self.loss(embedding, indices_tuple=indices) + (embedding * 0).sum()
        return loss, {
            "loss": loss.item(),
            "avg_embedding_norm": embedding.detach().norm(dim=1).mean().item(),
            "num_positive_pairs": float(len(indices[1])),
            "num_negative_pairs": float(len(indices[-1])),
        }

    def _indices(self, embedding: Tensor, positives: Tensor, negatives: Tensor) -> Indices:
        pairs = (*torch.where(positives), *torch.where(negatives))
        if self.miner is None:
            return pairs
        if hasattr(self.miner, "set_idx_externally"):
            self.miner.set_idx_externally(pairs, None)
            found: Indices = self.miner(embedding, torch.arange(len(embedding)))
            self.miner.reset_idx()
            return found
        if not self.draws:
            return mine(self.miner, embedding, positives, negatives)
        self.mined += 1  # in the checkpoint, so a resumed run draws on
        with forked_random_state("miner", int(self.mined)):
            return mine(self.miner, embedding, positives, negatives)

    def _try(self, name: str, miner: str | None, *given: Mapping[str, Any] | None) -> None:
        """One small batch: what the library makes of bad values shows here, not after the data are read."""
        place = torch.arange(6) // 2
        same = place.unsqueeze(0) == place.unsqueeze(1)
        sample = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        try:
            loss, _ = self({"embedding": sample}, same & ~torch.eye(6, dtype=torch.bool), ~same)
            loss.backward()
            problem = "" if loss.isfinite() and sample.grad.isfinite().all() else "the loss is not finite"  # type: ignore[union-attr]
        except (ArithmeticError, AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
            problem = str(error) or type(error).__name__
        self.mined.zero_()
        if problem:
            told = " ".join(f"{key}={value}" for each in given for key, value in (each or {}).items())
            what = f"--loss {PREFIX}{name}" + (f" --miner {miner}" if miner else "")
            raise UserError(f"{what} does not work with {told or 'these settings'}: {problem}; change the settings")


def mine(miner: Any, embedding: Tensor, positives: Tensor, negatives: Tensor) -> Indices:
    """What a miner of the library takes of the pairs that two masks [B, B] allow."""
    if (places := _places(positives, negatives)) is not None:
        return miner(embedding, places)
    partners = positives | negatives
    found = []
    for anchor in torch.nonzero(partners.any(dim=1)).squeeze(1):
        others = torch.nonzero(partners[anchor]).squeeze(1)
        one = anchor.unsqueeze(0)
        chosen = miner(
            embedding[one],
            torch.ones_like(one),
            ref_emb=embedding[others],
            ref_labels=positives[anchor, others].long(),
        )
        anchors = (0,) if len(chosen) == 3 else (0, 2)
        found.append([one.expand(len(part)) if n in anchors else others[part] for n, part in enumerate(chosen)])
    if not found:
        return (torch.zeros(0, dtype=torch.long, device=embedding.device),) * 4
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def _places(positives: Tensor, negatives: Tensor) -> Tensor | None:
    """The place [B] that each item shows; None where the masks are not those of distinct places."""
    itself = torch.eye(len(positives), dtype=torch.bool, device=positives.device)
    first = (positives | itself).int().argmax(dim=1)
    same = first.unsqueeze(0) == first.unsqueeze(1)
    return first if torch.equal(same, positives | itself) and torch.equal(~same, negatives) else None


def check_name(kind: str, name: str) -> str:
    """``name`` if it is a "loss" or "miner" that works here."""
    known = LOSSES if kind == "loss" else MINERS
    if name in known:
        return name
    front = PREFIX if kind == "loss" else ""
    if name in REFUSED:
        raise UserError(f"--{kind} {front}{name} does not work here: {REFUSED[name]}; known: {', '.join(known)}")
    raise unknown_name("miner" if front == "" else "task loss", front + name, [front + each for each in known])


def defaults(found: type) -> dict[str, Any]:
    """The settings of a loss or miner class and their defaults, those of its base classes included."""
    none = {*NOT_SETTINGS, *FIXED.get(found.__name__, ())}
    return {name: each.default for name, each in parameters(found).items() if name not in none}


def _made(library: Any, kind: str, name: str, given: Mapping[str, Any]) -> Any:
    found = getattr(library, name, None)
    if found is None:
        raise UserError(f"the installed pytorch-metric-learning has no {kind} {name}: update it (make setup)")
    known = defaults(found)
    own = {key: value for key, value in given.items() if key not in ("distance", "normalize_embeddings")}
    check_settings(f"{kind} {name}", own, [*known, "distance", "normalize_embeddings"])
    values = {key: _value(f"--{kind}_settings {key}", key, value, known[key]) for key, value in own.items()}
    try:
        distance = _distance(found, kind, given)
        return found(**values, **({} if distance is None else {"distance": distance}))
    except (ArithmeticError, AssertionError, TypeError, ValueError) as error:
        told = " ".join(f"{key}={value}" for key, value in given.items())
        raise UserError(f"{kind} {name} does not take {told}: {error}; change --{kind}_settings") from None


def _distance(found: type, kind: str, given: Mapping[str, Any]) -> Any:
    """The distance that the settings name; None: the loss's own."""
    from pytorch_metric_learning import distances

    wanted: dict[str, Any] = {}
    if "normalize_embeddings" in given:
        wanted["normalize_embeddings"] = settings.switch("normalize_embeddings", given["normalize_embeddings"])
    if "distance" in given:
        return getattr(distances, settings.choice("distance", given["distance"], DISTANCES))(**wanted)
    return type(found().distance)(**wanted) if wanted else None


def _value(what: str, key: str, value: Any, default: Any) -> Any:
    """A setting of the kind that its default has."""
    if key in CHOICES:
        return settings.choice(what, value, CHOICES[key])
    if isinstance(default, bool):
        return settings.switch(what, value)
    if default is None:  # a range
        parts = str(value).split("_")
        if len(parts) != 2:
            raise UserError(f"{what} is {value!r}: give two numbers joined by '_', such as 0.2_0.8")
        return tuple(settings.finite(what, part) for part in parts)
    number = settings.finite(what, value)
    return int(number) if number == int(number) else number
