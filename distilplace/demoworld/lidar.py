"""The LiDAR: a scan pattern cast from several poses, gathered into a submap made as Oxford's are (PointNetVLAD, 2018).

Ground removal, voxel down-sampling to at most 4096 points, random refill, then centring, and scaling to mean distance
0.5.
"""

import numpy as np

from distilplace.demoworld.camera import Scene
from distilplace.demoworld.conditions import Condition
from distilplace.demoworld.mesh import Material

POINTS = 4096
SUBMAP_LENGTH = 20.0  # metres
SCAN_POSES = 9
RINGS, COLUMNS = 22, 170
MAX_RANGE = 45.0
SENSOR_HEIGHT = 1.9
GROUND_BAND = 0.4  # metres above the street that count as ground
RANGE_NOISE = 0.025
DROPOUT = 0.06


class Scanner:
    """Scans one traversal's scene."""

    def __init__(self, scene: Scene, condition: Condition) -> None:
        self.scene = scene
        bad_air = min(1.0, condition.fog * 22 + 0.25 * condition.wet)
        self._range = MAX_RANGE * (1 - 0.3 * bad_air)
        self._dropout = DROPOUT + 0.12 * bad_air
        self._size = 0.3

    def submap(self, positions: np.ndarray, headings: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """A submap float64 [4096,3] from vehicle poses ([n,2], [n]), normalised, in the first pose's frame."""
        points = self.scan(positions, headings, random)
        points = points[points[:, 2] > GROUND_BAND]
        local = to_start_frame(points, positions[0], headings[0])
        return normalised(self._downsampled(local, random), local, random)

    def scan(self, positions: np.ndarray, headings: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """All returns [m,3] in the world, with range noise and dropouts."""
        origins, directions = scan_rays(positions, headings, random)
        distance, triangle, _ = self.scene.cast(origins, directions)
        kept = np.flatnonzero((distance < self._range) & (distance > 1.2))
        chance = random.random(len(distance))
        material = self.scene.mesh.material[triangle[kept]]
        lost = self._dropout + 0.35 * (material == Material.GLASS) + 0.15 * (material == Material.LEAF)
        kept = kept[chance[kept] > lost]
        noise = random.normal(0, RANGE_NOISE, len(distance))
        return (origins[kept] + directions[kept] * (distance[kept] + noise[kept])[:, None]).astype(np.float64)

    def _downsampled(self, points: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """The mean of every occupied voxel, the voxel just large enough to leave at most 4096 of them."""
        size = self._size
        for _ in range(40):
            count = len(np.unique(voxel_keys(points, size)))
            if count <= POINTS and (count > 0.93 * POINTS or len(points) <= POINTS):
                break
            size *= float(np.clip((count / (0.97 * POINTS)) ** 0.6, 0.6, 1.8))
            if size < 0.02:
                break
        self._size = 0.3
        _, inverse, counts = np.unique(voxel_keys(points, size), return_inverse=True, return_counts=True)
        means = np.column_stack([np.bincount(inverse, points[:, axis]) for axis in range(3)]) / counts[:, None]
        return means if len(means) <= POINTS else means[np.sort(random.choice(len(means), POINTS, replace=False))]


def scan_rays(
    positions: np.ndarray, headings: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Origins and unit directions [n,3] of a spinning multi-beam scanner at every pose."""
    elevation = np.radians(np.linspace(-14, 38, RINGS))
    azimuth = np.arange(COLUMNS) * (2 * np.pi / COLUMNS)
    origins, directions = [], []
    for position, heading in zip(positions, headings, strict=True):
        turn = heading + azimuth[None, :] + random.uniform(0, 2 * np.pi / COLUMNS)
        tilt = np.broadcast_to(elevation[:, None] + random.uniform(-0.01, 0.01), (RINGS, COLUMNS))
        turn = np.broadcast_to(turn, tilt.shape)
        rays = np.stack([np.cos(turn) * np.cos(tilt), np.sin(turn) * np.cos(tilt), np.sin(tilt)], -1).reshape(-1, 3)
        directions.append(rays)
        origins.append(np.broadcast_to(np.append(position, SENSOR_HEIGHT), rays.shape))
    return np.concatenate(origins).astype(np.float32), np.concatenate(directions).astype(np.float32)


def to_start_frame(points: np.ndarray, position: np.ndarray, heading: float) -> np.ndarray:
    """World points [n,3] in the first pose's frame as Oxford has it: x forward, y right, z down."""
    c, s = np.cos(heading), np.sin(heading)
    offset = points[:, :2] - position
    forward, right = offset @ [c, s], offset @ [s, -c]
    return np.column_stack([forward, right, SENSOR_HEIGHT - points[:, 2]])


def voxel_keys(points: np.ndarray, size: float) -> np.ndarray:
    """One integer per point, equal for points of one voxel."""
    cell = np.floor(points / size).astype(np.int64)
    cell -= cell.min(0)
    return (cell[:, 0] * 4096 + cell[:, 1]) * 4096 + cell[:, 2]


def normalised(points: np.ndarray, raw: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Centre, scale to mean distance 0.5, turn all axes round, drop what leaves [-1,1], refill to 4096 from ``raw``."""
    if len(points) < POINTS:
        points = np.concatenate([points, raw[random.integers(len(raw), size=POINTS - len(points))]])
    center = points.mean(0)
    scale = 0.5 / np.linalg.norm(points - center, axis=1).mean()
    result = -(points - center) * scale
    result = result[np.abs(result).max(1) <= 1]
    missing = POINTS - len(result)
    if missing:
        spare = -(raw - center) * scale
        spare = spare[np.abs(spare).max(1) <= 1]
        result = np.concatenate([result, spare[random.integers(len(spare), size=missing)]])
    return result
