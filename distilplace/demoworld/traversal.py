"""One drive around the route: its weather, its cars and leaves, where the vehicle was, what it saw.

Submaps are scanned over ``SUBMAP_LENGTH`` metres from their start, as Oxford's are; the image belongs to the start. The
place's position is the middle of the scanned stretch.
"""

from dataclasses import dataclass

import numpy as np

from distilplace.common.randomness import generator
from distilplace.demoworld import furniture
from distilplace.demoworld.camera import Camera, Scene
from distilplace.demoworld.conditions import Condition, draw
from distilplace.demoworld.drive import Drive
from distilplace.demoworld.lidar import SCAN_POSES, SUBMAP_LENGTH, Scanner
from distilplace.demoworld.mesh import Floats, Material, Mesh, MeshBuilder
from distilplace.demoworld.town import Town

ONCOMING_GAP = 65.0


@dataclass(frozen=True)
class PlaceView:
    """What is recorded at one place."""

    stamp: int  # microseconds
    east: float
    north: float
    cloud: np.ndarray  # float64 [4096,3]
    images: list[tuple[int, np.ndarray]]  # (stamp, uint8 [120,160,3]), nearest first


class Traversal(Drive):
    """A drive of ``places`` equally spaced submaps under one condition."""

    def __init__(self, town: Town, run: str, base: Condition, places: int, images: int) -> None:
        super().__init__(town.route, town.seed, run, places)
        self.town, self.images = town, images
        self.condition = draw(run, base, town.seed)
        self.scene = Scene(traversal_mesh(town, run, self.condition))
        self.camera = Camera(self.scene, self.condition, town.lamps)
        self.scanner = Scanner(self.scene, self.condition)

    def place(self, index: int) -> PlaceView:
        """Scan and photograph place ``index``."""
        start = self.start_of(index)
        stops = start + np.linspace(0, SUBMAP_LENGTH, SCAN_POSES)
        points, headings = self.vehicle(stops)
        random = generator("demo", self.town.seed, "scan", self.run, index)
        cloud = self.scanner.submap(points, headings, random)
        exposures = (self.exposure(index, number) for number in range(self.images))
        images = [(stamp, self.camera.frame(pose, random)) for stamp, pose, random in exposures]
        middle, _ = self.vehicle(np.array([start + SUBMAP_LENGTH / 2]))
        return PlaceView(self.stamp_at(start), float(middle[0, 0]), float(middle[0, 1]), cloud, images)


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
