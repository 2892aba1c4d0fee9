"""The Triton kernels: products over pairs, their weight gradient, the one-channel stem, sums per batch element.

Tables of tiles are those of :mod:`distilplace.models.sparse.backends.triton_tiles`. Matrices are contiguous,
row-major; row numbers are widened to 64 bits before they are multiplied by a number of channels. ``WIDEN``: convert
the operands of a product to float32 first, for the interpreter, which multiplies bfloat16 as if it were integers
(Triton 3.6). Loops with bounds known at run time are written with ``while``: the interpreter's ``range`` fails on them
under NumPy 2.4.
"""

import triton
import triton.language as tl


@triton.jit
def product_kernel(
    source: tl.tensor,
    kernel: tl.tensor,
    out: tl.tensor,
    read_rows: tl.tensor,
    write_rows: tl.tensor,
    tiles: tl.tensor,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    LISTED: tl.constexpr,
    ATOMIC: tl.constexpr,
    WIDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_PAIRS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
) -> None:
    """out[write] (+)= source[read] @ kernel[offset] over the pairs of one tile; source ``[., IN]``, out ``[., OUT]``.

    ``kernel`` is ``[K, IN, OUT]``, or ``[K, OUT, IN]`` where TRANSPOSED. Not LISTED: pair p is (row p, row p).
    ATOMIC: add (a float32 ``out``), otherwise overwrite. Grid: tiles, blocks of OUT.
    """
    tile = tl.program_id(0)
    offset = tl.load(tiles + 3 * tile).to(tl.int64)
    pair = tl.load(tiles + 3 * tile + 1) + tl.arange(0, BLOCK_PAIRS)
    inside = pair < tl.load(tiles + 3 * tile + 2)
    if LISTED:
        read = tl.load(read_rows + pair, mask=inside, other=0).to(tl.int64)
        write = tl.load(write_rows + pair, mask=inside, other=0).to(tl.int64)
    else:
        read = pair.to(tl.int64)
        write = read
    column = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    matrix = kernel + offset * (IN * OUT)
    total = tl.zeros((BLOCK_PAIRS, BLOCK_OUT), dtype=tl.float32)
    for begin in range(0, IN, BLOCK_IN):
        channel = begin + tl.arange(0, BLOCK_IN)
        rows = tl.load(
            source + read[:, None] * IN + channel[None, :], mask=inside[:, None] & (channel < IN)[None, :], other=0.0
        )
        place = column[None, :] * IN + channel[:, None] if TRANSPOSED else channel[:, None] * OUT + column[None, :]
        weights = tl.load(matrix + place, mask=(channel < IN)[:, None] & (column < OUT)[None, :], other=0.0)
        if WIDEN:
            rows = rows.to(tl.float32)
            weights = weights.to(tl.float32)
        total = tl.dot(rows, weights, total, input_precision=PRECISION)
    target = out + write[:, None] * OUT + column[None, :]
    wanted = inside[:, None] & (column < OUT)[None, :]
    if ATOMIC:
        tl.atomic_add(target, total, mask=wanted, sem="relaxed")
    else:
        tl.store(target, total.to(out.dtype.element_ty), mask=wanted)


@triton.jit
def kernel_gradient_kernel(
    source: tl.tensor,
    gradient: tl.tensor,
    result: tl.tensor,
    read_rows: tl.tensor,
    write_rows: tl.tensor,
    tiles: tl.tensor,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    CENTRE: tl.constexpr,
    WIDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    RUN: tl.constexpr,
    BLOCK_PAIRS: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
) -> None:
    """result[offset] += source[read]^T gradient[write] over one tile: float32 ``[K, IN, OUT]``, added atomically.

    Tiles hold at most RUN pairs. Those of the offset CENTRE (-1: none) are (row, row), not listed.
    Grid: tiles, blocks of IN, blocks of OUT.
    """
    tile = tl.program_id(0)
    offset = tl.load(tiles + 3 * tile).to(tl.int64)
    first = tl.load(tiles + 3 * tile + 1)
    last = tl.load(tiles + 3 * tile + 2)
    listed = offset != CENTRE
    channel = tl.program_id(1) * BLOCK_IN + tl.arange(0, BLOCK_IN)
    column = tl.program_id(2) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    total = tl.zeros((BLOCK_IN, BLOCK_OUT), dtype=tl.float32)
    for begin in range(0, RUN, BLOCK_PAIRS):
        pair = first + begin + tl.arange(0, BLOCK_PAIRS)
        inside = pair < last
        read = tl.where(listed, tl.load(read_rows + pair, mask=inside & listed, other=0), pair).to(tl.int64)
        write = tl.where(listed, tl.load(write_rows + pair, mask=inside & listed, other=0), pair).to(tl.int64)
        rows = tl.load(
            source + read[:, None] * IN + channel[None, :], mask=inside[:, None] & (channel < IN)[None, :], other=0.0
        )
        slopes = tl.load(
            gradient + write[:, None] * OUT + column[None, :],
            mask=inside[:, None] & (column < OUT)[None, :],
            other=0.0,
        )
        if WIDEN:
            rows = rows.to(tl.float32)
            slopes = slopes.to(tl.float32)
        total = tl.dot(tl.trans(rows), slopes, total, input_precision=PRECISION)
    target = result + offset * (IN * OUT) + channel[:, None] * OUT + column[None, :]
    tl.atomic_add(target, total, mask=(channel < IN)[:, None] & (column < OUT)[None, :], sem="relaxed")


