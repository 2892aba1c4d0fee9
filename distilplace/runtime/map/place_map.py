"""The map as one SQLite file."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distilplace.common.errors import UserError, unknown_name
from distilplace.runtime.map.base import BaseMap, Storage
from distilplace.runtime.map.database import FORMAT
from distilplace.runtime.map.file import DTYPES, MapFile
from distilplace.runtime.map.indexes import Exact
from distilplace.runtime.map.loaded import LoadedPlaces
from distilplace.runtime.map.rows import Columns, Match, RunInfo, make_match
from distilplace.runtime.map.space import Space


class PlaceMap(BaseMap):
    """Places in the file ``path``, searched in memory. Many may read it while one writes; readers see what is new.

    Every ``add`` and ``delete`` is a transaction: what returned is on the disk, what did not has left nothing. One
    thread at a time may use it. ``with PlaceMap(path) as places: ...`` closes it.

    Args:
        path: the file, conventionally ``.db``.
        model: metadata of the model at hand (``Student.metadata``): the one that made the map, or a student whose
            metadata say that it may query it. A map that does not exist is made for it. None: the map must exist.
        index: "exact"; "hnsw" or "ivfpq" of FAISS; or "auto": exact up to 300,000 places, above IVF-PQ where FAISS is
            installed.
        dtype: how a new map stores embeddings, "float32" or, half as large, "float16".

    Raises:
        UserError: no map, one of another model, program or later version, or a damaged one.

    """

    def __init__(
        self,
        path: Path | str,
        model: Mapping[str, Any] | Space | None = None,
        *,
        index: str = "auto",
        dtype: str = "float32",
    ) -> None:
        if dtype not in DTYPES:
            raise unknown_name("dtype", dtype, DTYPES)
        space = None if model is None else Space.of(model)
        facts = None if space is None else {"model": space.written(), "dtype": dtype}
        self._file = MapFile(path, facts)
        try:
            with self._file.reported():
                self.space = self._stored_space()
                self._dtype = self._file.fact("dtype") or ""
                if self._dtype not in DTYPES:
                    raise self._file.damaged(f"embeddings of kind '{self._dtype}'")
            if space is not None:
                self.space.require_admitted(space, path)
            self.model = space
            self._places = LoadedPlaces(self._file, self.space, self._dtype, index)
        except BaseException:
            self._file.close()
            raise

    def _stored_space(self) -> Space:
        try:
            return Space.read(self._file.fact("model") or "")
        except (ValueError, TypeError) as error:
            raise self._file.damaged(f"it does not say which model made it ({error})") from error

    def _add(self, name: str, columns: Columns, blocks: Iterator[np.ndarray]) -> None:
        """In one transaction: other writers wait while blocks are drawn from an iterable."""
        with self._file.writing():
            self._file.add_run(name, columns, blocks, self._dtype)
        self._places.forget()

    def delete(self, run: str) -> int:
        """As :meth:`BaseMap.delete`."""
        with self._file.writing():
            runs = {each.name: each for each in self._file.runs()}
            if run not in runs:
                raise unknown_name("run", run, runs)
            self._file.delete_run(runs[run])
        self._places.forget()
        return runs[run].places

    def _search(
        self, query: np.ndarray, k: int, prior: tuple[float, float, float] | None, run: str | None
    ) -> list[Match]:
        with self._file.reading():
            self._places.refresh()
            rows = self._places.selected(prior, run)
            if not len(self._places.ids) or (rows is not None and not len(rows)):
                return []
            found, similarities = self._places.index.search(query, k, rows)
        return [self.match(int(row), float(value)) for row, value in zip(found, similarities, strict=True)]

    def similarities(self, embedding: Any) -> np.ndarray:
        """Similarity of every place, float32 [n], in the order of :meth:`columns`; for maps with an exact index."""
        query = self._query(embedding)
        with self._file.reading():
            self._places.refresh()
        if not isinstance(self._places.index, Exact):
            raise UserError(f"map {self._file.path} is searched by FAISS, which compares some places: index='exact'")
        return self._places.index.similarities(query)

    def columns(self) -> dict[str, np.ndarray]:
        """Ids, run names and numbers of all places, [n] each, in the order of their ids."""
        with self._file.reading():
            self._places.refresh()
        places = self._places
        names = np.repeat([run.name for run in places.runs], [run.places for run in places.runs])
        keys = ("timestamp", "easting", "northing", "altitude", "yaw")
        return {"id": places.ids, "run": names, **dict(zip(keys, places.numbers.T, strict=True))}

    def embeddings(self, rows: np.ndarray) -> np.ndarray:
        """Those of ``rows`` [m] of :meth:`columns`, float32 [m, D]."""
        with self._file.reading():
            self._places.refresh()
        return self._places.index.take(rows)

    def match(self, row: int, similarity: float) -> Match:
        """The place in ``row`` of :meth:`columns`, with a similarity to go with it."""
        places = self._places
        numbers = places.numbers[row].tolist()
        return make_match(int(places.ids[row]), places.run_of(row), numbers, places.images[row], similarity)

    def runs(self) -> list[RunInfo]:
        """As :meth:`BaseMap.runs`."""
        with self._file.reading():
            return [RunInfo(run.name, run.places, run.added) for run in self._file.runs()]

    def compact(self) -> None:
        """As :meth:`BaseMap.compact`; needs as much free disk as the map is large."""
        self._file.compact()

    def _storage(self) -> Storage:
        return Storage(str(self._file.path), FORMAT, self._dtype, self._file.path.stat().st_size)

    def verify(self) -> int:
        """Read and check every row; how many places there are. :class:`UserError` where the file is damaged."""
        with self._file.reading():
            blocks = (
                each for run in self._file.runs() for each in self._file.read_run(run, self.space.width, self._dtype)
            )
            return sum(len(ids) for ids, _, _ in blocks)

    def close(self) -> None:
        """As :meth:`BaseMap.close`; what waits in the write-ahead log goes into the file."""
        self._file.close()

    @property
    def calibration(self) -> dict[str, Any] | None:
        """As :attr:`BaseMap.calibration`."""
        with self._file.reading():
            text = self._file.fact("calibration")
        found: dict[str, Any] | None = None if text is None else json.loads(text)
        return found

    @calibration.setter
    def calibration(self, values: dict[str, Any] | None) -> None:
        with self._file.writing():
            self._file.set_fact("calibration", None if values is None else json.dumps(values, allow_nan=False))
