"""Images that carry their position in their name: the ``@``-convention of deep-visual-geo-localization-benchmark.

``@utm_east@utm_north@zone_number@zone_letter@lat@lon@pano_id@tile_num@heading@pitch@roll@height@timestamp@note@.jpg``:
fifteen ``@``; every field but the first two may be empty. Other readers split the whole path, so that no parent folder
may hold an ``@``; here only the file's name is split.
"""

from pathlib import Path
from typing import NamedTuple

from distilplace.common.errors import UserError
from distilplace.common.numbers import parse_finite

SEPARATORS = 15


class UtmName(NamedTuple):
    """What a name says: metres (UTM), and the panorama that the image was cut from ("" where none is named)."""

    easting: float
    northing: float
    pano_id: str


def parse_utm(path: Path, root: Path) -> UtmName:
    """The position in the name of ``path``, a file under ``root`` (named in errors).

    Raises:
        UserError: another number of ``@`` than fifteen, text before the first, or a position that is no finite number.

    """
    fields = path.name.split("@")
    if len(fields) != SEPARATORS + 1 or fields[0]:
        raise UserError(
            f"{root}: image {_below(path, root)} is not named @east@north@...@: {SEPARATORS} '@' are expected, the "
            f"first at the start; {len(fields) - 1} found"
        )
    return UtmName(_metres(fields[1], "east", path, root), _metres(fields[2], "north", path, root), fields[7])


def _metres(field: str, which: str, path: Path, root: Path) -> float:
    value = parse_finite(field)
    if value is None:
        raise UserError(f"{root}: image {_below(path, root)}: {which} is '{field}', expected metres such as 0584825.96")
    return value


def _below(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path
