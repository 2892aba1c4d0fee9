"""The lasting part of a town: ground, houses, trees' wood, posts and hedges; and where trees, lamps and cars belong."""

from dataclasses import dataclass, field

import numpy as np

from distilplace.common.randomness import generator
from distilplace.demoworld import furniture
from distilplace.demoworld.buildings import (
    PAVEMENT_HEIGHT,
    SHOP,
    SIGN_COLORS,
    HouseType,
    Plot,
    add_house,
    house_types,
    varied,
)
from distilplace.demoworld.furniture import BARK, Tree
from distilplace.demoworld.layout import SPACING, Block, Layout, Route, Street, make_layout
from distilplace.demoworld.mesh import Floats, Material, Mesh, MeshBuilder

CAR_PITCH = 5.9
HORIZON = 420.0


@dataclass
class Town:
    """Everything that stays between traversals."""

    seed: int
    layout: Layout
    mesh: Mesh
    trees: list[Tree]
    lamps: Floats  # [n,3] where street lamps shine
    car_slots: Floats  # [n,3] x, y, heading of parking places

    @property
    def route(self) -> Route:
        """The lane that is driven."""
        return self.layout.route


@dataclass
class _Site:
    """What the builders below share."""

    seed: int
    builder: MeshBuilder
    types: list[HouseType]
    trees: list[Tree] = field(default_factory=list)
    lamps: list[np.ndarray] = field(default_factory=list)
    cars: list[tuple[float, float, float]] = field(default_factory=list)

    def plant(self, spot: np.ndarray, random: np.random.Generator, tall: float = 1.0, evergreen: float = 0.12) -> None:
        species = 3 if random.random() < evergreen else int(random.integers(3))
        height = float(random.uniform(5.5, 8.5)) * tall
        crown = height * float(random.uniform(0.25, 0.36)) * (0.6 if species == 3 else 1.0)
        tree = Tree(float(spot[0]), float(spot[1]), height, crown, species, len(self.trees))
        self.trees.append(tree)
        furniture.add_tree_wood(self.builder, tree, generator("demo", self.seed, "tree", tree.number))


def make_town(seed: int) -> Town:
    """The town of a demo seed."""
    layout = make_layout(seed)
    random = generator("demo", seed, "town")
    site = _Site(seed, MeshBuilder(), house_types(random))
    _add_ground(site, layout, random)
    kinds = _block_kinds(layout, random)
    for block in layout.blocks:
        _furnish_block(site, block, kinds[block.cell], random)
    for street in layout.streets:
        _furnish_street(site, street, random)
    return Town(
        seed,
        layout,
        site.builder.build(),
        site.trees,
        np.array(site.lamps, np.float32),
        np.array(site.cars, np.float32),
    )


def _block_kinds(layout: Layout, random: np.random.Generator) -> dict[tuple[int, int], str]:
    """What each block is: a park and a church square among the inner blocks, houses elsewhere."""
    cells = [block.cell for block in layout.blocks]
    inner = [cell for cell in cells if all(1 <= c <= 3 for c in cell)]
    special = [inner[i] for i in random.permutation(len(inner))[:3]]
    kinds = {cell: str(random.choice(["terraces", "terraces", "mixed", "shops"])) for cell in cells}
    kinds.update(zip(special, ["park", "church", "mixed"], strict=True))
    return kinds


def _flat(points: np.ndarray, z: float) -> np.ndarray:
    return np.column_stack([points, np.full(len(points), z)])


