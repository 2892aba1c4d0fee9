"""Lists in .npy files: image names (GSV-Cities), and index lists in object arrays (VPR-Bench), read without risk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.files import require_file
from distilplace.common.npy import load_npy
from distilplace.common.pickles.reader import ForeignClassError
from distilplace.datasets.image_sets import Truth
from distilplace.datasets.io.pickles import unpickle


def read_name_array(path: Path) -> list[str]:
    """The names of a plain string array [n], as GSV-Cities' ``*_dbImages.npy``."""
    try:
        names = load_npy(path)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"list {path} is no plain .npy array of names: {error}") from error
    if not isinstance(names, np.ndarray) or names.ndim != 1 or names.dtype.kind != "U" or len(names) == 0:
        raise UserError(f"list {path} is no plain .npy array of names")
    listed = [str(name).removeprefix("./") for name in names]
    if not all(name.isprintable() and name for name in listed):
        raise UserError(f"list {path} holds names that are empty or no text: copy it again")
    return listed


def read_index_lists(path: Path) -> list[Sequence[int]]:
    """The rows of a VPR-Bench (``[n, 2]``: query number, list) or GSV-Cities (``[n]``: list) truth array.

    Returns per query, in order of the query numbers, its database indices as written.

    Raises:
        UserError: unreadable, another shape, a foreign class in its pickle, or query numbers other than 0..n-1.

    """
    array = _object_array(path)
    if not isinstance(array, np.ndarray) or array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] != 2):
        raise UserError(f"truth {path}: expected an array [n, 2] or [n], found {getattr(array, 'shape', None)}")
    try:
        if array.ndim == 1:
            return [[int(value) for value in np.ravel(row)] for row in array]
        numbers = [int(number) for number, _ in array]
        rows = {int(number): [int(value) for value in np.ravel(row)] for number, row in array}
    except (TypeError, ValueError) as error:
        raise UserError(f"truth {path}: a row is no list of image numbers: {error}") from error
    if sorted(numbers) != list(range(len(array))):
        raise UserError(f"truth {path}: its first column must number the queries 0..{len(array) - 1}, each once")
    return [rows[number] for number in range(len(array))]


def checked_truth(rows: list[Sequence[int]], database: int, queries: int, path: Path) -> Truth:
    """Sorted int64 indices per query.

    Indices past the last database image are dropped where the row has others: published lists (Gardens Point, Corridor)
    count two frames on from the end.

    Raises:
        UserError: there are not ``queries`` rows, or a row has indices and none is below ``database``.

    """
    if len(rows) != queries:
        raise UserError(f"truth {path} has {len(rows)} rows, but there are {queries} query images: complete the folder")
    truth = [np.array(sorted({index for index in row if 0 <= index < database}), dtype=np.int64) for row in rows]
    for number, (row, kept) in enumerate(zip(rows, truth, strict=True)):
        if len(row) and not len(kept):
            raise UserError(f"truth {path} row {number}: index {row[0]}, but there are {database} database images")
    return truth


def _object_array(path: Path) -> object:
    """The content of a .npy file of objects, through the restricted unpickler; plain arrays are read as such."""
    require_file(path, "truth")
    try:
        with path.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            _, _, dtype = header(stream)
            if not dtype.hasobject:
                return load_npy(path)
            return unpickle(stream.read())
    except ForeignClassError as error:
        raise UserError(f"truth {path} names {error}, which no list of numbers needs: refused, nothing run") from error
    except OSError as error:
        raise UserError(f"truth {path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a corrupt pickle can make the unpickler raise nearly any exception
        raise UserError(f"truth {path} is no readable .npy file: {type(error).__name__}: {error}") from error
