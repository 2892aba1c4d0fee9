"""Point cloud files of one's own robot: .bin, .npy, .pcd, .ply -> float32 [N,3] in metres, sensor frame.

``.bin`` is float32 x, y, z without a header, or x, y, z, intensity as KITTI's raw scans are; a single file cannot say
which, a folder can (:func:`bin_columns`). Whatever is truncated, empty or not finite is refused with the file's name.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from common.errors import UserError
from datasets.cloud_headers import declared_points
from datasets.open3d_loader import import_open3d

CLOUD_SUFFIXES = (".bin", ".npy", ".pcd", ".ply")
FARTHEST = 1e5  # metres: beyond this, float32 loses centimetres and the file holds map coordinates, not a sensor's


def read_cloud(path: Path | str, columns: int = 3) -> np.ndarray:
    """One cloud as float32 [N,3] (x, y, z in metres); ``columns`` of a ``.bin`` row: 3, or 4 with intensity."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"cloud file {path} does not exist: restore it or remove its row from poses.csv")
    suffix = path.suffix.lower()
    if suffix not in CLOUD_SUFFIXES:
        raise UserError(f"cloud file {path}: unknown type '{suffix}', expected one of {', '.join(CLOUD_SUFFIXES)}")
    if suffix == ".bin":
        points = _read_bin(path, columns)
    elif suffix == ".npy":
        points = _read_npy(path)
    else:
        points = _read_open3d(path)
    return _checked(points, path)


def _checked(points: np.ndarray, path: Path | str) -> np.ndarray:
    """The points as contiguous float32 [N,3]; empty, not finite or far-away clouds are refused with the file's name."""
    if points.shape[0] == 0:
        raise UserError(f"cloud file {path} holds no point: record it again or remove its row from poses.csv")
    faulty = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(faulty):
        raise UserError(
            f"cloud file {path}: {len(faulty)} of {len(points)} points are NaN or infinite (first: point {faulty[0]}): "
            "drop them when writing the file"
        )
    reach = float(np.abs(points).max())
    if reach >= FARTHEST:
        raise UserError(
            f"cloud file {path}: a coordinate of {reach:.3g} m: clouds are in the sensor's frame, in "
            "metres: subtract the pose"
        )
    return np.ascontiguousarray(points, dtype=np.float32)


def bin_columns(paths: Iterable[Path]) -> int:
    """3 or 4: which row width fits more of the ``.bin`` files' sizes (no file is opened); 3 when both fit equally."""
    sizes = [path.stat().st_size for path in paths if path.suffix.lower() == ".bin"]
    fits = {columns: sum(size % (4 * columns) == 0 for size in sizes) for columns in (3, 4)}
    return 4 if fits[4] > fits[3] else 3


def _read_bin(path: Path, columns: int) -> np.ndarray:
    size, row = path.stat().st_size, 4 * columns
    if size % row:
        raise UserError(
            f"cloud file {path} is truncated or of another type: {size} bytes are not a multiple of {row} "
            f"({columns} float32 a point): copy it again, or write float32 x, y, z"
        )
    return np.fromfile(path, dtype="<f4").reshape(-1, columns)[:, :3]


def _read_npy(path: Path) -> np.ndarray:
    try:
        points = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"cloud file {path} is no whole .npy array ({error}): write it with numpy.save") from error
    numeric = isinstance(points, np.ndarray) and points.dtype.kind in "fiu"
    if not numeric or points.ndim != 2 or points.shape[1] < 3:
        shape = getattr(points, "shape", None)
        raise UserError(f"cloud file {path}: expected numbers of shape [N,>=3] (x, y, z first), found shape {shape}")
    return points[:, :3]


def _read_open3d(path: Path) -> np.ndarray:
    declared = declared_points(path)
    open3d = import_open3d()
    with open3d.utility.VerbosityContextManager(open3d.utility.VerbosityLevel.Error):
        cloud = open3d.io.read_point_cloud(str(path), remove_nan_points=False, remove_infinite_points=False)
    points = np.asarray(cloud.points)
    if len(points) < declared:
        raise UserError(
            f"cloud file {path} is damaged: its header declares {declared} points, Open3D read {len(points)}: "
            "copy it again"
        )
    return points
