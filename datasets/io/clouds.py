"""Point cloud files of one's own robot: .bin, .npy, .pcd, .ply -> float32 [N,3] in metres, sensor frame.

``.bin`` is float32 rows without a header, whose width a file cannot tell (:mod:`distilplace.datasets.io.cloud_bins`).
Points at the origin exactly are pulses without a return, and dropped. Whatever is truncated, empty, not finite, far
away or one point only is refused with the file's name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distilplace.common.errors import UserError
from distilplace.common.npy import load_npy
from distilplace.datasets.io.cloud_bins import BinWidth, bin_width, read_bin
from distilplace.datasets.io.cloud_layouts import FARTHEST
from distilplace.datasets.io.cloud_pcd import read_pcd
from distilplace.datasets.io.cloud_ply import read_ply

CLOUD_SUFFIXES = (".bin", ".npy", ".pcd", ".ply")
LARGEST = 2**30  # bytes of a file: 60 million points; a scan has some 100,000
MOST_COLUMNS = 6  # of an array whose columns are x, y, z and more: [3, 7] is three rows of seven points
WIDEST = 16  # columns of an array of fewer rows than columns


@dataclass(frozen=True)
class Cloud:
    """``points`` float32 [N, 3], metres; ``at_origin``: how many more were at (0, 0, 0) and dropped; ``transposed``."""

    points: np.ndarray
    at_origin: int = 0
    transposed: bool = False


def read_cloud(path: Path | str, columns: int | BinWidth | None = None) -> np.ndarray:
    """One cloud as float32 [N,3] (x, y, z in metres).

    ``columns``: how many float32 a row of a ``.bin`` holds (x y z first); None: what its size alone leaves, where that
    is one width and the values agree.

    Raises:
        UserError: with the file's name, whatever keeps it from being read as it was meant.

    """
    return open_cloud(path, columns).points


def open_cloud(path: Path | str, columns: int | BinWidth | None = None) -> Cloud:
    """As :func:`read_cloud`, with what was done to the points."""
    path = Path(path)
    if not path.is_file():
        found = "is no regular file" if path.exists() else "does not exist"
        raise UserError(f"cloud file {path} {found}: restore it or remove its row from poses.csv")
    suffix = path.suffix.lower()
    if suffix not in CLOUD_SUFFIXES:
        raise UserError(f"cloud file {path}: unknown type '{suffix}', expected one of {', '.join(CLOUD_SUFFIXES)}")
    size = path.stat().st_size
    if size > LARGEST:
        raise UserError(f"cloud file {path}: {size / 2**30:.1f} GiB are no scan of a LiDAR: cut it into scans")
    transposed = False
    try:
        if suffix == ".bin":
            points = read_bin(path, _width(path, columns))
        elif suffix == ".npy":
            points, transposed = _read_npy(path)
        else:
            points = _read(read_pcd if suffix == ".pcd" else read_ply, path)
    except OSError as error:
        raise UserError(f"cloud file {path} cannot be read: {error.strerror or error}") from error
    return _without_origin(points, path, transposed)


def checked_cloud(points: np.ndarray, path: Path) -> np.ndarray:
    """The points as contiguous float32 [N,3]; empty, not finite, far-away or all equal ones are refused by file."""
    if points.shape[0] == 0:
        raise UserError(f"cloud file {path} holds no point: record it again or remove its row from poses.csv")
    low, high = points.min(), points.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        faulty = np.flatnonzero(~np.isfinite(points).all(axis=1))
        raise UserError(
            f"cloud file {path}: {len(faulty)} of {len(points)} points are not finite (NaN or infinite; first: "
            f"point {faulty[0]}): drop them when writing the file"
        )
    reach = max(float(high), -float(low))
    if reach >= FARTHEST:
        raise UserError(
            f"cloud file {path}: a coordinate of {reach:.3g} m: clouds are in the sensor's frame, in metres: subtract "
            "the pose if these are map coordinates, divide by 1000 if they are millimetres"
        )
    points = np.ascontiguousarray(points, dtype=np.float32)
    if len(points) == 1:
        raise UserError(f"cloud file {path} holds a single point, no scan: record it again or remove its row")
    if (points[:100] == points[0]).all() and (points == points[0]).all():
        at = ", ".join(f"{value:g}" for value in points[0])
        raise UserError(f"cloud file {path}: all {len(points)} points are equal ({at}): the file holds no scan")
    return points


def _without_origin(points: np.ndarray, path: Path, transposed: bool) -> Cloud:
    x, y, z = points.T
    returned = (x != 0) | (y != 0) | (z != 0)
    dropped = int(len(points) - np.count_nonzero(returned))
    if dropped and dropped == len(points):
        raise UserError(f"cloud file {path}: all {dropped} points are at the origin (no return): it holds no scan")
    return Cloud(checked_cloud(points[returned] if dropped else points, path), dropped, transposed)


def _width(path: Path, columns: int | BinWidth | None) -> BinWidth:
    return columns if isinstance(columns, BinWidth) else bin_width([path], columns)


def _read(read: Callable[[Path], np.ndarray], path: Path) -> np.ndarray:
    try:
        return read(path)
    except ValueError as error:
        raise UserError(f"cloud file {path} {error}: copy or write it again") from error


def _read_npy(path: Path) -> tuple[np.ndarray, bool]:
    """Columns x, y, z of an array [N,>=3], of one [3..6,N] turned round, or of records with fields x, y, z."""
    try:
        array = load_npy(path)
    except (ValueError, OSError) as error:
        raise UserError(f"cloud file {path} is no whole .npy array ({error}): write it with numpy.save") from error
    names = array.dtype.names or ()
    if array.ndim == 1 and {"x", "y", "z"} <= set(names) and all(array[axis].dtype.kind in "fiu" for axis in "xyz"):
        array = np.column_stack([array[axis].astype(np.float64) for axis in "xyz"])
    turnable = array.ndim == 2 and 3 <= array.shape[0] <= MOST_COLUMNS
    if array.ndim == 2 and not turnable and array.shape[0] < array.shape[1] > WIDEST:
        raise UserError(
            f"cloud file {path}: an array of shape {array.shape} looks like {array.shape[1]} points in columns, "
            "expected [N,>=3], a point a row: save its transpose"
        )
    transposed = turnable and array.shape[1] > MOST_COLUMNS
    if transposed:
        array = array.T
    if array.dtype.kind not in "fiu" or array.ndim != 2 or array.shape[1] < 3:
        raise UserError(
            f"cloud file {path}: expected numbers [N,>=3] (x, y, z first), found {array.dtype} {array.shape}"
        )
    return array[:, :3], transposed
