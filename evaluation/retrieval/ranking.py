"""Ranking embeddings: both metrics as one dot product, exact ranks without sorting, ties settled by database index.

Both metrics reduce to a dot product of prepared float64 vectors: cosine on unit vectors, Euclidean on ``(q, 1)`` and
``(d, -|d|^2 / 2)`` (its order for one query is that of ``-|q - d|^2``), centred and scaled so that rounding stays near
1e-16. Products are then rounded to a grid of 2^-42 (2e-13): values that agree to twelve digits are **ties**, and of
tied database items the one with the lower index comes first. So equal embeddings rank by index on every machine.

Memory beside the embeddings themselves stays bounded whatever their number and width (NetVLAD: 32768): prepared rows
are held whole only up to ``_HELD`` values and otherwise made again block by block; with similarities and their
intermediates that is some 6 * ``_HELD`` values, 0.8 GB, at most (while one row of similarities fits in ``_HELD``).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distilplace.common.errors import UserError
from distilplace.evaluation.retrieval.rules import Candidates

Metric = Literal["cosine", "euclidean"]
Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]

GRID = 2.0**42
_BLOCK = 2**22  # values worked on at once: 32 MiB
_HELD = 2**24  # values kept prepared, and the most held of a block of queries or similarities: 128 MiB
NEVER = 2**31 - 1  # rank of a query that no answer satisfies: above every database's size
_GAP = 64  # queries; blocks do not reach over a longer gap, so that neighbours are read in place


def as_matrix(embeddings: Any, name: str) -> Floats:
    """Embeddings ``[n, D]`` (NumPy, torch on any device and precision, nested lists) as a NumPy float array.

    An empty list counts as no item. ``name`` says whose embeddings these are: NaN or infinity is a UserError naming it.
    """
    if hasattr(embeddings, "detach"):
        tensor = embeddings.detach().cpu()
        embeddings = (tensor if tensor.element_size() == 8 else tensor.float()).numpy()
    matrix = np.asarray(embeddings)
    if matrix.dtype not in (np.float32, np.float64):
        matrix = matrix.astype(np.float64)
    if matrix.size == 0 and matrix.ndim == 1:
        matrix = matrix.reshape(0, 0)
    if matrix.ndim != 2:
        raise ValueError(f"embeddings of {name} have shape {matrix.shape}, expected [n, D]")
    bad = np.flatnonzero(~_by_blocks(matrix, lambda part: np.asarray(np.isfinite(part).all(axis=1))))
    if len(bad):
        raise UserError(
            f"embeddings of {name} are not finite: {len(bad)} of {len(matrix)} rows hold NaN or infinity, the first is "
            f"row {bad[0]}; the model has diverged or its weights are damaged"
        )
    return matrix


def rows_per_block(width: int) -> int:
    """How many rows of ``width`` values make a block."""
    return max(1, _BLOCK // max(1, width))


def _by_blocks(matrix: Floats, function: Callable[[Floats], NDArray[Any]]) -> NDArray[Any]:
    """``function`` of blocks of rows, one value a row, joined: ``[n]``."""
    step = rows_per_block(matrix.shape[1])
    parts = [function(matrix[start : start + step]) for start in range(0, len(matrix), step)]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=bool)


class PreparedRows:
    """Rows of some matrices, one below the other, ready for the dot product: float64 ``[n, width]``.

    Up to ``_HELD`` values they are prepared once and held; more are prepared again whenever asked for.
    """

    def __init__(self, matrices: Sequence[Floats], prepare: Callable[[Floats], Floats], width: int) -> None:
        self.width = width
        self._matrices = matrices
        self._prepare = prepare
        self._starts = np.concatenate([[0], np.cumsum([len(matrix) for matrix in matrices])]).astype(np.int64)
        self._whole: Floats | None = None
        if len(self) * width <= _HELD:
            self._whole = np.concatenate([np.zeros((0, width)), *(prepare(matrix) for matrix in matrices)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def held(self) -> bool:
        """Are all rows prepared already?"""
        return self._whole is not None

    def take(self, rows: Indices) -> Floats:
        """These rows, in this order, not to be written to: ``[len(rows), width]``."""
        if self._whole is not None:
            first, consecutive = rows[:1].sum(), np.arange(len(rows))
            return self._whole[first:][: len(rows)] if (rows == first + consecutive).all() else self._whole[rows]
        taken = np.empty((len(rows), self.width))
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        step = rows_per_block(self.width)
        for owner in np.unique(owners).tolist():
            places = np.flatnonzero(owners == owner)
            for start in range(0, len(places), step):
                part = places[start : start + step]
                taken[part] = self._prepare(self._matrices[owner][rows[part] - self._starts[owner]])
        return taken

    def blocks(self) -> Iterator[tuple[slice, Floats]]:
        """All rows in order, in blocks: where they lie and what they are."""
        if self._whole is not None:
            yield slice(0, len(self)), self._whole
            return
        step = rows_per_block(self.width)
        for start in range(0, len(self), step):
            stop = min(start + step, len(self))
            yield slice(start, stop), self.take(np.arange(start, stop))


def similarities(queries: PreparedRows, rows: Indices, database: PreparedRows) -> Floats:
    """Similarity of some queries with all of the database, on the grid: float64 ``[len(rows), N]``."""
    asked = queries.take(rows)
    found = np.empty((len(rows), len(database)))
    for part, items in database.blocks():
        np.matmul(asked, items.T, out=found[:, part])
    return np.rint(found, out=found)


def query_blocks(rows: Indices, database: PreparedRows) -> Iterator[slice]:
    """``rows`` cut into blocks whose similarities, and whose prepared rows, may be held at once."""
    room = _BLOCK if database.held else _HELD  # preparing a large database again pays for many queries only
    step = max(1, min(room // max(1, len(database)), _HELD // max(1, database.width)))
    gaps = (np.flatnonzero(np.diff(rows) > _GAP) + 1).tolist()
    for first, last in pairwise([0, *gaps, len(rows)]):
        for start in range(first, last, step):
            yield slice(start, min(start + step, last))


class EmbeddingSpace:
    """Database and query embeddings of all runs under one metric.

    ``database[m]`` is ``[N_m, D]``, ``queries[n]`` is ``[Q_n, D]``; runs may be empty.
    """

    def __init__(self, database: list[Floats], queries: list[Floats], metric: Metric) -> None:
        if metric not in ("cosine", "euclidean"):
            raise ValueError(f"unknown metric {metric!r}: choose cosine or euclidean")
        widths = {matrix.shape[1] for matrix in (*database, *queries) if len(matrix)}
        if len(widths) > 1:
            raise ValueError(f"embeddings of different widths: {sorted(widths)}")
        self.metric = metric
        self.database = database
        self.queries = queries
        self.width = widths.pop() if widths else 0
        self._centre = np.zeros(self.width)
        self._scale = 1.0
        if metric == "euclidean":
            self._fit_scale()

    def _fit_scale(self) -> None:
        """Centre and common scale: they change no Euclidean order and keep ``q.d - |d|^2 / 2`` from cancelling."""
        filled = [matrix for matrix in (*self.database, *self.queries) if len(matrix)]
        count = sum(len(matrix) for matrix in filled)
        self._centre = sum((m.sum(axis=0, dtype=np.float64) for m in filled), np.zeros(self.width)) / max(count, 1)
        norms = [_by_blocks(m, lambda part: np.linalg.norm(part - self._centre, axis=1)).max() for m in filled]
        self._scale = max([float(norm) for norm in norms if norm > 0], default=1.0)

    def prepared_queries(self, runs: list[int]) -> PreparedRows:
        """The queries of these runs, one below the other, ready for the dot product: ``[sum Q, D or D+1]``."""
        prepare = partial(self._prepare, is_database=False)
        return PreparedRows([self.queries[run] for run in runs], prepare, self._prepared_width)

    def prepared_database(self, run: int) -> PreparedRows:
        """One run's database, ready for the dot product: ``[N, D or D+1]``, on the scale of the grid."""
        return PreparedRows([self.database[run]], partial(self._prepare, is_database=True), self._prepared_width)

    @property
    def _prepared_width(self) -> int:
        return self.width + (self.metric == "euclidean")

    def _prepare(self, matrix: Floats, *, is_database: bool) -> Floats:
        matrix = matrix.astype(np.float64).reshape(len(matrix), self.width)
        if self.metric == "cosine":
            matrix = unit_rows(matrix)
        else:
            matrix = (matrix - self._centre) / self._scale
            last = -0.5 * (matrix * matrix).sum(axis=1) if is_database else np.ones(len(matrix))
            matrix = np.column_stack([matrix, last])
        return matrix * GRID if is_database else matrix

    def top(
        self, database_run: int, query_run: int, k: int, rows: Indices, candidates: Candidates | None = None
    ) -> Indices:
        """Indices ``[len(rows), min(k, N)]`` of the nearest database items, nearest first, ties by lower index.

        As :meth:`ranked`, without similarities.
        """
        return self.ranked(database_run, query_run, k, rows, candidates)[0]

    def ranked(
        self, database_run: int, query_run: int, k: int, rows: Indices, candidates: Candidates | None = None
    ) -> tuple[Indices, Floats]:
        """Indices and similarities ``[len(rows), min(k, N)]`` of the nearest database items, nearest first.

        Ties go to the lower index. With ``candidates`` (of this query run) only those that may answer; a shorter
        ranking is filled up with -1. Similarities are cosines, or (Euclidean) minus the distance.
        """
        database, queries = self.prepared_database(database_run), self.prepared_queries([query_run])
        k = min(k, len(database))
        nearest, values = np.empty((len(rows), k), dtype=np.int64), np.empty((len(rows), k))
        if k == 0:
            return nearest, values
        for block in query_blocks(rows, database):
            similarity = similarities(queries, rows[block], database)
            if candidates is not None:
                candidates.suppress(similarity, rows[block])
            first = leading(similarity, k)
            values[block] = np.take_along_axis(similarity, first, axis=1)
            nearest[block] = np.where(np.isneginf(values[block]), -1, first)
            values[block] /= GRID
            if self.metric == "euclidean":
                squares = np.square(queries.take(rows[block])[:, :-1]).sum(axis=1, keepdims=True)
                values[block] = -self._scale * np.sqrt(np.maximum(squares - 2.0 * values[block], 0.0))
        return nearest, values

    def dot(self, database_run: int, query_run: int, rows: Indices, items: Indices) -> Floats:
        """Similarity of query ``rows[i]`` with item ``items[i]``: cosine, or (Euclidean) the raw dot product."""
        found = np.empty(len(rows))
        step = rows_per_block(self.width)
        for start in range(0, len(rows), step):
            block = slice(start, start + step)
            left: Floats = self.queries[query_run][rows[block]].astype(np.float64)
            right: Floats = self.database[database_run][items[block]].astype(np.float64)
            if self.metric == "cosine":
                left, right = unit_rows(left), unit_rows(right)
            found[block] = np.einsum("qd,qd->q", left, right)
        return found


def leading(values: Floats, k: int) -> Indices:
    """Columns ``[n, k]`` of the k largest of each row of ``values`` ``[n, N]``, largest first, ties by lower index."""
    if 4 * k >= values.shape[1]:
        return np.argsort(-values, axis=1, kind="stable")[:, :k]
    bounds = np.partition(values, -k, axis=1)[:, -k]
    found = np.empty((len(values), k), dtype=np.int64)
    for row, (line, bound) in enumerate(zip(values, bounds, strict=True)):
        near = np.flatnonzero(line >= bound)
        found[row] = near[np.argsort(-line[near], kind="stable")[:k]]
    return found


def unit_rows(matrix: Floats) -> Floats:
    """Rows scaled to length 1, safe from under- and overflow; zero rows stay zero (cosine 0 with everything)."""
    largest = np.abs(matrix).max(axis=1, keepdims=True, initial=0.0)
    matrix = matrix / np.where(largest > 0, largest, 1.0)
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(norms > 0, norms, 1.0)