def _add_ground(site: _Site, layout: Layout, random: np.random.Generator) -> None:
    far = HORIZON * 1.5
    square = np.array([[-far, -far], [far, -far], [far, far], [-far, far]])
    site.builder.polygon(_flat(square, 0.0), Material.ASPHALT, (0.115, 0.115, 0.12))
    for street in layout.streets:
        d = street.direction
        side = np.array([-d[1], d[0]]) * street.half_width
        a, b = street.start + d * 7.2, street.end - d * 7.2
        corners = np.array([a - side, b - side, b + side, a + side])
        shade = random.uniform(0.85, 1.2)
        style = (float(random.integers(4)), street.half_width, float(random.integers(1, 4096)))
        site.builder.polygon(_flat(corners, 0.01), Material.STREET, np.array([0.115, 0.115, 0.12]) * shade, style=style)
    for block in layout.blocks:
        site.builder.polygon(_flat(block.kerb, PAVEMENT_HEIGHT), Material.PAVEMENT, (0.30, 0.29, 0.27))
        for i in range(4):
            a, b = block.kerb[i], block.kerb[(i + 1) % 4]
            face = [np.append(a, 0), np.append(b, 0), np.append(b, PAVEMENT_HEIGHT), np.append(a, PAVEMENT_HEIGHT)]
            site.builder.polygon(face, Material.STONE, (0.42, 0.41, 0.39))
        site.builder.polygon(_flat(block.yard, PAVEMENT_HEIGHT + 0.02), Material.GRASS, (0.10, 0.17, 0.06))
    _add_horizon(site, random)


def _add_horizon(site: _Site, random: np.random.Generator) -> None:
    """Hills and a line of woods far outside the town."""
    for radius, low, high, color in ((HORIZON, 14, 46, (0.16, 0.22, 0.17)), (HORIZON * 0.6, 6, 13, (0.10, 0.15, 0.08))):
        angles = np.linspace(0, 2 * np.pi, 97)
        waves = sum(random.normal() / n * np.sin(n * angles + random.uniform(0, 6)) for n in range(1, 9))
        wave = np.asarray(waves)
        heights = low + (high - low) * (wave - wave.min()) / (np.ptp(wave) + 1e-9)
        heights[-1] = heights[0]
        ring = np.column_stack([np.cos(angles), np.sin(angles)]) * radius
        for i in range(96):
            low_edge = [np.append(ring[i], -2), np.append(ring[i + 1], -2)]
            high_edge = [np.append(ring[i + 1], heights[i + 1]), np.append(ring[i], heights[i])]
            site.builder.polygon(low_edge + high_edge, Material.HILL, color)


def _furnish_block(site: _Site, block: Block, kind: str, random: np.random.Generator) -> None:
    if kind == "park":
        _add_park(site, block, random)
        return
    if kind == "church":
        _add_church(site, block, random)
        return
    for i in range(4):
        a, b = block.yard[i], block.yard[(i + 1) % 4]
        terrace = site.types[int(random.integers(3))] if kind == "terraces" or random.random() < 0.3 else None
        _add_row(site, a, b, kind, terrace, random)
    middle = block.yard.mean(0)
    for _ in range(3):
        site.plant(middle + random.uniform(-7, 7, 2), random, 1.25)


def _add_row(
    site: _Site, start: np.ndarray, end: np.ndarray, kind: str, terrace: HouseType | None, random: np.random.Generator
) -> None:
    """Houses, gaps and front gardens along one side of a block."""
    length = float(np.linalg.norm(end - start))
    along = (end - start) / length
    inward = np.array([-along[1], along[0]])
    setback = 0.0 if kind == "shops" else float(random.choice([0.0, 0.3, 2.2, 3.2, 4.2]))
    border = str(random.choice(["hedge", "wall", "fence", "none"]))
    u = 0.0
    while u < length - 4:
        if random.random() < (0.10 if terrace else 0.2):
            u += _add_gap(site, start + along * u, along, inward, float(random.uniform(2.5, 8.0)), random)
            continue
        if terrace:
            house = terrace
        else:
            shops = (
                [t for t in site.types if t.ground == SHOP]
                if kind == "shops" and random.random() < 0.75
                else site.types
            )
            house = varied(shops[int(random.integers(len(shops)))], random)
        width = house.width
        if length - u - width < 3:
            width = length - u
        if width > 14:
            width = width / 2
        back = (0.0 if house.ground == SHOP else setback) + (0.0 if terrace else float(random.uniform(0, 0.9)))
        plot = Plot(start + along * u + inward * back, along, inward, width, float(random.uniform(8.5, 11)))
        add_house(site.builder, plot, house, random)
        if back > 1.5:
            _add_front_garden(site, plot, back, border, random)
        u += width


