"""Images that carry their position in their name: the ``@``-convention of deep-visual-geo-localization-benchmark.

``@utm_east@utm_north@zone_number@zone_letter@lat@lon@pano_id@tile_num@heading@pitch@roll@height@timestamp@note@.jpg``:
fifteen ``@``; every field but the first two may be empty. Other readers split the whole path, so that no parent folder
may hold an ``@``; here only the file's name is split.
"""

import math
import os
from pathlib import Path
from typing import NamedTuple

from common.errors import UserError

SEPARATORS = 15
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


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
    try:
        value = float(field)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{root}: image {_below(path, root)}: {which} is '{field}', expected metres such as 0584825.96")
    return value


def _below(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path


def image_files(folder: Path) -> list[Path]:
    """All images below ``folder`` (jpg, jpeg, png in any case; hidden entries left out), sorted by path.

    A list beside it, ``<folder>_images_paths.txt`` with one path below the folder per line, saves looking through it.

    Raises:
        UserError: no such folder, no image in it, or a list whose first or last image is missing.

    """
    listed = folder.with_name(f"{folder.name}_images_paths.txt")
    if listed.is_file():
        return _listed_files(listed, folder)
    if not folder.is_dir():
        raise UserError(f"image folder {folder} does not exist: check --dataset_folder")
    found: list[Path] = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        images = [name for name in files if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)]
        found += [Path(parent, name) for name in images]
    if not found:
        raise UserError(f"image folder {folder} holds no image ({', '.join(IMAGE_SUFFIXES)}): check --dataset_folder")
    return sorted(found, key=str)


def _listed_files(listed: Path, folder: Path) -> list[Path]:
    try:
        lines = [line.strip() for line in listed.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"image list {listed} cannot be read as UTF-8 text: remove it, or write it again") from error
    found = sorted((folder / line for line in lines if line), key=str)
    if not found:
        raise UserError(f"image list {listed} is empty: remove it, or write one path per line")
    for path in (found[0], found[-1]):
        if not path.is_file():
            raise UserError(f"image list {listed}: {path} does not exist: remove the list, or write it again")
    return found
