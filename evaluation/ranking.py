"""Ranking embeddings: both metrics as one dot product, exact ranks without sorting, ties settled by database index.

Both metrics reduce to a dot product of prepared float64 vectors: cosine on unit vectors, Euclidean on ``(q, 1)`` and
``(d, -|d|^2 / 2)`` (its order for one query is that of ``-|q - d|^2``), centred and scaled so that rounding stays near
1e-16. Products are then rounded to a grid of 2^-42 (2e-13): values that agree to twelve digits are **ties**, and of
tied database items the one with the lower index comes first. So equal embeddings rank by index on every machine.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError

Metric = Literal["cosine", "euclidean"]
Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]

_GRID = 2.0**42
_BLOCK = 2**22  # similarities held at once: 32 MiB


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
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        raise UserError(
            f"embeddings of {name} are not finite: {len(bad)} of {len(matrix)} rows hold NaN or infinity, the first is "
            f"row {bad[0]}; the model has diverged or its weights are damaged"
        )
    return matrix


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
        norms = [np.linalg.norm(matrix - self._centre, axis=1).max() for matrix in filled]
        self._scale = max([float(norm) for norm in norms if norm > 0], default=1.0)

    def prepared_queries(self, runs: list[int]) -> Floats:
        """The queries of these runs, one below the other, ready for the dot product: float64 ``[sum Q, D or D+1]``."""
        prepared = [self._prepare(self.queries[run], is_database=False) for run in runs]
        return np.concatenate(prepared) if prepared else np.zeros((0, self.width))

    def prepared_database(self, run: int) -> Floats:
        """One run's database, ready for the dot product: float64 ``[N, D or D+1]``, on the scale of the grid."""
        return self._prepare(self.database[run], is_database=True) * _GRID

    def _prepare(self, matrix: Floats, *, is_database: bool) -> Floats:
        matrix = matrix.astype(np.float64).reshape(len(matrix), self.width)
        if self.metric == "cosine":
            return unit_rows(matrix)
        matrix = (matrix - self._centre) / self._scale
        last = -0.5 * (matrix * matrix).sum(axis=1) if is_database else np.ones(len(matrix))
        return np.column_stack([matrix, last])

    def top(self, database_run: int, query_run: int, k: int, rows: Indices) -> Indices:
        """Indices ``[len(rows), min(k, N)]`` of the nearest database items, nearest first, ties by lower index."""
        database = self.prepared_database(database_run)
        queries = self.prepared_queries([query_run])[rows]
        k = min(k, len(database))
        nearest = np.empty((len(queries), k), dtype=np.int64)
        step = max(1, _BLOCK // max(1, len(database)))
        for start in range(0, len(queries), step):
            similarity = np.rint(queries[start : start + step] @ database.T)
            nearest[start : start + step] = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        return nearest

    def dot(self, database_run: int, query_run: int, rows: Indices, items: Indices) -> Floats:
        """Similarity of query ``rows[i]`` with item ``items[i]``: cosine, or (Euclidean) the raw dot product."""
        left: Floats = self.queries[query_run][rows].astype(np.float64)
        right: Floats = self.database[database_run][items].astype(np.float64)
        if self.metric == "cosine":
            left, right = unit_rows(left), unit_rows(right)
        return np.einsum("qd,qd->q", left, right)


def unit_rows(matrix: Floats) -> Floats:
    """Rows scaled to length 1, safe from under- and overflow; zero rows stay zero (cosine 0 with everything)."""
    largest = np.abs(matrix).max(axis=1, keepdims=True, initial=0.0)
    matrix = matrix / np.where(largest > 0, largest, 1.0)
    norms = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(norms > 0, norms, 1.0)


def first_hits(queries: Floats, database: Floats, truth: Indices, counts: Indices) -> tuple[Indices, Indices]:
    """Rank (1-based, over the **whole** database) and index of the first true neighbour of each query: int64 ``[Q]``.

    The rank is counted, not sorted for: 1 + items nearer than the nearest true one + items tied with it and of lower
    index. Done in blocks of queries, so that memory stays bounded whatever the database's size.

    Args:
        queries: prepared ``[Q, D']``.
        database: prepared ``[N, D']``.
        truth: true database indices of all queries, one query after the other.
        counts: ``[Q]`` how many of them belong to each query; all at least 1.

    """
    ranks = np.empty(len(queries), dtype=np.int64)
    items = np.empty(len(queries), dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    step = max(1, _BLOCK // max(1, len(database)))
    for start in range(0, len(queries), step):
        stop = min(start + step, len(queries))
        similarity = np.rint(queries[start:stop] @ database.T)
        true_items = truth[offsets[start] : offsets[stop]]
        firsts = offsets[start:stop] - offsets[start]
        owners = np.repeat(np.arange(stop - start), counts[start:stop])
        values = similarity[owners, true_items]
        best = np.maximum.reduceat(values, firsts)
        hit = np.minimum.reduceat(np.where(values == best[owners], true_items, len(database)), firsts)
        before = np.count_nonzero(similarity > best[:, None], axis=1)
        tied = np.flatnonzero(np.count_nonzero(similarity >= best[:, None], axis=1) - before > 1)
        if len(tied):
            level = similarity[tied] == best[tied, None]
            before[tied] += np.count_nonzero(level & (np.arange(len(database)) < hit[tied, None]), axis=1)
        ranks[start:stop] = before + 1
        items[start:stop] = hit
    return ranks, items
