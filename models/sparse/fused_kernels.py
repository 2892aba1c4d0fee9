"""Sparse convolution on the CPU in one pass: every pair's product is added where it belongs, nothing is gathered.

Two small kernels written as vector instructions (LLVM's, so for any processor that numba compiles for) keep a block of
sums in registers: eight rows of an output by sixteen channels, or sixteen input by sixteen output channels of a
kernel's gradient. Compared with gathering, multiplying and summing by library calls, memory is read once and threads
meet once per layer. The work falls into tasks by channels and by kernel offsets, of which a call does ``first`` to
``last`` - 1: no two write to the same place, so threads may share them, and no sum depends on who does which.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from distilplace.models.sparse.compiled import compiled

LANES = 16  # float32 numbers of one vector
ROWS = 8  # output rows, and
CHANNELS = 16  # input channels, whose sums are held at a time
AHEAD = 12  # pairs between asking for a row and using it
CHUNK = 512  # pairs summed before they join the total: rounding grows with the chunks, not with the pairs
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_LONG, _INT, _FLOAT = ir.IntType(64), ir.IntType(32), ir.FloatType()


def _load(builder: Any, address: Any, kind: Any) -> Any:
    loaded = builder.load(builder.inttoptr(address, ir.PointerType(kind)))
    loaded.align = 4
    return loaded


def _store(builder: Any, value: Any, address: Any) -> None:
    stored = builder.store(value, builder.inttoptr(address, ir.PointerType(_VECTOR)))
    stored.align = 4


def _multiply_add(builder: Any, number: Any, vector: Any, total: Any) -> Any:
    """``total + number * vector``."""
    blank = ir.Constant(_VECTOR, ir.Undefined)
    one = builder.insert_element(blank, number, _INT(0))
    everywhere = builder.shuffle_vector(one, blank, ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES))
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
    return builder.call(function, [everywhere, vector, total])


def _row_address(builder: Any, base: Any, rows: Any, place: Any, stride: Any) -> Any:
    """Address of the row whose number stands at ``place`` of the int32 array at ``rows``."""
    number = _load(builder, builder.add(rows, builder.shl(place, _LONG(2))), _INT)
    return builder.add(base, builder.mul(builder.zext(number, _LONG), stride))


def _fetch(builder: Any, address: Any) -> None:
    """Ask for the cache line at an address, long before it is needed."""
    pointer = builder.inttoptr(address, ir.PointerType(ir.IntType(8)))
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, _INT, _INT, _INT])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [pointer, _INT(0), _INT(3), _INT(1)])


def _counted_loop(builder: Any, count: Any, start: list[Any], body: Any) -> list[Any]:
    """``values = body(i, values)`` for i in 0 .. count - 1 (at least once), with the values in registers."""
    before, loop, after = builder.basic_block, builder.append_basic_block(), builder.append_basic_block()
    builder.branch(loop)
    builder.position_at_end(loop)
    index = builder.phi(_LONG)
    index.add_incoming(_LONG(0), before)
    values = [builder.phi(_VECTOR) for _ in start]
    for value, first in zip(values, start, strict=True):
        value.add_incoming(first, before)
    results = body(index, values)
    following = builder.add(index, _LONG(1))
    index.add_incoming(following, builder.basic_block)
    for value, result in zip(values, results, strict=True):
        value.add_incoming(result, builder.basic_block)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    builder.position_at_end(after)
    return results


def _product_kernel(height: int) -> Any:
    """For ``height`` pairs from ``place`` on: 16 channels of out[target] += in[source] @ weights."""

    @intrinsic
    def kernel(context: Any, place: Any, reads: Any, writes: Any, weights: Any, channels: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            place, reads, writes, weights, channels = arguments
            (source, sources, width), (target, targets, span) = (
                cgutils.unpack_tuple(builder, each) for each in (reads, writes)
            )
            places = [builder.add(place, _LONG(row)) for row in range(height)]
            inputs = [_row_address(builder, source, sources, each, width) for each in places]
            outputs = [_row_address(builder, target, targets, each, span) for each in places]

            def body(channel: Any, sums: list[Any]) -> list[Any]:
                vector = _load(builder, builder.add(weights, builder.mul(channel, span)), _VECTOR)
                step = builder.shl(channel, _LONG(2))
                numbers = [_load(builder, builder.add(each, step), _FLOAT) for each in inputs]
                return [_multiply_add(builder, a, vector, total) for a, total in zip(numbers, sums, strict=True)]

            sums = _counted_loop(builder, channels, [_load(builder, each, _VECTOR) for each in outputs], body)
            for address, total in zip(outputs, sums, strict=True):
                _store(builder, total, address)
            return context.get_dummy_value()

        return types.void(place, reads, writes, weights, channels), generate

    return kernel


def _outer_kernel(height: int) -> Any:
    """For ``count`` pairs from ``place`` on: ``height`` x 16 channels of result += in[source]^T gradient[target]."""

    @intrinsic
    def kernel(context: Any, place: Any, count: Any, reads: Any, writes: Any, result: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            place, count, reads, writes, result = arguments
            (source, sources, width), (target, targets, span) = (
                cgutils.unpack_tuple(builder, each) for each in (reads, writes)
            )

            last = builder.sub(builder.add(place, count), _LONG(1))

            def body(index: Any, sums: list[Any]) -> list[Any]:
                pair = builder.add(place, index)
                later = builder.add(pair, _LONG(AHEAD))
                later = builder.select(builder.icmp_signed("<", later, last), later, last)
                _fetch(builder, _row_address(builder, target, targets, later, span))
                _fetch(builder, _row_address(builder, source, sources, later, width))
                vector = _load(builder, _row_address(builder, target, targets, pair, span), _VECTOR)
                row = _row_address(builder, source, sources, pair, width)
                numbers = [_load(builder, builder.add(row, _LONG(4 * channel)), _FLOAT) for channel in range(height)]
                return [_multiply_add(builder, a, vector, total) for a, total in zip(numbers, sums, strict=True)]

            nothing = ir.Constant(_VECTOR, [0.0] * LANES)
            for channel, part in enumerate(_counted_loop(builder, count, [nothing] * height, body)):
                address = builder.add(result, builder.mul(span, _LONG(channel)))
                _store(builder, builder.fadd(_load(builder, address, _VECTOR), part), address)
            return context.get_dummy_value()

        return types.void(place, count, reads, writes, result), generate

    return kernel


def _prefetch_kernel() -> Any:
    """Fetch the cache line ``shift`` bytes into the row whose number stands at ``place``."""

    @intrinsic
    def kernel(context: Any, place: Any, table: Any, shift: Any) -> Any:
        def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            place, table, shift = arguments
            base, rows, stride = cgutils.unpack_tuple(builder, table)
            _fetch(builder, builder.add(_row_address(builder, base, rows, place, stride), shift))
            return context.get_dummy_value()

        return types.void(place, table, shift), generate

    return kernel


_prefetch = _prefetch_kernel()
_products, _product = _product_kernel(ROWS), _product_kernel(1)
_outers, _outer = _outer_kernel(CHANNELS), _outer_kernel(1)


@compiled
def add_products(
    x: np.ndarray,
    kernel: np.ndarray,
    sources: np.ndarray,
    targets: np.ndarray,
    starts: np.ndarray,
    out: np.ndarray,
    first: int,
    last: int,
) -> None:
    """``out[targets[p]] += x[sources[p]] @ kernel[k]`` for the pairs p of every offset k (starts[k] .. starts[k + 1]).

    x float32 ``[n_in, C_in]``, kernel ``[K, C_in, C_out]``, out ``[n_out, C_out]``, all contiguous, C_out a multiple of
    16; within one offset no target occurs twice. Tasks: blocks of 16 output channels.
    """
    volume, channels, width = kernel.shape
    reads = (np.int64(x.ctypes.data), np.int64(sources.ctypes.data), np.int64(4 * channels))
    for strip in range(first, last):
        shift = 4 * LANES * strip
        writes = (np.int64(out.ctypes.data) + shift, np.int64(targets.ctypes.data), np.int64(4 * width))
        for k in range(volume):
            weights = np.int64(kernel.ctypes.data) + 4 * k * channels * width + shift
            place, stop = starts[k], starts[k + 1]
            while place + ROWS <= stop:
                for later in range(place + ROWS, min(place + 2 * ROWS, stop)):
                    _prefetch(later, writes, 0)
                    for line in range(0, channels, LANES):
                        _prefetch(later, reads, 4 * line)
                _products(place, reads, writes, weights, channels)
                place += ROWS
            while place < stop:
                _product(place, reads, writes, weights, channels)
                place += 1


@compiled
def add_outer_products(
    x: np.ndarray,
    gradient: np.ndarray,
    sources: np.ndarray,
    targets: np.ndarray,
    starts: np.ndarray,
    out: np.ndarray,
    first: int,
    last: int,
) -> None:
    """``out[k] += sum of x[sources[p]]^T gradient[targets[p]]`` over the pairs p of every offset k.

    x float32 ``[n_in, C_in]``, gradient ``[n_out, C_out]``, out ``[K, C_in, C_out]``, contiguous; C_out a multiple of
    16. Tasks: blocks of 16 output channels of every offset.
    """
    _, channels, width = out.shape
    strips = width // LANES
    for task in range(first, last):
        k, shift = task // strips, 4 * LANES * (task % strips)
        writes = (np.int64(gradient.ctypes.data) + shift, np.int64(targets.ctypes.data), np.int64(4 * width))
        for place in range(starts[k], starts[k + 1], CHUNK):
            count = min(CHUNK, starts[k + 1] - place)
            channel = 0
            while channel < channels:
                reads = (np.int64(x.ctypes.data) + 4 * channel, np.int64(sources.ctypes.data), np.int64(4 * channels))
                result = np.int64(out.ctypes.data) + 4 * (k * channels + channel) * width + shift
                if channel + CHANNELS <= channels:
                    _outers(place, count, reads, writes, result)
                    channel += CHANNELS
                else:
                    _outer(place, count, reads, writes, result)
                    channel += 1
