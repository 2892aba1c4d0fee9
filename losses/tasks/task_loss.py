"""What every task loss says of itself: the contract that sampling, batches and the trainer rely on."""

from collections.abc import Callable

from torch import Tensor, nn

Result = tuple[Tensor, dict[str, float]]
"""The loss, and statistics for the log."""


class TaskLoss(nn.Module):
    """``task_loss(output, positives_mask, negatives_mask, **extras) -> (scalar, {statistic: float})``.

    ``output`` is a model's, a flat dict. ``positives_mask``, bool [B, B]: two rows show one place (a row and itself do
    not count); ``negatives_mask``: they show different ones. ``extras``: the batch's entries named by ``batch_keys``.
    """

    reads_masks: bool = True
    """Does it read the two masks? Where nobody does they are not made, and it is given None."""
    batch_keys: tuple[str, ...] = ()
    """Further entries of the batch that it reads, given as keywords."""
    feature_maps: tuple[str, ...] = ()
    """Layers whose maps it reads, as ``maps.<layer>`` of the output."""
    layout: str = "pairs"
    """How batches must be composed: "pairs", "tuples", "items", "views", "groups", or "any"."""

    metric: str
    """The distance that is trained, "euclidean" or "cosine"; evaluation states its own beside its results."""

    forward: Callable[..., Result]
