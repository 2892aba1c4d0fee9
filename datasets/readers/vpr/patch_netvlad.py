"""Patch-NetVLAD's lists: a truth file (.npz) with positions and a radius, and a text file of image names a side.

The truth file holds ``utmDb`` and ``utmQ``, [n, 2] (easting, northing in metres, or frame number twice), and
``posDistThr``. Read without pickles.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.inputs.text_files import read_lines
from distilplace.common.npy import load_npz
from distilplace.datasets.image_sets import Truth
from distilplace.datasets.relations import neighbours_within


@dataclass(frozen=True)
class PositionTruth:
    """Float64 [n, 2] (easting, northing) of database and query images in their lists' order; radius in metres."""

    database: np.ndarray
    queries: np.ndarray
    radius: float

    def matches(self, radius: float | None = None) -> Truth:
        """Per query the sorted indices of database images within ``radius`` (the file's own), the boundary included."""
        return neighbours_within(self.queries, self.database, self.radius if radius is None else radius)


def read_position_truth(path: Path) -> PositionTruth:
    """The positions and the radius of a Patch-NetVLAD .npz; :class:`UserError` when they are absent or no numbers."""
    try:
        database, queries, radius = load_npz(path, ("utmDb", "utmQ", "posDistThr"))
    except KeyError as error:
        raise UserError(f"truth file {path}: {error.args[0]}: expected utmDb, utmQ, posDistThr") from error
    except (OSError, ValueError, EOFError, BadZipFile, NotImplementedError, RuntimeError, zlib.error) as error:
        raise UserError(f"truth file {path} is no readable .npz of plain arrays: {error}") from error
    return PositionTruth(
        _places(database, path, "utmDb"), _places(queries, path, "utmQ"), _checked_radius(radius, path)
    )


def _places(values: np.ndarray, path: Path, key: str) -> np.ndarray:
    if values.ndim != 2 or values.shape[1] != 2 or len(values) == 0 or values.dtype.kind not in "iuf":
        raise UserError(f"truth file {path}: {key} has shape {values.shape} and type {values.dtype}, expected [n, 2]")
    places = values.astype(np.float64)
    if not np.isfinite(places).all():
        raise UserError(f"truth file {path}: {key} holds positions that are not finite")
    return places


def _checked_radius(value: np.ndarray, path: Path) -> float:
    if value.size != 1 or value.dtype.kind not in "iuf" or not (np.isfinite(value).all() and float(value.item()) > 0):
        raise UserError(f"truth file {path}: posDistThr must be one positive number")
    return float(value.item())


def read_names(path: Path) -> list[str]:
    """The image names of a list file, one a line, without a leading ``./``; blank lines are left out."""
    return [line.removeprefix("./") for _, line in read_lines(path, "list of image names")]
