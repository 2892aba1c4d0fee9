"""From points in metres to voxel indices, as MinkowskiEngine's ``sparse_quantize`` and ``batched_coordinates``."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from distilplace.common.errors import UserError

Array = TypeVar("Array", np.ndarray, Tensor)


def quantize(points: Array, size: float, *, return_inverse: bool = False) -> tuple[Any, ...]:
    """Voxel indices of a cloud: ``floor(points / size)``, duplicates removed.

    The first point of each voxel is kept, and the order of the input. The division happens in the precision of
    ``points`` (float32 for clouds; integers become float32), since the last bit decides for points on a voxel border.

    Args:
        points: ``[N, 3]`` numpy array or tensor, in metres (or any unit, the same as ``size``). May be empty.
        size: edge length of a voxel, > 0.
        return_inverse: also return, for every point, the row of its voxel in ``coords``.

    Returns:
        ``(coords int32 [M, 3], index int64 [M])``, and ``inverse int64 [N]`` when asked; numpy for numpy, tensors for
        tensors. ``coords[i]`` is the voxel of ``points[index[i]]``.

    """
    as_numpy = not isinstance(points, Tensor)
    cloud = points.detach() if isinstance(points, Tensor) else torch.from_numpy(np.ascontiguousarray(points))
    if cloud.ndim != 2 or cloud.shape[1] != 3:
        raise UserError(f"quantize: points must have shape [N, 3], not {list(cloud.shape)}")
    if not 0 < size < float("inf"):
        raise UserError(f"quantize: the quantisation size must be a positive number, not {size}")
    voxels = _voxels(cloud, size)
    index, inverse = _first_occurrences(_keys(voxels), return_inverse)
    results = [voxels.index_select(0, index).to(torch.int32), index]
    if inverse is not None:
        results.append(inverse)
    return tuple(result.numpy() for result in results) if as_numpy else tuple(results)


def batched_coordinates(coords: Sequence[Array]) -> Array:
    """``[M_i, 3]`` voxel indices of several clouds -> one int32 ``[sum M_i, 4]``, the cloud's number prepended."""
    as_numpy = bool(coords) and not isinstance(coords[0], Tensor)
    parts = [torch.as_tensor(each, dtype=torch.int32) for each in coords]
    rows = [torch.nn.functional.pad(part, (1, 0), value=number) for number, part in enumerate(parts)]
    batch = torch.cat(rows) if rows else torch.empty(0, 4, dtype=torch.int32)
    return batch.numpy() if as_numpy else batch  # type: ignore[return-value]


def _voxels(cloud: Tensor, size: float) -> Tensor:
    """``floor(cloud / size)`` as int64 ``[N, 3]``; refuses what is not a number or does not fit in int32."""
    if cloud.dtype not in (torch.float32, torch.float64):
        cloud = cloud.to(torch.float32)
    # A divisor on the device: CUDA would multiply by the reciprocal of a Python number, which rounds differently.
    scaled = torch.div(cloud, torch.tensor(size, dtype=cloud.dtype, device=cloud.device)).floor_()
    if scaled.numel() and not bool(scaled.abs().amax() < 2.0**31):
        if not bool(torch.isfinite(cloud).all()):
            raise UserError("quantize: the cloud contains NaN or infinite coordinates; remove those points first")
        raise UserError(f"quantize: voxel indices at size {size} exceed int32; use a larger size or shift the cloud")
    return scaled.to(torch.int64)


def _keys(voxels: Tensor) -> Tensor:
    """One int64 per voxel, equal for equal voxels only (mixed radix over the cloud's own extent)."""
    if not len(voxels):
        return voxels.new_empty(0)
    low = voxels.amin(0)
    extent_x, extent_y, extent_z = (int(e) for e in (voxels.amax(0) - low + 1).tolist())
    if extent_x * extent_y * extent_z >= 2**63:
        raise UserError("quantize: the cloud spans too many voxels for a 64-bit key; use a larger quantisation size")
    shifted = voxels - low
    return (shifted[:, 0] * extent_y + shifted[:, 1]) * extent_z + shifted[:, 2]


def _first_occurrences(keys: Tensor, want_inverse: bool) -> tuple[Tensor, Tensor | None]:
    """Index of the first row of each distinct key in input order, and the group of each row when wanted."""
    ordered, order = keys.sort(stable=True)
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=fresh[1:])
    firsts = order[fresh]
    index = firsts.sort().values
    if not want_inverse:
        return index, None
    rank = torch.empty_like(keys)
    rank[index] = torch.arange(len(index), device=keys.device)
    inverse = torch.empty_like(keys)
    inverse[order] = rank[firsts][fresh.cumsum(0) - 1]
    return index, inverse
