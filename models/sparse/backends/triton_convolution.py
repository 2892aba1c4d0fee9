"""Sparse convolution by Triton kernels as an autograd function, and sums per batch element. Needs Triton to import."""

from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from distilplace.models.sparse.backends.triton_kernels import (
    kernel_gradient_kernel,
    product_kernel,
    segment_sum_kernel,
    stem_kernel,
)
from distilplace.models.sparse.backends.triton_tiles import TiledMap

# Block sizes are a fixed rule, so that nothing is tuned in the middle of training.
STEM_ROWS = 32
SEGMENT_ROWS = 64
LONG_RUN, SHORT_RUN = 512, 128  # pairs of an offset that one program sums for the kernel's gradient
LONG_RUNS_FROM = 2**16  # pairs of a map: below, short runs keep the GPU busy; above, long ones add less often
ROWS_PER_PART = 1024  # of a segment, summed by one program


def tiled_convolution(features: Tensor, kernel: Tensor, tiled: TiledMap, *, backwards: bool = False) -> Tensor:
    """out[u] = sum over pairs (v, u, k) of features[v] @ kernel[k].

    Args:
        features: ``[n_in, C_in]``, converted to the kernel's type, or under autocast to autocast's.
        kernel: ``[K, C_in, C_out]``, float32, bfloat16 or float16; its gradient is summed in float32.
        tiled: the pairs.
        backwards: read the pairs from output to input (the transposed convolution).

    Returns:
        ``[n_out, C_out]`` (``[n_in, C_out]`` backwards) in the type of the products.

    """
    device = features.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else kernel.dtype
    result: Tensor = _TiledConvolution.apply(features.to(dtype).contiguous(), kernel, tiled, backwards)
    return result