def _add_gap(
    site: _Site, spot: np.ndarray, along: np.ndarray, inward: np.ndarray, width: float, random: np.random.Generator
) -> float:
    """An opening between houses, closed by a fence, a hedge or nothing, perhaps with a tree; returns its width."""
    choice = random.random()
    a, b = spot + inward * 0.6, spot + along * width + inward * 0.6
    if choice < 0.4:
        tint = tuple(np.array([(0.26, 0.17, 0.1), (0.12, 0.2, 0.14), (0.5, 0.5, 0.48)])[random.integers(3)])
        furniture.add_fence(site.builder, a, b, float(random.uniform(1.2, 2.0)), tint)
    elif choice < 0.65:
        furniture.add_hedge(site.builder, a, b, float(random.uniform(1.0, 2.2)), (0.07, 0.15, 0.05))
    if width > 4 and random.random() < 0.8:
        site.plant(spot + along * width / 2 + inward * random.uniform(3, 6), random)
    return width


def _add_front_garden(site: _Site, plot: Plot, depth: float, border: str, random: np.random.Generator) -> None:
    a = plot.corner - plot.inward * (depth - 0.25)
    path = 1.6 if plot.width > 5 else 1.2
    b, c, d = a + plot.along * 0.6, a + plot.along * (0.6 + path), a + plot.along * plot.width
    for start, end in ((a, b), (c, d)):
        if border == "hedge":
            furniture.add_hedge(site.builder, start, end, float(random.uniform(0.8, 1.4)), (0.07, 0.15, 0.05))
        elif border == "wall":
            furniture.add_garden_wall(site.builder, start, end, 0.85, (0.42, 0.2, 0.13))
        elif border == "fence":
            furniture.add_fence(site.builder, start, end, 1.05, (0.62, 0.61, 0.57))
    slab = [b, c, c + plot.inward * depth, b + plot.inward * depth]
    site.builder.polygon(_flat(np.array(slab), PAVEMENT_HEIGHT + 0.035), Material.PAVEMENT, (0.3, 0.28, 0.26))
    if depth > 3 and random.random() < 0.35:
        site.plant(plot.corner + plot.along * plot.width * 0.75 - plot.inward * depth * 0.45, random, 0.65, 0.3)


def _add_park(site: _Site, block: Block, random: np.random.Generator) -> None:
    middle = block.yard.mean(0)
    for i in range(4):
        a, b = block.yard[i], block.yard[(i + 1) % 4]
        span = b - a
        furniture.add_hedge(site.builder, a + span * 0.04, a + span * 0.42, 0.9, (0.08, 0.16, 0.05))
        if i % 2:
            furniture.add_fence(site.builder, a + span * 0.58, a + span * 0.96, 1.1, (0.06, 0.07, 0.07))
    for _ in range(26):
        u, v = random.uniform(0.06, 0.94, 2)
        bottom = block.yard[0] * (1 - u) + block.yard[1] * u
        top = block.yard[3] * (1 - u) + block.yard[2] * u
        spot = bottom * (1 - v) + top * v
        if np.linalg.norm(spot - middle) > 6:
            site.plant(spot, random, float(random.uniform(0.9, 1.5)), 0.25)
    site.builder.box(np.append(middle, 0.7), (2.4, 2.4, 0.6), 0.3, Material.STONE, (0.5, 0.47, 0.42), taper=0.8)
    site.builder.prism(
        np.append(middle, 1.2), np.append(middle, 6.5), (0.7, 0.35), Material.STONE, (0.5, 0.47, 0.42), 8
    )
    for i in range(6):
        angle = i * np.pi / 3
        furniture.add_bench(site.builder, middle + 7.5 * np.array([np.cos(angle), np.sin(angle)]), angle + np.pi / 2)


