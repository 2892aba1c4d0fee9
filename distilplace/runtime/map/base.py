"""What every map can do, wherever it lies."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from distilplace.common.errors import UserError, unknown_name
from distilplace.runtime.map.rows import Columns, Match, RunInfo, checked_columns, checked_name, in_blocks
from distilplace.runtime.map.space import Space


class Storage(NamedTuple):
    """Address, format version, kind of stored embeddings, size (None: not known)."""

    where: str
    format: int
    dtype: str
    bytes: int | None


class BaseMap(ABC):
    """Places by run, and the search for those that look like an image.

    Positions are easting and northing in metres, in one planar frame for all runs.
    """

    space: Space
    """Which model made the embeddings, and how they are compared."""
    model: Space | None = None
    """The model at hand: the same, or one whose embeddings may be searched for; None: not said."""
    _block_rows = 4096
    """Rows of an array that are stored together."""

    def add(
        self,
        run: str,
        embeddings: Any,
        positions: Any,
        *,
        timestamps: Any = None,
        altitudes: Any = None,
        yaws: Any = None,
        images: Sequence[Any] | None = None,
    ) -> int:
        """Add a run, whole or not at all; how many places it has.

        Args:
            run: its name, which the map does not hold yet.
            embeddings: [n, D], or an iterable of blocks [b, D] of together n rows: no more than one is held in memory.
            positions: [n, 2] easting and northing, metres.
            timestamps: [n] seconds; None: 0, 1, 2 ...
            altitudes: [n] metres; None: not known.
            yaws: [n] radians; None: not known.
            images: n paths; None: not known.

        Raises:
            UserError: the run is there already, rows that do not fit together, numbers that are not finite, or the
                model at hand is one that may only query.

        """
        self.space.require_maker(self.model, self._storage().where)
        name = checked_name(run)
        columns = checked_columns(positions, timestamps, altitudes, yaws, images)
        self._add(name, columns, (self.space.prepared(block) for block in in_blocks(embeddings, self._block_rows)))
        return len(columns)

    @abstractmethod
    def _add(self, name: str, columns: Columns, blocks: Iterator[np.ndarray]) -> None:
        """Store a run whose names and numbers were checked; ``blocks`` are prepared as they are drawn."""

    @abstractmethod
    def delete(self, run: str) -> int:
        """Remove a run; how many places it had. :class:`UserError` where there is none of that name."""

    def search(
        self,
        embedding: Any,
        k: int = 5,
        centre: Sequence[float] | None = None,
        radius: float | None = None,
        run: str | None = None,
    ) -> list[Match]:
        """The ``k`` most similar places, best first, ties by id; fewer where fewer are there.

        Args:
            embedding: [D], by the map's own model, or by one that was made to match it.
            k: how many.
            centre: easting and northing of a position prior, metres; only places within ``radius`` count.
            radius: metres, with ``centre``.
            run: only places of this run.

        """
        return self._search(self._query(embedding), k, checked_prior(k, centre, radius), run)

    @abstractmethod
    def _search(
        self, query: np.ndarray, k: int, prior: tuple[float, float, float] | None, run: str | None
    ) -> list[Match]:
        """:meth:`search` for a prepared query [D] and a checked prior: easting, northing, radius."""

    @abstractmethod
    def runs(self) -> list[RunInfo]:
        """The runs in the order in which they were added."""

    @abstractmethod
    def compact(self) -> None:
        """Give the room of deleted runs back."""

    def info(self) -> dict[str, Any]:
        """Model, counts and sizes, as plain values."""
        runs, storage = self.runs(), self._storage()
        return {
            "map": storage.where,
            "format": storage.format,
            "model": self.space.model,
            "fingerprint": self.space.fingerprint,
            "width": self.space.width,
            "metric": self.space.metric,
            "dtype": storage.dtype,
            "places": sum(run.places for run in runs),
            "bytes": storage.bytes,
            "calibrated": self.calibration is not None,
            "runs": [run._asdict() for run in runs],
        }

    @abstractmethod
    def _storage(self) -> Storage:
        """Where and how places lie."""

    @abstractmethod
    def close(self) -> None:
        """Close it; nothing else may be called then."""

    @property
    @abstractmethod
    def calibration(self) -> dict[str, Any] | None:
        """What the localiser learned about similarities on this map: plain values; None: nothing yet."""

    @calibration.setter
    @abstractmethod
    def calibration(self, values: dict[str, Any] | None) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _query(self, embedding: Any) -> np.ndarray:
        """``embedding`` [D] as the space wants it."""
        return self.space.prepared(np.asarray(embedding)[None], "the query's embedding")[0]

    def _require_run(self, run: str) -> None:
        names = [each.name for each in self.runs()]
        if run not in names:
            raise unknown_name("run", run, names)


def checked_prior(k: int, centre: Sequence[float] | None, radius: float | None) -> tuple[float, float, float] | None:
    """Easting, northing and radius of a position prior; None: there is none.

    Raises:
        UserError: ``k`` below 1, half a prior, or numbers that are none.

    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise UserError(f"{k} places cannot be searched for: ask for 1 or more")
    if centre is None and radius is None:
        return None
    if centre is None or radius is None:
        raise UserError("a position prior is a centre and a radius: give both or neither")
    try:
        east, north = map(float, centre)
        reach = float(radius)
    except (TypeError, ValueError) as error:
        raise UserError(f"position prior {centre}, {radius} is none: give easting,northing and metres") from error
    if not (math.isfinite(east) and math.isfinite(north) and math.isfinite(reach) and reach >= 0):
        raise UserError(f"position prior {east:g},{north:g} within {reach:g} m is none: give finite metres")
    return east, north, reach
