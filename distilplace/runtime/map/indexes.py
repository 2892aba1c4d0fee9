"""Search structures over the rows of a map: exact in memory, or FAISS where the map is large.

Rows are numbered as they were added. FAISS's guide to the kinds: https://github.com/facebookresearch/faiss/wiki
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from distilplace.common.errors import UserError
from distilplace.runtime.map.space import Space

Fetch = Callable[[np.ndarray], np.ndarray]
"""Row numbers [m] -> their embeddings, float32 [m, D], from the file."""
SPARE = 16  # candidates beyond k whose distance is computed once more, exactly
LINKS, BUILD_WIDTH, SEARCH_WIDTH = 32, 80, 96  # HNSW: per node; candidates while building and while searching
CODE_BYTES, PROBES = 64, 24  # IVF-PQ: bytes per place (at most), lists looked through
CANDIDATES = 8  # times k, and at least 48, are compared exactly
SAMPLES_PER_LIST = 40  # FAISS warns below 39


class Index(ABC):
    """What all have: rows are added in blocks, a search may be confined to some rows."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.count = 0

    @abstractmethod
    def add(self, block: np.ndarray) -> None:
        """Append rows, float32 [b, D]."""

    def reserve(self, capacity: int) -> None:  # noqa: B027 (FAISS makes room by itself)
        """Make room for ``capacity`` rows in all."""

    @abstractmethod
    def take(self, rows: np.ndarray) -> np.ndarray:
        """The embeddings of ``rows`` [m], float32 [m, D]."""

    @abstractmethod
    def candidates(self, query: np.ndarray, k: int) -> np.ndarray:
        """At least ``k`` rows (where there are so many) among which the nearest of all to ``query`` [D] are."""

    def search(self, query: np.ndarray, k: int, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` most similar rows (of ``rows``, ascending) and their similarities, best first, ties by number."""
        chosen = np.sort(self.candidates(query, k)) if rows is None else rows
        similarities = similarity(self.space, query, self.take(chosen))
        best = largest(similarities, k)
        return chosen[best], similarities[best]


class Exact(Index):
    """All embeddings in memory, all compared."""

    def __init__(self, space: Space) -> None:
        super().__init__(space)
        self._vectors = np.empty((0, space.width), dtype=np.float32)
        self._squares = np.empty(0, dtype=np.float32)

    def reserve(self, capacity: int) -> None:
        """Move to an array of ``capacity`` rows."""
        vectors, squares = np.empty((capacity, self.space.width), dtype=np.float32), np.empty(capacity, np.float32)
        vectors[: self.count], squares[: self.count] = self._vectors[: self.count], self._squares[: self.count]
        self._vectors, self._squares = vectors, squares

    def add(self, block: np.ndarray) -> None:
        """Append rows, for which there is room."""
        rows = slice(self.count, self.count + len(block))
        self._vectors[rows] = block
        if not self.space.spherical:
            self._squares[rows] = np.einsum("nd,nd->n", block, block)
        self.count += len(block)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """A copy of some rows."""
        return self._vectors[rows]

    def similarities(self, query: np.ndarray) -> np.ndarray:
        """Similarity of every row, float32 [n]."""
        return similarity(self.space, query, self._vectors[: self.count])

    def candidates(self, query: np.ndarray, k: int) -> np.ndarray:
        """The largest dot products, or the smallest |x|^2 - 2 x q, which rank as distances do."""
        scores = self._vectors[: self.count] @ query
        if not self.space.spherical:
            scores = 2 * scores - self._squares[: self.count]
        return largest(scores, k + SPARE)


class FaissIndex(Index):
    """One of FAISS, new or, as ``built``, as it was kept on disk."""

    kind: str
    letters: bytes
    """By which FAISS knows the kind on disk."""

    def __init__(self, space: Space, built: Any) -> None:
        super().__init__(space)
        self.built = built
        self.count = int(built.ntotal)

    @classmethod
    def recipe(cls, space: Space) -> str:
        """What an index on disk has to be built by to be used."""
        numbers = (LINKS, BUILD_WIDTH, CODE_BYTES, SAMPLES_PER_LIST)
        return f"faiss {require_faiss(cls.kind).__version__} {cls.kind} {numbers} {space.written()}"

    def add(self, block: np.ndarray) -> None:
        """Append rows: a graph links them, lists hold their codes."""
        self.built.add(block)
        self.count += len(block)


class Hnsw(FaissIndex):
    """A graph of neighbours (Malkov, Yashunin 2016) with all embeddings in memory."""

    kind, letters = "hnsw", b"IHNf"

    def __init__(self, space: Space, built: Any = None) -> None:
        faiss = require_faiss(self.kind)
        if built is None:
            metric = faiss.METRIC_INNER_PRODUCT if space.spherical else faiss.METRIC_L2
            built = faiss.IndexHNSWFlat(space.width, LINKS, metric)
            built.hnsw.efConstruction = BUILD_WIDTH
        super().__init__(space, built)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The embeddings that the graph keeps."""
        return np.asarray(self.built.reconstruct_batch(rows))

    def candidates(self, query: np.ndarray, k: int) -> np.ndarray:
        """What a walk through the graph meets."""
        self.built.hnsw.efSearch = max(SEARCH_WIDTH, 2 * k)
        return found_rows(self.built.search(query[None], min(self.count, k + SPARE))[1])


class IvfPq(FaissIndex):
    """Codes of 64 bytes in lists (Jegou et al. 2011) in memory; the best are compared exactly, read from the file."""

    kind, letters = "ivfpq", b"IwPQ"

    def __init__(self, space: Space, built: Any, fetch: Fetch) -> None:
        """``built`` by FAISS (:func:`trained`); ``fetch`` reads rows once they are there."""
        super().__init__(space, built)
        self._fetch = fetch
        self.built.nprobe = PROBES

    @classmethod
    def trained(cls, space: Space, capacity: int, sample: Fetch, fetch: Fetch) -> "IvfPq":
        """Train on a ``sample`` of the ``capacity`` rows to be added."""
        faiss = require_faiss(cls.kind)
        lists = int(max(1, min(2 * capacity**0.5, capacity / SAMPLES_PER_LIST)))
        bits = 8 if capacity >= 256 * SAMPLES_PER_LIST else 4
        parts = next(parts for parts in range(min(CODE_BYTES, space.width), 0, -1) if space.width % parts == 0)
        metric = faiss.METRIC_INNER_PRODUCT if space.spherical else faiss.METRIC_L2
        built = faiss.index_factory(space.width, f"IVF{lists},PQ{parts}x{bits}", metric)
        built.do_polysemous_training = False  # reorders codes for a filter that is not used here, at length
        step = max(1, capacity // (SAMPLES_PER_LIST * max(256, lists)))
        built.train(sample(np.arange(0, capacity, step)))
        return cls(space, built, fetch)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The embeddings from the file."""
        return self._fetch(rows)

    def candidates(self, query: np.ndarray, k: int) -> np.ndarray:
        """The nearest codes of the nearest lists."""
        wanted = min(self.count, max(CANDIDATES * k, 48))
        return found_rows(self.built.search(query[None], wanted)[1])


def require_faiss(kind: str) -> Any:
    """The library; :class:`UserError` with its extra where it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise UserError(f"index {kind} needs FAISS: pip install 'distilplace[large]'") from error
    return faiss


def similarity(space: Space, query: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Cosines, or minus Euclidean distances, float32 [m], of ``vectors`` [m, D] to ``query`` [D]."""
    if space.spherical:
        return np.asarray(vectors @ query, dtype=np.float32)
    return np.asarray(-np.linalg.norm(vectors - query, axis=1), dtype=np.float32)


def largest(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices of the ``k`` largest of ``scores`` [n], largest first, equal ones in their order."""
    if k < len(scores):
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        at_least = np.flatnonzero(scores >= least)
    else:
        at_least = np.arange(len(scores))
    return np.asarray(at_least[np.argsort(-scores[at_least], kind="stable")[:k]])


def found_rows(rows: np.ndarray) -> np.ndarray:
    """FAISS's answer [1, m] without the -1 that fills it up."""
    return np.asarray(rows[0][rows[0] >= 0], dtype=np.int64)
