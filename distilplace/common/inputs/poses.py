"""Tables of camera positions: header ``frame,timestamp,easting,northing``, optionally ``altitude,roll,pitch,yaw``.

Metres, seconds, radians; a frame is the name of an image without its suffix.
"""

from pathlib import Path
from typing import NamedTuple

from distilplace.common.errors import UserError
from distilplace.common.inputs.position_checks import FARTHEST
from distilplace.common.inputs.text_tables import read_table
from distilplace.common.numbers import number_hint, parse_finite

REQUIRED = ("frame", "timestamp", "easting", "northing")
OPTIONAL = ("altitude", "roll", "pitch", "yaw")


class Pose(NamedTuple):
    """A row; ``line``: where it stands in the file; ``altitude`` and ``yaw`` are None where no column names them."""

    frame: str
    line: int
    timestamp: float
    easting: float
    northing: float
    altitude: float | None
    yaw: float | None


def read_poses(path: Path) -> list[Pose]:
    """The rows of ``path`` in the order of their timestamps.

    Raises:
        UserError: no such table, a column missing, a frame twice or no file name, a number that is none; with the line.

    """
    advice = f"it must name {', '.join(REQUIRED)} (optional: {', '.join(OPTIONAL)})"
    table = read_table(path, REQUIRED, advice, _other_names)
    if not table.rows:
        raise UserError(f"{path} has a header but no row: write one row per frame")
    rows: list[Pose] = []
    seen: dict[str, int] = {}
    for line, row in table.rows:
        frame, numbers = row["frame"], _checked_row(path, line, row)
        if frame in seen:
            raise UserError(
                f"{path} line {line}: frame {frame} is already on line {seen[frame]}: frames must be unique"
            )
        seen[frame] = line
        place = numbers["timestamp"], numbers["easting"], numbers["northing"]
        rows.append(
            Pose(frame, line, *place, *(numbers[name] if name in row else None for name in ("altitude", "yaw")))
        )
    return sorted(rows, key=lambda row: row.timestamp)


def _other_names(header: list[str]) -> str:
    """What a header without easting and northing seems to name instead."""
    names = set(header)
    if {"x", "y"} <= names:
        return "if x points east and y north, both in metres, rename them easting and northing"
    if names & {"lat", "latitude"} and names & {"lon", "lng", "long", "longitude"}:
        return "latitude and longitude are degrees: convert them to metres, such as UTM easting and northing"
    return ""


def _checked_row(path: Path, line: int, row: dict[str, str]) -> dict[str, float]:
    """The numbers of a row whose frame is a file name."""
    frame = row["frame"]
    if not frame or frame.startswith(".") or "/" in frame or "\\" in frame:
        raise UserError(
            f"{path} line {line}: frame '{frame}' is no file name: give the name of the image without its suffix"
        )
    numbers: dict[str, float] = {}
    for name in (*REQUIRED[1:], *OPTIONAL):
        value = parse_finite(row.get(name, "0"))
        if value is None:
            word = row[name]
            raise UserError(
                f"{path} line {line}: {name} of frame {frame} is '{word}', not a finite number{number_hint(word)}: "
                "correct it"
            )
        if name in ("northing", "easting") and abs(value) > FARTHEST:
            raise UserError(
                f"{path} line {line}: {name} of frame {frame} is {value:g}, farther than any metres on Earth: divide "
                "by 1000 if these are millimetres"
            )
        numbers[name] = value
    return numbers
