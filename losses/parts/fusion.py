"""How several teachers' similarity matrices become one: the fusion strategies of Whiten-MTD (AAAI 2024).

Row i and column j are the two views of places i and j, so the diagonal holds the positive pairs. Entry by entry:

    mean     the teachers' mean                    rand      one teacher's value, drawn for each entry
    maxmin   diagonal: largest, else smallest      maxmean   diagonal: largest, else the mean
    maxrand  diagonal: largest, else drawn         maxfix    diagonal: largest, else the last teacher's

The published program draws again for the transposed matrix; here one draw serves both (our reading).
``maxfix`` is in its source but no name leads to it; here ``maxfix`` does.
"""

import torch
from torch import Tensor

from distilplace.common.errors import unknown_name
from distilplace.common.randomness import generator

STRATEGIES = ("mean", "rand", "maxmin", "maxmean", "maxrand", "maxfix")
DRAWING = ("rand", "maxrand")
"""The strategies that need a draw."""


def drawn_teachers(teachers: int, places: int, *key: int | str) -> Tensor:
    """A teacher's number for every entry, int64 [B, B] in 0..K-1, uniform; a function of ``key`` alone."""
    return torch.from_numpy(generator("fusion", *key).integers(teachers, size=(places, places)))


def fuse(similarities: Tensor, strategy: str = "maxmin", drawn: Tensor | None = None) -> Tensor:
    """One matrix [B, B] from those of K teachers [K, B, B].

    Args:
        similarities: what each teacher says of the B x B pairs, in any unit that the teachers share.
        strategy: one of :data:`STRATEGIES`.
        drawn: int64 [B, B], which teacher each entry of ``rand`` and ``maxrand`` is taken from; the others ignore it.

    Raises:
        UserError: another strategy (the nearest is offered).
        ValueError: a strategy that draws, without ``drawn``.

    """
    if strategy not in STRATEGIES:
        raise unknown_name("fusion strategy", strategy, STRATEGIES)
    if strategy in DRAWING and drawn is None:
        raise ValueError(f"fusion {strategy} needs the drawn teachers")
    if strategy.endswith("mean"):
        others = similarities.mean(dim=0)
    elif strategy == "maxmin":
        others = similarities.amin(dim=0)
    elif strategy == "maxfix":
        others = similarities[-1]
    else:
        assert drawn is not None
        others = similarities.gather(0, drawn.to(similarities.device).unsqueeze(0)).squeeze(0)
    if not strategy.startswith("max"):
        return others
    positive = torch.eye(len(others), dtype=torch.bool, device=others.device)
    return torch.where(positive, similarities.amax(dim=0), others)


def winning_shares(similarities: Tensor) -> list[float]:
    """Share of the B positive pairs that each of the K teachers [K, B, B] finds most similar; ties: the first."""
    teachers, places, _ = similarities.shape
    winners = similarities.diagonal(dim1=1, dim2=2).argmax(dim=0)
    counts: list[int] = torch.bincount(winners, minlength=teachers).tolist()
    return [count / places for count in counts]
