"""Rows of a map: what is added to it, what it holds in columns, and what a search gives back."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from distilplace.common.errors import UserError

LONGEST_NAME = 200
LONGEST_PATH = 4096


class Match(NamedTuple):
    """A place found. Metres, seconds, radians; ``altitude`` and ``yaw`` are NaN where they are not known.

    ``similarity``: the cosine, or minus the Euclidean distance where the model's embeddings are not of length 1.
    """

    id: int
    run: str
    timestamp: float
    easting: float
    northing: float
    altitude: float
    yaw: float
    image: str
    similarity: float


def make_match(number: int, run: str, numbers: Sequence[float], image: str, similarity: float) -> Match:
    """A match from the ``numbers`` [5] of :meth:`Columns.numbers`."""
    timestamp, easting, northing, altitude, yaw = numbers
    return Match(number, run, timestamp, easting, northing, altitude, yaw, image, similarity)


class RunInfo(NamedTuple):
    """A run of the map: its ``places``, and when it was ``added`` (UTC, ISO 8601)."""

    name: str
    places: int
    added: str


@dataclass(frozen=True)
class Columns:
    """Places in columns, float64 [n] each; ``images``: n paths."""

    timestamp: np.ndarray
    easting: np.ndarray
    northing: np.ndarray
    altitude: np.ndarray
    yaw: np.ndarray
    images: list[str]

    def __len__(self) -> int:
        return len(self.images)

    def numbers(self) -> np.ndarray:
        """Float64 [n, 5], in the order of the fields."""
        return np.stack([getattr(self, field.name) for field in fields(self)[:5]], axis=1)


def checked_columns(
    positions: Any, timestamps: Any = None, altitudes: Any = None, yaws: Any = None, images: Sequence[Any] | None = None
) -> Columns:
    """What a user gives for a run, as columns.

    Args:
        positions: [n, 2] easting and northing, metres.
        timestamps: [n] seconds; None: 0, 1, 2 ...
        altitudes: [n] metres; NaN, or None for all: not known.
        yaws: [n] radians, likewise.
        images: n paths; None: none is known.

    Raises:
        UserError: no rows, other counts, numbers that are not finite, or texts that no file holds.

    """
    places = _numbers(positions, "positions")
    if places.ndim != 2 or places.shape[1] != 2 or not len(places):
        raise UserError(f"positions are {list(places.shape)}: expected at least one row of easting and northing")
    count = len(places)
    times = np.arange(count, dtype=np.float64) if timestamps is None else _numbers(timestamps, "timestamps")
    unknown = np.full(count, np.nan)
    heights = unknown if altitudes is None else _numbers(altitudes, "altitudes", gaps=True)
    angles = unknown if yaws is None else _numbers(yaws, "yaws", gaps=True)
    paths = [""] * count if images is None else [_text(path) for path in images]
    for name, found in (("timestamps", times), ("altitudes", heights), ("yaws", angles)):
        if found.shape != (count,):
            raise UserError(f"{name} are {list(found.shape)} for {count} positions: give one each")
    if len(paths) != count:
        raise UserError(f"{len(paths)} image paths for {count} positions: give one each")
    return Columns(times, places[:, 0], places[:, 1], heights, angles, paths)


def checked_name(run: object) -> str:
    """``run`` as the name of a run; :class:`UserError` for an empty one, a long one, or one that is no line of text."""
    if not isinstance(run, str) or not run.strip() or len(run) > LONGEST_NAME or not run.isprintable():
        raise UserError(f"run name '{str(run)[:80]}' is none: give a line of 1 to {LONGEST_NAME} characters")
    return run


def in_blocks(embeddings: Any, rows: int = 4096) -> Iterator[Any]:
    """``embeddings``, an array [n, D] or blocks [b, D] one after another, in blocks."""
    if isinstance(embeddings, np.ndarray):
        for start in range(0, len(embeddings), rows):
            yield embeddings[start : start + rows]
    elif isinstance(embeddings, Iterable):
        yield from embeddings
    else:
        raise UserError(f"embeddings are {type(embeddings).__name__}: expected an array [n, D], or blocks of one")


def _numbers(values: Any, what: str, gaps: bool = False) -> np.ndarray:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{what} are no numbers ({error})") from error
    finite = np.isfinite(numbers) | (np.isnan(numbers) if gaps else False)
    if not finite.all():
        raise UserError(f"{what} hold numbers that are not finite: correct them")
    return numbers


def _text(path: Any) -> str:
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError("an image path holds bytes that are no UTF-8: rename the file") from error
    if len(text) > LONGEST_PATH:
        raise UserError(f"an image path has more than {LONGEST_PATH} characters: {text[:80]}...")
    return text
