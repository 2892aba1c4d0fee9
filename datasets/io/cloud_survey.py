"""A look at some clouds of a data set, once, before the first batch: what is odd about them, with counts.

Clouds are read late and in workers, where a warning would come as often as there are workers and epochs; and a run that
needs no cloud must open none. So a sample is read when clouds are first wanted.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from distilplace.datasets.io.cloud_bins import BinWidth, width_doubt
from distilplace.datasets.io.clouds import Cloud

SAMPLE = 16
FAR_MEDIAN = 300.0  # metres: no LiDAR has half of its returns beyond that
UNIT = 1.5  # metres: clouds scaled to [-1, 1] reach sqrt(3) at most, and 1 along an axis


def sample(paths: Iterable[Path | None]) -> list[Path]:
    """Up to :data:`SAMPLE` different paths, evenly spread."""
    distinct = list(dict.fromkeys(path for path in paths if path is not None))
    if len(distinct) <= SAMPLE:
        return distinct
    return [distinct[index] for index in np.linspace(0, len(distinct) - 1, SAMPLE).astype(int)]


def survey(
    paths: Iterable[Path | None],
    open_one: Callable[[Path], Cloud],
    *,
    metres: bool,
    dropped: bool,
    width: BinWidth | None = None,
) -> list[str]:
    """What is odd about a sample of clouds, a line each; unreadable ones raise as ``open_one`` does.

    ``metres``: are coordinates metres in the sensor's frame? ``dropped``: are points at the origin left out? ``width``:
    how ``.bin`` files are read.
    """
    chosen = sample(paths)
    clouds = [open_one(path) for path in chosen]
    total = f"of {len(clouds)} clouds looked at"
    lines = [doubt] if (doubt := width_doubt(chosen, width)) else []
    holes = [cloud.at_origin for cloud in clouds if cloud.at_origin]
    if holes:
        points = sum(len(cloud.points) + (cloud.at_origin if dropped else 0) for cloud in clouds)
        done = "dropped" if dropped else "kept, as published"
        lines.append(
            f"{len(holes)} {total} have points at the origin (no return): {sum(holes)} of {points} points, {done}"
        )
    if turned := sum(cloud.transposed for cloud in clouds):
        lines.append(f"{turned} {total} are .npy of shape [3, N] and read with rows as columns (expected: [N, 3])")
    if metres:
        lines += _scale(clouds, total)
    return lines


def _scale(clouds: list[Cloud], total: str) -> list[str]:
    medians = [float(np.median(np.linalg.norm(cloud.points, axis=1))) for cloud in clouds]
    far = [median for median in medians if median > FAR_MEDIAN]
    lines = []
    if far:
        lines.append(
            f"{len(far)} {total} look like millimetres: half of their points are more than {min(far):,.0f} from the "
            "sensor, metres are expected: divide by 1000 (or subtract the pose, if these are map coordinates)"
        )
    small = sum(float(np.abs(cloud.points).max()) <= UNIT for cloud in clouds)
    if small:
        lines.append(f"{small} {total} reach {UNIT} m at most: they look scaled to [-1, 1], metres are expected")
    return lines
