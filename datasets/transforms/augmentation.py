"""Training-time changes to a cloud (MinkLoc3D, Komorowski 2021; MinkLoc++, Komorowski et al. 2021).

Every change is a pure function of float32 points ``[N, 3]`` and the numbers drawn for it; :func:`augment_cloud` draws
them from one generator. Unlike upstream, removed points are really dropped: set to (0, 0, 0) they would be moved by the
translation that follows and end up as one or two voxels that no sensor saw. And no rotation by 0 degrees is computed.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

MAX_ROTATION_DEG = 5.0
FLIP_PROBABILITY = (0.25, 0.25)
JITTER_SIGMA, JITTER_CLIP = 0.001, 0.002
MAX_DROPPED_RATIO = 0.1
TRANSLATION_SIGMA = 0.01
BLOCK_PROBABILITY = 0.4
BLOCK_AREA, BLOCK_ASPECT = (0.02, 0.33), (0.3, 3.3)


@dataclass(frozen=True)
class Block:
    """A box in x and y, unlimited in z: corner and extents in the cloud's unit."""

    x: float
    y: float
    w: float
    h: float


def rotate_z(points: np.ndarray, angle: float) -> np.ndarray:
    """Row vectors times [[cos, -sin], [sin, cos]]: a turn by ``angle`` radians, clockwise seen from above."""
    cos, sin = math.cos(angle), math.sin(angle)
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], dtype=np.float32)
    return points @ rotation


def flip(points: np.ndarray, draw: float, probability: tuple[float, ...] = FLIP_PROBABILITY) -> np.ndarray:
    """Mirror the one axis whose share of [0, 1] holds ``draw``: x up to p_x, y up to p_x + p_y, else nothing."""
    for axis, bound in enumerate(np.cumsum(probability)):
        if draw <= bound:
            signs = np.ones(3, dtype=np.float32)
            signs[axis] = -1
            return points * signs
    return points


def jitter(points: np.ndarray, noise: np.ndarray, clip: float = JITTER_CLIP) -> np.ndarray:
    """Add ``noise`` ``[N, 3]``, clipped to +-``clip``, point by point."""
    return points + np.clip(noise, -clip, clip).astype(np.float32)


def drop_points(points: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The points that ``indices`` do not name, in order. The first point stays when all are named."""
    keep = np.ones(len(points), dtype=bool)
    keep[indices] = False
    return _kept(points, keep)


def translate(points: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Move the whole cloud by ``shift`` ``[3]``."""
    return points + np.asarray(shift, dtype=np.float32)


def place_block(points: np.ndarray, area_ratio: float, aspect: float, u: float, v: float) -> Block:
    """A box of ``area_ratio`` of the cloud's bounding rectangle, h / w = ``aspect``, placed at fractions u, v.

    It may be longer than the cloud in one direction; then its corner lies outside.
    """
    low, high = points[:, :2].min(axis=0).astype(np.float64), points[:, :2].max(axis=0).astype(np.float64)
    span = high - low
    area = area_ratio * span[0] * span[1]
    h, w = math.sqrt(area * aspect), math.sqrt(area / aspect)
    return Block(float(low[0] + u * (span[0] - w)), float(low[1] + v * (span[1] - h)), w, h)


def drop_block(points: np.ndarray, block: Block) -> np.ndarray:
    """The points that do not lie strictly inside ``block``. The first point stays when all lie inside."""
    x, y = points[:, 0], points[:, 1]
    inside = (block.x < x) & (x < block.x + block.w) & (block.y < y) & (y < block.y + block.h)
    return _kept(points, ~inside)


def augment_cloud(points: np.ndarray, style: Literal["oxford", "boreas"], rng: np.random.Generator) -> np.ndarray:
    """The training chain: rotation, flip, jitter, dropped points, translation, dropped box.

    ``style`` "boreas" leaves out what moves the whole cloud (rotation, flip, translation). The result has between 1 and
    N points, float32.
    """
    whole = style == "oxford"
    if whole:
        points = rotate_z(points, math.radians(rng.uniform(-MAX_ROTATION_DEG, MAX_ROTATION_DEG)))
        points = flip(points, rng.random())
    points = jitter(points, rng.normal(0.0, JITTER_SIGMA, size=points.shape))
    dropped = int(len(points) * rng.uniform(0.0, MAX_DROPPED_RATIO))
    points = drop_points(points, rng.permutation(len(points))[:dropped])
    if whole:
        points = translate(points, rng.normal(0.0, TRANSLATION_SIGMA, size=3))
    if rng.random() < BLOCK_PROBABILITY:
        area_ratio, aspect = rng.uniform(*BLOCK_AREA), rng.uniform(*BLOCK_ASPECT)
        points = drop_block(points, place_block(points, area_ratio, aspect, rng.random(), rng.random()))
    return points


def _kept(points: np.ndarray, keep: np.ndarray) -> np.ndarray:
    # A cloud without points cannot be voxelised; one point costs less than a special case in every reader.
    return points[keep] if keep.any() else points[:1]
