"""Forward and backward pass over a batch of places, whole or staged.

Staged (``--train_batch_split_size`` below the batch): embeddings of all parts first, without gradient; the loss and its
gradient with respect to the embeddings on the whole batch; then each part again with gradient. The loss sees the whole
batch whatever the memory (Revaud et al., ICCV 2019, section 4: "multistaged" backpropagation).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from distilplace.common.randomness import forked_random_state
from distilplace.common.shares import Share
from distilplace.engine.processes import gathered
from distilplace.models.shared import shared_rows

Batch = dict[str, Any]
Output = dict[str, Tensor]


class Forward:
    """A network's pass over a batch, whole or staged: the outputs for the loss, and the way back through the network.

    Args:
        network: whose outputs are wanted, and whose parameters get gradients.
        batch: the places.
        split_size: places per pass; below the batch it is staged.
        key: (seed, step) fixes dropout, so both passes of a staged step, and a resumed run, drop the same units.
        fabric: precision of the passes.
        feature_maps: wanted of the network beside its embeddings.

    """

    batch: Batch
    """The places."""
    outputs: Output
    """``embedding [B, D]``, ...: float32, of the whole batch; where that is shared, gathered from all processes."""

    def __init__(
        self,
        network: nn.Module,
        batch: Batch,
        *,
        split_size: int,
        key: tuple[int, ...],
        fabric: Any,
        feature_maps: Sequence[str] = (),
    ) -> None:
        self._network, self._key, self._fabric, self._feature_maps = network, key, fabric, feature_maps
        self.batch = batch
        self._parts = list(split_batch(batch, split_size))
        if len(self._parts) == 1:
            self._own = self._run(0)
        else:
            with torch.no_grad(), _still_batchnorm(network):
                first = [self._run(number) for number in range(len(self._parts))]
            self._own = {name: torch.cat([part[name] for part in first]).requires_grad_() for name in first[0]}
        self.outputs = gathered(self._own, batch.get("share"))

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss of the outputs; none flow from a constant (a batch without triplets) or what diverged."""
        if not loss.requires_grad or not torch.isfinite(loss):
            return
        self._fabric.backward(loss)
        if len(self._parts) > 1:
            self._second_pass()

    def _run(self, number: int) -> Output:
        part = self._parts[number]
        with (
            forked_random_state("dropout", *self._key, number),
            self._fabric.autocast(),
            shared_rows(part.get("share")),
        ):
            return forward_with_maps(self._network, part, self._feature_maps)

    def _second_pass(self) -> None:
        gradients = {name: value.grad for name, value in self._own.items() if value.grad is not None}
        start = 0
        for number, part in enumerate(self._parts):
            outputs = self._run(number)
            stop = start + len(part["keys"])
            pulls = [(outputs[name] * gradient[start:stop]).sum() for name, gradient in gradients.items()]
            self._fabric.backward(torch.stack(pulls).sum())
            start = stop


def forward_with_maps(network: nn.Module, batch: Batch, feature_maps: Sequence[str]) -> Output:
    """The network's output in float32, with these of its feature maps."""
    outputs = network(batch, feature_maps=tuple(feature_maps)) if feature_maps else network(batch)
    return {name: value.float() for name, value in outputs.items()}


@contextmanager
def _still_batchnorm(network: nn.Module) -> Iterator[None]:
    """Batch statistics are used but not recorded: only the second pass, which makes the gradients, records them."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    saved = [(norm.momentum, norm.state_dict()["num_batches_tracked"].clone()) for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, saved, strict=True):
            norm.momentum = momentum
            norm.state_dict()["num_batches_tracked"].copy_(tracked)


def split_batch(batch: Batch, size: int) -> Iterator[Batch]:
    """Parts of at most ``size`` places; the batch index in ``coords`` starts at 0 in each part. Masks stay behind."""
    cuts = _cuts(batch, size)
    if len(cuts) == 1:
        yield batch
        return
    for number, (rows, share) in enumerate(cuts):
        start, stop = rows.start, rows.stop
        part: Batch = {"keys": batch["keys"][start:stop]} | ({} if share is None else {"share": share})
        if "images" in batch:
            part["images"] = batch["images"][start:stop]
        if "coords" in batch:
            rows = (batch["coords"][:, 0] >= start) & (batch["coords"][:, 0] < stop)
            part["coords"] = batch["coords"][rows] - torch.tensor(
                [start, 0, 0, 0], dtype=torch.int32, device=rows.device
            )
            part["features"] = batch["features"][rows]
        if "maps" in batch:
            part["maps"] = batch["maps"][number : number + 1]
        yield part


def _cuts(batch: Batch, size: int) -> list[tuple[range, Share | None]]:
    """The rows of each part, and their share of that pass in all processes; None where there is one process."""
    if "share" in batch:
        return batch["share"].parts(size)
    count = len(batch["keys"])
    return [(range(start, min(start + size, count)), None) for start in range(0, max(count, 1), size)]
