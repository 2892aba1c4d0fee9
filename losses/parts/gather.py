"""The rows of all processes, for losses that compare every item of the global batch with every other."""

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable

from distilplace.common.errors import UserError


def gather_rows(x: Tensor) -> Tensor:
    """``x`` [n, ...] of every process one after another, in order of rank; ``x`` itself where there is one process.

    Processes may hold different n (a last, smaller batch); all other sizes must be equal. For a loss L that every
    process computes alike from gathered rows: L is the single-process value, and what reaches ``x`` is dL/dx times the
    number of processes, so that the mean over processes, which DistributedDataParallel takes of the gradients, is the
    single-process gradient. (Whiten-MTD's program multiplies the loss itself by the number of processes: the same
    gradients.) The backward pass communicates nothing.

    Raises:
        UserError: rows of another size in another process, such as feature maps of larger images.

    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return x
    return _GatherRows.apply(x)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        counts = _row_counts(x)
        start = sum(counts[: dist.get_rank()])
        ctx.own, ctx.processes = slice(start, start + len(x)), len(counts)  # type: ignore[attr-defined]
        padded = x.new_zeros(max(counts), *x.shape[1:])  # all_gather wants equal sizes
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        return gradients[0][ctx.own] * ctx.processes  # type: ignore[attr-defined]


def _row_counts(x: Tensor) -> list[int]:
    """How many rows each process holds; :class:`UserError` where they are not of one size."""
    own = torch.tensor(x.shape, device=x.device)
    shapes = [torch.zeros_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(shapes, own)
    found = [shape.tolist() for shape in shapes]
    for shape in found:
        if shape[1:] != found[0][1:]:
            told, other = ("x".join(map(str, each[1:])) for each in (found[0], shape))
            raise UserError(
                f"outputs of one batch must have one size, its processes have {told} and {other}: give --image_size"
            )
    return [count for count, *_ in found]
