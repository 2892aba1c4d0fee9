"""Houses: walls whose windows, doors and bricks the facade shader draws; roofs, porches, bays and chimneys as shapes.

A town has few house types and long terraces of the same one, so that facades repeat from street to street while gaps,
setbacks and heights do not: images alias, geometry tells places apart.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from distilplace.demoworld.mesh import Material, MeshBuilder

PAVEMENT_HEIGHT = 0.12
PLASTER, BRICK, STONE, BOARDS = range(4)
HOUSE, SHOP, HALL, BLANK = range(4)

WALL_COLORS = {
    BRICK: [(0.42, 0.17, 0.11), (0.50, 0.25, 0.15), (0.36, 0.15, 0.12), (0.55, 0.38, 0.22), (0.30, 0.20, 0.16)],
    PLASTER: [(0.78, 0.72, 0.60), (0.72, 0.74, 0.72), (0.74, 0.58, 0.38), (0.55, 0.65, 0.68), (0.76, 0.52, 0.45)],
    STONE: [(0.58, 0.50, 0.36), (0.52, 0.49, 0.43), (0.62, 0.55, 0.42)],
    BOARDS: [(0.60, 0.62, 0.60), (0.38, 0.46, 0.42), (0.58, 0.30, 0.22)],
}
ROOF_COLORS = [(0.28, 0.12, 0.08), (0.16, 0.16, 0.18), (0.22, 0.17, 0.14), (0.34, 0.18, 0.11)]
DOOR_COLORS = [(0.45, 0.05, 0.05), (0.05, 0.15, 0.30), (0.05, 0.22, 0.12), (0.25, 0.14, 0.07), (0.75, 0.72, 0.66)]
SIGN_COLORS = [(0.55, 0.08, 0.06), (0.06, 0.18, 0.42), (0.08, 0.32, 0.16), (0.72, 0.52, 0.08), (0.15, 0.15, 0.17)]


@dataclass(frozen=True)
class HouseType:
    """What houses of one kind share; metres."""

    texture: int
    ground: int  # HOUSE or SHOP
    color: tuple[float, float, float]
    trim: tuple[float, float, float]
    roof_color: tuple[float, float, float]
    roof: str  # "gable", "front", "hip" or "flat"
    floors: int
    floor_height: float
    bay: float  # distance between windows
    window: tuple[float, float]  # share of the bay and of the floor
    width: float
    has_bay_window: bool
    has_porch: bool
    chimney: bool


def house_types(random: np.random.Generator, count: int = 9) -> list[HouseType]:
    """The house types of a town."""
    types = []
    for n in range(count):
        texture = [BRICK, PLASTER, BRICK, STONE, PLASTER, BRICK, PLASTER, BOARDS, STONE][n % 9]
        shop = n % 4 == 1
        palette = WALL_COLORS[texture]
        bright = random.uniform(0.62, 0.85)
        types.append(
            HouseType(
                texture=texture,
                ground=SHOP if shop else HOUSE,
                color=palette[random.integers(len(palette))],
                trim=(bright, bright * 0.97, bright * 0.9),
                roof_color=ROOF_COLORS[random.integers(len(ROOF_COLORS))],
                roof=str(random.choice(["gable", "gable", "front", "hip", "flat"])) if not shop else "flat",
                floors=int(random.integers(2, 4)) + int(shop),
                floor_height=float(random.uniform(2.8, 3.3)),
                bay=float(random.uniform(2.0, 3.0)),
                window=(float(random.uniform(0.38, 0.62)), float(random.uniform(0.45, 0.6))),
                width=float(random.uniform(5.5, 9.0)) + 2.0 * shop,
                has_bay_window=not shop and bool(random.random() < 0.4),
                has_porch=not shop and bool(random.random() < 0.5),
                chimney=bool(random.random() < 0.6),
            )
        )
    return types


def varied(kind: HouseType, random: np.random.Generator) -> HouseType:
    """A house of the type with its own colours, height and width."""
    shade = random.uniform(0.8, 1.2) * np.array(kind.color) * random.uniform(0.93, 1.07, 3)
    return replace(
        kind,
        color=tuple(np.clip(shade, 0.05, 0.85)),
        roof_color=ROOF_COLORS[random.integers(len(ROOF_COLORS))],
        floors=max(1, kind.floors + int(random.integers(-1, 2))),
        width=kind.width * random.uniform(0.8, 1.4),
        has_bay_window=kind.has_bay_window and bool(random.random() < 0.7),
    )


@dataclass(frozen=True)
class Plot:
    """Where a house stands: its front left corner seen from the house, the front's direction, and inwards; [2] each."""

    corner: np.ndarray
    along: np.ndarray
    inward: np.ndarray
    width: float
    depth: float

    def point(self, u: float, w: float, z: float) -> np.ndarray:
        """World position [3] of u metres along the front, w metres inwards, z metres up."""
        return np.append(self.corner + self.along * u + self.inward * w, z)

    @property
    def heading(self) -> float:
        """Angle of the front's direction."""
        return float(np.arctan2(self.along[1], self.along[0]))


