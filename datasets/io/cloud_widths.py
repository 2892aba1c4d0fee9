"""How many float32 a row of a ``.bin`` cloud holds, as its values tell: columns of a right width differ in kind.

x and y range widely, z little, intensity is never negative, padding is constant. A wrong width mixes them. A multiple
of the right width never mixes them, so it counts only where its second part cannot be a further point.
"""

import numpy as np

from distilplace.datasets.io.cloud_layouts import row_sample

WIDTHS = (3, 4, 5, 6)  # columns of a row in use: of these one is guessed
ALL_WIDTHS = tuple(range(3, 17))  # PCL pads its points to 16, 32, 48 or 64 bytes
ENOUGH = 480  # values: with fewer, chance looks like structure
DECIDED, SAME = 0.15, 0.02
LARGEST = 1e30  # stands for infinities, which an integer read as a float may be
APART = 20.0  # times: so differently, x and y of two points never spread


def fitting_widths(size: int) -> list[int]:
    """The widths whose rows fill ``size`` bytes."""
    return [width for width in ALL_WIDTHS if size % (4 * width) == 0]


def suggested_width(values: np.ndarray, columns: int) -> int | None:
    """Another row width of 3 to 16 that the float32 ``values`` [M] speak for more clearly than for ``columns``.

    Measured by the share of variance that the column explains. None: no clear case.
    """
    fits = fitting_widths(4 * len(values))
    if len(values) < ENOUGH or columns not in fits:
        return None
    samples = {width: _finite(row_sample(values, width)) for width in fits}
    shares = {width: _explained(sample) for width, sample in samples.items()}
    parts = {width: [part for part in fits if part < width and width % part == 0] for width in fits}
    own = [width for width in fits if all(_holds_more(samples[width], part) for part in parts[width])]
    best = max(own, key=lambda width: shares[width])
    if best == columns:
        return None
    if columns in parts[best]:
        return best
    if columns not in own and best in parts[columns] and shares[best] > shares[columns] - SAME:
        return best if shares[best] > DECIDED else None
    return best if shares[best] > shares[columns] + DECIDED else None


def _finite(rows: np.ndarray) -> np.ndarray:
    """Float64, without NaN and within :data:`LARGEST`."""
    with np.errstate(invalid="ignore"):
        return np.clip(np.nan_to_num(rows.astype(np.float64), nan=0.0), -LARGEST, LARGEST)


def _explained(rows: np.ndarray) -> float:
    """Which share of the variance of log size and sign the column of ``rows`` [n, width] explains, 0 to 1."""
    found = []
    for feature in (np.log1p(np.abs(rows)), np.sign(rows)):
        total = feature.var()
        found.append(feature.mean(axis=0).var() / total if total > 0 else 0.0)
    return float(np.mean(found))


def _holds_more(rows: np.ndarray, part: int) -> bool:
    """Is a row [n, width] more than several points of ``part`` columns, as some part of it is no point?"""
    parts = rows.reshape(len(rows), -1, part)
    return any(_is_no_point(parts[:, 0], parts[:, other]) for other in range(1, parts.shape[1]))


def _is_no_point(first: np.ndarray, other: np.ndarray) -> bool:
    """Can ``other`` [n, part] be no x, y, z, ... of the scan that ``first`` [n, part] is of?

    Points that alternate between lasers differ in height and reach by several times; so only what no scan does counts.
    """
    if not (first.any() and other.any()):  # pulses without a return, or padding: they are dropped
        return False
    lengths = [np.linalg.norm(rows[:, :3], axis=1) for rows in (first, other)]
    unit = [bool((np.abs(length - 1.0) < 1e-3).mean() > 0.95) for length in lengths]
    if unit[1] and not unit[0]:  # normals
        return True
    spread, other_spread = first.std(axis=0), other.std(axis=0)
    if (np.abs(first[:, :2] - other[:, :2]).mean(axis=0) < 0.2 * spread[:2]).all():
        return False  # neighbours in the order of a scan, or two returns of one pulse
    if ((other_spread == 0) & (spread > 0))[:2].any() or ((other_spread == 0) != (spread == 0))[2:].any():
        return True
    negative, other_negative = ((rows[:, :2] < 0).mean(axis=0) for rows in (first, other))
    if other_negative.max() < 0.01 and negative.max() > 0.1:
        return True
    widest, other_widest = spread[:2].max(), other_spread[:2].max()
    return bool(max(widest, other_widest) > APART * min(widest, other_widest))
