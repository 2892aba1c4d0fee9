"""Street furniture: trees with leaves and branches, parked cars, lamp posts, hedges, fences, benches, bins, signs."""

from dataclasses import dataclass

import numpy as np

from distilplace.demoworld.buildings import PAVEMENT_HEIGHT
from distilplace.demoworld.mesh import Material, Mesh, MeshBuilder

CAR_COLORS = np.array(
    [(0.55, 0.56, 0.58), (0.06, 0.06, 0.07), (0.75, 0.75, 0.74), (0.42, 0.04, 0.04), (0.05, 0.10, 0.32),
     (0.20, 0.21, 0.22), (0.10, 0.25, 0.16), (0.62, 0.50, 0.30), (0.12, 0.28, 0.42)], np.float32)  # fmt: skip
LEAF_COLORS = {
    "summer": [(0.10, 0.22, 0.05), (0.14, 0.26, 0.07), (0.08, 0.18, 0.06)],
    "spring": [(0.20, 0.34, 0.08), (0.26, 0.36, 0.10), (0.45, 0.32, 0.34)],
    "autumn": [(0.42, 0.20, 0.04), (0.50, 0.34, 0.06), (0.30, 0.10, 0.04)],
    "winter": [(0.16, 0.12, 0.06), (0.18, 0.13, 0.07), (0.12, 0.10, 0.05)],
}
EVERGREEN = (0.05, 0.12, 0.05)
BARK = (0.16, 0.12, 0.09)


@dataclass(frozen=True)
class Tree:
    """A tree's place and shape; metres. ``species`` 0..2 broad-leaved, 3 evergreen."""

    x: float
    y: float
    height: float
    crown: float
    species: int
    number: int


def add_tree_wood(builder: MeshBuilder, tree: Tree, random: np.random.Generator) -> None:
    """Trunk and branches."""
    base = np.array([tree.x, tree.y, 0.0])
    fork = base + np.array([random.uniform(-0.2, 0.2), random.uniform(-0.2, 0.2), tree.height * 0.42])
    thick = 0.05 + tree.height * 0.018
    builder.prism(base, fork, (thick, thick * 0.75), Material.BARK, BARK, 6)
    if tree.species == 3:
        return
    for n in range(7):
        angle = n * 2.4 + random.uniform(0, 1)
        reach = tree.crown * random.uniform(0.55, 0.95)
        tip = fork + np.array([np.cos(angle) * reach, np.sin(angle) * reach, tree.height * random.uniform(0.2, 0.52)])
        builder.prism(fork - [0, 0, random.uniform(0, 0.8)], tip, (thick * 0.5, 0.03), Material.BARK, BARK, 3)
        for _ in range(3):
            start = fork + (tip - fork) * random.uniform(0.4, 0.8)
            twig = start + random.normal(0, 0.28, 3) * tree.crown + [0, 0, 0.5]
            builder.prism(start, twig, (0.05, 0.02), Material.BARK, BARK, 3)