class _TiledConvolution(torch.autograd.Function):
    """Forward and both gradients of :func:`tiled_convolution`; keeps features, kernel and map."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, kernel: Tensor, tiled: TiledMap, backwards: bool) -> Tensor:
        ctx.save_for_backward(features, kernel)
        ctx.where = tiled, backwards
        kernel = kernel.to(features.dtype).contiguous()
        if features.shape[1] == 1 and not backwards:
            return _stem(features, kernel, tiled)
        return _product(features, kernel, tiled, backwards=backwards, transposed=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        features, kernel = ctx.saved_tensors
        tiled, backwards = ctx.where
        gradient = gradient.contiguous()
        to_features = to_kernel = None
        if ctx.needs_input_grad[0]:
            rounded = kernel.to(features.dtype).contiguous()
            to_features = _product(gradient, rounded, tiled, backwards=not backwards, transposed=True)
        if ctx.needs_input_grad[1]:
            to_kernel = _kernel_gradient(features, gradient, kernel.shape[0], tiled, backwards=backwards)
            to_kernel = to_kernel.to(kernel.dtype)
        return to_features, to_kernel, None, None


def _product(source: Tensor, kernel: Tensor, tiled: TiledMap, *, backwards: bool, transposed: bool) -> Tensor:
    """Sum of source[read] @ kernel[k] (or its transpose) per row, read from outputs to inputs where ``backwards``."""
    pairs = tiled.pairs
    read, write, count = pairs.in_rows, pairs.out_rows, pairs.n_out
    if backwards:
        read, write, count = pairs.out_rows, pairs.in_rows, pairs.n_in
    width = kernel.shape[1] if transposed else kernel.shape[2]
    block = 64 if source.element_size() == 4 else 128

    def launch(tiles: Tensor, out: Tensor, **how: bool) -> None:
        block_out = _block(width, 128)
        if len(tiles):
            product_kernel[len(tiles), triton.cdiv(width, block_out)](
                source,
                kernel,
                out,
                read,
                write,
                tiles,
                IN=source.shape[1],
                OUT=width,
                TRANSPOSED=transposed,
                BLOCK_PAIRS=block,
                BLOCK_IN=_block(source.shape[1], 32 if source.element_size() == 4 else 64),
                BLOCK_OUT=block_out,
                num_warps=8 if block_out == 128 else 4,  # with four, 128 columns do not fit into the registers
                **how,
                **_arithmetic(source.dtype),
            )

    with torch.cuda.device_of(source):
        if tiled.single and backwards:  # one pair for every row written: nothing to add up
            out = source.new_empty(count, width)
            launch(tiled.tiles(block), out, LISTED=True, ATOMIC=False)
            return out
        if pairs.centre is None:
            out = source.new_zeros(count, width, dtype=torch.float32)
        else:  # the centre writes every row first
            out = source.new_empty(count, width, dtype=torch.float32)
            launch(tiled.centre_tiles(block), out, LISTED=False, ATOMIC=False)
        launch(tiled.tiles(block), out, LISTED=True, ATOMIC=True)
    return out.to(source.dtype)


def _kernel_gradient(source: Tensor, gradient: Tensor, volume: int, tiled: TiledMap, *, backwards: bool) -> Tensor:
    """Sum of source[read]^T gradient[write] per offset, float32 ``[K, C_in, C_out]``."""
    pairs = tiled.pairs
    read, write = (pairs.out_rows, pairs.in_rows) if backwards else (pairs.in_rows, pairs.out_rows)
    channels, width = source.shape[1], gradient.shape[1]
    result = source.new_zeros(volume, channels, width, dtype=torch.float32)
    run = LONG_RUN if len(read) >= LONG_RUNS_FROM else SHORT_RUN
    tiles = tiled.gradient_tiles(run)
    block_in, block_out = _block(channels, 64), _block(width, 64)
    if len(tiles):
        with torch.cuda.device_of(source):
            grid = (len(tiles), triton.cdiv(channels, block_in), triton.cdiv(width, block_out))
            kernel_gradient_kernel[grid](
                source,
                gradient,
                result,
                read,
                write,
                tiles,
                IN=channels,
                OUT=width,
                CENTRE=-1 if pairs.centre is None else pairs.centre,
                RUN=run,
                BLOCK_PAIRS=32 if source.element_size() == 4 else 64,
                BLOCK_IN=block_in,
                BLOCK_OUT=block_out,
                **_arithmetic(source.dtype),
            )
    return result


def _stem(source: Tensor, kernel: Tensor, tiled: TiledMap) -> Tensor:
    """One input channel: a weighted sum of kernel rows ``[n_out, C_out]``, in the order of the map."""
    pairs, width = tiled.pairs, kernel.shape[2]
    out = source.new_empty(pairs.n_out, width)
    block_out = _block(width, 64)
    if pairs.n_out:
        with torch.cuda.device_of(source):
            stem_kernel[triton.cdiv(pairs.n_out, STEM_ROWS), triton.cdiv(width, block_out)](
                source,
                kernel,
                out,
                pairs.in_rows_by_out,
                pairs.offsets_by_out,
                pairs.by_out.starts,
                pairs.n_out,
                len(pairs.in_rows),
                OUT=width,
                CENTRE=-1 if pairs.centre is None else pairs.centre,
                BLOCK_ROWS=STEM_ROWS,
                BLOCK_OUT=block_out,
            )
    return out


def segment_sum(features: Tensor, starts: Tensor, counts: Tensor) -> Tensor:
    """``[B, C]``: sums of ``counts[b]`` rows of ``features [N, C]`` from ``starts[b]`` on, in a fixed order.

    In two stages: every segment is cut into the same number of parts, known from N and B alone.
    """
    segments, width = len(starts), features.shape[1]
    wide = torch.promote_types(features.dtype, torch.float32)
    parts = min(max(triton.cdiv(len(features), ROWS_PER_PART * max(segments, 1)), 1), 64)
    partial = features.new_empty(segments, parts, width, dtype=wide)
    block = _block(width, 64)
    if segments:
        with torch.cuda.device_of(features):
            segment_sum_kernel[segments, parts, triton.cdiv(width, block)](
                features.contiguous(),
                partial,
                starts,
                counts,
                parts,
                WIDTH=width,
                BLOCK_ROWS=SEGMENT_ROWS,
                BLOCK_WIDTH=block,
            )
    return partial.sum(1).to(features.dtype)


def _block(channels: int, largest: int) -> int:
    """A power of two that holds ``channels``, at least 16 (the smallest matrix product), at most ``largest``."""
    return min(max(triton.next_power_of_2(channels), 16), largest)


def _arithmetic(dtype: torch.dtype) -> dict[str, Any]:
    """How products are taken: float32 in three TF32 steps, or in one where torch's own products may."""
    exact = torch.get_float32_matmul_precision() == "highest"
    return {
        "PRECISION": "tf32x3" if exact else "tf32",
        "WIDEN": dtype == torch.bfloat16 and triton.knobs.runtime.interpret,
    }
