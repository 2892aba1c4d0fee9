"""Which database images show a query's place: by a table of names, by frame numbers, or by the order of images."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.inputs.image_files import depth_notes, find_images, natural_order
from distilplace.common.inputs.text_tables import read_table
from distilplace.datasets.image_sets import Truth

COLUMNS = ("query", "database")
LARGEST_NUMBER = 4 * 10**18  # a number and a tolerance still add up to an int64; nanoseconds until 2096
AMBIGUOUS = -1


def listed_images(folder: Path, notes: list[str]) -> list[str]:
    """Relative POSIX paths of the images at any depth, numbers in names in numeric order.

    What else lies there is counted in a line added to ``notes``. Raises as
    :func:`distilplace.common.inputs.image_files.find_images`.
    """
    found = find_images(folder)
    notes += [*found.notes, *depth_notes(folder.name, found.files[0])]
    return sorted((path.relative_to(folder).as_posix() for path in found.files), key=natural_order)


def frame_numbers(names: Sequence[str]) -> np.ndarray:
    """Int64 [n]: the last number in each file name's stem; :class:`UserError` for a name without, or too large."""
    numbers = np.empty(len(names), dtype=np.int64)
    for index, name in enumerate(names):
        found = re.findall(r"[0-9]+", Path(name).stem)
        if not found:
            raise UserError(f"--frame_tolerance: image name {name} holds no number: rename it or write a truth.csv")
        if int(found[-1]) > LARGEST_NUMBER:
            raise UserError(f"--frame_tolerance: the number in image name {name} exceeds {LARGEST_NUMBER:.0e}")
        numbers[index] = int(found[-1])
    return numbers


def matches_by_number(database: np.ndarray, queries: np.ndarray, tolerance: int) -> Truth:
    """Per query number the sorted indices of database numbers at most ``tolerance`` away; integers, so exact."""
    order = np.argsort(database, kind="stable")
    ordered = database[order]
    first = np.searchsorted(ordered, queries - tolerance, side="left")
    last = np.searchsorted(ordered, queries + tolerance, side="right")
    return [np.sort(order[start:stop]).astype(np.int64) for start, stop in zip(first, last, strict=True)]


def checked_tolerance(tolerance: int | None) -> int | None:
    """``tolerance`` when it is None or a number of frames from 0 on, else a :class:`UserError`."""
    if tolerance is not None and not 0 <= tolerance <= LARGEST_NUMBER:
        raise UserError(f"--frame_tolerance must be a number of frames from 0 on, not {tolerance}")
    return tolerance


def read_truth(path: Path, database: Sequence[str], queries: Sequence[str], folders: tuple[str, str]) -> Truth:
    """The matches of a truth.csv: header ``query,database``, one pair a row; an empty database cell says "no match".

    Cells are file names, or paths relative to the image folder or to the data set's folder (then beginning with one of
    ``folders``: the names of the database and the query folder). ``database`` and ``queries`` are their images.

    Raises:
        UserError: no such columns, a ragged row, a name that is unknown or fits several images; with file and line.

    """
    wanted, known = _lookup(queries, folders[1]), _lookup(database, folders[0])
    found: list[set[int]] = [set() for _ in queries]
    for line, query, match in _rows(path):
        index = _resolved(wanted, query, f"{path} line {line}: query", folders[1])
        if match:
            found[index].add(_resolved(known, match, f"{path} line {line}: database image", folders[0]))
    if not any(found):
        raise UserError(f"{path} names no match: write a row query,database for every pair that shows one place")
    return [np.array(sorted(row), dtype=np.int64) for row in found]


def _rows(path: Path) -> list[tuple[int, str, str]]:
    """(line, query, database) of every row that is not blank."""
    rows = []
    for line, row in read_table(path, COLUMNS, "write query,database").rows:
        query, match = (row[column].replace("\\", "/") for column in COLUMNS)
        if not query:
            raise UserError(f"{path} line {line}: the query's name is empty")
        rows.append((line, query, match))
    return rows


def _lookup(names: Sequence[str], folder: str) -> dict[str, int]:
    """Every way to name an image -> its index; AMBIGUOUS for a file name that occurs in several folders."""
    table: dict[str, int] = {}
    for index, name in enumerate(names):
        base = name.rsplit("/", 1)[-1]
        table[base] = AMBIGUOUS if base in table else index
    for index, name in enumerate(names):
        table[f"{folder}/{name}"] = index
    table.update({name: index for index, name in enumerate(names) if "/" in name})
    return table


def _resolved(table: dict[str, int], name: str, where: str, folder: str) -> int:
    index = table.get(name.removeprefix("./"))
    if index is None:
        raise UserError(f"{where} {name} is no image of {folder}/: correct the row or add the file")
    if index == AMBIGUOUS:
        raise UserError(f"{where} {name} occurs in several folders of {folder}/: write its path relative to {folder}/")
    return index
