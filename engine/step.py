"""One optimisation step on a batch of places, whole or staged.

Staged (``--train_batch_split_size`` below the batch): embeddings of all parts first, without gradient; the loss and its
gradient with respect to the embeddings on the whole batch; then each part again with gradient. The loss sees the whole
batch whatever the memory (Revaud et al., ICCV 2019, section 4: "multistaged" backpropagation).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.randomness import forked_random_state

Batch = dict[str, Any]
Output = dict[str, Tensor]
LossFunction = Callable[[Output], Tensor]


def forward_backward(
    network: nn.Module, batch: Batch, loss_of: LossFunction, *, split_size: int, key: tuple[int, ...], fabric: Any
) -> tuple[Tensor, Output]:
    """Gradients of ``loss_of(outputs)`` in the network's parameters; returns the loss and the detached outputs.

    ``key`` (seed, step) fixes dropout, so both passes of a staged step, and a resumed run, drop the same units.
    ``loss_of`` may return a constant (a batch without triplets): then no gradient flows.
    """
    parts = list(split_batch(batch, split_size))
    if len(parts) == 1:
        with forked_random_state("dropout", *key, 0), fabric.autocast():
            outputs = network(batch)
        loss = loss_of(_float(outputs))
        if loss.requires_grad and torch.isfinite(loss):
            fabric.backward(loss)
        return loss.detach(), _detached(outputs)

    with torch.no_grad(), _still_batchnorm(network):
        first = [_run(network, part, (*key, number), fabric) for number, part in enumerate(parts)]
    joined = {name: torch.cat([part[name] for part in first]).requires_grad_() for name in first[0]}
    loss = loss_of(joined)
    if loss.requires_grad and torch.isfinite(loss):
        fabric.backward(loss)
        _second_pass(network, parts, joined, key, fabric)
    return loss.detach(), _detached(joined)


def _second_pass(network: nn.Module, parts: list[Batch], joined: Output, key: tuple[int, ...], fabric: Any) -> None:
    gradients = {name: value.grad for name, value in joined.items() if value.grad is not None}
    start = 0
    for number, part in enumerate(parts):
        outputs = _run(network, part, (*key, number), fabric)
        stop = start + len(part["keys"])
        pulls = [(outputs[name] * gradient[start:stop]).sum() for name, gradient in gradients.items()]
        fabric.backward(torch.stack(pulls).sum())
        start = stop


def _run(network: nn.Module, part: Batch, key: tuple[int, ...], fabric: Any) -> Output:
    with forked_random_state("dropout", *key), fabric.autocast():
        return _float(network(part))


def _float(outputs: Output) -> Output:
    return {name: value.float() for name, value in outputs.items() if isinstance(value, Tensor)}


def _detached(outputs: Output) -> Output:
    return {name: value.detach() for name, value in outputs.items() if isinstance(value, Tensor)}


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
