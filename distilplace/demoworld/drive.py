"""Where the vehicle and its camera are on a drive around the route, and when. Nothing is rendered for it."""

import numpy as np

from distilplace.common.randomness import generator
from distilplace.demoworld.camera import CAMERA_HEIGHT, CameraPose
from distilplace.demoworld.conditions import start_stamp
from distilplace.demoworld.layout import Route

SPEED = 6.5  # metres per second
IMAGE_DELAYS = (18_000, 210_000, 420_000)  # microseconds after the submap's first scan


class Drive:
    """The drive ``run`` of ``places`` equally spaced submaps around ``route``, in the town of a demo seed."""

    def __init__(self, route: Route, seed: int, run: str, places: int) -> None:
        self.route, self.seed, self.run, self.places = route, seed, run, places
        random = generator("demo", seed, "drive", run)
        self._phase = float(random.random())
        self._side = float(random.uniform(-0.65, 0.65))
        self._sway = random.uniform(0.1, 0.35, 2), random.uniform(60, 160, 2), random.uniform(0, 6.28, 2)
        self._yaw = float(random.normal(0, 0.03))
        self._pitch = float(random.normal(-0.01, 0.012))
        self._stretch = float(random.uniform(0.92, 1.08))

    def start_of(self, index: int) -> float:
        """Metres along the route where submap ``index`` starts."""
        spacing = self.route.length / self.places
        jitter = generator("demo", self.seed, "place", self.run, index).uniform(-0.06, 0.06)
        return (index + self._phase + float(jitter)) * spacing

    def vehicle(self, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions [n,2] and headings [n] of the vehicle at metres along the route, its wander included."""
        points, headings = self.route.at(distance)
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

    def exposure(self, index: int, number: int) -> tuple[int, CameraPose, np.random.Generator]:
        """Image ``number`` of place ``index``: stamp, camera, and what its frame draws its randomness from."""
        start, delay = self.start_of(index), IMAGE_DELAYS[number]
        random = generator("demo", self.seed, "frame", self.run, index * len(IMAGE_DELAYS) + number)
        pose = self.camera_pose(start + delay * 1e-6 * SPEED * self._stretch, random)
        return self.stamp_at(start) + delay, pose, random