def add_house(builder: MeshBuilder, plot: Plot, kind: HouseType, random: np.random.Generator) -> None:
    """Walls, roof and extras of one house."""
    base, height = 0.0, 0.4 + kind.floors * kind.floor_height + (0.8 if kind.roof == "flat" else 0.1)
    seed = float(random.integers(1, 4096))
    door = DOOR_COLORS[random.integers(len(DOOR_COLORS))]
    sign = SIGN_COLORS[random.integers(len(SIGN_COLORS))]
    w, d = plot.width, plot.depth
    ring = [(0.0, 0.0), (w, 0.0), (w, d), (0.0, d)]
    bays = max(1, round(w / kind.bay))
    for side, ((u0, v0), (u1, v1)) in enumerate(zip(ring, ring[1:] + ring[:1], strict=True)):
        front = side == 0
        ground = kind.ground if front else BLANK
        spacing = w / bays if front else max(2.6, d / max(1, round(d / 3.4)))
        glazing = kind.window[0] * (1.0 if front else 0.6)
        style = (kind.texture, kind.floor_height, spacing, glazing, kind.window[1], seed + side, ground, kind.floors)
        corners = [plot.point(u0, v0, base), plot.point(u1, v1, base), plot.point(u1, v1, height)]
        corners.append(plot.point(u0, v0, height))
        accent = (sign if kind.ground == SHOP else door) if front else kind.trim
        builder.polygon(corners, Material.WALL, kind.color, accent, style)
    _add_roof(builder, plot, kind, height)
    if kind.chimney and kind.roof != "flat":
        spot = plot.point(random.choice([0.6, w - 0.6]), d * random.uniform(0.4, 0.6), height + d * 0.28 + 0.5)
        builder.box(spot, (0.45, 0.35, 1.3), plot.heading, Material.WALL, (0.36, 0.17, 0.12), style=_plain(BRICK))
        builder.box(spot + np.array([0, 0, 1.5]), (0.15, 0.15, 0.25), plot.heading, Material.PLAIN, (0.45, 0.22, 0.14))
    if kind.has_bay_window:
        _add_bay_window(builder, plot, kind, seed)
    if kind.has_porch:
        _add_porch(builder, plot, kind)
    if kind.ground == SHOP and random.random() < 0.7:
        _add_awning(builder, plot, sign if random.random() < 0.5 else kind.trim)


def _plain(texture: int) -> tuple[float, ...]:
    return (texture, 3.0, 3.0, 0.0, 0.0, 0.0, BLANK, 0)