@triton.jit(do_not_specialize=["row_count", "pair_count"])
def stem_kernel(
    source: tl.tensor,
    kernel: tl.tensor,
    out: tl.tensor,
    read_rows: tl.tensor,
    offsets: tl.tensor,
    starts: tl.tensor,
    row_count: int,
    pair_count: int,
    OUT: tl.constexpr,
    CENTRE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
) -> None:
    """One input channel: out[u] = sum of source[read] * kernel[offset] over the bag of u; kernel ``[K, OUT]``.

    The bag of u is entries ``starts[u]`` to ``starts[u + 1]`` of ``read_rows`` and ``offsets``. CENTRE (-1: none) adds
    source[u] * kernel[CENTRE]. Grid: blocks of rows, blocks of OUT.
    """
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    inside = row < row_count
    start = tl.load(starts + row, mask=inside, other=0)
    end = tl.load(starts + row + 1, mask=row + 1 < row_count, other=pair_count)
    length = tl.where(inside, end - start, 0)
    total = tl.zeros((BLOCK_ROWS, BLOCK_OUT), dtype=tl.float32)
    if CENTRE >= 0:
        own = tl.load(source + row, mask=inside, other=0.0).to(tl.float32)
        middle = tl.load(kernel + CENTRE * OUT + column, mask=column < OUT, other=0.0).to(tl.float32)
        total += own[:, None] * middle[None, :]
    longest = tl.max(length, 0)
    step = 0
    while step < longest:
        taken = step < length
        read = tl.load(read_rows + start + step, mask=taken, other=0).to(tl.int64)
        offset = tl.load(offsets + start + step, mask=taken, other=0).to(tl.int64)
        value = tl.load(source + read, mask=taken, other=0.0).to(tl.float32)
        place = offset[:, None] * OUT + column[None, :]
        weights = tl.load(kernel + place, mask=taken[:, None] & (column < OUT)[None, :], other=0.0).to(tl.float32)
        total += value[:, None] * weights
        step += 1
    target = out + row.to(tl.int64)[:, None] * OUT + column[None, :]
    tl.store(target, total.to(out.dtype.element_ty), mask=inside[:, None] & (column < OUT)[None, :])


@triton.jit(do_not_specialize=["parts"])
def segment_sum_kernel(
    source: tl.tensor,
    partial: tl.tensor,
    starts: tl.tensor,
    counts: tl.tensor,
    parts: int,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
) -> None:
    """partial[b, part] = sum of the part-th share of the rows of segment b: ``[B, parts, WIDTH]``.

    Grid: segments, parts, blocks of WIDTH.
    """
    segment = tl.program_id(0)
    part = tl.program_id(1)
    column = tl.program_id(2) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)
    start = tl.load(starts + segment).to(tl.int32)
    end = start + tl.load(counts + segment).to(tl.int32)
    share = tl.cdiv(end - start, parts)
    first = start + part * share
    last = tl.minimum(first + share, end)
    total = tl.zeros((BLOCK_ROWS, BLOCK_WIDTH), dtype=partial.dtype.element_ty)
    while first < last:
        row = first + tl.arange(0, BLOCK_ROWS)
        entry = row.to(tl.int64)[:, None] * WIDTH + column[None, :]
        wanted = (row < last)[:, None] & (column < WIDTH)[None, :]
        total += tl.load(source + entry, mask=wanted, other=0.0).to(partial.dtype.element_ty)
        first += BLOCK_ROWS
    place = (segment.to(tl.int64) * parts + part) * WIDTH + column
    tl.store(partial + place, tl.sum(total, 0), mask=column < WIDTH)
