"""What the bytes of a ``.bin`` file look like: another format, text, float64, float16, a sensor's records, or rows."""

import numpy as np

FARTHEST = 1e5  # metres: beyond this, float32 loses centimetres and the file holds map coordinates, not a sensor's
NEAREST = 1e-6  # metres: values of wrongly read bytes lie far below it
TRIED = (3, 4, 5, 6)  # columns of a row
BLOCK, BLOCKS = 600, 10  # values of a block, which holds whole rows; blocks

MAGIC = {
    b"\x93NUMPY": "is a .npy array by its first bytes: rename it to .npy",
    b"# .PCD": "is a .pcd file by its first bytes: rename it to .pcd",
    b"ply\n": "is a .ply file by its first bytes: rename it to .ply",
    b"ply\r": "is a .ply file by its first bytes: rename it to .ply",
    b"PK\x03\x04": "is a zip archive (.npz?) by its first bytes: unpack it, and write float32 rows or .npy",
    b"\x1f\x8b": "is gzip by its first bytes: unpack it",
}
# Bytes a record of HeLiPR's sensors (its file player), x, y, z float32 first in all of them.
RECORDS = {26: "Ouster", 22: "Velodyne", 19: "Livox Avia", 29: "Aeva", 25: "Aeva, early"}


def looks_like(content: bytes, columns: int | None = None) -> str | None:
    """What ``content`` is, if it is no float32 rows, and the remedy, as the end of a sentence; None: nothing known.

    ``columns``: a row width to try beside the usual ones.
    """
    for magic, said in MAGIC.items():
        if content.startswith(magic):
            return said
    if is_text(content):
        first = content[:200].split(b"\n")[0].decode("ascii").strip()[:40]
        return f"is text ('{first}'), not float32: write it as .ply, .pcd or .npy"
    values = np.frombuffer(content[: len(content) // 4 * 4], "<f4")
    if not _holds_integers_as_float64(values) and any(
        _plausible(row_sample(values, width)[:, :3])
        for width in {*TRIED, columns or TRIED[0]}
        if len(content) % (4 * width) == 0
    ):
        return None
    for width in (3, 4):
        if len(content) % (8 * width) == 0 and _scan(np.frombuffer(content, "<f8").reshape(-1, width)[:, :3]):
            return "looks like float64 numbers, 8 bytes each: write float32 (numpy: points.astype('<f4').tofile)"
    for width in (3, 4, 5, 6):
        if len(content) % (2 * width) == 0 and _half_scan(np.frombuffer(content, "<f2").reshape(-1, width)[:, :3]):
            return "looks like float16 numbers, 2 bytes each: write float32 (numpy: points.astype('<f4').tofile)"
    for size, sensor in RECORDS.items():
        if len(content) % size == 0 and _scan(_records(content, size)):
            return (
                f"looks like records of {size} bytes, as HeLiPR's {sensor} files have them (x, y, z, then integers): "
                "write x, y, z as float32 rows, .npy or .ply"
            )
    return None


def is_text(content: bytes) -> bool:
    """Are the first 4096 bytes nothing but printable ASCII? Binary floats never are, for so long."""
    head = content[:4096]
    return len(head) > 0 and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head)


def _holds_integers_as_float64(values: np.ndarray) -> bool:
    """Is every other float32 zero? The lower half of a float64 is, where the number has few digits."""
    if len(values) < 12 or len(values) % 2:
        return False
    lower, upper = values.reshape(-1, 2).T
    return bool((lower == 0).all() and (upper != 0).any())


def _records(content: bytes, size: int) -> np.ndarray:
    row = np.dtype([("xyz", "<f4", (3,)), ("rest", "V", size - 12)])
    return np.frombuffer(content, dtype=row)["xyz"]


def _plausible(points: np.ndarray) -> bool:
    """Could [N, 3] be points in metres: finite, not far, hardly any value next to zero without being it?"""
    if len(points) == 0:
        return False
    with np.errstate(invalid="ignore"):
        size = np.abs(points)
        near = np.count_nonzero((size > 0) & (size < NEAREST))
        return bool(float(size.max()) < FARTHEST and near <= 0.01 * size.size)  # NaN compares as False


def _half_scan(points: np.ndarray) -> bool:
    """Are [N, 3] of float16 a scan? Halves of other numbers are mostly zero, or not finite now and then."""
    return len(points) >= 100 and bool(np.count_nonzero(points) > 0.9 * points.size) and _scan(points)


def _scan(points: np.ndarray) -> bool:
    """Are [N, 3] plausible and not all one point?"""
    return _plausible(points) and bool((points != points[0]).any())


def row_sample(values: np.ndarray, width: int) -> np.ndarray:
    """Rows of ``width`` values [n, width]: at most ten blocks, spread over the file."""
    rows = values[: len(values) // width * width].reshape(-1, width)
    block = max(1, BLOCK // width)
    if len(rows) <= BLOCKS * block:
        return rows
    starts = np.linspace(0, len(rows) - block, BLOCKS).astype(int)
    return np.concatenate([rows[start : start + block] for start in starts])
