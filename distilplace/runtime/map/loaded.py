"""The places of a map file in memory, brought up to date whenever the file has changed."""

import logging
import zlib
from importlib.util import find_spec

import numpy as np

from distilplace.common.errors import UserError, unknown_name
from distilplace.runtime.map.file import MapFile, StoredRun
from distilplace.runtime.map.indexes import Exact, FaissIndex, Hnsw, Index, IvfPq
from distilplace.runtime.map.kept_index import SMALLEST, Kept, StaleError, kept_path, read_kept, write_kept
from distilplace.runtime.map.space import Space

LOG = logging.getLogger("distilplace")
INDEXES = ("auto", "exact", "hnsw", "ivfpq")
BEARABLE_MS = 20.0
"""An exact search that takes longer, longer than a network, is given up for an approximate one."""
LARGE = 300_000
"""Places from which on "auto" takes IVF-PQ: where an exact search takes so long (``tools.bench.maps`` tells)."""
GROWN = 1.1
"""How many times the places of the index on disk there have to be for it to be written again."""


class LoadedPlaces:
    """Ids, runs, positions and images of all places in columns, and an index over their embeddings."""

    def __init__(self, file: MapFile, space: Space, dtype: str, index: str) -> None:
        if index not in INDEXES:
            raise unknown_name("index", index, INDEXES)
        self._file, self._space, self._dtype, self._wanted = file, space, dtype, index
        self._version = -1
        self.runs: list[StoredRun] = []
        self.index: Index
        self._clear()

    def refresh(self) -> None:
        """Load what was added since, let go what was deleted; inside ``MapFile.reading``."""
        version = self._file.version()
        if version == self._version:
            return
        runs = self._file.runs()
        if runs != self.runs:
            kept = runs[: len(self.runs)] == self.runs
            total = sum(run.places for run in runs)
            if not kept or not isinstance(self.index, self._kind(total)):
                self._clear()
                self._start(runs, total)
            self.index.reserve(total)
            try:
                self._load(runs[len(self.runs) :])
            except StaleError as error:
                self._clear()
                self._build(runs, total, str(error))
                self._load(runs)
            self._keep()
        self._version = version

    def forget(self) -> None:
        """The file was changed through this very connection: look again."""
        self._version = -1

    def selected(self, prior: tuple[float, float, float] | None, run: str | None) -> np.ndarray | None:
        """Rows within ``prior`` (easting, northing, radius) and of ``run``, ascending; None: all."""
        rows = None
        if prior is not None:
            east, north, radius = prior
            slack = radius * 1e-9 + 1e-6
            start, end = np.searchsorted(self._eastings, (east - radius - slack, east + radius + slack))
            away = (self._eastings[start:end] - east) ** 2 + (self._northings[start:end] - north) ** 2
            rows = np.sort(self._order[start:end][away <= radius * radius])
        if run is not None:
            number = next((index for index, each in enumerate(self.runs) if each.name == run), None)
            if number is None:
                raise unknown_name("run", run, [each.name for each in self.runs])
            start, end = self.starts[number], self.starts[number + 1]
            rows = np.arange(start, end) if rows is None else rows[(rows >= start) & (rows < end)]
        return rows

    def run_of(self, row: int) -> str:
        """The name of the run that a row belongs to."""
        return self.runs[int(np.searchsorted(self.starts, row, side="right")) - 1].name

    def _kind(self, total: int) -> type[Index]:
        if self._wanted == "auto":
            return IvfPq if total >= LARGE and find_spec("faiss") else Exact
        kinds: dict[str, type[Index]] = {"exact": Exact, "hnsw": Hnsw, "ivfpq": IvfPq}
        return kinds[self._wanted]

    def _clear(self) -> None:
        self.runs = []
        self.index = Exact(self._space)
        self.ids = np.empty(0, dtype=np.int64)
        self.numbers = np.empty((0, 5))
        self.images: list[str] = []
        self.starts = np.zeros(1, dtype=np.int64)
        self._crc = 0
        """Of all embeddings loaded, where FAISS indexes them."""
        self._kept: Kept | None = None
        """The index on disk that :attr:`index` began with."""
        self._kept_count = 0
        self._sort()

    def _start(self, runs: list[StoredRun], total: int) -> None:
        """An index for ``total`` places of ``runs``: the one on disk, which holds some already, or an empty one."""
        kind = self._kind(total) if total else Exact
        if not issubclass(kind, FaissIndex):
            return
        try:
            path = kept_path(self._file.path, kind.kind)
            self._kept = read_kept(path, kind.recipe(self._space), runs, kind.letters)
        except StaleError as error:
            self._build(runs, total, str(error))
            return
        built = self._kept.index
        self.index = IvfPq(self._space, built, self._fetch_rows) if kind is IvfPq else Hnsw(self._space, built)
        self._kept_count = self.index.count

    def _build(self, runs: list[StoredRun], total: int, reason: str) -> None:
        """An empty index of FAISS."""
        kind = self._kind(total)
        name = "an IVF-PQ" if kind is IvfPq else "an HNSW"
        LOG.info("map %s: %d places: %s index is built (%s)", self._file.path, total, name, reason)
        if kind is IvfPq:
            ids = np.concatenate([np.arange(run.first, run.first + run.places) for run in runs])
            self.index = IvfPq.trained(self._space, total, lambda rows: self._fetch(ids[rows]), self._fetch_rows)
        else:
            self.index = Hnsw(self._space)

    def _keep(self) -> None:
        """Write the index where it is new or has grown."""
        index = self.index
        if not isinstance(index, FaissIndex) or index.count < max(SMALLEST, GROWN * self._kept_count):
            return
        path, recipe = kept_path(self._file.path, index.kind), index.recipe(self._space)
        try:
            write_kept(path, recipe, self.runs, self._crc, index.built)
        except UserError as error:
            LOG.info("map %s: its index is not kept: %s", self._file.path, error)
        self._kept_count = index.count

    def _fetch_rows(self, rows: np.ndarray) -> np.ndarray:
        return self._fetch(self.ids[rows])

    def _fetch(self, ids: np.ndarray) -> np.ndarray:
        return self._file.embeddings(ids, self._space.width, self._dtype)

    def _load(self, runs: list[StoredRun]) -> None:
        try:
            ids, numbers = [self.ids], [self.numbers]
            for run in runs:
                for found, columns, vectors in self._file.read_run(run, self._space.width, self._dtype):
                    self._index_block(vectors, len(self.images))
                    ids.append(found)
                    numbers.append(columns.numbers())
                    self.images += columns.images
        except (UserError, MemoryError):
            self._clear()
            raise
        self.runs = [*self.runs, *runs]
        self.ids, self.numbers = np.concatenate(ids), np.concatenate(numbers)
        self.starts = np.concatenate([[0], np.cumsum([run.places for run in self.runs])]).astype(np.int64)
        self._sort()

    def _index_block(self, vectors: np.ndarray, first: int) -> None:
        """Add the rows from ``first`` on, but those that the index on disk holds: they have to be the same.

        Raises:
            StaleError: they are others.

        """
        held = self._kept_count if self._kept is not None else 0
        if first >= held:
            self.index.add(vectors)
        if isinstance(self.index, FaissIndex):
            self._crc = zlib.crc32(vectors.data, self._crc)
        if self._kept is not None and first + len(vectors) >= held:
            kept, self._kept = self._kept, None
            if kept.crc != self._crc:
                raise StaleError("the one kept beside the map is of other places")

    def _sort(self) -> None:
        self._order = np.argsort(self.numbers[:, 1], kind="stable")
        self._eastings, self._northings = self.numbers[self._order, 1], self.numbers[self._order, 2]
