"""What the bytes of a ``.bin`` file look like: text, float64, a sensor's records, or float32 rows of some width."""

import numpy as np

FARTHEST = 1e5  # metres: beyond this, float32 loses centimetres and the file holds map coordinates, not a sensor's
NEAREST = 1e-6  # metres: values of wrongly read bytes lie far below it
WIDTHS = (3, 4, 5, 6)  # columns of a row in use
ENOUGH = 480  # values: with fewer, chance looks like structure
DECIDED = 0.15
BLOCK, BLOCKS = 600, 10  # values of a block, which holds whole rows; blocks

# Bytes a record of HeLiPR's sensors (its file player), x, y, z float32 first in all of them.
RECORDS = {26: "Ouster", 22: "Velodyne", 19: "Livox Avia", 29: "Aeva", 25: "Aeva, early"}


def looks_like(content: bytes, columns: int | None = None) -> str | None:
    """What ``content`` is, if it is no float32 rows, and the remedy, as the end of a sentence; None: nothing known.

    ``columns``: a row width to try beside the usual ones.
    """
    if is_text(content):
        first = content[:200].split(b"\n")[0].decode("ascii").strip()[:40]
        return f"is text ('{first}'), not float32: write it as .ply, .pcd or .npy"
    values = np.frombuffer(content[: len(content) // 4 * 4], "<f4")
    if not _holds_integers_as_float64(values) and any(
        _plausible(_sample(values, width)[:, :3])
        for width in {*WIDTHS, columns or WIDTHS[0]}
        if len(content) % (4 * width) == 0
    ):
        return None
    for width in (3, 4):
        if len(content) % (8 * width) == 0 and _scan(np.frombuffer(content, "<f8").reshape(-1, width)[:, :3]):
            return "looks like float64 numbers, 8 bytes each: write float32 (numpy: points.astype('<f4').tofile)"
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
        return bool(size.max() < FARTHEST and near <= 0.01 * size.size)  # NaN compares as False


def _scan(points: np.ndarray) -> bool:
    """Are [N, 3] plausible and not all one point?"""
    return _plausible(points) and bool((points != points[0]).any())


def suggested_width(values: np.ndarray, columns: int) -> int | None:
    """Another row width of 3 to 6 that the float32 ``values`` [M] speak for more clearly than for ``columns``.

    Columns of a right width differ in size and sign (x and y range widely, z little, intensity is never negative); a
    wrong width mixes them. Measured by the share of variance that the column explains. None: no clear case.
    """
    if len(values) < ENOUGH or columns not in WIDTHS:
        return None
    sample = _sample(values, 60).astype(np.float64).ravel()
    if not np.isfinite(sample).all():
        return None
    shares = {width: _explained(sample, width) for width in WIDTHS if len(values) % width == 0}
    if 6 in shares:  # a row of 6 explains at least what one of 3 does: signs decide between them
        if not _second_half_differs(sample):
            del shares[6]
        elif columns == 3:
            return 6
    best = max(shares, key=lambda width: shares[width], default=columns)
    return best if best != columns and shares[best] > shares.get(columns, 1.0) + DECIDED else None


def _sample(values: np.ndarray, width: int) -> np.ndarray:
    """Rows of ``width`` values [n, width]: at most ten blocks, spread over the file."""
    rows = values[: len(values) // width * width].reshape(-1, width)
    block = max(1, BLOCK // width)
    if len(rows) <= BLOCKS * block:
        return rows
    starts = np.linspace(0, len(rows) - block, BLOCKS).astype(int)
    return np.concatenate([rows[start : start + block] for start in starts])


def _explained(sample: np.ndarray, width: int) -> float:
    """Which share of the variance of log size and sign the column explains, 0 to 1."""
    found = []
    for feature in (np.log1p(np.abs(sample)), np.sign(sample)):
        total = feature.var()
        found.append(feature.reshape(-1, width).mean(axis=0).var() / total if total > 0 else 0.0)
    return float(np.mean(found))


def _second_half_differs(sample: np.ndarray) -> bool:
    """Of rows of 6: are columns 4 and 5 never negative while x or y often is? Then they are no x and y."""
    negative = (sample.reshape(-1, 6) < 0).mean(axis=0)
    return bool(negative[3:5].max() < 0.01 and negative[:2].max() > 0.1)