def leaf_triangles(
    tree: Tree, season: str, foliage: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Loose leaf tufts [n,3,3] with colours [n,3]; ``foliage`` 0..1 is the share that hangs on the tree."""
    count = 300
    evergreen = tree.species == 3
    keep = random.random(count) < (1.0 if evergreen else foliage)
    if evergreen:
        level = random.random(count)
        angle, reach = random.uniform(0, 2 * np.pi, count), (1 - level) ** 0.8 * random.uniform(0.6, 1, count)
        points = np.column_stack([np.cos(angle) * reach, np.sin(angle) * reach, level * 2 - 1])
    else:
        tufts = random.normal(0, 1, (14, 3))
        tufts *= random.uniform(0.5, 0.8, (14, 1)) / np.linalg.norm(tufts, axis=1, keepdims=True)
        points = tufts[random.integers(14, size=count)] + random.normal(0, 0.2, (count, 3))
    span = np.array([tree.crown, tree.crown, tree.height * (0.44 if evergreen else 0.34)])
    middle = np.array([tree.x, tree.y, tree.height * (0.54 if evergreen else 0.68)])
    centers = middle + points * span
    corners = random.normal(0, 1, (count, 3, 3))
    corners /= np.linalg.norm(corners, axis=2, keepdims=True)
    size = (0.30 + 0.12 * tree.crown) * random.uniform(0.6, 1.2, (count, 1, 1))
    tone = EVERGREEN if evergreen else LEAF_COLORS[season][tree.species]
    light = random.uniform(0.65, 1.35, (count, 1)) * (0.8 + 0.35 * points[:, 2:3])
    colors = np.clip(np.array(tone) * light * random.uniform(0.88, 1.12, (count, 3)), 0.01, 0.9)
    return (centers[:, None] + corners * size)[keep], colors[keep]


def car_mesh(style: int) -> Mesh:
    """A car of one of three shapes, pointing to +x, wheels on z = 0; its paint is recoloured where it is placed."""
    builder = MeshBuilder()
    length, width, height, nose = [(4.2, 1.72, 1.45, 0.62), (3.7, 1.66, 1.52, 0.70), (5.0, 1.9, 2.2, 0.95)][style]
    half = width / 2
    paint, glass, dark = (0.5, 0.5, 0.5), (0.03, 0.035, 0.04), (0.02, 0.02, 0.02)
    front, rear = length / 2, -length / 2
    builder.box(
        (0, 0, (nose + 0.25) / 2), (front, half, (nose + 0.2 - 0.25) / 2 + 0.05), 0.0, Material.PAINT, paint, taper=0.97
    )
    hood = nose + 0.14
    a, b = [(rear + 0.35, front - 1.1), (rear + 0.12, front - 0.95), (rear + 0.05, front - 0.7)][style]
    roof_a, roof_b = a + (0.7 if style == 0 else 0.3), b - (0.75 if style < 2 else 0.4)
    low = [[a, -half, hood], [b, -half, hood], [b, half, hood], [a, half, hood]]
    top = [
        [roof_a, -half + 0.2, height],
        [roof_b, -half + 0.2, height],
        [roof_b, half - 0.2, height],
        [roof_a, half - 0.2, height],
    ]
    for i in range(4):
        j = (i + 1) % 4
        builder.polygon([low[i], low[j], top[j], top[i]], Material.GLASS, glass, paint)
    builder.polygon(top, Material.PAINT, paint)
    for x in (front - 0.75, rear + 0.75):
        for y in (-half + 0.02, half - 0.22):
            builder.prism((x, y, 0.31), (x, y + 0.2, 0.31), (0.31, 0.31), Material.RUBBER, dark, 8)
            side = y - 0.012 if y < 0 else y + 0.212
            ring = [(x + 0.28 * np.cos(t), side, 0.31 + 0.28 * np.sin(t)) for t in np.arange(8) * np.pi / 4]
            builder.polygon(ring, Material.RUBBER, dark, (0.35, 0.35, 0.36))
            hub = [
                (x + 0.17 * np.cos(t), side + (-0.01 if y < 0 else 0.01), 0.31 + 0.17 * np.sin(t))
                for t in np.arange(6) * np.pi / 3
            ]
            builder.polygon(hub, Material.PLAIN, (0.4, 0.4, 0.42))
    for y in (-half + 0.3, half - 0.3):
        builder.box((front, y, nose * 0.82), (0.03, 0.2, 0.09), 0.0, Material.HEADLIGHT, (0.7, 0.7, 0.68))
        builder.box((rear, y, nose * 0.9), (0.03, 0.14, 0.11), 0.0, Material.TAILLIGHT, (0.35, 0.02, 0.02))
    builder.box((rear, 0, 0.5), (0.025, 0.27, 0.07), 0.0, Material.PLAIN, (0.75, 0.62, 0.1))
    builder.box((front, 0, 0.42), (0.025, 0.27, 0.07), 0.0, Material.PLAIN, (0.75, 0.75, 0.72))
    builder.box((front, 0, 0.3), (0.04, half, 0.08), 0.0, Material.RUBBER, dark)
    builder.box((rear, 0, 0.3), (0.04, half, 0.08), 0.0, Material.RUBBER, dark)
    shade = [(rear, -half, 0.02), (front, -half, 0.02), (front, half, 0.02), (rear, half, 0.02)]
    builder.polygon(shade, Material.RUBBER, dark)
    return builder.build()


def add_lamp_post(builder: MeshBuilder, foot: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """A lamp post at ``foot`` [2] reaching out ``towards`` the road [2]; returns where its lamp hangs [3]."""
    post, arm = (0.16, 0.18, 0.17), 1.1
    high = 6.2
    builder.prism(np.append(foot, 0), np.append(foot, 1.0), (0.11, 0.09), Material.PLAIN, post, 6)
    builder.prism(np.append(foot, 1.0), np.append(foot, high), (0.07, 0.05), Material.PLAIN, post, 6)
    end = np.append(foot + towards * arm, high + 0.25)
    builder.prism(np.append(foot, high), end, (0.05, 0.04), Material.PLAIN, post, 4)
    heading = float(np.arctan2(towards[1], towards[0]))
    builder.box(end, (0.35, 0.14, 0.06), heading, Material.LAMP, (0.8, 0.75, 0.6))
    return end - [0, 0, 0.2]


def add_hedge(
    builder: MeshBuilder, start: np.ndarray, end: np.ndarray, height: float, color: tuple[float, ...]
) -> None:
    """A hedge between two points [2]."""
    middle, span = (start + end) / 2, end - start
    center = np.append(middle, PAVEMENT_HEIGHT + height / 2)
    builder.box(
        center,
        (float(np.linalg.norm(span)) / 2, 0.35, height / 2),
        float(np.arctan2(span[1], span[0])),
        Material.HEDGE,
        color,
        taper=0.93,
    )


def add_garden_wall(
    builder: MeshBuilder, start: np.ndarray, end: np.ndarray, height: float, color: tuple[float, ...]
) -> None:
    """A low brick wall with a coping between two points [2]."""
    middle, span = (start + end) / 2, end - start
    heading, half = float(np.arctan2(span[1], span[0])), float(np.linalg.norm(span) / 2)
    style = (1, 3.0, 3.0, 0.0, 0.0, 0.0, 3, 0)
    builder.box(np.append(middle, height / 2), (half, 0.12, height / 2), heading, Material.WALL, color, style=style)
    builder.box(np.append(middle, height + 0.04), (half, 0.17, 0.04), heading, Material.STONE, (0.5, 0.47, 0.42))


def add_fence(
    builder: MeshBuilder, start: np.ndarray, end: np.ndarray, height: float, color: tuple[float, ...]
) -> None:
    """A board fence with gaps between two points [2]."""
    span = end - start
    length = float(np.linalg.norm(span))
    direction = span / max(length, 1e-6)
    boards = max(1, int(length / 0.32))
    for n in range(boards):
        left, right = start + direction * (n * length / boards), start + direction * (n * length / boards + 0.22)
        corners = [np.append(left, 0.15), np.append(right, 0.15), np.append(right, height), np.append(left, height)]
        builder.polygon(corners, Material.WOOD, color)


def add_bench(builder: MeshBuilder, spot: np.ndarray, heading: float) -> None:
    """A park bench at [2]."""
    side = np.array([-np.sin(heading), np.cos(heading)])
    builder.box(np.append(spot, 0.55), (0.8, 0.22, 0.03), heading, Material.WOOD, (0.28, 0.17, 0.09))
    builder.box(np.append(spot + side * 0.22, 0.85), (0.8, 0.03, 0.2), heading, Material.WOOD, (0.28, 0.17, 0.09))
    builder.box(np.append(spot, 0.32), (0.7, 0.04, 0.2), heading, Material.PLAIN, (0.1, 0.1, 0.1))


def add_shelter(builder: MeshBuilder, spot: np.ndarray, heading: float, poster: tuple[float, ...]) -> None:
    """A bus shelter at [2], its open side along the street."""
    turn = np.array([[np.cos(heading), -np.sin(heading)], [np.sin(heading), np.cos(heading)]])
    builder.box(np.append(spot, 2.5), (1.9, 0.7, 0.07), heading, Material.PLAIN, (0.2, 0.22, 0.24))
    for u in (-1.75, 1.75):
        builder.prism(
            np.append(spot + turn @ [u, 0.6], 0),
            np.append(spot + turn @ [u, 0.6], 2.5),
            (0.05, 0.05),
            Material.PLAIN,
            (0.2, 0.22, 0.24),
            4,
        )
    builder.box(
        np.append(spot + turn @ [0, 0.62], 1.35), (1.7, 0.02, 0.85), heading, Material.GLASS, (0.06, 0.08, 0.08)
    )
    builder.box(
        np.append(spot + turn @ [1.75, 0], 1.3),
        (0.04, 0.5, 0.85),
        heading,
        Material.WOOD,
        poster,
        (0.85, 0.85, 0.8),
        style=(1,),
    )


def add_sign(builder: MeshBuilder, foot: np.ndarray, heading: float, color: tuple[float, ...], round_: bool) -> None:
    """A traffic sign on a post at [2], facing ``heading``."""
    builder.prism(np.append(foot, 0), np.append(foot, 2.9), (0.035, 0.035), Material.PLAIN, (0.4, 0.4, 0.4), 4)
    side = np.array([-np.sin(heading), np.cos(heading)])
    front = np.append(foot + np.array([np.cos(heading), np.sin(heading)]) * 0.05, 2.5)
    corners = 10 if round_ else 3
    for scale, tint, shift in ((0.36, color, 0.0), (0.25, (0.8, 0.8, 0.78), 0.01)):
        angles = np.arange(corners) * 2 * np.pi / corners + np.pi / 2
        ring = [front + np.append(side * np.cos(t) * scale, np.sin(t) * scale) for t in angles]
        forward = np.array([np.cos(heading), np.sin(heading), 0]) * shift
        builder.polygon([point + forward for point in ring], Material.PLAIN, tint)
