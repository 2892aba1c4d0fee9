"""What a surface looks like before light falls on it: colour, mirroring and glow of every hit, by material."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from distilplace.demoworld.conditions import Condition
from distilplace.demoworld.facade import shade_wall
from distilplace.demoworld.mesh import Floats, Material, Mesh
from distilplace.demoworld.textures import cell_hash, fractal, fractal_smooth

SNOW = np.array([0.86, 0.88, 0.92], np.float32)


@dataclass
class Hits:
    """Rays that met something, and what is known about the n points."""

    triangle: np.ndarray  # [n] index into the mesh
    point: Floats  # [n,3]
    normal: Floats  # [n,3] towards the viewer
    view: Floats  # [n,3] unit direction of the ray
    distance: Floats  # [n]


@dataclass
class Surface:
    """Answer of the shaders for n points."""

    albedo: Floats  # [n,3]
    glass: Floats  # [n] share of the sky mirrored (times Fresnel)
    emission: Floats  # [n,3]
    soft: Floats  # [n] 0..1: light passes through or scatters (leaves)


@dataclass
class Points:
    """The points of one material: metres on their piece, and its style."""

    u: Floats
    v: Floats
    size: Floats
    color: Floats
    accent: Floats
    style: Floats
    point: Floats


def shade(mesh: Mesh, hits: Hits, condition: Condition) -> Surface:
    """Colour every hit by its triangle's material, then lay rain and snow over it."""
    count = len(hits.triangle)
    surface = Surface(
        np.empty((count, 3), np.float32),
        np.zeros(count, np.float32),
        np.zeros((count, 3), np.float32),
        np.zeros(count, np.float32),
    )
    material = mesh.material[hits.triangle]
    for kind in np.unique(material):
        at = np.flatnonzero(material == kind)
        triangle, point = hits.triangle[at], hits.point[at]
        offset = point - mesh.origin[triangle]
        points = Points(
            (offset * mesh.u_axis[triangle]).sum(1),
            (offset * mesh.v_axis[triangle]).sum(1),
            mesh.size[triangle],
            mesh.color[triangle],
            mesh.accent[triangle],
            mesh.style[triangle],
            point,
        )
        if kind == Material.WALL:
            albedo, glass, emission = shade_wall(
                points.u, points.v, points.size, points.color, points.accent, points.style, condition.lamps
            )
            surface.albedo[at], surface.glass[at], surface.emission[at] = albedo, glass, emission
            continue
        surface.albedo[at] = _SHADERS.get(Material(kind), _plain)(points)
        surface.glass[at] = _MIRRORING.get(Material(kind), 0.0)
        glow = _GLOW.get(Material(kind))
        if glow is not None and condition.lamps > 0:
            surface.emission[at] = np.array(glow, np.float32) * condition.lamps
        if kind in (Material.LEAF, Material.HEDGE, Material.GRASS):
            surface.soft[at] = 0.6 if kind == Material.LEAF else 0.3
    _apply_weather(surface, hits, material, condition)
    return surface


def _apply_weather(surface: Surface, hits: Hits, material: np.ndarray, condition: Condition) -> None:
    up = np.clip(hits.normal[:, 2], 0, 1)
    x, y = hits.point[:, 0], hits.point[:, 1]
    if condition.wet > 0:
        paved = np.isin(material, (Material.ASPHALT, Material.STREET, Material.PAVEMENT)) & (up > 0.9)
        surface.albedo *= (1 - condition.wet * np.where(paved, 0.45, 0.18))[:, None]
        puddle = fractal_smooth(x, y, 0.9) > 0.56
        surface.glass[paved] = condition.wet * np.where(puddle[paved], 1.0, 0.45)
    if condition.snow > 0:
        patches = fractal(x, y, 3.0) + 0.35 * up
        road = np.isin(material, (Material.ASPHALT, Material.STREET))
        needed = np.where(road, 0.84, 0.52) + 0.35 * (1 - condition.snow)
        cover = np.clip((patches - needed) * 6, 0, 1) * (up > 0.35) * (material != Material.LAMP)
        slush = np.where(road, 0.75, 1.0)[:, None]
        surface.albedo += (SNOW * slush - surface.albedo) * cover[:, None].astype(np.float32)
        surface.glass *= 1 - cover


def _plain(p: Points) -> Floats:
    return p.color


def _asphalt(p: Points) -> Floats:
    x, y = p.point[:, 0], p.point[:, 1]
    grain = 0.75 + 0.5 * fractal(x, y, 14.0)
    worn = 0.85 + 0.35 * fractal(x + 31, y, 1.3)
    return p.color * (grain * worn)[:, None]


