"""A network's pass over this process's rows of a batch, as if it saw the whole batch.

Batch norm takes its statistics over the rows of all processes, exactly and with gradient, on every device (torch's
SyncBatchNorm needs GPUs and other layers). Dropout, and whatever else draws one number per row, draws for all rows and
uses its own, so that a run of several processes drops what one process would.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from distilplace.common.shares import Share

_current: list[Share] = []


@contextmanager
def shared_rows(share: Share | None) -> Iterator[None]:
    """Within the block networks see a share of a batch; nothing changes for None, or where it is the whole batch."""
    if share is None or share.is_whole:
        yield
        return
    _current.append(share)
    try:
        with _AsOneBatch(share):
            yield
    finally:
        _current.pop()


def sees_a_share() -> bool:
    """Is this within :func:`shared_rows` of several processes?"""
    return bool(_current)


class _AsOneBatch(TorchFunctionMode):
    """Takes the place of the torch functions that look beyond a row."""

    def __init__(self, share: Share) -> None:
        super().__init__()
        self._share = share
        self._replaced: dict[Any, Callable[..., Tensor]] = {
            F.batch_norm: batch_norm,
            F.dropout: self._dropout,
            torch.Tensor.bernoulli_: self._bernoulli,
        }

    def __torch_function__(self, func: Any, _: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return self._replaced.get(func, func)(*args, **(kwargs or {}))

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or not 0 < p < 1 or not self._is_of_rows(x):
            return F.dropout(x, p, training, inplace)
        return x * self._drawn(x, 1 - p).div_(1 - p)

    def _bernoulli(self, x: Tensor, p: float = 0.5, **rest: Any) -> Tensor:
        return x.copy_(self._drawn(x, p)) if self._is_of_rows(x) and not rest else x.bernoulli_(p, **rest)

    def _is_of_rows(self, x: Tensor) -> bool:
        return x.dim() > 0 and len(x) == len(self._share.rows)

    def _drawn(self, x: Tensor, p: float) -> Tensor:
        """Ones with probability ``p`` in the shape of ``x``: its rows of a draw for the whole batch."""
        rows = self._share.rows
        return x.new_empty(self._share.total, *x.shape[1:]).bernoulli_(p)[rows.start : rows.stop]


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """``torch.nn.functional.batch_norm`` of [N, C, ...] with the statistics of the rows of all processes.

    Every process must call it, with any number of rows. Moments are float32 at least; gradients reach the rows of all
    processes.
    """
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    from torch.distributed.nn.functional import all_reduce  # takes long to load, and one process never needs it

    with torch.autocast(x.device.type, enabled=False):
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        others = [dimension for dimension in range(x.dim()) if dimension != 1]
        across = [-1 if dimension == 1 else 1 for dimension in range(x.dim())]
        count = wide.new_tensor([x.numel() / x.shape[1]])
        sums = all_reduce(torch.cat([wide.sum(others), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = wide - mean.view(across)
        variance = all_reduce(centred.square().sum(others)) / total
        with torch.no_grad():
            if running_mean is not None and running_var is not None:
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_((variance * (total / (total - 1))).to(running_var.dtype), momentum)
        scale = (variance + eps).rsqrt()
        scale = scale if weight is None else scale * weight
        result = centred * scale.view(across)
        return (result if bias is None else result + bias.view(across)).to(x.dtype)