def _add_roof(builder: MeshBuilder, plot: Plot, kind: HouseType, height: float) -> None:
    w, d, eave = plot.width, plot.depth, 0.35
    if kind.roof == "flat":
        builder.polygon([plot.point(u, v, height - 0.5) for u, v in ((0, 0), (w, 0), (w, d), (0, d))], Material.ROOF,
                        (0.3, 0.3, 0.3), style=(1,))  # fmt: skip
        return
    side = kind.roof == "gable"
    rise = (d if side else w) * 0.42 if kind.roof != "hip" else min(w, d) * 0.35
    drop = rise * 2 / (d if side else w) * eave
    low, top = height - drop, height + rise
    corner = [
        plot.point(u, v, low) for u, v in ((-0.05, -eave), (w + 0.05, -eave), (w + 0.05, d + eave), (-0.05, d + eave))
    ]
    if kind.roof == "hip":
        corner = [
            plot.point(u, v, low)
            for u, v in ((-eave, -eave), (w + eave, -eave), (w + eave, d + eave), (-eave, d + eave))
        ]
        a, b = (plot.point(min(w, d) / 2, d / 2, top), plot.point(w - min(w, d) / 2, d / 2, top))
        if w < d:
            a, b = plot.point(w / 2, w / 2, top), plot.point(w / 2, d - w / 2, top)
            faces = [[corner[0], corner[1], a], [corner[1], corner[2], b, a], [corner[2], corner[3], b]]
            faces.append([corner[3], corner[0], a, b])
        else:
            faces = [[corner[0], corner[1], b, a], [corner[1], corner[2], b], [corner[2], corner[3], a, b]]
            faces.append([corner[3], corner[0], a])
        for face in faces:
            builder.polygon(face, Material.ROOF, kind.roof_color)
        return
    walls: list[list[np.ndarray]]
    if side:
        a, b = plot.point(-0.05, d / 2, top), plot.point(w + 0.05, d / 2, top)
        faces = [[corner[0], corner[1], b, a], [corner[2], corner[3], a, b]]
        walls = [[plot.point(u, 0, height), plot.point(u, d, height), plot.point(u, d / 2, top)] for u in (0.0, w)]
    else:
        a, b = plot.point(w / 2, -eave, top), plot.point(w / 2, d + eave, top)
        corner = [
            plot.point(u, v, low)
            for u, v in ((-eave, -eave), (w + eave, -eave), (w + eave, d + eave), (-eave, d + eave))
        ]
        faces = [[corner[3], corner[0], a, b], [corner[1], corner[2], b, a]]
        walls = [[plot.point(0, v, height), plot.point(w, v, height), plot.point(w / 2, v, top)] for v in (0.0, d)]
    for face in faces:
        builder.polygon(face, Material.ROOF, kind.roof_color)
    for wall in walls:
        builder.polygon(wall, Material.WALL, kind.color, style=_plain(kind.texture))


def _add_bay_window(builder: MeshBuilder, plot: Plot, kind: HouseType, seed: float) -> None:
    """A glazed box in front of the right part of the house, one or two floors high."""
    width, depth = min(2.4, plot.width * 0.4), 0.8
    height = 0.4 + kind.floor_height * min(2, kind.floors - 1 or 1)
    left = plot.width - width - 0.5
    ring = [(left, 0.05), (left + 0.4, -depth), (left + width - 0.4, -depth), (left + width, 0.05)]
    for start, end in pairwise(ring):
        span = float(np.hypot(end[0] - start[0], end[1] - start[1]))
        style = (kind.texture, kind.floor_height, span, 0.75, kind.window[1] + 0.08, seed, BLANK, 2)
        corners = [plot.point(*start, 0.0), plot.point(*end, 0.0), plot.point(*end, height), plot.point(*start, height)]
        builder.polygon(corners, Material.WALL, kind.color, kind.trim, style)
    builder.polygon([plot.point(*spot, height) for spot in ring], Material.ROOF, kind.roof_color, style=(1,))


def _add_porch(builder: MeshBuilder, plot: Plot, kind: HouseType) -> None:
    middle, depth = min(1.3, plot.width / 4), 1.1
    roof = np.array(kind.roof_color)
    builder.box(
        plot.point(middle, -depth / 2, 2.65), (0.95, depth / 2, 0.12), plot.heading, Material.ROOF, roof, taper=0.8
    )
    for u in (middle - 0.8, middle + 0.8):
        builder.prism(
            plot.point(u, -depth + 0.15, 0), plot.point(u, -depth + 0.15, 2.6), (0.08, 0.08), Material.PLAIN, kind.trim
        )


def _add_awning(builder: MeshBuilder, plot: Plot, color: np.ndarray | tuple[float, ...]) -> None:
    u0, u1 = 0.5, plot.width - 0.5
    corners = [
        plot.point(u0, -1.3, 2.5),
        plot.point(u1, -1.3, 2.5),
        plot.point(u1, 0.0, 3.05),
        plot.point(u0, 0.0, 3.05),
    ]
    builder.polygon(corners, Material.WOOD, color, (0.8, 0.78, 0.72), style=(1,))
    edge = [
        plot.point(u0, -1.3, 2.28),
        plot.point(u1, -1.3, 2.28),
        plot.point(u1, -1.3, 2.5),
        plot.point(u0, -1.3, 2.5),
    ]
    builder.polygon(edge, Material.WOOD, color, (0.8, 0.78, 0.72), style=(1,))
