"""One drive around the route: its weather, its cars and leaves, where the vehicle was, what it saw.

Submaps are scanned over ``SUBMAP_LENGTH`` metres from their start, as Oxford's are; the image belongs to the start. The
place's position is the middle of the scanned stretch.
"""

from dataclasses import dataclass

import numpy as np

from common.randomness import generator
from datasets.demoworld import furniture
from datasets.demoworld.camera import CAMERA_HEIGHT, Camera, CameraPose, Scene
from datasets.demoworld.conditions import Condition, draw, start_stamp
from datasets.demoworld.lidar import SCAN_POSES, SUBMAP_LENGTH, Scanner
from datasets.demoworld.mesh import Floats, Material, Mesh, MeshBuilder
from datasets.demoworld.town import Town

SPEED = 6.5  # metres per second
ONCOMING_GAP = 65.0
IMAGE_DELAYS = (18_000, 210_000, 420_000)  # microseconds after the submap's first scan


@dataclass(frozen=True)
class PlaceView:
    """What is recorded at one place."""

    stamp: int  # microseconds
    east: float
    north: float
    cloud: np.ndarray  # float64 [4096,3]
    images: list[tuple[int, np.ndarray]]  # (stamp, uint8 [120,160,3]), nearest first


class Traversal:
    """A drive of ``places`` equally spaced submaps under one condition."""

    def __init__(self, town: Town, run: str, base: Condition, places: int, images: int) -> None:
        self.town, self.run, self.places, self.images = town, run, places, images
        self.condition = draw(run, base, town.seed)
        random = generator("demo", town.seed, "drive", run)
        self._phase = float(random.random())
        self._side = float(random.uniform(-0.65, 0.65))
        self._sway = random.uniform(0.1, 0.35, 2), random.uniform(60, 160, 2), random.uniform(0, 6.28, 2)
        self._yaw = float(random.normal(0, 0.03))
        self._pitch = float(random.normal(-0.01, 0.012))
        self._stretch = float(random.uniform(0.92, 1.08))
        self.scene = Scene(traversal_mesh(town, run, self.condition))
        self.camera = Camera(self.scene, self.condition, town.lamps)
        self.scanner = Scanner(self.scene, self.condition)

    def start_of(self, index: int) -> float:
        """Metres along the route where submap ``index`` starts."""
        spacing = self.town.route.length / self.places
        jitter = generator("demo", self.town.seed, "place", self.run, index).uniform(-0.06, 0.06)
        return (index + self._phase + float(jitter)) * spacing

    def vehicle(self, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions [n,2] and headings [n] of the vehicle at metres along the route, its wander included."""
        points, headings = self.town.route.at(distance)
        reach, period, phase = self._sway
        waves = sum(
            r * np.sin(2 * np.pi * np.asarray(distance) / p + f) for r, p, f in zip(reach, period, phase, strict=True)
        )
        side = np.clip(self._side + np.asarray(waves), -1, 1)
        left = np.column_stack([-np.sin(headings), np.cos(headings)])
        return points + left * side[:, None], headings + 0.03 * np.asarray(waves)

    def camera_pose(self, distance: float, random: np.random.Generator) -> CameraPose:
        """The camera on the vehicle at metres along the route."""
        points, headings = self.vehicle(np.array([distance]))
        position = np.append(points[0], CAMERA_HEIGHT + random.normal(0, 0.02)).astype(np.float32)
        heading = float(headings[0]) + self._yaw + float(random.normal(0, 0.012))
        return CameraPose(
            position, heading, self._pitch + float(random.normal(0, 0.006)), float(random.normal(0, 0.006))
        )

    def stamp_at(self, distance: float) -> int:
        """Microseconds at metres along the route."""
        return start_stamp(self.run) + round((distance + 40.0) / (SPEED * self._stretch) * 1e6)

    def image(self, distance: float, number: int) -> np.ndarray:
        """The frame at metres along the route; ``number`` tells its randomness apart."""
        random = generator("demo", self.town.seed, "frame", self.run, number)
        return self.camera.frame(self.camera_pose(distance, random), random)

    def place(self, index: int) -> PlaceView:
        """Scan and photograph place ``index``."""
        start = self.start_of(index)
        stops = start + np.linspace(0, SUBMAP_LENGTH, SCAN_POSES)
        points, headings = self.vehicle(stops)
        random = generator("demo", self.town.seed, "scan", self.run, index)
        cloud = self.scanner.submap(points, headings, random)
        stamp = self.stamp_at(start)
        images = []
        for number, delay in enumerate(IMAGE_DELAYS[: self.images]):
            ahead = delay * 1e-6 * SPEED * self._stretch
            images.append((stamp + delay, self.image(start + ahead, index * len(IMAGE_DELAYS) + number)))
        middle, _ = self.vehicle(np.array([start + SUBMAP_LENGTH / 2]))
        return PlaceView(stamp, float(middle[0, 0]), float(middle[0, 1]), cloud, images)


def traversal_mesh(town: Town, run: str, condition: Condition) -> Mesh:
    """The town with this traversal's leaves, parked cars and oncoming traffic."""
    leaves = MeshBuilder()
    for tree in town.trees:
        random = generator("demo", town.seed, "leaves", tree.number)
        corners, colors = furniture.leaf_triangles(tree, condition.season, condition.foliage, random)
        leaves.triangles(corners, Material.LEAF, colors)
    return Mesh.join([town.mesh, leaves.build(), *_cars(town, run)])


def _cars(town: Town, run: str) -> list[Mesh]:
    """Parked cars (most keep their place between traversals, some leave or change) and oncoming ones."""
    shapes = [furniture.car_mesh(style) for style in range(3)]
    cars = []
    for number, (x, y, heading) in enumerate(town.car_slots):
        random = generator("demo", town.seed, "car", number)
        now = generator("demo", town.seed, "car", number, run)
        if now.random() < 0.4:
            random = now  # somebody else's turn
        if random.random() < 0.62:
            cars.append(_car(shapes, (float(x), float(y), float(heading)), random))
    random = generator("demo", town.seed, "traffic", run)
    distance = float(random.uniform(0, ONCOMING_GAP))
    while distance < town.layout.oncoming.length - 15:
        points, headings = town.layout.oncoming.at(np.array([distance]))
        cars.append(_car(shapes, (float(points[0, 0]), float(points[0, 1]), float(headings[0])), random))
        distance += float(random.uniform(0.3, 1.9)) * ONCOMING_GAP
    return cars


def _car(shapes: list[Mesh], spot: tuple[float, float, float], random: np.random.Generator) -> Mesh:
    style = int(random.choice(3, p=[0.5, 0.35, 0.15]))
    color: Floats = furniture.CAR_COLORS[random.integers(len(furniture.CAR_COLORS))] * random.uniform(0.8, 1.2)
    x, y, heading = spot
    position = (x + random.uniform(-0.4, 0.4) * np.cos(heading), y + random.uniform(-0.4, 0.4) * np.sin(heading), 0.0)
    return shapes[style].repainted(color, Material.PAINT).moved(position, heading + float(random.normal(0, 0.02)))
