"""Where things lie: a jittered grid of streets, the blocks between them and the loop that is driven.

The route is the outline of a few neighbouring blocks whose perimeter is twelve streets (about 700 m); which blocks,
and how the grid is bent, depends on the seed. Metres, x east, y north, centre of the town at (0, 0).
"""

from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from distilplace.common.randomness import generator

NODES = 6  # streets each way; the route keeps to the inner 4 x 4 crossings
SPACING = 62.0
LOOP_STREETS = 12
CORNER_RADIUS = 9.0
LANE_OFFSET = 1.5  # to the left of the street's middle: traffic keeps left, as in Oxford


@dataclass(frozen=True)
class Street:
    """One street between two crossings."""

    start: np.ndarray  # [2]
    end: np.ndarray  # [2]
    half_width: float

    @property
    def length(self) -> float:
        """Metres between the crossings' middles."""
        return float(np.linalg.norm(self.end - self.start))

    @property
    def direction(self) -> np.ndarray:
        """Unit vector [2] from start to end."""
        return (self.end - self.start) / self.length


@dataclass(frozen=True)
class Block:
    """What lies between four streets: ``kerb`` [4,2] counter-clockwise, ``yard`` [4,2] inside the pavement."""

    kerb: np.ndarray
    yard: np.ndarray
    cell: tuple[int, int]


