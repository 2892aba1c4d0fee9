"""A coordinate manager as one block of memory: what a data-loader worker hands over and a GPU receives in one copy.

Sent tensor by tensor, each would cost a shared-memory file and a transfer of its own, some forty a batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

ALIGNMENT = 16  # bytes, so that every part can be viewed in its own type
Layout = list[tuple[torch.dtype, tuple[int, ...]]]


def flatten(tensors: Sequence[Tensor]) -> tuple[Tensor, Layout]:
    """The tensors' bytes one after the other, uint8 ``[n]``, and what is where."""
    ends = _ends([each.nbytes for each in tensors])
    buffer = torch.empty(ends[-1], dtype=torch.uint8)
    for each, start in zip(tensors, ends, strict=False):
        buffer[start : start + each.nbytes] = each.contiguous().view(-1).view(torch.uint8)
    return buffer, [(each.dtype, tuple(each.shape)) for each in tensors]


def unflatten(buffer: Tensor, layout: Layout) -> list[Tensor]:
    """The tensors again, as views of the buffer."""
    sizes = [dtype.itemsize * torch.Size(shape).numel() for dtype, shape in layout]
    parts = (buffer[start : start + size] for start, size in zip(_ends(sizes), sizes, strict=False))
    return [part.view(dtype).view(shape) for part, (dtype, shape) in zip(parts, layout, strict=True)]


def _ends(sizes: Sequence[int]) -> list[int]:
    """Where each block starts, and where the last ends."""
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + -(-size // ALIGNMENT) * ALIGNMENT)
    return ends
