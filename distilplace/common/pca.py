"""Principal directions of many rows of numbers, read in blocks: what every whitening here is computed from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Part = Callable[[slice, slice], Doubles]
"""Rows and columns of the numbers, as float64."""
BLOCK = 4_194_304
"""Numbers that a block holds: 32 MiB."""
ALL = slice(None)


@dataclass(frozen=True)
class Principal:
    """Directions in which rows vary most: eigenvalues [d] of their covariance, largest first, none negative.

    ``vectors`` [d, D] are of length 1; an eigenvector has no sign of its own, so its largest entry is made positive.
    """

    mean: Doubles
    values: Doubles
    vectors: Doubles
    total: float
    """The variance in all directions."""


def blocks(count: int, width: int) -> Iterator[slice]:
    """``count`` rows of ``width`` numbers, cut so that a block stays small."""
    step = max(1, BLOCK // max(1, width))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def principal(
    part: Part, count: int, width: int, dims: int, *, divisor: int, samples_floor: float | None = None
) -> Principal:
    """The ``dims`` leading directions of ``count`` rows of ``width`` numbers.

    Beside the rows memory holds a few square matrices of ``width``, or with ``samples_floor`` of fewer ``count``.

    Args:
        part: gives a piece of the rows.
        count: how many rows there are.
        width: how many numbers a row has.
        dims: how many directions to find.
        divisor: of the sum of squares: count, or count - 1.
        samples_floor: where the rows are fewer than their numbers, take the directions from the samples' products
            ("dual trick"), with eigenvalues of this size at least; None: from the covariance in any case.

    """
    mean = np.stack([part(rows, ALL).sum(axis=0) for rows in blocks(count, width)]).sum(axis=0) / count
    if samples_floor is not None and width > count:
        values, vectors, total = _dual(part, mean, count, dims, divisor, samples_floor)
    else:
        values, vectors, total = _primal(part, mean, count, dims, divisor)
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=1)[:, None], axis=1)
    return Principal(mean, values, np.ascontiguousarray(np.where(largest < 0, -vectors, vectors)), total)


def _primal(part: Part, mean: Doubles, count: int, dims: int, divisor: int) -> tuple[Doubles, Doubles, float]:
    """Eigenvectors of the covariance ``[D, D]``."""
    covariance = np.zeros((len(mean), len(mean)))
    for rows in blocks(count, len(mean)):
        centred = part(rows, ALL) - mean
        covariance += centred.T @ centred
    covariance /= divisor
    total = float(np.trace(covariance))
    values, vectors = _leading(covariance, dims)
    return values, vectors.T, total


def _dual(
    part: Part, mean: Doubles, count: int, dims: int, divisor: int, floor: float
) -> tuple[Doubles, Doubles, float]:
    """Eigenvectors of the samples' products ``[n, n]``, mapped back: ``v = X' u / sqrt(divisor lambda)``."""
    products = np.zeros((count, count))
    pieces = list(blocks(len(mean), count))
    for columns in pieces:
        centred = part(ALL, columns) - mean[columns]
        products += centred @ centred.T
    products /= divisor
    total = float(np.trace(products))
    values, own = _leading(products, dims)
    vectors = np.empty((dims, len(mean)))
    for columns in pieces:
        vectors[:, columns] = own.T @ (part(ALL, columns) - mean[columns])
    return values, vectors / np.sqrt(divisor * np.maximum(values, floor))[:, None], total


def _leading(symmetric: Doubles, dims: int) -> tuple[Doubles, Doubles]:
    """The ``dims`` largest eigenvalues, largest first, and their eigenvectors as columns."""
    from scipy.linalg import eigh

    size = len(symmetric)
    values, vectors = eigh(symmetric, overwrite_a=True, check_finite=False, subset_by_index=[size - dims, size - 1])
    return np.maximum(values[::-1], 0.0), vectors[:, ::-1]
