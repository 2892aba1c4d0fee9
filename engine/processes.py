"""Several processes that train or evaluate together (``torchrun``): what they agree on, and what one does for all.

Every process draws the same batches, computes its share of each and gathers the outputs of all
(:mod:`distilplace.losses.parts.gather`), so that the loss is that of the whole batch in every one of them. After the
backward pass the mean of their gradients is that of one process. The first process writes the run's files; the others
read them, so all need the same folders. With one process every function here does nothing.

There is no DistributedDataParallel: it would hold the network alone, not the losses' own parameters, and would reduce
gradients in each pass of a staged step.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from distilplace.common.errors import UserError
from distilplace.common.files import is_write_failure, write_error
from distilplace.common.shares import Share, asked_for, evenly
from distilplace.engine.program import ToldElsewhere
from distilplace.losses.parts.gather import gather_rows

Value = TypeVar("Value")
Given = ParamSpec("Given")
LOST = "another process of this run has ended, so this one ends too; with --resume auto it goes on from last.ckpt"


def start(kind: str, precision: Any) -> Any:
    """Lightning Fabric on the devices of a ``torchrun``, its processes connected.

    Raises:
        UserError: not started by ``torchrun``, more processes than GPUs, or machines with different numbers of them.

    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    processes, here = asked_for(), int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    if not dist.is_available() or not dist.is_torchelastic_launched() or here < 1:
        raise UserError(f"WORLD_SIZE says {processes} processes, but torchrun has not started them: use torchrun")
    if processes % here:
        raise UserError(f"{processes} processes, {here} of them on this machine: start as many on every machine")
    if kind == "cuda" and here > torch.cuda.device_count():
        raise UserError(
            f"{here} processes on a machine with {torch.cuda.device_count()} GPUs: give --nproc_per_node "
            f"{torch.cuda.device_count()}, or --accelerator cpu"
        )
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it greets in every process
    strategy = DDPStrategy(process_group_backend="cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo")
    fabric = Fabric(accelerator=kind, devices=here, num_nodes=processes // here, strategy=strategy, precision=precision)
    fabric.launch()
    return fabric


def count() -> int:
    """How many processes work together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if count() > 1 else 0


def is_first() -> bool:
    """Is this the process that writes files and messages?"""
    return rank() == 0


def on_first(work: Callable[Given, Value], *arguments: Given.args, **named: Given.kwargs) -> Value:
    """What ``work`` gives in the first process, in all of them; a :class:`UserError` of it is raised in all."""
    if count() == 1:
        return work(*arguments, **named)
    found: list[Any] = [None, None]
    if is_first():
        try:
            found[0] = work(*arguments, **named)
        except UserError as error:
            found[1] = str(error)
        except OSError as error:
            if not is_write_failure(error):
                raise
            found[1] = str(write_error(error.filename or "a file", error))
    dist.broadcast_object_list(found)
    if found[1] is not None:
        raise UserError(found[1])
    value: Value = found[0]
    return value


def any_of(flag: bool) -> bool:
    """Is ``flag`` true in one of the processes?"""
    if count() == 1:
        return flag
    found = torch.tensor(int(flag))
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return bool(found)


def require_same(numbers: Tensor, what: str) -> None:
    """:class:`UserError` unless int64 ``numbers`` [n] are the same in all processes."""
    if count() == 1:
        return
    numbers = numbers.cpu()
    mixed = (numbers * (torch.arange(len(numbers)) * 2 + 1)).sum() % (2**31 - 1)
    extremes = torch.stack([mixed, -mixed])
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
    if extremes.sum() != 0:
        raise UserError(f"the processes of this run have different {what}: give all machines the same files")


def start_alike(*modules: object) -> None:
    """Give parameters and buffers of the modules the values that the first process has."""
    if count() == 1:
        return
    for module in modules:
        if isinstance(module, nn.Module):
            for value in (*module.parameters(), *module.buffers()):
                dist.broadcast(value.detach(), src=0)


def mean_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients by their mean over the processes.

    Of the network's that is the gradient of one process, for :func:`gather_rows` multiplies it by their number; those
    of a loss's own parameters are the same in all processes.
    """
    if count() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for kind in dict.fromkeys((each.device, each.dtype) for each in gradients):
        alike = [each for each in gradients if (each.device, each.dtype) == kind]
        flat = torch.cat([each.reshape(-1) for each in alike])
        dist.all_reduce(flat)
        flat /= count()
        for each, mean in zip(alike, flat.split([each.numel() for each in alike]), strict=True):
            each.copy_(mean.view_as(each))


def share_of() -> Callable[[int], Share] | None:
    """The rows of a batch that this process computes, by how many it has; None where there is one process."""
    return partial(Share.of, rank=rank(), processes=count()) if count() > 1 else None


def gathered(outputs: Mapping[str, Any], share: Share | None) -> dict[str, Any]:
    """A network's outputs for all rows of a batch, from those for this process's share of it; with gradient."""
    if share is None or share.is_whole:
        return dict(outputs)
    return {name: gather_rows(value) if isinstance(value, Tensor) else value for name, value in outputs.items()}


def own_records(records: Sequence[Value], batch_size: int) -> Sequence[Value]:
    """The records of this process: whole batches, so that each is computed in the company it has in one process."""
    if count() == 1:
        return records
    batches = evenly(-(-len(records) // batch_size), count())
    start = sum(batches[: rank()]) * batch_size
    return records[start : start + batches[rank()] * batch_size]


def joined(table: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Outputs ``{name: [n, ...]}`` of all records from those of :func:`own_records` (none where there are none)."""
    if count() == 1:
        return dict(table)
    kinds = on_first(lambda: {name: (value.shape[1:], value.dtype) for name, value in table.items()})
    return {
        name: gather_rows(table.get(name, torch.empty(0, *shape, dtype=dtype)))
        for name, (shape, dtype) in kinds.items()
    }


@contextmanager
def together() -> Iterator[None]:
    """A user's mistake in one process ends all of them; the first to meet one tells it, the others know it."""
    if count() == 1:
        yield
        return
    try:
        yield
    except UserError as error:
        raise _told(str(error), is_own=True) from None
    except (dist.DistError, RuntimeError) as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)):
            raise
        raise _told(LOST, is_own=False) from None


def _told(message: str, *, is_own: bool) -> UserError:
    """The error to raise: ``message`` where no other process has told the user of its own one."""
    try:
        where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(*where, is_master=False, timeout=timedelta(seconds=10))
        key = f"distilplace/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        if is_own and store.add(f"{key}/mistakes", 1) == 1:
            store.set(f"{key}/message", message)
            return UserError(message)
        if is_own or store.check([f"{key}/message"]):  # whoever came first may still be writing: get waits for it
            return ToldElsewhere(store.get(f"{key}/message").decode())
        return UserError(message) if store.add(f"{key}/lost", 1) == 1 else ToldElsewhere(message)
    except dist.DistError:  # whoever kept it is gone
        return UserError(message)