def _add_church(site: _Site, block: Block, random: np.random.Generator) -> None:
    """A church with a tower and spire on an open, paved square."""
    site.builder.polygon(_flat(block.yard, PAVEMENT_HEIGHT + 0.03), Material.PAVEMENT, (0.36, 0.34, 0.30))
    middle = block.yard.mean(0)
    along = block.yard[1] - block.yard[0]
    along = along / np.linalg.norm(along)
    inward = np.array([-along[1], along[0]])
    church = HouseType(
        2, 2, (0.55, 0.48, 0.35), (0.62, 0.56, 0.44), (0.2, 0.2, 0.22), "front", 1, 8.0, 2.6, (0.34, 0.62), 11.0,
        False, False, False)  # fmt: skip
    corner = middle - along * 5.5 - inward * 8
    add_house(site.builder, Plot(corner, along, inward, 11.0, 22.0), church, random)
    foot = corner - along * 2.6
    style = (2.0, 6.0, 2.6, 0.3, 0.5, 77.0, 2.0, 3.0)
    heading = float(np.arctan2(along[1], along[0]))
    site.builder.box(np.append(foot, 9.0), (2.6, 2.6, 9.0), heading, Material.WALL, (0.55, 0.48, 0.35), style=style)
    site.builder.box(np.append(foot, 21.5), (2.8, 2.8, 3.5), heading, Material.ROOF, (0.2, 0.22, 0.22), taper=0.02)
    for i in range(4):
        a, b = block.yard[i], block.yard[(i + 1) % 4]
        for share in np.arange(0.08, 1.0, 0.22):
            if random.random() < 0.75:
                site.plant(a + (b - a) * share + (middle - a) * 0.06, random, 0.95)
        if random.random() < 0.6:
            furniture.add_garden_wall(site.builder, a + (b - a) * 0.3, a + (b - a) * 0.7, 0.8, (0.5, 0.45, 0.36))


def _furnish_street(site: _Site, street: Street, random: np.random.Generator) -> None:
    """Parking places, lamps, street trees, signs and shelters on both sides."""
    if max(np.abs((street.start + street.end) / 2)) > SPACING * 2.9:
        return
    along = street.direction
    leafy = random.random() < 0.3
    for sign in (1.0, -1.0):
        outward = sign * np.array([-along[1], along[0]])
        kerb = street.start + outward * street.half_width
        heading = float(np.arctan2(along[1], along[0])) + (0.0 if sign > 0 else np.pi)
        phase = 12 + float(random.uniform(0, 4))
        parking = random.random() < 0.75
        for u in np.arange(phase, street.length - 13, CAR_PITCH):
            if parking and random.random() < 0.8:
                spot = kerb + along * u - outward * 1.02
                site.cars.append((float(spot[0]), float(spot[1]), heading))
        start = 10.0 if sign > 0 else 24.0
        for u in np.arange(start, street.length - 8, 28.0):
            site.lamps.append(furniture.add_lamp_post(site.builder, kerb + along * u + outward * 0.45, -outward))
        if leafy:
            for u in np.arange(14 + random.uniform(0, 6), street.length - 10, float(random.uniform(8, 13))):
                site.plant(kerb + along * (u + 2.4) + outward * 0.9, random, 0.85, 0.0)
        _add_roadside(site, street, kerb, along, outward, heading, random)


def _add_roadside(
    site: _Site,
    street: Street,
    kerb: np.ndarray,
    along: np.ndarray,
    outward: np.ndarray,
    heading: float,
    random: np.random.Generator,
) -> None:
    spots = random.uniform(0.15, 0.85, 3) * street.length
    if random.random() < 0.25:
        poster = SIGN_COLORS[int(random.integers(len(SIGN_COLORS)))]
        furniture.add_shelter(site.builder, kerb + along * spots[0] + outward * 1.1, heading, poster)
    if random.random() < 0.7:
        color = [(0.6, 0.04, 0.04), (0.05, 0.15, 0.5)][int(random.integers(2))]
        facing = heading + np.pi
        furniture.add_sign(
            site.builder, kerb + along * spots[1] + outward * 0.5, facing, color, bool(random.random() < 0.6)
        )
    if random.random() < 0.5:
        spot = np.append(kerb + along * spots[2] + outward * 0.6, 0.6)
        color = [(0.5, 0.04, 0.03), (0.05, 0.14, 0.08), (0.08, 0.08, 0.09)][int(random.integers(3))]
        site.builder.box(spot, (0.25, 0.25, 0.55), heading, Material.PLAIN, color, taper=0.9)
    if random.random() < 0.2:
        pole = kerb + along * (spots[0] + 3) + outward * 0.7
        site.builder.prism(np.append(pole, 0), np.append(pole, 7.5), (0.13, 0.1), Material.BARK, BARK, 6)
