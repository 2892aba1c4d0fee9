"""One optimisation step on a batch of places, whole or staged.

Staged (``--train_batch_split_size`` below the batch): embeddings of all parts first, without gradient; the loss and its
gradient with respect to the embeddings on the whole batch; then each part again with gradient. The loss sees the whole
batch whatever the memory (Revaud et al., ICCV 2019, section 4: "multistaged" backpropagation).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from distilplace.common.randomness import forked_random_state

Batch = dict[str, Any]
Output = dict[str, Tensor]
LossFunction = Callable[[Output], Tensor]


def forward_backward(
    network: nn.Module,
    batch: Batch,
    loss_of: LossFunction,
    *,
    split_size: int,
    key: tuple[int, ...],
    fabric: Any,
    feature_maps: Sequence[str] = (),
) -> tuple[Tensor, Output]:
    """Gradients of ``loss_of(outputs)`` in the network's parameters; returns the loss and the detached outputs.

    ``feature_maps`` are asked of the network beside its embeddings.
    ``key`` (seed, step) fixes dropout, so both passes of a staged step, and a resumed run, drop the same units.
    ``loss_of`` may return a constant (a batch without triplets): then no gradient flows.
    """
    parts = list(split_batch(batch, split_size))

    def run(number: int) -> Output:
        with forked_random_state("dropout", *key, number), fabric.autocast():
            return forward_with_maps(network, parts[number], feature_maps)

    if len(parts) == 1:
        outputs = run(0)
        loss = loss_of(outputs)
        if loss.requires_grad and torch.isfinite(loss):
            fabric.backward(loss)
        return loss.detach(), {name: value.detach() for name, value in outputs.items()}

    with torch.no_grad(), _still_batchnorm(network):
        first = [run(number) for number in range(len(parts))]
    joined = {name: torch.cat([part[name] for part in first]).requires_grad_() for name in first[0]}
    loss = loss_of(joined)
    if loss.requires_grad and torch.isfinite(loss):
        fabric.backward(loss)
        _second_pass(run, parts, joined, fabric)
    return loss.detach(), {name: value.detach() for name, value in joined.items()}


def _second_pass(run: Callable[[int], Output], parts: list[Batch], joined: Output, fabric: Any) -> None:
    gradients = {name: value.grad for name, value in joined.items() if value.grad is not None}
    start = 0
    for number, part in enumerate(parts):
        outputs = run(number)
        stop = start + len(part["keys"])
        pulls = [(outputs[name] * gradient[start:stop]).sum() for name, gradient in gradients.items()]
        fabric.backward(torch.stack(pulls).sum())
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
    count = len(batch["keys"])
    if count <= size:
        yield batch
        return
    for number, start in enumerate(range(0, count, size)):
        stop = min(start + size, count)
        part: Batch = {"keys": batch["keys"][start:stop]}
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
