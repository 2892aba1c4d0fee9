"""The small synthetic place that miniature data sets are recorded in: boxes and poles along a closed loop."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

FOCAL = 0.8  # focal length of the drawn camera, in image widths
SEEN = 25.0  # metres: how far a submap and a picture reach


@dataclass(frozen=True)
class Loop:
    """A circle driven anticlockwise; ``angles`` in radians, positions (northing, easting) in metres."""

    northing: float
    easting: float
    radius: float

    def at(self, angles: np.ndarray, outwards: np.ndarray | float = 0.0) -> np.ndarray:
        """Positions [n,2] = (northing, easting) at the angles, ``outwards`` metres off the circle."""
        reach = self.radius + np.asarray(outwards)
        return np.stack([self.northing + reach * np.sin(angles), self.easting + reach * np.cos(angles)], axis=-1)


@dataclass(frozen=True)
class Scene:
    """Boxes ``[k,6]`` (north, east, half sizes north, east, height, shade) and surface points ``[m,3]``; metres."""

    boxes: np.ndarray
    colours: np.ndarray
    points: np.ndarray


@lru_cache(maxsize=8)
def scene_around(loop: Loop, seed: int, density: int = 500) -> Scene:
    """Boxes (houses) and thin boxes (poles) on both sides of the loop, with points drawn on their walls."""
    random = np.random.default_rng([seed, 1])
    count = int(2 * np.pi * loop.radius / 6.0)
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False) + random.uniform(-0.02, 0.02, count)
    pole = np.arange(count) % 3 == 2
    side = np.where(random.random(count) < 0.5, -1.0, 1.0)
    offset = side * np.where(pole, random.uniform(4, 7, count), random.uniform(9, 18, count))
    half = np.where(pole[:, None], 0.2, random.uniform(1.5, 4.5, (count, 2)))
    height = np.where(pole, random.uniform(4, 9, count), random.uniform(3, 12, count))
    boxes = np.column_stack([loop.at(angles, offset), half, height, random.uniform(0.5, 1.0, count)])
    colours = random.integers(30, 255, (count, 3))
    owner = np.repeat(np.arange(count), np.where(pole, density // 5, density))
    wall = random.integers(0, 4, len(owner))
    along = random.uniform(-1, 1, len(owner))
    sign = np.where(wall % 2 == 0, -1.0, 1.0)
    local = np.where((wall < 2)[:, None], np.stack([sign, along], 1), np.stack([along, sign], 1))
    flat = boxes[owner, :2] + local * boxes[owner, 2:4]
    points = np.column_stack([flat, random.uniform(0, 1, len(owner)) * boxes[owner, 4]])
    return Scene(boxes, colours, points)


def submap(
    scene: Scene, position: np.ndarray, heading: float, random: np.random.Generator, n: int = 4096
) -> np.ndarray:
    """``n`` points [n,3] in metres in the vehicle's frame (x ahead, y left, z up), with 3 cm of noise."""
    near = np.abs(scene.points[:, :2] - position).max(axis=1) < SEEN
    seen = scene.points[near]
    if not len(seen):
        seen = np.array([[position[0] + 20.0, position[1] + 20.0, 1.0], [position[0] - 20.0, position[1], 2.0]])
    chosen = seen[random.integers(0, len(seen), n)] + random.normal(0, 0.03, (n, 3))
    north, east = chosen[:, 0] - position[0], chosen[:, 1] - position[1]
    ahead = east * np.cos(heading) + north * np.sin(heading)
    left = -east * np.sin(heading) + north * np.cos(heading)
    return np.column_stack([ahead, left, chosen[:, 2] - 1.7])


def normalised(points: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Upstream's submap normalisation (spec-datasets 1.3 step 7): centred, mean norm 0.5, negated, inside [-1, 1]."""
    centred = points - points.mean(axis=0)
    scaled = -centred * 0.5 / np.linalg.norm(centred, axis=1).mean()
    inside = scaled[np.abs(scaled).max(axis=1) <= 1]
    refill = inside[random.integers(0, len(inside), len(points) - len(inside))]
    return np.concatenate([inside, refill])


def picture(scene: Scene, position: np.ndarray, heading: float, size: tuple[int, int], light: float) -> Image.Image:
    """What a forward camera sees: sky, road and the boxes nearer than twice the submap's reach, far ones first."""
    width, height = size
    horizon = height * 0.55
    image = Image.new("RGB", size, tuple(int(light * c) for c in (140, 180, 230)))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, horizon, width, height), fill=tuple(int(light * c) for c in (95, 95, 90)))
    north, east = (scene.boxes[:, :2] - position).T
    ahead = east * np.cos(heading) + north * np.sin(heading)
    left = -east * np.sin(heading) + north * np.cos(heading)
    focal = FOCAL * width
    for k in np.argsort(-ahead):
        if not 2.0 < ahead[k] < 2 * SEEN:
            continue
        x = width / 2 - focal * left[k] / ahead[k]
        half = focal * scene.boxes[k, 2:4].max() / ahead[k]
        top = horizon - focal * (scene.boxes[k, 4] - 1.7) / ahead[k]
        shade = light * scene.boxes[k, 5]
        fill = tuple(int(shade * c) for c in scene.colours[k])
        draw.rectangle((x - half, top, x + half, horizon + focal * 1.7 / ahead[k]), fill=fill)
    return image
