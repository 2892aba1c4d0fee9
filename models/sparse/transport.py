"""A coordinate manager as one block of memory: what a data-loader worker hands over and a GPU receives in one copy.

Sent tensor by tensor, each would cost a shared-memory file and a transfer of its own, some forty a batch.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from distilplace.models.sparse.kernel_map import KernelMap, Workspace

if TYPE_CHECKING:
    from distilplace.models.sparse.coordinates import CoordinateManager

ALIGNMENT = 16  # bytes, so that every part can be viewed in its own type
Layout = list[tuple[torch.dtype, tuple[int, ...]]]


def flatten(tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, Layout]:
    """The tensors' bytes one after the other, uint8 ``[n]``, and what is where."""
    ends = _ends([each.nbytes for each in tensors])
    buffer = torch.empty(ends[-1], dtype=torch.uint8)
    for each, start in zip(tensors, ends, strict=False):
        buffer[start : start + each.nbytes] = each.contiguous().view(-1).view(torch.uint8)
    return buffer, [(each.dtype, tuple(each.shape)) for each in tensors]


def unflatten(buffer: torch.Tensor, layout: Layout) -> list[torch.Tensor]:
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


def state_of(manager: "CoordinateManager") -> dict[str, Any]:
    """Levels, segments and kernel maps built so far; neighbours, which only serve to build maps, stay behind."""
    levels, maps = manager._levels, manager._maps
    tensors = [manager.rows, manager.origin]
    for number, level in enumerate(levels):
        tensors += [level.keys, level.batch, level.grid, level.child_starts, level.child_counts]
        tensors += manager.segments(number)
    for each in maps.values():
        tensors += [each.in_rows, each.out_rows]
    buffer, layout = flatten([each.cpu() for each in tensors])
    return {
        "scalars": (manager.base_stride, manager.batch_size, [level.axis_bits for level in levels]),
        "maps": {key: (each.sizes, each.n_in, each.n_out, each.centre) for key, each in maps.items()},
        "buffer": buffer,
        "layout": layout,
    }


def restore(manager: "CoordinateManager", state: dict[str, Any]) -> None:
    """Fill an empty manager with a :func:`state_of`, on the device of its buffer."""
    from distilplace.models.sparse.coordinates import Level

    tensors = iter(unflatten(state["buffer"], state["layout"]))
    manager.base_stride, manager.batch_size, axis_bits = state["scalars"]
    manager.rows, manager.origin = next(tensors), next(tensors)
    manager._levels, manager._segments, manager._neighbours, manager._maps = [], {}, {}, {}
    manager._workspace = Workspace()
    for number, bits in enumerate(axis_bits):
        keys, batch, grid, starts, counts = (next(tensors) for _ in range(5))
        manager._levels.append(Level(keys, batch, grid, bits, starts, counts))
        manager._segments[number] = (next(tensors), next(tensors))
    for key, (sizes, n_in, n_out, centre) in state["maps"].items():
        rows = (next(tensors), next(tensors))
        manager._maps[key] = KernelMap(sizes, *rows, n_in, n_out, centre, manager._workspace)