def _street(p: Points) -> Floats:
    """Asphalt with wheel tracks, repairs, a dashed middle line, zebra crossings and yellow or white edge lines."""
    albedo = _asphalt(p)
    kind, half, seed = p.style[:, 0], p.style[:, 1], p.style[:, 2]
    u, v = p.u, p.v - half
    track = np.abs(np.abs(np.abs(v) - half * 0.35) - 0.75) < 0.3
    patch = cell_hash(np.floor(u / 3.7), np.floor(v / 1.9), seed) > 0.9
    albedo *= np.where(track, 0.9, 1.0)[:, None] * np.where(patch, 0.68, 1.0)[:, None]
    crack = np.abs(fractal(u, v * 2, 5.0) - 0.5) < 0.012
    albedo *= np.where(crack, 0.6, 1.0)[:, None]
    length = p.size[:, 0]
    end = np.minimum(u, length - u)
    zebra = (end > 0.9) & (end < 3.6) & ((v / 0.62) % 2 < 1) & (cell_hash(seed, u > length / 2, 5) > 0.5)
    dash = (np.abs(v) < 0.08) & (u % 5.0 < 3.0) & (end > 4.5)
    stop = (np.abs(end - 4.3) < 0.16) & (np.abs(v) < half - 2.2)
    edge = (np.abs(np.abs(v) - (half - 0.35)) < 0.06) & (kind >= 1) & (end > 4)
    bays = (np.abs(np.abs(v) - (half - 2.15)) < 0.05) & (kind == 3) & (end > 5) & (u % 1.2 < 0.7)
    fade = 0.25 + 0.75 * np.clip(fractal(u + 7, v, 6.0) * 2.1 - 0.35, 0, 1)
    white = zebra | dash | stop | bays | (edge & (kind == 1))
    albedo = np.where(white[:, None], 0.62 * fade[:, None] + albedo * (1 - fade[:, None]), albedo)
    yellow = edge & (kind >= 2)
    return np.where(yellow[:, None], np.array([0.55, 0.40, 0.05]) * fade[:, None], albedo)


def _pavement(p: Points) -> Floats:
    slab = 0.6
    i, j = np.floor(p.u / slab), np.floor(p.v / slab)
    joint = (p.u - i * slab < 0.03) | (p.v - j * slab < 0.03)
    tone = 0.8 + 0.28 * cell_hash(i, j, 3) + 0.25 * (fractal(p.u, p.v, 6.0) - 0.5)
    return p.color * (tone * np.where(joint, 0.6, 1.0))[:, None]


def _stone(p: Points) -> Floats:
    joint = ((p.u % 0.9) < 0.03) | ((p.v % 0.45) < 0.02)
    return p.color * ((0.8 + 0.4 * fractal(p.u, p.v, 8.0)) * np.where(joint, 0.7, 1.0))[:, None]


def _grass(p: Points) -> Floats:
    x, y = p.point[:, 0], p.point[:, 1]
    blades, patches = fractal(x, y, 16.0), fractal_smooth(x, y, 0.6)
    dry = np.array([0.10, 0.045, 0.01]) * np.clip(patches - 0.5, 0, 1)[:, None] * 2
    return (p.color + dry) * (0.55 + 0.9 * blades)[:, None]


def _roof(p: Points) -> Floats:
    flat = p.style[:, 0] == 1
    row = np.floor(p.v / 0.3)
    along = p.u / 0.28 + 0.5 * (row % 2)
    tile = cell_hash(np.floor(along), row, 5)
    shadow = np.where((p.v - row * 0.3 < 0.06) | (along % 1.0 < 0.12), 0.6, 1.0)
    moss = np.clip(fractal(p.u, p.v + 13, 3.0) - 0.58, 0, 1)[:, None] * np.array([0.10, 0.18, 0.02])
    tiles = p.color * ((0.75 + 0.5 * tile) * shadow)[:, None] + moss
    felt = p.color * (0.7 + 0.5 * fractal(p.point[:, 0], p.point[:, 1], 4.0))[:, None]
    return np.where(flat[:, None], felt, tiles)


def _bark(p: Points) -> Floats:
    angle = np.arctan2((p.point[:, 1] * 7) % 1.0 - 0.5, (p.point[:, 0] * 7) % 1.0 - 0.5)
    return p.color * (0.6 + 0.8 * fractal(angle, p.v * 0.4, 12.0))[:, None]


def _leaf(p: Points) -> Floats:
    x, z = p.point[:, 0] + p.point[:, 1] * 0.6, p.point[:, 2]
    return p.color * (0.35 + 1.3 * fractal(x, z, 22.0))[:, None]


def _hedge(p: Points) -> Floats:
    leaves = fractal(p.u + p.point[:, 2], p.v + p.point[:, 0], 18.0)
    return p.color * (0.3 + 1.4 * leaves)[:, None]


def _wood(p: Points) -> Floats:
    striped = (p.style[:, 0] == 1) & ((p.u / 0.3) % 2 < 1)
    grain = 0.75 + 0.45 * fractal(p.u * 4, p.v * 0.4, 10.0)
    return np.where(striped[:, None], p.accent, p.color) * grain[:, None]


def _wheel(p: Points) -> Floats:
    return p.color * (0.8 + 0.4 * fractal(p.u, p.v, 10.0))[:, None]


def _hill(p: Points) -> Floats:
    x = np.hypot(p.point[:, 0], p.point[:, 1]) * 0 + np.arctan2(p.point[:, 1], p.point[:, 0]) * 200
    return p.color * (0.5 + fractal(x, p.point[:, 2] * 2.5, 0.35))[:, None]


_SHADERS: dict[Material, Callable[[Points], Floats]] = {
    Material.ASPHALT: _asphalt,
    Material.STREET: _street,
    Material.PAVEMENT: _pavement,
    Material.STONE: _stone,
    Material.GRASS: _grass,
    Material.ROOF: _roof,
    Material.BARK: _bark,
    Material.LEAF: _leaf,
    Material.HEDGE: _hedge,
    Material.WOOD: _wood,
    Material.RUBBER: _wheel,
    Material.HILL: _hill,
}
_MIRRORING = {Material.PAINT: 0.55, Material.GLASS: 1.0, Material.HEADLIGHT: 0.5}
_GLOW = {Material.LAMP: (9.0, 6.6, 3.9), Material.HEADLIGHT: (4.0, 3.8, 3.4), Material.TAILLIGHT: (1.6, 0.05, 0.03)}