@dataclass(frozen=True)
class Route:
    """A closed lane, sampled every ``step`` metres."""

    points: np.ndarray  # [n,2]
    headings: np.ndarray  # [n] radians, counter-clockwise from east, unwrapped
    step: float

    @property
    def length(self) -> float:
        """Metres once around."""
        return len(self.points) * self.step

    def at(self, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions [n,2] and headings [n] at metres along the loop (taken modulo its length)."""
        place = np.mod(np.asarray(distance, np.float64), self.length) / self.step
        index = place.astype(int) % len(self.points)
        following = (index + 1) % len(self.points)
        share = (place - np.floor(place))[..., None]
        points = self.points[index] * (1 - share) + self.points[following] * share
        turn = np.angle(np.exp(1j * (self.headings[following] - self.headings[index])))
        return points, self.headings[index] + turn * share[..., 0]


@dataclass(frozen=True)
class Layout:
    """The plan of a town."""

    streets: list[Street]
    blocks: list[Block]
    route: Route
    oncoming: Route
    crossings: np.ndarray  # [36,2]


def make_layout(seed: int) -> Layout:
    """The plan for a demo seed."""
    random = generator("demo", seed, "layout")
    lines_x = (np.arange(NODES) - (NODES - 1) / 2) * SPACING + random.uniform(-6, 6, NODES)
    lines_y = (np.arange(NODES) - (NODES - 1) / 2) * SPACING + random.uniform(-6, 6, NODES)
    nodes = np.stack(np.meshgrid(lines_x, lines_y, indexing="ij"), -1) + random.uniform(-5, 5, (NODES, NODES, 2))
    widths = random.choice([4.6, 5.0, 5.6], (2, NODES))  # half widths of the streets along x and along y
    streets = [Street(nodes[i, j], nodes[i + 1, j], widths[0, j]) for j in range(NODES) for i in range(NODES - 1)]
    streets += [Street(nodes[i, j], nodes[i, j + 1], widths[1, i]) for i in range(NODES) for j in range(NODES - 1)]
    blocks = []
    for i, j in product(range(NODES - 1), repeat=2):
        corners = np.array([nodes[i, j], nodes[i + 1, j], nodes[i + 1, j + 1], nodes[i, j + 1]])
        roads = np.array([widths[0, j], widths[1, i + 1], widths[0, j + 1], widths[1, i]])
        pavement = random.uniform(1.8, 3.2, 4)
        blocks.append(Block(inset(corners, roads), inset(corners, roads + pavement), (i, j)))
    loop = nodes[tuple(np.array(_choose_loop(random)).T)]
    middle = _rounded(loop)
    route = _offset_route(middle, LANE_OFFSET)
    back = _offset_route(middle, -LANE_OFFSET)
    oncoming = Route(back.points[::-1].copy(), back.headings[::-1] + np.pi, back.step)
    return Layout(streets, blocks, route, oncoming, nodes.reshape(-1, 2))


def inset(corners: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """A convex counter-clockwise polygon [n,2] with edge i (corner i to i + 1) moved inwards by ``distances[i]``."""
    ahead = np.roll(corners, -1, 0) - corners
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    inward = np.column_stack([-ahead[:, 1], ahead[:, 0]])
    levels = (inward * corners).sum(1) + distances
    before = np.roll(np.arange(len(corners)), 1)
    return np.array([np.linalg.solve(np.stack([inward[b], inward[i]]), levels[[b, i]]) for i, b in enumerate(before)])


def _choose_loop(random: np.random.Generator) -> list[tuple[int, int]]:
    """Crossings of a loop of twelve streets with at least eight bends, anticlockwise."""
    inner = range(1, NODES - 2)
    cells = [(i, j) for i in inner for j in inner]
    loops = []
    for bits in range(1, 2 ** len(cells)):
        outline = _outline({cell for n, cell in enumerate(cells) if bits >> n & 1})
        if outline is not None and len(outline) == LOOP_STREETS and _bends(outline) >= 8:
            loops.append(outline)
    return loops[random.integers(len(loops))]


def _outline(cells: set[tuple[int, int]]) -> list[tuple[int, int]] | None:
    """The outline of a set of grid cells, or None where it is not one simple loop."""
    following: dict[tuple[int, int], tuple[int, int]] = {}
    for i, j in sorted(cells):
        ring = [(i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1), (i, j)]
        for (a, b), neighbour in zip(pairwise(ring), [(i, j - 1), (i + 1, j), (i, j + 1), (i - 1, j)], strict=True):
            if neighbour in cells:
                continue
            if a in following:
                return None
            following[a] = b
    start = min(following)
    loop = [start]
    while following[loop[-1]] != start:
        loop.append(following[loop[-1]])
    return loop if len(loop) == len(following) else None


def _bends(loop: list[tuple[int, int]]) -> int:
    points = np.array(loop)
    steps = np.roll(points, -1, 0) - points
    return int((steps != np.roll(steps, 1, 0)).any(1).sum())


def _rounded(corners: np.ndarray, step: float = 0.25) -> np.ndarray:
    """A closed polyline through ``corners`` with rounded bends, evenly sampled [n,2]."""
    pieces = []
    for before, corner, after in zip(np.roll(corners, 1, 0), corners, np.roll(corners, -1, 0), strict=True):
        enter = corner + (before - corner) / np.linalg.norm(before - corner) * CORNER_RADIUS
        leave = corner + (after - corner) / np.linalg.norm(after - corner) * CORNER_RADIUS
        t = np.linspace(0, 1, 40)[:, None]
        pieces.append((1 - t) ** 2 * enter + 2 * t * (1 - t) * corner + t**2 * leave)
    return _resampled(np.concatenate(pieces), step)


def _resampled(points: np.ndarray, step: float) -> np.ndarray:
    closed = np.vstack([points, points[:1]])
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    samples = np.linspace(0, along[-1], round(along[-1] / step), endpoint=False)
    return np.column_stack([np.interp(samples, along, closed[:, axis]) for axis in (0, 1)])


def _offset_route(middle: np.ndarray, left: float) -> Route:
    """The lane ``left`` metres to the left of a closed middle line."""
    ahead = np.roll(middle, -3, 0) - np.roll(middle, 3, 0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    lane = middle + left * np.column_stack([-ahead[:, 1], ahead[:, 0]])
    step = 0.25
    lane = _resampled(lane, step)
    ahead = np.roll(lane, -6, 0) - np.roll(lane, 6, 0)
    closed = np.linalg.norm(np.roll(lane, -1, 0) - lane, axis=1)
    return Route(lane, np.unwrap(np.arctan2(ahead[:, 1], ahead[:, 0])), float(closed.mean()))
