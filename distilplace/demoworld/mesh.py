"""Triangles with what a shader needs to know about each: material, colours, a texture frame and style numbers.

Everything in the town is made of flat pieces. Every triangle carries an origin and two axes, so that a hit point turns
into metres along and up the piece (u, v) without stored texture coordinates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]
STYLE_SIZE = 8


class Material(IntEnum):
    """What a triangle is made of: selects its shader."""

    ASPHALT = 0
    STREET = 1
    PAVEMENT = 2
    STONE = 3
    GRASS = 4
    WALL = 5
    ROOF = 6
    BARK = 7
    LEAF = 8
    HEDGE = 9
    PAINT = 10
    GLASS = 11
    RUBBER = 12
    LAMP = 13
    HEADLIGHT = 14
    TAILLIGHT = 15
    WOOD = 16
    PLAIN = 17
    HILL = 18


@dataclass
class Mesh:
    """Arrays over T triangles; lengths in metres, x east, y north, z up; colours linear in 0..1."""

    vertices: Floats  # [T,3,3]
    material: NDArray[np.uint8]  # [T]
    color: Floats  # [T,3]
    accent: Floats  # [T,3]
    origin: Floats  # [T,3]
    u_axis: Floats  # [T,3]
    v_axis: Floats  # [T,3]
    size: Floats  # [T,2] extent along u and v
    style: Floats  # [T,8] numbers the material's shader understands

    def __len__(self) -> int:
        return len(self.material)

    @staticmethod
    def join(meshes: Sequence["Mesh"]) -> "Mesh":
        """One mesh of all triangles, in order."""
        return Mesh(*(np.concatenate([getattr(mesh, field.name) for mesh in meshes]) for field in fields(Mesh)))

    def moved(self, position: ArrayLike, heading: float) -> "Mesh":
        """Turned about z by ``heading`` (radians, counter-clockwise) and then shifted to ``position`` [3]."""
        turn = rotation_z(heading)
        shift = np.asarray(position, np.float32)
        return Mesh(
            self.vertices @ turn.T + shift,
            self.material,
            self.color,
            self.accent,
            self.origin @ turn.T + shift,
            self.u_axis @ turn.T,
            self.v_axis @ turn.T,
            self.size,
            self.style,
        )

    def repainted(self, color: ArrayLike, material: Material) -> "Mesh":
        """A copy whose triangles of ``material`` have another colour."""
        painted = np.where((self.material == material)[:, None], np.asarray(color, np.float32), self.color)
        return Mesh(**{**self.__dict__, "color": painted.astype(np.float32)})


def rotation_z(angle: float) -> Floats:
    """Rotation about z, [3,3]."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32)


class MeshBuilder:
    """Collects flat pieces; ``build`` gives the :class:`Mesh`."""

    def __init__(self) -> None:
        self._parts: dict[str, list[np.ndarray]] = {field.name: [] for field in fields(Mesh)}

    def polygon(
        self,
        corners: ArrayLike,
        material: Material,
        color: ArrayLike,
        accent: ArrayLike | None = None,
        style: Sequence[float] = (),
    ) -> None:
        """A convex polygon [n,3]; u runs along corner 0 -> 1, v from corner 0 towards the last corner."""
        points = np.asarray(corners, np.float64)
        u = points[1] - points[0]
        width = np.linalg.norm(u)
        u = u / max(width, 1e-9)
        v = points[-1] - points[0]
        v = v - u * (v @ u)
        height = np.linalg.norm(v)
        v = v / max(height, 1e-9)
        extent = ((points - points[0]) @ v).max()
        fan = [[points[0], points[i], points[i + 1]] for i in range(1, len(points) - 1)]
        self._add(np.array(fan), material, color, accent, points[0], u, v, (width, extent), style)

    def triangles(self, vertices: np.ndarray, material: Material, colors: np.ndarray) -> None:
        """Many loose triangles [n,3,3], each with a colour [n,3]; the texture frame is the world's."""
        self._add(vertices, material, colors, None, np.zeros(3), np.eye(3)[0], np.eye(3)[1], (1.0, 1.0), ())

    def box(
        self,
        center: ArrayLike,
        half: ArrayLike,
        heading: float,
        material: Material,
        color: ArrayLike,
        accent: ArrayLike | None = None,
        style: Sequence[float] = (),
        top: tuple[Material, ArrayLike] | None = None,
        taper: float = 1.0,
    ) -> None:
        """A box turned about z, without its underside; the top face is shrunk by ``taper``."""
        hx, hy, hz = np.asarray(half, np.float64)
        signs = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64)
        low = np.column_stack([signs * [hx, hy], np.full(4, -hz)])
        high = np.column_stack([signs * [hx, hy] * taper, np.full(4, hz)])
        turn = rotation_z(heading).astype(np.float64)
        low, high = (side @ turn.T + np.asarray(center, np.float64) for side in (low, high))
        for i in range(4):
            j = (i + 1) % 4
            self.polygon([low[i], low[j], high[j], high[i]], material, color, accent, style)
        lid_material, lid_color = top if top is not None else (material, color)
        self.polygon(high, lid_material, lid_color, accent, style)

    def prism(
        self,
        start: ArrayLike,
        end: ArrayLike,
        radii: tuple[float, float],
        material: Material,
        color: ArrayLike,
        sides: int = 5,
    ) -> None:
        """A tapering rod from ``start`` to ``end`` (posts, trunks, branches)."""
        first, last = np.asarray(start, np.float64), np.asarray(end, np.float64)
        axis = (last - first) / max(float(np.linalg.norm(last - first)), 1e-9)
        helper = np.array([1.0, 0, 0]) if abs(axis[0]) < 0.8 else np.array([0, 1.0, 0])
        a = np.cross(axis, helper)
        a /= np.linalg.norm(a)
        b = np.cross(axis, a)
        angles = np.arange(sides) * (2 * np.pi / sides)
        ring = np.cos(angles)[:, None] * a + np.sin(angles)[:, None] * b
        low, high = first + ring * radii[0], last + ring * radii[1]
        following = np.roll(np.arange(sides), -1)
        faces = np.concatenate(
            [np.stack([low, low[following], high[following]], 1), np.stack([low, high[following], high], 1)]
        )
        self._add(faces, material, color, None, first, a, axis, (radii[0] * 6, np.linalg.norm(last - first)), ())

    def _add(
        self,
        vertices: np.ndarray,
        material: Material,
        color: ArrayLike,
        accent: ArrayLike | None,
        origin: np.ndarray,
        u_axis: np.ndarray,
        v_axis: np.ndarray,
        size: Sequence[float] | tuple,
        style: Sequence[float],
    ) -> None:
        count = len(vertices)
        numbers = np.zeros(STYLE_SIZE, np.float32)
        numbers[: len(style)] = style
        values = {
            "color": color,
            "accent": color if accent is None else accent,
            "origin": origin,
            "u_axis": u_axis,
            "v_axis": v_axis,
            "size": size,
            "style": numbers,
        }
        self._parts["vertices"].append(np.asarray(vertices, np.float32))
        self._parts["material"].append(np.full(count, int(material), np.uint8))
        for name, value in values.items():
            array = np.asarray(value, np.float32)
            self._parts[name].append(np.broadcast_to(array, (count, array.shape[-1])))

    def build(self) -> Mesh:
        """The mesh of everything added so far."""
        return Mesh(**{name: np.concatenate(parts) for name, parts in self._parts.items()})
