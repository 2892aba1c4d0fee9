"""The camera: rays through a pinhole, shading, exposure, lens and sensor; a frame of uint8 RGB."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from distilplace.common.open3d_loader import import_open3d
from distilplace.demoworld.conditions import Condition, sun_direction
from distilplace.demoworld.light import Shadows, radiance, sky_radiance
from distilplace.demoworld.mesh import Floats, Mesh
from distilplace.demoworld.surfaces import Hits, shade

WIDTH, HEIGHT = 160, 120
SUPERSAMPLING = 2
FIELD_OF_VIEW = 78.0  # degrees, horizontal
CAMERA_HEIGHT = 1.65
SKY_REACH = 3.5  # metres within which things darken the sky light


class Scene:
    """Triangles that rays can meet."""

    def __init__(self, mesh: Mesh) -> None:
        self._o3d = import_open3d()
        self.mesh = mesh
        self._scene = self._o3d.t.geometry.RaycastingScene()
        vertices = np.ascontiguousarray(mesh.vertices.reshape(-1, 3))
        triangles = np.arange(len(vertices), dtype=np.uint32).reshape(-1, 3)
        self._scene.add_triangles(self._tensor(vertices), self._tensor(triangles))

    def _tensor(self, array: np.ndarray) -> Any:
        return self._o3d.core.Tensor(array)

    def cast(self, origins: np.ndarray, directions: np.ndarray) -> tuple[Floats, np.ndarray, Floats]:
        """Distances [n] (inf: nothing), triangle numbers [n], normals [n,3] towards the viewer; for unit directions."""
        found = self._scene.cast_rays(self._tensor(_rays(origins, directions)))
        distance, normal = found["t_hit"].numpy(), found["primitive_normals"].numpy()
        away = (normal * directions).sum(1) > 0
        normal = np.where(away[:, None], -normal, normal)
        return distance, found["primitive_ids"].numpy(), normal

    def is_open(self, origins: np.ndarray, directions: np.ndarray, reach: float) -> Floats:
        """1 where nothing is met within ``reach`` metres, else 0; [n]."""
        rays = self._tensor(_rays(origins, directions))
        return 1.0 - self._scene.test_occlusions(rays, tnear=0.0, tfar=reach).numpy().astype(np.float32)


def _rays(origins: np.ndarray, directions: np.ndarray) -> Floats:
    rays = np.empty((len(directions), 6), np.float32)
    rays[:, :3], rays[:, 3:] = origins, directions
    return rays


@dataclass(frozen=True)
class CameraPose:
    """Where the camera is and looks; metres and radians, pitch up positive."""

    position: Floats  # [3]
    heading: float
    pitch: float
    roll: float

    def axes(self) -> Floats:
        """Rows: forward, right, up; [3,3]."""
        ch, sh, cp, sp = np.cos(self.heading), np.sin(self.heading), np.cos(self.pitch), np.sin(self.pitch)
        forward, right = np.array([ch * cp, sh * cp, sp]), np.array([sh, -ch, 0.0])
        up = np.cross(right, forward)
        c, s = np.cos(self.roll), np.sin(self.roll)
        return np.stack([forward, c * right + s * up, c * up - s * right]).astype(np.float32)


def _pixel_grid() -> tuple[np.ndarray, np.ndarray]:
    """Image-plane positions (right, up) at unit distance of every sample, flattened row by row."""
    columns, rows = WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING
    half = np.tan(np.radians(FIELD_OF_VIEW / 2))
    right = ((np.arange(columns) + 0.5) / columns * 2 - 1) * half
    up = (1 - (np.arange(rows) + 0.5) / rows * 2) * half * HEIGHT / WIDTH
    grid_right, grid_up = np.meshgrid(right, up)
    return grid_right.ravel().astype(np.float32), grid_up.ravel().astype(np.float32)


def _hemisphere_offsets() -> Floats:
    """One direction inside the unit ball per sample, in an ordered pattern over 4 x 4 samples, [n,3]."""
    columns, rows = WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING
    order = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])
    number = np.tile(order, (rows // 4, columns // 4)).ravel()
    z = 1 - 2 * (number + 0.5) / 16
    angle = number * 2.399963
    flat = np.sqrt(1 - z**2)
    return (np.column_stack([np.cos(angle) * flat, np.sin(angle) * flat, z]) * 0.95).astype(np.float32)


class Camera:
    """Renders frames of one traversal."""

    def __init__(self, scene: Scene, condition: Condition, lamps: Floats) -> None:
        self.scene, self.condition, self.lamps = scene, condition, lamps
        self._right, self._up = _pixel_grid()
        self._ball = _hemisphere_offsets()
        self._sun = sun_direction(condition)

    def frame(self, pose: CameraPose, random: np.random.Generator) -> np.ndarray:
        """An image uint8 [120,160,3]."""
        axes = pose.axes()
        directions = axes[0] + self._right[:, None] * axes[1] + self._up[:, None] * axes[2]
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        distance, triangle, normal = self.scene.cast(pose.position, directions)
        seen = np.flatnonzero(np.isfinite(distance))
        color = np.empty((len(directions), 3), np.float32)
        sky = np.flatnonzero(~np.isfinite(distance))
        color[sky] = sky_radiance(directions[sky], self.condition, drift=self.condition.sun_azimuth)
        view, reach = directions[seen], distance[seen]
        hits = Hits(triangle[seen], pose.position + view * reach[:, None], normal[seen], view, reach)
        surface = shade(self.scene.mesh, hits, self.condition)
        shadows = self._shadows(hits, self._ball[seen])
        mirrored = self._mirrored(hits, surface.glass) if self.condition.wet > 0.1 else None
        color[seen] = radiance(hits, surface, shadows, self.condition, self.lamps, pose.position, axes[0], mirrored)
        return self._develop(color, random)

    def _shadows(self, hits: Hits, ball: Floats) -> Shadows:
        """Sun and sky visibility; distant points are taken as open."""
        start = hits.point + hits.normal * (0.004 + 0.0012 * hits.distance[:, None])
        sun, sky = np.zeros(len(start), np.float32), np.ones(len(start), np.float32)
        if max(self.condition.sun) > 0:
            lit = np.flatnonzero(hits.normal @ self._sun > -1)
            sun[lit] = self.scene.is_open(start[lit], np.broadcast_to(self._sun, (len(lit), 3)), 300.0)
        near = np.flatnonzero(hits.distance < 70)
        toward = hits.normal[near] + ball[near]
        toward /= np.linalg.norm(toward, axis=1, keepdims=True)
        sky[near] = self.scene.is_open(start[near], toward, SKY_REACH)
        return Shadows(sun, sky)

    def _mirrored(self, hits: Hits, glass: Floats) -> Floats:
        """What wet ground and panes mirror: one more ray each, shaded without shadows."""
        at = np.flatnonzero(glass > 0)
        seen = np.zeros((len(glass), 3), np.float32)
        if not len(at):
            return seen
        view, normal = hits.view[at], hits.normal[at]
        bounce = view - 2 * (view * normal).sum(1, keepdims=True) * normal
        start = hits.point[at] + normal * 0.02
        distance, triangle, facing = self.scene.cast(start, bounce)
        color = sky_radiance(bounce, self.condition, drift=self.condition.sun_azimuth)
        met = np.flatnonzero(np.isfinite(distance))
        if len(met):
            reach = distance[met]
            far = Hits(triangle[met], start[met] + bounce[met] * reach[:, None], facing[met], bounce[met], reach)
            surface = shade(self.scene.mesh, far, self.condition)
            shadows = Shadows(np.full(len(met), 0.5, np.float32), np.full(len(met), 0.8, np.float32))
            surface.glass[:] = 0
            ahead = hits.view.mean(0)
            color[met] = radiance(far, surface, shadows, self.condition, self.lamps, start.mean(0), ahead)
        seen[at] = color
        return seen

    def _develop(self, color: Floats, random: np.random.Generator) -> np.ndarray:
        """Lens, exposure, film curve and sensor noise; from radiance to uint8."""
        condition = self.condition
        s = SUPERSAMPLING
        frame = np.minimum(color, 12.0).reshape(HEIGHT, s, WIDTH, s, 3).mean((1, 3))
        blur = random.uniform(0.0, 0.22)  # slight motion blur sideways
        frame = frame * (1 - blur) + blur * 0.5 * (np.roll(frame, 1, 1) + np.roll(frame, -1, 1))
        metered = frame[HEIGHT // 5 :].mean(2)
        level = np.exp(np.log(metered + 1e-3).mean())
        exposure = condition.key / level * random.uniform(0.93, 1.07)
        exposure = min(exposure, 9.0)
        x, y = np.meshgrid(np.linspace(-1, 1, WIDTH), np.linspace(-0.75, 0.75, HEIGHT))
        vignette = 1 - 0.22 * (x**2 + y**2)
        frame = frame * exposure * vignette[..., None] * np.array(condition.tint)
        frame = frame * (1 + 0.12 * frame) / (1 + frame)  # shoulder: highlights roll off
        display = np.clip(frame * 1.25, 0, 1) ** (1 / 2.2)
        display = np.clip(0.5 + (display - 0.5) * condition.contrast, 0, 1)
        grain = random.normal(0, condition.noise, (HEIGHT, WIDTH, 1))
        grain = grain + random.normal(0, condition.noise * 0.6, (HEIGHT, WIDTH, 3))
        return (np.clip(display + grain, 0, 1) * 255 + 0.5).astype(np.uint8)
