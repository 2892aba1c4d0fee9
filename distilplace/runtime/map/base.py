"""What every map can do, wherever it lies."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np

from distilplace.common.errors import UserError, unknown_name
from distilplace.runtime.map.rows import Match, RunInfo
from distilplace.runtime.map.space import Space


class BaseMap(ABC):
    """Places by run, and the search for those that look like an image.

    Positions are easting and northing in metres, in one planar frame for all runs.
    """

    space: Space
    """Which model made the embeddings, and how they are compared."""

    @abstractmethod
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
            UserError: the run is there already, rows that do not fit together, numbers that are not finite.

        """

    @abstractmethod
    def delete(self, run: str) -> int:
        """Remove a run; how many places it had. :class:`UserError` where there is none of that name."""

    @abstractmethod
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
            embedding: [D], by the map's own model.
            k: how many.
            centre: easting and northing of a position prior, metres; only places within ``radius`` count.
            radius: metres, with ``centre``.
            run: only places of this run.

        """

    @abstractmethod
    def runs(self) -> list[RunInfo]:
        """The runs in the order in which they were added."""

    @abstractmethod
    def compact(self) -> None:
        """Give the room of deleted runs back."""

    @abstractmethod
    def info(self) -> dict[str, Any]:
        """Model, counts and sizes, as plain values."""

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
