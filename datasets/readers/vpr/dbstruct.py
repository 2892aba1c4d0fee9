"""``dbStruct`` files (.mat, .db): the image lists and positions of the NetVLAD family, read by field name.

Producers order the fields differently, so nothing is read by its place. What a position's two rows mean is the data
set's to say: (east, north) for Pittsburgh and Tokyo, (north, east) for seqNet's RobotCar, one row of frame numbers for
its Nordland. The files are untrusted: scipy's reader of MATLAB v5 to v7 containers builds arrays and runs nothing, but
believes the numbers in a file, some to the point of crashing: :mod:`distilplace.datasets.io.mat_elements` checks them
before.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.inputs.folder_flags import flag_of
from distilplace.datasets.io.mat_elements import require_sound_mat

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class DbStruct:
    """One split. ``n`` database images and ``q`` queries.

    ``database_positions`` float64 ``[n, 2]`` and ``query_positions`` ``[q, 2]``: the stored first row, second row.
    Where only one row is stored (``frame_numbers``) the second column is zero: distances are differences of frames.
    ``positive_threshold``: distance of a true match (posDistThr); ``nontrivial_threshold``: that of a training positive
    (square root of nonTrivPosDistSqThr). ``database_times`` ``[n]`` and ``query_times`` ``[q]``: time stamps (Tokyo
    Time Machine), numbers or text, compared for equality only; None where the file has none.
    """

    which_set: str
    database: list[str]
    queries: list[str]
    database_positions: np.ndarray
    query_positions: np.ndarray
    frame_numbers: bool
    positive_threshold: float
    nontrivial_threshold: float
    database_times: np.ndarray | None
    query_times: np.ndarray | None


def read_dbstruct(path: Path) -> DbStruct:
    """The struct ``dbStruct`` of a .mat or .db file (fields as NetVLAD's dbBase.m names them; others are ignored).

    Raises:
        UserError: no such file, MATLAB v7.3 (HDF5), not a MATLAB file, a missing or malformed field, counts that
            disagree, or positions that are not finite.

    """
    fields = _Fields(path, _load_struct(path))
    database, queries = fields.names("dbImageFns", "numImages"), fields.names("qImageFns", "numQueries")
    database_positions, database_rows = fields.positions("utmDb", len(database))
    query_positions, query_rows = fields.positions("utmQ", len(queries))
    if database_rows != query_rows:
        raise UserError(f"{path}: utmDb has {database_rows} row(s) but utmQ has {query_rows}: they must agree")
    return DbStruct(
        which_set=fields.text("whichSet"),
        database=database,
        queries=queries,
        database_positions=database_positions,
        query_positions=query_positions,
        frame_numbers=database_rows == 1,
        positive_threshold=fields.number("posDistThr"),
        nontrivial_threshold=float(np.sqrt(fields.number("nonTrivPosDistSqThr"))),
        database_times=fields.times("dbTimeStamp", len(database)),
        query_times=fields.times("qTimeStamp", len(queries)),
    )


def _load_struct(path: Path) -> np.void:
    from scipy.io import loadmat

    try:
        with path.open("rb") as file:
            head = file.read(520)
            if head.startswith(b"MATLAB 7.3") or HDF5_SIGNATURE in (head[:8], head[512:520]):
                raise UserError(f"{path} is a MATLAB v7.3 (HDF5) file: save it again in MATLAB with the option '-v7'")
            file.seek(0)
            require_sound_mat(file.read(), path)
            file.seek(0)
            found = loadmat(file)
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: check {flag_of(path)}") from error
    except UserError:
        raise
    except Exception as error:  # on damaged bytes SciPy raises all kinds: MatReadError, zlib.error, UnboundLocalError
        kind = type(error).__name__
        raise UserError(f"{path} cannot be read as a MATLAB file, it may be damaged ({kind})") from error
    struct = found.get("dbStruct")
    if not isinstance(struct, np.ndarray) or struct.dtype.names is None or struct.size != 1:
        named = ", ".join(name for name in found if not name.startswith("__")) or "nothing"
        raise UserError(f"{path}: holds {named}, but no struct named dbStruct: not a list of the NetVLAD family")
    only: np.void = struct.flat[0]
    return only


class _Fields:
    """The fields of one struct, each checked as it is read."""

    def __init__(self, path: Path, struct: np.void) -> None:
        self.path = path
        self.struct = struct

    def raw(self, name: str) -> Any:
        if name not in (self.struct.dtype.names or ()):
            raise UserError(f"{self.path}: dbStruct has no field {name}: not a list of the NetVLAD family")
        return self.struct[name]

    def text(self, name: str) -> str:
        return self._text(self.raw(name), name)

    def number(self, name: str) -> float:
        """A finite number that is not negative."""
        value = self._numeric(name)
        if value.size != 1 or not np.isfinite(value).all() or value.flat[0] < 0:
            raise UserError(f"{self.path}: dbStruct.{name} must be one number, not negative")
        return float(value.flat[0])

    def names(self, name: str, count: str) -> list[str]:
        """Image names: a cell of text, N x 1 or 1 x N, as many as the field ``count`` says."""
        found = self._texts(name)
        expected = self.number(count)
        if len(found) != expected:
            raise UserError(f"{self.path}: dbStruct.{name} holds {len(found)} names but {count} is {expected:g}")
        return found

    def positions(self, name: str, count: int) -> tuple[np.ndarray, int]:
        """Float64 [count, 2], and how many rows were stored (one row: the second column is zero)."""
        stored = self._numeric(name)
        if stored.ndim != 2 or stored.shape not in ((1, count), (2, count)):
            raise UserError(
                f"{self.path}: dbStruct.{name} has shape {stored.shape}, expected (2, {count}), or (1, {count}) for "
                "frame numbers: one column per image"
            )
        if not np.isfinite(stored).all():
            bad = int((~np.isfinite(stored)).any(axis=0).sum())
            raise UserError(f"{self.path}: dbStruct.{name} holds {bad} of {count} positions that are not finite")
        places = np.zeros((count, 2))
        places[:, : len(stored)] = stored.T
        return places, len(stored)

    def times(self, name: str, count: int) -> np.ndarray | None:
        if name not in (self.struct.dtype.names or ()):
            return None
        stored = self.struct[name]
        is_text = isinstance(stored, np.ndarray) and stored.dtype.kind in "OU"
        times = np.array(self._texts(name)) if is_text else self._numeric(name).ravel()
        if len(times) != count or (not is_text and not np.isfinite(times).all()):
            raise UserError(f"{self.path}: dbStruct.{name} must hold one time stamp for each of {count} images")
        return times

    def _numeric(self, name: str) -> np.ndarray:
        value = self.raw(name)
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf":
            raise UserError(f"{self.path}: dbStruct.{name} must hold real numbers")
        return value

    def _texts(self, name: str) -> list[str]:
        cells = self.raw(name)
        if not isinstance(cells, np.ndarray) or cells.dtype.kind not in "OU" or sum(n != 1 for n in cells.shape) > 1:
            raise UserError(f"{self.path}: dbStruct.{name} must be a cell array of text, N x 1")
        return [self._text(cell, name) for cell in cells.ravel()]

    def _text(self, value: Any, name: str) -> str:
        """The text of a cell, however deep MATLAB and Python have wrapped it: [['x']], ['x'] or 'x'."""
        while isinstance(value, np.ndarray) and value.size == 1:
            value = value.flat[0]
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{self.path}: dbStruct.{name} holds an entry that is not text, or empty")
        return value.strip()
